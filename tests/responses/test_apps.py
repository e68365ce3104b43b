"""ASGI applications that an endpoint returns: they are recorded by their messages."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.responses.app import AppResponse, as_response
from tests.conftest import Serve
from tests.support.asgi import get
from tests.support.gates import Gate
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS


class Chunks:
    """A response as other libraries write one: an ASGI app over an iterator."""

    def __init__(
        self, chunks: AsyncIterator[bytes], status: int = 200, headers: Any = (), name: str = ""
    ) -> None:
        self.chunks, self.status, self.headers, self.name = chunks, status, headers, name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/csv"), *self.headers]
        start = {"type": "http.response.start", "status": self.status, "headers": headers}
        await send(start)
        async for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Runs:
    """An endpoint whose every run has another body."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.bodies: list[bytes] = []
        self.gate, self.reached = Gate(), Gate()
        self.gate.open()

    async def __call__(self, request: Request) -> Any:
        body = b"run %d, " % len(self.bodies)
        self.bodies.append(body * 3)

        async def chunks() -> AsyncIterator[bytes]:
            yield body
            self.reached.open()
            await self.gate.passed()
            yield body
            yield body

        return Chunks(chunks(), **self.settings)

    def app(self, **settings: Any) -> Starlette:
        cached = stream_cached(**{"ttl": 60, **settings})(self.__call__)
        return Starlette(routes=[Route("/", cached, methods=["GET", "POST"])])


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_an_application_is_stored_and_served_whole(serve: Serve, cache_url: str) -> None:
    runs = Runs(status=203, headers=[(b"x-a", b"b")])
    port = serve(runs.app(cache=cache_url)).port
    miss, hit = fetch(port), fetch(port)
    for answer, status in ((miss, MISS), (hit, HIT)):
        assert (answer.status, answer.complete, answer.body) == (203, True, runs.bodies[0])
        assert (answer.header("content-type"), answer.header("x-a")) == ("text/csv", "b")
        assert answer.header("cache-status") == status
    assert fetch(port, method="HEAD").header("cache-status") == HIT
    assert len(runs.bodies) == 1


def test_those_who_ask_at_once_share_one_run(serve: Serve, cache_url: str) -> None:
    runs = Runs()
    runs.gate = Gate()
    server = serve(runs.app(cache=cache_url))
    with RawClient(server.port) as client:
        client.send()
        # Each chunk is sent when it is made.
        client.read_until(len(b"run 0, "))
        runs.gate.open()
        assert client.read_all().body == runs.bodies[0]
    assert {answer.body for answer in fetch_many(server.port, count=4)} == {runs.bodies[0]}
    assert len(runs.bodies) == 1


def test_what_is_not_stored_is_sent_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        runs = Runs(headers=[(b"set-cookie", b"a=b")])
        for number in range(2):
            answer = await get(runs.app())
            assert answer.body == runs.bodies[number]
            assert answer.cache_status == 'stream-cached; fwd=uri-miss; detail="set-cookie"'
            assert (b"set-cookie", b"a=b") in answer.sent[0]["headers"]

    run(test)
    assert "sets a cookie" in warnings(caplog)[0]


@pytest.mark.parametrize("settings", [{"skip_cache_func": bool}, {"methods": ("POST",)}])
def test_what_passes_by_has_a_cache_status(settings: dict[str, Any]) -> None:
    async def test() -> None:
        runs = Runs()
        app = runs.app(**settings)
        for number in range(2):
            answer = await get(app)
            assert answer.body == runs.bodies[number]
            assert "stored" not in answer.cache_status

    run(test)


def test_an_application_that_raises_is_not_stored() -> None:
    async def test() -> None:
        numbers = itertools.count()

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("rows")(scope, receive, send)
            if next(numbers) == 0:
                raise LookupError

        async def endpoint(request: Request) -> Any:
            return broken

        app = Starlette(routes=[Route("/", stream_cached(ttl=60)(endpoint))])
        with pytest.raises(LookupError):
            await get(app)
        answers = [await get(app) for _ in range(2)]
        assert [answer.body for answer in answers] == [b"rows"] * 2
        assert answers[1].cache_status == HIT

    run(test)


def test_what_is_around_an_endpoint_knows_the_application() -> None:
    async def test() -> None:
        runs = Runs(name="rows")
        cached: Any = stream_cached(ttl=60, skip_cache_func=bool)(runs.__call__)
        names: list[str] = []

        async def outer(request: Request) -> Any:
            result = await cached(request)
            names.append(result.name)
            assert not hasattr(result, "missing")
            result.background = BackgroundTask(names.append, "done")
            return result

        assert (await get(Starlette(routes=[Route("/", outer)]))).body == runs.bodies[0]
        assert names == ["rows", "done"]

    run(test)


# -- what is an application -----------------------------------------------------------------------


async def function(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("rows")(scope, receive, send)


async def with_more(more: str, scope: Any, receive: Any, send: Any) -> None:
    await function(scope, receive, send)


async def named_otherwise(environment: Any, read: Any, write: Any, /) -> None:
    await function(environment, read, write)


def plain(scope: Any, receive: Any, send: Any) -> Any:
    """It returns what can be awaited."""
    return function(scope, receive, send)


class Method:
    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        await function(scope, receive, send)


APPS: dict[str, Any] = {
    "function": function,
    "partial": functools.partial(with_more, "more"),
    "named otherwise": named_otherwise,
    "plain": plain,
    "method": Method().answer,
    "application": Starlette(routes=[Route("/", lambda request: PlainTextResponse("rows"))]),
}


@pytest.mark.parametrize("kind", APPS)
def test_any_form_of_an_application_is_recorded(kind: str) -> None:
    class Page(HTTPEndpoint):
        @stream_cached(ttl=60, noself=True)
        async def get(self, request: Request) -> Any:
            return APPS[kind]

    async def test() -> None:
        app = Starlette(routes=[Route("/", Page)])
        answers = [await get(app) for _ in range(2)]
        assert [answer.body for answer in answers] == [b"rows"] * 2
        assert [answer.cache_status for answer in answers] == [MISS, HIT]

    run(test)


async def of_two(one: int, other: int) -> None: ...


def of_three(one: int, other: int, third: int) -> None: ...


@pytest.mark.parametrize(
    "value",
    [
        *(None, {"a": 1}, "text", [function], of_two, of_three, print, Chunks, int),
        *(MagicMock(), AsyncMock(), functools.partial(of_three, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_no_applications(value: Any) -> None:
    assert as_response(value) is None


def test_a_response_is_the_response_itself() -> None:
    response = Response()
    assert as_response(response) is response
    assert isinstance(as_response(function), AppResponse)


def test_a_value_that_may_be_called_is_kept_as_it_is() -> None:
    async def test() -> None:
        async def value() -> Any:
            return of_three

        cached: Any = stream_cached(ttl=60)(value)
        assert [await cached(), await cached()] == [of_three] * 2

    run(test)
