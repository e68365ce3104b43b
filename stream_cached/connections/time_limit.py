"""The operations on a store that are under way: each has a time-out, and all are given up at once.

Whoever waits for a store that hangs learns of it from the first that ran into its time-out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from stream_cached.connections.deadline import allowed
from stream_cached.errors import StoreError, StoreUnavailableError

T = TypeVar("T")

#: Seconds that a timer is late by where something has held up the event loop.
_HELD_UP = 0.05

#: Turns of the event loop that are left to an answer when its time is over: it may have come in the
#: same turn, and uvloop sees to timers first.
_LAST_TURNS = 12

#: How often a time-out is put off because of that.
_EXTENSIONS = 5

#: Part of its time-out that an operation may wait for a connection: what it waits for is others.
WAIT_FOR_CONNECTION = 0.8

#: Part of its time-out that an operation has to be given, and the server to be silent for, before
#: that is blamed.
_FAIR_SHARE = 0.5

#: Seconds after which an operation that is still there is cancelled once more.
_AGAIN = 0.05


class Pulse:
    """When a server last answered anything, by the monotonic clock."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0.0


class TimeLimit:
    """
    The operations on one server.

    Args:
        is_cut_off: Whether none may begin, since the server can't be reached.
        on_failure: Called with each failure that the server is to blame for.
        pulse: Of the server, over all of its clients.
    """

    def __init__(
        self,
        is_cut_off: Callable[[], bool] = lambda: False,
        on_failure: Callable[[StoreUnavailableError], object] = lambda failure: None,
        pulse: Pulse | None = None,
    ) -> None:
        self._is_cut_off = is_cut_off
        self._on_failure = on_failure
        self._pulse = pulse or Pulse()
        self._pending: set[_Pending] = set()

    async def run(self, name: str, begin: Callable[[], Awaitable[T]], timeout: float | None) -> T:
        """
        Begin an operation and await it.

        Args:
            name: What to call it in errors.
            begin: Begins it; not called where none may begin.
            timeout: Seconds that it may take, None for no bound.

        Raises:
            StoreUnavailableError: The server is away, or did not answer in time.
            StoreError: It did not answer in what a request had left of its time, or answered
                others meanwhile.
            Exception: What the operation raises.
        """
        if self._is_cut_off():
            raise StoreUnavailableError(f"{name}: the store is away")
        limit = allowed(timeout)
        pending = _Pending(limit)
        started = time.monotonic()
        try:
            with pending:
                self._pending.add(pending)
                result = await begin()
            self._pulse.last = time.monotonic()
            return result
        except TimeoutError as exc:
            if pending.given_up:
                raise StoreUnavailableError(f"{name}: given up, the store is away") from exc
            cause = f"{name}: no answer within {pending.timeout:.3g} s"
            short = limit is not None and timeout is not None and limit < timeout * _FAIR_SHARE
            # It was given too little time to be blamed, or was busy with others' requests.
            if short or self._pulse.last > started + pending.timeout * _FAIR_SHARE:
                raise StoreError(cause) from exc
            raise self.failure(cause) from exc
        finally:
            self._pending.discard(pending)

    def failure(self, cause: str, *, answered: bool = False) -> StoreUnavailableError:
        """Take note of a failure that the server is to blame for; return what to raise."""
        failure = StoreUnavailableError(cause, answered=answered)
        self._on_failure(failure)
        return failure

    def give_up(self) -> None:
        """Let everything that is under way fail now, in whatever loop it runs."""
        for pending in tuple(self._pending):
            pending.give_up()


class _Pending:
    """One operation under way, with a time-out like that of `asyncio.timeout`, except for this.

    An endpoint that blocks the event loop holds up the answers of the store, too: when it lets go,
    the timer is due, and the answer may have been there for long. It is given time to be read.

    And a client may swallow a cancellation: `asyncio.wait_for`, through which redis-py sends, does
    so up to Python 3.11 where what it waits for is done in the same turn. It is repeated until the
    operation is over.
    """

    def __init__(self, timeout: float | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.given_up = False
        self.timeout = timeout or 0.0
        self._task = task
        self._loop = task.get_loop()
        self._bounded = timeout is not None
        self._timer: asyncio.Handle | None = None
        self._when = 0.0
        self._extensions = 0
        self._cancelling = task.cancelling()
        self._cancels = 0
        self._entered = False

    def __enter__(self) -> None:
        self._entered = True
        if self._bounded:
            self._set_timer(self.timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered = False
        if self._timer is not None:
            self._timer.cancel()
        if not self._cancels:
            return
        for _ in range(self._cancels):
            self._task.uncancel()
        # Otherwise somebody else has cancelled the task as well.
        if kind is asyncio.CancelledError and self._task.cancelling() <= self._cancelling:
            raise TimeoutError from exc

    def give_up(self) -> None:
        """Let it fail now."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._expire, True)

    def _set_timer(self, seconds: float) -> None:
        self._when = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._when, self._due)

    def _due(self) -> None:
        late = self._loop.time() - self._when
        if late > _HELD_UP and self._extensions < _EXTENSIONS:
            self._extensions += 1
            self._set_timer(_HELD_UP)
        else:
            self._expire_after(_LAST_TURNS)

    def _expire_after(self, turns: int) -> None:
        if turns and self._entered:
            self._timer = self._loop.call_soon(self._expire_after, turns - 1)
        else:
            self._expire(False)

    def _expire(self, given_up: bool) -> None:
        if not self._entered:
            return
        if not self._cancels:
            self.given_up = given_up
        self._cancels += 1
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_AGAIN, self._expire, given_up)
