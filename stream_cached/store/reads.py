"""Reads of the same keys at the same time: many callers, few reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}

    async def __call__(self, key: K) -> V:
        """
        Return what is under a key.

        Raises:
            Exception: What the read raises; those who wait then read by themselves.
        """
        if key not in self._waiting:
            self._waiting[key] = []
        elif (found := await self._next(key)) is not None:
            return found
        together, self._waiting[key] = self._waiting[key], []
        try:
            found = await self._read(key)
            for future in together:
                if not future.done():
                    future.set_result(found)
            return found
        except BaseException:
            # It may be this caller's own affair: that he has left, or has had no time.
            self._waiting[key] = together + self._waiting[key]
            raise
        finally:
            self._hand_over(key)

    async def _next(self, key: K) -> V | None:
        """Wait for the next read; None where it is the caller's to do."""
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting[key].append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result() is None:
                self._hand_over(key)
            raise

    def _hand_over(self, key: K) -> None:
        """Let the first of those who wait read, for all of them."""
        waiting = self._waiting[key]
        while waiting:
            future = waiting.pop(0)
            if not future.done():
                future.set_result(None)
                return
        del self._waiting[key]
