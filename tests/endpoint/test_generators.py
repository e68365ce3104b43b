"""Functions over generators: what a call returns decides, and FastAPI gets what it expects."""

from __future__ import annotations

import functools
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import stream_cached
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS
from tests.support.versions import streams_generators


async def rows(n: int = 2) -> AsyncIterator[dict[str, int]]:
    for number in range(n):
        yield {"row": number}


def plain_rows(n: int = 2) -> Iterator[dict[str, int]]:
    for number in range(n):
        yield {"row": number}


class Rows:
    """A generator by its `__call__`."""

    async def __call__(self, n: int = 2) -> AsyncIterator[dict[str, int]]:
        for number in range(n):
            yield {"row": number}


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as many libraries write it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


GENERATORS: dict[str, Callable[..., Any]] = {
    "async": rows,
    "plain": plain_rows,
    "partial": functools.partial(rows, n=3),
    "twice": traced(rows),
}


@streams_generators
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_behind_a_decorator_is_streamed_past_the_cache(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    app.get("/plain")(traced(GENERATORS[kind]))
    app.get("/cached")(stream_cached(ttl=60)(traced(GENERATORS[kind])))
    with TestClient(app) as client:
        wanted = client.get("/plain")
        answers = [client.get("/cached") for _ in range(2)]
    assert wanted.status_code == 200
    assert wanted.text.count("row") in (1, 2, 3)
    for answer in answers:
        assert (answer.status_code, answer.headers) == (200, wanted.headers)
        assert answer.text == wanted.text
    (line,) = warnings(caplog)
    assert "returned an iterator" in line
    assert "StreamingResponse" in line


@streams_generators
def test_a_generator_by_its_call_is_streamed_past_the_cache() -> None:
    function = functools.update_wrapper(lambda n=2: Rows()(n), Rows())
    app = FastAPI()
    app.get("/")(stream_cached(ttl=60)(function))
    with TestClient(app) as client:
        assert [client.get("/").text.count("row") for _ in range(2)] == [2, 2]


@streams_generators
@pytest.mark.parametrize("function", [rows, plain_rows])
def test_a_response_class_over_a_generator_is_kept(function: Callable[..., Any]) -> None:
    @functools.wraps(function)
    def texts(n: int = 2) -> Any:
        return function(n)

    sse: Any = importlib.import_module("fastapi.sse")
    router = APIRouter()
    router.get("/sse", response_class=sse.EventSourceResponse)(stream_cached(ttl=60)(texts))
    app = FastAPI()
    app.include_router(router, prefix="/in")
    with TestClient(app) as client:
        answers = [client.get("/in/sse") for _ in range(2)]
    for answer in answers:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.count("data: ") == 2


@streams_generators
def test_raw_chunks_of_a_generator_are_streamed_past_the_cache() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    app = FastAPI()
    app.get("/", response_class=StreamingResponse)(stream_cached(ttl=60)(traced(chunks)))
    with TestClient(app) as client:
        assert [client.get("/").text for _ in range(2)] == ["one two"] * 2


@streams_generators
def test_a_generator_behind_a_decorator_gets_its_arguments_and_may_refuse() -> None:
    @traced
    async def limited(n: int) -> AsyncIterator[str]:
        yield f"{n} rows"

    @functools.wraps(limited)
    def guarded(n: int) -> Any:
        if n > 9:
            raise HTTPException(403)
        return limited(n)

    app = FastAPI()
    app.get("/")(stream_cached(ttl=60)(guarded))
    with TestClient(app) as client:
        assert "3 rows" in client.get("/?n=3").text
        assert client.get("/?n=10").status_code == 403


def test_a_coroutine_function_over_a_generator_is_awaited_by_both_frameworks() -> None:
    runs: list[int] = []

    async def chunks(request: Request) -> AsyncIterator[bytes]:
        runs.append(1)
        yield b"one "
        yield b"two"

    @functools.wraps(chunks)
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(chunks(request))

    apps: list[Any] = [Starlette(routes=[Route("/", stream_cached(ttl=60)(endpoint))]), FastAPI()]
    apps[1].get("/")(stream_cached(ttl=60)(endpoint))
    for app in apps:
        runs.clear()
        with TestClient(app) as client:
            answers = [client.get("/") for _ in range(2)]
        assert [answer.text for answer in answers] == ["one two"] * 2
        assert [answer.headers["cache-status"] for answer in answers] == [MISS, HIT]
        assert runs == [1]


def test_a_plain_function_over_a_generator_may_return_a_response() -> None:
    def chunks(request: Request) -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    @functools.wraps(chunks)
    def function(request: Request) -> Response:
        return StreamingResponse(chunks(request))

    class Page(HTTPEndpoint):
        @stream_cached(ttl=60, noself=True)
        @functools.wraps(chunks)
        def get(self, request: Request) -> Response:
            return StreamingResponse(chunks(request))

    twice = stream_cached(ttl=60)(stream_cached(ttl=60)(function))
    routes: list[Any] = [stream_cached(ttl=60)(function), twice, Page]
    for endpoint in routes:
        with TestClient(Starlette(routes=[Route("/", endpoint)])) as client:
            answers = [client.get("/") for _ in range(2)]
        assert [answer.text for answer in answers] == ["one two"] * 2
        assert answers[1].headers["cache-status"].endswith(HIT)


@streams_generators
@pytest.mark.parametrize("is_async", [True, False])
def test_a_dependency_with_yield_behind_a_decorator_goes_on_to_work(is_async: bool) -> None:
    said: list[str] = []

    async def session(n: int = 1) -> AsyncIterator[str]:
        yield f"session {n}"
        said.append("closed")

    def plain_session(n: int = 1) -> Iterator[str]:
        yield f"session {n}"
        said.append("closed")

    dependency = stream_cached(ttl=60)(traced(session if is_async else plain_session))
    app = FastAPI()

    async def endpoint(given: str = Depends(dependency)) -> str:
        return given

    app.get("/")(endpoint)
    with TestClient(app) as client:
        assert client.get("/?n=7").json() == "session 7"
    assert said == ["closed"]
