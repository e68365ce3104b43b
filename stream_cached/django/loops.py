"""The event loop that a process without one of its own has for the cache, in a thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections.abc import Coroutine
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync

from stream_cached.lifespan import aclose

#: Seconds that runs without a client have to complete when the process ends.
_GRACE = 5.0


class _OwnLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="stream_cached", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def close(self) -> None:
        """Let the runs end, and stop the loop."""
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(aclose(_GRACE), self.loop).result(_GRACE + 5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(1)
        if not self.thread.is_alive():
            self.loop.close()


_lock = threading.Lock()
_own: _OwnLoop | None = None

#: Loops of the process that this one was forked from. To close one would close what both share.
_of_parents: list[_OwnLoop] = []


def own_loop() -> asyncio.AbstractEventLoop:
    """Return the loop in a thread of this process; the first call makes it."""
    global _own
    own = _own
    if own is None:
        with _lock:
            own = _own = _own or _OwnLoop()
    return own.loop


def _after_fork() -> None:
    """Forget the loop, whose thread this process does not have."""
    global _lock, _own
    _lock = threading.Lock()
    if _own is not None:
        _of_parents.append(_own)
        _own = None


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def close_own_loop() -> None:
    """Let the runs in the loop end, and stop it. The next use makes another one."""
    global _own
    own, _own = _own, None
    if own is not None:
        own.close()


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def server_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of the ASGI server that has called this thread; None if there is none."""
    local = SyncToAsync.threadlocal
    if getattr(local, "main_event_loop_pid", None) != os.getpid():
        return None
    loop: asyncio.AbstractEventLoop | None = getattr(local, "main_event_loop", None)
    return loop if loop is not None and loop.is_running() else None


def is_for_one_call(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `async_to_sync` has made a loop, which ends with what was called."""
    return loop in AsyncToSync.loop_thread_executors


def is_own(loop: asyncio.AbstractEventLoop) -> bool:
    return _own is not None and _own.loop is loop


def run_in(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any],
    context: contextvars.Context,
) -> None:
    """Start a coroutine in the loop of another thread. Nobody waits for it here."""
    tasks = set[asyncio.Task[Any]]()

    def start() -> None:
        task = loop.create_task(coroutine, context=context)
        # A loop keeps only weak references.
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.call_soon_threadsafe(start)
