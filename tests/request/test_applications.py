"""Several applications of one process: nobody is given what another one has answered."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import subprocess
import sys
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import stream_cached
from tests.support.asgi import Exchange
from tests.support.runs import HIT, MISS

REFUSED = 'stream-cached; fwd=bypass; detail="application"'
TENANTS = ("alice", "bob")

Make = Callable[[str], Any]


def router_over(url: str, **settings: Any) -> APIRouter:
    """The routes that all applications of a test have."""
    router = APIRouter()

    @router.get("/")
    @stream_cached(ttl=60, cache=url, **settings)
    async def orders(request: Request) -> Response:
        return PlainTextResponse(request.app.state.tenant)

    return router


def app_of(tenant: str, router: APIRouter) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    app.state.tenant = tenant
    return app


class ByHeader:
    """Chooses the application of a request by a header."""

    def __init__(self, apps: dict[str, ASGIApp]) -> None:
        self.apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.apps[Headers(scope=scope)["x-tenant"]](scope, receive, send)


async def asked(app: ASGIApp, tenant: str, path: str = "/") -> Exchange:
    exchange = Exchange(app, path=path)
    exchange.scope["headers"] = [*exchange.scope["headers"], (b"x-tenant", tenant.encode())]
    await exchange.run()
    return exchange


def ask(app: ASGIApp, *tenants: str, path: str = "/") -> list[Exchange]:
    """Let these tenants ask, one after the other; `path` may have their name in it."""

    async def test() -> list[Exchange]:
        return [await asked(app, tenant, path.format(tenant)) for tenant in tenants]

    return asyncio.run(test())


@contextmanager
def globals_of(name: str, **values: object) -> Iterator[types.ModuleType]:
    module = types.ModuleType(name)
    vars(module).update(values)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


@pytest.fixture
def module_name() -> str:
    return f"app_{uuid.uuid4().hex[:12]}"


def bodies(answers: list[Exchange]) -> list[str]:
    return [answer.body.decode() for answer in answers]


def statuses(answers: list[Exchange]) -> list[str]:
    return [answer.cache_status for answer in answers]


ORDERS = [order for order in itertools.product(TENANTS, repeat=3) if len({*order}) == 2]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_each_application_answers_its_own_clients(cache_url: str, order: tuple[str, ...]) -> None:
    router = router_over(cache_url)
    apps = ByHeader({tenant: app_of(tenant, router) for tenant in TENANTS})
    assert bodies(ask(apps, *order)) == [*order]


def test_requests_at_once_are_answered_by_their_applications(cache_url: str) -> None:
    router = router_over(cache_url)
    apps = ByHeader({tenant: app_of(tenant, router) for tenant in TENANTS})

    async def test() -> None:
        wanted = [*TENANTS] * 5
        answers = await asyncio.gather(*[asked(apps, tenant) for tenant in wanted])
        assert bodies([*answers]) == wanted

    asyncio.run(test())


def test_applications_without_a_name_are_refused_on_a_server(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "stream_cached")
    router = router_over(f"{redis_url}?namespace={namespace}")
    apps = ByHeader({tenant: app_of(tenant, router) for tenant in TENANTS})
    # The first of them, too: another process may have answered for the other one.
    assert statuses(ask(apps, "alice", "bob", "alice")) == [REFUSED] * 3
    (record,) = caplog.records
    assert "pass namespace=" in record.message


def test_applications_that_modules_hold_are_kept_apart_and_have_hits(
    redis_url: str, namespace: str, module_name: str
) -> None:
    router = router_over(f"{redis_url}?namespace={namespace}")
    apps = {tenant: app_of(tenant, router) for tenant in TENANTS}
    with globals_of(module_name, **apps):
        answers = ask(ByHeader({**apps}), "alice", "bob", "alice", "bob")
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers) == [MISS, MISS, HIT, HIT]


MAIN = """
import asyncio, sys
from fastapi import FastAPI
from tests.request.test_applications import app_of, ask, router_over

router = router_over(sys.argv[1])
tenants = FREE, PAID = app_of("alice", router), app_of("bob", router)
application = PAID

def main():
    for app in tenants:
        print(*[answer.cache_status for answer in ask(app, "alice")])

if __name__ == "__main__":
    main()
"""


@pytest.mark.full
def test_another_process_finds_an_application_by_its_name(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    tmp_path.joinpath("main.py").write_text(MAIN)
    path = os.pathsep.join([str(tmp_path), *sys.path])

    def run(*args: str) -> list[str]:
        command = [sys.executable, *args, f"{redis_url}?namespace={namespace}"]
        environment = os.environ | {"PYTHONPATH": path}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert not ran.returncode, ran.stderr
        return ran.stdout.splitlines()

    assert run("-c", "import main; main.main()") == [MISS, MISS]
    assert run("-c", "import main; main.main()") == [HIT, HIT]
    # A program's first module has the name by which others import it.
    assert run(str(tmp_path / "main.py")) == [HIT, HIT]
    assert run("-m", "main") == [HIT, HIT]


def get_rate() -> str:
    return "the rate"


def get_test_rate() -> str:
    return "a test's rate"


def test_on_a_server_what_overrides_a_dependency_is_in_the_key(
    redis_url: str, namespace: str
) -> None:
    def app_with(override: Any) -> FastAPI:
        app = FastAPI()

        @app.get("/")
        @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
        async def rates(rate: Annotated[str, Depends(get_rate)]) -> Response:
            return PlainTextResponse(rate)

        @app.get("/own")
        @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
        async def own(request: Request) -> Response:
            overrides = request.app.dependency_overrides
            return PlainTextResponse(overrides.get(get_rate, get_rate)())

        if override is not None:
            app.dependency_overrides[get_rate] = override
        return app

    def answers(override: Any) -> list[tuple[str, str]]:
        given = ask(app_with(override), "alice", "alice", path="/own")
        return [*zip(bodies(given), statuses(given), strict=True)]

    owner = object()

    def get_nobodys_rate() -> str:
        return f"{type(owner).__name__}'s rate"

    assert answers(None) == [("the rate", MISS), ("the rate", HIT)]
    assert answers(get_test_rate) == [("a test's rate", MISS), ("a test's rate", HIT)]
    assert answers(None) == [("the rate", HIT), ("the rate", HIT)]
    # Nothing says whether that of another process is the same.
    assert answers(get_nobodys_rate) == [("object's rate", REFUSED)] * 2


def test_a_global_that_was_another_application_before_names_none(
    redis_url: str, namespace: str, module_name: str
) -> None:
    router = router_over(f"{redis_url}?namespace={namespace}")
    apps = {tenant: app_of(tenant, router) for tenant in TENANTS}
    with globals_of(module_name) as module:
        answers = []
        for tenant in ("alice", "bob", "alice", "bob"):
            vars(module)["current"] = apps[tenant]
            answers += ask(module.current, tenant)
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers)[1:] == [REFUSED] * 3


def test_an_application_made_by_a_factory_is_cached_and_shared_by_processes(
    redis_url: str, namespace: str
) -> None:
    url = f"{redis_url}?namespace={namespace}"
    assert statuses(ask(app_of("alice", router_over(url)), "alice", "alice")) == [MISS, HIT]
    # That of another process: the first one is gone.
    assert statuses(ask(app_of("alice", router_over(url)), "alice")) == [HIT]


@pytest.mark.parametrize("collected", [True, False])
def test_an_application_of_an_earlier_test_does_not_count(
    redis_url: str, namespace: str, collected: bool
) -> None:
    router = router_over(f"{redis_url}?namespace={namespace}")
    for number in range(3):
        assert statuses(ask(app_of("alice", router), "alice")) == [HIT if number else MISS]
        if collected:
            gc.collect()


def test_applications_that_reach_other_functions_do_not_count(
    redis_url: str, namespace: str
) -> None:
    url = f"{redis_url}?namespace={namespace}"
    admin = FastAPI()

    @admin.get("/")
    @stream_cached(ttl=60, cache=url)
    async def figures() -> str:
        return "figures"

    public = app_of("alice", router_over(url))
    assert statuses(ask(public, "alice", "alice")) == [MISS, HIT]
    assert statuses(ask(admin, "alice", "alice")) == [MISS, HIT]


def test_a_helper_that_no_route_shows_is_refused_for_all(redis_url: str, namespace: str) -> None:
    @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
    async def orders(request: Request) -> Response:
        return PlainTextResponse(request.app.state.tenant)

    def made(tenant: str) -> FastAPI:
        app = FastAPI()
        app.state.tenant = tenant

        @app.get("/")
        async def page(request: Request) -> Response:
            return await orders(request)

        return app

    answers = ask(ByHeader({tenant: made(tenant) for tenant in TENANTS}), "alice", "bob")
    assert bodies(answers) == ["alice", "bob"]
    assert statuses(answers) == [REFUSED] * 2


def test_applications_with_classes_of_their_own_are_not_alike(
    redis_url: str, namespace: str
) -> None:
    @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
    async def orders(request: Request) -> Response:
        return PlainTextResponse("orders")

    class Orders(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return await orders(request)

    class Figures(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("figures")

    # They have in common what each class inherits, and nothing else.
    others = Starlette(routes=[Route("/", Figures)])
    app = Starlette(routes=[Route("/", Orders)])
    assert statuses(ask(app, "alice", "alice")) == [MISS, HIT]
    assert bodies(ask(others, "alice")) == ["figures"]


def test_with_namespace_they_share(redis_url: str, namespace: str) -> None:
    router = router_over(redis_url, namespace=namespace)
    apps = ByHeader({tenant: app_of(tenant, router) for tenant in TENANTS})
    assert bodies(ask(apps, "alice", "bob")) == ["alice", "alice"]


def test_with_a_namespace_for_each_they_are_kept_apart_and_have_hits(
    redis_url: str, namespace: str
) -> None:
    routers = {
        tenant: router_over(redis_url, namespace=f"{namespace}:{tenant}") for tenant in TENANTS
    }
    apps = ByHeader({tenant: app_of(tenant, routers[tenant]) for tenant in TENANTS})
    answers = ask(apps, "alice", "bob", "alice", "bob")
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers) == [MISS, MISS, HIT, HIT]


def test_a_cache_for_each_application_is_as_good_as_a_namespace(
    redis_url: str, namespace: str
) -> None:
    apps = ByHeader(
        {
            tenant: app_of(tenant, router_over(f"{redis_url}?namespace={namespace}:{tenant}"))
            for tenant in TENANTS
        }
    )
    assert statuses(ask(apps, "alice", "bob", "alice", "bob")) == [MISS, MISS, HIT, HIT]


# -- applications within applications -------------------------------------------------------------


def mounted(tenants: tuple[str, ...], router: APIRouter) -> Starlette:
    return Starlette(routes=[Mount(f"/{each}", app_of(each, router)) for each in tenants])


def test_applications_that_are_mounted_count_as_one(redis_url: str, namespace: str) -> None:
    app = mounted(TENANTS, router_over(f"{redis_url}?namespace={namespace}"))

    answers = ask(app, *TENANTS * 2, path="/{}/")
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers) == [MISS, MISS, HIT, HIT]


class OnHeader(Mount):
    """A mount for the requests with one value of a header."""

    def __init__(self, tenant: str, app: ASGIApp) -> None:
        super().__init__("/api", app)
        self.tenant = tenant

    def matches(self, scope: Scope) -> Any:
        found, child = super().matches(scope)
        is_here = Headers(scope=scope)["x-tenant"] == self.tenant
        return (found, child) if is_here else (type(found).NONE, {})


@pytest.mark.parametrize("behind", [lambda app: app, CORSMiddleware])
def test_mounts_on_one_path_are_kept_apart(
    redis_url: str, namespace: str, behind: Callable[[Any], Any]
) -> None:
    router = router_over(f"{redis_url}?namespace={namespace}")
    app = Starlette(routes=[OnHeader(each, behind(app_of(each, router))) for each in TENANTS])

    answers = ask(app, *TENANTS * 2, path="/api/")
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers) == [MISS, MISS, HIT, HIT]


@pytest.mark.parametrize("are_held", [True, False])
def test_what_is_mounted_in_two_applications_is_kept_apart(
    redis_url: str, namespace: str, module_name: str, are_held: bool
) -> None:
    router = router_over(f"{redis_url}?namespace={namespace}")
    roots = {each: Starlette(routes=[Mount("/api", app_of(each, router))]) for each in TENANTS}
    with globals_of(module_name, **(roots if are_held else {})):
        answers = ask(ByHeader({**roots}), *TENANTS * 2, path="/api/")
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers) == ([MISS, MISS, HIT, HIT] if are_held else [REFUSED] * 4)


def test_what_chooses_within_an_application_is_no_mount(redis_url: str, namespace: str) -> None:
    router = router_over(f"{redis_url}?namespace={namespace}")
    chosen = ByHeader({tenant: app_of(tenant, router) for tenant in TENANTS})
    answers = ask(Starlette(routes=[Mount("/", chosen)]), *TENANTS * 2)
    assert bodies(answers) == ["alice", "bob"] * 2
    assert statuses(answers) == [REFUSED] * 4


def test_a_subclass_of_an_application_with_a_new_of_its_own_is_found(
    redis_url: str, namespace: str
) -> None:
    class App(Starlette):
        def __new__(cls, *args: Any, **kwargs: Any) -> App:
            app: App = super().__new__(cls, *args, **kwargs)
            return app

    def made(tenant: str) -> App:
        app = App(routes=[Route("/", endpoint)])
        app.state.tenant = tenant
        return app

    @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.app.state.tenant)

    apps = {tenant: made(tenant) for tenant in TENANTS}
    # Only one of them is asked: another process may ask the other one.
    assert statuses(ask(apps["alice"], "alice")) == [REFUSED]
