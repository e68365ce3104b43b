"""Whose answer it is: small applications, each asked by two clients, beside the same without cache.

Each application is asked in several orders, cold and warm. What it answers is what the application
without the decorator answers; how it is cached says the table.
"""

import asyncio
import collections
import contextlib
import dataclasses
import enum
import functools
import inspect
import re
import threading
import zoneinfo
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple, cast

import httpx
import pytest
from cashews import Cache
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, HTTPException, Request, Security
from fastapi.security import APIKeyQuery, HTTPBearer, OAuth2PasswordBearer, SecurityScopes
from pydantic import AfterValidator, BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import InKey, NotInKey, in_key, not_in_key, stream_cached
from stream_cached.cashews import stream_cached as cashews_cached
from stream_cached.endpoint import held
from tests.support import tools
from tests.support.decorating import Decorate, F, as_it_is
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS
from tests.support.selection import halved

Build = Callable[[FastAPI, Decorate], None]

_numbers = iter(range(1, 10**6))

User = Annotated[str, Cookie()]


@pytest.fixture(autouse=True)
def no_path_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_paths", "_led", "_misses"):
        monkeypatch.setattr(held, name, {})


def cached(**settings: Any) -> Callable[[F], F]:
    """The decorator, over a memory that no other test has."""
    settings.setdefault("cache", f"memory://?max_bytes={(330 << 20) + next(_numbers)}")
    return cast("Callable[[F], F]", stream_cached(ttl=60, **settings))


def headers_of(user: str) -> dict[str, str]:
    """All by which an application may know who asks."""
    return {
        "Cookie": f"user={user}; org=org-of-{user}",
        "X-User": user,
        "X-Org": f"org-of-{user}",
        "X-Plan": "premium" if user == "alice" else "free",
        "Authorization": f"Bearer {user}",
    }


ORDERS = (("alice", "bob", "alice", "bob"), ("bob", "alice", "bob", "bob"))


def asked(case: "Case", order: tuple[str, ...]) -> list[str]:
    """Ask the application with and without the decorator; return Cache-Status."""
    answers: list[list[Any]] = []
    for decorate in (as_it_is, cached):
        (app,) = apps_of(case, decorate, 1)
        with TestClient(app) as client:
            answers.append([case.ask(client, user) for user in order])
    plain, ours = answers
    assert {answer.status_code for answer in plain} == {200}, plain[0].text
    assert [answer.text for answer in ours] == [answer.text for answer in plain]
    return [answer.headers.get("cache-status", "none") for answer in ours]


def apps_of(case: "Case", decorate: Decorate, count: int) -> list[FastAPI]:
    apps = [FastAPI() for _ in range(count)]
    for app in apps:
        case.build(app, decorate)
    return apps


def first_of_each(order: tuple[str, ...]) -> list[str]:
    return [HIT if user in order[:number] else MISS for number, user in enumerate(order)]


def first_of_all(order: tuple[str, ...]) -> list[str]:
    return [MISS, *[HIT] * (len(order) - 1)]


class Case(NamedTuple):
    """An application, and how its answers are cached."""

    build: Build
    cached: str
    """`never`, `of each` client, `of all`, or `once`: until it is seen that it is another one's."""
    why: str = ""
    """What the warning says."""
    path: str = "/x"
    token: bool = False
    """Whether the clients have tokens."""
    hosts: bool = False
    """Whether each client asks a host of its own."""
    at_once: bool = True
    """Whether each client is given its own, without the decorator, when they ask at once."""

    def url(self, user: str) -> str:
        return self.path.format(user=user)

    def headers(self, user: str) -> dict[str, str]:
        host = {"Host": f"{user}.example"} if self.hosts else {}
        left_out = () if self.token else ("Authorization",)
        return {n: v for n, v in headers_of(user).items() if n not in left_out} | host

    def ask(self, client: TestClient, user: str) -> Any:
        return client.get(self.url(user), headers=self.headers(user))


def expect(case: Case, statuses: list[str], order: tuple[str, ...]) -> None:
    match case.cached:
        case "never":
            (status,) = set(statuses)
            assert ("authorization" if case.why == "Authorization" else "argument") in status
        case "once":
            assert statuses[0] == MISS
            assert all("argument" in status for status in statuses[1:])
        case "of each":
            assert statuses == first_of_each(order)
        case "of all":
            assert statuses == first_of_all(order)


CASES: dict[str, Case] = {}


def case(cached: str, why: str = "", **settings: Any) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        name = build.__name__.strip("_").replace("_", " ")
        CASES[name] = Case(build, cached, why, **settings)
        return build

    return add


# -- sessions -------------------------------------------------------------------------------------


def get_db() -> Iterator[Session]:
    with tools.session_over(tools.engine) as session:
        yield session


DB = Annotated[Session, Depends(get_db)]


def whose(session: Session) -> Response:
    return PlainTextResponse(f"rows of {session.info.get('user', 'everybody')}")


def switch(db: DB, user: User) -> bool:
    """Row-level security."""
    db.info["user"] = user
    return True


def role(db: DB, user: User) -> str:
    db.info["user"] = user
    return "member"


async def switch_by_token(db: DB, token: Annotated[Any, Depends(HTTPBearer())]) -> None:
    db.info["user"] = token.credentials


def switch_deeper(_: Annotated[bool, Depends(switch)]) -> int:
    return 1


def _add_switched(app: FastAPI, cached: Decorate, switch: Any) -> None:
    @app.get("/x")
    @cached()
    async def rows(db: DB, allowed: Annotated[Any, Depends(switch)]) -> Response:
        return whose(db)


@case("of all")
def a_session_of_an_engine_in_another_module(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(db: DB) -> Response:
        return whose(db)


@case("never", "the cookie user, by switch")
def switched_by_what_returns_true(app: FastAPI, cached: Decorate) -> None:
    _add_switched(app, cached, switch)


@case("never", "the cookie user, by role")
def switched_by_what_returns_a_role(app: FastAPI, cached: Decorate) -> None:
    _add_switched(app, cached, role)


@case("never", "the cookie user, by switch_deeper")
def switched_deeper(app: FastAPI, cached: Decorate) -> None:
    _add_switched(app, cached, switch_deeper)


@case("never", "the security scheme HTTPBearer, by switch_by_token", token=True)
def switched_by_a_token(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x", dependencies=[Depends(switch_by_token)])
    @cached(authorized="keyed")
    async def rows(db: DB) -> Response:
        return whose(db)


@case("never", "the cookie user, by switch")
def switched_by_the_router(app: FastAPI, cached: Decorate) -> None:
    router = APIRouter(dependencies=[Depends(switch)])

    @router.get("/x")
    @cached()
    async def rows(db: DB) -> Response:
        return whose(db)

    app.include_router(router)


@case("never", "the cookie user, by switch")
def not_in_key_does_not_say_that_it_is_nobodys(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(
        db: Annotated[Session, Depends(get_db), NotInKey],
        allowed: Annotated[bool, Depends(switch)],
    ) -> Response:
        return whose(db)


class Plain:
    """The connection beneath a session."""

    user = "everybody"


def get_connection() -> Iterator[Plain]:
    yield Plain()


Connection = Annotated[Plain, Depends(get_connection)]


def get_mapper(connection: Connection) -> Iterator[Session]:
    yield tools.session_over(None, connection=connection)


def set_role(connection: Connection, user: User) -> bool:
    connection.user = user
    return True


@case("never", "the cookie user, by set_role")
def switched_on_the_connection_beneath(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(
        db: Annotated[Session, Depends(get_mapper)], _: Annotated[bool, Depends(set_role)]
    ) -> Response:
        return PlainTextResponse(db.info["connection"].user)


def get_named_db(user: User) -> Iterator[Session]:
    yield tools.session_over(tools.engine, user=user)


@case("of each")
def a_cookie_that_the_endpoint_has_as_a_parameter(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(user: User, db: Annotated[Session, Depends(get_named_db)]) -> Response:
        return whose(db)


def get_db_by_header(x_user: Annotated[str, Header()]) -> Iterator[Session]:
    yield tools.session_over(tools.engine, user=x_user)


@case("of each")
def a_header_in_vary(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached(vary=("X-User",))
    async def rows(db: Annotated[Session, Depends(get_db_by_header)]) -> Response:
        return whose(db)


@case("never", "the header x-user")
def a_header_in_vary_that_is_normalised(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached(vary={"X-User": lambda value: "one"})
    async def rows(db: Annotated[Session, Depends(get_db_by_header)]) -> Response:
        return whose(db)


def get_db_of_path(request: Request) -> Iterator[Session]:
    yield tools.session_over(tools.engine, user=request.path_params["tenant"])


@case("of each", path="/{user}/x")
def a_tenant_in_the_path(app: FastAPI, cached: Decorate) -> None:
    @app.get("/{tenant}/x")
    @cached()
    async def rows(tenant: str, db: Annotated[Session, Depends(get_db_of_path)]) -> Response:
        return whose(db)


def get_db_of_host(request: Request) -> Iterator[Session]:
    yield tools.session_over(tools.engine, user=str(request.url.hostname).partition(".")[0])


@case("of each", hosts=True)
def a_tenant_in_the_host(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db_of_host)]) -> Response:
        return whose(db)


@case("never", "the request, in get_db_of_host")
def a_tenant_in_a_host_that_is_no_part_of_the_key(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached(key_host=False)
    async def rows(db: Annotated[Session, Depends(get_db_of_host)]) -> Response:
        return whose(db)


# -- what is held ---------------------------------------------------------------------------------


def by_plan(x_plan: Annotated[str, Header()]) -> Any:
    return tools.PREMIUM if x_plan == "premium" else tools.FREE


def name_of_engine(engine: Any) -> Response:
    names = {"premium": tools.PREMIUM, "free": tools.FREE, "one": tools.engine, **tools.BY_TENANT}
    return PlainTextResponse(next((n for n, each in names.items() if each is engine), "another"))


def _add_engine(app: FastAPI, cached: Decorate, dependency: Any) -> None:
    @app.get("/x")
    @cached()
    async def rows(engine: Annotated[Any, Depends(dependency)]) -> Response:
        return name_of_engine(engine)


@case("of each")
def one_of_two_globals_that_a_header_selects(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, by_plan)


@case("never", "the cookie user")
def an_item_of_a_container_that_a_cookie_selects(app: FastAPI, cached: Decorate) -> None:
    def of_tenant(user: User) -> Any:
        return tools.BY_TENANT[user]

    _add_engine(app, cached, of_tenant)


@case("never", "nothing says whose engine is", path="/x?name={user}")
def an_item_of_a_container(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, lambda: tools.BY_TENANT["alice"])


@case("never", "nothing says whose engine is")
def one_of_many_that_a_cached_function_returns(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, lambda: tools.engine_of("one"))


@case("of all")
def the_one_that_a_cached_function_returns(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, tools.cached_engine)


class Made:
    """Settings that hold what they make."""

    def __init__(self) -> None:
        self.client = httpx.AsyncClient()


@functools.lru_cache
def get_settings() -> Made:
    return Made()


@case("of all")
def cached_settings_that_hold_a_client(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(settings: Annotated[Made, Depends(get_settings)]) -> Response:
        return PlainTextResponse("rows")


@case("of all")
def one_that_is_two_attributes_away(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, lambda: tools.resources.database.engine)


@case("of all")
def one_that_another_path_leads_to_from_too_far(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, lambda: tools.far_resources.database.engine)


@case("never", "nothing says whose engine is")
def one_that_each_request_puts_into_the_state_of_the_application(
    app: FastAPI, cached: Decorate
) -> None:
    @app.middleware("http")
    async def put(request: Request, call_next: Any) -> Any:
        request.app.state.engine = create_engine("sqlite://")
        return await call_next(request)

    def of_state(request: Request) -> Any:
        return request.app.state.engine

    _add_engine(app, cached, of_state)


@case("of all")
def one_in_the_state_of_the_application(app: FastAPI, cached: Decorate) -> None:
    app.state.engine = create_engine("sqlite://")

    def of_state(request: Request) -> Any:
        return request.app.state.engine

    _add_engine(app, cached, of_state)


@case("of all")
def one_in_the_state_of_the_lifespan(app: FastAPI, cached: Decorate) -> None:
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"engine": create_engine("sqlite://")}

    app.router.lifespan_context = contextlib.asynccontextmanager(lifespan)

    def of_state(request: Request) -> Any:
        return request.state.engine

    _add_engine(app, cached, of_state)


@case("never", "nothing says whose engine is")
def a_scoped_session(app: FastAPI, cached: Decorate) -> None:
    _add_engine(app, cached, lambda: tools.Scoped)


@case("never", "nothing says whose api is")
def a_client_that_a_dependency_returns(app: FastAPI, cached: Decorate) -> None:
    def get_api() -> httpx.AsyncClient:
        return httpx.AsyncClient()

    @app.get("/x")
    @cached()
    async def rows(api: Annotated[httpx.AsyncClient, Depends(get_api)]) -> Response:
        return PlainTextResponse("rows")


@case("never", "the cookie user")
def a_held_client_that_its_dependency_gives_a_token(app: FastAPI, cached: Decorate) -> None:
    def get_api(user: User) -> httpx.AsyncClient:
        tools.client.headers["authorization"] = user
        return tools.client

    @app.get("/x")
    @cached()
    async def rows(api: Annotated[httpx.AsyncClient, Depends(get_api)]) -> Response:
        return PlainTextResponse(api.headers["authorization"])


def get_yielded_api() -> Iterator[httpx.AsyncClient]:
    yield httpx.AsyncClient()


Api = Annotated[httpx.AsyncClient, Depends(get_yielded_api)]


def authenticate(api: Api, user: User) -> None:
    api.headers["authorization"] = user


@case("never", "the cookie user, by authenticate")
def a_client_that_another_dependency_gives_a_token(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x", dependencies=[Depends(authenticate)])
    @cached()
    async def rows(api: Api) -> Response:
        return PlainTextResponse(api.headers["authorization"])


@case("never", "nothing says whose engine is")
def a_global_that_each_request_sets(app: FastAPI, cached: Decorate) -> None:
    def swap(user: User) -> None:
        tools.swapped.session = tools.session_over(None, user=user)

    @app.get("/x", dependencies=[Depends(swap)])
    @cached()
    async def rows(engine: Annotated[Any, Depends(lambda: tools.swapped.session)]) -> Response:
        return whose(engine)


@case("never", "bound to an engine that no module")
def a_session_bound_to_an_engine_that_nobody_holds(app: FastAPI, cached: Decorate) -> None:
    def get_db() -> Iterator[Session]:
        yield tools.session_over(tools.BY_TENANT["alice"])

    @app.get("/x")
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db)]) -> Response:
        return whose(db)


def _add_closed_over(app: FastAPI, cached: Decorate, engine: Any) -> None:
    def get_db() -> Iterator[Session]:
        yield tools.session_over(engine)

    @app.get("/x")
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db)]) -> Response:
        return whose(db)


@case("never", "app.state.engine = engine")
def a_session_of_an_engine_that_only_a_factory_has(app: FastAPI, cached: Decorate) -> None:
    _add_closed_over(app, cached, create_engine("sqlite://"))


@case("of all")
def a_session_of_an_engine_of_a_factory_with_the_line_that_is_named(
    app: FastAPI, cached: Decorate
) -> None:
    app.state.engine = create_engine("sqlite://")
    _add_closed_over(app, cached, app.state.engine)


@case("never", "app.state.api = api")
def a_client_that_only_a_factory_has(app: FastAPI, cached: Decorate) -> None:
    client = httpx.AsyncClient()

    @app.get("/x")
    @cached()
    async def rows(api: Annotated[httpx.AsyncClient, Depends(lambda: client)]) -> Response:
        return PlainTextResponse("rows")


@case("of all")
def a_session_of_a_factory_that_a_module_holds(app: FastAPI, cached: Decorate) -> None:
    def get_db() -> Iterator[Session]:
        with tools.SessionLocal() as session:
            yield session

    @app.get("/x")
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db)]) -> Response:
        return whose(db)


# -- context variables ----------------------------------------------------------------------------

TENANT: ContextVar[str] = ContextVar("TENANT")


def tenant() -> str:
    return TENANT.get("everybody")


def get_db_of_context() -> Iterator[Session]:
    with tools.session_over(tools.engine) as session:
        session.info["user"] = TENANT.get("everybody")
        yield session


def get_db_of_context_by_a_function() -> Iterator[Session]:
    with tools.session_over(tools.engine) as session:
        session.info["user"] = tenant()
        yield session


def get_db_that_is_logged(seen: list[str] = []) -> Iterator[Session]:  # noqa: B006
    seen.append(tenant())
    yield from get_db()


class SetsTenant:
    """A middleware that says who asks."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            TENANT.set(HTTPConnection(scope).cookies["user"])
        await self.app(scope, receive, send)


def _add_of_context(app: FastAPI, cached: Decorate, get: Any, **settings: Any) -> None:
    app.add_middleware(SetsTenant)

    @app.get("/x")
    @cached(**settings)
    async def rows(db: Annotated[Session, Depends(get)]) -> Response:
        return whose(db)


@case("never", "pass key_context=(TENANT,)")
def a_session_of_a_context_variable(app: FastAPI, cached: Decorate) -> None:
    _add_of_context(app, cached, get_db_of_context)


@case("never", "it depends on the context variable tests.endpoint.test_whose.TENANT")
def a_session_of_a_context_variable_by_a_function(app: FastAPI, cached: Decorate) -> None:
    _add_of_context(app, cached, get_db_of_context_by_a_function)


@case("of each")
def a_session_of_a_context_variable_in_the_key(app: FastAPI, cached: Decorate) -> None:
    _add_of_context(app, cached, get_db_of_context, key_context=(TENANT,))


@case("of each")
def a_session_of_a_context_variable_in_the_key_by_a_function(
    app: FastAPI, cached: Decorate
) -> None:
    _add_of_context(app, cached, get_db_of_context_by_a_function, key_context=(tenant,))


@case("of all")
def a_session_beside_a_context_variable_that_does_not_matter(
    app: FastAPI, cached: Decorate
) -> None:
    _add_of_context(app, cached, get_db_that_is_logged, key_context=())


@case("of all")
def a_session_of_a_context_variable_that_is_not_set(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db_of_context)]) -> Response:
        return whose(db)


# -- what is called or set by hand ----------------------------------------------------------------


@case("never", "nothing says whose db is")
def a_helper_that_is_called_with_a_session_of_its_own(app: FastAPI, cached: Decorate) -> None:
    """Its signature says where FastAPI would take the session from, and it is another one."""

    @cached()
    async def totals(request: Request, db: DB) -> Response:
        return whose(db)

    @app.get("/x")
    async def rows(request: Request, db: DB, user: User) -> Any:
        return await totals(request, db=tools.session_over(tools.engine, user=user))


@case("never", "nothing says whose db is")
def what_a_decorator_above_passes(app: FastAPI, cached: Decorate) -> None:
    def with_session(function: Any) -> Any:
        async def wrapper(request: Request) -> Any:
            session = tools.session_over(tools.engine, user=request.cookies["user"])
            return await function(request=request, db=session)

        return wrapper

    @app.get("/x")
    @with_session
    @cached()
    async def rows(request: Request, db: Session) -> Response:
        return whose(db)


@case("never", "self is of type")
def an_attribute_of_an_endpoint_class(app: FastAPI, cached: Decorate) -> None:
    class Rows(HTTPEndpoint):
        async def dispatch(self) -> None:
            user = Request(self.scope).cookies["user"]
            self.db = tools.session_over(tools.engine, user=user)
            response = await self.get(Request(self.scope, self.receive))
            await response(self.scope, self.receive, self.send)

        @cached()
        async def get(self, request: Request) -> Response:
            return whose(self.db)

    app.router.routes.append(Route("/x", Rows))


# -- classes and services -------------------------------------------------------------------------


class Page:
    """A class of query parameters."""

    def __init__(self, page: int = 1, user: str = "nobody") -> None:
        self.page, self.user = page, user


class Repository:
    def __init__(self, session: Session) -> None:
        self._session = session


class Service:
    def __init__(self, db: DB) -> None:
        self._repository = Repository(db)
        self._log = tools.log

    def rows(self) -> Response:
        return whose(self._repository._session)


def get_service(db: DB) -> Service:
    return Service(db)


class Lazy:
    """What it is does not show in its attributes."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class OfHeader:
    def __init__(self, x_user: Annotated[str, Header()]) -> None:
        self.user = x_user


@case("of each", path="/x?user={user}")
def a_class_of_query_parameters(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(page: Annotated[Page, Depends()]) -> Response:
        return PlainTextResponse(f"{page.page} {page.user}")


@case("never", "the header x-user")
def a_class_of_a_header(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(page: Annotated[OfHeader, Depends()]) -> Response:
        return PlainTextResponse(page.user)


@case("never", "Lazy")
def a_class_with_attributes_that_do_not_show(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(lazy: Annotated[Lazy, Depends()]) -> Response:
        return PlainTextResponse("rows")


@case("of all")
def a_service_over_a_session(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(service: Annotated[Service, Depends()]) -> Response:
        return service.rows()


@case("of all")
def a_service_that_a_function_returns(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(service: Annotated[Service, Depends(get_service)]) -> Response:
        return service.rows()


@case("never", "the cookie user, by switch")
def a_service_over_a_session_that_is_switched(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(
        service: Annotated[Service, Depends()], allowed: Annotated[bool, Depends(switch)]
    ) -> Response:
        return service.rows()


@case("of all")
def settings_of_a_plain_class(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(settings: Annotated[Any, Depends(lambda: tools.settings)]) -> Response:
        return PlainTextResponse(settings.name)


@case("of all")
def settings_beside_a_login_that_uses_them(app: FastAPI, cached: Decorate) -> None:
    def get_engine() -> Any:
        return tools.engine

    def login(engine: Annotated[Any, Depends(get_engine)], user: User) -> str:
        return "member"

    def get_db(engine: Annotated[Any, Depends(get_engine)]) -> Iterator[Session]:
        yield tools.session_over(engine)

    @app.get("/x", dependencies=[Depends(login)])
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db)]) -> Response:
        return whose(db)


@case("of all")
def values_that_have_a_form(app: FastAPI, cached: Decorate) -> None:
    values = [re.compile("a"), zoneinfo.ZoneInfo("Europe/Berlin"), tools.log, tools.session_over]

    @app.get("/x")
    @cached()
    async def rows(
        pattern: Annotated[Any, Depends(lambda: values[0])],
        zone: Annotated[Any, Depends(lambda: values[1])],
        log: Annotated[Any, Depends(lambda: values[2])],
        function: Annotated[Any, Depends(lambda: values[3])],
    ) -> Response:
        return PlainTextResponse("rows")


# -- users ----------------------------------------------------------------------------------------


class Account:
    """A user, as an ORM has it: without a form."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loader = object()


class Declared(Account):
    """One that the application declares once."""


in_key(Declared, lambda user: user.name)

oauth2 = OAuth2PasswordBearer("/login", auto_error=False)

Token = Annotated[str | None, Depends(oauth2)]


def get_user(token: Token, db: DB) -> Account:
    if token is None:
        raise HTTPException(401)
    db.info["user"] = token
    return Account(token)


def get_declared(user: Annotated[Account, Depends(get_user)]) -> Declared:
    return Declared(user.name)


def get_member(user: Annotated[Account, Depends(get_user)], x_org: Annotated[str, Header()]) -> Any:
    user.org = x_org  # type: ignore[attr-defined]
    return user


def get_member_by_request(user: Annotated[Account, Depends(get_user)], request: Request) -> Any:
    user.org = request.headers["x-org"]  # type: ignore[attr-defined]
    return user


def get_author(author: str, db: DB) -> Declared:
    return Declared("author")


by_name = InKey(lambda user: user.name)
TheUser = Annotated[Account, Depends(get_user), by_name]


def _add_orders(app: FastAPI, cached: Decorate, **settings: Any) -> None:
    @app.get("/x")
    @cached(**settings)
    async def orders(user: Annotated[Account, Depends(get_user)], db: DB) -> Response:
        return PlainTextResponse(f"{user.name} {db.info['user']}")


@case("never", "Authorization", token=True)
def a_user_of_a_plain_name(app: FastAPI, cached: Decorate) -> None:
    def name(user: Annotated[Account, Depends(get_user)]) -> str:
        return user.name

    @app.get("/x")
    @cached()
    async def orders(name: Annotated[str, Depends(name)]) -> Response:
        return PlainTextResponse(name)


@case("of each", token=True)
def a_user_in_key(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def orders(user: TheUser, db: DB) -> Response:
        return PlainTextResponse(f"{user.name} {db.info['user']}")


@case("of each", token=True)
def a_user_in_key_args(app: FastAPI, cached: Decorate) -> None:
    _add_orders(app, cached, key_args={"user": lambda user: user.name})


@case("of each", token=True)
def a_user_of_a_declared_class(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def orders(user: Annotated[Declared, Depends(get_declared)], db: DB) -> Response:
        return PlainTextResponse(f"{user.name} {db.info['user']}")


@case("of each", token=True)
def a_user_of_a_token_in_key(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def orders(token: Annotated[str | None, Depends(oauth2), InKey(str)]) -> Response:
        return PlainTextResponse(str(token))


@case("never", "the security scheme OAuth2PasswordBearer, by get_user", token=True)
def an_author_is_not_the_one_who_asks(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x/{author}", dependencies=[Depends(get_user)])
    @cached()
    async def orders(author: Annotated[Declared, Depends(get_author)], db: DB) -> Response:
        return PlainTextResponse(f"{author.name} {db.info['user']}")


CASES["an author is not the one who asks"] = CASES["an author is not the one who asks"]._replace(
    path="/x/somebody"
)


@case("never", "Authorization", token=True)
def another_login_beside_the_user(app: FastAPI, cached: Decorate) -> None:
    def other(token: Annotated[Any, Depends(HTTPBearer())]) -> None: ...

    @app.get("/x", dependencies=[Depends(other)])
    @cached()
    async def orders(user: TheUser) -> Response:
        return PlainTextResponse(user.name)


@case("of each", token=True)
def an_organisation_beside_the_user(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def orders(user: Annotated[Any, Depends(get_member), by_name], db: DB) -> Response:
        return PlainTextResponse(f"{user.name} {user.org} {db.info['user']}")


@case("never", "Authorization", token=True)
def an_organisation_that_is_read_from_the_request(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def orders(user: Annotated[Any, Depends(get_member_by_request), by_name]) -> Response:
        return PlainTextResponse(f"{user.name} {user.org}")


# -- what can be overlooked -----------------------------------------------------------------------


class Sessions:
    """Its method is the dependency: each access gives another object, and all are equal."""

    def get(self) -> Iterator[Session]:
        yield tools.session_over(tools.engine)


sessions = Sessions()


@case("never", "the cookie user, by ")
def a_method_that_two_dependencies_name(app: FastAPI, cached: Decorate) -> None:
    first, second = Depends(sessions.get), Depends(sessions.get)

    def switch(user: User, db: Session = first) -> None:
        db.info["user"] = user

    @app.get("/x", dependencies=[Depends(switch)])
    @cached()
    async def rows(db: Session = second) -> Response:
        return whose(db)


def get_name(user: User) -> str:
    return user


@case("never", "the cookie user")
def a_held_client_that_is_given_a_name_from_a_dependency(app: FastAPI, cached: Decorate) -> None:
    def get_api(name: Annotated[str, Depends(get_name)]) -> httpx.AsyncClient:
        tools.client.headers["authorization"] = name
        return tools.client

    @app.get("/x")
    @cached()
    async def rows(api: Annotated[httpx.AsyncClient, Depends(get_api)]) -> Response:
        return PlainTextResponse(api.headers["authorization"])


def get_db_of_org(org: Annotated[str, Cookie()] = "everybody") -> Iterator[Session]:
    yield tools.session_over(tools.engine, user=org)


@case("of each")
def a_cookie_that_the_parameter_converts(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(
        org: Annotated[str, Cookie(), AfterValidator(lambda value: value[:3])],
        db: Annotated[Session, Depends(get_db_of_org)],
    ) -> Response:
        return whose(db)


class Settled(BaseModel, extra="allow"):
    x_org: str


def get_db_of_any_header(headers: Annotated[Settled, Header()]) -> Iterator[Session]:
    yield tools.session_over(tools.engine, user=(headers.model_extra or {})["x-user"])


@case("never", "all that headers of get_db_of_any_header accepts")
def a_model_of_all_headers(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached(vary=("X-Org",))
    async def rows(db: Annotated[Session, Depends(get_db_of_any_header)]) -> Response:
        return whose(db)


@case("never", "nothing says whose db is")
def a_session_of_a_registry(app: FastAPI, cached: Decorate) -> None:
    async def registered() -> AsyncIterator[Session]:
        yield tools.Scoped()
        tools.Scoped.remove()

    async def login(user: User) -> None:
        tools.Scoped().info["user"] = user

    @app.get("/x", dependencies=[Depends(login)])
    @cached()
    async def rows(db: Annotated[Session, Depends(registered)]) -> Response:
        return whose(db)


CONTEXT: dict[str, str] = {}


def get_context() -> dict[str, str]:
    return CONTEXT


def enter(context: Annotated[dict[str, str], Depends(get_context)], user: User) -> None:
    context["user"] = user


@case("never", "the cookie user, by enter")
def a_dict_that_another_dependency_fills(app: FastAPI, cached: Decorate) -> None:
    def get_db(context: Annotated[dict[str, str], Depends(get_context)]) -> Iterator[Session]:
        yield tools.session_over(tools.engine, **context)

    @app.get("/x", dependencies=[Depends(enter)])
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db)]) -> Response:
        return whose(db)


@dataclasses.dataclass(init=False)
class Sealed:
    """Keeps its value in a slot with a private name."""

    __slots__ = ("__user",)

    def __init__(self, user: str) -> None:
        self.__user = user

    def user(self) -> str:
        return self.__user


@case("of each")
def a_slot_with_a_private_name(app: FastAPI, cached: Decorate) -> None:
    def get_sealed(user: User) -> Sealed:
        return Sealed(user)

    @app.get("/x")
    @cached()
    async def rows(sealed: Annotated[Sealed, Depends(get_sealed)]) -> Response:
        return PlainTextResponse(sealed.user())


@case("never", "the cookie user")
def a_dict_with_a_default_of_its_own(app: FastAPI, cached: Decorate) -> None:
    def get_names(user: User) -> Any:
        return collections.defaultdict(lambda: user)

    @app.get("/x")
    @cached()
    async def rows(names: Annotated[dict[str, str], Depends(get_names)]) -> Response:
        return PlainTextResponse(names["any"])


@case("never", "self is of type")
def a_slot_of_an_endpoint_class(app: FastAPI, cached: Decorate) -> None:
    class Rows(HTTPEndpoint):
        __slots__ = ("db",)

        async def dispatch(self) -> None:
            request = Request(self.scope)
            self.db = tools.session_over(tools.engine, user=request.cookies["user"])
            await (await self.get(request))(self.scope, self.receive, self.send)

        @cached()
        async def get(self, request: Request) -> Response:
            return whose(self.db)

    app.router.routes.append(Route("/x", Rows))


def passing(before: Callable[[dict[str, Any]], None]) -> Callable[[Any], Any]:
    """A decorator that looks at the arguments, and passes them on."""

    def decorator(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            before(kwargs)
            return await function(*args, **kwargs)

        return wrapper

    return decorator


def limited(function: Any) -> Any:
    """A decorator that looks at the request only, as those of rate limiters do."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = kwargs.get("request", args[0] if args else None)
        if request is None or "nothing" in kwargs:
            raise TypeError
        return await function(*args, **kwargs)

    return wrapper


def switched(function: Any) -> Any:
    """A decorator that changes the session that it passes on."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs["db"].info["user"] = kwargs["request"].cookies["user"]
        return await function(*args, **kwargs)

    return wrapper


def replaced(function: Any) -> Any:
    """A decorator that passes on another session."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        user = kwargs["request"].cookies["user"]
        other = {"db": tools.session_over(tools.engine, user=user)}
        return await function(*args, **{**kwargs, **other})

    return wrapper


def _add_decorated(app: FastAPI, cached: Decorate, above: Callable[[Any], Any]) -> None:
    async def rows(request: Request, db: DB) -> Response:
        return whose(db)

    app.get("/x")(above(cached()(rows)))


@case("of all")
def a_decorator_above_that_looks_at_the_request(app: FastAPI, cached: Decorate) -> None:
    _add_decorated(app, cached, limited)


@case("never", "nothing says whose db is")
def a_decorator_above_that_changes_the_session(app: FastAPI, cached: Decorate) -> None:
    _add_decorated(app, cached, switched)


@case("never", "nothing says whose db is")
def a_decorator_above_that_replaces_the_session(app: FastAPI, cached: Decorate) -> None:
    _add_decorated(app, cached, replaced)


@case("never", "nothing says whose db is")
def a_decorator_above_that_passes_the_arguments_to_a_function(
    app: FastAPI, cached: Decorate
) -> None:
    def switch(given: dict[str, Any]) -> None:
        given["db"].info["user"] = given["request"].cookies["user"]

    _add_decorated(app, cached, passing(switch))


class OfOrganisation(HTTPBearer):
    async def __call__(self, request: Request) -> Any:  # type: ignore[override]
        return [await super().__call__(request), request.headers["x-org"]]


class Inherited(OfOrganisation):
    async def __call__(self, request: Request) -> Any:  # type: ignore[override]
        return await super().__call__(request)


class Another:
    async def __call__(self, request: Request) -> Any:
        return [None, request.headers["x-org"]]


class Delegating(HTTPBearer):
    def __init__(self) -> None:
        super().__init__()
        self.other = Another()

    async def __call__(self, request: Request) -> Any:  # type: ignore[override]
        return await self.other.__call__(request)


class WithHeader(HTTPBearer):
    async def __call__(self, request: Request, x_org: Annotated[str, Header()] = "") -> Any:  # type: ignore[override]
        return [await super().__call__(request), x_org]


def _add_scheme(app: FastAPI, cached: Decorate, scheme: Any) -> None:
    def member(given: Annotated[Any, Depends(scheme)]) -> Account:
        return Account(given[1])

    @app.get("/x")
    @cached()
    async def orders(
        user: Annotated[Account, Depends(member), InKey(lambda user: "member")],
    ) -> Response:
        return PlainTextResponse(user.name)


@case("never", "Authorization", token=True)
def a_scheme_whose_base_class_reads_a_header(app: FastAPI, cached: Decorate) -> None:
    _add_scheme(app, cached, Inherited())


@case("never", "Authorization", token=True)
def a_scheme_that_calls_another_object(app: FastAPI, cached: Decorate) -> None:
    _add_scheme(app, cached, Delegating())


@case("of each", token=True)
def a_scheme_with_a_header_as_its_parameter(app: FastAPI, cached: Decorate) -> None:
    _add_scheme(app, cached, WithHeader())


def get_author_of_path(request: Request, user: Annotated[Account, Depends(get_user)]) -> Declared:
    return Declared(request.path_params["author"])


@case("never", "the security scheme OAuth2PasswordBearer", path="/x/somebody", token=True)
def an_author_whose_name_is_read_from_the_request(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x/{author}")
    @cached()
    async def orders(user: Annotated[Declared, Depends(get_author_of_path)], db: DB) -> Response:
        return PlainTextResponse(f"{user.name} {db.info['user']}")


# -- what looks suspicious ------------------------------------------------------------------------


@case("of all")
def nobody_in_particular_where_the_user_is_optional(app: FastAPI, cached: Decorate) -> None:
    def optional(token: Token, db: DB) -> Declared | None:
        return Declared(token) if token else None

    @app.get("/x")
    @cached()
    async def orders(user: Annotated[Declared | None, Depends(optional)], db: DB) -> Response:
        return PlainTextResponse(f"{user}")


@case("never", "Authorization", token=True)
def credentials_of_nobody(app: FastAPI, cached: Decorate) -> None:
    def optional(token: Token, db: DB) -> Declared | None:
        db.info["user"] = token
        return None

    @app.get("/x")
    @cached()
    async def orders(user: Annotated[Declared | None, Depends(optional)], db: DB) -> Response:
        return PlainTextResponse(f"{user} {db.info['user']}")


@case("of each", path="/x?key={user}")
def a_key_in_the_query(app: FastAPI, cached: Decorate) -> None:
    def get_db(key: Annotated[str, Security(APIKeyQuery(name="key"))]) -> Iterator[Session]:
        yield tools.session_over(tools.engine, user=key)

    @app.get("/x")
    @cached()
    async def rows(db: Annotated[Session, Depends(get_db)]) -> Response:
        return whose(db)


class Guarded:
    """A service that its application makes once, with a lock and functions of a module."""

    def __init__(self) -> None:
        self.locks = asyncio.Lock()
        self.lock = threading.Lock()
        self.engine = tools.engine
        self.make = tools.cached_engine


@case("of all")
def a_service_with_locks_and_functions(app: FastAPI, cached: Decorate) -> None:
    service = Guarded()

    @app.get("/x")
    @cached()
    async def rows(service: Annotated[Guarded, Depends(lambda: service)]) -> Response:
        return PlainTextResponse("rows")


class Node:
    def __init__(self, *others: Any) -> None:
        self.first, self.second, self.third = others or (None, None, None)


@case("never", "among too many objects")
def a_service_that_holds_many_objects(app: FastAPI, cached: Decorate) -> None:
    node = Node()
    for _ in range(6):
        node = Node(node, node, node)

    @app.get("/x")
    @cached()
    async def rows(node: Annotated[Node, Depends(lambda: node)]) -> Response:
        return PlainTextResponse("rows")


@case("never", "with too many items")
def a_service_that_holds_many_items(app: FastAPI, cached: Decorate) -> None:
    service = Repository(cast("Session", list(range(1001))))

    @app.get("/x")
    @cached()
    async def rows(service: Annotated[Repository, Depends(lambda: service)]) -> Response:
        return PlainTextResponse("rows")


# -- classes that a function makes, or a request changes ------------------------------------------


def _add_owned(app: FastAPI, cached: Decorate, dependency: Any) -> None:
    @app.get("/x")
    @cached()
    async def rows(repository: Annotated[Any, Depends(dependency)]) -> Response:
        return PlainTextResponse(repository.owner())


def owned_dataclass(user: User) -> Any:
    @dataclasses.dataclass
    class Owned:
        limit: int = 3

        def owner(self) -> str:
            return user

    return Owned()


def owned_model(user: User) -> Any:
    class Owned(BaseModel):
        limit: int = 3

        def owner(self, name: str = user) -> str:
            return name

    return Owned()


def owned_member(user: User) -> Any:
    class Owned(enum.Enum):
        ALL = 1

        def owner(self) -> str:
            return user

    return Owned.ALL


def owned_text(user: User) -> Any:
    class Owned(str):
        name = user

        def owner(self) -> str:
            return self.name

    return Owned("rows")


def owned_tuple(user: User) -> Any:
    class Owned(NamedTuple):
        limit: int = 3

        @property
        def owner(self) -> Any:
            return lambda: user

    return Owned()


def owned_instance(user: User) -> Any:
    class Owned:
        def owner(self) -> str:
            return user

    return Owned()


@case("of each")
def a_dataclass_made_over_the_user(app: FastAPI, cached: Decorate) -> None:
    _add_owned(app, cached, owned_dataclass)


@case("of each")
def a_model_made_over_the_user(app: FastAPI, cached: Decorate) -> None:
    _add_owned(app, cached, owned_model)


@case("of each")
def an_enum_made_over_the_user(app: FastAPI, cached: Decorate) -> None:
    _add_owned(app, cached, owned_member)


@case("of each")
def a_text_of_a_class_made_over_the_user(app: FastAPI, cached: Decorate) -> None:
    _add_owned(app, cached, owned_text)


@case("of each")
def a_tuple_of_a_class_made_over_the_user(app: FastAPI, cached: Decorate) -> None:
    _add_owned(app, cached, owned_tuple)


@case("never", "the cookie user")
def a_plain_class_made_over_the_user(app: FastAPI, cached: Decorate) -> None:
    _add_owned(app, cached, owned_instance)


class Tenant:
    """Has the one who asks on its class."""

    name = "nobody"

    def owner(self) -> str:
        return self.name


def set_tenant(user: User) -> None:
    Tenant.name = user


def set_function(user: User) -> None:
    set_function.name = user  # type: ignore[attr-defined]


@case("of each", at_once=False)
def an_instance_of_a_class_that_another_dependency_changes(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x", dependencies=[Depends(set_tenant)])
    @cached()
    async def rows(tenant: Annotated[Tenant, Depends()]) -> Response:
        return PlainTextResponse(tenant.owner())


@case("of each")
def a_member_of_an_enum_whose_other_member_is_the_user(app: FastAPI, cached: Decorate) -> None:
    def make(user: User) -> Any:
        class Made(enum.Enum):
            ONE = 1
            OTHER = user

        return Made.ONE

    @app.get("/x")
    @cached()
    async def rows(member: Annotated[Any, Depends(make)]) -> Response:
        return PlainTextResponse(type(member)["OTHER"].value)


class Plan(enum.Enum):
    FREE = 1


@case("of each", at_once=False)
def a_member_of_an_enum_that_a_dependency_changes(app: FastAPI, cached: Decorate) -> None:
    def get_plan(user: User) -> Plan:
        Plan.FREE.owner = user  # type: ignore[attr-defined]
        return Plan.FREE

    @app.get("/x")
    @cached()
    async def rows(plan: Annotated[Any, Depends(get_plan)]) -> Response:
        return PlainTextResponse(plan.owner)


class Counted:
    """Counts its instances."""

    made = 0

    def __init__(self) -> None:
        Counted.made += 1


@case("of all")
def an_instance_of_a_class_that_counts_them(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x")
    @cached()
    async def rows(counted: Annotated[Counted, Depends()]) -> Response:
        return PlainTextResponse("rows")


@case("of each", at_once=False)
def a_class_that_a_dependency_changes(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x", dependencies=[Depends(set_tenant)])
    @cached()
    async def rows(tenant: Annotated[Any, Depends(lambda: Tenant)]) -> Response:
        return PlainTextResponse(tenant.name)


@case("of each", at_once=False)
def a_function_that_a_dependency_changes(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x", dependencies=[Depends(set_function)])
    @cached()
    async def rows(function: Annotated[Any, Depends(lambda: set_function)]) -> Response:
        return PlainTextResponse(function.name)


class ClassOfTenant(HTTPEndpoint):
    name = "nobody"

    async def dispatch(self) -> None:
        ClassOfTenant.name = Request(self.scope).cookies["user"]
        await super().dispatch()


@case("of each", at_once=False)
def an_endpoint_class_that_a_request_changes(app: FastAPI, cached: Decorate) -> None:
    class Rows(ClassOfTenant):
        @cached()
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(self.name)

    app.router.routes.append(Route("/x", Rows))


# -- what the application holds, and a dependency changes -----------------------------------------


def get_client() -> httpx.AsyncClient:
    return tools.client


Client = Annotated[httpx.AsyncClient, Depends(get_client)]


def give_token(user: User) -> None:
    tools.client.headers["authorization"] = user


def give_token_by_dependency(client: Client, name: Annotated[str, Depends(get_name)]) -> None:
    client.headers.update({"authorization": name})


def give_token_by_another_name(request: Request) -> None:
    headers = tools.client.headers
    headers["authorization"] = request.cookies["user"]


def _add_client(app: FastAPI, cached: Decorate, change: Any) -> None:
    @app.get("/x", dependencies=[Depends(change)])
    @cached()
    async def rows(client: Client) -> Response:
        return PlainTextResponse(client.headers["authorization"])


@case("never", "the cookie user, by give_token", at_once=False)
def a_client_that_a_login_gives_a_token(app: FastAPI, cached: Decorate) -> None:
    _add_client(app, cached, give_token)


@case("never", "the cookie user, by give_token_by_dependency", at_once=False)
def a_client_that_a_login_takes_and_gives_a_token(app: FastAPI, cached: Decorate) -> None:
    _add_client(app, cached, give_token_by_dependency)


@case("never", "the cookie user, by give_token_by_another_name", at_once=False)
def a_client_whose_headers_a_login_changes(app: FastAPI, cached: Decorate) -> None:
    _add_client(app, cached, give_token_by_another_name)


@case("of each", at_once=False)
def a_client_that_is_given_a_token_that_is_in_the_key(app: FastAPI, cached: Decorate) -> None:
    @app.get("/x", dependencies=[Depends(give_token)])
    @cached()
    async def rows(client: Client, user: User) -> Response:
        return PlainTextResponse(client.headers["authorization"])


@case("never", "give_token_in_state", at_once=False)
def a_client_of_the_lifespan_that_is_given_a_token(app: FastAPI, cached: Decorate) -> None:
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"client": httpx.AsyncClient()}

    app.router.lifespan_context = contextlib.asynccontextmanager(lifespan)

    def give_token_in_state(request: Request, user: User) -> None:
        request.state.client.headers["authorization"] = user

    def of_state(request: Request) -> Any:
        return request.state.client

    @app.get("/x", dependencies=[Depends(give_token_in_state)])
    @cached()
    async def rows(client: Annotated[Any, Depends(of_state)]) -> Response:
        return PlainTextResponse(client.headers["authorization"])


@case("never", "choose_schema", at_once=False)
def an_engine_whose_schema_a_dependency_sets(app: FastAPI, cached: Decorate) -> None:
    def choose_schema(user: User) -> None:
        tools.engine.dialect.default_schema_name = user

    @app.get("/x", dependencies=[Depends(choose_schema)])
    @cached()
    async def rows(db: DB) -> Response:
        return PlainTextResponse(tools.engine.dialect.default_schema_name)


@case("of all")
def a_client_that_a_login_uses(app: FastAPI, cached: Decorate) -> None:
    seen: dict[str, str] = {}

    def login(user: User) -> None:
        seen[user] = tools.client.headers["user-agent"]

    @app.get("/x", dependencies=[Depends(login)])
    @cached()
    async def rows(client: Client) -> Response:
        return PlainTextResponse(client.headers["user-agent"])


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.matrix(share=3)
@pytest.mark.parametrize(
    "order", [ORDERS[0], pytest.param(ORDERS[1], marks=pytest.mark.full)], ids="-".join
)
@pytest.mark.parametrize("name", CASES)
def test_everybody_is_given_their_own(
    name: str, order: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    statuses = asked(case, order)
    said = warnings(caplog)
    expect(case, statuses, order)
    if case.why:
        (warning,) = said
        assert case.why in warning
    else:
        assert said == []


@pytest.mark.full
@pytest.mark.parametrize("name", halved(CASES))
def test_everybody_is_given_their_own_by_two_processes_over_one_redis(
    name: str, redis_url: str, apps_are_processes: None
) -> None:
    case = CASES[name]
    decorate = functools.partial(cached, cache=redis_url)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(TestClient(app)) for app in apps_of(case, decorate, 2)]
        (without,) = apps_of(case, as_it_is, 1)
        plain = stack.enter_context(TestClient(without))
        for user, client in zip(("alice", "bob", "alice", "bob"), clients * 2, strict=True):
            assert case.ask(client, user).text == case.ask(plain, user).text


@pytest.mark.full
@pytest.mark.parametrize("name", halved(CASES, 1))
def test_everybody_is_given_their_own_by_the_cashews_decorator(name: str) -> None:
    case = CASES[name]
    cache = Cache()
    cache.setup("mem://")

    def decorate(**settings: Any) -> Callable[[F], F]:
        return cast("Callable[[F], F]", cashews_cached(cache, ttl=60, **settings))

    apps = [*apps_of(case, decorate, 1), *apps_of(case, as_it_is, 1)]
    with TestClient(apps[0]) as ours, TestClient(apps[1]) as plain:
        answers = [case.ask(ours, user) for user in ORDERS[0]]
        assert [answer.text for answer in answers] == [
            case.ask(plain, user).text for user in ORDERS[0]
        ]
    expect(case, [answer.headers.get("cache-status", "none") for answer in answers], ORDERS[0])


def slowed(decorate: Decorate) -> Decorate:
    """Let what is decorated run until the others are here, wherever each of them is then."""

    def slow(**settings: Any) -> Callable[[F], F]:
        def over(function: Any) -> Any:
            @functools.wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                await asyncio.sleep(0.1)
                result = function(*args, **kwargs)
                return await result if inspect.isawaitable(result) else result

            return decorate(**settings)(run)

        return over

    return slow


@pytest.mark.full
@pytest.mark.parametrize("name", halved(name for name, case in CASES.items() if case.at_once))
def test_everybody_is_given_their_own_when_they_ask_at_once(name: str) -> None:
    case = CASES[name]
    answers = []
    for decorate in (as_it_is, cached):
        (app,) = apps_of(case, slowed(decorate), 1)
        with TestClient(app) as client, ThreadPoolExecutor() as pool:
            # A session counts from the second call on.
            case.ask(client, "alice")
            users = ("bob", "alice", "bob")
            answers.append([*pool.map(functools.partial(case.ask, client), users)])
    plain, ours = answers
    if case.cached == "never":
        # What several set on one object is that of the last one, with and without the cache.
        statuses = [answer.headers["cache-status"] for answer in ours]
        assert not any("hit" in status or "collapsed" in status for status in statuses)
        return
    assert [answer.text for answer in ours] == [answer.text for answer in plain]
    if case.cached == "of each":
        assert sum("collapsed" in answer.headers["cache-status"] for answer in ours) == 1


def test_the_organisation_is_in_the_key_by_value() -> None:
    app = FastAPI()

    @app.get("/x")
    @cached()
    async def orders(user: Annotated[Any, Depends(get_member), by_name]) -> Response:
        return PlainTextResponse(user.org)

    client = TestClient(app)
    given = [headers_of("alice") | {"X-Org": org} for org in ("one", "other", "one")]
    answers = [client.get("/x", headers=headers) for headers in given]
    assert [answer.text for answer in answers] == ["one", "other", "one"]
    assert [answer.headers["cache-status"] for answer in answers] == [MISS, MISS, HIT]


class Marked:
    """A class that is declared to be no part of a key."""


not_in_key(Marked)


def test_not_in_key_does_not_say_that_an_object_is_nobodys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()

    def make(user: User) -> Marked:
        return Marked()

    @app.get("/x")
    @cached()
    async def rows(marked: Annotated[Marked, Depends(make)]) -> Response:
        return PlainTextResponse("rows")

    client = TestClient(app)
    answer = client.get("/x", headers=headers_of("alice"))
    assert "argument" in answer.headers["cache-status"]
    assert "marked may belong to one client: it depends on the cookie user" in warnings(caplog)[0]


def test_a_function_is_called_for_each_list_of_scopes() -> None:
    app = FastAPI()

    @cached()
    async def check(request: Request, scopes: SecurityScopes) -> list[str]:
        return scopes.scopes

    @app.get("/x")
    async def both(
        one: Annotated[list[str], Security(check, scopes=["one"])],
        other: Annotated[list[str], Security(check, scopes=["other"])],
    ) -> Response:
        return PlainTextResponse(f"{one} {other}")

    assert TestClient(app).get("/x").text == "['one'] ['other']"
