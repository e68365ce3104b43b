"""Keys of cashews that would hold an object's address, or a request."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import io
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

import attrs
import cashews
import pytest
from cashews import default_formatter, noself
from cashews.exceptions import NotConfiguredError
from cashews.key import get_cache_key, get_cache_key_template
from fastapi import Depends, FastAPI, Header, UploadFile
from pydantic import BaseModel, Field, SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached.cashews import install, stream_cached, uninstall
from stream_cached.cashews.addresses import KeyCheck
from tests.conftest import Serve
from tests.support.closed_cache import Cache
from tests.support.http_client import fetch
from tests.support.logs import warnings

#: All addresses are the same here, as they may be one after the other.
ADDRESS = "0x7f3c5e8b9d10"


class Service:
    """One that a dependency makes for each request."""

    def __init__(self, user: str) -> None:
        self.user = user

    def greet(self) -> None: ...

    def __repr__(self) -> str:
        return f"<app.Service object at {ADDRESS}>"


def service_of(x_user: Annotated[str, Header()]) -> Service:
    return Service(x_user)


@dataclass
class Query:
    service: Service


class Model(BaseModel):
    token: SecretStr


@dataclass
class Page:
    page: int


class PageModel(BaseModel):
    page: int


@dataclass
class Named:
    page: int = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return f"page {self.page}"


@dataclass
class Caller:
    page: int
    name: str = dataclasses.field(repr=False)


@attrs.define
class AttrsCaller:
    name: str = attrs.field(repr=False)


class ModelCaller(BaseModel):
    name: str = Field(repr=False)


class ShortRequest(Request):
    def __str__(self) -> str:
        return f"GET {self.url.path}"


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    cache.setup("mem://")
    return cache


@pytest.fixture
def installed() -> Iterator[None]:
    install()
    yield
    uninstall()


def names_in(cache: Cache) -> list[str]:
    """Return the keys of all values in a `mem://` cache."""
    backend: Any = cache._backends[""]
    return sorted(backend.store)


def request_to(path: str, kind: type[Request] = Request) -> Request:
    return kind({"type": "http", "method": "GET", "path": path, "headers": []})


# -- what a key says ------------------------------------------------------------------------------


async def find(one: Any = None, *more: Any, **others: Any) -> None: ...


DEFAULT = get_cache_key_template(find)


def read(template: str | None, *args: Any, **kwargs: Any) -> tuple[str, list[str]]:
    """Return the key of a call, and what is said against it."""
    template, is_default = template or DEFAULT, template is None
    check = KeyCheck(find, template, is_default=is_default)
    said = [finding.subject for finding in check.findings(args, kwargs)]
    return get_cache_key(find, template, args, kwargs), said


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Service("a"),
        Service("a").greet,
        lambda: None,
        functools.partial(service_of, "a"),
        io.BytesIO(),
        asyncio.Lock(),
        weakref.ref(Service),
        Query(Service("a")),
        [1, [Service("a")]],
        (Service("a"),),
        {"a": {"b": Service("a")}},
        {Service("a"): 1},
        {Service("a")},
        frozenset({Service("a")}),
        f"a text with {Service('a')}",
        f"{request_to('/')}",
        request_to("/"),
        request_to("/", ShortRequest),
        [request_to("/", ShortRequest)],
        request_to("/").state,
        SecretStr("a"),
        [SecretStr("a")],
        Model(token=SecretStr("a")),
        Caller(1, "alice"),
        [Caller(1, "alice")],
        AttrsCaller("alice"),
        ModelCaller(name="alice"),
        UploadFile(io.BytesIO(), filename="a"),
        Exception(Service("a")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_tells_no_two_values_apart_is_no_part_of_a_key(value: Any) -> None:
    for template in (None, "a:{one}", "{one}", "{one:hash}", "{one:hash(sha256)}"):
        _, said = read(template, one=value)
        assert len(said) == 1, template
        assert said[0].startswith("one is of type ")
        assert read(template, value)[1] == said
    assert read("{one!r}", object())[1]
    assert read(None, 1, value)[1][0].startswith("*args is of type ")
    assert read(None, b=value)[1][0].startswith("**kwargs is of type ")


class Numbered:
    def __init__(self, form: str) -> None:
        self.form = form

    def __str__(self) -> str:
        return "Numbered " + format(id(self), self.form)


@pytest.mark.parametrize("form", ["d", "x", "X", "#x", "016X"])
def test_an_address_is_seen_in_any_form(form: str) -> None:
    assert read(None, Numbered(form))[1]


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "a", 1, 1.5, True, b"a", b"\xff"),
        *([1, "a"], ("a", None), {"a": 1}, {"a"}, ValueError("a")),
        *("crash at 0x12", "0x7f3c5e8b9d10", "**********", ["at 0x7f3c5e8b9d10"]),
        *(dict, len, Page(1), Named(1), PageModel(page=1)),
    ],
    ids=repr,
)
def test_other_values_may_be_part_of_a_key(value: Any) -> None:
    for template in (None, "a:{one}", "{one:hash}", "{one!s}"):
        assert read(template, value)[1] == []
        assert read(template, one=value)[1] == []
        assert read(template, value, value)[1] == []
        assert read(template, b=value)[1] == []


def test_a_template_may_name_what_is_in_an_object() -> None:
    request, service = request_to("/a"), Service("alice")
    assert read("x:{one.url.path}", one=request) == ("x:/a", [])
    assert read("x:{one:get(path)}", one=request) == ("x:/a", [])
    assert read("x:{one.method}:{missing}", one=request) == ("x:GET:", [])
    assert read("x:{one.user}", one=service) == ("x:alice", [])
    assert read("x:{one[0].user}", one=[service]) == ("x:alice", [])
    assert read("x:{one.state}", one=request)[1]
    assert read("x:{one:get(a)}", one={"a": service})[1]


def test_the_context_of_keys_is_looked_at() -> None:
    with cashews.key_context(user="alice", service=Service("a")):
        assert read("x:{user}:{@:get(user)}") == ("x:alice:alice", [])
        assert read("x:{service}")[1]
        assert read("x:{service}", service="b") == ("x:b", [])
    with (
        pytest.warns(DeprecationWarning, match="rewrite"),
        cashews.key_context(rewrite=True, service="a"),
    ):
        assert read("x:{service}", service=Service("b")) == ("x:a", [])


def test_the_application_may_give_a_class_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    forms: Any = vars(default_formatter)["_ReplaceFormatter__type_format"]
    for kind in (Service, Request):
        monkeypatch.setitem(forms, kind, lambda value: f"my {type(value).__name__}")
    assert read(None, Service("a")) == (f"{__name__}:find:one:my Service::", [])
    assert read("{one}", one=request_to("/")) == ("my Request", [])


# -- cashews' own decorators ----------------------------------------------------------------------

DECORATORS: dict[str, Callable[[Cache], Any]] = {
    "cache": lambda cache: cache(ttl=60),
    "lock": lambda cache: cache(ttl=60, lock=True),
    "upper": lambda cache: cache(ttl=60, upper=True),
    "unprotected": lambda cache: cache.cache(ttl=60, protected=False),
    "time": lambda cache: cache(ttl=60, time_condition="0s"),
    "tags": lambda cache: cache(ttl=60, tags=["all", "{argument}"]),
    "early": lambda cache: cache.early(ttl=60),
    "soft": lambda cache: cache.soft(ttl=60),
    "hit": lambda cache: cache.hit(ttl=60, cache_hits=10, update_after=2),
    "dynamic": lambda cache: cache.dynamic(ttl=60),
    "failover": lambda cache: cache.failover(ttl=60),
    "template": lambda cache: cache(ttl=60, key="x:{argument}"),
    "hash": lambda cache: cache(ttl=60, key="x:{argument:hash}"),
    "prefix": lambda cache: cache(ttl=60, key="x", prefix="{argument}"),
}
USERS = ["alice", "bob", "fails", "bob", "alice"]


def answer_for(user: str) -> dict[str, str]:
    if user == "fails":
        raise RuntimeError(user)
    return {"user": user}


def app_of(decorate: Callable[[Any], Any]) -> FastAPI:
    app = FastAPI()

    @app.get("/request")
    @decorate
    async def of_request(argument: Request) -> Any:
        return answer_for(argument.headers["x-user"])

    @app.get("/service")
    @decorate
    async def of_service(argument: Annotated[Service, Depends(service_of)]) -> Any:
        return answer_for(argument.user)

    return app


@pytest.mark.matrix
@pytest.mark.parametrize("path", ["/request", "/service"])
@pytest.mark.parametrize("name", DECORATORS)
@pytest.mark.usefixtures("installed")
def test_nobody_is_given_the_answer_of_another_object(
    serve: Serve, cache: Cache, name: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = serve(app_of(lambda f: f))
    cached = serve(app_of(DECORATORS[name](cache)))
    for user in USERS:
        one, other = (fetch(server.port, path, {"X-User": user}) for server in (plain, cached))
        assert (one.status, one.body) == (other.status, other.body)
    assert names_in(cache) == []
    (said,) = warnings(caplog)
    assert f"{__name__}.app_of.<locals>.of_{path[1:]}: a response is not cached" in said
    assert "argument is of type" in said


@pytest.mark.parametrize("name", ["cache", "failover", "hit"])
@pytest.mark.usefixtures("installed")
def test_a_stream_of_a_starlette_endpoint(serve: Serve, cache: Cache, name: str) -> None:
    async def rows(user: str) -> AsyncIterator[str]:
        for row in range(3):
            yield f"{user} {row}\n"

    async def page(request: Request) -> Response:
        return StreamingResponse(rows(request.headers["x-user"]))

    server = serve(Starlette(routes=[Route("/", DECORATORS[name](cache)(page))]))
    for user in ["alice", "bob"] * 3:
        text = fetch(server.port, "/", {"X-User": user}).text
        assert text == "".join(f"{user} {row}\n" for row in range(3))
    assert names_in(cache) == []


@pytest.mark.usefixtures("installed")
def test_other_calls_of_the_same_function_are_cached(cache: Cache) -> None:
    runs: list[Any] = []

    @cache(ttl=60)
    async def find(argument: Any = None) -> Any:
        runs.append(argument)
        return len(runs)

    async def calls() -> list[Any]:
        return [await find(value) for value in ("a", Service("a"), "a", Service("b"), None, None)]

    assert asyncio.run(calls()) == [1, 2, 1, 3, 4, 4]


@pytest.mark.parametrize("options", [{}, {"lock": True}, {"upper": True}], ids=str)
@pytest.mark.usefixtures("installed")
def test_calls_at_the_same_time_do_not_share_an_answer(cache: Cache, options: Any) -> None:
    both = asyncio.Barrier(2)

    @cache(ttl=60, **options)
    async def find(argument: Service) -> str:
        await both.wait()
        return argument.user

    async def calls() -> list[str]:
        async with asyncio.timeout(10):
            return [*await asyncio.gather(find(Service("a")), find(Service("b")))]

    assert asyncio.run(calls()) == ["a", "b"]


@pytest.mark.usefixtures("installed")
def test_a_template_over_attributes_is_cached(serve: Serve, cache: Cache) -> None:
    runs: list[str] = []
    app = FastAPI()

    @app.get("/{name}")
    @cache(ttl=60, key="x:{request.url.path}")
    async def page(request: Request, name: str) -> Response:
        runs.append(name)
        return PlainTextResponse(name)

    server = serve(app)
    assert [fetch(server.port, f"/{name}").text for name in "abab"] == ["a", "b", "a", "b"]
    assert runs == ["a", "b"]


class Shop:
    def __init__(self, cache: Cache) -> None:
        self.runs = 0
        self.prices = cache(ttl=60)(self._prices)
        without_self: Any = noself
        self.shared = without_self(cache)(ttl=60)(type(self)._of_method)
        self.own = cache(ttl=60)(type(self)._of_method)

    async def _prices(self, name: str) -> int:
        return await self._of_method(name)

    async def _of_method(self, name: str) -> int:
        self.runs += 1
        return self.runs


@pytest.mark.usefixtures("installed")
def test_a_method_says_how_its_instance_is_left_out(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(cache)

    async def calls(cached: Any, *args: Any) -> list[int]:
        return [await cached(*args) for _ in range(2)]

    assert asyncio.run(calls(shop.prices, "a")) == [1, 1]
    assert asyncio.run(calls(shop.shared, shop, "a")) == [2, 2]
    assert warnings(caplog) == []
    assert asyncio.run(calls(shop.own, shop, "a")) == [3, 4]
    assert "use @noself(cache)(ttl=...)" in warnings(caplog)[0]


@pytest.mark.usefixtures("installed")
def test_an_iterator_is_not_cached_by_an_address(cache: Cache) -> None:
    async def numbers(argument: Any) -> AsyncIterator[Any]:
        for number in range(2):
            yield getattr(argument, "user", argument), number

    async def all_of(iterate: Any) -> list[Any]:
        return [
            [item async for item in iterate(argument)]
            for argument in (Service("a"), Service("b"), "c", "c")
        ]

    expected, iterator = asyncio.run(all_of(numbers)), cast(Any, cache.iterator)
    for options in ({}, {"key": "k:{argument}"}, {"key": "k:{argument:hash}"}):
        iterate = iterator(60, **options)(numbers)
        assert asyncio.run(all_of(iterate)) == expected
        assert names_in(cache)
        assert not any(ADDRESS in name for name in names_in(cache))


@pytest.mark.usefixtures("installed")
def test_cashews_says_itself_that_it_is_not_set_up() -> None:
    cache = Cache()

    @cache(ttl=60)
    async def find(argument: Any) -> int:
        return 1

    with pytest.raises(NotConfiguredError):
        asyncio.run(find(Service("a")))


@pytest.mark.usefixtures("installed")
def test_a_cache_that_is_switched_off_says_nothing(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    @cache(ttl=60)
    async def find(argument: Any) -> int:
        return 1

    cache.disable()
    assert asyncio.run(find(Service("a"))) == 1
    assert warnings(caplog) == []


@pytest.mark.matrix
@pytest.mark.parametrize("path", ["/request", "/service"])
@pytest.mark.parametrize("name", sorted(DECORATORS.keys() - {"hash"}))
def test_a_function_that_was_decorated_earlier(
    serve: Serve,
    cache: Cache,
    name: str,
    path: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, app = serve(app_of(lambda f: f)), app_of(DECORATORS[name](cache))
    request.getfixturevalue("installed")
    cached = serve(app)
    for user in USERS:
        one, other = (fetch(server.port, path, {"X-User": user}) for server in (plain, cached))
        assert (one.status, one.body) == (other.status, other.body)
    assert not [
        key for key in names_in(cache) if not key.startswith("_tag:") and "counter" not in key
    ]
    assert "call install() before functions are decorated" in warnings(caplog)[0]


def test_nothing_is_found_that_was_stored_under_an_address(
    cache: Cache, request: pytest.FixtureRequest
) -> None:
    @cache(ttl=60)
    async def find(argument: Service) -> str:
        return argument.user

    async def calls() -> list[str]:
        before = [await find(Service("a")), await find(Service("b"))]
        request.getfixturevalue("installed")
        return [*before, await find(Service("b"))]

    assert asyncio.run(calls()) == ["a", "a", "b"]


def test_a_deep_argument_costs_no_more_than_its_key() -> None:
    formatted = 0

    class Leaf:
        def __str__(self) -> str:
            nonlocal formatted
            formatted += 1
            return "leaf"

    value: Any = Leaf()
    for _ in range(100):
        value = [value]
    assert read(None, value)[1] == []
    # For the key, for its check field by field, and when the value was looked at.
    assert formatted == 3


# -- the decorator of this library ----------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("path", ["/request", "/service"])
@pytest.mark.parametrize("key", ["x:{argument}", "x:{argument:hash}", "x:{argument!r}"])
def test_a_template_of_ours_that_holds_an_address(
    serve: Serve, cache: Cache, key: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(app_of(stream_cached(cache, 60, key, unguarded=("x-user",))))
    for user in ["alice", "bob"] * 2:
        answer = fetch(server.port, path, {"X-User": user})
        assert answer.text == f'{{"user":"{user}"}}'
    assert names_in(cache) == []
    (said,) = warnings(caplog)
    assert "argument" in said


@pytest.mark.parametrize("key", ["x:{argument.user}", None])
def test_a_template_of_ours_over_attributes(serve: Serve, cache: Cache, key: str | None) -> None:
    runs: list[str] = []
    app = FastAPI()

    @app.get("/")
    @stream_cached(cache, 60, key, key_args={"argument": lambda service: service.user})
    async def page(argument: Annotated[Service, Depends(service_of)]) -> Response:
        runs.append(argument.user)
        return PlainTextResponse(argument.user)

    server = serve(app)
    for user in ["alice", "bob"] * 2:
        assert fetch(server.port, "/", {"X-User": user}).text == user
    assert runs == ["alice", "bob"]
