"""A client that leaves, under ASGI 2.3 and 2.4: the run goes on, and the request outlives it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.support.asgi import Exchange, get
from tests.support.gates import run, runs_over

HIT = "stream-cached; hit"
ROWS = [b"row %d\n" % number for number in range(10)]

each_version = pytest.mark.parametrize("version", ["2.3", "2.4"])


async def pass_through(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


LAYERS = {
    "bare": [],
    "behind BaseHTTPMiddleware": [Middleware(BaseHTTPMiddleware, dispatch=pass_through)],
    "behind three BaseHTTPMiddleware": [Middleware(BaseHTTPMiddleware, dispatch=pass_through)] * 3,
}
each_stack = pytest.mark.parametrize("middleware", LAYERS.values(), ids=LAYERS)


class Rows:
    """An endpoint that stops, as many do, once `is_disconnected()` says so. Held after row 3."""

    def __init__(self, headers: dict[str, str] | None = None, sse: bool = False) -> None:
        self.headers = headers
        self.sse = sse
        self.runs = 0
        self.noticed = asyncio.Event()
        self.go_on = asyncio.Event()
        self.closed = asyncio.Event()
        self.log: list[str] = []

    async def __call__(self, request: Request) -> Response:
        self.runs += 1

        async def body() -> AsyncIterator[Any]:
            try:
                for number, row in enumerate(ROWS):
                    if await request.is_disconnected():
                        self.noticed.set()
                        return
                    yield {"data": row.decode()} if self.sse else row
                    if number == 3:
                        await self.go_on.wait()
            finally:
                self.closed.set()
                self.log.append("run over")

        if self.sse:
            return EventSourceResponse(body(), headers={"Cache-Control": "max-age=9"})

        async def after() -> None:
            self.log.append("background")

        return StreamingResponse(body(), headers=self.headers, background=BackgroundTask(after))

    def app(self, middleware: list[Middleware] | None = None, **settings: Any) -> Starlette:
        cached = stream_cached(**{"ttl": 60, "cache": memory(), **settings})(self.__call__)
        return Starlette(routes=[Route("/", cached)], middleware=middleware)


def memory() -> str:
    """A store that no other test has: equal URLs share one."""
    memory.number += 1  # type: ignore[attr-defined]
    return f"memory://?max_bytes={(1 << 26) + memory.number}"  # type: ignore[attr-defined]


memory.number = 1000  # type: ignore[attr-defined]


async def leave(exchange: Exchange) -> asyncio.Task[None]:
    """Begin the request, and leave once something of the body has come."""
    request = asyncio.create_task(exchange.run())
    await exchange.received.wait()
    exchange.left.set()
    for _ in range(50):
        await asyncio.sleep(0)
    return request


async def finish(request: asyncio.Task[None]) -> None:
    """Wait for the call and for its run, which may outlive it."""
    with contextlib.suppress(ClientDisconnect, OSError):
        await request
    await runs_over()


@each_version
@each_stack
@pytest.mark.parametrize("sse", [False, True], ids=["stream", "sse"])
def test_an_endpoint_that_asks_for_its_client_is_not_told_that_he_left(
    version: str, middleware: list[Middleware], sse: bool
) -> None:
    async def test() -> None:
        rows = Rows(sse=sse)
        app = rows.app(middleware)
        request = await leave(Exchange(app, version))
        rows.go_on.set()
        await finish(request)
        hit = await get(app)

        assert not rows.noticed.is_set()
        assert rows.runs == 1
        assert hit.cache_status == HIT
        assert hit.complete
        assert hit.body.count(b"row") == len(ROWS)
        assert sse or hit.body == b"".join(ROWS)

    run(test)


@pytest.mark.parametrize(
    ("headers", "settings"),
    [
        ({"Set-Cookie": "a=b"}, {}),
        ({"Cache-Control": "no-store"}, {}),
        (None, {"max_body": 10}),
        (None, {"methods": ("POST",)}),
        (None, {"skip_cache_func": lambda response: True}),
    ],
    ids=["cookie", "no-store", "over the limit", "method", "skipped"],
)
def test_an_endpoint_that_is_not_recorded_sees_that_its_client_left(
    headers: dict[str, str] | None, settings: dict[str, Any]
) -> None:
    async def test() -> None:
        rows = Rows(headers)
        seen: list[bool] = []

        async def watching(request: Request) -> Response:
            await request.body()  # what comes first is the request itself

            async def body() -> AsyncIterator[bytes]:
                yield b"a long first row"
                await rows.go_on.wait()
                seen.append(await request.is_disconnected())
                yield b"end"

            return StreamingResponse(body(), headers=headers)

        app = Starlette(
            routes=[Route("/", stream_cached(ttl=9, cache=memory(), **settings)(watching))]
        )
        exchange = Exchange(app, "2.4")
        request = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        exchange.left.set()
        rows.go_on.set()
        await finish(request)
        assert seen == [True]

    run(test)


@each_version
@each_stack
def test_the_call_returns_when_its_client_has_left_and_the_run_goes_on(
    version: str, middleware: list[Middleware]
) -> None:
    async def test() -> None:
        rows = Rows()
        request = await leave(Exchange(rows.app(middleware), version))
        if version == "2.3":
            # From 2.4 on, sending shows that the client has left.
            await asyncio.wait({request})
        assert not rows.closed.is_set()
        rows.go_on.set()
        await finish(request)
        assert rows.closed.is_set()
        assert rows.log == ["run over", "background"]

    run(test)


@each_version
def test_the_call_returns_where_a_scope_cancels_it_and_the_run_goes_on(
    version: str,
) -> None:
    async def test() -> None:
        rows = Rows()
        app = rows.app()
        exchange = Exchange(app, version)
        returned = asyncio.Event()

        async def request() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await exchange.run()
            returned.set()

        scopes: list[anyio.CancelScope] = []
        task = asyncio.create_task(request())
        await exchange.received.wait()
        scopes[0].cancel()
        await task
        assert returned.is_set()
        assert not rows.closed.is_set()
        rows.go_on.set()
        await finish(task)
        assert rows.log == ["run over", "background"]
        assert (await get(app)).body == b"".join(ROWS)

    run(test)


@each_version
def test_a_wrapper_round_the_body_of_a_miss_does_not_end_the_run_either(version: str) -> None:
    async def test() -> None:
        rows = Rows()
        cached = stream_cached(ttl=60, cache=memory())(rows.__call__)

        async def upper(request: Request) -> Response:
            response = await cached(request)
            assert isinstance(response, StreamingResponse)
            iterator = response.body_iterator

            async def shout() -> AsyncIterator[bytes]:
                async for chunk in iterator:
                    assert isinstance(chunk, bytes)
                    yield chunk.upper()

            response.body_iterator = shout()
            return response

        app = Starlette(routes=[Route("/", upper)])
        request = await leave(Exchange(app, version))
        rows.go_on.set()
        await finish(request)
        hit = await get(app)
        assert rows.runs == 1
        assert hit.body == b"".join(ROWS).upper()

    run(test)


@each_version
def test_the_run_is_given_up_after_finish_timeout(version: str) -> None:
    async def test() -> None:
        rows = Rows()
        app = rows.app(finish_timeout=0.05)
        await finish(await leave(Exchange(app, version)))
        assert rows.closed.is_set()
        assert rows.log == ["run over"]
        rows.go_on.set()
        assert (await get(app)).body == b"".join(ROWS)
        assert rows.runs == 2

    run(test)


# -- what belongs to a request ---------------------------------------------------------------------


class Shop:
    """A FastAPI app with a session from a `yield` dependency, and background tasks of all kinds."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.go_on = asyncio.Event()
        self.app = FastAPI()

        async def session() -> AsyncIterator[list[str]]:
            self.log.append("session opened")
            try:
                yield self.log
            finally:
                self.log.append("session closed")

        def counted(tasks: BackgroundTasks) -> None:
            tasks.add_task(self.log.append, "task of the request")

        @self.app.get("/")
        @stream_cached(ttl=60, cache=memory(), key="shop")
        async def rows(
            tasks: BackgroundTasks,
            session: list[str] = Depends(session),  # noqa: B008
            _: None = Depends(counted),
        ) -> Response:
            tasks.add_task(self.log.append, "task of the endpoint")

            async def body() -> AsyncIterator[bytes]:
                yield b"first"
                await self.go_on.wait()
                session.append("run over")
                yield b"last"

            return StreamingResponse(
                body(), background=BackgroundTask(self.log.append, "task of the response")
            )


@each_version
def test_a_session_is_closed_after_the_run_though_its_client_has_left(version: str) -> None:
    async def test() -> None:
        shop = Shop()
        request = await leave(Exchange(shop.app, version))
        shop.go_on.set()
        await finish(request)
        assert shop.log.index("run over") < shop.log.index("session closed")
        assert shop.log.count("task of the response") == 1
        assert (await get(shop.app)).cache_status == HIT

    run(test)


def test_tasks_of_the_endpoint_run_once_a_run_and_those_of_dependencies_once_a_request() -> None:
    async def test() -> None:
        shop = Shop()
        shop.go_on.set()
        for _ in range(3):
            assert (await get(shop.app)).body == b"firstlast"
        assert shop.log.count("run over") == 1
        assert shop.log.count("task of the response") == 1
        assert shop.log.count("session closed") == 3
        assert shop.log.count("task of the endpoint") == 1
        assert shop.log.count("task of the request") == 3

    run(test)


def test_a_background_task_of_a_response_that_is_no_stream_runs_once_a_run() -> None:
    async def test() -> None:
        log: list[str] = []

        async def endpoint(request: Request) -> Response:
            return Response(b"x", background=BackgroundTask(log.append, "done"))

        app = Starlette(routes=[Route("/", stream_cached(ttl=9, cache=memory())(endpoint))])
        for _ in range(3):
            await get(app)
        assert log == ["done"]

    run(test)


@pytest.mark.parametrize(
    ("headers", "parts"),
    [([], []), ([(b"content-length", b"7")], [b"cut"]), ([(b"transfer-encoding", b"chunked")], [])],
    ids=["no body", "a part of a body", "no part of a body"],
)
def test_an_endpoint_does_not_wait_for_a_body_that_will_never_come(
    headers: list[tuple[bytes, bytes]], parts: list[bytes]
) -> None:
    said: list[bytes | str] = []

    async def reads(request: Request) -> Response:
        try:
            said.append(await request.body())
        except ClientDisconnect:
            said.append("left")
        return Response(b"whole")

    async def test() -> None:
        cached = stream_cached(ttl=9, cache=memory(), methods=("GET",))(reads)
        exchange = Exchange(Starlette(routes=[Route("/", cached)]))
        exchange.scope["headers"] += headers
        messages = iter({"type": "http.request", "body": p, "more_body": True} for p in parts)

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        async with asyncio.timeout(2):
            with contextlib.suppress(ClientDisconnect):
                await exchange.app(exchange.scope, receive, exchange._send)

    run(test)
    # A request without a body has an empty one, whether its client is there or not.
    assert said == ([b""] if not headers else ["left"] * len(said))
