"""A request that joins a run has its head as soon as the first client has, and what follows is its
own answer: that of the run or, if the run turns out not to be for it, that of its own run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.runs.streaming import runs_here
from tests.conftest import Serve
from tests.support.asgi import Exchange, get
from tests.support.clock import Clock
from tests.support.gates import Gate, run, runs_over, until, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.runs import HIT

CLIENTS = 6


class World:
    """An endpoint whose runs pass a gate before their first chunk, and another before the end."""

    def __init__(self, first: Callable[[Request, int], bytes] | None = None) -> None:
        self.first = first or (lambda request, run: b"run %d\n" % run)
        self.runs = 0
        self.gates = [Gate() for _ in range(CLIENTS + 1)]
        self.head: Callable[[int], dict[str, str]] = lambda run: {}

    async def chunks(self, request: Request, run: int) -> AsyncIterator[bytes]:
        await self.gates[run].passed()
        yield self.first(request, run)
        yield b"the end\n"

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        return StreamingResponse(
            self.chunks(request, self.runs), headers=self.head(self.runs), media_type="text/plain"
        )

    def app(self, cache: str, *middleware: Middleware, **settings: Any) -> Starlette:
        cached = stream_cached(ttl=60, cache=cache, key_host=False, **settings)(self.endpoint)
        routes = [Route("/", cached), Route("/plain", self.endpoint)]
        return Starlette(routes=routes, middleware=middleware)


def cookie(request: Request, run: int) -> bytes:
    return f"for {request.cookies['name']}\n".encode()


def raises(request: Request, run: int) -> bytes:
    raise LookupError("the table is gone")


def raises_for_one(request: Request, run: int) -> bytes:
    raise LookupError(request.cookies["name"])


@contextmanager
def with_heads(*ports: int) -> Iterator[list[RawClient]]:
    """Clients, one after the other, that have been sent their head."""
    with ExitStack() as stack:
        clients = []
        for number, port in enumerate(ports):
            clients.append(stack.enter_context(RawClient(port)))
            clients[-1].send(headers={"Cookie": f"name={number}"})
            assert clients[-1].read_head().status == 200
        yield clients


# -- the head -----------------------------------------------------------------------------------


def test_who_joins_has_the_head_before_the_first_chunk(serve: Serve, cache_url: str) -> None:
    world = World()
    server = serve(world.app(cache_url))
    with with_heads(*[server.port] * CLIENTS) as clients:
        world.gates[1].open()
        answers = [client.read_rest() for client in clients]
    assert [answer.body for answer in answers] == [b"run 1\nthe end\n"] * CLIENTS
    assert all(answer.complete for answer in answers)
    assert all("collapsed" in (answer.header("Cache-Status") or "") for answer in answers[1:])
    assert world.runs == 1


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_who_follows_another_process_has_it_too(
    request: pytest.FixtureRequest, serve: Serve, namespace: str, kind: str
) -> None:
    url = f"{request.getfixturevalue(f'{kind}_url')}?timeout=5"
    world = World()
    ports = [serve(world.app(url, namespace=namespace)).port for _ in range(2)]
    with with_heads(ports[0], ports[1], ports[1]) as clients:
        world.gates[1].open()
        bodies = [client.read_rest().body for client in clients]
    assert bodies == [b"run 1\nthe end\n"] * 3
    assert world.runs == 1


def test_a_middleware_waits_for_the_head_as_without_the_cache(serve: Serve, cache_url: str) -> None:
    async def limit(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await asyncio.wait_for(call_next(request), 0.5)
        except TimeoutError:
            return Response("it takes too long", 504)

    world = World()
    server = serve(world.app(cache_url, Middleware(BaseHTTPMiddleware, dispatch=limit)))
    with with_heads(*[server.port] * 3) as clients:
        world.gates[1].open()
        assert [client.read_rest().complete for client in clients] == [True] * 3


def test_a_head_request_that_joins_does_not_wait_for_the_first_chunk(
    serve: Serve, cache_url: str
) -> None:
    world = World()
    server = serve(world.app(cache_url))
    with with_heads(server.port) as [client]:
        assert fetch(server.port, method="HEAD").status == 200
        world.gates[1].open()
        assert client.read_rest().complete
    assert world.runs == 1


def test_a_client_that_leaves_with_only_its_head_leaves_nothing(cache_url: str) -> None:
    world = World()
    app = world.app(cache_url)

    async def test() -> None:
        leading, joined = Exchange(app), Exchange(app)
        tasks = [asyncio.create_task(each.run()) for each in (leading, joined)]
        await asyncio.gather(leading.begun.wait(), joined.begun.wait())
        joined.left.set()
        await tasks[1]
        world.gates[1].open()
        await tasks[0]
        await runs_over()
        assert leading.complete
        assert (await get(app)).cache_status == HIT

    run(test)
    assert world.runs == 1


# -- a run that is for one client only ----------------------------------------------------------


def test_each_goes_on_with_its_own_body_where_the_first_chunk_is_for_one(
    serve: Serve, cache_url: str
) -> None:
    world = World(cookie)
    server = serve(world.app(cache_url))
    with with_heads(*[server.port] * CLIENTS) as clients:
        for gate in world.gates:
            gate.open()
        answers = [client.read_rest() for client in clients]
    assert [answer.body for answer in answers] == [
        b"for %d\nthe end\n" % number for number in range(CLIENTS)
    ]
    assert all(answer.complete for answer in answers)
    assert world.runs == CLIENTS


def test_each_goes_on_also_behind_a_middleware_that_sends_it(serve: Serve, cache_url: str) -> None:
    async def passing(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Seen"] = "yes"
        return response

    world = World(cookie)
    server = serve(world.app(cache_url, Middleware(BaseHTTPMiddleware, dispatch=passing)))
    with with_heads(*[server.port] * 3) as clients:
        for gate in world.gates:
            gate.open()
        bodies = [client.read_rest().body for client in clients]
    assert bodies == [b"for %d\nthe end\n" % number for number in range(3)]


def test_each_goes_on_also_under_a_decorator_that_changes_the_head(
    serve: Serve, cache_url: str
) -> None:
    world = World(cookie)
    cached = stream_cached(ttl=60, cache=cache_url, key_host=False)(world.endpoint)

    async def endpoint(request: Request) -> Response:
        response: Response = await cached(request)
        response.headers["X-Name"] = request.cookies["name"]
        return response

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with with_heads(*[server.port] * 3) as clients:
        for gate in world.gates:
            gate.open()
        answers = [client.read_rest() for client in clients]
    assert [each.body for each in answers] == [b"for %d\nthe end\n" % number for number in range(3)]
    assert [each.header("X-Name") for each in answers] == ["0", "1", "2"]
    assert all(each.complete for each in answers)


@pytest.mark.parametrize("head", ["a header", "a length"])
def test_a_connection_breaks_only_where_its_own_head_is_another_one(
    serve: Serve, cache_url: str, head: str
) -> None:
    world = World(cookie)
    world.head = {
        "a header": lambda run: {"X-Run": str(run)},
        "a length": lambda run: {"Content-Length": str(14 + min(run - 1, 1))},
    }[head]
    server = serve(world.app(cache_url))
    with with_heads(server.port, server.port) as clients:
        for gate in world.gates:
            gate.open()
        first, joined = (client.read_rest() for client in clients)
    assert (first.body, first.complete) == (b"for 0\nthe end\n", True)
    assert (joined.body, joined.complete) == (b"", False)


def test_a_client_of_http_1_0_waits_for_the_head_that_is_its_own(
    serve: Serve, cache_url: str
) -> None:
    """By HTTP/1.0, a body that breaks off looks as if it were whole."""
    world = World(cookie)
    world.head = lambda run: {"X-Run": str(run)}
    server = serve(world.app(cache_url))
    with with_heads(server.port) as [first], RawClient(server.port) as joined:
        joined.send(headers={"Cookie": "name=1"}, version="1.0")
        wait_until(lambda: server.requests_running == 2)
        for gate in world.gates:
            gate.open()
        assert first.read_rest().body == b"for 0\nthe end\n"
        answer = joined.read_all()
    assert (answer.header("X-Run"), answer.body) == ("2", b"for 1\nthe end\n")


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_follower_goes_on_with_its_own_body(
    request: pytest.FixtureRequest, serve: Serve, namespace: str, kind: str
) -> None:
    url = f"{request.getfixturevalue(f'{kind}_url')}?timeout=5"
    world = World(cookie)
    ports = [serve(world.app(url, namespace=namespace)).port for _ in range(2)]
    with with_heads(*ports) as clients:
        for gate in world.gates:
            gate.open()
        answers = [client.read_rest() for client in clients]
    assert [answer.body for answer in answers] == [b"for 0\nthe end\n", b"for 1\nthe end\n"]
    assert all(answer.complete for answer in answers)


def test_a_first_chunk_of_no_bytes_is_no_beginning(serve: Serve, cache_url: str) -> None:
    """An endpoint may yield nothing first, to send its head."""

    class Flushing(World):
        async def chunks(self, request: Request, run: int) -> AsyncIterator[bytes]:
            yield b""
            async for chunk in super().chunks(request, run):
                yield chunk

    world = Flushing(cookie)
    server = serve(world.app(cache_url))
    with with_heads(*[server.port] * 3) as clients:
        for gate in world.gates:
            gate.open()
        answers = [client.read_rest() for client in clients]
    assert [each.body for each in answers] == [b"for %d\nthe end\n" % number for number in range(3)]
    assert all(each.complete for each in answers)


# -- a run that fails before its first chunk ------------------------------------------------------


def test_a_stream_that_fails_at_once_fails_for_all_who_joined(serve: Serve, cache_url: str) -> None:
    world = World(raises)
    server = serve(world.app(cache_url))
    with with_heads(*[server.port] * CLIENTS) as clients:
        world.gates[1].open()
        answers = [client.read_rest() for client in clients]
    assert [(answer.body, answer.complete) for answer in answers] == [(b"", False)] * CLIENTS
    assert world.runs == 1


def test_the_failure_of_a_stream_that_read_a_cookie_is_its_own(
    serve: Serve, cache_url: str
) -> None:
    world = World(raises_for_one)
    server = serve(world.app(cache_url))
    with with_heads(*[server.port] * 3) as clients:
        for gate in world.gates:
            gate.open()
        answers = [client.read_rest() for client in clients]
    assert [(answer.body, answer.complete) for answer in answers] == [(b"", False)] * 3
    assert world.runs == 3


def test_a_stale_entry_answers_who_joined_a_run_that_fails(
    serve: Serve, cache_url: str, clock: Clock
) -> None:
    world = World()
    server = serve(world.app(cache_url, stale_if_error=600))
    world.gates[1].open()
    whole = fetch(server.port).body
    clock.passed = 100
    world.first = raises
    with RawClient(server.port) as leading, RawClient(server.port) as joined:
        leading.send()
        wait_until(lambda: world.runs == 2)
        joined.send()
        world.gates[2].open()
        for client in (leading, joined):
            assert client.read_all().body == whole
    assert world.runs == 2


# -- a run that is lost before its first chunk ----------------------------------------------------


class Database:
    """A dependency that a request closes."""


async def open_database() -> AsyncIterator[Database]:
    yield Database()


def held(world: World, cache: str, **scope: Any) -> FastAPI:
    """An application whose runs need what belongs to their request."""
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60, cache=cache, key_ignore=("database",))
    async def endpoint(
        request: Request,
        database: Database = Depends(open_database, **scope),  # noqa: B008
    ) -> StreamingResponse:
        world.runs += 1
        return StreamingResponse(world.chunks(request, world.runs))

    return app


def test_who_joined_a_run_that_is_given_up_runs_the_endpoint_itself(cache_url: str) -> None:
    world = World()
    app = held(world, cache_url)

    async def test() -> None:
        exchanges = [Exchange(app) for _ in range(3)]
        tasks = [asyncio.create_task(each.run()) for each in exchanges]
        await asyncio.gather(*(each.begun.wait() for each in exchanges))
        assert world.runs == 1
        tasks[0].cancel()
        for gate in world.gates[2:]:
            gate.open()
        await asyncio.wait(tasks)
        for joined in exchanges[1:]:
            assert (joined.body, joined.complete) == (b"run 2\nthe end\n", True)
        await runs_over()

    run(test)
    # One of those who had joined leads, the other one joins again.
    assert world.runs == 2


@pytest.mark.parametrize("form", ["no content", "no length"])
def test_that_is_so_too_where_the_head_is_the_end(cache_url: str, form: str) -> None:
    world = World()
    app, reached = FastAPI(), Gate()
    status, headers = (204, {}) if form == "no content" else (200, {"Content-Length": "0"})

    async def nothing(run: int) -> AsyncIterator[bytes]:
        reached.open()
        await world.gates[run].passed()
        for chunk in list[bytes]():
            yield chunk

    @app.get("/")
    @stream_cached(ttl=60, cache=cache_url, key_ignore=("database",))
    async def endpoint(
        request: Request,
        database: Database = Depends(open_database),  # noqa: B008
    ) -> StreamingResponse:
        world.runs += 1
        return StreamingResponse(nothing(world.runs), status, headers)

    async def test() -> None:
        exchanges = [Exchange(app) for _ in range(3)]
        tasks = [asyncio.create_task(each.run()) for each in exchanges]
        await reached.passed()
        # The others join.
        await until(lambda: sum(len(each.stream.seats) for each in runs_here() if each.stream) == 3)
        tasks[0].cancel()
        for gate in world.gates[2:]:
            gate.open()
        await asyncio.wait(tasks)
        assert [each.sent[0]["status"] for each in exchanges[1:]] == [status] * 2
        assert all(each.complete for each in exchanges[1:])
        await runs_over()

    run(test)
    assert world.runs == 2


def test_the_head_waits_where_a_dependency_ends_before_the_response(cache_url: str) -> None:
    """The endpoint could not run any more once the head is sent."""
    world = World(cookie)
    app = held(world, cache_url, scope="function")

    async def test() -> None:
        exchanges = [Exchange(app) for _ in range(2)]
        for number, exchange in enumerate(exchanges):
            exchange.scope["headers"].append((b"cookie", b"name=%d" % number))
        tasks = [asyncio.create_task(exchanges[0].run())]
        await exchanges[0].begun.wait()
        tasks.append(asyncio.create_task(exchanges[1].run()))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not exchanges[1].sent
        for gate in world.gates:
            gate.open()
        await asyncio.wait(tasks)
        assert [each.body for each in exchanges] == [b"for 0\nthe end\n", b"for 1\nthe end\n"]

    run(test)


def test_past_wait_timeout_one_of_those_who_wait_leads_another_run(
    serve: Serve, cache_url: str
) -> None:
    world = World()
    server = serve(world.app(cache_url, wait_timeout=0.3))
    world.gates[2].open()
    with with_heads(*[server.port] * 3) as clients:
        bodies = [client.read_rest().body for client in clients[1:]]
        world.gates[1].open()
        assert clients[0].read_rest().body == b"run 1\nthe end\n"
    assert bodies == [b"run 2\nthe end\n"] * 2
    assert world.runs == 2
