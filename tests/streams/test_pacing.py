"""Chunks as large as `max_ahead`, or larger: the source is paced, and goes on to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from stream_cached import MemoryCache, stream_cached
from tests.support.asgi import Exchange, get
from tests.support.gates import run, runs_over
from tests.support.runs import HIT

MAX_AHEAD = 100_000
COUNT = 16

each_size = pytest.mark.parametrize(
    "size",
    [MAX_AHEAD, MAX_AHEAD + 1, 4 * MAX_AHEAD, pytest.param(10 * MAX_AHEAD, marks=pytest.mark.full)],
)

#: Chunks that may be stored: with a few, the body turns out to be too large.
each_limit = pytest.mark.parametrize("limit", [COUNT, 2], ids=["stored", "not stored"])


class Chunk(bytes):
    """A chunk that says when memory no longer holds it."""

    source: Source

    def __del__(self) -> None:
        self.source.live -= 1


class Source:
    """A stream of large chunks, each of them another one, that never waits by itself."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.made = 0
        self.live = self.most = 0
        """How many chunks memory holds, and has held at once."""
        self.runs = 0
        self.closed = asyncio.Event()
        cached = stream_cached(
            ttl=60,
            cache=MemoryCache(max_bytes=512 << 20),
            max_ahead=MAX_AHEAD,
            max_body=limit * size,
            replay="exact",
        )
        self.app = Starlette(routes=[Route("/", cached(self.endpoint))])

    def body(self) -> bytes:
        return b"".join(self.chunk(number) for number in range(COUNT))

    def keeps_to_max_ahead(self) -> None:
        """See that memory has held twice that, and what was being made, stored and sent."""
        assert self.most <= 2 * MAX_AHEAD // self.size + 3

    def chunk(self, number: int) -> bytes:
        return bytes([number]) * self.size

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1

        async def chunks() -> AsyncIterator[bytes]:
            try:
                for number in range(COUNT):
                    self.made += 1
                    chunk = Chunk(self.chunk(number))
                    chunk.source = self
                    self.live += 1
                    self.most = max(self.most, self.live)
                    yield chunk
                    del chunk
            finally:
                self.closed.set()

        return StreamingResponse(chunks())


class Held(Exchange):
    """A client that takes a part of the body whenever it is permitted one, and may forget it."""

    def __init__(self, app: Starlette, *, forgets: bool = False) -> None:
        super().__init__(app)
        self.forgets = forgets
        self.size = 0
        self._permits = asyncio.Semaphore(0)
        self._is_held = True

    def take(self) -> None:
        """Take one part."""
        self._permits.release()

    def take_all(self) -> None:
        """Take whatever comes."""
        self._is_held = False
        self._permits.release()

    async def _send(self, message: Message) -> None:
        size = len(message.get("body", b""))
        if size and self._is_held:
            await self._permits.acquire()
        self.size += size
        await super()._send({**message, "body": b""} if size and self.forgets else message)


async def until_nothing_goes_on(source: Source) -> None:
    """Wait until the source stands still."""
    seen = -1
    while seen != source.made:
        seen = source.made
        for _ in range(200):
            await asyncio.sleep(0)
        # What the store is given may take it that long.
        await asyncio.sleep(0.01)


@pytest.mark.matrix
@each_size
@each_limit
def test_a_source_waits_for_a_client_that_is_slow_and_goes_on(size: int, limit: int) -> None:
    async def test() -> None:
        source = Source(size, limit)
        exchange = Held(source.app)
        task = asyncio.create_task(exchange.run())
        for taken in range(4):
            await until_nothing_goes_on(source)
            # The one that is being sent, and the one that is max_ahead, or more, by itself.
            assert source.made == taken + 2
            exchange.take()
        exchange.take_all()
        await task
        assert exchange.complete
        assert exchange.body == source.body()
        if limit == COUNT:
            assert (await get(source.app)).cache_status == HIT
            assert source.runs == 1

    run(test)


@pytest.mark.matrix
@each_size
@each_limit
def test_memory_is_bounded_by_max_ahead_though_one_client_takes_nothing(
    size: int, limit: int
) -> None:
    async def test() -> None:
        source = Source(size, limit)
        quick, slow = (Held(source.app, forgets=True) for _ in range(2))
        tasks = [asyncio.create_task(each.run()) for each in (quick, slow)]
        await until_nothing_goes_on(source)
        quick.take_all()
        await tasks[0]
        assert source.made == COUNT
        source.keeps_to_max_ahead()
        slow.take_all()
        await tasks[1]
        for each in (quick, slow):
            assert (each.complete, each.size) == (True, size * COUNT)
        assert source.runs == 1

    run(test)


@each_size
def test_a_run_that_only_the_store_reads_is_paced_by_it_and_stored(size: int) -> None:
    async def test() -> None:
        source = Source(size, COUNT)
        exchange = Held(source.app)
        task = asyncio.create_task(exchange.run())
        await until_nothing_goes_on(source)
        exchange.left.set()
        exchange.take_all()
        await task
        await runs_over()
        source.keeps_to_max_ahead()
        hit = await get(source.app)
        assert (hit.cache_status, hit.body == source.body()) == (HIT, True)
        assert source.runs == 1

    run(test)


@pytest.mark.parametrize("max_pending", [262_080, 2_000_000])
@pytest.mark.parametrize("size", [20_000, 262_000, 1_500_000])
def test_a_store_has_its_turns_however_far_the_source_may_be_ahead(
    size: int, max_pending: int
) -> None:
    async def test() -> None:
        @stream_cached(ttl=60, cache=MemoryCache(), max_ahead="4MiB", max_pending=max_pending)
        async def endpoint(request: Request) -> Response:
            async def chunks() -> AsyncIterator[bytes]:
                for number in range(6_000_000 // size):
                    yield bytes([number % 256]) * size

            return StreamingResponse(chunks(), media_type="text/csv")

        app = Starlette(routes=[Route("/", endpoint)])
        miss = await get(app)
        await runs_over()
        hit = await get(app)
        assert (hit.cache_status, hit.body == miss.body) == (HIT, True)

    run(test)


@pytest.mark.parametrize(("max_ahead", "empty"), [(1, 3), (1000, 50), (1000, 5)])
def test_empty_chunks_do_not_wait_for_who_joins_and_reads_nothing_before_there_are_bytes(
    max_ahead: int, empty: int
) -> None:
    async def test() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @stream_cached(ttl=60, cache=MemoryCache(), max_ahead=max_ahead, etag=False)
        async def endpoint(request: Request) -> Response:
            async def chunks() -> AsyncIterator[bytes]:
                begun.set()
                await go_on.wait()
                for _ in range(empty):
                    await asyncio.sleep(0)
                    yield b""
                yield b"body"

            return StreamingResponse(chunks(), media_type="text/csv")

        app = Starlette(routes=[Route("/", endpoint)])
        leader, joins = Exchange(app), Exchange(app)
        leading, joining = asyncio.create_task(leader.run()), asyncio.create_task(joins.run())
        await begun.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        leading.cancel()
        go_on.set()
        await joining
        assert joins.body == b"body"
        assert joins.complete

    run(test)
