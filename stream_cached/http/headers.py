"""Parse header fields into plain values (RFC 9110, RFC 9111)."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: A directive of Cache-Control. Separators and quotes that break the grammar are tolerated, so
#: that `private; max-age=60` still counts as private.
_DIRECTIVE = re.compile(
    r'(?P<name>[a-z0-9!#$%&\'*+.^_`|~-]+)\s*(?:=\s*(?P<argument>"[^"]*"|[^\s,;"]*))?'
)

#: A number of seconds or bytes. Longer numbers are invalid: Python refuses to parse thousands of
#: digits.
DIGITS = re.compile(r"[0-9]{1,19}")


def list_members(values: Iterable[bytes]) -> list[str]:
    """Split the values of a list header into its members, lower-cased (RFC 9110, section 5.6.1)."""
    members = b",".join(values).decode("latin-1").lower().split(",")
    return [member.strip() for member in members if member.strip()]


def cache_directives(values: Iterable[bytes]) -> dict[str, str]:
    """Return Cache-Control's directives and arguments (RFC 9111, section 5.2)."""
    joined = b",".join(values).decode("latin-1").lower()
    directives: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(joined):
        name, argument = match["name"], (match["argument"] or "").strip('"')
        # The strictest of several values applies (RFC 9111, section 4.2.1).
        directives[name] = min(directives.get(name, argument), argument, key=_strictness)
    return directives


def _strictness(argument: str) -> tuple[bool, int]:
    return (True, int(argument)) if DIGITS.fullmatch(argument) else (False, 0)


def vary_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[str]:
    return frozenset(list_members(v for k, v in headers if k.lower() == b"vary"))


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def answers_ranges(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """
    Whether a response says that its server answers ranges of it (RFC 9110, section 14.3).

    This is how an entry tells that it came from a `FileResponse`. The class is not stored, and says
    less: other responses answer ranges, too, and a client asks for ranges where it was told so.
    """
    units = list_members(header_values(headers, b"accept-ranges"))
    return any(unit != "none" for unit in units)
