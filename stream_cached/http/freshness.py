"""How long a response is fresh by its own words, and how old it is (RFC 9111, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stream_cached.http.dates import date_of
from stream_cached.http.directives import MAX_SECONDS, Directives, delta_seconds, directives_of
from stream_cached.http.headers import header_values, without
from stream_cached.http.policy import HEURISTIC_STATUSES, may_be_stale
from stream_cached.http.reasons import NotCached
from stream_cached.http.targeted import directives_for

Headers = Sequence[tuple[bytes, bytes]]

#: Seconds for which a response without explicit freshness is fresh at most.
LONGEST_HEURISTIC = 24 * 60 * 60.0

#: Seconds for which a response may be served past its lifetime if the endpoint can't be reached: as
#: long as it was fresh, within these bounds.
UNREACHABLE_FOR = 60.0, 60 * 60.0


@dataclass(frozen=True, slots=True)
class Windows:
    """For how long past its lifetime a response may be served."""

    while_revalidate: float = 0.0
    """Seconds for which it is served while a new one is made (RFC 5861, section 3)."""
    if_error: float = 0.0
    """Seconds for which it is served if the endpoint fails (RFC 5861, section 4)."""
    if_raised: float = 0.0
    """Seconds for which it is served if the endpoint raises, and so has no answer at all."""

    @property
    def longest(self) -> float:
        return max(self.while_revalidate, self.if_error, self.if_raised)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What a response says of the time for which it may be stored."""

    fresh_until: float
    """Seconds since the epoch."""
    windows: Windows


def age_value(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """
    Return the number in Age, the first one of several; 0 if it is invalid (RFC 9111, section 5.1).
    """
    return _first_age(header_values(headers, b"age")) or 0


def _first_age(values: Sequence[bytes]) -> int | None:
    first = values[0].partition(b",")[0].strip(b" \t") if values else b""
    return delta_seconds(first.decode("latin-1"))


def aged(headers: Headers, seconds: float) -> Headers:
    """
    Add the seconds in the cache to the Age of a response (RFC 9111, section 5.1).

    A response without Age gets none. Of several ages the first counts; one that is no number is
    left out.
    """
    ages = header_values(headers, b"age")
    if not ages:
        return headers
    others, first = without(headers, {b"age"}), _first_age(ages)
    if first is None:
        return others
    # A clock that was set back makes nothing younger.
    age = min(first + max(0, int(seconds)), MAX_SECONDS)
    return [*others, (b"age", b"%d" % age)]


def born(headers: Headers, asked_at: float) -> float:
    """
    Return the time from which the age of a response counts (RFC 9111, section 4.2.3).

    `asked_at` is when its request was sent. So the delay of the response is a part of its age.
    """
    made = asked_at - age_value(headers)
    date = date_of(headers, b"date", asked_at)
    return made if date is None else min(made, date)


def explicit_lifetime(directives: Directives, headers: Headers, received: float) -> float | None:
    """Return the seconds for which it says that it is fresh (RFC 9111, section 4.2.1)."""
    if (seconds := directives.lifetime) is not None:
        return float(seconds)
    if directives.is_targeted or not header_values(headers, b"expires"):
        return None
    return expires_after(headers, received) or 0.0


def expires_after(headers: Headers, received: float) -> float | None:
    """
    Return the seconds from a response's Date to its Expires (RFC 9111, section 5.3).

    None without a valid Expires: several are invalid. Without a valid Date, those from its receipt.
    """
    expires = date_of(headers, b"expires", received)
    if expires is None:
        return None
    date = date_of(headers, b"date", received)
    return expires - (received if date is None else date)


def with_max_age(headers: Headers, received: float) -> Headers:
    """
    Add max-age to a response that has Expires alone.

    With a Date of the server's own, its Expires and its Age would count the same time twice.
    """
    seconds = expires_after(headers, received)
    if seconds is None or directives_of(headers, b"cache-control").forbids("max-age"):
        return headers
    return [*headers, (b"cache-control", b"max-age=%d" % min(MAX_SECONDS, max(0, int(seconds))))]


def heuristic_lifetime(
    status: int, directives: Directives, headers: Headers, received: float, fraction: float
) -> float | None:
    """Return a part of the time since Last-Modified (RFC 9111, section 4.2.2)."""
    if not fraction or not (status in HEURISTIC_STATUSES or directives.allows("public")):
        return None
    modified = date_of(headers, b"last-modified", received)
    if modified is None:
        return None
    date = date_of(headers, b"date", received)
    seconds = (received if date is None else date) - modified
    return min(max(0.0, fraction * seconds), LONGEST_HEURISTIC)


def windows_of(directives: Directives, otherwise: Windows) -> Windows:
    """
    Return when a response may be served stale (RFC 5861; RFC 9111, section 4.2.4).

    `otherwise` is for what the response does not name. A directive without a number is ignored.
    """
    if not may_be_stale(directives):
        return Windows()

    def seconds(name: str, default: float) -> float:
        arguments = directives.well_formed.get(name, ())
        numbers = [n for each in arguments if (n := delta_seconds(each or "")) is not None]
        return float(min(numbers)) if numbers else default

    if_error = seconds("stale-if-error", otherwise.if_error)
    return Windows(
        seconds("stale-while-revalidate", otherwise.while_revalidate), if_error, if_error
    )


def disconnected_for(directives: Directives, windows: Windows, lifetime: float) -> float:
    """
    Return for how long past its lifetime a response is served if the endpoint has no answer.

    A cache that is disconnected may do so, unless the response or the options say for how long
    (RFC 9111, section 4.2.4).
    """
    if not may_be_stale(directives):
        return 0.0
    if windows.if_error or directives.allows("stale-if-error"):
        return windows.if_error
    least, most = UNREACHABLE_FOR
    return min(max(lifetime, least), most)


def lifetime_of(
    status: int,
    headers: Headers,
    *,
    asked_at: float,
    received: float,
    heuristic: float = 0.0,
    targets: Sequence[str] = (),
    otherwise: Windows = Windows(),
    is_validated: bool = False,
) -> Lifetime | NotCached:
    """
    Return until when a response is fresh by its own words; or why it is not stored.

    Args:
        status: Its status.
        headers: Its headers.
        asked_at: When its request was sent, in seconds since the epoch.
        received: When its head came.
        heuristic: The part of the time since Last-Modified for which it is fresh if it does not say
            so itself.
        targets: The fields that are for this cache, instead of Cache-Control.
        otherwise: When it may be served stale if it does not say so itself.
        is_validated: Whether a response that is not fresh can be validated.
    """
    directives = directives_for(headers, targets)
    if directives.holds("no-cache"):
        # It has to be validated each time (RFC 9111, section 5.2.2.4).
        return Lifetime(asked_at, Windows()) if is_validated else NotCached.NO_FRESHNESS
    seconds = explicit_lifetime(directives, headers, received)
    if seconds is None:
        seconds = heuristic_lifetime(status, directives, headers, received, heuristic)
    if seconds is None:
        # The requests that waited for it are given an error that says nothing of caches.
        return NotCached.STATUS if status >= 400 else NotCached.NO_FRESHNESS
    # Its Date may lie before the epoch.
    fresh_until = max(0.0, born(headers, asked_at) + seconds)
    windows = windows_of(directives, otherwise)
    if fresh_until + windows.longest <= received and not is_validated:
        return NotCached.NO_FRESHNESS
    return Lifetime(fresh_until, windows)
