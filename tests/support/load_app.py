"""The application of the load test, for a process of its own; `CACHE` is its cache."""

from __future__ import annotations

import asyncio
import gc
import logging
import os

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stream_cached import health, stream_cached
from stream_cached.backends import breaker_state
from tests.support.fault_lab import SourceError, Streams

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")

# A store that comes and goes is asked less and less often; here it shall be used again soon.
breaker_state.MAX_INTERVAL = 0.5

#: Small, so that both are full long before the end.
FALLBACK, LOCAL = "memory://?max_bytes=6MiB", "2MiB"


async def stats(request: Request) -> Response:
    """Say what the process holds."""
    gc.collect()
    with open("/proc/self/statm") as statm:  # noqa: ASYNC230
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return JSONResponse(
        {
            "resident": resident,
            "tasks": len(asyncio.all_tasks()),
            "files": len(os.listdir("/proc/self/fd")),
            "available": all(each.available for each in health()),
        }
    )


async def before(path: str, number: int) -> None:
    """Some streams take their time, and some fail."""
    if "/slow" in path:
        await asyncio.sleep(0.01)
    if "/failing" in path and number == 2:
        raise SourceError


streams = Streams()
streams.before = before
app = streams.app(
    stream_cached(
        ttl=2, cache=os.environ["CACHE"], fallback=FALLBACK, retry_interval=0.2, local=LOCAL
    )
)
app.router.routes.append(Route("/stats", stats))
