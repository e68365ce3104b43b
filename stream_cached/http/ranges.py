"""Ranges of bytes (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SPEC = re.compile(rb"([0-9]*)-([0-9]*)")

#: Digits of a position. A longer number is beyond the end of any body.
_MAX_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Part:
    """206: the bytes from `start` up to, and without, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def content_range(self, length: int) -> bytes:
        """Return Content-Range (section 14.4)."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, length)


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: nothing of the body is within the range."""


def range_of(lines: Sequence[bytes], length: int) -> Part | Unsatisfiable | None:
    """
    Return the part that a Range asks for; None if it is to be ignored.

    That is one in another unit, or malformed (section 14.2), and one for several parts.
    """
    if len(lines) != 1:
        return None
    unit, equals, text = lines[0].partition(b"=")
    if not equals or unit.strip(b" \t").lower() != b"bytes":
        return None
    specs = [spec.strip(b" \t") for spec in text.split(b",")]
    matches = [_SPEC.fullmatch(spec) for spec in specs if spec]
    if len(matches) != 1 or matches[0] is None:
        return None
    first, last = matches[0].groups()
    if not first and not last:
        return None
    if not first:
        # The last so many bytes. Of an empty body those are all, which no 206 can say.
        if not (count := _position(last)):
            return Unsatisfiable()
        return Part(max(0, length - count), length) if length else None
    start = _position(first)
    stop = min(_position(last) + 1, length) if last else length
    if last and _position(last) < start:
        return None
    return Part(start, stop) if start < length else Unsatisfiable()


def _position(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS
