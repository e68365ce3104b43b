"""Threads for calls of the file system, apart from those of the application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_THREADS = 8

#: The threads, and the process that they are in: a fork has none of them.
_pool: tuple[int, ThreadPoolExecutor] | None = None


def submit(function: Callable[[], T]) -> Future[T]:
    """Let a thread call a function, whatever becomes of the task that asks for it."""
    global _pool
    if _pool is None or _pool[0] != os.getpid():
        _pool = os.getpid(), ThreadPoolExecutor(_THREADS, "stream-cached-files")
    return _pool[1].submit(function)


async def in_thread(function: Callable[[], T]) -> T:
    return await asyncio.wrap_future(submit(function))
