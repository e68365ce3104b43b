"""Where asynchronous code runs what is synchronous: in a thread of its run, or the request's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext
from django.db import connections

from stream_cached.django.threads import Inbox

#: Stands for a variable without a value.
_UNSET = object()


def changes(before: contextvars.Context, after: contextvars.Context) -> contextvars.Context:
    """Return what was set between two copies of one context."""
    changed = contextvars.Context()
    for variable, value in after.items():
        if before.get(variable, _UNSET) is not value:
            changed.run(variable.set, value)
    return changed


class InboxExecutor(Executor):
    """Runs what it is given in the thread of an inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let the thread call a function."""
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as exc:
                future.set_exception(exc)
                if not isinstance(exc, Exception):
                    raise

        self._inbox.put(work)
        return future


class ThreadOfRun:
    """
    The thread in which `sync_to_async` runs the code of one run.

    Django's own ends with the request, and the run may go on.

    Args:
        inbox: What has the thread of the request, if the run must stay there.
    """

    def __init__(self, inbox: Inbox | None = None) -> None:
        self._inbox = inbox
        self._context: ThreadSensitiveContext | None = None

    def enter(self) -> None:
        """Let the current context, and its copies, use the thread."""
        self._context = ThreadSensitiveContext()
        # A nested ThreadSensitiveContext does nothing, and a thread that waits for asynchronous
        # code would go before it.
        SyncToAsync.thread_sensitive_context.set(self._context)
        AsyncToSync.executors.current = None
        if self._inbox is not None:
            executor = InboxExecutor(self._inbox)
            SyncToAsync.context_to_thread_executor[self._context] = executor

    async def finish(self) -> None:
        """Wait until the thread has done what it was given: that cannot be interrupted."""
        executor = SyncToAsync.context_to_thread_executor.get(self._context)  # type: ignore[arg-type]
        if executor is not None and self._inbox is None:
            await asyncio.wrap_future(executor.submit(int))

    def leave(self) -> None:
        """Close the connections of the thread, and let it end."""
        context, self._context = self._context, None
        if context is None:
            return
        executor = SyncToAsync.context_to_thread_executor.pop(context, None)
        if executor is not None and self._inbox is None:
            with contextlib.suppress(RuntimeError):  # the process ends
                executor.submit(connections.close_all)
            executor.shutdown(wait=False)
