"""When the call that leads a run returns: as without a cache, unless the run needs its request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import MemoryCache, stream_cached
from tests.conftest import Serve
from tests.request.test_disconnect import finish, leave
from tests.support.asgi import Exchange, get
from tests.support.gates import run, runs_over
from tests.support.http_client import RawClient

HIT = "stream-cached; hit"


class Held:
    """A FastAPI application whose endpoint needs a session that ends with the request."""

    def __init__(self, where: str, **settings: Any) -> None:
        self.log: list[str] = []
        self.go_on = asyncio.Event()
        decorate = stream_cached(ttl=60, cache=MemoryCache(), **settings)

        async def session() -> AsyncIterator[None]:
            try:
                yield
            finally:
                self.log.append("session closed")

        def plain() -> None:
            return None

        depends = [Depends(session)]
        self.app = FastAPI(dependencies=depends if where == "application" else [])
        router = APIRouter(dependencies=depends if where == "router" else [])
        if where == "override":
            self.app.dependency_overrides[plain] = session
        used = {"endpoint": depends, "override": [Depends(plain)]}.get(where, [])

        @router.get("/", dependencies=used)
        @decorate
        async def rows(request: Request) -> Response:
            return StreamingResponse(self.body())

        self.app.include_router(router)

    async def body(self) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await self.go_on.wait()
            yield b"last"
        finally:
            self.log.append("run over")


each_place = pytest.mark.parametrize("where", ["endpoint", "router", "application", "override"])


@each_place
def test_a_session_outlives_the_run_of_a_client_that_has_left(where: str) -> None:
    async def test() -> None:
        held = Held(where)
        request = await leave(Exchange(held.app))
        assert not request.done()
        held.go_on.set()
        await finish(request)
        assert held.log == ["run over", "session closed"]
        assert (await get(held.app)).cache_status == HIT

    run(test)


@each_place
def test_a_held_call_without_readers_ends_after_held_finish_timeout(where: str) -> None:
    async def test() -> None:
        held = Held(where, held_finish_timeout=0.05)
        await finish(await leave(Exchange(held.app)))
        assert held.log == ["run over", "session closed"]

    run(test)


@each_place
def test_a_held_call_that_is_cancelled_ends_and_gives_its_run_up(where: str) -> None:
    async def test() -> None:
        held = Held(where)
        exchange = Exchange(held.app)
        request = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        began = time.monotonic()
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        assert time.monotonic() - began < 1
        assert held.log == ["run over", "session closed"]

    run(test)


# -- a middleware that gives up --------------------------------------------------------------------


class GivesUp:
    """Gives each request a quarter of a second."""

    def __init__(self, app: ASGIApp, way: str) -> None:
        self.app, self.way = app, way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.way == "anyio":
            with anyio.fail_after(0.25):
                await self.app(scope, receive, send)
        elif self.way == "asyncio":
            async with asyncio.timeout(0.25):
                await self.app(scope, receive, send)
        else:
            await asyncio.wait_for(self.app(scope, receive, send), 0.25)


@pytest.mark.matrix("client", "is_cached")
@pytest.mark.parametrize("way", ["anyio", "asyncio", "wait_for"])
@pytest.mark.parametrize("client", ["leads", "joins"])
@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "plain"])
def test_a_middleware_that_gives_up_ends_the_connection(
    serve: Serve, cache_url: str, way: str, client: str, is_cached: bool
) -> None:
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for number in range(8):
                yield b"%d" % number
                await asyncio.sleep(0.25)

        return StreamingResponse(body())

    cached = stream_cached(ttl=60, cache=cache_url)(endpoint) if is_cached else endpoint
    middleware = [Middleware(GivesUp, way=way)]
    server = serve(Starlette(routes=[Route("/", cached)], middleware=middleware))
    with RawClient(server.port) as leader, RawClient(server.port) as other:
        asked = leader if client == "leads" else other
        leader.send()
        leader.read_head()
        if client == "joins":
            other.send()
            other.read_head()
        began = time.monotonic()
        asked.read_rest()
        took = time.monotonic() - began
    assert not asked.response.complete
    # The run itself takes two seconds.
    assert took < 1.5


# -- a session that only a middleware knows of -----------------------------------------------------

current: ContextVar[Any] = ContextVar("current")


class Session:
    is_open = True

    def rows(self) -> bytes:
        if not self.is_open:
            raise RuntimeError("the session is closed")
        return b"rows"


class Sessions:
    """Opens a session for each request, and closes it as the call returns."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = Session()
        token = current.set(session)
        try:
            await self.app(scope, receive, send)
        finally:
            session.is_open = False
            current.reset(token)


class OfMiddleware:
    """An endpoint that reads from the middleware's session after its first chunk."""

    def __init__(self, **settings: Any) -> None:
        self.runs = 0
        self.go_on = asyncio.Event()
        self.failures = 0
        decorate = stream_cached(**{"ttl": 60, "cache": MemoryCache(), **settings})

        async def endpoint(request: Request) -> Response:
            self.runs += 1
            return StreamingResponse(self.body())

        self.app = Starlette(
            routes=[Route("/", decorate(endpoint))], middleware=[Middleware(Sessions)]
        )

    async def body(self) -> AsyncIterator[bytes]:
        yield b"first "
        await self.go_on.wait()
        try:
            yield current.get().rows()
        except RuntimeError:
            self.failures += 1
            raise


def test_after_a_run_that_failed_because_its_call_had_ended_calls_are_held() -> None:
    async def test() -> None:
        world = OfMiddleware()
        request = await leave(Exchange(world.app))
        await asyncio.wait({request})
        world.go_on.set()
        await finish(request)
        assert world.failures == 1
        # The next call whose client leaves is held open until its run is over.
        world.go_on.clear()
        request = await leave(Exchange(world.app))
        assert not request.done()
        world.go_on.set()
        await finish(request)
        assert world.failures == 1
        assert (await get(world.app)).cache_status == HIT

    run(test)


@pytest.mark.parametrize("is_slow", [False, True], ids=["quick", "slow"])
def test_a_refresh_finds_the_session_of_its_middleware_open(
    monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    async def test() -> None:
        # A slow refresh outlives its call, and fails once.
        monkeypatch.setattr("stream_cached.engine.stale._CARRIED_FOR", 0.01 if is_slow else 5.0)
        world = OfMiddleware(ttl=0.05, stale_while_revalidate=60)
        world.go_on.set()
        await get(world.app)
        await asyncio.sleep(0.06)
        world.go_on.clear()
        request = asyncio.create_task(get(world.app))
        if is_slow:
            await request
        else:
            await asyncio.sleep(0.02)
        world.go_on.set()
        assert (await request).body == b"first rows"
        await runs_over()
        assert world.failures == (1 if is_slow else 0)
        if is_slow:
            # It is served stale once more, at once, and refreshed before its call returns.
            assert "ttl=-" in (await get(world.app)).cache_status
        assert world.failures == (1 if is_slow else 0)
        assert world.runs == (3 if is_slow else 2)

    run(test)
