"""Context variables: those that are listed are in the key, and others that are set are told."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import ConfigurationError, MemoryCache, stream_cached
from tests.request import test_context
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

locale: ContextVar[Any] = ContextVar("locale")
tenant: ContextVar[Any] = ContextVar("tenant", default="none")
at_start: ContextVar[str] = ContextVar("at_start")

BYPASS = 'stream-cached; fwd=bypass; detail="context-variable"'


class Setting:
    """A middleware that sets a variable from a header, where the header is there."""

    def __init__(self, app: ASGIApp, variable: ContextVar[Any], name: str = "x-locale") -> None:
        self.app, self.variable, self.name = app, variable, name.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        value = dict(scope["headers"]).get(self.name)
        if value is not None:
            self.variable.set(object() if value == b"object" else value.decode())
        await self.app(scope, receive, send)


def client(
    read: Callable[[], object], *variables: ContextVar[Any], **settings: Any
) -> Callable[..., tuple[str, str]]:
    @stream_cached(ttl=60, cache=MemoryCache(), **settings)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(read()))

    middleware = [Middleware(Setting, variable=each) for each in variables]
    app = Starlette(routes=[Route("/", endpoint)], middleware=middleware)

    def ask(value: str | None = None) -> tuple[str, str]:
        answer = TestClient(app).get("/", headers={} if value is None else {"X-Locale": value})
        return answer.text, answer.headers["Cache-Status"]

    return ask


@pytest.mark.parametrize("listed", [locale, lambda: locale.get(None)], ids=["variable", "function"])
def test_what_is_listed_is_in_the_key(listed: Any, caplog: pytest.LogCaptureFixture) -> None:
    ask = client(lambda: locale.get("-"), locale, key_context=(listed, locale))
    for state in (MISS, HIT):
        assert [ask(value) for value in ("de", "fr", None)] == [
            ("de", state),
            ("fr", state),
            ("-", state),
        ]
    assert not warnings(caplog)


def test_a_default_is_a_value(caplog: pytest.LogCaptureFixture) -> None:
    ask = client(tenant.get, tenant, key_context=(tenant,))
    assert [ask(), ask("none"), ask("one")] == [("none", MISS), ("none", HIT), ("one", MISS)]


def test_nothing_is_told_of_a_call_that_is_not_cached_anyway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(locale.get())

    app = Starlette(
        routes=[Route("/", endpoint, methods=["POST"])],
        middleware=[Middleware(Setting, variable=locale)],
    )
    for value in ("de", "fr"):
        assert TestClient(app).post("/", headers={"X-Locale": value}).text == value
    assert [each for each in warnings(caplog) if "context variable" in each] == []


def test_what_is_set_and_not_listed_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    ask = client(lambda: "page", locale, tenant, key_context=(tenant,))
    for value in ("de", "fr"):
        ask(value)
    (warning,) = warnings(caplog)
    assert "the context variable tests.request.test_context.locale is set" in warning
    assert "key_context=(locale,)" in warning


class Proxy:
    """Stands for what is not there yet, as those of werkzeug and openai do."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("there is no current object")


def test_what_other_modules_have_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = types.ModuleType("a_module_with_a_proxy")
    module.__dict__["current"] = Proxy()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ask = client(lambda: "page", ContextVar("of no module"))
    assert [ask("de"), ask("fr")] == [("page", MISS), ("page", HIT)]
    (warning,) = warnings(caplog)
    assert "the context variable of no module is set" in warning


def test_none_matters_where_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    ask = client(lambda: "page", locale, key_context=())
    assert [ask("de"), ask("fr")] == [("page", MISS), ("page", HIT)]
    assert not warnings(caplog)


def test_what_was_set_at_decoration_is_the_same_for_all(caplog: pytest.LogCaptureFixture) -> None:
    token = at_start.set("production")
    try:
        ask = client(at_start.get)
        assert [ask(), ask()] == [("production", MISS), ("production", HIT)]
        assert not warnings(caplog)
    finally:
        at_start.reset(token)


def test_a_dependency_sets_one_too(caplog: pytest.LogCaptureFixture) -> None:
    async def set_locale(lang: str = "en") -> AsyncIterator[None]:
        locale.set(lang)
        yield

    app = FastAPI()

    @app.get("/", dependencies=[Depends(set_locale)])
    @stream_cached(ttl=60, cache=MemoryCache(), key_context=(locale,))
    async def endpoint(page: Annotated[int, Depends(lambda: 1)]) -> dict[str, str]:
        return {"locale": locale.get()}

    asked = [TestClient(app).get(f"/?lang={lang}").json()["locale"] for lang in ("de", "fr", "de")]
    assert asked == ["de", "fr", "de"]


def of_locale() -> str:
    return str(locale.get("-"))


def deeper() -> str:
    return of_locale()


async def by_get() -> Response:
    return PlainTextResponse(locale.get("-"))


async def by_a_module() -> Response:
    return PlainTextResponse(test_context.locale.get("-"))


async def by_functions() -> Response:
    return PlainTextResponse(deeper())


async def within() -> Response:
    async def rows() -> AsyncIterator[str]:
        yield locale.get("-")

    return StreamingResponse(rows())


def decorated(function: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(function)
    async def in_the_language() -> Response:
        return PlainTextResponse(f"{(await function()).body.decode()}{locale.get('-')}")

    return in_the_language


@decorated
async def by_a_decorator() -> Response:
    return PlainTextResponse("")


async def prefixed(prefix: str) -> Response:
    return PlainTextResponse(f"{prefix}{locale.get('-')}")


def traced(function: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(function)
    async def in_a_trace() -> Any:
        return await function()

    return in_a_trace


by_a_decorated_partial = traced(functools.partial(prefixed, ""))

READING = [
    *(by_get, by_a_module, by_functions, within, by_a_decorator),
    by_a_decorated_partial,
]


@pytest.mark.parametrize("function", READING)
def test_what_the_code_reads_is_not_cached_unless_it_is_in_the_key(
    function: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def asked(**settings: Any) -> list[tuple[str, str]]:
        app = FastAPI(middleware=[Middleware(Setting, variable=locale)])
        app.get("/")(stream_cached(ttl=60, cache=MemoryCache(), **settings)(function))
        headers = [{"X-Locale": value} for value in ("de", "fr", "de")]
        answers = [TestClient(app).get("/", headers=each) for each in [*headers, {}, {}]]
        return [(answer.text, answer.headers["Cache-Status"]) for answer in answers]

    texts = ["de", "fr", "de", "-", "-"]
    # A variable that is not set has its default for all.
    states = [BYPASS, BYPASS, BYPASS, MISS, HIT]
    assert asked() == [*zip(texts, states, strict=True)]
    (warning,) = warnings(caplog)
    assert "tests.request.test_context.locale" in warning
    assert asked(key_context=(of_locale,)) == [
        *zip(texts, [MISS, MISS, HIT, MISS, HIT], strict=True)
    ]


current: ContextVar[Any] = ContextVar("current")

HELD: dict[str, Callable[[Scope], Any]] = {
    "the request": Request,
    "a connection": HTTPConnection,
    "its headers": lambda scope: Headers(scope=scope),
    "its scope": dict,
}


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD)
@pytest.mark.parametrize("listed", [None, (), (lambda: user_in(current.get()),)])
def test_a_request_in_a_variable_is_not_cached(
    hold: Callable[[Scope], Any], listed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {} if listed is None else {"key_context": listed}

    @stream_cached(ttl=60, cache=MemoryCache(), **settings)
    async def endpoint() -> Response:
        return PlainTextResponse("rows" if listed == () else user_in(current.get()))

    app = FastAPI()
    app.get("/")(endpoint)

    async def holding(scope: Scope, receive: Receive, send: Send) -> None:
        current.set(hold(scope))
        await app(scope, receive, send)

    clients = [TestClient(holding, headers={"X-User": user}) for user in ("alice", "bob")]
    answers = [client.get("/") for client in clients * 2]
    states = [answer.headers["Cache-Status"] for answer in answers]
    if listed is None:
        assert [answer.text for answer in answers] == ["alice", "bob"] * 2
        assert states == [BYPASS] * 4
        (warning,) = warnings(caplog)
        assert "tests.request.test_context.current" in warning
    elif listed:
        assert [answer.text for answer in answers] == ["alice", "bob"] * 2
        assert states == [MISS, MISS, HIT, HIT]
    else:
        assert states == [MISS, HIT, HIT, HIT]


def user_in(held: Any) -> str:
    if type(held) is dict:
        held = Headers(scope=held)
    return str(getattr(held, "headers", held)["x-user"])


@pytest.mark.parametrize("package", ["starlette_context.ctx", "fastapi_babel"])
def test_what_is_known_to_decide_answers_is_not_cached(
    package: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    variable: ContextVar[Any] = ContextVar(package)
    module: Any = types.ModuleType(package)
    module.variable = variable
    monkeypatch.setitem(sys.modules, package, module)
    ask = client(lambda: variable.get("-"), variable)
    assert [ask("de"), ask("fr"), ask()] == [("de", BYPASS), ("fr", BYPASS), ("-", MISS)]
    (warning,) = warnings(caplog)
    assert f"{package}.variable" in warning
    ask = client(lambda: variable.get("-"), variable, key_context=(variable,))
    assert [ask("de"), ask("fr"), ask("de")] == [("de", MISS), ("fr", MISS), ("de", HIT)]


# The last is what a cache of cashews has for those who switch it off.
@pytest.mark.parametrize("name", ["structlog_request_id", "current_context", "139759542772784"])
def test_what_traces_requests_is_not_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    ask = client(lambda: "page", ContextVar(name))
    assert [ask("a"), ask("b")] == [("page", MISS), ("page", HIT)]
    assert not warnings(caplog)


def test_a_value_without_a_form_is_not_cached(caplog: pytest.LogCaptureFixture) -> None:
    ask = client(lambda: "page", locale, key_context=(locale,))
    assert ask("object") == ("page", BYPASS)
    (warning,) = warnings(caplog)
    assert "locale" in warning


def test_a_function_that_raises_does_not_fail_the_request(caplog: pytest.LogCaptureFixture) -> None:
    ask = client(lambda: "page", key_context=(locale.get,))
    text, state = ask()
    assert (text, state) == ("page", 'stream-cached; fwd=bypass; detail="function"')


@pytest.mark.parametrize("wrong", [locale, "locale", ("locale",), 1])
def test_what_is_no_variable_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a tuple of context variables"):
        stream_cached(ttl=60, key_context=wrong)
