#!/usr/bin/env bash
# A base image from Debian's packages, for machines that reach no registry of images: images/base.sh NAME [MIRROR]
# Needs root and debootstrap. `make images BASE_IMAGE=NAME` builds on it.
set -euo pipefail
name=${1:?the name of the image is wanted, such as local/base}
mirror=${2:-http://deb.debian.org/debian}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root" # it becomes the image's own root, which any user must be able to enter
debootstrap --variant=minbase --include=ca-certificates,python3-minimal,python3-venv bookworm "$root" "$mirror" >&2
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
tar -C "$root" -c . | "${DOCKER:-docker}" import - "$name"
