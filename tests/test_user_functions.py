"""The functions that the decorator is given: one that fails costs the cache, and no request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cashews import Cache
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import BypassError, stream_cached
from stream_cached.cashews import stream_cached as in_cashews
from tests.support.asgi import get
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

NOT_STORED = 'stream-cached; fwd={}; detail="{}"'

#: Those that are asked once the endpoint has answered.
OF_ANSWERS = ("skip_cache_func", "condition", "ttl")


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def broken(*args: Any, **kwargs: Any) -> Any:
    raise LookupError("of the application")


class OwnKeys(stream_cached):
    def get_cache_key(self, *args: Any) -> str:
        raise LookupError("of the application")


def over_cashews(**settings: Any) -> Any:
    cache = Cache()
    cache.setup("mem://")
    return in_cashews(cache, **{"ttl": 60, **settings})


DECORATORS: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "skip_cache_func": (
        "function",
        "skip_cache_func raised LookupError",
        lambda: stream_cached(ttl=60, skip_cache_func=broken),
    ),
    "key_builder": (
        "function",
        "key_builder raised LookupError",
        lambda: stream_cached(ttl=60, key_builder=broken),
    ),
    "get_cache_key": ("function", "get_cache_key raised LookupError", lambda: OwnKeys(ttl=60)),
    "vary": (
        "vary",
        "accept: LookupError",
        lambda: stream_cached(ttl=60, vary={"Accept": broken}),
    ),
    "key_args": (
        "argument",
        "key_args['request'] raised LookupError",
        lambda: stream_cached(ttl=60, key_args={"request": broken}),
    ),
    "condition": (
        "function",
        "condition= or skip_cache_func= raised LookupError",
        lambda: over_cashews(condition=broken),
    ),
    "ttl": ("function", "raised LookupError", lambda: over_cashews(ttl=broken)),
}


@pytest.mark.parametrize("name", DECORATORS)
def test_a_function_that_raises_costs_the_cache_only(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stream_cached")
    detail, told, decorate = DECORATORS[name]
    runs: list[int] = []

    async def endpoint(request: Request) -> Response:
        runs.append(1)
        return StreamingResponse(iter(["rows"]))

    app = Starlette(routes=[Route("/", decorate()(endpoint))])

    async def test() -> None:
        for _ in range(2):
            answer = await get(app)
            assert answer.sent[0]["status"] == 200
            assert answer.body == b"rows"
            fwd = "uri-miss" if name in OF_ANSWERS else "bypass"
            assert answer.cache_status == NOT_STORED.format(fwd, detail)

    run(test)
    assert len(runs) == 2
    (line,) = warnings(caplog)
    assert told in line
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 2
    for record in traces:
        assert record.levelno == logging.DEBUG
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)
    assert 'test_user_functions.py", line' in caplog.text
    assert "of the application" not in caplog.text.replace('LookupError("of the application")', "")


@pytest.mark.parametrize("key", [7, None, b"key"])
def test_a_key_that_is_no_text_costs_the_cache_only(
    key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cached = stream_cached(ttl=60, key_builder=lambda f, *args, **kwargs: key)

    async def test() -> None:
        async def values() -> list[int]:
            return [1]

        function: Any = cached(values)
        assert [await function(), await function()] == [[1], [1]]
        with pytest.raises(BypassError, match="let it return a str"):
            await function.cache_key()

    run(test)
    (line,) = warnings(caplog)
    assert f"key_builder returned a value of type {type(key).__name__}" in line


class Tenant:
    """All of these have one address, as they may have one after the other."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "<app.Tenant object at 0x7f3c5e8b9d10>"


def test_a_key_with_an_address_costs_the_cache_only(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async def names(tenant: Tenant) -> list[str]:
            return [tenant.name]

        function: Any = stream_cached(ttl=60, key_builder=lambda f, tenant: f"x:{tenant}")(names)
        assert [await function(Tenant(name)) for name in "ab"] == [["a"], ["b"]]

    run(test)
    (line,) = warnings(caplog)
    assert "request.url.path instead of request" in line


def test_a_key_may_name_the_function_by_its_address(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        runs: list[str] = []

        async def names(name: str) -> list[str]:
            runs.append(name)
            return [name]

        function: Any = stream_cached(ttl=60, key_builder=lambda f, name: f"{f}:{name}")(names)
        assert [await function(name) for name in "aba"] == [["a"], ["b"], ["a"]]
        assert runs == ["a", "b"]

    run(test)
    assert warnings(caplog) == []


def test_a_value_is_returned_if_skip_cache_func_raises() -> None:
    async def test() -> None:
        runs: list[int] = []

        async def values() -> list[int]:
            runs.append(1)
            return [1]

        function: Any = stream_cached(ttl=60, skip_cache_func=broken)(values)
        answers = await asyncio.gather(*(function() for _ in range(3)))
        assert answers == [[1]] * 3
        assert len(runs) == 3

    run(test)


class Page(BaseModel):
    items: list[int]


@pytest.mark.parametrize("value", [{"items": [1]}, Page(items=[1])], ids=["dict", "model"])
@pytest.mark.parametrize(
    "made",
    [
        lambda see: stream_cached(ttl=60, skip_cache_func=see),
        lambda see: stream_cached(ttl=lambda result: see(result) or 60),
        lambda see: over_cashews(condition=lambda result, *args, **kwargs: not see(result)),
    ],
    ids=["skip_cache_func", "ttl", "condition"],
)
def test_a_function_is_given_what_was_returned(made: Any, value: Any) -> None:
    """It may have an attribute `items`, as a dictionary has."""

    async def test() -> None:
        seen: list[object] = []
        runs: list[int] = []

        async def page() -> object:
            runs.append(1)
            return value

        function: Any = made(seen.append)(page)
        assert [await function() for _ in range(2)] == [value] * 2
        assert seen == [value]
        assert len(runs) == 1

    run(test)


# -- a key_builder that wants the request ---------------------------------------------------------


def by_path(function: Any, *args: Any, request: Request, **kwargs: Any) -> str:
    assert "request" not in kwargs
    return request.url.path


def by_path_too(function: Any, request: Request | None = None, **kwargs: Any) -> str:
    return "no request" if request is None else request.url.path


async def shared(number: int) -> Response:
    return PlainTextResponse(f"{number}")


async def named(number: int, request: Request) -> Response:
    return PlainTextResponse(f"{number}")


async def named_otherwise(number: int, req: Request) -> Response:
    return PlainTextResponse(f"{number}")


@pytest.mark.parametrize("key_builder", [by_path, by_path_too])
@pytest.mark.parametrize("endpoint", [shared, named, named_otherwise])
def test_a_key_builder_gets_the_request_wherever_there_is_one(
    endpoint: Any, key_builder: Any
) -> None:
    app = FastAPI()
    app.get("/{number}")(stream_cached(ttl=60, key_builder=key_builder)(endpoint))

    async def test() -> None:
        for path in ("/1", "/2"):
            answers = [await get(app, path) for _ in range(2)]
            assert [answer.body.decode() for answer in answers] == [path[1:]] * 2
            assert [answer.cache_status for answer in answers] == [MISS, HIT]

    run(test)


def test_a_request_that_is_passed_by_position_is_passed_once() -> None:
    def key(function: Any, request: Request) -> str:
        return request.url.path

    def key_of_method(function: Any, endpoint: Any, request: Request) -> str:
        return request.url.path

    async def page(request: Request) -> Response:
        return PlainTextResponse(request.url.path)

    class Page(HTTPEndpoint):
        @stream_cached(ttl=60, key_builder=key_of_method)
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(request.url.path)

    cached = stream_cached(ttl=60, key_builder=key)(page)
    app = Starlette(routes=[Route("/function", cached), Route("/method", Page)])

    async def test() -> None:
        for path in ("/function", "/method"):
            answers = [await get(app, path) for _ in range(2)]
            assert [answer.body.decode() for answer in answers] == [path] * 2
            assert [answer.cache_status for answer in answers] == [MISS, HIT]

    run(test)


def test_a_key_builder_that_does_not_ask_gets_the_arguments_only() -> None:
    given: list[Any] = []

    def key(function: Any, *args: Any, **kwargs: Any) -> str:
        given.append((args, kwargs))
        return "key"

    app = FastAPI()
    app.get("/{number}")(stream_cached(ttl=60, key_builder=key)(shared))

    async def test() -> None:
        await get(app, "/1")

    run(test)
    assert given == [((), {"number": 1})]


def test_a_key_builder_may_do_without_a_request() -> None:
    async def test() -> None:
        function: Any = stream_cached(ttl=60, key_builder=by_path_too)(shared)
        assert await function.cache_key(number=1) == "no request"

    run(test)
