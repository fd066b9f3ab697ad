"""Addresses as people may see them, and what else they hold."""

import re
import textwrap
from urllib.parse import unquote, urlsplit

import urllib3

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/\s?#'\"]*@)?([^\s?#'\"<>]*)([?#][^\s'\"<>)]*)?")
_SECRETIVE = re.compile(r"sig|token|key|secret|pass|auth|cred|^x-(amz|goog)", re.IGNORECASE)
"""Names of query parameters that open a door; without one of them an address is no secret."""


def shown(address: str) -> str:
    """An address as it may be said and saved: without user, password, query and fragment; a path stays as it is."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return scrubbed(address)
    if not parts.netloc:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def scrubbed(text: str) -> str:
    """A text of somebody else's with every address in it as `shown`, on one line, cut between words at 300 letters."""
    return textwrap.shorten(_ADDRESS.sub(r"\1\2", text), 300, placeholder=" …")


def without_secrets(href: str) -> str:
    """An address without user and password, and without its query where that is signed; any other stays unchanged."""
    match = _ADDRESS.fullmatch(href)
    if match is None:
        return href
    names = [pair.partition("=")[0] for pair in (match[3] or "").lstrip("?").split("&")]
    query = "" if any(_SECRETIVE.search(name) for name in names) else match[3] or ""
    return f"{match[1]}{match[2]}{query}"


def authorization(address: str) -> dict[str, str]:
    """The HTTP header for a user name and a password that stand in an address; none where there are none."""
    parts = urlsplit(address)
    if not parts.username:
        return {}
    return urllib3.make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
