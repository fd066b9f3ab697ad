"""Seeds that every random generator used here takes."""

from typing import Any

from casbah.errors import InputError

MOST_SEED = 2**32 - 1
"""The largest that NumPy's older generators and Lightning take."""


def checked_seed(seed: Any, what: str) -> int:
    """The seed that `what` names; `InputError` where it is no whole number that every generator takes."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MOST_SEED:
        raise InputError(f"{what} is {seed!r}; a whole number from 0 to {MOST_SEED} is wanted")
    return seed
