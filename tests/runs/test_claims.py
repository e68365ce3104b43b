"""A lease whose claim has failed, though it was taken, holds nobody up until it lapses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from stream_cached import MemoryCache, StoreError, stream_cached
from stream_cached.tasks import running_here
from tests.support import virtual_time
from tests.support.asgi import Exchange, get
from tests.support.runs import HIT
from tests.support.shared_cache import SharedCache

pytestmark = pytest.mark.usefixtures("apps_are_processes")

#: Seconds within which somebody else runs: fewer than a lease lives.
SOON = 1.0


class World:
    """One endpoint in two processes; the first claim in the first one fails once it is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(time, "monotonic", loop.time)
        self.how = how
        self.runs = 0
        self.gate = asyncio.Event()
        self.claimed = asyncio.Event()
        self.server = MemoryCache(clock=loop.time)
        self.apps: list[ASGIApp] = []
        for number in range(2):
            cache = SharedCache(self.server)
            if not number:
                cache.after = self.fail
            cached = stream_cached(ttl=60, cache=cache, timeout=20)
            self.apps.append(Starlette(routes=[Route("/", cached(self.endpoint))]))

    async def fail(self, name: str, keys: Sequence[str]) -> None:
        if self.claimed.is_set() or ":lease:" not in keys[0]:
            return
        if name == "_add":
            self.claimed.set()
            if self.how == "is cancelled":
                await asyncio.Event().wait()
            raise StoreError("the answer is lost")

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        run = self.runs

        async def body() -> AsyncIterator[bytes]:
            yield b"%d" % run
            if run == 1 and self.how != "is cancelled":
                await self.gate.wait()
            yield b"%d" % run

        return StreamingResponse(body())


@pytest.mark.parametrize("where", [0, 1], ids=["in the same process", "in another one"])
@pytest.mark.parametrize("how", ["raises", "is cancelled"])
def test_nobody_waits_for_a_lease_whose_claim_has_failed(
    monkeypatch: pytest.MonkeyPatch, how: str, where: int
) -> None:
    async def main() -> None:
        world = World(monkeypatch, how)
        loop = asyncio.get_running_loop()
        first = Exchange(world.apps[0])
        task = asyncio.create_task(first.run())
        await world.claimed.wait()
        if how == "is cancelled":
            task.cancel()
            await asyncio.wait([task])
            assert not first.sent
        else:
            # It runs without a lease, and is joined in its process only.
            await first.received.wait()
        began = loop.time()
        other = Exchange(world.apps[where])
        asking = asyncio.create_task(other.run())
        await other.received.wait()
        assert loop.time() - began < SOON
        world.gate.set()
        await asyncio.gather(task, asking, return_exceptions=True)
        assert other.complete
        runs = 2 if how == "raises" and where else 1
        assert world.runs == runs
        assert other.body == b"%d" % runs * 2
        while running_here():
            await asyncio.wait(running_here())
        # One that was released is there for a moment.
        await asyncio.sleep(0.01)
        assert not [key for key in world.server.sizes() if ":lease:" in key]
        assert (await get(world.apps[1 - where])).cache_status == HIT

    virtual_time.run(main())
