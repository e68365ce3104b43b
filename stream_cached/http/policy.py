"""Decide whether a response may be stored, shared between users, or served stale.

The rules are those of RFC 9110 and RFC 9111. A comment marks each rule that is stricter.
"""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence

from stream_cached.http.directives import NO_DIRECTIVES, Directives, delta_seconds
from stream_cached.http.headers import HOP_BY_HOP, field_names, header_values, vary_names
from stream_cached.http.reasons import NotCached
from stream_cached.http.targeted import directives_for

#: Statuses that are stored unless `statuses=` is given: those of RFC 9110, section 15.1, without
#: partial content (206) and without errors of one request or release (405, 414, 501).
DEFAULT_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 410})

#: Statuses that are never stored, because they are complete only together with another response.
NEVER_STORED = frozenset({206, 304})


#: Statuses of responses that may be fresh without saying so (RFC 9110, section 15.1).
HEURISTIC_STATUSES = DEFAULT_STATUSES | {405, 414, 501}

#: Any final status, but for those of a part of another response.
FINAL_STATUSES = frozenset(range(200, 600)) - NEVER_STORED

#: Statuses whose rules for caches are known here (RFC 9111, section 5.2.2.3).
_UNDERSTOOD = frozenset(map(int, http.HTTPStatus)) - NEVER_STORED

Headers = Sequence[tuple[bytes, bytes]]


#: The fields without which all of a response may be stored, for any request.
_DECIDING = HOP_BY_HOP | {b"cache-control", b"expires", b"set-cookie", b"vary"}


def says_nothing(headers: Headers, targets: Sequence[str] = ()) -> bool:
    """Whether no field has a word on whether it may be stored, for how long, and for whom."""
    return not targets and _DECIDING.isdisjoint(field_names(headers))


def may_be_shared(
    headers: Iterable[tuple[bytes, bytes]], age: float | None, targets: Sequence[str] = ()
) -> bool:
    """
    Whether the response to a request with Authorization may answer other users.

    It has to be fresh at `age` seconds, unless its freshness is known otherwise.
    """
    # The response must allow it (RFC 9111, section 3.5). If the response requires revalidation, it
    # is refused, because this cache does not revalidate.
    headers = list(headers)
    directives = directives_for(headers, targets)
    if not any(map(directives.allows, ("public", "s-maxage", "must-revalidate"))):
        return False
    if directives.forbids("private", "no-store", "no-cache"):
        return False
    if age is None:
        return True
    lifetime = directives.lifetime
    if lifetime is None:
        # Expires is an absolute time, set by a clock that may differ from ours.
        return directives.allows("public") and not header_values(headers, b"expires")
    ages = header_values(headers, b"age") or [b"0"]
    initial_age = delta_seconds(ages[-1].decode("latin-1"))
    return initial_age is not None and age + initial_age < lifetime


def is_public(headers: Headers, targets: Sequence[str]) -> bool:
    """Whether a response says that all may have it."""
    directives = directives_for(headers, targets)
    return directives.is_targeted or any(map(directives.allows, ("public", "s-maxage")))


def may_be_stale(directives: Directives) -> bool:
    """Whether a response may be served when it is stale (RFC 9111, section 4.2.4)."""
    forbidding = ("must-revalidate", "proxy-revalidate", "s-maxage")
    return not directives.forbids(*forbidding) and not directives.holds("no-cache")


def is_failure(status: int) -> bool:
    """Whether a stale response may replace one of this status (RFC 5861, section 4)."""
    return status in (500, 502, 503, 504)


def why_not_stored(
    status: int, headers: Headers, statuses: frozenset[int], targets: Sequence[str] = ()
) -> NotCached | None:
    """Return why the response's head forbids storing it; None if it may be stored."""
    if status in NEVER_STORED or status not in statuses:
        return NotCached.STATUS
    return why_not_shared(headers, targets, status)


def why_not_shared(
    headers: Headers, targets: Sequence[str] = (), status: int | None = None
) -> NotCached | None:
    """Return why a response's headers forbid sharing it; None if it may be shared."""
    if says_nothing(headers, targets):
        # For nearly all.
        return None
    # Stricter than RFC 9111, section 7.3, which lets Cache-Control decide about Set-Cookie.
    if header_values(headers, b"set-cookie"):
        return NotCached.SET_COOKIE
    directives = directives_for(headers, targets)
    if directives is not NO_DIRECTIVES and (reason := _why_forbidden(directives, status)):
        return reason
    return NotCached.VARY_ANY if "*" in vary_names(headers) else None


def _why_forbidden(directives: Directives, status: int | None) -> NotCached | None:
    """Return why directives forbid sharing a response; None if they do not."""
    # A status that is understood takes `no-store` back (RFC 9111, section 5.2.2.3).
    is_understood = directives.allows("must-understand") and status in _UNDERSTOOD
    if directives.holds("private") or (directives.forbids("no-store") and not is_understood):
        return NotCached.CACHE_CONTROL
    if directives.forbids("must-understand") and status is not None and not is_understood:
        return NotCached.STATUS
    return None


def confined(headers: Headers, targets: Sequence[str] = ()) -> list[tuple[bytes, bytes]]:
    """
    Leave out the fields that are not for other requests.

    `private` and `no-cache` may name them (RFC 9111, sections 5.2.2.4 and 5.2.2.7).
    """
    directives = directives_for(headers, targets)
    if directives is NO_DIRECTIVES:
        return list(headers)
    named = (directives.fields("private") or frozenset()) | (
        directives.fields("no-cache") or frozenset()
    )
    if not named:
        return list(headers)
    return [(name, value) for name, value in headers if name.lower().decode("latin-1") not in named]
