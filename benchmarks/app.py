"""The application that is measured: each body under each way of answering."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable

from cashews import Cache
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks.bodies import BODIES, MEDIA_TYPE, TEXT, Body
from stream_cached import health, stream_cached

REDIS = os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0")
TTL = 600

Endpoint = Callable[[Request], Awaitable[Response]]

runs = 0


def _stream(name: str, media_type: str = MEDIA_TYPE) -> Endpoint:
    # What the function holds is part of its key: the name, and not the body.
    async def chunks() -> AsyncIterator[bytes]:
        global runs
        runs += 1
        for chunk in BODIES[name].chunks:
            yield chunk

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(chunks(), media_type=media_type)

    return endpoint


def _prepared(body: Body) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(body.whole, media_type=MEDIA_TYPE)

    return endpoint


def _ours(stream: Endpoint, url: str) -> Endpoint:
    return stream_cached(ttl=TTL, cache=url)(stream)


def _cashews(url: str) -> Cache:
    cache = Cache()
    cache.setup(url)
    return cache


cashews_redis = _cashews(REDIS)


def _by_cashews(stream: Endpoint, cache: Cache) -> Endpoint:
    """Decorate a stream as the documentation of cashews has it."""
    endpoint: Endpoint = cache(ttl=TTL, key="{request.url}")(stream)
    return endpoint


def _ways(name: str, body: Body) -> dict[str, Endpoint]:
    redis = f"{REDIS}?namespace=benchmark"
    # The memory of cashews holds 1,000 keys unless told, and each chunk is one: room for two
    # bodies, one that is hit and one that is a miss. It visits all of them each second, so no more.
    room = max(1_000, 2 * body.count + 100)
    return {
        "prepared": _prepared(body),
        "uncached": _stream(name),
        "memory": _ours(_stream(name), "memory://"),
        "redis": _ours(_stream(name), redis),
        "cashews-memory": _by_cashews(_stream(name), _cashews(f"mem://?size={room}")),
        "cashews-redis": _by_cashews(_stream(name), cashews_redis),
        "text-redis": _ours(_stream(name, TEXT), redis),
        "text-cashews-redis": _by_cashews(_stream(name, TEXT), cashews_redis),
    }


async def _runs(request: Request) -> Response:
    """Say how many generators have begun to run."""
    return JSONResponse(runs)


async def _health(request: Request) -> Response:
    """Say of each store whether it is used, and for how many seconds that has been so."""
    return JSONResponse([[store.available, store.seconds] for store in health()])


def _routes() -> list[Route]:
    routes = [Route("/runs", _runs), Route("/health", _health)]
    for name, body in BODIES.items():
        routes += [Route(f"/{way}/{name}", endpoint) for way, endpoint in _ways(name, body).items()]
    return routes


app = Starlette(routes=_routes())
