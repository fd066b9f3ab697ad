"""The one family of errors that a user meets, and the exit code that each one ends a command with."""

import errno

FULL_OR_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
"""What a disk answers, or one that lies on another machine."""

AT_ITS_LIMITS = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE}
"""What a machine answers that has no more memory, processes or open files to give."""


class CasbahError(Exception):
    """A problem worth one clear sentence: what was found, where, and what to do next."""

    exit_code = 1


class InputError(CasbahError):
    """The input is wrong: the sentence names it, what was found in it and what is wanted. Nothing was written."""

    exit_code = 2


class WorldError(CasbahError):
    """The world failed (network, store, service, disk) after bounded retries. Nothing was lost; run it again."""

    exit_code = 3


BAD_PATH = {
    getattr(errno, name)
    for name in ("EACCES", "EEXIST", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOENT", "ENOTDIR", "EPERM", "EROFS")
}
"""Faults that lie in the path that was given, not in the disk."""


def unwritable(error: OSError) -> type[CasbahError]:
    """The kind of error that a place which can't be written is: the world's or input.

    A full or broken disk, and a machine at its limits, are the world's; a directory that may not be written, or can't
    exist, is a matter of naming another one.
    """
    return WorldError if error.errno in FULL_OR_BROKEN | AT_ITS_LIMITS else InputError


def unreachable(error: OSError) -> str:
    """The sentence for a path that a person gave and no stage has a sentence of its own for."""
    return f"{error.filename} can't be reached: {error.strerror}; check the path, and who may read and write there"
