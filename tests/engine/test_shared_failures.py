"""A run that fails costs those who wait for it no more time than the one who runs it."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from stream_cached import stream_cached
from stream_cached.runs.claim import Claim
from tests.conftest import Serve
from tests.engine.test_collapse import Waiting
from tests.support.app_server import AppServer
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawResponse, fetch

CLIENTS = 6


class NotThereError(Exception):
    """One that the application answers."""


def raising(make: Callable[[], Exception]) -> Callable[[Request], Any]:
    def fails(request: Request) -> Any:
        raise make()

    return fails


def reading(fails: Callable[[Request], Any]) -> Callable[[Request], Any]:
    def reads(request: Request) -> Any:
        request.cookies.get("name")
        return fails(request)

    return reads


def varying(request: Request) -> Any:
    raise HTTPException(404, "none", {"Vary": "X-Name"})


#: Failures that may be shared, and the status that clients see.
SHARED: dict[str, tuple[Callable[[Request], Any], int]] = {
    "unhandled": (raising(ValueError), 500),
    "handled": (raising(NotThereError), 410),
    "an answer": (raising(lambda: HTTPException(404, "none", {"X-Why": "none"})), 404),
    "unavailable": (raising(lambda: HTTPException(503, "later", {"Retry-After": "7"})), 503),
    "a response": (lambda r: JSONResponse({"a": 1}, 503, {"Retry-After": "7"}), 503),
    "too many": (lambda r: JSONResponse({"detail": "slow down"}, 429), 429),
    "varies": (varying, 404),
}

#: Failures of one client alone.
PRIVATE: dict[str, tuple[Callable[[Request], Any], int]] = {
    "sets a cookie": (raising(lambda: HTTPException(404, "none", {"Set-Cookie": "a=b"})), 404),
    "private": (raising(lambda: HTTPException(404, "none", {"Cache-Control": "private"})), 404),
    "reads a cookie": (reading(raising(ValueError)), 500),
    "reads a cookie, and answers": (reading(raising(lambda: HTTPException(403))), 403),
    "a response with a cookie": (lambda r: Response("no", 503, {"Set-Cookie": "a=b"}), 503),
    "a response after a cookie": (reading(lambda r: Response("no", 503)), 503),
    "a stream": (lambda r: StreamingResponse(iter([b"no"]), 503), 503),
}


class World:
    """An endpoint that fails once a gate opens, in each of its runs."""

    def __init__(
        self, cache: str, fails: Callable[[Request], Any], *, is_async: bool, **settings: Any
    ) -> None:
        self.fails = fails
        self.runs = 0
        self.reached, self.gate = Gate(), Gate()
        self.cached = stream_cached(ttl=60, cache=cache, key_host=False, **settings)
        self.is_async = is_async
        self.handler: Any = lambda request, exc: Response("gone", 410)

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_exception_handler(NotThereError, self.handler)
        endpoint: Callable[..., Awaitable[Any]] | Callable[..., Any]
        endpoint = self._endpoint if self.is_async else self._sync_endpoint
        app.add_api_route("/", self.cached(endpoint), response_model=None)
        return app

    async def _endpoint(self, request: Request) -> Any:
        self.runs += 1
        self.reached.open()
        await self.gate.passed()
        return self.fails(request)

    def _sync_endpoint(self, request: Request) -> Any:
        self.runs += 1
        self.reached.open()
        self.gate.wait()
        return self.fails(request)


class Waiters:
    """How many requests wait for the run of another one, or have waited."""

    count = 0


@pytest.fixture
def waiters(monkeypatch: pytest.MonkeyPatch) -> Waiters:
    waiters, answered = Waiters(), Claim.answered

    async def counted(claim: Claim, seconds: float) -> bool:
        waiters.count += 1
        return await answered(claim, seconds)

    monkeypatch.setattr(Claim, "answered", counted)
    return waiters


def waiting_for(world: World, serve: Serve, waiters: Waiters) -> tuple[AppServer, Waiting]:
    """Let one request lead a run, and all others wait for it."""
    server = serve(world.app())
    waiting = Waiting(server.port, CLIENTS)
    world.reached.wait()
    wait_until(lambda: waiters.count == CLIENTS - 1)
    return server, waiting


def without_cache_status(answer: RawResponse) -> list[tuple[bytes, bytes]]:
    ours = (b"cache-status", b"date")
    return [(name, value) for name, value in answer.headers if name.lower() not in ours]


@pytest.mark.matrix("kind", "is_async")
@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_those_who_waited_share_a_failure(
    serve: Serve, cache_url: str, kind: str, is_async: bool, waiters: Waiters
) -> None:
    fails, status = SHARED[kind]
    world = World(cache_url, fails, is_async=is_async)
    server, waiting = waiting_for(world, serve, waiters)
    world.gate.open()
    answers = waiting.answers()
    assert [answer.status for answer in answers] == [status] * CLIENTS
    assert len({answer.body for answer in answers}) == 1
    assert len({tuple(without_cache_status(answer)) for answer in answers}) == 1
    assert world.runs == 1
    # The next request is not given it.
    assert fetch(server.port).status == status
    assert world.runs == 2


def broken(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        raise LookupError
        yield b""

    return StreamingResponse(body())


def test_those_who_waited_share_the_failure_of_a_generator(
    serve: Serve, cache_url: str, waiters: Waiters
) -> None:
    world = World(cache_url, broken, is_async=True)
    _, waiting = waiting_for(world, serve, waiters)
    world.gate.open()
    answers = waiting.answers()
    assert [(answer.body, answer.complete) for answer in answers] == [(b"", False)] * CLIENTS
    assert world.runs == 1


@pytest.mark.parametrize("kind", PRIVATE)
def test_what_could_not_be_shared_runs_side_by_side(
    serve: Serve, cache_url: str, kind: str, waiters: Waiters
) -> None:
    fails, status = PRIVATE[kind]
    world = World(cache_url, fails, is_async=True)
    _, waiting = waiting_for(world, serve, waiters)
    assert world.runs == 1
    first, world.gate = world.gate, Gate()
    first.open()
    wait_until(lambda: world.runs == CLIENTS)
    world.gate.open()
    assert [answer.status for answer in waiting.answers()] == [status] * CLIENTS


def test_a_variant_is_not_given_the_failure_of_another(
    serve: Serve, cache_url: str, waiters: Waiters
) -> None:
    world = World(cache_url, varying, is_async=True)
    server = serve(world.app())
    waiting = [Waiting(server.port, 1, headers={"X-Name": "a"})]
    world.reached.wait()
    waiting.append(Waiting(server.port, 1, headers={"X-Name": "a"}))
    waiting.append(Waiting(server.port, 1, headers={"X-Name": "b"}))
    wait_until(lambda: waiters.count == 2)
    world.gate.open()
    assert [answer.status for each in waiting for answer in each.answers()] == [404] * 3
    assert world.runs == 2


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_in_another_process_one_leads_and_its_neighbours_join(
    request: pytest.FixtureRequest, serve: Serve, namespace: str, kind: str, waiters: Waiters
) -> None:
    url = f"{request.getfixturevalue(f'{kind}_url')}?timeout=5"
    world = World(url, raising(ValueError), is_async=True, namespace=namespace)
    servers = [serve(world.app()) for _ in range(2)]
    waiting = [Waiting(servers[0].port, 1)]
    world.reached.wait()
    waiting.append(Waiting(servers[1].port, CLIENTS))
    # All but the one that waits for the other process.
    wait_until(lambda: waiters.count == CLIENTS - 1)
    world.gate.open()
    answers = [answer for each in waiting for answer in each.answers()]
    assert [answer.status for answer in answers] == [500] * (1 + CLIENTS)
    assert world.runs == 2


def test_a_failure_is_shared_without_its_background_task(
    serve: Serve, cache_url: str, waiters: Waiters
) -> None:
    done: list[int] = []

    def fails(request: Request) -> Any:
        return Response("no", 503, background=BackgroundTask(done.append, 1))

    world = World(cache_url, fails, is_async=True)
    _, waiting = waiting_for(world, serve, waiters)
    world.gate.open()
    assert [answer.status for answer in waiting.answers()] == [503] * CLIENTS
    assert world.runs == 1
    wait_until(lambda: done == [1])


def test_the_traceback_of_a_shared_exception_does_not_grow(
    serve: Serve, cache_url: str, waiters: Waiters
) -> None:
    lengths: list[int] = []

    def noted(request: Request, exc: Exception) -> Response:
        lengths.append(len(traceback.extract_tb(exc.__traceback__)))
        return Response("gone", 410)

    world = World(cache_url, raising(NotThereError), is_async=True)
    world.handler = noted
    _, waiting = waiting_for(world, serve, waiters)
    world.gate.open()
    assert [answer.status for answer in waiting.answers()] == [410] * CLIENTS
    assert max(lengths) <= max(lengths[0], 20)


@pytest.mark.parametrize("fails", [SHARED["too many"][0], raising(lambda: HTTPException(404))])
def test_one_failure_does_not_make_the_next_burst_a_stampede(
    serve: Serve, cache_url: str, fails: Callable[[Request], Any]
) -> None:
    answers = iter([fails])

    def once(request: Request) -> Any:
        return next(answers, lambda request: StreamingResponse(iter([b"whole"])))(request)

    world = World(cache_url, once, is_async=True)
    server = serve(world.app())
    world.gate.open()
    assert fetch(server.port).status in (404, 429)
    world.gate = Gate()
    waiting = Waiting(server.port, CLIENTS)
    wait_until(lambda: server.requests_running == CLIENTS)
    world.gate.open()
    assert [answer.body for answer in waiting.answers()] == [b"whole"] * CLIENTS
    assert world.runs == 2
