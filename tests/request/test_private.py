"""Whose answer it is: what tells two requests, users, bodies or endpoints apart is in the key."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Header
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_cached import stream_cached
from stream_cached.request.peek import MAX_REQUEST_BODY
from tests.conftest import Serve
from tests.support.asgi import Exchange, get
from tests.support.http_client import fetch
from tests.support.runs import HIT, MISS


class Tenant(stream_cached):
    """Puts something before each key."""

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        return "tenant:" + super().get_cache_key(f, args, kwargs)


class OneKey(stream_cached):
    """Has one key for everything."""

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        return "one"


own_keys = pytest.mark.parametrize(
    "keyed",
    [
        functools.partial(stream_cached, key="one"),
        functools.partial(stream_cached, key_builder=lambda f, *args, **kwargs: "one"),
        OneKey,
        Tenant,
    ],
    ids=["key", "key_builder", "get_cache_key", "get_cache_key with super"],
)


def bypass(detail: str) -> str:
    # What an upload is, is known before the cache is looked into.
    fwd = "bypass" if detail == "upload" else "uri-miss"
    return f'stream-cached; fwd={fwd}; detail="{detail}"'


# -- users ----------------------------------------------------------------------------------------


@own_keys
def test_a_key_of_ones_own_does_not_share_what_an_authorization_parameter_was_for(
    serve: Serve, cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    app = FastAPI()

    @app.get("/")
    @keyed(ttl=60, cache=cache_url)
    async def endpoint(authorization: Annotated[str, Header()]) -> Response:
        return PlainTextResponse(f"the secret of {authorization}")

    port = serve(app).port
    answers = [fetch(port, headers={"Authorization": user}) for user in ("alice", "bob", "alice")]
    assert [answer.text for answer in answers] == [
        f"the secret of {user}" for user in ("alice", "bob", "alice")
    ]
    assert {answer.header("Cache-Status") for answer in answers} == {bypass("authorization")}


@own_keys
def test_authorization_that_is_in_vary_selects_also_under_a_key_of_ones_own(
    serve: Serve, cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    app = FastAPI()

    @app.get("/")
    @keyed(ttl=60, cache=cache_url, vary=("Authorization",))
    async def endpoint(authorization: Annotated[str, Header()]) -> Response:
        return PlainTextResponse(f"the secret of {authorization}")

    port = serve(app).port
    users = ["alice", "bob"] * 2
    answers = [fetch(port, headers={"Authorization": user}) for user in users]
    assert [answer.text for answer in answers] == [f"the secret of {user}" for user in users]
    assert {answer.header("Cache-Status") for answer in answers[2:]} == {HIT}


# -- bodies of requests ---------------------------------------------------------------------------


class Post(Exchange):
    """A POST whose body comes in several messages and is not announced, as in HTTP/2."""

    def __init__(self, app: ASGIApp, *parts: bytes, content_type: str = "text/plain") -> None:
        super().__init__(app)
        self.scope |= {"method": "POST", "http_version": "2"}
        self.scope["headers"] = [
            *self.scope["headers"],
            (b"content-type", content_type.encode()),
        ]
        self._parts = list(parts)

    async def _receive(self) -> Message:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self.left.wait()
        return {"type": "http.disconnect"}


async def post(app: ASGIApp, *parts: bytes, content_type: str = "text/plain") -> Exchange:
    exchange = Post(app, *parts, content_type=content_type)
    await exchange.run()
    return exchange


def echo(cached: stream_cached) -> Starlette:
    """Answers a POST with its Content-Type and its body."""

    @cached
    async def endpoint(request: Request) -> Response:
        kind = request.headers.get("Content-Type", "")
        return PlainTextResponse(f"{kind}: ".encode() + await request.body())

    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


@pytest.mark.parametrize("keyed", [stream_cached, Tenant])
def test_the_body_of_a_post_is_in_its_key_also_where_the_key_is_extended(
    serve: Serve, cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    port = serve(echo(keyed(ttl=60, cache=cache_url, methods=("POST",)))).port
    bodies = [b"one", b"two", b"one"]
    answers = [fetch(port, method="POST", body=body) for body in bodies]
    assert [answer.body for answer in answers] == [b": " + body for body in bodies]
    assert [answer.header("Cache-Status") for answer in answers] == [MISS, MISS, HIT]


@pytest.mark.parametrize("keyed", [stream_cached, Tenant])
def test_a_body_that_is_not_announced_is_in_the_key_and_can_still_be_read(
    cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    app = echo(keyed(ttl=60, cache=cache_url, methods=("POST",)))

    async def test() -> None:
        bodies = [(b"on", b"e"), (b"tw", b"o"), (b"", b"one"), (b"",), (b"",)]
        answers = [await post(app, *parts) for parts in bodies]
        assert [answer.body for answer in answers] == [
            b"text/plain: " + b"".join(parts) for parts in bodies
        ]
        assert [answer.cache_status for answer in answers] == [MISS, MISS, HIT, MISS, HIT]

    asyncio.run(test())


def test_the_same_bytes_under_another_content_type_are_another_body(cache_url: str) -> None:
    app = echo(stream_cached(ttl=60, cache=cache_url, methods=("POST",)))

    async def test() -> None:
        kinds = ["text/plain", "application/x-www-form-urlencoded"] * 2
        answers = [await post(app, b"a=1", content_type=kind) for kind in kinds]
        assert [answer.body for answer in answers] == [f"{kind}: a=1".encode() for kind in kinds]
        assert [answer.cache_status for answer in answers] == [MISS, MISS, HIT, HIT]

    asyncio.run(test())


@pytest.mark.parametrize("spare", [0, 1])
def test_a_large_body_is_no_key_and_reaches_the_endpoint_whole(cache_url: str, spare: int) -> None:
    app = echo(stream_cached(ttl=60, cache=cache_url, methods=("POST",)))
    size = MAX_REQUEST_BODY + spare
    body = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    parts = [body[start : start + 100_000] for start in range(0, size, 100_000)]

    async def test() -> None:
        first, second = await post(app, *parts), await post(app, *parts)
        assert first.body == second.body == b"text/plain: " + body
        states = [bypass("upload")] * 2 if spare else [MISS, HIT]
        assert [first.cache_status, second.cache_status] == states

    asyncio.run(test())


def test_a_large_body_can_be_read_as_a_stream(cache_url: str) -> None:
    @stream_cached(ttl=60, cache=cache_url, methods=("POST",))
    async def endpoint(request: Request) -> Response:
        size = 0
        async for part in request.stream():
            size += len(part)
        return PlainTextResponse(str(size))

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])

    async def test() -> None:
        for count in (3, 7):
            answer = await post(app, *[bytes(500_000)] * count)
            assert answer.body == str(count * 500_000).encode()

    asyncio.run(test())


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [stream_cached, Tenant])
def test_a_path_that_a_middleware_rewrites_is_in_the_key(
    cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    @keyed(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(f"data of {request.path_params['name']}")

    app = Starlette(routes=[Route("/users/{name}", endpoint)])

    async def rewriting(scope: Scope, receive: Receive, send: Send) -> None:
        user = dict(scope["headers"])[b"x-user"].decode()
        # Its raw_path and query_string are still those of the request.
        await app({**scope, "path": f"/users/{user}"}, receive, send)

    async def ask(user: str) -> Exchange:
        exchange = Exchange(rewriting, path="/me")
        exchange.scope["headers"].append((b"x-user", user.encode()))
        await exchange.run()
        return exchange

    async def test() -> None:
        users = ["alice", "bob"] * 2
        answers = [await ask(user) for user in users]
        assert [answer.body for answer in answers] == [f"data of {u}".encode() for u in users]
        assert [answer.cache_status for answer in answers] == [MISS, MISS, HIT, HIT]

    asyncio.run(test())


def test_the_root_path_is_in_the_key(cache_url: str) -> None:
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.scope["root_path"])

    app = Starlette(routes=[Route("/page", endpoint)])

    async def ask(root_path: str) -> Exchange:
        exchange = Exchange(app, path="/page")
        exchange.scope["root_path"] = root_path
        await exchange.run()
        return exchange

    async def test() -> None:
        roots = ["/one", "/two"] * 2
        answers = [await ask(root) for root in roots]
        assert [answer.body.decode() for answer in answers] == roots
        assert [answer.cache_status for answer in answers] == [MISS, MISS, HIT, HIT]

    asyncio.run(test())


# -- endpoints ------------------------------------------------------------------------------------


def test_endpoints_that_inherit_a_method_do_not_share_its_answers(cache_url: str) -> None:
    class Base(HTTPEndpoint):
        @stream_cached(ttl=60, cache=cache_url)
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(type(self).__name__)

    class One(Base):
        pass

    class Other(Base):
        pass

    async def test() -> None:
        answers = [await get(app) for app in (One, Other, Base) * 2]
        assert [answer.body for answer in answers] == [b"One", b"Other", b"Base"] * 2
        assert [answer.cache_status for answer in answers] == [MISS] * 3 + [HIT] * 3

    asyncio.run(test())


@dataclasses.dataclass
class Numbered:
    """Can be called, and not be hashed."""

    greeting: str

    def __post_init__(self) -> None:
        self.runs = itertools.count()

    async def __call__(self, request: Request | None = None) -> Any:
        answer = f"{self.greeting} {next(self.runs)}"
        return answer if request is None else PlainTextResponse(answer)


def test_an_instance_that_can_not_be_hashed_is_an_endpoint(cache_url: str) -> None:
    endpoint = Numbered("hello")
    cached = stream_cached(ttl=60, cache=cache_url)(endpoint)
    with pytest.raises(TypeError):
        hash(endpoint)

    async def test() -> None:
        app = Starlette(routes=[Route("/", cached)])
        miss, hit = await get(app), await get(app)
        assert miss.body == hit.body == b"hello 0"
        assert hit.cache_status == HIT
        assert [await cached() for _ in range(2)] == ["hello 1"] * 2

    asyncio.run(test())


def test_what_a_partial_has_bound_is_in_its_key_with_a_request_and_without(cache_url: str) -> None:
    numbers = itertools.count()

    async def report(name: str, request: Request | None = None, *, size: int = 0) -> Any:
        answer = f"{name} {size} {next(numbers)}"
        return answer if request is None else PlainTextResponse(answer)

    cached = [
        stream_cached(ttl=60, cache=cache_url)(partial)
        for partial in (
            functools.partial(report, "a"),
            functools.partial(report, "b"),
            functools.partial(report, "a", size=1),
        )
    ]

    turns = itertools.cycle(cached)

    async def page(request: Request) -> Any:
        return await next(turns)(request=request)

    app = Starlette(routes=[Route("/", page)])

    async def test() -> None:
        misses = [await get(app) for _ in cached]
        hits = [await get(app) for _ in cached]
        assert [answer.body for answer in misses] == [b"a 0 0", b"b 0 1", b"a 1 2"]
        assert [answer.body for answer in hits] == [answer.body for answer in misses]
        assert {answer.cache_status for answer in hits} == {HIT}
        values = [await endpoint() for endpoint in cached * 2]
        assert values == ["a 0 3", "b 0 4", "a 1 5"] * 2

    asyncio.run(test())


# -- a body that is not announced -----------------------------------------------------------------


class Search(Post):
    """A GET with a body, as HTTP/2 allows it without a word in the headers."""

    def __init__(self, app: ASGIApp, *parts: bytes) -> None:
        super().__init__(app, *parts)
        self.scope["method"] = "GET"


def test_the_body_of_a_get_over_http_2_is_in_its_key(cache_url: str) -> None:
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(await request.body())

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        bodies = [b"alice", b"bob", b"alice", b"", b""]
        searches = [Search(app, body) for body in bodies]
        for search in searches:
            await search.run()
        assert [search.body for search in searches] == bodies
        assert [s.cache_status for s in searches] == [MISS, MISS, HIT, MISS, HIT]

    asyncio.run(test())
