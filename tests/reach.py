"""Whether a service of the internet can be asked from here."""

import socket


def reachable(host: str) -> bool:
    """Whether `host` takes a connection for https within a few seconds."""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True
