"""When footprints were made: the dates, years and spans that a vintage may name."""

import re
from datetime import date

from casbah.errors import InputError

DATE = r"(?:19|20)\d\d(?:-\d\d(?:-\d\d)?)?"
GIVEN = re.compile(rf"{DATE}(?:(?:-| to |/){DATE})?")
"""What a person may give. What a file says of itself is only searched for dates, since it may stand among words."""


def check_vintage(text: str) -> None:
    """`InputError` unless a person's vintage is a date, a year, a month or a span of them, all in the calendar."""
    if not GIVEN.fullmatch(text) or years_of(text) is None:
        raise InputError(
            f"the vintage is {text!r}; a year, a month, a day or a span that the calendar has is wanted: 2013, "
            "2013-04, 2013-04-30, 1988-2013, 2013-04-01/2014-03-31"
        )


def years_of(vintage: str) -> tuple[float, float] | None:
    """First and last moment, as decimal years, of the dates or years that a vintage names.

    None where it names none, or one that the calendar does not have (2023-02-30).
    """
    found = re.findall(r"\b((?:19|20)\d\d)(?:-(\d\d)(?!\d)(?:-(\d\d)(?!\d))?)?(?!\d)", vintage)
    if not found:
        return None
    try:
        first = min(year_of("-".join((year, month or "01", day or "01"))) for year, month, day in found)
        last = max(year_of("-".join((year, month or "12", day or "28"))) for year, month, day in found)
    except ValueError:
        return None
    return first, last


def year_of(text: str) -> float:
    """The decimal year of an ISO date, or of a time that begins with one."""
    day = date.fromisoformat(text[:10])
    return day.year + (day.timetuple().tm_yday - 1) / 365.25
