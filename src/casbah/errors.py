"""The one family of errors that a user meets, and the exit code that each one ends a command with."""

import errno

WORLDLY = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE),
)
"""A disk that is full, broken or far away, and a machine at its limits."""


class CasbahError(Exception):
    """A problem worth one clear sentence: what was found, where, and what to do next."""

    exit_code = 1


class InputError(CasbahError):
    """The input is wrong: the sentence names it, what was found in it and what is wanted. Nothing was written."""

    exit_code = 2


class WorldError(CasbahError):
    """The world failed (network, store, service, disk) after bounded retries. Nothing was lost; run it again."""

    exit_code = 3


def unwritable(error: OSError) -> type[CasbahError]:
    """The kind of error that a place which can't be written is: a full or broken disk is the world's, else it is input.

    A directory that may not be written, or can't exist, is a matter of naming another one.
    """
    return WorldError if error.errno in WORLDLY else InputError
