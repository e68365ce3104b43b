"""Thousands of runs, one after the other, leave nothing but their entries."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.runs.streaming import runs_here
from stream_cached.tasks import running_here
from tests.runs.test_lease import left
from tests.support.asgi import Exchange
from tests.support.keyspace import Keyspace
from tests.support.servers import RedisServer


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is open")
@pytest.mark.parametrize("kind", ["memory", pytest.param("redis", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "count", [300, pytest.param(3000, marks=[pytest.mark.full, pytest.mark.rest])]
)
def test_nothing_is_left_of_many_runs(
    redis_server: RedisServer, redis_url: str, namespace: str, kind: str, count: int
) -> None:
    url = redis_url if kind == "redis" else f"memory://?namespace={namespace}&max_bytes=200MiB"

    @stream_cached(ttl=600, cache=url)
    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([b"chunk"] * 3))

    app = Starlette(routes=[Route("/{name}", endpoint)])

    async def fly(number: int) -> None:
        exchanges = [Exchange(app, path=f"/{number}") for _ in range(2)]
        await asyncio.gather(*(exchange.run() for exchange in exchanges))
        assert all(exchange.complete for exchange in exchanges)

    async def main() -> None:
        for number in range(50):
            await fly(number)
        before = descriptors()
        for number in range(50, count):
            await fly(number)
        while running_here():
            await asyncio.wait(running_here())
        gc.collect()
        assert len(asyncio.all_tasks()) == 1
        assert not runs_here()
        # One connection more, perhaps.
        assert descriptors() <= before + 2

    asyncio.run(main())
    if kind == "redis":
        assert not left(Keyspace(redis_server.port).run("KEYS", "*"))
        # Their entries, and the version of the endpoint.
        assert len(Keyspace(redis_server.port).all()) == count + 1
