"""One server and the memory that stands in for it: a switch between the two, worked by pings."""

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
from stream_cached.connections.deadline import LEAST, Deadline
from stream_cached.connections.time_limit import Pulse, TimeLimit
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.stores.aiocache import AiocacheStore
from stream_cached.tasks import spawn

logger = logging.getLogger("stream_cached")

#: A key that is set to see whether a store takes anything: one that is full or read-only answers
#: pings, too. It expires at once.
_PROBE_KEY = "stream-cached:probe"
_PROBE_TTL = 0.001

#: Seconds by which a ping may be late, or take, before another event loop asks: the one that was
#: to has ended.
_OVERDUE = 30.0

_numbers = itertools.count(1)

_breakers: weakref.WeakValueDictionary[tuple[object, ...], CircuitBreaker] = (
    weakref.WeakValueDictionary()
)


class CircuitBreaker:
    """
    Whether one server is used, for everything in this process that uses it.

    Args:
        name: Its address, without credentials.
        retry_interval: Seconds until the second ping of an outage.
        chance: Returns a number from 0 to 1 at random.
    """

    def __init__(
        self, name: str, retry_interval: float, chance: Callable[[], float] = random.random
    ) -> None:
        self.name = name
        self.number = next(_numbers)
        #: Carried out before the server is used again, and soon after that.
        self.pending, self.chores = PendingInvalidations(), PendingInvalidations()
        self._state = BreakerState(retry_interval, time.monotonic())
        self._chance = chance
        self._lock = threading.Lock()
        self._operations: weakref.WeakSet[TimeLimit] = weakref.WeakSet()
        self._cut_off = False
        self._pulse = Pulse()
        self._asking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._due = 0.0

    @classmethod
    def of(cls, name: str, identity: tuple[object, ...], retry_interval: float) -> CircuitBreaker:
        """Return the one switch of a server; of several intervals the shortest counts."""
        breaker = _breakers.get(identity)
        if breaker is None:
            breaker = _breakers[identity] = cls(name, retry_interval)
        known = breaker._state
        known.retry_interval = min(known.retry_interval, retry_interval)
        return breaker

    def time_limit(self, probe: AiocacheStore) -> TimeLimit:
        """
        Return the operations of one client of the server: a failure turns the switch.

        Args:
            probe: The server as it is pinged then.
        """
        time_limit = TimeLimit(
            self._is_cut_off, lambda failure: self._lost(failure, probe), self._pulse
        )
        self._operations.add(time_limit)
        return time_limit

    @property
    def is_available(self) -> bool:
        """Whether the server is used, as far as that is known."""
        return self._state.state is State.AVAILABLE

    @property
    def outages(self) -> int:
        """How many times the server has gone away."""
        return self._state.outages

    @property
    def health(self) -> Health:
        """Its state."""
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
        """
        Say whether the server is used; ping it where nobody has, or nobody will.

        Args:
            probe: The server as it is pinged, in the running loop.
            seconds: How long that may take.
        """
        known = self._state
        if known.state is State.UNTRIED:
            await self._ask_now(lambda: self._introduce(probe), seconds)
        elif known.state is State.AWAY and self._is_forgotten():
            if time.monotonic() < self._due:
                self._set_timer(probe)
            else:
                # Loops may be too short for any timer.
                await self._ask_now(lambda: self._ask(probe), seconds)
        return known.state is State.AVAILABLE

    def count_request(self) -> None:
        """Note that a request is answered without the server."""
        self._state.requests += 1

    # -- a ping that a request waits for ----------------------------------------------------

    async def _ask_now(
        self, ask: Callable[[], Coroutine[Any, Any, None]], seconds: float | None
    ) -> None:
        """Ping once for all that wait for it in this loop."""
        loop = asyncio.get_running_loop()
        if self._asking is None or self._asking.get_loop() is not loop or self._asking.done():
            with Deadline(None):
                self._asking = spawn(ask())
        # A ping that has as much time as the request is over first.
        await asyncio.wait({self._asking}, timeout=None if seconds is None else seconds + LEAST)

    async def _introduce(self, probe: AiocacheStore) -> None:
        try:
            await _asked(probe.ping())
        except StoreUnavailableError as exc:
            self._lost(exc, probe)
        if self._state.state is State.UNTRIED:
            self._state.answered(time.monotonic())

    # -- going away -------------------------------------------------------------------------

    def _is_cut_off(self) -> bool:
        return self._cut_off

    def _lost(self, failure: StoreUnavailableError, probe: AiocacheStore) -> None:
        with self._lock:
            is_news = self._state.lost(str(failure), time.monotonic())
            # One that is full or read-only can still be read by those who began to.
            ends_all = not failure.answered and not self._cut_off
            self._cut_off |= ends_all
        if is_news:
            logger.warning(
                "%s is away (%s): requests are answered without it until it is back",
                self.name,
                failure,
            )
        if ends_all:
            for time_limit in tuple(self._operations):
                time_limit.give_up()
        if is_news:
            self._ask_later(probe)

    # -- coming back ------------------------------------------------------------------------

    def _ask_later(self, probe: AiocacheStore) -> None:
        self._due = time.monotonic() + self._state.next_ping(self._chance())
        self._set_timer(probe)

    def _set_timer(self, probe: AiocacheStore) -> None:
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        delay = max(0.0, self._due - time.monotonic())
        # It is not part of the request that found out.
        with Deadline(None):
            self._loop.call_later(delay, lambda: spawn(self._ask(probe)))

    def _is_forgotten(self) -> bool:
        """Whether nobody will ask: the loop that was to has ended, or is another process's."""
        if self._loop is None or self._loop.is_closed() or self._pid != os.getpid():
            return True
        return time.monotonic() > self._due + _OVERDUE

    async def _ask(self, probe: AiocacheStore) -> None:
        try:
            await _try(probe)
            while not self._turned_back():
                await self.pending.settle()
            await self.chores.settle()
        except StoreUnavailableError as exc:
            if self.is_available:
                self._lost(exc, probe)
            else:
                self._state.failed_again()
                self._ask_later(probe)

    def _turned_back(self) -> bool:
        """Use the server again, unless something is owed to it."""
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
        return True

    # -- invalidation -----------------------------------------------------------------------

    @contextmanager
    def keeping(self, invalidator: Invalidator, key: Key | None) -> Iterator[None]:
        """Keep an invalidation unless it is carried out within, or can't be at all."""
        with self._lock:
            # Beforehand: a ping that is answered meanwhile carries it out.
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
        """
        Carry out an invalidation, or keep it until the server is back.

        Args:
            creditor: Who carries it out.
            key: What it is about, None for everything.
            used: Whether the server is used, so that it can be carried out at once.

        Returns:
            Whether it was carried out.

        Raises:
            StoreError: The server does not take it, and is not to blame.
        """
        try:
            with self.keeping(invalidator, key):
                if not used:
                    raise StoreUnavailableError("the store is away")
                await invalidator.carry_out(key, away=False)
        except StoreUnavailableError:
            return False
        return True


async def _try(probe: AiocacheStore) -> None:
    """See that a server that was away answers and takes something."""
    await probe.reconnect()
    await _asked(probe.ping())
    await _asked(probe.set_many([(_PROBE_KEY, b"")], _PROBE_TTL))


async def _asked(sign_of_life: Awaitable[None]) -> None:
    try:
        await sign_of_life
    except StoreUnavailableError:
        raise
    except StoreError:
        # Not this key: a `key_builder` of the user's own may refuse any.
        return


def health() -> list[Health]:
    """
    Return the state of each store that this process uses over a network.

    A store that is away is asked again by itself; nothing needs to be done about it here.
    """
    states = [breaker.health for breaker in tuple(_breakers.values())]
    return sorted(states, key=lambda state: state.store)
