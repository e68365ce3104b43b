"""Concurrent reads of the same keys, combined into few reads."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds that a caller waits for another caller's read, because its connection may hang.
_LONGEST = 0.1


class _Task(enum.Enum):
    """The read that a waiting caller has to do itself."""

    NEXT = enum.auto()
    """The next read, on behalf of all waiting callers."""
    ALONE = enum.auto()
    """A read for this caller only."""


class SharedReads(Generic[K, V]):
    """Combines concurrent reads of one key: calls during a read share the result of the next.

    The current read can't serve them, because it may have missed a write before the call."""

    def __init__(self, read: Callable[[K], Awaitable[V]]) -> None:
        self._read = read
        # A key is present while a read of it is running; its callers wait for the next read.
        self._waiting: dict[K, list[asyncio.Future[V | _Task]]] = {}

    async def __call__(self, key: K) -> V:
        """Return the value of a key; an exception goes only to the caller that reads."""
        if key not in self._waiting:
            self._waiting[key] = []
        else:
            found = await self._next(key)
            if found is _Task.ALONE:
                return await self._read(key)
            if not isinstance(found, _Task):
                return found
        together, self._waiting[key] = self._waiting[key], []
        try:
            found = await self._read(key)
            for future in together:
                _answer(future, found)
            return found
        except BaseException:
            # The failure may concern this caller only: its cancellation, or its deadline.
            self._waiting[key] = together + self._waiting[key]
            raise
        finally:
            self._hand_over(key)

    async def _next(self, key: K) -> V | _Task:
        """Wait for the result of the next read, or for the task to do it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V | _Task] = loop.create_future()
        self._waiting[key].append(future)
        timer = loop.call_later(_LONGEST, _answer, future, _Task.ALONE)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result() is _Task.NEXT:
                self._hand_over(key)
            raise
        finally:
            timer.cancel()

    def _hand_over(self, key: K) -> None:
        waiting = self._waiting[key]
        while waiting:
            if _answer(waiting.pop(0), _Task.NEXT):
                return
        del self._waiting[key]


def _answer(future: asyncio.Future[V | _Task], found: V | _Task) -> bool:
    """Resolve the future of a waiting caller; return False if it is already done."""
    if future.done():
        return False
    future.set_result(found)
    return True
