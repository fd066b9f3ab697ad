"""Addresses as people may see them, and what else they hold."""

from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3


def shown(address: str) -> str:
    """The address without user name, password and query, each of which may hold a secret: for people, tags and logs."""
    parts = urlsplit(address)
    if not parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def authorization(address: str) -> dict[str, str]:
    """The HTTP header for a user name and a password that stand in an address; none where there are none."""
    parts = urlsplit(address)
    if not parts.username:
        return {}
    return urllib3.make_headers(basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
