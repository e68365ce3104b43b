"""Reads of the same keys at the same time: many callers, few reads."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds that a caller waits for others at the most: a connection may hang that is not his.
_LONGEST = 0.1


class _Yours(enum.Enum):
    """What a caller who has waited is to do himself."""

    NEXT = enum.auto()
    """The next read, for all who wait."""
    ALONE = enum.auto()
    """One of his own."""


class SharedReads(Generic[K, V]):
    """
    Reads, of which those that would run side by side are one.

    Whoever asks while a read is under way is given what the next one finds, together with all who
    do so. Never what one finds that has begun before: it may have missed a write whose call had
    returned.

    Args:
        read: Reads what is under a key.
    """

    def __init__(self, read: Callable[[K], Awaitable[V]]) -> None:
        self._read = read
        # Where a read is under way: those who wait for the next one.
        self._waiting: dict[K, list[asyncio.Future[V | _Yours]]] = {}

    async def __call__(self, key: K) -> V:
        """
        Return what is under a key.

        Raises:
            Exception: What the read raises; those who wait then read by themselves.
        """
        if key not in self._waiting:
            self._waiting[key] = []
        else:
            found = await self._next(key)
            if found is _Yours.ALONE:
                return await self._read(key)
            if not isinstance(found, _Yours):
                return found
        together, self._waiting[key] = self._waiting[key], []
        try:
            found = await self._read(key)
            for future in together:
                _answer(future, found)
            return found
        except BaseException:
            # It may be this caller's own affair: that he has left, or has had no time.
            self._waiting[key] = together + self._waiting[key]
            raise
        finally:
            self._hand_over(key)

    async def _next(self, key: K) -> V | _Yours:
        """Wait for the next read, or for what is to be done instead."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V | _Yours] = loop.create_future()
        self._waiting[key].append(future)
        timer = loop.call_later(_LONGEST, _answer, future, _Yours.ALONE)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result() is _Yours.NEXT:
                self._hand_over(key)
            raise
        finally:
            timer.cancel()

    def _hand_over(self, key: K) -> None:
        """Let the first of those who wait read, for all of them."""
        waiting = self._waiting[key]
        while waiting:
            if _answer(waiting.pop(0), _Yours.NEXT):
                return
        del self._waiting[key]


def _answer(future: asyncio.Future[V | _Yours], found: V | _Yours) -> bool:
    """Let one who waits go on, unless he does already; return whether he did not."""
    if future.done():
        return False
    future.set_result(found)
    return True
