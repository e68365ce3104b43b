"""Parse header fields into plain values (RFC 9110, RFC 9111)."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable

#: A directive of Cache-Control. Separators and quotes that break the grammar are tolerated, so
#: that `private; max-age=60` still counts as private.
_DIRECTIVE = re.compile(
    r'(?P<name>[a-z0-9!#$%&\'*+.^_`|~-]+)\s*(?:=\s*(?P<argument>"[^"]*"|[^\s,;"]*))?'
)

#: The lower-cased name of a field (RFC 9110, section 5.1), and the asterisk of Vary.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")

_NO_NAMES: frozenset[str] = frozenset()

#: A number of seconds or bytes. Longer numbers are invalid: Python refuses to parse thousands of
#: digits.
DIGITS = re.compile(r"[0-9]{1,19}")

#: The fields that are for one connection, beside those that Connection names (RFC 9110, section
#: 7.6.1), and those that are between a client and its proxy (RFC 9111, section 3.1).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


def list_members(values: Iterable[bytes]) -> list[str]:
    """Split the values of a list header into its members, lower-cased (RFC 9110, section 5.6.1)."""
    members = b",".join(values).decode("latin-1").lower().split(",")
    return [member.strip() for member in members if member.strip()]


def cache_directives(values: Iterable[bytes]) -> dict[str, str]:
    """Return Cache-Control's directives and arguments (RFC 9111, section 5.2)."""
    directives: dict[str, str] = {}
    # Each line by itself: a quote that one of them leaves open must not hide the next one.
    for line in values:
        for match in _DIRECTIVE.finditer(line.decode("latin-1").lower()):
            name, argument = match["name"], (match["argument"] or "").strip('"')
            # The strictest of several values applies (RFC 9111, section 4.2.1).
            directives[name] = min(directives.get(name, argument), argument, key=_strictness)
    return directives


def _strictness(argument: str) -> tuple[bool, int]:
    return (True, int(argument)) if DIGITS.fullmatch(argument) else (False, 0)


def vary_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[str]:
    """
    Return the lower-cased names in Vary (RFC 9110, section 12.5.5).

    What is no name of a field may stand for any: it counts as `*`.
    """
    lines = header_values(headers, b"vary")
    if not lines:
        return _NO_NAMES
    return frozenset(each if _NAME.fullmatch(each) else "*" for each in list_members(lines))


def with_vary(
    headers: Iterable[tuple[bytes, bytes]], names: Collection[str]
) -> list[tuple[bytes, bytes]]:
    """Add names to a response's Vary, unless it has them."""
    headers = list(headers)
    if not names:
        return headers
    named = vary_names(headers)
    added = {name.lower(): name for name in names if name.lower() not in named}
    if not added:
        return headers
    values = [*header_values(headers, b"vary"), ", ".join(added.values()).encode("latin-1")]
    return [*without(headers, {b"vary"}), (b"vary", b", ".join(values))]


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def field_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the lower-cased names of the fields. Those of an endpoint are the same each time."""
    names = tuple([name for name, _ in headers])
    try:
        return _lowered(names)
    except TypeError:
        # A server takes a bytearray for a name, too.
        return _lowered(tuple(map(bytes, names)))


@functools.lru_cache(maxsize=1024)
def _lowered(names: tuple[bytes, ...]) -> frozenset[bytes]:
    return frozenset([name.lower() for name in names])


def without(
    headers: Iterable[tuple[bytes, bytes]], names: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """Leave out the fields that have one of these lower-cased names."""
    return [(name, value) for name, value in headers if name.lower() not in names]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Leave out the fields that are not for another connection (RFC 9111, section 3.1)."""
    headers = list(headers)
    lines = header_values(headers, b"connection")
    named = [name.encode("latin-1") for name in list_members(lines)] if lines else ()
    return without(headers, HOP_BY_HOP.union(named))


def answers_ranges(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """
    Whether a response says that its server answers ranges of it (RFC 9110, section 14.3).

    This is how an entry tells that it came from a `FileResponse`. The class is not stored, and says
    less: other responses answer ranges, too, and a client asks for ranges where it was told so.
    """
    units = list_members(header_values(headers, b"accept-ranges"))
    return any(unit != "none" for unit in units)
