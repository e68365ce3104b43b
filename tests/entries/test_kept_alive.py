"""Segments live as long as somebody has still to read them, however short the ttl is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from stream_cached import MemoryCache, stream_cached
from stream_cached.errors import LostStreamError
from tests.support import virtual_time
from tests.support.asgi import Exchange, get
from tests.support.runs import HIT, MISS
from tests.support.shared_cache import SharedCache

CHUNK = 250_000
COUNT = 20

#: Seconds that an entry lives; its segments live for a minute more.
TTL = 1.0

#: Seconds that a slow client takes for each part: for all of them, minutes.
SLOW = 10.0

COLLAPSED = "stream-cached; fwd=uri-miss; collapsed"

each_ttl = pytest.mark.parametrize(
    "ttl", [TTL, lambda response: TTL], ids=["of all", "told by the answer"]
)


class Slow(Exchange):
    """A client that takes its time for each part of a body."""

    seconds = SLOW

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        if message.get("body"):
            await asyncio.sleep(self.seconds)


class World:
    """One endpoint in two processes that share a store, and a clock that jumps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(time, "monotonic", loop.time)
        began, now = loop.time(), time.time()
        monkeypatch.setattr(time, "time", lambda: now + loop.time() - began)
        self.server = MemoryCache(clock=loop.time)
        self.gate = asyncio.Event()
        self.gate.set()
        self.bodies: list[bytes] = []
        self.apps = [self._app(**settings) for _ in range(2)]

    def _app(self, **settings: object) -> ASGIApp:
        cached = stream_cached(
            **{  # type: ignore[arg-type]
                "ttl": TTL,
                "cache": SharedCache(self.server),
                "max_ahead": "64KiB",
                "timeout": 5,
                # Those of two processes.
                "namespace": "world",
                **settings,
            }
        )
        return Starlette(routes=[Route("/", cached(self.endpoint))])

    async def endpoint(self, request: Request) -> Response:
        chunks = [bytes([len(self.bodies), number]) * (CHUNK // 2) for number in range(COUNT)]
        self.bodies.append(b"".join(chunks))

        async def body() -> AsyncIterator[bytes]:
            for number, chunk in enumerate(chunks):
                if number == COUNT // 2:
                    await self.gate.wait()
                yield chunk

        return StreamingResponse(body())

    def is_whole(self, exchange: Exchange) -> bool:
        return exchange.complete and exchange.body == self.bodies[0]


@pytest.mark.parametrize(
    "seconds",
    [
        SLOW,
        pytest.param(
            8 * SLOW,
            marks=pytest.mark.xfail(
                strict=True,
                raises=LostStreamError,
                reason="a replay renews them when it reads the next megabyte, and not in between",
            ),
        ),
    ],
)
@each_ttl
def test_while_they_are_replayed(
    monkeypatch: pytest.MonkeyPatch, ttl: object, seconds: float
) -> None:
    async def main() -> None:
        world = World(monkeypatch, ttl=ttl)
        assert (await get(world.apps[0])).cache_status == MISS
        slow = Slow(world.apps[0])
        slow.seconds = seconds
        await slow.run()
        assert slow.cache_status == HIT
        assert world.is_whole(slow)
        # Only they do: the entry itself is gone.
        assert (await get(world.apps[0])).cache_status == MISS

    virtual_time.run(main())


def test_while_their_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(monkeypatch)
        world.gate.clear()
        task = asyncio.create_task(get(world.apps[0]))
        await asyncio.sleep(300)
        world.gate.set()
        assert world.is_whole(await task)
        hit = await get(world.apps[0])
        assert hit.cache_status == HIT
        assert world.is_whole(hit)

    virtual_time.run(main())


@each_ttl
def test_while_somebody_reads_on_in_the_process_that_ran(
    monkeypatch: pytest.MonkeyPatch, ttl: object
) -> None:
    async def main() -> None:
        # There is no room in a temporary file.
        world = World(monkeypatch, spool_max=1, ttl=ttl)
        world.gate.clear()
        quick, slow = Exchange(world.apps[0]), Slow(world.apps[0])
        tasks = [asyncio.create_task(each.run()) for each in (quick, slow)]
        await slow.received.wait()
        world.gate.set()
        await tasks[0]
        assert world.is_whole(quick)
        await tasks[1]
        assert slow.cache_status == COLLAPSED
        assert world.is_whole(slow)

    virtual_time.run(main())


@each_ttl
@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside a quick one"])
def test_while_somebody_follows_in_another_process(
    monkeypatch: pytest.MonkeyPatch, beside: int, ttl: object
) -> None:
    async def main() -> None:
        world = World(monkeypatch, spool_max=1, ttl=ttl)
        world.gate.clear()
        leading, slow = Exchange(world.apps[0]), Slow(world.apps[1])
        quick = [leading, *(Exchange(world.apps[1]) for _ in range(beside))]
        tasks = []
        for each in (*quick, slow):
            tasks.append(asyncio.create_task(each.run()))
            await each.received.wait()
        world.gate.set()
        await asyncio.gather(*tasks[:-1])
        assert all(map(world.is_whole, quick))
        await tasks[-1]
        assert slow.cache_status == COLLAPSED
        assert world.is_whole(slow)

    virtual_time.run(main())
