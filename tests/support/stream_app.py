"""An app for processes of their own; each body is another one at each run. `CACHE` is its cache."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached

CACHE = os.environ["CACHE"]
TTL = None if os.environ.get("TTL") == "none" else float(os.environ.get("TTL", "60"))
CHUNK = 100_000


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield os.urandom(CHUNK)


@stream_cached(ttl=TTL, cache=CACHE)
async def chunked(request: Request) -> Response:
    return StreamingResponse(chunks(10))


@stream_cached(ttl=TTL, cache=CACHE)
async def length(request: Request) -> Response:
    return StreamingResponse(chunks(10), headers={"content-length": str(10 * CHUNK)})


@stream_cached(ttl=TTL, cache=CACHE)
async def file(request: Request) -> Response:
    with tempfile.NamedTemporaryFile(dir=os.environ.get("TMPDIR"), delete=False) as content:
        content.write(os.urandom(10 * CHUNK))

    async def remove() -> None:
        os.unlink(content.name)

    from starlette.background import BackgroundTask

    return FileResponse(content.name, background=BackgroundTask(remove))


@stream_cached(ttl=TTL, cache=CACHE)
async def json(request: Request) -> Response:
    return JSONResponse({"run": os.urandom(CHUNK).hex()})


@stream_cached(ttl=TTL, cache=CACHE)
async def endless(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield os.urandom(CHUNK)
            await asyncio.sleep(0.01)

    return StreamingResponse(body())


app = Starlette(
    routes=[
        Route(f"/{endpoint.__name__}", endpoint)  # type: ignore[attr-defined]
        for endpoint in (chunked, length, file, json, endless)
    ]
)
