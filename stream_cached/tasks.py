"""Background tasks. An event loop keeps only weak references to its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

_running: set[asyncio.Task[None]] = set()


def has_event_loop() -> bool:
    """Whether asyncio runs this code, and not trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def spawn(
    coroutine: Coroutine[Any, Any, None], context: Context | None = None
) -> asyncio.Task[None]:
    """Run a coroutine as a task that is kept until it is done."""
    task = asyncio.create_task(coroutine, context=context)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def running_here() -> set[asyncio.Task[None]]:
    """Return the tasks of the running event loop, except the current one."""
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    return {task for task in _running if task.get_loop() is loop and task is not current}


def running() -> list[asyncio.Task[None]]:
    """Return the tasks of all event loops."""
    return list(_running)
