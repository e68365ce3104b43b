"""The circuit breaker of one server: it opens at a failure and closes after a successful ping."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from stream_cached.backends.breaker_state import BreakerState, Health, State
from stream_cached.backends.pending import Invalidator, Key, PendingInvalidations
from stream_cached.bodies.watched import WatchedBodies, all_watched
from stream_cached.connections.deadline import LEAST, Deadline
from stream_cached.connections.time_limit import Pulse, TimeLimit
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.event_hook import EventHook, StoreAway, StoreBack, tell_all
from stream_cached.stores.aiocache import AiocacheStore
from stream_cached.tasks import spawn

logger = logging.getLogger("stream_cached")

#: A probe writes this key, because a store that is full or read-only still answers pings. The key
#: expires at once.
_PROBE_KEY = "stream-cached:probe"
_PROBE_TTL = 0.001

#: A ping that is this many seconds overdue is taken over by another event loop.
_OVERDUE = 30.0

_numbers = itertools.count(1)

_breakers: weakref.WeakValueDictionary[tuple[object, ...], CircuitBreaker] = (
    weakref.WeakValueDictionary()
)


class CircuitBreaker:
    """Decides for the whole process whether one server is used.

    `name` is the server's address without credentials. `retry_interval` is in seconds."""

    def __init__(
        self, name: str, retry_interval: float, chance: Callable[[], float] = random.random
    ) -> None:
        self.name = name
        self.number = next(_numbers)
        #: Invalidations that are carried out before the server is used again.
        self.pending = PendingInvalidations()
        #: Invalidations that are carried out after the breaker has closed.
        self.deferred = PendingInvalidations()
        self._state = BreakerState(retry_interval, time.monotonic())
        self._chance = chance
        self._lock = threading.Lock()
        self._time_limits: weakref.WeakSet[TimeLimit] = weakref.WeakSet()
        self._cut_off = False
        self._pulse = Pulse()
        self._ping_task: asyncio.Task[None] | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._due = 0.0
        #: What is told that the server is away, or back.
        self.hooks: weakref.WeakSet[EventHook] = weakref.WeakSet()
        self._said = ""
        """What the log says to change in the current outage."""

    @classmethod
    def of(cls, name: str, identity: tuple[object, ...], retry_interval: float) -> CircuitBreaker:
        """Return the breaker of a server; the shortest of several intervals applies."""
        breaker = _breakers.get(identity)
        if breaker is None:
            breaker = _breakers[identity] = cls(name, retry_interval)
        known = breaker._state
        known.retry_interval = min(known.retry_interval, retry_interval)
        return breaker

    def time_limit(self, probe: AiocacheStore) -> TimeLimit:
        """Return a client's time limit, whose failures open the breaker."""
        time_limit = TimeLimit(
            lambda: self._cut_off, lambda failure: self._lost(failure, probe), self._pulse
        )
        self._time_limits.add(time_limit)
        return time_limit

    @property
    def is_available(self) -> bool:
        return self._state.state is State.AVAILABLE

    @property
    def outages(self) -> int:
        return self._state.outages

    @property
    def health(self) -> Health:
        known = self._state
        return Health(
            store=self.name,
            state=known.state,
            seconds=time.monotonic() - known.since,
            requests=known.requests,
            cause=known.cause,
            invalidations=len(self.pending),
        )

    async def is_used(self, probe: AiocacheStore, seconds: float | None) -> bool:
        """Whether the server is used; waits for a ping if no timer will send one."""
        known = self._state
        if known.state is State.UNTRIED:
            await self._ping_now(lambda: self._first_ping(probe), seconds)
        elif known.state is State.AWAY and self._has_no_timer():
            if time.monotonic() < self._due:
                self._set_timer(probe)
            else:
                # Event loops may end before any timer fires.
                await self._ping_now(lambda: self._ping(probe), seconds)
        return known.state is State.AVAILABLE

    def count_request(self) -> None:
        self._state.requests += 1

    # -- a ping that a request waits for ----------------------------------------------------

    async def _ping_now(
        self, ping: Callable[[], Coroutine[Any, Any, None]], seconds: float | None
    ) -> None:
        """Wait for one ping on behalf of all requests of this loop."""
        loop, task = asyncio.get_running_loop(), self._ping_task
        if task is None or task.get_loop() is not loop or task.done():
            with Deadline(None):
                task = self._ping_task = spawn(ping())
        # The extra time lets a ping with the same time-out as the request end first.
        await asyncio.wait({task}, timeout=None if seconds is None else seconds + LEAST)

    async def _first_ping(self, probe: AiocacheStore) -> None:
        try:
            await _raise_if_unavailable(probe.ping())
        except StoreUnavailableError as exc:
            self._lost(exc.with_fix(await probe.diagnosis(exc)), probe)
        if self._state.state is State.UNTRIED:
            self._state.answered(time.monotonic())

    # -- opening ----------------------------------------------------------------------------

    def _lost(self, failure: StoreUnavailableError, probe: AiocacheStore) -> None:
        with self._lock:
            is_outage = self._state.lost(str(failure), time.monotonic())
            # Pending reads from a server that is full or read-only can still succeed.
            ends_all = not failure.answered and not self._cut_off
            self._cut_off |= ends_all
        if is_outage:
            self._said = ""
            self._tell(failure)
        if ends_all:
            for time_limit in tuple(self._time_limits):
                time_limit.give_up()
        if is_outage:
            self._ping_later(probe)
            tell_all(self.hooks, StoreAway(self.name, "records"))

    def _tell(self, failure: StoreUnavailableError) -> None:
        if failure.fix:
            self._said = failure.fix
            logger.error(
                "%s can't be used (%s), and will not recover by itself: %s. Requests are "
                "answered without it",
                self.name,
                failure,
                failure.fix,
            )
        else:
            logger.warning(
                "%s is away (%s): requests are answered without it until it is back",
                self.name,
                failure,
            )

    # -- closing ----------------------------------------------------------------------------

    def _ping_later(self, probe: AiocacheStore) -> None:
        self._due = time.monotonic() + self._state.next_ping(self._chance())
        self._set_timer(probe)

    def _set_timer(self, probe: AiocacheStore) -> None:
        loop = self._timer_loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        delay = max(0.0, self._due - time.monotonic())
        # The ping must not inherit the deadline of the request that noticed the failure.
        with Deadline(None):
            loop.call_later(delay, lambda: spawn(self._ping(probe)))

    def _has_no_timer(self) -> bool:
        """Whether the timer's event loop has ended, or belongs to the parent process."""
        loop = self._timer_loop
        if loop is None or loop.is_closed() or self._pid != os.getpid():
            return True
        return time.monotonic() > self._due + _OVERDUE

    async def _ping(self, probe: AiocacheStore) -> None:
        try:
            await _check(probe)
            while not self._close():
                await self.pending.settle()
            await self.deferred.settle()
        except StoreUnavailableError as exc:
            if self.is_available:
                self._lost(exc, probe)
            else:
                if exc.fix and exc.fix != self._said:
                    self._tell(exc)
                self._state.failed_again()
                self._ping_later(probe)

    def _close(self) -> bool:
        """Use the server again; return False while invalidations are pending."""
        known, now = self._state, time.monotonic()
        with self._lock:
            if self.pending:
                return False
            if known.state is State.AVAILABLE:
                return True
            seconds = now - known.since
            known.answered(now)
            self._cut_off = False
        logger.info(
            "%s is back after %.1f s; %d requests were answered without it",
            self.name,
            seconds,
            known.requests,
        )
        tell_all(self.hooks, StoreBack(self.name, "records", seconds))
        return True

    # -- invalidation -----------------------------------------------------------------------

    @contextmanager
    def keeping(self, invalidator: Invalidator, key: Key | None) -> Iterator[None]:
        """Keep an invalidation as pending if the body raises StoreUnavailableError."""
        with self._lock:
            # Added first, so that a ping that succeeds in the meantime carries it out.
            ticket = self.pending.add(invalidator, key)
        try:
            yield
        except StoreUnavailableError:
            raise
        except BaseException:
            self.pending.carried_out(invalidator, key, ticket)
            raise
        self.pending.carried_out(invalidator, key, ticket)

    async def invalidate(self, invalidator: Invalidator, key: Key | None, *, used: bool) -> bool:
        """Carry out an invalidation and return True, or keep it as pending and return False."""
        try:
            with self.keeping(invalidator, key):
                if not used:
                    raise StoreUnavailableError("the store is away")
                await invalidator.carry_out(key, away=False)
        except StoreUnavailableError:
            return False
        return True


async def _check(probe: AiocacheStore) -> None:
    await probe.reconnect()
    await _raise_if_unavailable(probe.ping())
    await _raise_if_unavailable(probe.set_many([(_PROBE_KEY, b"")], _PROBE_TTL))
    # In cluster mode, it is several keys that a server refuses.
    await _raise_if_unavailable(probe.get_many([_PROBE_KEY, f"{_PROBE_KEY}:other"]))


async def _raise_if_unavailable(operation: Awaitable[object]) -> None:
    try:
        await operation
    except StoreUnavailableError:
        raise
    except StoreError:
        # Another error concerns the key only: the user's `key_builder` may refuse it.
        return


def health() -> list[Health]:
    """
    Return the state of each store that this process uses over a network, and of those of bodies.

    A store that is away is pinged automatically, and used again when it answers.
    """
    states = [breaker.health for breaker in tuple(_breakers.values())]
    states += map(health_of, all_watched())
    return sorted(states, key=lambda state: state.store)


def health_of(bodies: WatchedBodies) -> Health:
    """Return the state of a store of large bodies."""
    failing = bodies.failing
    state = State.AVAILABLE if bodies.was_used else State.UNTRIED
    return Health(
        store=bodies.name,
        state=state if failing is None else State.AWAY,
        seconds=bodies.seconds,
        requests=0 if failing is None else failing.requests,
        cause=None if failing is None else failing.cause,
        invalidations=0,
        role="bodies",
    )
