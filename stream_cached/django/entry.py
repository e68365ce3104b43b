"""How code without an event loop, and code in one, waits for what the cache does."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, _restore_context

from stream_cached.django.loops import is_for_one_call, own_loop, run_in, running_loop, server_loop
from stream_cached.django.threads import Inbox, inbox_here

T = TypeVar("T")


def loop_for(*, for_server: bool) -> asyncio.AbstractEventLoop:
    """Return the loop for what this thread asks for: the server's, or that of the process."""
    loop = server_loop() if for_server else None
    return own_loop() if loop is None or loop is running_loop() else loop


def loop_here() -> asyncio.AbstractEventLoop:
    """Return the loop for what is asked without a request: the server's, if there is a server."""
    loop = server_loop()
    return loop_for(for_server=loop is not None and not is_for_one_call(loop))


def run_here(
    coroutine: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop,
    inbox: Inbox | None = None,
    context: contextvars.Context | None = None,
) -> T:
    """Wait in this thread for a coroutine in a loop, and do meanwhile what others ask of it."""
    inbox = inbox or inbox_here()
    context = context or contextvars.copy_context()
    outcome: list[tuple[T | None, BaseException | None]] = []

    async def run() -> None:
        _restore_context(context)
        # This thread does not wait in the way that asgiref takes for a deadlock.
        SyncToAsync.deadlock_context.set(False)
        try:
            found: tuple[T | None, BaseException | None] = (await coroutine, None)
        except BaseException as exc:
            found = (None, exc)
        outcome.append(found)
        inbox.wake()

    run_in(loop, run(), context)
    inbox.wait_until(lambda: bool(outcome))
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
