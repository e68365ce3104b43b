"""FastAPI's endpoints that yield: the same bytes as without a cache, live, joined and replayed."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Query, Security
from fastapi.exceptions import ResponseValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, StreamCache, stream_cached
from stream_cached.endpoint.dependencies import needs_request
from tests.conftest import Serve
from tests.support.added import ADDED_BYTES
from tests.support.app_server import AppServer
from tests.support.gates import Gate, runs_over, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS
from tests.support.versions import needs

pytestmark = needs("fastapi", "0.135", "does not stream what an endpoint yields")

BEARER = HTTPBearer()

DOORS: dict[str, type[APIRoute]] = {"decorator": APIRoute, "route": StreamCache().Route}

with_each_door = pytest.mark.parametrize("door", DOORS)


def application(door: str) -> FastAPI:
    app = FastAPI()
    app.router.route_class = DOORS[door]
    return app


Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]


class Item(BaseModel):
    name: str
    price: float = 1.5


class Question(BaseModel):
    model: str
    messages: list[dict[str, str]]


class World:
    """An application whose endpoint yields, and what its runs have seen."""

    def __init__(self, form: str, *, is_async: bool = True, has_request: bool = False) -> None:
        self.form, self.is_async, self.has_request = form, is_async, has_request
        self.gate = Gate()
        self.held_at = -1
        self.fails_at = -1
        self.runs = 0
        self.closed = 0
        self.users = 0

    def items(self, count: int) -> list[Any]:
        match self.form:
            case "jsonl":
                return [Item(name=f"ä {number}") for number in range(count)]
            case "raw":
                return [[f"row {number}\n", b"bytes\n"][number % 2] for number in range(count)]
        event: Any = importlib.import_module("fastapi.sse").ServerSentEvent
        kinds = [
            {"n": 1},
            event(data=Item(name="x"), event="item", id="7", retry=5),
            event(raw_data="two\nlines", comment="a comment"),
        ]
        return [kinds[number % 3] for number in range(count)]

    def before(self, number: int) -> bool:
        """Fail before an item, or say that it is held."""
        if number == self.fails_at:
            raise OSError("the source is gone")
        return number == self.held_at

    def user(self, x_user: Annotated[str, Header()] = "nobody") -> str:
        self.users += 1
        return x_user

    def endpoint(self) -> Callable[..., Any]:
        user = Depends(self.user)
        limit = Query(1, le=5)

        async def rows(count: int, limit: int = limit, who: str = user) -> AsyncIterator[Any]:
            """Yield some rows."""
            self.runs += 1
            try:
                for number, item in enumerate(self.items(count)):
                    if self.before(number):
                        await self.gate.passed()
                    yield item
            finally:
                self.closed += 1

        async def asking(
            count: int, request: Request, limit: int = limit, who: str = user
        ) -> AsyncIterator[Any]:
            """Yield some rows."""
            assert request.query_params["count"] == str(count)
            async for item in rows(count):
                yield item

        def plain(count: int, limit: int = limit, who: str = user) -> Iterator[Any]:
            """Yield some rows."""
            self.runs += 1
            try:
                for number, item in enumerate(self.items(count)):
                    if self.before(number):
                        self.gate.wait()
                    yield item
            finally:
                self.closed += 1

        def plain_asking(
            count: int, request: Request, limit: int = limit, who: str = user
        ) -> Iterator[Any]:
            """Yield some rows."""
            assert request.query_params["count"] == str(count)
            yield from plain(count)

        kinds = {(True, False): rows, (True, True): asking, (False, False): plain}
        function: Any = kinds.get((self.is_async, self.has_request), plain_asking)
        kind: Any = AsyncIterator if self.is_async else Iterator
        item: Any = {"jsonl": Item, "raw": str | bytes, "sse": Any}[self.form]
        function.__annotations__["return"] = kind[item]
        function.__name__ = "rows"
        return function  # type: ignore[no-any-return]

    def app(
        self, decorate: Decorate = lambda function: function, route_class: Any = APIRoute
    ) -> FastAPI:
        classes = {"raw": StreamingResponse}
        if self.form == "sse":
            classes["sse"] = importlib.import_module("fastapi.sse").EventSourceResponse
        router = APIRouter(tags=["rows"], route_class=route_class)
        options: Any = {"response_class": classes[self.form]} if self.form in classes else {}
        router.get("/rows", **options)(decorate(self.endpoint()))
        app = FastAPI()
        app.include_router(router, prefix="/v1")
        return app


def fields(response: RawResponse) -> list[tuple[bytes, bytes]]:
    # A prepared response has a length, and no chunks.
    left_out = ADDED_BYTES | {b"date", b"content-length", b"transfer-encoding"}
    return [field for field in response.headers if field[0].lower() not in left_out]


def says(response: RawResponse) -> str:
    return response.header("cache-status") or ""


TARGET = "/v1/rows?count=7"


@pytest.mark.matrix("form", "is_async", "door")
@with_each_door
@pytest.mark.parametrize("store", ["memory", "redis"])
@pytest.mark.parametrize("has_request", [False, True])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("form", ["jsonl", "sse", "raw"])
def test_a_miss_a_join_and_a_hit_have_the_bytes_of_the_endpoint(
    form: str,
    is_async: bool,
    has_request: bool,
    store: str,
    door: str,
    serve: Serve,
    namespace: str,
    request: pytest.FixtureRequest,
) -> None:
    plain = World(form, is_async=is_async, has_request=has_request)
    world = World(form, is_async=is_async, has_request=has_request)
    url = "memory://" if store == "memory" else request.getfixturevalue("redis_url")
    decorate = stream_cached(ttl=60, cache=url, key_host=False, namespace=namespace)
    cached = world.app(decorate, DOORS[door])
    assert cached.openapi() == plain.app().openapi()
    original, server = serve(plain.app()), serve(cached)
    wanted = fetch(original.port, TARGET)
    assert wanted.complete
    for wrong in ("?count=x&limit=9", "?limit=9", ""):
        errors = fetch(original.port, f"/v1/rows{wrong}")
        found = fetch(server.port, f"/v1/rows{wrong}")
        assert (found.status, found.body) == (422, errors.body)
        assert fields(found) == fields(errors)
    world.held_at, world.users = 4, 0
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.send(target=TARGET)
        assert first.read_head().status == 200
        size = len(first.read_until(len(wanted.body) // 3))
        second.send(target=TARGET)
        second.read_head()
        assert second.read_until(size)[:size] == first.response.body[:size]
        assert not first.response.complete
        world.gate.open()
        miss, joined = first.read_rest(), second.read_rest()
    hit = fetch(server.port, TARGET)
    for answer in (miss, joined, hit):
        assert answer.complete
        assert answer.body == wanted.body
        assert fields(answer) == fields(wanted)
    assert says(miss) == MISS
    assert "collapsed" in says(joined)
    assert says(hit) == HIT
    assert hit.header("content-length") == (str(len(wanted.body)) if door == "route" else None)
    assert (world.runs, world.closed) == (1, 1)
    # Not for each request once more: FastAPI calls it once, as it does without a cache.
    assert world.users == 3


@pytest.mark.matrix
@with_each_door
@pytest.mark.parametrize("form", ["jsonl", "sse", "raw"])
def test_a_body_that_breaks_is_never_stored_and_never_ends_cleanly(
    form: str, door: str, serve: Serve
) -> None:
    world = World(form)
    server = serve(world.app(stream_cached(ttl=60), DOORS[door]))
    world.fails_at = 4
    for _ in range(2):
        broken = fetch(server.port, TARGET)
        assert (broken.status, broken.complete) == (200, False)
    world.fails_at = -1
    assert [says(fetch(server.port, TARGET)) for _ in range(2)] == [MISS, HIT]
    assert world.runs == 3


def left_half_way(world: World, server: AppServer) -> RawResponse:
    """Leave in the middle of a body, and return what there was of it."""
    world.held_at = 4
    client = RawClient(server.port)
    client.send(target=TARGET)
    client.read_head()
    client.read_some()
    client.abort()
    wait_until(lambda: not server.connections)
    return client.response


@pytest.mark.matrix
@with_each_door
@pytest.mark.parametrize("form", ["jsonl", "sse", "raw"])
def test_a_client_that_leaves_half_way_leaves_a_run_that_is_stored(
    form: str, door: str, serve: Serve
) -> None:
    world = World(form)
    server = serve(world.app(stream_cached(ttl=60), DOORS[door]))
    left_half_way(world, server)
    assert world.closed == 0
    world.gate.open()
    server.run(runs_over())
    assert says(fetch(server.port, TARGET)) == HIT
    assert (world.runs, world.closed) == (1, 1)


@pytest.mark.matrix
@with_each_door
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("form", ["jsonl", "sse", "raw"])
def test_with_stop_the_run_of_a_client_that_leaves_is_closed(
    form: str, is_async: bool, door: str, serve: Serve
) -> None:
    world = World(form, is_async=is_async)
    server = serve(world.app(stream_cached(ttl=60, on_disconnect="stop"), DOORS[door]))
    left_half_way(world, server)
    if not is_async:
        # What a thread waits for goes on.
        world.gate.open()
    wait_until(lambda: world.closed)
    world.gate.open()
    assert says(fetch(server.port, TARGET)) == MISS


@with_each_door
def test_an_invalidation_while_it_runs_counts(door: str, serve: Serve) -> None:
    world = World("jsonl")
    cached: Any = stream_cached(ttl=60)(world.endpoint())
    app = FastAPI()
    app.router.route_class = DOORS[door]
    app.get("/v1/rows")(cached)
    server = serve(app)
    world.held_at = 4
    with RawClient(server.port) as client:
        client.send(target=TARGET)
        client.read_head()
        client.read_some()
        server.run(cached.invalidate())
        world.gate.open()
        assert client.read_rest().complete
    assert says(fetch(server.port, TARGET)) == MISS
    assert says(fetch(server.port, TARGET)) == HIT


# -- what is private ----------------------------------------------------------------------------


def answers(app: FastAPI, *requests: dict[str, str], target: str = "/") -> list[Any]:
    with TestClient(app) as client:
        return [client.get(target, headers=headers) for headers in requests]


def detail(answer: Any) -> str:
    return str(answer.headers["cache-status"])


@with_each_door
def test_what_a_running_generator_reads_of_its_request_is_not_shared(
    caplog: pytest.LogCaptureFixture, door: str
) -> None:
    async def rows(request: Request) -> AsyncIterator[str]:
        yield "first"
        yield request.cookies.get("who", "nobody")

    app = application(door)
    app.get("/")(stream_cached(ttl=60)(rows))
    found = answers(app, {"cookie": "who=a"}, {"cookie": "who=b"})
    assert [answer.text.split() for answer in found] == [['"first"', '"a"'], ['"first"', '"b"']]
    (line,) = warnings(caplog)
    assert "the cookies" in line


@pytest.mark.parametrize("options", [{"unguarded": ("cookies",)}, {"vary": ("Cookie",)}])
@with_each_door
def test_what_is_unguarded_or_in_the_key_may_be_read(options: Any, door: str) -> None:
    async def rows(request: Request) -> AsyncIterator[str]:
        yield request.cookies.get("who", "nobody")

    app = application(door)
    app.get("/")(stream_cached(ttl=60, **options)(rows))
    found = answers(app, {"cookie": "who=a"}, {"cookie": "who=a"})
    assert [detail(answer) for answer in found] == [MISS, HIT]


@with_each_door
def test_authorization_a_private_answer_and_a_large_body_are_not_stored(door: str) -> None:
    def private(response: Response) -> None:
        response.headers["cache-control"] = "private"

    async def rows() -> AsyncIterator[str]:
        yield "row" * 100

    app = application(door)
    app.get("/")(stream_cached(ttl=60)(rows))
    app.get("/private", dependencies=[Depends(private)])(stream_cached(ttl=60)(rows))
    app.get("/large")(stream_cached(ttl=60, max_body=100)(rows))
    for _ in range(2):
        (secret,) = answers(app, {"authorization": "Bearer a"})
        assert detail(secret).endswith('detail="authorization"')
        (own,) = answers(app, {}, target="/private")
        assert detail(own).endswith('detail="cache-control"')
    large = answers(app, {}, {}, target="/large")
    assert large[0].text == large[1].text
    assert detail(large[1]).endswith('detail="max-body"')


@with_each_door
def test_a_user_in_the_key_has_rows_of_its_own(door: str) -> None:
    async def user(token: Annotated[Any, Security(BEARER)]) -> str:
        return str(token.credentials)

    known = Depends(user)

    async def rows(who: str = known) -> AsyncIterator[str]:
        yield who

    app = application(door)
    app.get("/")(stream_cached(ttl=60, authorized="keyed")(rows))
    requests = [{"authorization": f"Bearer {name}"} for name in ("a", "b", "a")]
    found = answers(app, *requests)
    assert [answer.json() for answer in found] == ["a", "b", "a"]
    assert [detail(answer) for answer in found] == [MISS, MISS, HIT]
    assert answers(app, {})[0].status_code == 401


# -- dependencies -------------------------------------------------------------------------------


class Session:
    """Not part of a key."""


@pytest.mark.parametrize("scope", ["request", "function"])
@with_each_door
def test_a_dependency_with_yield_is_closed_after_the_run_that_needs_it(
    scope: Any, door: str
) -> None:
    said: list[str] = []

    async def session() -> AsyncIterator[Session]:
        said.append("open")
        yield Session()
        said.append("closed")

    needed = Depends(session, scope=scope)

    async def rows(session: Session = needed) -> AsyncIterator[str]:
        yield "first"
        said.append("last")

    app, plain = application(door), FastAPI()
    app.get("/")(stream_cached(ttl=60, key_ignore=("session",))(rows))
    plain.get("/")(rows)
    wanted, order = answers(plain, {}), list(said)
    said.clear()
    found = answers(app, {})
    assert found[0].text == wanted[0].text
    assert said == order
    said.clear()
    assert detail(answers(app, {})[0]) == HIT
    assert said == ["open", "closed"]


def test_the_resolver_itself_holds_no_request_open() -> None:
    seen: list[bool] = []

    async def rows(request: Request) -> AsyncIterator[str]:
        seen.append(needs_request(request.scope))
        yield "row"

    app = FastAPI()
    app.get("/")(stream_cached(ttl=60)(rows))
    answers(app, {})
    assert seen == [False]


async def connection() -> AsyncIterator[AsyncSession]:
    yield AsyncSession()


async def connection_of_tenant(
    x_tenant: Annotated[str, Header()] = "t",
) -> AsyncIterator[AsyncSession]:
    yield AsyncSession(info={"tenant": x_tenant})


async def choose_tenant(
    session: Annotated[AsyncSession, Depends(connection)],
    x_tenant: Annotated[str, Header()] = "t",
) -> None:
    session.info["tenant"] = x_tenant


@pytest.mark.parametrize("of_route", [None, connection, choose_tenant])
@pytest.mark.parametrize("needed", [connection, connection_of_tenant])
def test_what_may_be_one_clients_own_is_found_as_for_any_endpoint(
    needed: Any, of_route: Any
) -> None:
    default = Depends(needed)

    async def rows(session: AsyncSession = default, x_a: str = Header("a")) -> AsyncIterator[str]:
        yield "row"

    async def response(session: AsyncSession = default, x_a: str = Header("a")) -> Response:
        return StreamingResponse(iter(["row"]))

    said = []
    for endpoint in (rows, response):
        app = FastAPI()
        router = APIRouter(dependencies=[Depends(of_route)] if of_route else [])
        router.get("/")(stream_cached(ttl=60)(endpoint))
        app.include_router(router)
        said.append([detail(answer) for answer in answers(app, {}, {})])
    assert said[0] == said[1]
    is_private = needed is connection_of_tenant or of_route is choose_tenant
    assert (said[0][1] == HIT) is not is_private


@with_each_door
def test_headers_and_background_tasks_of_dependencies_are_those_of_each_request(door: str) -> None:
    done: list[str] = []

    def sign(response: Response, x_name: Annotated[str, Header()]) -> None:
        response.headers["x-signed"] = x_name
        response.set_cookie("name", x_name)
        response.status_code = 203

    async def rows(tasks: BackgroundTasks) -> AsyncIterator[str]:
        tasks.add_task(done.append, "done")
        yield "row"

    app, plain = application(door), FastAPI()
    app.get("/", dependencies=[Depends(sign)])(stream_cached(ttl=60)(rows))
    plain.get("/", dependencies=[Depends(sign)])(rows)
    (wanted,) = answers(plain, {"x-name": "a"})
    done.clear()
    found = answers(app, {"x-name": "a"}, {"x-name": "b"})
    assert [detail(answer) for answer in found] == [MISS, HIT]
    for name, answer in zip("ab", found, strict=True):
        # Not each version of FastAPI sends the status of a dependency.
        assert answer.status_code == wanted.status_code
        assert answer.headers["x-signed"] == name
        assert f"name={name}" in answer.headers["set-cookie"]
    assert done == ["done"]


@with_each_door
def test_where_a_dependency_of_the_route_refuses_a_request_nothing_runs(door: str) -> None:
    runs: list[int] = []

    def needs(key: int) -> None:
        pass

    async def rows() -> AsyncIterator[int]:
        runs.append(1)
        yield 1

    app = application(door)
    app.get("/", dependencies=[Depends(needs)])(stream_cached(ttl=60, on_disconnect="stop")(rows))
    # The call is answered before FastAPI looks at the errors, and its run is given up unread.
    with TestClient(app) as client:
        found = [client.get(f"/?key={key}") for key in ("x", "1", "x", "1")]
    assert [answer.status_code for answer in found] == [422, 200, 422, 200]
    assert (detail(found[1]), detail(found[3])) == (MISS, HIT)
    assert runs == [1]


@with_each_door
def test_an_endpoint_may_yield_nothing(door: str) -> None:
    runs: list[int] = []

    async def rows() -> AsyncIterator[int]:
        runs.append(1)
        numbers: list[int] = []
        for number in numbers:
            yield number

    app = application(door)
    app.get("/")(stream_cached(ttl=60)(rows))
    found = answers(app, {}, {})
    assert [(answer.text, detail(answer)) for answer in found] == [("", MISS), ("", HIT)]
    assert runs == [1]


@with_each_door
def test_pings_go_to_those_who_are_connected_and_are_not_stored(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    world = World("sse")
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.02)
    server = serve(world.app(stream_cached(ttl=60), DOORS[door]))
    world.held_at = 2
    with RawClient(server.port) as first, RawClient(server.port) as second:
        for client in (first, second):
            client.send(target=TARGET)
            client.read_head()
        for client in (first, second):
            while client.response.body.count(b": ping") < 2:
                assert client.read_some()
        world.gate.open()
        live = [client.read_rest() for client in (first, second)]
    hit = fetch(server.port, TARGET)
    assert says(hit) == HIT
    assert b": ping" not in hit.body
    for answer in live:
        assert answer.complete
        assert answer.body.replace(b": ping\n\n", b"") == hit.body


@with_each_door
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_an_item_that_can_not_be_rendered_fails_as_without_the_decorator(
    kind: str, door: str
) -> None:
    def failure(route_class: Any, decorate: Decorate, target: str = "/") -> Any:
        async def inner() -> AsyncIterator[Item]:
            yield {"wrong": 1}  # type: ignore[misc]

        def plain() -> Iterator[Item]:
            yield {"wrong": 1}  # type: ignore[misc]

        async def outer() -> AsyncIterator[Item]:
            yield Item(name="first")
            await AsyncClient(transport=ASGITransport(app), base_url="http://a").get("/")

        app = FastAPI()
        app.router.route_class = route_class
        app.get("/")(inner if kind == "async" else plain)
        app.get("/outer")(decorate(outer))
        app.get("/decorated")(decorate(inner if kind == "async" else plain))
        with pytest.raises(ResponseValidationError) as raised:
            TestClient(app).get(target)
        return raised.value

    for target in ("/decorated", "/outer"):
        plain = failure(APIRoute, lambda function: function, target)
        ours = failure(DOORS[door], stream_cached(ttl=60), target)
        assert ours.errors() == plain.errors()
        assert str(ours) == str(plain)


def test_a_dependency_with_yield_can_not_be_cached() -> None:
    @stream_cached(ttl=60)
    async def session() -> AsyncIterator[str]:
        yield "session"

    needed = Depends(session)

    async def endpoint(given: str = needed) -> str:
        return given

    app = FastAPI()
    app.get("/")(endpoint)
    with pytest.raises(ConfigurationError, match="leave the decorator off"):
        answers(app, {})


# -- other ways to an endpoint ------------------------------------------------------------------


@with_each_door
def test_items_that_no_annotation_describes_are_stored_as_fastapi_renders_them(door: str) -> None:
    runs: list[int] = []

    async def rows():  # type: ignore[no-untyped-def]
        runs.append(1)
        yield Item(name="a")
        yield {"names": {"one"}, "item": Item(name="b")}

    app, plain = application(door), FastAPI()
    app.get("/")(stream_cached(ttl=60)(rows))
    plain.get("/")(rows)
    wanted = answers(plain, {})[0]
    runs.clear()
    found = answers(app, {}, {})
    assert [answer.text for answer in found] == [wanted.text] * 2
    assert detail(found[1]) == HIT
    assert runs == [1]


def test_an_item_that_can_not_be_stored_is_sent_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Special(Item):
        pass

    async def rows() -> AsyncIterator[Item]:
        yield Special(name="a")

    app = FastAPI()
    app.get("/")(stream_cached(ttl=60)(rows))
    found = answers(app, {}, {})
    assert [answer.json() for answer in found] == [{"name": "a", "price": 1.5}] * 2
    assert "hit" not in detail(found[1])
    (line,) = warnings(caplog)
    assert "Special" in line


@pytest.mark.parametrize(
    "options", [{"key": "rows"}, {"key_builder": lambda *args, **kwargs: "rows"}]
)
@with_each_door
def test_a_key_of_ones_own_and_cache_status_go_together(options: Any, door: str) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    app = application(door)
    app.get("/")(stream_cached(ttl=60, **options)(rows))
    assert [detail(answer) for answer in answers(app, {}, {})] == [MISS, HIT]


def test_a_method_is_an_endpoint_too() -> None:
    runs: list[int] = []

    class Pages:
        @stream_cached(ttl=60, noself=True)
        async def rows(self, count: int) -> AsyncIterator[int]:
            runs.append(count)
            for number in range(count):
                yield number

    app = FastAPI()
    app.get("/")(Pages().rows)
    found = answers(app, {}, {}, target="/?count=2")
    assert [answer.text for answer in found] == ["0\n1\n"] * 2
    assert answers(app, {"authorization": "a"}, target="/?count=2")[0].text == "0\n1\n"
    assert runs == [2, 2]


def test_the_endpoint_is_a_plain_generator_function_where_it_is_called_directly() -> None:
    runs: list[int] = []

    @stream_cached(ttl=60)
    async def rows(count: int) -> AsyncIterator[int]:
        runs.append(count)
        for number in range(count):
            yield number

    app = FastAPI()
    app.get("/")(rows)
    assert answers(app, {}, target="/?count=2")[0].text == "0\n1\n"

    async def direct() -> None:
        for _ in range(2):
            assert [item async for item in rows(2)] == [0, 1]

    asyncio.run(direct())
    # The key of a request is another one.
    assert runs == [2, 2]


@with_each_door
def test_a_decorator_around_it_changes_nothing(door: str) -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    async def rows(count: int = 2) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    app = application(door)
    app.get("/")(traced(stream_cached(ttl=60)(rows)))
    found = answers(app, {}, {})
    assert [(answer.text, detail(answer)) for answer in found] == [
        ("0\n1\n", MISS),
        ("0\n1\n", HIT),
    ]


@pytest.mark.parametrize("is_done", [True, False])
@with_each_door
def test_events_that_merely_stop_are_not_stored(is_done: bool, door: str) -> None:
    sse: Any = importlib.import_module("fastapi.sse")

    async def events():  # type: ignore[no-untyped-def]
        yield sse.ServerSentEvent(data=Item(name="a"))
        if is_done:
            yield sse.ServerSentEvent(raw_data="[DONE]")

    cached = stream_cached(ttl=60, complete_when=lambda items: items[-1].raw_data == "[DONE]")
    app = application(door)
    app.get("/", response_class=sse.EventSourceResponse)(cached(events))
    found = answers(app, {}, {})
    assert found[0].text == found[1].text
    assert (detail(found[1]) == HIT) is is_done


def test_the_client_of_openai_reads_the_same_tokens_cold_joined_and_warm(serve: Serve) -> None:
    openai = pytest.importorskip("openai")
    sse: Any = importlib.import_module("fastapi.sse")
    gate, runs = Gate(), list[str]()
    words = ["The ", "sky ", "is ", "blue."]

    def chunk(text: str) -> str:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        kind = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return json.dumps({**kind, "choices": [choice]})

    async def completions(question: Question):  # type: ignore[no-untyped-def]
        runs.append(question.model)
        for number, word in enumerate(words):
            if number == 2:
                await gate.passed()
            yield sse.ServerSentEvent(raw_data=chunk(word))
        yield sse.ServerSentEvent(raw_data="[DONE]")

    cached = stream_cached(
        ttl=60,
        methods=("POST",),
        authorized="share",
        complete_when=lambda items: items[-1].raw_data == "[DONE]",
    )
    app = FastAPI()
    app.post("/chat/completions", response_class=sse.EventSourceResponse)(cached(completions))
    server = serve(app)

    def tokens() -> Iterator[str]:
        with openai.OpenAI(base_url=server.url, api_key="key", max_retries=0) as client:
            question = [{"role": "user", "content": "Why is the sky blue?"}]
            for each in client.chat.completions.create(model="m", messages=question, stream=True):
                yield each.choices[0].delta.content

    cold, joined = tokens(), tokens()
    for reading in (cold, joined):
        assert [next(reading), next(reading)] == words[:2]
    gate.open()
    assert list(cold) == list(joined) == words[2:]
    assert list(tokens()) == words
    assert runs == ["m"]


@pytest.mark.full
@with_each_door
def test_the_client_of_anthropic_reads_the_same_text_cold_joined_and_warm(
    door: str, serve: Serve
) -> None:
    anthropic: Any = pytest.importorskip("anthropic")
    sse: Any = importlib.import_module("fastapi.sse")
    gate, runs = Gate(), list[str]()
    words = ["The ", "sky ", "is ", "blue."]
    usage = {"input_tokens": 7, "output_tokens": 4}
    message = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": []}
    text = {"type": "text", "text": ""}

    def event(kind: str, **fields: Any) -> Any:
        return sse.ServerSentEvent(event=kind, data={"type": kind, **fields})

    async def messages(question: Question):  # type: ignore[no-untyped-def]
        runs.append(question.model)
        yield event("message_start", message={**message, "usage": usage})
        yield event("content_block_start", index=0, content_block=text)
        yield event("ping")
        for number, word in enumerate(words):
            if number == 2:
                await gate.passed()
            delta = {"type": "text_delta", "text": word}
            yield event("content_block_delta", index=0, delta=delta)
        yield event("content_block_stop", index=0)
        yield event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
        yield event("message_stop")

    cached = stream_cached(
        ttl=60,
        methods=("POST",),
        authorized="share",
        complete_when=lambda items: items[-1].event == "message_stop",
    )
    app = application(door)
    app.post("/v1/messages", response_class=sse.EventSourceResponse)(cached(messages))
    server = serve(app)

    def tokens() -> Iterator[str]:
        question = [{"role": "user", "content": "Why is the sky blue?"}]
        asked = {"model": "m", "messages": question, "max_tokens": 9}
        with (
            anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0) as client,
            client.messages.stream(**asked) as stream,
        ):
            yield from stream.text_stream
            yield stream.get_final_message().stop_reason

    cold, joined = tokens(), tokens()
    for reading in (cold, joined):
        assert [next(reading), next(reading)] == words[:2]
    gate.open()
    assert list(cold) == list(joined) == [*words[2:], "end_turn"]
    assert list(tokens()) == [*words, "end_turn"]
    assert runs == ["m"]


def test_a_post_is_cached_by_its_body() -> None:
    async def rows(item: Item) -> AsyncIterator[Item]:
        yield item

    app, plain = FastAPI(), FastAPI()
    app.post("/")(stream_cached(ttl=60, methods=("POST",))(rows))
    plain.post("/")(rows)
    with TestClient(app) as client, TestClient(plain) as original:
        for body in ({"name": "a"}, {"name": "b"}, {"price": 1}, [1]):
            wanted = original.post("/", json=body)
            found = [client.post("/", json=body) for _ in range(2)]
            assert [(each.status_code, each.text) for each in found] == [
                (wanted.status_code, wanted.text)
            ] * 2
            if wanted.status_code == 200:
                assert [detail(each) for each in found] == [MISS, HIT]


@pytest.mark.matrix
@with_each_door
@pytest.mark.parametrize("form", ["jsonl", "sse"])
def test_a_stale_entry_is_served_while_one_run_makes_the_new_one(
    form: str, door: str, serve: Serve
) -> None:
    world = World(form)
    server = serve(world.app(stream_cached(ttl=0.2, stale_while_revalidate=60), DOORS[door]))
    wanted = fetch(server.port, TARGET)
    wait_until(lambda: "stale" in says(fetch(server.port, TARGET)) or world.runs > 1)
    server.run(runs_over())
    assert world.runs > 1
    assert fetch(server.port, TARGET).body == wanted.body
