"""Tasks whose suspensions are counted, so that a test can cancel one at each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any
from weakref import WeakKeyDictionary


class Suspensions:
    """
    Counts, from now on, the suspensions of each new task in the running loop.

    What a task awaits at one of them raises `CancelledError`, as if somebody had cancelled the task
    just after it had begun to wait.
    """

    def __init__(self) -> None:
        self._counted: WeakKeyDictionary[asyncio.Task[Any], _Counted] = WeakKeyDictionary()
        self.cancelled = 0
        """How many were cancelled so far."""
        asyncio.get_running_loop().set_task_factory(self._made)

    def cancel(self, task: asyncio.Task[Any], number: int) -> None:
        """Cancel a task at its suspension of this number, counted from now (and from 1)."""
        self._counted[task].left = number

    def spare(self, task: asyncio.Task[Any]) -> None:
        """Do not cancel a task after all."""
        self._counted[task].left = 0

    def _cancel(self) -> None:
        self.cancelled += 1
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    def _made(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Any,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        counted = _Counted(coroutine, self._cancel)
        task = asyncio.Task(counted, loop=loop, context=context)
        self._counted[task] = counted
        return task


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that says when it has suspended for the time that was asked for."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], reached: Callable[[], None]) -> None:
        self.left = 0
        """How many suspensions there are until then."""
        self._coroutine = coroutine
        self._reached = reached

    def send(self, value: Any) -> Any:
        return self._suspended(self._coroutine.send(value))

    def throw(self, *args: Any) -> Any:
        return self._suspended(self._coroutine.throw(*args))

    def close(self) -> None:
        self._coroutine.close()

    def _suspended(self, awaited: Any) -> Any:
        self.left -= 1
        if not self.left:
            self._reached()
        return awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("it is a task's own")
