"""The values of a request that select among responses (RFC 9111, section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from stream_cached.http.qvalues import weighted

#: A name and its weight.
Weighted = tuple[str, float]

#: Commas that are in no quoted string, with the white space around them. A client may send long
#: lines: a string that is not closed goes on to the end, and white space is looked at once.
_COMMA = re.compile(r'("(?:[^"\\]|\\.)*(?:"|\\?\Z))|(?<![ \t])[ \t]*,[ \t]*', re.DOTALL)


def selecting_value(name: str, lines: Sequence[bytes]) -> str | None:
    """
    Return what two requests have to have in common in a header field.

    They need the same value, but for what the grammar of the field leaves open. None if the field
    is absent, which is another value than an empty one.
    """
    if not lines:
        return None
    match name:
        case "accept-language":
            # Their order within one weight means nothing (RFC 9110, section 12.5.4).
            return _sorted(lines, _heaviest_first)
        case "accept-encoding":
            # Their order means nothing (RFC 9110, section 12.5.3).
            return _sorted(lines)
        case _:
            return _combined(lines)


def _combined(lines: Sequence[bytes]) -> str:
    """Combine the lines, without white space around commas (RFC 9110, section 5.3)."""
    text = b",".join(lines).decode("latin-1").strip(" \t")
    if text.replace(r"\"", "").count('"') % 2:
        # There is no telling what is quoted.
        return text
    return _COMMA.sub(lambda match: match[1] or ",", text)


def _sorted(lines: Sequence[bytes], key: Callable[[Weighted], Any] | None = None) -> str:
    """Sort names with weights, in any case."""
    found = weighted(lines)
    if found is None:
        return _combined(lines)
    return ",".join(f"{name};{weight:g}" for name, weight in sorted(found, key=key))


def _heaviest_first(item: Weighted) -> tuple[float, str]:
    name, weight = item
    return -weight, name
