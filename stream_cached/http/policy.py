"""Decide whether a response may be stored, shared between users, or served stale.

The rules are those of RFC 9110 and RFC 9111. A comment marks each rule that is stricter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stream_cached.http.headers import DIGITS, cache_directives, vary_names
from stream_cached.http.reasons import NotCached

#: Statuses that are stored unless `statuses=` is given: those of RFC 9110, section 15.1, without
#: partial content (206) and without errors of one request or release (405, 414, 501).
DEFAULT_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 410})

#: Statuses that are never stored, because they are complete only together with another response.
NEVER_STORED = frozenset({206, 304})


def may_be_shared(headers: Iterable[tuple[bytes, bytes]], age: float) -> bool:
    """Whether the response to a request with Authorization may answer other users."""
    # The response must allow it (RFC 9111, section 3.5) and must be fresh at `age` seconds. If the
    # response requires revalidation, it is refused, because this cache does not revalidate.
    headers = list(headers)
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    named = {k.lower().decode("latin-1"): v.decode("latin-1") for k, v in headers}
    if directives.keys().isdisjoint({"public", "s-maxage", "must-revalidate"}):
        return False
    if not directives.keys().isdisjoint({"private", "no-store", "no-cache"}):
        return False
    lifetime = directives.get("s-maxage", directives.get("max-age"))
    if lifetime is None:
        # Expires is an absolute time, set by a clock that may differ from ours.
        return "public" in directives and "expires" not in named
    initial_age = named.get("age", "0")
    if not (DIGITS.fullmatch(lifetime) and DIGITS.fullmatch(initial_age)):
        return False
    return age + int(initial_age) < int(lifetime)


def may_be_stale(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a response may be served when it is stale (RFC 9111, section 4.2.4)."""
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    forbidding = {"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"}
    return directives.keys().isdisjoint(forbidding)


def is_failure(status: int) -> bool:
    """Whether a stale response may replace one of this status (RFC 5861, section 4)."""
    return status in (500, 502, 503, 504)


def why_not_stored(
    status: int, headers: Sequence[tuple[bytes, bytes]], statuses: frozenset[int]
) -> NotCached | None:
    """Return why the response's head forbids storing it; None if it may be stored."""
    if status in NEVER_STORED or status not in statuses:
        return NotCached.STATUS
    return why_not_shared(headers)


def why_not_shared(headers: Sequence[tuple[bytes, bytes]]) -> NotCached | None:
    """Return why a response's headers forbid sharing it; None if it may be shared."""
    names = {name.lower() for name, _ in headers}
    # Stricter than RFC 9111, section 7.3, which lets Cache-Control decide about Set-Cookie.
    if b"set-cookie" in names:
        return NotCached.SET_COOKIE
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    if not directives.keys().isdisjoint({"private", "no-store"}):
        return NotCached.CACHE_CONTROL
    if "*" in vary_names(headers):
        return NotCached.VARY_ANY
    return None
