"""What a lifespan has put into the state is the same for all clients, and nothing else there is."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import MemoryCache, stream_cached
from stream_cached.endpoint import startup
from tests.conftest import Serve
from tests.support.http_client import fetch
from tests.support.runs import HIT, MISS

READ = 'stream-cached; fwd=uri-miss; detail="request-read"'
ARGUMENT = 'stream-cached; fwd=bypass; detail="argument"'


class Database:
    """A database, or a view of one tenant's."""

    def __init__(self, name: str) -> None:
        self.name = name


DATABASE = Database("all")


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    yield {"db": DATABASE, "settings": {"debug": False}}


@asynccontextmanager
async def empty(app: Any) -> AsyncIterator[None]:
    yield


def reading(read: Callable[[Request], object]) -> Any:
    @stream_cached(ttl=60, cache=MemoryCache())
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(read(request)))

    return endpoint


def of_tenant(app: ASGIApp, change: Callable[[dict[str, Any], str], None]) -> ASGIApp:
    """Let a middleware change the state of a request, for its user."""

    async def changing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = dict(scope["headers"]).get(b"x-user")
            if user is not None:
                change(scope["state"], user.decode())
        await app(scope, receive, send)

    return changing


def ask(port: int, *users: str, path: str = "/") -> list[tuple[str, str | None]]:
    answers = [fetch(port, path, {"X-User": user} if user else {}) for user in users]
    return [(answer.text, answer.header("Cache-Status")) for answer in answers]


@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_what_the_lifespan_has_put_there_is_the_same_for_all(serve: Serve, make: Any) -> None:
    app = make(lifespan=lifespan)
    app.router.routes.append(Route("/", reading(lambda r: r.state.db.name)))
    server = serve(app)
    assert ask(server.port, "alice", "bob") == [("all", MISS), ("all", HIT)]


def test_a_mounted_application_finds_it_too(serve: Serve) -> None:
    inner = FastAPI()

    @inner.get("/")
    @stream_cached(ttl=60, cache=MemoryCache())
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.state.db.name)

    server = serve(Starlette(routes=[Mount("/inner", inner)], lifespan=lifespan))
    assert ask(server.port, "", "", path="/inner/") == [("all", MISS), ("all", HIT)]


def replaced(state: dict[str, Any], user: str) -> None:
    state["db"] = Database(user)


@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_what_a_middleware_has_put_in_its_place_is_read(serve: Serve, make: Any) -> None:
    app = make(lifespan=lifespan)
    app.router.routes.append(Route("/", reading(lambda r: r.state.db.name)))
    server = serve(of_tenant(app, replaced))
    assert ask(server.port, "alice", "bob", "") == [("alice", READ), ("bob", READ), ("all", MISS)]


def test_a_dependency_that_reads_it_is_of_a_client(serve: Serve) -> None:
    app = FastAPI(lifespan=lifespan)

    def database(request: Request) -> Any:
        return request.state.db

    @app.get("/")
    @stream_cached(ttl=60, cache=MemoryCache())
    async def endpoint(db: Any = Depends(database)) -> Response:  # noqa: B008
        return PlainTextResponse(db.name)

    server = serve(of_tenant(app, replaced))
    assert ask(server.port, "alice", "bob") == [("alice", ARGUMENT), ("bob", ARGUMENT)]


def removed(state: dict[str, Any], user: str) -> None:
    del state["db"]


def added(state: dict[str, Any], user: str) -> None:
    state["beta"] = True


@pytest.mark.parametrize(
    ("change", "name"), [(removed, "db"), (added, "beta")], ids=["removed", "added"]
)
def test_which_names_are_there_is_part_of_the_key(
    serve: Serve, change: Callable[[dict[str, Any], str], None], name: str
) -> None:
    app = Starlette(
        routes=[Route("/", reading(lambda r: hasattr(r.state, name)))], lifespan=lifespan
    )
    server = serve(of_tenant(app, change))
    is_there = name == "beta"
    if is_there:
        # `hasattr` reads what is there.
        assert ask(server.port, "", "alice", "") == [
            ("False", MISS),
            ("True", READ),
            ("False", HIT),
        ]
    else:
        assert ask(server.port, "", "alice", "bob", "") == [
            ("True", MISS),
            ("False", MISS),
            ("False", HIT),
            ("True", HIT),
        ]


def test_what_a_dependency_changes_there_counts_as_read(serve: Serve) -> None:
    app = FastAPI(lifespan=lifespan)

    def enter(request: Request) -> None:
        request.state.settings["user"] = request.headers["x-user"]

    async def of_user(request: Request) -> Response:
        return PlainTextResponse(request.state.settings["user"])

    async def of_all(request: Request) -> Response:
        return PlainTextResponse(request.state.db.name)

    for path, endpoint in (("/user", of_user), ("/all", of_all)):
        cached = stream_cached(ttl=60, cache=MemoryCache())(endpoint)
        app.get(path, dependencies=[Depends(enter)])(cached)
    server = serve(app)
    assert ask(server.port, "alice", "bob", path="/user") == [("alice", READ), ("bob", READ)]
    assert ask(server.port, "alice", "bob", path="/all") == [("all", MISS), ("all", HIT)]


def test_without_a_state_of_a_lifespan_all_is_read(serve: Serve) -> None:
    def given(state: dict[str, Any], user: str) -> None:
        state["db"] = DATABASE

    app = Starlette(routes=[Route("/", reading(lambda r: r.state.db.name))], lifespan=empty)
    server = serve(of_tenant(app, given))
    assert ask(server.port, "alice") == [("all", READ)]


def test_an_application_that_is_gone_is_forgotten() -> None:
    app = Starlette()
    startup.remember_state(app, {"gone": DATABASE})
    # The lifespan of the application within which another one is mounted counts for both.
    mounted = {"app": Starlette()}
    assert startup.is_of_lifespan(mounted, "gone", DATABASE)
    assert not startup.is_of_lifespan({}, "gone", DATABASE)
    del app
    gc.collect()
    assert not startup.is_of_lifespan(mounted, "gone", DATABASE)


# -- attributes of an HTTPEndpoint ----------------------------------------------------------------

ENGINE = ThreadPoolExecutor(1)


def of_own(endpoint: HTTPEndpoint) -> object:
    return ThreadPoolExecutor(1)


def of_module(endpoint: HTTPEndpoint) -> object:
    return ENGINE


def of_app(endpoint: HTTPEndpoint) -> object:
    return endpoint.scope["app"].state.engine


@pytest.mark.parametrize(
    ("make", "states"),
    [(of_own, [ARGUMENT, ARGUMENT]), (of_module, [MISS, HIT]), (of_app, [MISS, HIT])],
)
def test_what_an_http_endpoint_makes_for_its_request_is_not_the_applications(
    serve: Serve, make: Callable[[HTTPEndpoint], object], states: list[str]
) -> None:
    class Orders(HTTPEndpoint):
        def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
            super().__init__(scope, receive, send)
            self.engine = make(self)

        @stream_cached(ttl=60, cache=MemoryCache())
        async def get(self, request: Request) -> Response:
            assert self.engine
            return PlainTextResponse("orders")

    app = Starlette(routes=[Route("/", Orders)])
    app.state.engine = ThreadPoolExecutor(1)
    server = serve(app)
    assert [state for _, state in ask(server.port, "alice", "bob")] == states
