"""What a test holds an endpoint with, and waits with, instead of sleeping."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from stream_cached.tasks import running_here

#: Seconds. Only a test that fails takes as long: a busy machine needs some of it.
TIMEOUT = 30.0


class Gate:
    """Closed until `open()`, by any thread; endpoints await `passed()`, threads call `wait()`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def open(self) -> None:
        with self._lock:
            self._opened.set()
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                future.get_loop().call_soon_threadsafe(_resolve, future)

    async def passed(self, timeout: float = TIMEOUT) -> None:
        with self._lock:
            if self.is_open:
                return
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
        async with asyncio.timeout(timeout):
            await future

    def wait(self, timeout: float = TIMEOUT) -> None:
        if not self._opened.wait(timeout):
            raise TimeoutError("the gate was not opened")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def wait_until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait for what nothing announces: what another process or server has come to."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come true")
        time.sleep(0.005)


async def until(condition: Callable[[], object]) -> None:
    """Let the tasks of the running event loop go on until they have come to something."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in an event loop of its own, for `TIMEOUT` seconds at most."""

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await test()

    asyncio.run(bounded())


async def runs_over() -> None:
    """Wait for what goes on in the running event loop, also without a call."""
    while runs := running_here():
        await asyncio.wait(runs)
