"""Whether the code that runs now answers a request, or is one of the tasks that do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

#: Modules whose threads run plain endpoints, and what endpoints hand over.
_WORKERS = frozenset({"anyio._backends._asyncio", "concurrent.futures.thread"})

#: The module whose frames show that a module is being imported.
_IMPORT = "importlib._bootstrap"


def is_in_request() -> bool:
    """
    Whether the code that runs now answers a request.

    A task does not show what has started it: all tasks count but the one that runs the program, the
    lifespan of an application, and those that import a module.
    """
    task = _task()
    counts, is_outside = task is not None, False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in _WORKERS:
            return True
        kind = _kind_of_scope(frame)
        if kind:
            return kind in ("http", "websocket")
        counts = counts and module != _IMPORT and not (is_outside and _runs_program(frame, task))
        is_outside = is_outside or frame is _first_frame(task)
        frame = frame.f_back
    return counts


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _kind_of_scope(frame: FrameType) -> str | None:
    """Return the type of the scope that a frame has as an ASGI application, or a part of one."""
    if "scope" not in frame.f_code.co_varnames:
        return None
    scope = frame.f_locals.get("scope")
    kind = scope.get("type") if isinstance(scope, Mapping) else None
    return kind if kind in ("http", "websocket", "lifespan") else None


def _first_frame(task: Any) -> object:
    return getattr(None if task is None else task.get_coro(), "cr_frame", None)


def _runs_program(frame: FrameType, task: Any) -> bool:
    """Whether a frame beneath the event loop waits for a task itself, as `asyncio.run` does."""
    coroutine = task.get_coro()
    return any(each is task or each is coroutine for each in frame.f_locals.values())
