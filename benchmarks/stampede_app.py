"""The application of the stampede: one paced stream, under each way of answering."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from benchmarks.apps import TTL, redis_url
from benchmarks.bodies import MEDIA_TYPE, Body
from stream_cached import stream_cached

BODY = Body(100, 1_000)

#: Seconds that the generator takes, and how many chunks it makes at once.
DURATION = 0.12
AT_ONCE = 10


async def _chunks() -> AsyncIterator[bytes]:
    """Make the body, by deadlines: whatever holds it up, it catches up."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number, chunk in enumerate(BODY):
        if number % AT_ONCE == 0:
            due = start + DURATION * (number + AT_ONCE) / BODY.count
            if (delay := due - loop.time()) > 0:
                await asyncio.sleep(delay)
        yield chunk


async def stream(request: Request) -> Response:
    """Stream the body; a header says of its run which process made it, and which one it is."""
    run = f"{os.getpid()}.{os.urandom(4).hex()}"
    return StreamingResponse(_chunks(), media_type=MEDIA_TYPE, headers={"Run": run})


async def at_once(request: Request) -> Response:
    """Answer with the same body, without making it: what the server itself takes."""
    run = f"{os.getpid()}.{os.urandom(4).hex()}"
    return StreamingResponse(_whole(), media_type=MEDIA_TYPE, headers={"Run": run})


async def _whole() -> AsyncIterator[bytes]:
    yield BODY.whole


def app() -> Starlette:
    """Return the application."""
    on_redis = stream_cached(ttl=TTL, cache=f"{redis_url()}?namespace=stampede")
    return Starlette(
        routes=[
            Route("/uncached", stream),
            Route("/uncached-at-once", at_once),
            Route("/memory", stream_cached(ttl=TTL, cache="memory://")(stream)),
            Route("/redis", on_redis(stream)),
        ]
    )
