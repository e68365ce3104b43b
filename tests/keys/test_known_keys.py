"""A key that is remembered is the one that would be made again."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Message

from stream_cached import stream_cached
from stream_cached.request.known_calls import MOST_CHARACTERS, MOST_KEYS

APPS = [Starlette(), Starlette()]

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "https",
    "path": "/rows/5",
    "raw_path": b"/rows/5",
    "root_path": "",
    "query_string": b"a=1&b=2",
    "path_params": {"number": "5"},
    "state": {},
    "app": APPS[0],
}

HEADERS = {"host": "example.org", "accept": "text/csv", "accept-language": "de"}

#: What a request may have instead. Some of them have the key of another one.
SCOPES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a HEAD request": {"method": "HEAD"},
    "a method": {"method": "POST"},
    "a scheme": {"scheme": "http"},
    "a path": {"path": "/rows/6"},
    "a raw path": {"raw_path": b"/rows%2F5"},
    "no raw path": {"raw_path": None},
    "a mount": {"root_path": "/api"},
    "another path of the application": {"app_root_path": "/api"},
    "one more path of the application": {"app_root_path": "/app"},
    "a query": {"query_string": b"a=1&b=3"},
    "a query in another order": {"query_string": b"b=2&a=1"},
    "no query": {"query_string": b""},
    "a path parameter": {"path_params": {"number": "6"}},
    "the name of a path parameter": {"path_params": {"5": "number"}},
    "a path parameter of another class": {"path_params": {"number": 5}},
    "a path parameter that is a float": {"path_params": {"number": -0.0}},
    "another such path parameter": {"path_params": {"number": 0.0}},
    "a path parameter that is true": {"path_params": {"number": True}},
    "a path parameter that is one": {"path_params": {"number": 1}},
    "no path parameter": {"path_params": {}},
    "a state": {"state": {"user": "anna"}},
    "an application": {"app": APPS[1]},
    "a router": {"router": APPS[1].router},
}

HEADS: dict[str, Mapping[str, str | None]] = {
    "a host": {"host": "example.com"},
    "a host in capitals": {"host": "EXAMPLE.ORG"},
    "no host": {"host": None},
    "an Accept": {"accept": "text/html"},
    "an empty Accept": {"accept": ""},
    "no Accept": {"accept": None},
    "a language": {"accept-language": "fr"},
    "the same language": {"accept-language": "DE"},
    "a cookie, which is no part of the key": {"cookie": "a=b"},
}

DAY = datetime.date(2026, 1, 2)
ID = uuid.UUID(int=7)

ARGUMENTS: dict[str, Any] = {
    **{f"{value!r}": value for value in (None, 1, True, 1.0, 0.0, -0.0, "1", b"1", "", DAY, ID)},
    **{f"{value!r}": value for value in (datetime.timedelta(1), decimal.Decimal("1.0"))},
    "Decimal('1.00')": decimal.Decimal("1.00"),
    "a list": [1],
    "another list": [2],
    "a moment": datetime.datetime(2026, 1, 2),
}


def _request(changes: Mapping[str, Any], head: Mapping[str, str | None]) -> Request:
    lines = {**HEADERS, **head}
    headers = [(k.encode(), v.encode()) for k, v in lines.items() if v is not None]
    return Request({**SCOPE, **changes, "headers": headers}, _receive)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


CALLS: dict[str, Callable[[], tuple[Request, dict[str, Any]]]] = {
    **{name: lambda c=c: (_request(c, {}), {}) for name, c in SCOPES.items()},  # type: ignore[misc]
    **{name: lambda h=h: (_request({}, h), {}) for name, h in HEADS.items()},  # type: ignore[misc]
    **{
        f"argument {name}": lambda v=v: (_request({}, {}), {"value": v})  # type: ignore[misc]
        for name, v in ARGUMENTS.items()
    },
}


class Decorated:
    """A function whose remembered keys can be forgotten."""

    def __init__(self, cache: str, held: object = None) -> None:
        async def endpoint(request: Request, value: Any = 7) -> Response:
            return Response(repr(held))

        decorator = stream_cached(
            ttl=60,
            cache=cache,
            namespace="known",
            methods=("GET", "POST"),
            vary={"Accept": None, "Accept-Language": str.lower},
        )
        self.endpoint = decorator(endpoint)
        (function,) = decorator._functions.values()
        self.keys = function._keys
        self.known = self.keys._known.keys

    def key(self, name: str) -> str:
        request, arguments = CALLS[name]()
        return asyncio.run(self.endpoint.cache_key(request=request, **arguments))


@pytest.mark.parametrize("cache", ["memory://", "redis://127.0.0.1:1/0"])
def test_it_is_the_one_that_would_be_made_again(cache: str) -> None:
    decorated = Decorated(cache)
    made = {}
    for name in CALLS:
        decorated.known.clear()
        made[name] = decorated.key(name)
    decorated.known.clear()

    for _ in range(2):
        assert {name: decorated.key(name) for name in CALLS} == made
    assert len(decorated.known) > len(CALLS) / 2


def test_what_a_function_holds_is_looked_at_each_time() -> None:
    held: list[object] = [1]

    async def endpoint(request: Request) -> Response:
        return Response(repr(value))

    value: object = None
    decorated = stream_cached(ttl=60)(endpoint)

    def key() -> str:
        return asyncio.run(decorated.cache_key(request=_request({}, {})))

    keys = []
    for value in (1, True, 1.0, "1", held, [2], 1):  # noqa: B007
        keys.append(key())
        assert keys[-1] == key()
    assert keys[0] == keys[-1]
    assert len(set(keys)) == 6


def test_the_class_of_an_endpoint_is_looked_at_each_time() -> None:
    class Report(HTTPEndpoint):
        title = ""

        @stream_cached(ttl=60, cache="memory://", noself=True)
        async def get(self, request: Request) -> Response:
            return Response(self.title)

    def titled(title: str) -> Any:
        return type("Titled", (Report,), {"title": title})

    async def sent(cls: Any) -> bytes:
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        await cls(_request({}, {}).scope, _receive, send)
        return b"".join(message.get("body", b"") for message in messages)

    async def answers() -> list[bytes]:
        return [await sent(cls) for cls in (one, one, other, one)]

    one, other = titled("one"), titled("other")
    assert asyncio.run(answers()) == [b"one", b"one", b"other", b"one"]


@pytest.mark.parametrize("url", ["memory://", "redis://127.0.0.1:1"])
@pytest.mark.parametrize("name", ["as it is", "a router"])
def test_overridden_dependencies_are_another_key(url: str, name: str) -> None:
    decorated, app = Decorated(url), APPS[0]
    app.dependency_overrides = {}  # type: ignore[attr-defined]
    try:
        plain = decorated.key(name)
        for _ in range(2):
            app.dependency_overrides = {len: max}  # type: ignore[attr-defined]
            assert decorated.key(name) != plain
            app.dependency_overrides = {}  # type: ignore[attr-defined]
            assert decorated.key(name) == plain
    finally:
        del app.dependency_overrides  # type: ignore[attr-defined]


def test_what_was_overridden_at_first_is_no_part_of_later_keys() -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60, key_ignore=("database",))
    async def page(database: str = Depends(_database)) -> Response:
        return Response(database)

    with TestClient(app) as client:
        for name in ("of a test", "real", "of a test", "real"):
            app.dependency_overrides = {} if name == "real" else {_database: _of_a_test}
            assert [client.get("/").text for _ in range(4)] == [name] * 4


async def _database() -> str:
    return "real"


async def _of_a_test() -> str:
    return "of a test"


def test_equal_arguments_of_one_call_are_looked_at_one_by_one() -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request, one: int, *others: int, two: int) -> Response:
        return Response()

    def key(one: int, *others: int, two: int) -> str:
        request = _request({}, {})
        return asyncio.run(endpoint.cache_key(request, one, *others, two=two))

    keys = [key(1, two=1), key(1, two=2), key(2, two=1), key(1, 1, two=1), key(1, 2, two=1)]
    assert len({*keys}) == 5
    assert keys[0] == key(1, two=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_string": bytearray(b"a=1")},
        {"raw_path": bytearray(b"/rows/5")},
        {"state": State({"user": "anna"})},
        {"headers": [(b"host", bytearray(b"example.org"))]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_can_not_be_compared_fails_no_request(changes: dict[str, Any]) -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        return Response("here")

    async def answers() -> list[Any]:
        requests = [Request({**_request({}, {}).scope, **changes}, _receive) for _ in range(4)]
        return [(await endpoint(each)).body for each in requests]

    assert asyncio.run(answers()) == [b"here"] * 4


@pytest.mark.parametrize("name", ["key", "key_builder"])
def test_a_subclass_may_have_properties_where_the_decorator_has_attributes(name: str) -> None:
    nothing = property(lambda self: None, lambda self, value: None)
    decorate = type("Own", (stream_cached,), {name: nothing})(ttl=60)

    @decorate  # type: ignore[untyped-decorator]
    async def endpoint(request: Request) -> Response:
        return Response("here")

    async def answers() -> list[bytes]:
        return [(await endpoint(_request({}, {}))).body for _ in range(4)]

    assert asyncio.run(answers()) == [b"here"] * 4


def test_headers_that_can_be_read_once_are_left_to_the_closer_look() -> None:
    decorated = Decorated("memory://")
    lines = iter(_request({}, {}).scope["headers"])
    request = _request({}, {})
    request.scope["headers"] = lines
    assert decorated.keys.look((request,), {}, {}) is None
    assert next(lines)


def test_no_more_than_so_many_are_remembered() -> None:
    decorated = Decorated("memory://")
    for number in range(MOST_KEYS + 100):
        request = _request({"query_string": b"n=%d" % number}, {})
        asyncio.run(decorated.endpoint.cache_key(request=request))
        assert len(decorated.known) <= MOST_KEYS


@pytest.mark.parametrize(
    ("changes", "head", "value"),
    [
        ({"query_string": b"a" * MOST_CHARACTERS}, {}, 1),
        ({}, {"accept": "a" * MOST_CHARACTERS}, 1),
        ({}, {}, "a" * MOST_CHARACTERS),
    ],
    ids=["query", "header", "argument"],
)
def test_none_is_remembered_that_is_made_of_much(
    changes: dict[str, Any], head: dict[str, str], value: object
) -> None:
    decorated = Decorated("memory://")
    request = _request(changes, head)
    asyncio.run(decorated.endpoint.cache_key(request=request, value=value))
    assert not decorated.known
    decorated.key("as it is")
    assert decorated.known


def test_another_thread_may_forget_the_same_key() -> None:
    class Taken(dict[Any, Any]):
        def __delitem__(self, key: object) -> None:
            super().__delitem__(key)
            raise KeyError(key)

    decorated = Decorated("memory://")
    decorated.keys._known.keys = Taken()
    for number in range(MOST_KEYS + 2):
        request = _request({"query_string": b"n=%d" % number}, {})
        assert asyncio.run(decorated.endpoint.cache_key(request=request))
