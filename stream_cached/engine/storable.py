"""May the answer of a run be stored, and until when is it fresh?"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace

from stream_cached.engine.outcome import Call
from stream_cached.engine.service import Service
from stream_cached.engine.sharing import of_one_client, varies_on
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.resource import Resource
from stream_cached.format.records import Entry
from stream_cached.http.directives import Directives
from stream_cached.http.freshness import (
    Lifetime,
    Windows,
    disconnected_for,
    lifetime_of,
    windows_of,
    with_max_age,
)
from stream_cached.http.headers import content_length, end_to_end
from stream_cached.http.policy import (
    DEFAULT_STATUSES,
    FINAL_STATUSES,
    confined,
    says_nothing,
    why_not_stored,
)
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.http.targeted import directives_for
from stream_cached.limits import Limits
from stream_cached.request.guard import Observation
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.produced import Produced
from stream_cached.streams.stream import COMMIT_WAIT

#: Seconds that an entry is kept at most, however long it is fresh.
_LONGEST = 366 * 24 * 60 * 60.0

#: The statuses of an answer to the conditions of a request.
_OF_CONDITIONS = frozenset({206, 304, 412, 416})


class Verdict:
    """
    Whether the answer of a run may be stored.

    Args:
        call: The call that has run the endpoint.
        resource: Where the answer would be stored.
        guard: What has observed what the endpoint read.
        asked_at: When the endpoint was called, in seconds since the epoch.
    """

    def __init__(
        self, call: Call, resource: Resource, guard: Observation | None, asked_at: float
    ) -> None:
        self._call = call
        self._options = call.service.options
        self._resource = resource
        self._guard = guard
        self.asked_at = asked_at
        self.limits = _bounded(self._options.limits, resource.records.capacity)
        """Those of the options, for what is to hold the body."""
        self.lifetime: Lifetime | None = None
        """Until when it is fresh by its own words; None if the server has its own ttl."""

    @property
    def fresh_until(self) -> float | None:
        return None if self.lifetime is None else self.lifetime.fresh_until

    def commit_wait(self, seconds: float | None) -> float:
        """Return how long the end of an answer waits for the commit, `seconds` at the most."""
        if self._resource.records.bodies is not None:
            return self._options.limits.commit_timeout
        return COMMIT_WAIT if seconds is None else min(COMMIT_WAIT, seconds)

    def why_not_stored(self, made: Produced, *, has_revealed: bool) -> list[Finding]:
        """Return why an answer is not stored; `has_revealed` if its client was seen to leave."""
        headers, targets = made.all_headers, self._options.targets
        findings = [*of_one_client(self._call, headers, self._guard), *made.findings]
        if self._call.is_conditional and made.status in _OF_CONDITIONS:
            reason: NotCached | None = NotCached.CONDITIONAL
        else:
            reason = why_not_stored(made.status, headers, self._statuses(made), targets)
        if reason is None and not made.sends_by_itself:
            reason = self._why_not_fresh(made)
        if reason is not None:
            findings.insert(0, Finding(reason))
        if has_revealed:
            findings.append(Finding(NotCached.INCOMPLETE))
        if (content_length(headers) or 0) > self.limits.max_body:
            findings.append(Finding(NotCached.BODY_SIZE))
        if self._call.request is None and varies_on(self._call, headers):
            findings.append(Finding(NotCached.NO_REQUEST))
        return findings

    def _statuses(self, made: Produced) -> frozenset[int]:
        statuses = self._options.statuses
        if statuses != DEFAULT_STATUSES:
            return statuses
        if self._call.service.hooks.by_response:
            return FINAL_STATUSES
        return statuses | {made.status} if made.is_declared else statuses

    def _why_not_fresh(self, made: Produced) -> NotCached | None:
        """Let the response say for how long it is stored, if it is to."""
        if not self._call.service.hooks.by_response:
            return None
        found = lifetime_for(
            self._call,
            made.status,
            made.all_headers,
            self.asked_at,
            is_validated=self._value_for(made.status) is not None,
        )
        if isinstance(found, NotCached):
            return found
        self.lifetime = found
        keep(self._call, self._resource, made.all_headers, found)
        return None

    def _value_for(self, status: int) -> str | None:
        """Return what the validator has said before the run, where it counts."""
        # An error has nothing to do with what has changed.
        return self._call.execution.validated if 200 <= status < 300 else None

    def validated_each_time(self, status: int) -> str | None:
        """Return what the validator has said if each request has to ask it again."""
        if self.lifetime is None or self.lifetime.fresh_until > self.asked_at:
            return None
        return self._value_for(status)

    def validator(self, status: int) -> tuple[str, float] | None:
        """Return what the validator has said, and for how long the answer is fresh."""
        if (value := self._value_for(status)) is None:
            return None
        seconds = self._resource.lifetimes.ttl
        return None if seconds is None else (value, float(seconds))


def _bounded(limits: Limits, capacity: int | None) -> Limits:
    """Return limits with which a body takes a quarter of what holds it at most."""
    if capacity is None or limits.max_body <= (most := max(1, capacity // 4)):
        return limits
    return _with_max_body(limits, most)


@functools.lru_cache(maxsize=64)
def _with_max_body(limits: Limits, max_body: int) -> Limits:
    # Each field is checked once more: that took a tenth of a miss.
    return replace(limits, max_body=max_body)


def lifetime_for(
    call: Call, status: int, headers: RawHeaders, asked_at: float, *, is_validated: bool
) -> Lifetime | NotCached:
    """Return until when a response is fresh by its own words, or why it is not stored."""
    options = call.service.options
    return lifetime_of(
        status,
        headers,
        asked_at=asked_at,
        received=time.time(),
        heuristic=options.heuristic,
        targets=options.targets,
        otherwise=options.windows,
        is_validated=is_validated,
    )


def keep(call: Call, resource: Resource, headers: RawHeaders, lifetime: Lifetime) -> None:
    """Let an entry be kept for as long as it is fresh, and may be served or validated later."""
    ttl = min(max(1.0, lifetime.fresh_until - time.time()), _LONGEST)
    directives = directives_for(headers, call.service.options.targets)
    resource.set_ttl(ttl, _kept(call.service, directives, lifetime.windows, ttl))


def _kept(service: Service, directives: Directives, windows: Windows, ttl: float) -> float:
    """Return for how long past its ttl a response is kept that told that ttl itself."""
    # A request with `max-stale` may find it as long as one whose run fails.
    disconnected = disconnected_for(directives, windows, ttl)
    return max(windows.longest, disconnected, service.options.kept_for_validator)


def told_by_answers(service: Service, lifetimes: Lifetimes) -> Lifetimes:
    """Return the lifetimes of entries each of which tells its ttl."""
    return replace(lifetimes, differ=True, left=functools.partial(_left, service))


def _left(service: Service, entry: Entry) -> float:
    """Return the seconds for which an entry is still kept whose answer told its ttl."""
    options, until = service.options, entry.fresh_until or 0.0
    left = min(max(0.0, until - time.time()), _LONGEST)
    if not service.hooks.by_response:
        return left + options.kept
    directives = directives_for(entry.headers, options.targets)
    windows = windows_of(directives, options.windows)
    return left + _kept(service, directives, windows, until - entry.stored_at)


def stored_headers(call: Call, headers: RawHeaders) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers of an answer for other requests, which have connections of their own."""
    targets = call.service.options.targets
    if not says_nothing(headers, targets):
        headers = with_max_age(confined(end_to_end(headers), targets), time.time())
    return call.service.headers.with_vary(headers)
