"""What a FastAPI endpoint returns is stored as FastAPI renders it, as without the cache."""

from __future__ import annotations

import datetime
import functools
import gc
import itertools
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Header,
    Request,
    Response,
    routing,
)
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field, field_validator
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.datastructures import Headers
from starlette.responses import StreamingResponse
from starlette.routing import Match
from starlette.types import Scope

from stream_cached import stream_cached
from stream_cached.runs.run import Run
from tests.conftest import Serve
from tests.support.added import ADDED_BYTES
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawResponse, fetch
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

COLLAPSED = "stream-cached; fwd=uri-miss; collapsed"


class Decorate(Protocol):
    def __call__(self, **options: Any) -> Callable[[Any], Any]: ...


def undecorated(**options: Any) -> Callable[[Any], Any]:
    return lambda function: function


_sizes = itertools.count(3 << 24)


def memory() -> str:
    """A store that no other test has: equal URLs share one."""
    return f"memory://?max_bytes={next(_sizes)}"


def cached(cache: str | None = None, **settings: Any) -> Decorate:
    return functools.partial(stream_cached, ttl=60, cache=cache or memory(), **settings)


class Item(BaseModel):
    name: str
    made: datetime.datetime
    price: float = Field(serialization_alias="Price")
    note: str | None = None


class Narrow(BaseModel):
    name: str


class Cat(BaseModel):
    meows: bool


class Dog(BaseModel):
    barks: bool


@dataclass
class Point:
    x: int
    label: str = "é"


class Base(DeclarativeBase):
    pass


class Hero(Base):
    __tablename__ = "hero"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class HeroOut(BaseModel, from_attributes=True):
    id: int
    name: str


NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
ITEM = Item(name="ü", made=NOON, price=1.5)


class Work:
    """What each endpoint of the application does first: it counts, and waits while it is held."""

    def __init__(self) -> None:
        self.runs = 0
        self.began, self.gate = Gate(), Gate()

    def hold(self) -> None:
        self.began, self.gate = Gate(), Gate()

    async def done(self) -> None:
        self.runs += 1
        self.began.open()
        await self.gate.passed()

    def done_in_thread(self) -> None:
        self.runs += 1
        self.began.open()
        self.gate.wait()


engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)


def session() -> Iterator[Session]:
    with Session(engine) as current:
        yield current
        current.rollback()


def cookies(response: Response) -> None:
    response.set_cookie("seen", "yes")
    response.headers["X-By"] = "dependency"


async def loops_thread() -> int:
    return threading.get_ident()


def accepted(response: Response) -> None:
    response.status_code = 203


def add_values(app: FastAPI, cached: Decorate, work: Work) -> None:
    @app.get("/dict")
    @cached()
    async def as_dict() -> Any:
        await work.done()
        return {"made": NOON, "nested": {"set": {1}}, "rows": (n for n in range(3))}

    @app.get("/model")
    @cached()
    def as_model() -> Item:
        work.done_in_thread()
        return ITEM

    @app.get("/models", response_model=list[Item], response_model_exclude_none=True)
    @cached()
    async def as_models() -> Any:
        await work.done()
        return [ITEM, {"name": "b", "made": NOON, "price": 2}]

    @app.get("/narrow", response_model=Narrow)
    @cached()
    async def as_narrow() -> Any:
        await work.done()
        return {"name": "a", "secret": "left out"}

    @app.get("/dataclass")
    @cached()
    async def as_dataclass() -> Point:
        await work.done()
        return Point(1)

    @app.get("/union")
    @cached()
    async def as_union() -> Cat | Dog:
        await work.done()
        return Dog(barks=True)

    @app.get("/without-model", response_model=None)
    @cached()
    async def without_model() -> Item | dict[str, int]:
        await work.done()
        return ITEM

    @app.get("/none")
    @cached()
    async def none() -> None:
        await work.done()


def add_rows(app: FastAPI, cached: Decorate, work: Work) -> None:
    @app.get("/row", response_model=HeroOut)
    @cached()
    async def as_row(current: Annotated[Session, Depends(session)]) -> Any:
        await work.done()
        return current.get(Hero, 1)

    @app.get("/rows", response_model=list[HeroOut])
    @cached()
    def as_rows(current: Annotated[Session, Depends(session)]) -> Any:
        work.done_in_thread()
        return current.scalars(select(Hero)).all()


def add_responses(app: FastAPI, cached: Decorate, work: Work) -> None:
    @app.get("/201", status_code=201)
    @cached()
    async def created() -> dict[str, int]:
        await work.done()
        return {"a": 1}

    @app.get("/204", status_code=204, response_model=None)
    @cached()
    def empty() -> None:
        work.done_in_thread()

    @app.get("/class", response_class=HTMLResponse)
    @cached()
    async def as_html() -> str:
        await work.done()
        return "<p>é</p>"

    @app.get(
        "/stream",
        response_class=StreamingResponse,
        response_model=None,
        dependencies=[Depends(cookies)],
    )
    @cached()
    async def as_stream() -> Any:
        await work.done()
        return ["a", "b"]


def add_injected(app: FastAPI, cached: Decorate, work: Work) -> None:
    @app.get("/injected")
    @cached()
    async def injected(response: Response) -> dict[str, int]:
        await work.done()
        response.headers["X-By"] = "endpoint"
        response.status_code = 404
        return {"a": 1}

    @app.get("/both", dependencies=[Depends(cookies)])
    @cached()
    async def by_both(response: Response) -> dict[str, int]:
        await work.done()
        response.headers["X-More"] = "endpoint"
        return {"a": 1}

    @app.get("/replaced", dependencies=[Depends(cookies)])
    @cached()
    async def replaced(response: Response) -> dict[str, int]:
        await work.done()
        response.headers["X-By"] = "endpoint"
        return {"a": 1}

    @app.get("/cookie", dependencies=[Depends(cookies)])
    @cached()
    async def with_cookie() -> dict[str, int]:
        await work.done()
        return {"a": 1}

    @app.get("/status", dependencies=[Depends(accepted)], status_code=204, response_model=None)
    @cached()
    async def other_status() -> Any:
        await work.done()
        return {"a": 1}

    @app.get("/own", dependencies=[Depends(cookies)])
    @cached()
    async def own() -> Any:
        await work.done()
        # FastAPI leaves out what dependencies have put beside a response of the endpoint's own.
        return PlainTextResponse("own")


def add_routers(app: FastAPI, cached: Decorate, work: Work) -> None:
    inner = APIRouter(dependencies=[Depends(cookies)])

    @inner.get("/text")
    @cached()
    async def text() -> str:
        await work.done()
        return "of the router's class"

    outer = APIRouter(prefix="/outer", default_response_class=PlainTextResponse)
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer)
    app.include_router(inner, prefix="/json")
    mounted = FastAPI()
    mounted.include_router(inner, prefix="/in")
    app.mount("/mounted", mounted)
    around = APIRouter()
    innermost = FastAPI()

    @innermost.get("/text")
    @cached()
    async def in_a_mount_of_a_router() -> str:
        await work.done()
        return "text"

    around.mount("/deep", innermost)
    app.include_router(around, prefix="/around")


PATHS = [
    "/dict",
    "/model",
    "/models",
    "/narrow",
    "/dataclass",
    "/row",
    "/rows",
    "/union",
    "/without-model",
    "/none",
    "/201",
    "/204",
    "/class",
    "/stream",
    "/injected",
    "/both",
    "/replaced",
    "/cookie",
    "/status",
    "/own",
    "/outer/inner/text",
    "/json/text",
    "/mounted/in/text",
]
if hasattr(routing, "_EffectiveRouteContext"):
    # Older versions include no mounts.
    PATHS.append("/around/deep/text")


def create_app(cached: Decorate) -> tuple[FastAPI, Work]:
    Base.metadata.create_all(engine)
    with Session(engine) as first:
        first.merge(Hero(id=1, name="a"))
        first.commit()
    app, work = FastAPI(), Work()
    for add in (add_values, add_rows, add_responses, add_injected, add_routers):
        add(app, cached, work)
    return app, work


def seen(answer: RawResponse) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """What a client sees of an answer, but for what the cache says of it."""
    assert answer.complete
    # The length of a stream is known on a hit.
    left_out = {*ADDED_BYTES, b"date", b"transfer-encoding"}
    if answer.header("Content-Type") is None:
        left_out.add(b"content-length")
    headers = [(k.lower(), v) for k, v in answer.headers]
    return answer.status, [field for field in headers if field[0] not in left_out], answer.body


def plain(serve: Serve, path: str) -> RawResponse:
    app, work = create_app(undecorated)
    work.gate.open()
    return fetch(serve(app).port, path)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Open once a request waits for the run of another one."""
    waits, answered = Gate(), Run.answered

    async def observed(run: Run, seconds: float) -> bool:
        waits.open()
        return await answered(run, seconds)

    monkeypatch.setattr(Run, "answered", observed)
    return waits


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("path", PATHS)
def test_miss_join_and_hit_are_as_without_the_decorator(
    serve: Serve, cache_url: str, path: str, waits: Gate
) -> None:
    app, work = create_app(cached(cache_url))
    server = serve(app)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(fetch, server.port, path)]
        work.began.wait()
        asked.append(threads.submit(fetch, server.port, path))
        waits.wait()
        work.gate.open()
        answers = [each.result() for each in asked]
    answers.append(fetch(server.port, path))
    assert [seen(answer) for answer in answers] == [seen(plain(serve, path))] * 3
    assert [answer.header("Cache-Status") for answer in answers] == [MISS, COLLAPSED, HIT]
    assert work.runs == 1


# -- what is sent fresh with each answer ----------------------------------------------------------


def get(app: FastAPI, *paths: str, **options: Any) -> list[Any]:
    with TestClient(app, **options) as client:
        return [client.get(path) for path in paths]


def statuses(answers: list[Any]) -> list[str | None]:
    return [answer.headers.get("Cache-Status") for answer in answers]


def test_what_dependencies_put_on_the_response_is_of_each_request() -> None:
    app, numbers, told = FastAPI(), itertools.count(), list[int]()

    def visit(response: Response, tasks: BackgroundTasks) -> None:
        number = next(numbers)
        response.set_cookie("visit", str(number))
        response.headers["X-Visit"] = str(number)
        tasks.add_task(told.append, number)

    for name in ("hidden", "own"):

        async def hidden() -> dict[str, int]:
            return {"a": 1}

        async def own(response: Response) -> dict[str, int]:
            response.headers["X-Own"] = "stored"
            return {"a": 1}

        endpoint = stream_cached(ttl=60, cache=memory())(own if name == "own" else hidden)
        app.get(f"/{name}", dependencies=[Depends(visit)])(endpoint)

    answers = get(app, "/hidden", "/hidden", "/own", "/own")
    assert statuses(answers) == [MISS, HIT] * 2
    assert [answer.headers["X-Visit"] for answer in answers] == ["0", "1", "2", "3"]
    assert [answer.headers["Set-Cookie"][:7] for answer in answers] == [
        f"visit={number}" for number in range(4)
    ]
    assert [answer.headers.get("X-Own") for answer in answers] == [None, None, "stored", "stored"]
    assert told == [0, 1, 2, 3]


def test_a_cookie_of_the_endpoint_is_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    app, numbers = FastAPI(), itertools.count()

    @app.get("/", dependencies=[Depends(cookies)])
    @cached()()
    async def endpoint(response: Response) -> int:
        number = next(numbers)
        response.set_cookie("number", str(number))
        return number

    answers = get(app, "/", "/")
    assert [answer.json() for answer in answers] == [0, 1]
    assert statuses(answers) == ['stream-cached; fwd=uri-miss; detail="set-cookie"'] * 2
    sent = [answer.headers.get_list("set-cookie") for answer in answers]
    assert [[each.split(";")[0] for each in of_one] for of_one in sent] == [
        ["seen=yes", f"number={number}"] for number in range(2)
    ]
    assert len(warnings(caplog)) == 1


def test_a_status_by_a_dependency_is_sent_with_the_body_that_goes_with_it() -> None:
    app, runs = FastAPI(), itertools.count()

    def by_query(response: Response, status: int | None = None) -> None:
        if status is not None:
            response.status_code = status

    def by_cookie(response: Response, status: Annotated[int | None, Cookie()] = None) -> None:
        if status is not None:
            response.status_code = status

    @app.get("/", dependencies=[Depends(by_query), Depends(by_cookie)])
    @cached()(statuses=(200, 203, 204))
    async def endpoint() -> int:
        return next(runs)

    with TestClient(app) as client:
        for status, body in ((None, b"0"), ("203", b"1"), ("204", b"")):
            headers = {} if status is None else {"Cookie": f"status={status}"}
            answers = [client.get("/", headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [int(status or 200)] * 2
            assert [answer.content for answer in answers] == [body] * 2
            assert statuses(answers) == [MISS, HIT]


def test_the_headers_of_dependencies_say_whether_an_answer_may_be_shared() -> None:
    app, runs = FastAPI(), itertools.count()

    def private(response: Response) -> None:
        response.headers["Cache-Control"] = "private"

    def varying(response: Response, lang: Annotated[str, Header()] = "") -> None:
        response.headers["Vary"] = "Lang"

    @app.get("/private", dependencies=[Depends(private)])
    @cached()()
    async def of_one() -> int:
        return next(runs)

    @app.get("/varying", dependencies=[Depends(varying)])
    @cached()()
    async def of_language() -> int:
        return next(runs)

    bypassed = 'stream-cached; fwd=uri-miss; detail="cache-control"'
    assert statuses(get(app, "/private", "/private")) == [bypassed] * 2
    with TestClient(app) as client:
        answers = [client.get("/varying", headers={"Lang": each}) for each in ("en", "de", "en")]
    assert [answer.json() for answer in answers] == [2, 3, 2]
    assert [answer.headers["Vary"] for answer in answers] == ["Lang"] * 3


def test_an_answer_that_passes_the_cache_by_says_so() -> None:
    app = FastAPI()

    @app.post("/", dependencies=[Depends(cookies)])
    @cached()()
    async def endpoint() -> dict[str, int]:
        return {"a": 1}

    with TestClient(app) as client:
        answer = client.post("/")
    assert answer.headers["Cache-Status"] == "stream-cached; fwd=method"
    assert (answer.json(), answer.headers["X-By"]) == ({"a": 1}, "dependency")


# -- what goes for any response --------------------------------------------------------------------


def test_values_are_invalidated_served_stale_and_given_to_head(cache_url: str) -> None:
    app, runs, fails = FastAPI(), itertools.count(), [False]

    @cached(cache_url)(stale_if_error=60)
    async def endpoint(number: int) -> dict[str, int]:
        if fails[0]:
            raise LookupError
        return {"number": number, "run": next(runs)}

    app.api_route("/{number}", methods=["GET", "HEAD"])(endpoint)

    @app.post("/")
    async def changed() -> bool:
        invalidated: bool = await endpoint.invalidate()
        return invalidated

    with TestClient(app) as client:
        assert [client.get("/1").json()["run"] for _ in range(2)] == [0, 0]
        head = client.head("/1")
        assert (head.headers["Cache-Status"], head.headers["Content-Length"]) == (HIT, "20")
        assert client.post("/").json() is True
        assert [client.get("/1").json()["run"] for _ in range(2)] == [1, 1]


def test_a_stale_value_is_served_where_rendering_fails() -> None:
    app, returned = FastAPI(), itertools.chain([{"name": "a"}], itertools.repeat({"wrong": 1}))

    @app.get("/", response_model=Narrow)
    @stream_cached(ttl=0.001, cache=memory(), stale_if_error=60)
    async def endpoint() -> Any:
        return next(returned)

    with TestClient(app) as client:
        first = client.get("/")
        wait_until(lambda: "stale-if-error" in client.get("/").headers["Cache-Status"])
        assert client.get("/").json() == first.json() == {"name": "a"}


def test_a_hit_validates_nothing() -> None:
    app, validated = FastAPI(), list[str]()

    class Checked(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def check(cls, name: str) -> str:
            validated.append(name)
            return name

    @app.get("/", response_model=Checked)
    @cached()()
    async def endpoint() -> Any:
        return {"name": "a"}

    assert statuses(get(app, "/", "/", "/")) == [MISS, HIT, HIT]
    assert validated == ["a"]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_can_not_be_rendered_fails_as_without_the_decorator(kind: str) -> None:
    def make(decorate: Callable[[Any], Any]) -> FastAPI:
        app = FastAPI()

        async def in_loop() -> Any:
            return {"wrong": 1}

        def in_thread() -> Any:
            return {"wrong": 1}

        endpoint = decorate(in_loop if kind == "async" else in_thread)
        app.get("/{number}", response_model=Narrow)(endpoint)
        return app

    def failure(app: FastAPI) -> ResponseValidationError:
        with pytest.raises(ResponseValidationError) as raised:
            get(app, "/1")
        return raised.value

    plain, ours = failure(make(lambda function: function)), failure(make(cached()()))
    assert ours.errors() == plain.errors()
    assert ours.body == plain.body
    assert str(ours) == str(plain)


def test_those_who_wait_are_given_the_failure_of_rendering(serve: Serve, waits: Gate) -> None:
    app, work = FastAPI(), Work()

    @app.get("/", response_model=Narrow)
    @cached()()
    async def endpoint() -> Any:
        await work.done()
        return {"wrong": 1}

    server = serve(app)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(fetch, server.port)]
        work.began.wait()
        asked.append(threads.submit(fetch, server.port))
        waits.wait()
        work.gate.open()
        assert [each.result().status for each in asked] == [500, 500]
    assert work.runs == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_what_a_plain_function_returns_is_validated_in_a_thread(kind: str) -> None:
    app, threads = FastAPI(), list[int]()

    class Checked(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def check(cls, name: str) -> str:
            threads.append(threading.get_ident())
            return name

    async def in_loop(loop: Annotated[int, Depends(loops_thread)]) -> Any:
        return {"name": str(loop)}

    def in_thread(loop: Annotated[int, Depends(loops_thread)]) -> Any:
        return {"name": str(loop)}

    function = in_loop if kind == "async" else in_thread
    app.get("/", response_model=Checked)(cached()()(function))
    (answer,) = get(app, "/")
    assert answer.status_code == 200
    assert [str(thread) == answer.json()["name"] for thread in threads] == [kind == "async"]


def test_openapi_is_as_without_the_decorator() -> None:
    assert create_app(cached())[0].openapi() == create_app(undecorated)[0].openapi()


def test_fastapis_telemetry_is_told_of_the_request_and_of_one_serialization() -> None:
    telemetry = pytest.importorskip("fastapi.telemetry")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    options: Any = {"telemetry": {"tracer_provider": provider}}
    app = FastAPI(**options)
    seen: list[Any] = []

    def watch() -> Iterator[None]:
        yield
        data = telemetry.get_telemetry_data()
        seen.append((data.request.url.path, data.values.get("number")))

    @app.get("/{number}", dependencies=[Depends(watch)])
    @cached()()
    async def endpoint(number: int) -> dict[str, int]:
        return {"number": number}

    assert statuses(get(app, "/1", "/1")) == [MISS, HIT]
    assert seen == [("/1", 1)] * 2
    spans = [span.name for span in exporter.get_finished_spans()]
    assert {name: spans.count(name) for name in spans if name.startswith("fastapi.")} == {
        "fastapi.dependencies": 2,
        "fastapi.endpoint": 2,
        "fastapi.serialization": 1,
    }


def test_each_route_renders_by_its_own_model() -> None:
    app = FastAPI()

    @cached()()
    async def endpoint() -> Any:
        return {"name": "a", "more": 1}

    app.get("/narrow", response_model=Narrow)(endpoint)
    app.get("/wide")(endpoint)
    assert [answer.json() for answer in get(app, "/narrow", "/wide", "/narrow")] == [
        {"name": "a"},
        {"name": "a", "more": 1},
        {"name": "a"},
    ]


def test_a_method_is_an_endpoint_as_well() -> None:
    class View:
        @stream_cached(ttl=60, cache=memory(), noself=True)
        async def get(self) -> dict[str, int]:
            return {"a": 1}

    app = FastAPI()
    app.get("/")(View().get)
    assert statuses(get(app, "/", "/")) == [MISS, HIT]


def test_an_application_that_is_given_up_is_not_kept() -> None:
    @cached()()
    async def endpoint() -> int:
        return 1

    app = FastAPI()
    app.get("/")(endpoint)
    assert statuses(get(app, "/", "/")) == [MISS, HIT]
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


# -- values that are no responses ------------------------------------------------------------------


def passing(function: Any) -> Any:
    """Another decorator, which adds something for one user."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        value = await function(*args, **kwargs)
        value["users"].append(len(value["users"]))
        return value

    return wrapper


def test_another_decorator_is_given_the_value_and_one_of_its_own(cache_url: str) -> None:
    app, runs = FastAPI(), itertools.count()

    @app.get("/")
    @passing
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint() -> dict[str, Any]:
        return {"run": next(runs), "users": []}

    answers = get(app, "/", "/", "/")
    assert [answer.json() for answer in answers] == [{"run": 0, "users": [0]}] * 3
    assert statuses(answers) == [None] * 3


def test_a_row_beneath_another_decorator_is_not_cached(caplog: pytest.LogCaptureFixture) -> None:
    create_app(undecorated)
    app, runs = FastAPI(), itertools.count()

    def outside(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    @app.get("/", response_model=list[HeroOut])
    @outside
    @stream_cached(ttl=60, cache=memory())
    async def endpoint(current: Annotated[Session, Depends(session)]) -> Any:
        next(runs)
        return current.scalars(select(Hero)).all()

    answers = get(app, "/", "/")
    assert [answer.json() for answer in answers] == [[{"id": 1, "name": "a"}]] * 2
    assert next(runs) == 2
    (warning,) = warnings(caplog)
    assert "list, which holds Hero" in warning


def test_a_value_that_the_serializer_refuses_is_named_by_its_type(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60, cache=redis_url, values="aiocache")
    async def endpoint() -> Item:
        return ITEM

    assert len({answer.text for answer in get(app, "/", "/")}) == 1
    (warning,) = warnings(caplog)
    assert "of type Item" in warning


@pytest.mark.parametrize(
    "options",
    [
        {"values": "aiocache"},
        {"key": "fixed"},
        {"key_builder": lambda function, *args, **kwargs: "built"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_aiocaches_way_is_kept_where_it_is_asked_for(options: dict[str, Any]) -> None:
    app, runs = FastAPI(), itertools.count()

    @app.get("/")
    @cached()(**options)
    async def endpoint() -> dict[str, int]:
        return {"run": next(runs)}

    answers = get(app, "/", "/")
    assert [answer.json() for answer in answers] == [{"run": 0}] * 2
    assert statuses(answers) == [None] * 2


class Public(BaseModel):
    name: str


class Whole(Public):
    secret: str


class OnHeader(APIRoute):
    """A route for the requests with its name in a header."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        is_here = Headers(scope=scope)["x-route"] == self.name
        return (found, child) if is_here else (Match.NONE, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"response_model": Whole}, {"response_model": Public}),
        ({}, {"response_model_exclude": {"secret"}, "response_model": Whole}),
        ({}, {"response_class": HTMLResponse}),
        ({}, {"status_code": 203}),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_two_routes_of_one_function_on_one_path_render_otherwise(
    cache_url: str, within: bool, one: dict[str, Any], other: dict[str, Any]
) -> None:
    def create(decorate: Callable[[Any], Any]) -> FastAPI:
        @decorate
        async def endpoint() -> Any:
            if "response_class" in other:
                return "the text"
            return {"name": "the name", "secret": "the secret"}

        app = FastAPI()
        router = APIRouter() if within else app.router
        for name, settings in (("one", one), ("other", other)):
            route = {"name": name, "route_class_override": OnHeader, **settings}
            router.add_api_route("/", endpoint, **route)
        if within:
            app.include_router(router)
        return app

    def ask(app: FastAPI) -> list[tuple[int, str, bytes]]:
        with TestClient(app) as client:
            names = ("one", "other", "other", "one")
            given = [client.get("/", headers={"x-route": name}) for name in names]
        return [(each.status_code, each.headers["content-type"], each.content) for each in given]

    wanted = ask(create(lambda function: function))
    assert ask(create(stream_cached(ttl=60, cache=cache_url))) == wanted


@pytest.mark.parametrize("within", [False, True])
def test_an_endpoint_may_read_which_of_two_routes_on_one_path_it_is(
    cache_url: str, within: bool
) -> None:
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Any:
        route = request.scope["route"]
        return [route.name, route.tags, route.openapi_extra]

    app = FastAPI()
    router = APIRouter() if within else app.router
    for name in ("one", "other"):
        more: dict[str, Any] = {"tags": [name], "openapi_extra": {"x-plan": name}}
        router.add_api_route("/", endpoint, name=name, route_class_override=OnHeader, **more)
    if within:
        app.include_router(router)
    with TestClient(app) as client:
        names = ("one", "other", "other", "one")
        given = [client.get("/", headers={"x-route": name}) for name in names]
    assert [each.json() for each in given] == [[name, [name], {"x-plan": name}] for name in names]
    assert [each.headers["cache-status"] for each in given] == [MISS, MISS, HIT, HIT]


def test_a_route_that_calls_it_as_a_helper_does_not_make_two_routes_one() -> None:
    @stream_cached(ttl=60, cache=memory())
    async def endpoint(request: Request) -> StreamingResponse:
        name = request.scope["route"].name
        return StreamingResponse(iter([name.encode()]))

    async def calling(request: Request) -> Any:
        return await endpoint(request=request)

    app = FastAPI()
    routes = ("/calling", calling, "calling"), ("/", endpoint, "one"), ("/", endpoint, "other")
    for path, each, name in routes:
        route: dict[str, Any] = {"name": name, "route_class_override": OnHeader}
        app.router.add_api_route(path, each, response_model=None, **route)
    with TestClient(app) as client:
        paths = (("/calling", "calling"), ("/", "one"), ("/", "other"), ("/", "one"))
        given = [client.get(path, headers={"x-route": name}) for path, name in paths]
    assert [each.text for each in given] == ["calling", "one", "other", "one"]


def test_an_entry_is_no_value_and_a_value_is_no_entry() -> None:
    url, runs = memory(), itertools.count()

    async def endpoint() -> dict[str, Any]:
        return {"run": next(runs), "users": []}

    def same(function: Any) -> Any:
        return function

    app = FastAPI()
    for outer, wanted in ((same, [0, 0]), (passing, [1, 1]), (same, [2, 2])):
        app.router.routes.clear()
        app.get("/")(outer(stream_cached(ttl=60, cache=url)(endpoint)))
        assert [answer.json()["run"] for answer in get(app, "/", "/")] == wanted


_WITHOUT_FASTAPI = """
import sys
sys.modules["fastapi"] = None
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from stream_cached import stream_cached

@stream_cached(ttl=60)
async def endpoint(request):
    return PlainTextResponse("text")

with TestClient(Starlette(routes=[Route("/", endpoint)])) as client:
    print([client.get("/").headers["cache-status"] for _ in range(2)][-1])
"""


def test_starlette_does_without_fastapi() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _WITHOUT_FASTAPI]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (HIT, "")
