"""The time-outs of the operations on one server.

When the circuit breaker opens, all pending operations fail at once: after the first time-out, no
other request waits for its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stream_cached.connections.deadline import allowed
from stream_cached.errors import StoreError, StoreUnavailableError

T = TypeVar("T")

#: A timer that fires later than this many seconds shows that the event loop was blocked.
_BLOCKED = 0.05

#: Iterations of the event loop between the end of a time-out and the cancellation. The answer may
#: arrive in the same iteration, and uvloop runs timers first.
_LAST_TURNS = 12

#: How many times a time-out is extended because the event loop was blocked.
_EXTENSIONS = 5

#: The fraction of its time-out that an operation may wait for a free connection. Such a wait is
#: caused by other operations, and must not count as an outage of the server.
WAIT_FOR_CONNECTION = 0.8

#: A time-out counts as an outage only if the operation had this fraction of the configured
#: time-out, and the server answered no other operation for this fraction of it.
_FAIR_SHARE = 0.5

#: Seconds between two cancellations of an operation that swallows them.
_CANCEL_INTERVAL = 0.05


class Pulse:
    """The monotonic time of a server's last answer to any of its clients."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = 0.0


class TimeLimit:
    """Runs the operations on one server, each within a time-out.

    While `is_cut_off()`, no operation starts. `on_failure` is called for each outage."""

    def __init__(
        self,
        is_cut_off: Callable[[], bool] = lambda: False,
        on_failure: Callable[[StoreUnavailableError], object] = lambda failure: None,
        pulse: Pulse | None = None,
    ) -> None:
        self._is_cut_off = is_cut_off
        self._on_failure = on_failure
        self._pulse = pulse or Pulse()
        self._pending: set[_Operation] = set()

    async def run(
        self,
        name: str,
        begin: Callable[[], Awaitable[T]],
        timeout: float | None,
        translated: Callable[[str, Exception], Exception] | None = None,
    ) -> T:
        """
        Run an operation.

        Args:
            name: The name of the operation, for errors.
            begin: Begins it.
            timeout: Seconds that it may take; None for no bound.
            translated: Returns what to raise in the place of an exception of the operation.

        Raises:
            StoreUnavailableError: The store is away.
            StoreError: There was no answer in time.
        """
        if self._is_cut_off():
            raise StoreUnavailableError(f"{name}: the store is away")
        limit = allowed(timeout)
        pending = _Operation(limit)
        started = time.monotonic()
        try:
            with pending:
                self._pending.add(pending)
                # Not by one more coroutine: each hit on a server comes here.
                try:
                    result = await begin()
                except Exception as exc:
                    error = exc if translated is None else translated(name, exc)
                    if error is exc:
                        raise
                    raise error from exc
            self._pulse.last = time.monotonic()
            return result
        except TimeoutError as exc:
            if pending.given_up:
                raise StoreUnavailableError(
                    f"{name}: cancelled, because the store is away"
                ) from exc
            cause = f"{name}: no answer within {pending.timeout:.3g} s"
            short = limit is not None and timeout is not None and limit < timeout * _FAIR_SHARE
            # No outage: the request's deadline was short, or the server answered other requests.
            if short or self._pulse.last > started + pending.timeout * _FAIR_SHARE:
                raise StoreError(cause) from exc
            raise self.failure(cause) from exc
        finally:
            self._pending.discard(pending)

    def failure(
        self, cause: str, *, answered: bool = False, fix: str = ""
    ) -> StoreUnavailableError:
        """Report a failure that counts as an outage; return the error to raise."""
        failure = StoreUnavailableError(cause, answered=answered).with_fix(fix)
        self._on_failure(failure)
        return failure

    def give_up(self) -> None:
        """Fail all pending operations now, in all event loops."""
        for pending in tuple(self._pending):
            pending.give_up()


class _Operation:
    """A running operation and its time-out, which is more robust than `asyncio.timeout`.

    It is extended after the loop was blocked, and repeats a cancellation that was swallowed."""

    given_up = False
    _timer: asyncio.Handle | None = None
    _when = 0.0
    _extensions = 0
    _cancels = 0
    _entered = False

    def __init__(self, timeout: float | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.timeout = timeout or 0.0
        self._task = task
        self._loop = task.get_loop()
        self._bounded = timeout is not None
        self._cancelling = task.cancelling()

    def __enter__(self) -> None:
        self._entered = True
        if self._bounded:
            self._set_timer(self.timeout)

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        self._entered = False
        if self._timer is not None:
            self._timer.cancel()
        if not self._cancels:
            return
        for _ in range(self._cancels):
            self._task.uncancel()
        # Otherwise the task was cancelled from outside, too, and the cancellation must propagate.
        if kind is asyncio.CancelledError and self._task.cancelling() <= self._cancelling:
            raise TimeoutError from exc

    def give_up(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._expire, True)

    def _set_timer(self, seconds: float) -> None:
        self._when = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._when, self._due)

    def _due(self) -> None:
        # If an endpoint has blocked the event loop, the timer is due although the answer may
        # already be in the socket's buffer.
        late = self._loop.time() - self._when
        if late > _BLOCKED and self._extensions < _EXTENSIONS:
            self._extensions += 1
            self._set_timer(_BLOCKED)
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
        # A client may swallow the cancellation: redis-py sends through `asyncio.wait_for`, which up
        # to Python 3.11 does so if the awaited future finishes in the same iteration.
        self._timer = self._loop.call_later(_CANCEL_INTERVAL, self._expire, given_up)
