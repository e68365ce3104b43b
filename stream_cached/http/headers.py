"""Header fields of a response to plain values (RFC 9110, RFC 9111)."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: A directive of Cache-Control. What does not keep to the grammar (a semicolon for a comma, quotes
#: round a name) is still taken for what it looks like, so that `private; max-age=60` is private.
_DIRECTIVE = re.compile(
    r'(?P<name>[a-z0-9!#$%&\'*+.^_`|~-]+)\s*(?:=\s*(?P<argument>"[^"]*"|[^\s,;"]*))?'
)

#: A number of seconds or bytes; a longer one is none, and Python refuses to read it.
_DIGITS = re.compile(r"[0-9]{1,19}")


def list_members(values: Iterable[bytes]) -> list[str]:
    """Split the values of a list header into its members, lower-cased (RFC 9110, section 5.6.1)."""
    members = b",".join(values).decode("latin-1").lower().split(",")
    return [member.strip() for member in members if member.strip()]


def cache_directives(values: Iterable[bytes]) -> dict[str, str]:
    """Return the directives of Cache-Control with their arguments (RFC 9111, section 5.2)."""
    joined = b",".join(values).decode("latin-1").lower()
    directives: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(joined):
        name, argument = match["name"], (match["argument"] or "").strip('"')
        # Of several the one that allows least is the first (RFC 9111, section 4.2.1).
        directives[name] = min(directives.get(name, argument), argument, key=_strictness)
    return directives


def _strictness(argument: str) -> tuple[bool, int]:
    return (True, int(argument)) if _DIGITS.fullmatch(argument) else (False, 0)


def vary_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[str]:
    """Return the names in the response's Vary, lower-cased."""
    return frozenset(list_members(v for k, v in headers if k.lower() == b"vary"))


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return what Content-Length says, None where it is absent or no number."""
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of a header, in the order in which they came."""
    return [value for key, value in headers if key.lower() == name]
