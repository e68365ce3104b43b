"""Whose directives a cache obeys: those of a field that is for it, or Cache-Control (RFC 9213)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stream_cached.http.directives import Directives, directives_of
from stream_cached.http.headers import header_values, without
from stream_cached.http.structured import Item, StructuredFieldError, parse_dictionary


def directives_for(headers: Iterable[tuple[bytes, bytes]], targets: Sequence[str]) -> Directives:
    """
    Return the directives of the first valid field among the targeted ones (RFC 9213, section 2.2).

    Without one, those of Cache-Control.
    """
    headers = list(headers)
    for target in targets:
        lines = header_values(headers, target.lower().encode("latin-1"))
        found = _targeted(lines) if lines else None
        if found is not None:
            return found
    return directives_of(headers, b"cache-control")


def _targeted(lines: Sequence[bytes]) -> Directives | None:
    """Return the directives of a targeted field; None if it is empty or invalid (section 2.1)."""
    try:
        members = parse_dictionary(lines)
    except StructuredFieldError:
        return None
    if not members:
        return None
    well_formed = {name: [_argument(value)] for name, value in members.items()}
    given = {name: value for name, value in well_formed.items() if members[name] is not False}
    return Directives(given, frozenset(given), is_targeted=True)


def _argument(value: Item) -> str | None:
    if isinstance(value, bool):
        return None
    # A number that is no integer, or bytes, are no valid argument of any directive.
    return str(value) if isinstance(value, int | str) else ""


def without_targeted(
    headers: Iterable[tuple[bytes, bytes]], targets: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """Leave out the fields that are for this cache alone."""
    return without(headers, {target.lower().encode("latin-1") for target in targets})
