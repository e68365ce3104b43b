"""Plain generators, in the thread pool."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool


async def in_threads(generator: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    """Iterate over a plain generator in the thread pool, and close it there."""
    end = object()
    # A call that is cancelled does not stop its thread.
    lock = threading.Lock()

    def step() -> Any:
        with lock:
            return next(generator, end)

    def close() -> None:
        with lock:
            generator.close()

    try:
        while (item := await run_in_threadpool(step)) is not end:
            yield item
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(close)
