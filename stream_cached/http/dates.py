"""The three forms of a date in a header field (RFC 9110, section 5.6.7)."""

from __future__ import annotations

import calendar
import functools
import re
import time
from collections.abc import Iterable

from stream_cached.http.headers import header_values

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = "|".join(_MONTHS)
_DAY = "mon|tue|wed|thu|fri|sat|sun"
_LONG_DAY = "monday|tuesday|wednesday|thursday|friday|saturday|sunday"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"

#: In any case (RFC 9111, section 4.2), and with no other zone than GMT.
_FORMS = [
    re.compile(form)
    for form in (
        rf"(?:{_DAY}), (?P<day>[0-9]{{2}}) (?P<month>{_MONTH}) (?P<year>[0-9]{{4}}) {_TIME} gmt",
        rf"(?:{_LONG_DAY}), (?P<day>[0-9]{{2}})-(?P<month>{_MONTH})-(?P<short>[0-9]{{2}}) "
        rf"{_TIME} gmt",
        rf"(?:{_DAY}) (?P<month>{_MONTH}) (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
]

#: Bytes of a date at most, with some white space around it.
_LONGEST = 64

#: A year of two digits that lies further in the future is in the past.
_FUTURE = 50


@functools.lru_cache(maxsize=256)
def http_date(value: bytes, this_year: int) -> float | None:
    """Return the seconds since the epoch of a date; None if it is none."""
    text = value.decode("latin-1").strip(" \t").lower()
    match = next((found for form in _FORMS if (found := form.fullmatch(text))), None)
    if match is None:
        return None
    parts = match.groupdict()
    year = int(parts["year"]) if "year" in parts else _full_year(int(parts["short"]), this_year)
    month, day = _MONTHS.index(parts["month"]) + 1, int(parts["day"])
    hour, minute, second = (int(parts[name]) for name in ("hour", "minute", "second"))
    if year < 1 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    # 60 is a leap second.
    if hour > 23 or minute > 59 or second > 60:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


def _full_year(two_digits: int, this_year: int) -> int:
    year = this_year - this_year % 100 + two_digits
    return year - 100 if year > this_year + _FUTURE else year


def date_of(headers: Iterable[tuple[bytes, bytes]], name: bytes, now: float) -> float | None:
    """Return the date in a field that has one line; None if there is no valid one."""
    values = header_values(headers, name)
    # What is longer is none, and what was made of it is not kept.
    is_one = len(values) == 1 and len(values[0]) <= _LONGEST
    return http_date(values[0], year_of(now)) if is_one else None


def year_of(now: float) -> int:
    return time.gmtime(now).tm_year
