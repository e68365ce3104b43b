"""The values of a request that select among responses (RFC 9111, section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stream_cached.http.qvalues import weighted

#: Commas that are in no quoted string, with the white space around them.
_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t]*,[ \t]*', re.DOTALL)


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
            return _by_weight(lines)
        case "accept-encoding":
            return _by_name(lines)
        case _:
            return _combined(lines)


def _combined(lines: Sequence[bytes]) -> str:
    """Combine the lines, without white space around commas (RFC 9110, section 5.3)."""
    text = b",".join(lines).decode("latin-1").strip(" \t")
    if text.replace(r"\"", "").count('"') % 2:
        # There is no telling what is quoted.
        return text
    return _COMMA.sub(lambda match: match[1] or ",", text)


def _by_weight(lines: Sequence[bytes]) -> str:
    """Sort the languages by weight, in any case (RFC 9110, section 12.5.4)."""
    found = weighted(lines)
    if found is None:
        return _combined(lines)
    return ",".join(f"{name};{weight:g}" for name, weight in sorted(found, key=_heaviest_first))


def _by_name(lines: Sequence[bytes]) -> str:
    """Sort the codings by name: their order means nothing (RFC 9110, section 12.5.3)."""
    found = weighted(lines)
    if found is None:
        return _combined(lines)
    return ",".join(f"{name};{weight:g}" for name, weight in sorted(found))


def _heaviest_first(item: tuple[str, float]) -> tuple[float, str]:
    name, weight = item
    return -weight, name
