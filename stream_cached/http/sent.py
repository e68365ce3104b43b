"""The headers of a stored response, as they are sent: with Age, ETag and Accept-Ranges."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from stream_cached.http.conditions import may_be_compressed
from stream_cached.http.dates import date_of
from stream_cached.http.directives import MAX_SECONDS
from stream_cached.http.freshness import age_value
from stream_cached.http.headers import header_values, without

Field = tuple[bytes, bytes]

#: The fields that say where a body ends, and the lengths of their names.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_FRAMING_SIZES = frozenset(map(len, _FRAMING))


def is_framed(status: int, headers: Sequence[Field]) -> bool:
    """Whether a response says itself where its body ends, or has none."""
    if status in (204, 304):
        return True
    return any(len(name) in _FRAMING_SIZES and name.lower() in _FRAMING for name, _ in headers)


class SentHead:
    """
    What is the same at each hit of one response.

    Args:
        headers: Its headers, as they are stored.
        status: Its status.
        etag: The ETag that the library has made for it, if any.
    """

    def __init__(self, headers: Sequence[Field], status: int, etag: str | None) -> None:
        kept = without(headers, {b"age"})
        has_ranges = status == 200 and not header_values(headers, b"accept-ranges")
        strong = [] if etag is None else [(b"etag", etag.encode("ascii"))]
        weak = [(b"etag", b"W/" + tag.removeprefix(b"W/")) for _, tag in strong]
        ranges = [(b"accept-ranges", b"bytes")] if has_ranges else []
        self.is_open = is_open = may_be_compressed(headers)
        """Whether what comes later may compress the body."""
        # By whether ranges are answered, and whether the request lets its body be compressed.
        self._headers = {
            (answers, compressed): [
                *kept,
                *(ranges if answers else ()),
                *(weak if compressed and is_open else strong),
            ]
            for answers in (False, True)
            for compressed in (False, True)
        }
        self.is_framed = is_framed(status, headers)
        self._age = age_value(headers)
        self._date: float | None = None
        if header_values(headers, b"date"):
            self._date = date_of(headers, b"date", _SOME_TIME)

    def age(self, asked_at: float, now: float) -> int:
        """Return the age of the response (RFC 9111, section 4.2.3)."""
        return min(int(self.exact_age(asked_at, now)), MAX_SECONDS)

    def exact_age(self, asked_at: float, now: float) -> float:
        """Return the same in fractions of seconds, and without a bound."""
        # A clock that was set back makes nothing younger.
        age = (now if now > asked_at else asked_at) - asked_at + self._age
        return age if self._date is None else max(age, now - self._date)

    def headers(self, age: int, *, has_ranges: bool, is_compressed: bool) -> list[Field]:
        """
        Return the headers for one request.

        Args:
            age: The age of the response.
            has_ranges: Whether the same request is answered a range, if it has one.
            is_compressed: Whether what comes later may compress the body: its bytes are then not
                those of a strong ETag (RFC 9110, section 8.8.3.3).
        """
        return [*self._headers[has_ranges, is_compressed], (b"age", b"%d" % age)]


#: A time by which two digits of a year are those of these decades.
_SOME_TIME = 1_800_000_000.0

#: What was made of the last ones.
sending_of = functools.lru_cache(maxsize=256)(SentHead)
