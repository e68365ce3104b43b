"""The operations on a store that are under way: each has a time-out, and all are given up at once.

Whoever waits for a store that hangs learns of it from the first that ran into its time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from stream_cached.exceptions import StoreUnavailableError

T = TypeVar("T")

#: Seconds that a timer is late by where something has held up the event loop.
_HELD_UP = 0.05

#: How often a time-out is put off because of that.
_EXTENSIONS = 5


class Operations:
    """
    The operations on one server.

    Args:
        is_away: Whether none may begin.
        on_failure: Called with each failure that the server is to blame for.
    """

    def __init__(
        self,
        is_away: Callable[[], bool] = lambda: False,
        on_failure: Callable[[StoreUnavailableError], object] = lambda failure: None,
    ) -> None:
        self._is_away = is_away
        self._on_failure = on_failure
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
            Exception: What the operation raises.
        """
        if self._is_away():
            raise StoreUnavailableError(f"{name}: the store is away")
        pending = _Pending(timeout)
        try:
            async with pending:
                self._pending.add(pending)
                return await begin()
        except TimeoutError as exc:
            if pending.given_up:
                raise StoreUnavailableError(f"{name}: given up, the store is away") from exc
            raise self.failure(f"{name}: no answer within {pending.timeout:.3g} s") from exc
        finally:
            self._pending.discard(pending)

    def failure(self, cause: str) -> StoreUnavailableError:
        """Take note of a failure that the server is to blame for; return what to raise."""
        failure = StoreUnavailableError(cause)
        self._on_failure(failure)
        return failure

    def give_up(self) -> None:
        """Let everything that is under way fail now, in whatever loop it runs."""
        for pending in tuple(self._pending):
            pending.give_up()


class _Pending:
    """One operation under way: a time-out that allows for an event loop which was held up.

    An endpoint that blocks the loop holds up the answers of the store, too: when it lets go, the
    timer is due, and the answer may have been there for long. It is given time to be read.
    """

    def __init__(self, timeout: float | None) -> None:
        self.given_up = False
        self.timeout = timeout or 0.0
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        self._bounded = timeout is not None
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0
        self._extensions = 0
        self._entered = False

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._entered = True
        if self._bounded:
            self._set_timer(self.timeout)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered = False
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, exc, traceback)

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
            self._expire(False)

    def _expire(self, given_up: bool) -> None:
        if self._entered:
            self.given_up = given_up
            self._scope.reschedule(self._loop.time())
