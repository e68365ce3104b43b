"""May a response be stored or shared, and may it be served stale? Plain values in, decisions out.

RFC 9110 and RFC 9111 are the sources. A comment says where this cache is stricter than a shared
cache has to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stream_cached.http.headers import _DIGITS, cache_directives, vary_names
from stream_cached.http.reasons import NotCached

#: Responses that are stored unless `statuses=` says otherwise: those of RFC 9110, section 15.1,
#: less the ones that stand for a part of another (206) or for a passing fault (405, 414, 501).
DEFAULT_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 410})

#: Statuses that are never stored: parts of another response, which can't stand alone.
NEVER_STORED = frozenset({206, 304})


def may_be_shared(headers: Iterable[tuple[bytes, bytes]], age: float) -> bool:
    """
    Say whether the answer to a request with Authorization may answer another one.

    It has to say so itself (RFC 9111, section 3.5), and to be fresh by its own words: what it
    wants revalidated could be refused to the other user, and this cache asks nobody.

    Args:
        headers: Those of the response.
        age: Seconds since it was made.
    """
    headers = list(headers)
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    named = {k.lower().decode("latin-1"): v.decode("latin-1") for k, v in headers}
    if directives.keys().isdisjoint({"public", "s-maxage", "must-revalidate"}):
        return False
    if not directives.keys().isdisjoint({"private", "no-store", "no-cache"}):
        return False
    lifetime = directives.get("s-maxage", directives.get("max-age"))
    if lifetime is None:
        # Expires would have to be compared with clocks of others.
        return "public" in directives and "expires" not in named
    made = named.get("age", "0")
    if not (_DIGITS.fullmatch(lifetime) and _DIGITS.fullmatch(made)):
        return False
    return age + int(made) < int(lifetime)


def may_be_stale(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """
    Say whether a response may be served once it is stale (RFC 9111, section 4.2.4).

    Args:
        headers: Those of the response.
    """
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    forbidding = {"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"}
    return directives.keys().isdisjoint(forbidding)


def is_failure(status: int) -> bool:
    """Whether a status says that the endpoint has failed (RFC 5861, section 4)."""
    return status in (500, 502, 503, 504)


def why_not_stored(
    status: int, headers: Sequence[tuple[bytes, bytes]], statuses: frozenset[int]
) -> NotCached | None:
    """Say why a response must not be stored, as far as its head can tell; None if it may."""
    if status in NEVER_STORED or status not in statuses:
        return NotCached.STATUS
    names = {name.lower() for name, _ in headers}
    # Stricter than RFC 9111, section 7.3, which leaves Set-Cookie to the origin's directives.
    if b"set-cookie" in names:
        return NotCached.SET_COOKIE
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    if not directives.keys().isdisjoint({"private", "no-store"}):
        return NotCached.CACHE_CONTROL
    if "*" in vary_names(headers):
        return NotCached.VARY_ANY
    return None
