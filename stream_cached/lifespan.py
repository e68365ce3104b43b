"""The end of an application: runs that go on are completed or aborted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from stream_cached import tasks
from stream_cached.checks import require_seconds
from stream_cached.endpoint.known import reporter_of
from stream_cached.runs.states import GivenUp
from stream_cached.runs.streaming import runs_here
from stream_cached.stores.clients import Clients

#: Seconds for the clean-up of aborted runs: a store may hang.
_CLEAN_UP = 2.0


#: What is wrong with a decorator that the framework never calls, and what to write.
PASSED_OVER = (
    "@stream_cached stands above the route decorator, so that the framework calls the function "
    "without it",
    "write it below, directly over the function",
)


def warn_of_passed_over(app: Any) -> None:
    """Warn of functions whose decorator stands above that of their route, which never calls it."""
    for route in _routes_of(app, set()):
        reporter = reporter_of(getattr(route, "endpoint", None))
        if reporter is not None:
            reporter.warn(": ".join(PASSED_OVER))


def _routes_of(holder: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the routes of an application, also those of mounted ones and of included routers."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    yield holder
    for name in ("app", "router", "original_router"):
        inner = getattr(holder, "__dict__", {}).get(name)
        if inner is not None:
            yield from _routes_of(inner, seen)
    for route in getattr(holder, "__dict__", {}).get("routes") or ():
        yield from _routes_of(route, seen)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """
    Call `aclose` when an application ends: `Starlette(lifespan=lifespan)`, or within one's own.

    It warns of a decorator that stands above the route decorator, so that it is never called.

    Args:
        app: The application. Its end closes all runs in its event loop.
    """
    warn_of_passed_over(app)
    try:
        yield
    finally:
        await aclose()


async def aclose(timeout: float = 10.0) -> None:
    """
    Let all runs in the running event loop end, and close the connections to stores.

    These are runs whose client has left, and refreshes of stale entries. A run that is not complete
    in time is aborted: nothing of it is stored, and its lease is released, so that another process
    need not wait. Without this call, both happen as the event loop ends, as far as the loop allows.
    The cache can be used again afterwards.

    Args:
        timeout: Seconds that runs have to complete.

    Raises:
        ConfigurationError: The timeout is not a number of seconds above 0.
    """
    require_seconds("timeout", timeout)
    if not tasks.has_event_loop():
        # Under trio, nothing was ever begun.
        return
    await _all_done(timeout)
    for run in runs_here():
        run.abort(GivenUp.SHUTDOWN)
    await _all_done(_CLEAN_UP)
    for task in tasks.running_here():
        task.cancel()
    await _all_done(_CLEAN_UP)
    await Clients.close_here()


async def _all_done(seconds: float) -> None:
    """Wait for all tasks, and for the tasks that they start, for so many seconds at most."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (running := tasks.running_here()) and (left := deadline - loop.time()) > 0:
        await asyncio.wait(running, timeout=left)
