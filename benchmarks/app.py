"""The application that is measured: each body under each way of answering."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached

#: Name of a body: size of a chunk in bytes, number of chunks.
BODIES = {"small": (100, 20), "tiny-chunks": (20, 20_000), "10-MB": (65_536, 160)}

REDIS = os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0?namespace=benchmark")

runs = 0

Endpoint = Callable[[Request], Awaitable[Response]]


def _stream(size: int, count: int) -> Endpoint:
    chunk = b"x" * size

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield chunk

    async def endpoint(request: Request) -> Response:
        global runs
        runs += 1
        return StreamingResponse(chunks(), media_type="text/csv")

    return endpoint


def _prepared(size: int, count: int) -> Endpoint:
    body = b"x" * size * count

    async def endpoint(request: Request) -> Response:
        return Response(body, media_type="text/csv")

    return endpoint


async def _runs(request: Request) -> Response:
    return JSONResponse(runs)


def _routes() -> list[Route]:
    routes = [Route("/runs", _runs)]
    for name, shape in BODIES.items():
        routes.append(Route(f"/prepared/{name}", _prepared(*shape)))
        routes.append(Route(f"/uncached/{name}", _stream(*shape)))
        for store in ("memory", "redis"):
            url = "memory://" if store == "memory" else REDIS
            cached = stream_cached(ttl=600, cache=url)(_stream(*shape))
            routes.append(Route(f"/{store}/{name}", cached))
    return routes


app = Starlette(routes=_routes())
