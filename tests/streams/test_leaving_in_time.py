"""Who comes while a run goes on for nobody keeps it from being cut when that time is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from tests.support import virtual_time
from tests.support.asgi import Exchange, get
from tests.support.runs import HIT, MISS

FINISH = 30.0


class Held:
    """An endpoint whose first run waits after its first chunk."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()
        self.closed = asyncio.Event()
        cached = stream_cached(ttl=60, cache=MemoryCache(), finish_timeout=FINISH)
        self.app = Starlette(routes=[Route("/", cached(self.endpoint))])

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        run = self.runs

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"first "
                if run == 1:
                    await self.gate.wait()
                yield b"last"
            finally:
                if run == 1:
                    self.closed.set()

        return StreamingResponse(body())

    async def begin(self) -> tuple[Exchange, asyncio.Task[None]]:
        """Ask, and wait for the first byte."""
        exchange = Exchange(self.app)
        task = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        return exchange, task


async def leave(exchange: Exchange) -> None:
    exchange.left.set()
    # Until that is noticed.
    await asyncio.sleep(1)


def test_a_reader_that_joins_meanwhile_is_given_the_rest_after_that_time() -> None:
    async def main() -> None:
        held = Held()
        first, task = await held.begin()
        await leave(first)
        joining, joined = await held.begin()
        await asyncio.sleep(10 * FINISH)
        assert not held.closed.is_set()
        held.gate.set()
        await joined
        assert joining.complete
        assert joining.body == b"first last"
        await task
        assert (await get(held.app)).cache_status == HIT
        assert held.runs == 1

    virtual_time.run(main())


@pytest.mark.parametrize("comes_after", [1.0, FINISH - 2])
def test_the_time_begins_again_when_the_last_one_leaves(comes_after: float) -> None:
    async def main() -> None:
        held = Held()
        first, task = await held.begin()
        await leave(first)
        await asyncio.sleep(comes_after)
        joining, joined = await held.begin()
        await leave(joining)
        await joined
        await asyncio.sleep(FINISH - 2)
        assert not held.closed.is_set()
        await asyncio.sleep(2)
        assert held.closed.is_set()
        await task
        following = await get(held.app)
        assert (following.cache_status, following.body) == (MISS, b"first last")
        assert held.runs == 2

    virtual_time.run(main())
