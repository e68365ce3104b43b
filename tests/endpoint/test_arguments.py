"""Which arguments are part of a key, which are not, and what is said of those that can't be."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import enum
import functools
import ipaddress
import itertools
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple

import aiocache
import httpx
import pydantic
import pytest
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Header
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from typing_extensions import TypeAliasType

from stream_cached import (
    BypassError,
    ConfigurationError,
    MemoryCache,
    NotCached,
    NotInKey,
    not_in_key,
    stream_cached,
)
from stream_cached.endpoint import held
from stream_cached.endpoint.infrastructure import is_per_request
from tests.support.asgi import Exchange
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS
from tests.support.selection import no_address

ARGUMENT = 'stream-cached; fwd=bypass; detail="argument"'

_numbers = iter(range(1, 10**6))


def memory() -> str:
    """A memory that no other test has."""
    return f"memory://?max_bytes={(320 << 20) + next(_numbers)}"


def cached(**settings: Any) -> stream_cached:
    settings.setdefault("cache", memory())
    return stream_cached(ttl=60, **settings)


def request(**scope: Any) -> Request:
    return Request({**Exchange(Starlette()).scope, **scope})


def key_of(endpoint: Any, *args: Any, **kwargs: Any) -> str:
    """The key of a call with a request."""
    key: str = asyncio.run(endpoint.cache_key(request(), *args, **kwargs))
    return key


def refusal(endpoint: Any, *args: Any, **kwargs: Any) -> str:
    """Why a call has no key."""
    with pytest.raises(BypassError) as refused:
        key_of(endpoint, *args, **kwargs)
    return str(refused.value)


class Service:
    """Something without a form."""


class User:
    """Something without a form, too, but with something that tells it apart."""

    def __init__(self, id: int) -> None:
        self.id = id


async def report(request: Request, item: Any = None, *, other: Any = None) -> Response:
    return PlainTextResponse("rows")


async def of_anything(request: Request, *items: Any, **others: Any) -> Response:
    return PlainTextResponse("rows")


# -- what endpoints work with ---------------------------------------------------------------------


def of_sqlalchemy(name: str, module: str = "sqlalchemy.orm") -> Callable[[], Any]:
    return lambda: getattr(pytest.importorskip(module), name)()


def of_sqlalchemy_async(name: str) -> Callable[[], Any]:
    def make() -> Any:
        pytest.importorskip("greenlet")
        return of_sqlalchemy(name, "sqlalchemy.ext.asyncio")()

    return make


def of_openai() -> Any:
    return pytest.importorskip("openai").AsyncOpenAI(api_key="none")


def of_redis() -> Any:
    return pytest.importorskip("redis.asyncio").Redis()


def of_sqlite() -> Any:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        return connection


class OwnClient(httpx.AsyncClient):
    pass


class OwnLogger(logging.LoggerAdapter[logging.Logger]):
    pass


PLUMBING: dict[str, Callable[[], Any]] = {
    "Session": of_sqlalchemy("Session"),
    "sessionmaker": of_sqlalchemy("sessionmaker"),
    "AsyncSession": of_sqlalchemy_async("AsyncSession"),
    "async_sessionmaker": of_sqlalchemy_async("async_sessionmaker"),
    "Engine": lambda: pytest.importorskip("sqlalchemy").create_engine("sqlite://"),
    "httpx.AsyncClient": httpx.AsyncClient,
    "httpx.Client": httpx.Client,
    "a subclass of httpx.AsyncClient": OwnClient,
    "redis.asyncio.Redis": of_redis,
    "SimpleMemoryCache": aiocache.SimpleMemoryCache,
    "MemoryCache": MemoryCache,
    "Logger": lambda: logging.Logger("a name"),
    "LoggerAdapter": lambda: OwnLogger(logging.Logger("a name"), {}),
    "ThreadPoolExecutor": ThreadPoolExecutor,
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(1),
    "sqlite3": of_sqlite,
    "AsyncOpenAI": of_openai,
}


#: What the tests below put there.
ONE: Any = None
OTHER: Any = None


@pytest.mark.matrix(share=3)
@pytest.mark.parametrize("make", PLUMBING.values(), ids=PLUMBING)
def test_a_tool_that_a_module_holds_is_keyed_by_its_path_and_any_other_is_refused(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    endpoint = cached()(report)
    value, other = make(), make()
    assert "nothing says whose item is" in refusal(endpoint, value)
    monkeypatch.setitem(globals(), "ONE", value)
    monkeypatch.setitem(globals(), "OTHER", other)
    # No path may have led to what another test has put there.
    monkeypatch.setattr(held, "_led", {})
    monkeypatch.setattr(held, "_misses", {})
    if is_per_request(type(value)):
        # It may be put there for each request.
        assert all("nothing says whose" in refusal(endpoint, each) for each in (value, other))
    keys = [key_of(endpoint, each, other=1) for each in (value, other, value)]
    assert keys[0] == keys[2] != keys[1]
    with contextlib.suppress(TypeError):
        # As it is where a class has been put on top of it.
        value.__class__ = type("Derived", (type(value),), {})
        assert key_of(endpoint, value, other=1) == keys[0]


@pytest.mark.parametrize("make", [BackgroundTasks, Response])
def test_what_fastapi_makes_for_each_request_is_no_part_of_the_key(make: Callable[[], Any]) -> None:
    endpoint = cached()(report)
    assert key_of(endpoint, make(), other=1) == key_of(endpoint, make(), other=1)


def test_infrastructure_among_other_values_is_none() -> None:
    endpoint = cached()(report)
    assert "item is of type" in refusal(endpoint, [logging.getLogger("a")])


def test_a_session_of_sqlalchemy_is_no_part_of_the_key(tmp_path: Any) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("greenlet")
    pytest.importorskip("aiosqlite")
    orm = pytest.importorskip("sqlalchemy.ext.asyncio")
    engine = orm.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/rows.db")
    sessions = orm.async_sessionmaker(engine)
    seen: list[object] = []

    async def get_session() -> AsyncIterator[Any]:
        async with sessions() as session:
            yield session

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = engine
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/{number}")
    @cached()
    async def endpoint(number: int, session: Any = Depends(get_session)) -> Response:  # noqa: B008
        seen.append(session)
        row = await session.execute(sqlalchemy.text("select :number"), {"number": number})
        return PlainTextResponse(str(row.scalar_one()))

    with TestClient(app) as client:
        answers = [client.get(path) for path in ("/1", "/2", "/1")]
    assert [answer.text for answer in answers] == ["1", "2", "1"]
    assert [answer.headers["cache-status"] for answer in answers] == [MISS, MISS, HIT]
    assert len(seen) == 2


# -- not_in_key -----------------------------------------------------------------------------------


def test_not_in_key_counts_for_all_endpoints_also_for_those_that_were_decorated_before() -> None:
    class Base:
        pass

    class Derived(Base):
        pass

    class Stranger:
        pass

    before = cached()(report)
    assert "item is of type" in refusal(before, Base())
    not_in_key(Base)
    after = cached()(report)
    for endpoint in (before, after):
        assert key_of(endpoint, Base()) == key_of(endpoint, Base()) == key_of(endpoint, Derived())
        assert "item is of type" in refusal(endpoint, Stranger())


def test_not_in_key_takes_several_classes_and_may_be_called_again() -> None:
    class One:
        pass

    class Other:
        pass

    not_in_key(One, Other)
    not_in_key(One)
    endpoint = cached()(report)
    assert key_of(endpoint, One()) == key_of(endpoint, Other())


def test_not_in_key_leaves_out_what_would_have_a_form() -> None:
    class Settings(pydantic.BaseModel):
        debug: bool = False

    endpoint = cached()(report)
    assert key_of(endpoint, Settings()) != key_of(endpoint, Settings(debug=True))
    not_in_key(Settings)
    assert key_of(endpoint, Settings()) == key_of(endpoint, Settings(debug=True))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Service(), ["pass a class"]),
        ("Service", ["not_in_key('Service')", "pass a class"]),
        (None, ["pass a class"]),
        (object, ["not_in_key(object)", "a class of your own", "key_ignore="]),
        (str, ["not_in_key(str)"]),
        (dict, ["not_in_key(dict)"]),
        (int, ["key_ignore="]),
    ],
)
def test_what_not_in_key_can_not_take_is_refused(given: Any, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        not_in_key(given)
    for word in words:
        assert word in str(refused.value)


def test_a_refused_class_declares_none_of_the_others() -> None:
    class Fine:
        pass

    with pytest.raises(ConfigurationError):
        not_in_key(Fine, object)
    assert "item is of type" in refusal(cached()(report), Fine())


# -- NotInKey -------------------------------------------------------------------------------------


def get_service() -> Service:
    return Service()


Marked = Annotated[Service, NotInKey]
MarkedAgain = Annotated[Marked, "what it is for"]
MarkedInstance = Annotated[Service, "what it is for", NotInKey()]
Injected = Annotated[Service, Depends(get_service), NotInKey]
Alias = TypeAliasType("Alias", Annotated[Service, Depends(get_service), NotInKey])
AliasOfAlias = TypeAliasType("AliasOfAlias", Alias)
AnnotatedAlias = Annotated[Alias, "what it is for"]
Plain = Annotated[Service, Depends(get_service)]


async def marked(request: Request, item: Marked) -> None: ...


async def marked_again(request: Request, item: MarkedAgain) -> None: ...


async def marked_by_an_instance(request: Request, item: MarkedInstance) -> None: ...


async def marked_and_injected(request: Request, item: Injected) -> None: ...


async def marked_in_a_string(request: Request, item: "Marked") -> None: ...  # noqa: UP037


async def marked_as_a_keyword(request: Request, *, item: Marked) -> None: ...


async def marked_and_optional(
    request: Request, item: Annotated[Service | None, NotInKey]
) -> None: ...


async def marked_by_type(request: Request, item: Alias) -> None: ...


async def marked_by_types(request: Request, item: AliasOfAlias) -> None: ...


async def marked_beside_a_type(
    request: Request, item: Annotated[Alias, "what it is for", NotInKey]
) -> None: ...


async def marked_inside_a_type(request: Request, item: AnnotatedAlias) -> None: ...


async def unmarked(request: Request, item: Plain) -> None: ...


async def marked_by_default(request: Request, item: Any = NotInKey) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        marked,
        marked_again,
        marked_by_an_instance,
        marked_and_injected,
        marked_in_a_string,
        marked_as_a_keyword,
        marked_and_optional,
        marked_by_type,
        marked_by_types,
        marked_beside_a_type,
        marked_inside_a_type,
    ],
)
def test_a_marked_parameter_is_left_out(function: Any) -> None:
    endpoint = cached()(function)
    assert key_of(endpoint, item=Service()) == key_of(endpoint, item=Service())
    assert key_of(endpoint, item=1) == key_of(endpoint, item=2)


def test_an_unmarked_parameter_is_not() -> None:
    assert "item is of type" in refusal(cached()(unmarked), item=Service())


def test_a_marked_parameter_is_left_out_of_a_call_of_fastapi() -> None:
    app = FastAPI()

    @app.get("/a")
    @cached()
    async def annotated(item: Injected) -> Response:
        assert isinstance(item, Service)
        return PlainTextResponse("rows")

    @app.get("/b")
    @cached(key_ignore=("item",))
    async def ignored(item: Plain) -> Response:
        return PlainTextResponse("rows")

    client = TestClient(app)
    for path in ("/a", "/b"):
        found = [client.get(path).headers["cache-status"] for _ in range(2)]
        assert found == [MISS, HIT]


def session_of_user(x_user: Annotated[str, Header()]) -> logging.Logger:
    return logging.getLogger("a session of a user")


AliasOfUser = TypeAliasType("AliasOfUser", Annotated[logging.Logger, Depends(session_of_user)])


def test_a_dependency_in_an_alias_in_annotated_is_seen_where_fastapi_sees_it() -> None:
    app = FastAPI()

    async def endpoint(session: Annotated[AliasOfUser, "a session"]) -> Response:
        return PlainTextResponse("rows")

    try:
        app.get("/")(cached()(endpoint))
    except Exception:
        pytest.skip("this FastAPI does not look into it")
    answers = [TestClient(app).get("/", headers={"X-User": user}) for user in ("alice", "bob")]
    if answers[0].status_code != 200:
        pytest.skip("this FastAPI does not look into it")
    assert [answer.headers["cache-status"] for answer in answers] == [ARGUMENT] * 2


# -- key_ignore, key_args -------------------------------------------------------------------------


def test_an_ignored_argument_is_left_out_by_position_and_by_name() -> None:
    endpoint = cached(key_ignore=("item", "other"))(report)
    keys = {
        key_of(endpoint),
        key_of(endpoint, Service()),
        key_of(endpoint, item=Service(), other=1),
        key_of(endpoint, 1, other=2),
    }
    assert len(keys) == 1


def test_key_args_put_what_they_return_into_the_key() -> None:
    endpoint = cached(key_args={"item": lambda user: user.id})(report)
    assert key_of(endpoint, User(1)) == key_of(endpoint, item=User(1))
    assert key_of(endpoint, User(1)) != key_of(endpoint, User(2))
    assert key_of(endpoint, User(1)) != key_of(endpoint, User("1"))  # type: ignore[arg-type]


def test_key_args_are_asked_also_for_what_has_a_form_or_is_infrastructure() -> None:
    endpoint = cached(key_args={"item": lambda value: str(value).lower()})(report)
    assert key_of(endpoint, "A") == key_of(endpoint, "a") != key_of(endpoint, "b")
    endpoint = cached(key_args={"item": lambda logger: logger.name})(report)
    loggers = [logging.getLogger(name) for name in ("one", "one", "other")]
    one, same, other = (key_of(endpoint, logger) for logger in loggers)
    assert one == same != other


def test_key_args_are_asked_for_none_and_for_a_default() -> None:
    asked: list[object] = []

    def seen(value: object) -> str:
        asked.append(value)
        return "anything"

    endpoint = cached(key_args={"item": seen})(report)
    assert key_of(endpoint) == key_of(endpoint, None) == key_of(endpoint, 5)
    assert asked == [None, None, 5]


def test_a_failing_function_of_key_args_is_a_reason_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()

    @app.get("/")
    @cached(key_args={"item": lambda item: item.id})
    async def endpoint(item: Plain) -> Response:
        return PlainTextResponse("rows")

    client = TestClient(app)
    answers = [client.get("/") for _ in range(2)]
    assert [answer.text for answer in answers] == ["rows"] * 2
    assert [answer.headers["cache-status"] for answer in answers] == [ARGUMENT] * 2
    (warning,) = warnings(caplog)
    assert "key_args['item'] raised AttributeError" in warning
    assert "return a plain value" in warning


def test_what_key_args_return_needs_a_form() -> None:
    why = refusal(cached(key_args={"item": lambda item: Service()})(report), User(1))
    assert "key_args['item'] returned a value of type tests.endpoint.test_arguments.Service" in why
    assert "return a plain value" in why


# -- what is said ---------------------------------------------------------------------------------


async def with_many(
    request: Request, user: Any, service: Any, size: Any = 1, *, others: Any = ()
) -> Response:
    return PlainTextResponse("rows")


def test_one_warning_names_all_unkeyable_arguments_and_every_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = cached()(with_many)

    async def route(request: Request) -> Any:
        return await endpoint(request, User(1), Service(), 5, others=[object()])

    app = FastAPI()
    app.add_route("/", route)
    assert {TestClient(app).get("/").headers["cache-status"] for _ in range(2)} == {ARGUMENT}
    (warning,) = warnings(caplog)
    for name in ("user", "service", "others"):
        assert f"{name} is of type" in warning
    assert "size" not in warning
    for way in ("key_args=", "NotInKey", "key_ignore=", "not_in_key(", "key_builder="):
        assert way in warning
    assert "0x" not in warning


def test_the_lines_of_a_warning_can_be_written_as_they_are() -> None:
    why = refusal(cached()(with_many), User(1), Service(), 5, others=User(2))
    functions: dict[str, Any] = {}
    for line in re.findall(r"key_args=(\{.*?\}) with", why):
        functions |= eval(line)
    names = sum(map(ast.literal_eval, re.findall(r"key_ignore=(\(.*?\))", why)), ())
    (call,) = re.findall(r"not_in_key\(.*?\)", why)
    declared = re.findall(r"\w+: Annotated\[.*?NotInKey\]", why)
    assert {ast.unparse(ast.parse(line)) for line in declared} == {
        "user: Annotated[User, NotInKey]",
        "service: Annotated[Service, NotInKey]",
        "others: Annotated[User, NotInKey]",
    }
    assert call == "not_in_key(Service)"
    assert functions.keys() == {"user", "service", "others"}
    assert functions["user"](User(7)) == 7
    with pytest.raises(AttributeError):
        functions["service"](Service())
    assert sorted(names) == ["others", "service", "user"]
    ignoring = cached(key_ignore=names)(with_many)
    assert key_of(ignoring, User(1), Service()) == key_of(ignoring, User(2), Service())
    keyed = cached(key_args={**functions, "service": lambda service: "one"})(with_many)
    one, other = (key_of(keyed, User(n), Service(), others=User(3)) for n in (1, 2))
    assert one != other


def test_the_lines_for_one_argument_can_be_written_as_they_are() -> None:
    why = refusal(cached()(unmarked), Service())
    (key_ignore,) = re.findall(r"key_ignore=(\(.*?\))", why)
    assert ast.literal_eval(key_ignore) == ("item",)
    (declared,) = re.findall(r"item: Annotated\[.*?NotInKey\]", why)
    assert declared == "item: Annotated[Service, Depends(get_service), NotInKey]"
    ast.parse(declared)


@pytest.mark.parametrize("named", [False, True], ids=["*items", "**others"])
def test_the_lines_for_the_arguments_of_a_star_work(named: bool) -> None:
    args, kwargs = ((), {"user": User(1)}) if named else ((User(1),), {})
    why = refusal(cached()(of_anything), *args, **kwargs)
    (line,) = re.findall(r"key_args=(\{.*?\}) with", why)
    ast.parse(line)
    (key_ignore,) = re.findall(r"key_ignore=(\(.*?\))", why)
    ignoring = cached(key_ignore=ast.literal_eval(key_ignore))(of_anything)
    assert key_of(ignoring, *args, **kwargs)
    assert key_of(cached(key_args=eval(line))(of_anything), *args, **kwargs)


def test_key_ignore_and_key_args_count_for_keyword_arguments_of_any_name() -> None:
    """As they are written where the function is called."""
    endpoint = cached(key_ignore=("**user",))(of_anything)
    assert key_of(endpoint, user=User(1)) == key_of(endpoint, user=User(2))


@pytest.mark.parametrize("setting", ["key_ignore", "key_args"])
def test_keyword_arguments_of_any_name_are_named_as_they_are_passed(setting: str) -> None:
    settings = {"key_ignore": ("user",), "key_args": {"user": lambda user: user.id}}
    endpoint = cached(**{setting: settings[setting]})(of_anything)
    assert key_of(endpoint, user=User(1)) == key_of(endpoint, user=User(1))


# -- defaults -------------------------------------------------------------------------------------


async def with_defaults(
    request: Request,
    size: int = 5,
    words: Any = ("a", "b"),
    *,
    order: str = "asc",
    log: Any = logging.getLogger("a"),  # noqa: B008
) -> Response:
    return PlainTextResponse("rows")


def test_a_default_that_is_left_out_and_one_that_is_passed_share_a_key() -> None:
    endpoint = cached()(with_defaults)
    keys = {
        key_of(endpoint),
        key_of(endpoint, 5),
        key_of(endpoint, size=5),
        key_of(endpoint, order="asc"),
        key_of(endpoint, 5, ("a", "b")),
        key_of(endpoint, words=("a", "b"), order="asc", size=5),
        key_of(endpoint, 5, ("a", "b"), order="asc", log=logging.getLogger("a")),
    }
    assert len(keys) == 1
    others = [
        key_of(endpoint, 6),
        key_of(endpoint, 5.0),
        key_of(endpoint, order="desc"),
        key_of(endpoint, words=["a", "b"]),
        key_of(endpoint, log=logging.getLogger("other")),
    ]
    assert len({*keys, *others}) == len(others) + 1


async def with_positional_only(request: Request, a: int = 1, /, **others: Any) -> None: ...


def test_a_positional_only_parameter_is_not_the_keyword_argument_of_its_name() -> None:
    endpoint = cached()(with_positional_only)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((2,), {}),
        ((), {"a": 2}),
        ((2,), {"a": 2}),
        ((1,), {"a": 2, "b": 1}),
    ]
    keys = [key_of(endpoint, *args, **kwargs) for args, kwargs in calls]
    assert len(set(keys)) == len(keys)
    assert key_of(endpoint, 1) == keys[0]


async def with_fastapi_defaults(
    request: Request, size: int = 1, name: str = Cookie("somebody")
) -> None: ...


def test_the_default_of_a_marker_of_fastapi_is_what_fastapi_passes() -> None:
    endpoint = cached()(with_fastapi_defaults)
    assert key_of(endpoint) == key_of(endpoint, 1)
    assert key_of(endpoint) == key_of(endpoint, 1, "somebody")
    assert key_of(endpoint) != key_of(endpoint, 1, "somebody else")


def test_all_names_by_keyword_and_some_by_position_make_one_key() -> None:
    async def endpoint(request: Request, a: int, b: int = 2, *, c: int = 3) -> None: ...

    decorated = cached()(endpoint)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}),
        ((1, 2), {"c": 3}),
        ((), {"a": 1}),
        ((), {"c": 3, "b": 2, "a": 1}),
    ]
    keys = {
        asyncio.run(decorated.cache_key(*(request(), *args), **kwargs)) for args, kwargs in calls
    }
    keys.add(asyncio.run(decorated.cache_key(request=request(), c=3, b=2, a=1)))
    assert len(keys) == 1


# -- secrets --------------------------------------------------------------------------------------

SECRET = "s3cret"


class Leaky:
    """Shows its value wherever it can."""

    def __repr__(self) -> str:
        return f"<{SECRET}>"

    def __str__(self) -> str:
        return SECRET


def leaking(value: object) -> str:
    raise ValueError(SECRET)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"vary": ("X-Token",)},
        {"vary": {"X-Token": leaking}},
        {"vary": ("Cookie", "Authorization")},
        {"key_args": {"item": leaking}},
        {"key_args": {"item": lambda item: Leaky()}},
        {"key_args": {"item": str}},
        {"key_ignore": ("item",)},
        {"authorized": "vary"},
        {"authorized": "keyed"},
        {"key_host": False},
    ],
    ids=no_address,
)
@pytest.mark.parametrize("made", [lambda: SECRET, Leaky, lambda: {SECRET: [SECRET]}])
def test_values_stand_in_no_key_no_record_and_no_header(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], made: Callable[[], Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    app = FastAPI()

    def get_item() -> Any:
        return made()

    @app.get("/{path}")
    @cached(**settings)
    async def endpoint(
        request: Request,
        path: str,
        query: str,
        x_token: Annotated[str, Header()],
        name: Annotated[str, Cookie()],
        item: Any = Depends(get_item),  # noqa: B008
    ) -> Response:
        if "read" in query:
            request.headers.get("X-Other"), request.cookies, request.state.__dict__
        return PlainTextResponse("rows")

    base = f"http://{SECRET}.example.org"
    client = TestClient(app, base, headers={"X-Token": SECRET, "Cookie": f"name={SECRET}"})
    for suffix, headers in itertools.product(
        ("", "read"), ({}, {"Authorization": f"Bearer {SECRET}"})
    ):
        for _ in range(2):
            answer = client.get(f"/{SECRET}?query={SECRET}{suffix}", headers=headers)
            assert answer.status_code == 200
            assert SECRET not in str(answer.headers)
    assert not any(SECRET in key for key in endpoint.cache.sizes())
    told = [record for record in caplog.records if record.name == "stream_cached"]
    assert not any(SECRET in f"{record.getMessage()}{record.__dict__}" for record in told)


# -- settings that can't work ---------------------------------------------------------------------


async def key_of_user(user: Any) -> str:
    return "alice"


async def without_request(size: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"authorized": "x"}, ["authorized='x'", "'bypass', 'vary', 'keyed', 'share'"]),
        ({"authorized": True}, ["authorized=True", "'bypass'"]),
        ({"authorized": None}, ["authorized=None", "'bypass'"]),
        ({"key_host": 1}, ["key_host=1", "True or False"]),
        ({"key_host": "example.org"}, ["key_host='example.org'", "True or False"]),
        ({"request_key": 0}, ["request_key=0", "True or False"]),
        ({"request_key": None}, ["request_key=None", "True or False"]),
        ({"key_args": ("item",)}, ["key_args=('item',)", "lambda"]),
        ({"key_args": None}, ["key_args=None", "lambda"]),
        ({"key_args": "item"}, ["key_args='item'", "lambda"]),
        ({"key_args": {"item": "id"}}, ["key_args['item']", "pass a function"]),
        ({"key_args": {"item": key_of_user}}, ["key_args['item']", "returns at once"]),
        ({"key_args": {"user": str}}, ["key_args= names user", "takes request, item, other"]),
        ({"key_ignore": "item"}, ["key_ignore='item'", "key_ignore=('item',)"]),
        ({"key_ignore": (1,)}, ["key_ignore=[1]", "names of arguments"]),
        ({"key_ignore": ("",)}, ["key_ignore=", "names of arguments"]),
        ({"key_ignore": ("user", "x")}, ["key_ignore= names user, x", "takes request, item"]),
        (
            {"key_ignore": ("item",), "key_args": {"item": str}},
            ["item stands in key_args= and in key_ignore=", "pass one of them"],
        ),
        ({"unguarded": "client"}, ["unguarded='client'", "unguarded=('client',)"]),
        ({"unguarded": ("a header",)}, ["unguarded='a header'", "the name of a header"]),
        ({"unguarded": ("state",)}, ["unguarded='state'", '"state.NAME"']),
        ({"unguarded": ("scope",)}, ["unguarded='scope'", '"scope.NAME"']),
        ({"unguarded": (5,)}, ["unguarded="]),
        ({"request_key": False}, ["takes a request", "leave request_key=False out"]),
    ],
    ids=no_address,
)
def test_a_setting_that_can_not_work_is_refused_at_decoration(
    settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        cached(**settings)(report)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("word", ["state.", "scope."])
def test_a_word_of_unguarded_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError):
        cached(unguarded=(word,))(report)


@pytest.mark.parametrize(
    "settings",
    [
        {"vary": ("Accept",)},
        {"authorized": "share"},
        {"authorized": "vary"},
        {"key_host": False},
        {"unguarded": ("client",)},
    ],
    ids=str,
)
def test_what_is_about_the_request_is_refused_without_one(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        cached(request_key=False, **settings)(without_request)
    assert f"{next(iter(settings))}= is about the request" in str(refused.value)
    assert "request_key=False" in str(refused.value)


@pytest.mark.parametrize("key", [{"key": "one"}, {"key_builder": lambda f, *args, **kw: "one"}])
def test_a_function_that_takes_a_request_may_leave_it_out_under_a_key_of_its_own(
    key: dict[str, Any],
) -> None:
    cached(request_key=False, **key)(report)


# -- without a request ----------------------------------------------------------------------------


def test_a_helper_that_two_routes_depend_on_runs_once_and_can_be_called() -> None:
    app = FastAPI()
    runs: list[int] = []

    @cached(request_key=False)
    async def rows(size: int = 3) -> list[int]:
        runs.append(size)
        return list(range(size))

    @app.get("/one")
    async def one(found: list[int] = Depends(rows)) -> list[int]:  # noqa: B008
        return found

    @app.get("/other/{item}")
    async def other(item: str, found: list[int] = Depends(rows)) -> list[int]:  # noqa: B008
        return found

    client = TestClient(app)
    for path in ("/one", "/other/a", "/other/b?page=2"):
        assert client.get(path).json() == [0, 1, 2]
    assert runs == [3]
    assert client.get("/one?size=1").json() == client.get("/other/a?size=1").json() == [0]
    assert runs == [3, 1]
    assert asyncio.run(rows(size=1)) == [0]  # type: ignore[arg-type]
    assert runs == [3, 1]
    parameters = app.openapi()["paths"]["/one"]["get"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["size"]


def test_a_dependency_that_is_keyed_by_its_request_does_not_share_across_paths() -> None:
    """Which is what request_key=False is for."""
    app = FastAPI()
    runs: list[str] = []

    @cached()
    async def rows() -> str:
        runs.append("run")
        return "rows"

    @app.get("/{item}")
    async def route(item: str, found: str = Depends(rows)) -> str:
        return found

    client = TestClient(app)
    for path in ("/a", "/b", "/a"):
        client.get(path)
    assert len(runs) == 2


async def helper(a: Any = None, b: Any = None, *, c: Any = None) -> Any:
    return [a, b, c]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, "a"), {"c": None}),
        (([1, {"a": 2}], None), {"c": (1,)}),
        ((), {"c": 1, "a": 2}),
        ((b"a", 1.5), {"b": True}),
    ],
)
@pytest.mark.parametrize("noself", [False, True])
@pytest.mark.parametrize("request_key", [False, True])
def test_the_key_of_a_call_without_a_request_is_aiocaches(
    args: tuple[Any, ...], kwargs: dict[str, Any], noself: bool, request_key: bool
) -> None:
    if args and "b" in kwargs and len(args) > 1:
        args = args[:1]
    expected = aiocache.cached(noself=noself).get_cache_key(helper, args, kwargs)
    endpoint: Any = cached(request_key=request_key, noself=noself)(helper)
    assert asyncio.run(endpoint.cache_key(*args, **kwargs)) == expected

    async def stored() -> bool:
        await endpoint(*args, **kwargs)
        return bool(await endpoint.cache.exists(expected))

    assert asyncio.run(stored())


def test_loggers_are_told_apart_by_a_helper_and_others_are_refused() -> None:
    endpoint: Any = cached(request_key=False, key_ignore=("c",))(helper)

    def key(*args: Any, **kwargs: Any) -> str:
        return str(asyncio.run(endpoint.cache_key(*args, **kwargs)))

    loggers = logging.getLogger("one"), logging.getLogger("other")
    assert len({key(logger, 1, c=Service()) for logger in loggers}) == 2
    assert key(loggers[0], 1) != key(loggers[0], 2)
    with pytest.raises(BypassError, match=r"a is of type.*Service"):
        key(Service())
    with pytest.raises(BypassError, match="leave request_key=False out"):
        key(request())


@dataclasses.dataclass
class Caller:
    name: str = dataclasses.field(repr=False)


class CallerModel(pydantic.BaseModel):
    name: str = pydantic.Field(repr=False)


class CallerClass:
    name = ""


class Text(str):
    def __repr__(self) -> str:
        return "'a text'"


def class_of(name: str) -> type:
    CallerClass.name = name
    return CallerClass


HIDING: dict[str, Callable[[str], Any]] = {
    "SecretStr": pydantic.SecretStr,
    "an object with a repr of its own": lambda name: type(
        "Hidden", (), {"__repr__": lambda self: "<user>", "name": name}
    )(),
    "a field of a dataclass": Caller,
    "a field of a model": lambda name: CallerModel(name=name),
    "a text": Text,
    "in a list": lambda name: [pydantic.SecretStr(name)],
    "in a dict": lambda name: {"user": Caller(name)},
    "a class": class_of,
    "a view of a memory": lambda name: memoryview(name.encode()),
}


def name_in(value: Any) -> str:
    value = value[0] if isinstance(value, list) else value
    value = value["user"] if isinstance(value, dict) else value
    if isinstance(value, memoryview):
        return bytes(value).decode()
    if hasattr(value, "get_secret_value"):
        return str(value.get_secret_value())
    return str.__str__(value) if isinstance(value, str) else str(value.name)


@pytest.mark.parametrize("make", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("request_key", [False, True])
def test_values_that_do_not_show_are_told_apart_by_a_helper(
    make: Callable[[str], Any], request_key: bool
) -> None:
    @cached(request_key=request_key)
    async def profile(user: Any) -> str:
        return name_in(user)

    async def test() -> None:
        for name in ("alice", "bob", "anna", "ben"):
            assert await profile(make(name)) == name

    asyncio.run(test())


class Update(pydantic.BaseModel):
    name: str | None = None
    age: int | None = None


@pytest.mark.parametrize("request_key", [False, True])
def test_models_of_which_other_fields_are_set_are_told_apart_by_a_helper(request_key: bool) -> None:
    @cached(request_key=request_key)
    async def changes(update: Update) -> dict[str, Any]:
        return update.model_dump(exclude_unset=True)

    async def test() -> None:
        given: list[dict[str, Any]] = [
            {},
            {"name": None},
            {"age": None},
            {"age": None, "name": None},
        ]
        for each in given * 2:
            assert await changes(Update(**each)) == each
            assert await changes(update=Update(**each)) == each

    asyncio.run(test())


def test_the_key_of_a_model_with_all_its_fields_is_aiocaches() -> None:
    update = Update(name="alice", age=1)
    expected = aiocache.cached().get_cache_key(helper, (update,), {})
    endpoint: Any = cached()(helper)
    assert asyncio.run(endpoint.cache_key(update)) == expected


@pytest.mark.parametrize("make", [pydantic.SecretStr, Caller, lambda name: [Caller(name)]])
def test_values_that_do_not_show_have_hits(make: Callable[[str], Any]) -> None:
    runs = []

    @cached()
    async def profile(user: Any) -> str:
        runs.append(user)
        return name_in(user)

    async def test() -> None:
        assert [await profile(make("alice")) for _ in range(2)] == ["alice"] * 2

    asyncio.run(test())
    assert len(runs) == 1


# -- cache_key ------------------------------------------------------------------------------------


def in_store(endpoint: Any, key: str) -> bool:
    return any(stored == key or stored.startswith(f"{key}:") for stored in endpoint.cache.sizes())


@pytest.mark.parametrize("declared", [True, False])
def test_cache_key_is_what_the_store_holds_and_what_invalidate_takes(declared: bool) -> None:
    endpoint: Any
    if declared:

        @cached()
        async def endpoint(request: Request, size: int = 1) -> Response:
            return PlainTextResponse("rows")

    else:

        @cached()
        async def endpoint(size: int = 1) -> Response:
            return PlainTextResponse("rows")

    keys: list[str] = []
    seen: list[Request] = []
    app = FastAPI()

    @app.middleware("http")
    async def invalidating(request: Request, call_next: Any) -> Any:
        seen.append(request)
        if "invalidate" in request.headers:
            keys.append(await endpoint.cache_key(request=request, size=2))
            await endpoint.invalidate(key=keys[-1])
        return await call_next(request)

    app.get("/")(endpoint)
    client = TestClient(app)

    def ask(size: int, **headers: str) -> str:
        return str(client.get(f"/?size={size}", headers=headers).headers["cache-status"])

    assert [ask(2), ask(2), ask(1), ask(1)] == [MISS, HIT, MISS, HIT]
    assert ask(2, invalidate="yes") == MISS
    assert in_store(endpoint, keys[0])
    assert [ask(2), ask(1)] == [HIT, HIT]


def test_head_and_get_have_one_key() -> None:
    endpoint = cached()(report)
    one, other = (
        asyncio.run(endpoint.cache_key(request(method=method))) for method in ("GET", "HEAD")
    )
    assert one == other
    with pytest.raises(BypassError) as refused:
        asyncio.run(endpoint.cache_key(request(method="POST")))
    assert refused.value.reasons == (NotCached.METHOD,)


@pytest.mark.parametrize(
    ("scope", "argument", "reason"),
    [
        ({"method": "POST"}, None, NotCached.METHOD),
        ({"method": "DELETE"}, None, NotCached.METHOD),
        ({"headers": [(b"content-type", b"multipart/form-data")]}, None, NotCached.UPLOAD),
        ({}, Service(), NotCached.ARGUMENT),
        ({"headers": [(b"x-bad", b"1")]}, None, NotCached.NORMALISER),
    ],
)
def test_cache_key_raises_for_what_is_not_for_the_cache(
    scope: dict[str, Any], argument: Any, reason: NotCached
) -> None:
    def normalise(value: str) -> Any:
        return None if value else ""

    endpoint = cached(vary={"X-Bad": normalise})(report)
    with pytest.raises(BypassError) as refused:
        asyncio.run(endpoint.cache_key(request(**scope), argument))
    assert refused.value.reasons == (reason,)
    assert "Fix: " in str(refused.value)


def test_a_call_goes_on_after_its_key_was_asked_for_with_a_body() -> None:
    endpoint = cached(methods=("POST",))(echo)

    async def route(request: Request) -> Any:
        keys = [await endpoint.cache_key(request) for _ in range(2)]
        assert keys[0] == keys[1]
        return await endpoint(request)

    app = Starlette()
    app.add_route("/", route, methods=["POST"])
    client = TestClient(app)
    answers = [client.post("/", content=body) for body in (b"one", b"two", b"one")]
    assert [answer.content for answer in answers] == [b"one", b"two", b"one"]
    assert [answer.headers["cache-status"] for answer in answers] == [MISS, MISS, HIT]


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def test_the_key_of_a_partial_holds_what_it_has_bound() -> None:
    keys = {key_of(cached()(functools.partial(report, other=value)), 1) for value in (1, "1", True)}
    assert len(keys) == 3


def test_not_in_key_is_a_decorator_of_classes() -> None:
    @not_in_key
    class Tool:
        pass

    assert key_of(cached()(report), Tool()) == key_of(cached()(report), Tool())


def test_a_header_that_is_another_one_for_each_request_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @cached()
    async def endpoint(x_request_id: Annotated[str, Header()] = "") -> Response:
        return PlainTextResponse("rows")

    @cached(key_ignore=("x_request_id",))
    async def ignoring(x_request_id: Annotated[str, Header()] = "") -> Response:
        return PlainTextResponse("rows")

    (warning,) = [r.getMessage() for r in caplog.records if r.name == "stream_cached"]
    assert "x-request-id is another one for each request" in warning
    assert "key_ignore=" in warning


@pytest.mark.parametrize("word", ["request.state.user", "headers.x-user", "state", "scope"])
def test_a_word_that_looks_like_code_is_no_name_of_a_header(word: str) -> None:
    with pytest.raises(ConfigurationError):
        cached(unguarded=(word,))


@pytest.mark.parametrize("function", [lambda: 1, lambda one, other: 1])
def test_a_function_of_key_args_takes_one_argument(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="a function of one argument"):
        cached(key_args={"item": function})


def test_not_in_key_is_no_default() -> None:
    async def endpoint(request: Request, item: Any = NotInKey) -> Response:
        return PlainTextResponse("rows")

    with pytest.raises(ConfigurationError, match="as the default of item"):
        cached()(endpoint)


def test_what_an_argument_holds_is_named_beside_its_own_class() -> None:
    @dataclasses.dataclass
    class Context:
        service: Service

    why = refusal(cached()(report), Context(Service()))
    assert "Context, which holds a tests.endpoint.test_arguments.Service" in why


@pytest.mark.parametrize(
    "words",
    [
        ("X-Request-ID", "client", "state.request_id"),
        ("state.scope_id", "state.header", "scope.state_of_things", "request.current_user"),
        ("Cookie", "cookies", "session", "user", "auth", "host", "url", "headers", "request"),
        ("header.user", "X-State", "Scope-ID", "scope.fastapi_users.session"),
    ],
)
def test_words_of_unguarded(words: tuple[str, ...]) -> None:
    assert cached(unguarded=words)(report)


class Color(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


@dataclasses.dataclass
class Place:
    city: str
    size: Size = Size.SMALL


class PlaceModel(pydantic.BaseModel):
    city: str
    colors: list[Color] = []


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "value",
    [
        Color.RED,
        Size.SMALL,
        Place("Ulm"),
        PlaceModel(city="Ulm", colors=[Color.RED]),
        Point(1, 2),
        {1},
        {"places": [Place("Ulm"), None]},
        ipaddress.ip_address("127.0.0.1"),
    ],
    ids=repr,
)
def test_a_value_whose_repr_shows_all_of_it_has_the_key_of_aiocache(value: object) -> None:
    endpoint: Any = cached()(helper)
    for args, kwargs in ((value,), {}), ((), {"a": value}):
        expected = aiocache.cached().get_cache_key(helper, args, kwargs)
        assert asyncio.run(endpoint.cache_key(*args, **kwargs)) == expected
