"""What iterates over the body of a run that its call has joined gets the call's own body, too."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.engine.test_head_at_once import World, cookie, with_heads
from tests.support.asgi import Exchange
from tests.support.gates import Gate, run, runs_over, wait_until
from tests.support.http_client import RawClient

Endpoint = Callable[..., Awaitable[Response]]


def upper(endpoint: Endpoint) -> Endpoint:
    """Change the body of a response as it passes."""

    @functools.wraps(endpoint)
    async def changed(*args: Any, **kwargs: Any) -> Any:
        response: Any = await endpoint(*args, **kwargs)
        body = response.body_iterator

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in body:
                yield chunk.upper()

        response.body_iterator = chunks()
        return response

    return changed


class WithBackground(World):
    def __init__(self, first: Callable[[Request, int], bytes] | None) -> None:
        super().__init__(first)
        self.background: list[int] = []


async def opened() -> AsyncIterator[dict[str, bool]]:
    session = {"open": True}
    yield session
    session["open"] = False


def app(world: WithBackground, cache: str, around: Callable[[Endpoint], Endpoint]) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    @around
    @stream_cached(ttl=60, cache=cache, key_host=False, key_ignore=("session",))
    async def endpoint(
        request: Request,
        session: dict[str, bool] = Depends(opened),  # noqa: B008
    ) -> Response:
        response = await world.endpoint(request)
        response.background = BackgroundTask(world.background.append, world.runs)
        return response

    return app


@pytest.mark.parametrize("first", [None, cookie], ids=["shared", "private"])
def test_a_decorator_that_changes_the_body_has_the_right_one(
    serve: Serve, cache_url: str, first: Callable[[Request, int], bytes] | None
) -> None:
    world = WithBackground(first)
    server = serve(app(world, cache_url, upper))
    with with_heads(*[server.port] * 3) as clients:
        for gate in world.gates:
            gate.open()
        answers = [client.read_rest() for client in clients]
    own = [b"FOR %d\nTHE END\n" % number for number in range(3)]
    assert [each.body for each in answers] == (own if first else [b"RUN 1\nTHE END\n"] * 3)
    assert all(each.complete for each in answers)
    assert world.runs == (3 if first else 1)
    wait_until(lambda: len(world.background) == world.runs)


def test_the_request_stays_open_for_the_run_of_its_own(cache_url: str) -> None:
    """What belongs to the request is still there when the run is given up."""
    seen: list[bool] = []
    reached = Gate()
    world = World()
    application = FastAPI()

    @application.get("/")
    @upper
    @stream_cached(
        ttl=60,
        cache=cache_url,
        key_host=False,
        key_ignore=("session",),
        held_finish_timeout=0.1,
    )
    async def endpoint(
        request: Request,
        session: dict[str, bool] = Depends(opened),  # noqa: B008
    ) -> Response:
        world.runs += 1

        async def own() -> AsyncIterator[bytes]:
            try:
                yield b"own"
                reached.open()
                await Gate().passed()
            finally:
                await asyncio.sleep(0)
                seen.append(session["open"])

        chunks = world.chunks(request, 1) if world.runs == 1 else own()
        return StreamingResponse(chunks)

    async def test() -> None:
        exchanges = [Exchange(application) for _ in range(2)]
        tasks = []
        for exchange in exchanges:
            tasks.append(asyncio.create_task(exchange.run()))
            await exchange.begun.wait()
        tasks[0].cancel()
        await reached.passed()
        exchanges[1].left.set()
        await asyncio.wait(tasks)
        await runs_over()

    run(test)
    assert seen == [True]


def test_a_function_that_calls_a_cached_one_has_the_right_body(
    serve: Serve, cache_url: str
) -> None:
    world = World(cookie)
    inner = stream_cached(ttl=60, cache=cache_url, key_host=False)(world.endpoint)
    application = FastAPI()
    running = 0
    both = Gate()

    @application.get("/")
    async def endpoint(request: Request) -> Response:
        nonlocal running
        response: Any = await inner(request)
        running += 1
        if running == 2:
            both.open()
        return Response(b"".join([chunk async for chunk in response.body_iterator]))

    server = serve(application)
    with RawClient(server.port) as one, RawClient(server.port) as other:
        for number, client in enumerate((one, other)):
            client.send(headers={"Cookie": f"name={number}"})
        both.wait()
        assert world.runs == 1
        for gate in world.gates:
            gate.open()
        bodies = sorted(client.read_all().body for client in (one, other))
    assert bodies == [b"for 0\nthe end\n", b"for 1\nthe end\n"]


@pytest.mark.parametrize("first", [None, cookie], ids=["shared", "private"])
def test_a_wait_for_a_chunk_may_be_cancelled(
    cache_url: str, first: Callable[[Request, int], bytes] | None
) -> None:
    world = World(first)
    inner = stream_cached(ttl=60, cache=cache_url, key_host=False)(world.endpoint)
    application = FastAPI()
    leads = asyncio.Event()

    @application.get("/")
    async def endpoint(request: Request) -> Response:
        response: Any = await inner(request)
        body: AsyncIterator[bytes] = response.body_iterator
        if request.cookies["name"] == "1":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(body), 0.05)
            for gate in world.gates:
                gate.open()
        else:
            leads.set()
        return Response(b"".join([chunk async for chunk in body]))

    async def test() -> None:
        exchanges = [Exchange(application) for _ in range(2)]
        tasks = []
        for number, exchange in enumerate(exchanges):
            exchange.scope["headers"].append((b"cookie", b"name=%d" % number))
            tasks.append(asyncio.create_task(exchange.run()))
            await leads.wait()
        await asyncio.wait(tasks)
        bodies = [exchange.body for exchange in exchanges]
        assert bodies == (
            [b"for 0\nthe end\n", b"for 1\nthe end\n"] if first else [b"run 1\nthe end\n"] * 2
        )
        await runs_over()

    run(test)
