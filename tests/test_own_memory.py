"""The default memory: each function has keys of its own, and so has each application."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import aiocache
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stream_cached import MemoryCache, stream_cached
from stream_cached.backends import urls
from tests.support.asgi import get
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> int:
    """The bytes that the memory of all functions may take in this test."""
    memory = MemoryCache(max_bytes=40_000)
    monkeypatch.setitem(urls._by_url, urls._PARTITIONED, memory)
    return 40_000


# -- functions ------------------------------------------------------------------------------------


async def _values_of(cached: Callable[..., Any]) -> list[Any]:
    """What functions return whose keys are the same, as aiocache makes keys."""

    class Users:
        async def get(self, number: int) -> str:
            return f"user {number}"

    class Orders:
        async def get(self, number: int) -> str:
            return f"order {number}"

    async def users() -> str:
        return "users"

    async def orders() -> str:
        return "orders"

    methods = [cached(ttl=60, noself=True)(cls.get) for cls in (Users, Orders)]
    values = [await method(cls(), 1) for method, cls in zip(methods, (Users, Orders), strict=True)]
    all_users, all_orders = (cached(ttl=60, key="all")(each) for each in (users, orders))
    return [*values, await all_users(), await all_orders(), await all_users()]


def test_no_function_is_given_what_another_one_has_returned() -> None:
    async def test() -> None:
        wanted = await _values_of(aiocache.cached)
        assert await _values_of(stream_cached) == wanted
        assert wanted == ["user 1", "order 1", "users", "orders", "users"]

    run(test)


def test_one_decorator_over_two_functions_keeps_them_apart() -> None:
    async def test() -> None:
        cached = stream_cached(ttl=60, key="all")

        @cached
        async def users() -> str:
            return "users"

        @cached
        async def orders() -> str:
            return "orders"

        for _ in range(2):
            assert [await users(), await orders()] == ["users", "orders"]
        assert await users.cache.get("all") == "users"
        assert await orders.cache.get("all") == "orders"
        assert await orders.invalidate()
        assert await orders.cache.get("all") is None
        assert await users.cache.get("all") == "users"

    run(test)


def test_the_cache_of_a_function_is_its_part_of_the_memory() -> None:
    async def test() -> None:
        runs: list[int] = []

        def decorated(value: int) -> Any:
            async def function() -> int:
                runs.append(value)
                return value

            return stream_cached(ttl=60, key="k", namespace="n:")(function)

        one, other = decorated(1), decorated(2)
        assert [await one(), await other()] == [1, 2]
        assert await one.cache.get("k") == 1
        assert list(one.cache.sizes())[-1] == "n:k"
        await one.cache.set("k", 7)
        assert [await one(), await other()] == [7, 2]
        assert await one.cache.delete("k") == 1
        assert [await one(), await other()] == [1, 2]
        await one.cache.clear()
        assert one.cache.sizes() == {}
        assert [await one(), await other()] == [1, 2]
        assert runs == [1, 2, 1, 1]

    run(test)


def test_all_functions_share_one_bound(bound: int) -> None:
    async def test() -> None:
        def decorated() -> Any:
            async def function(number: int) -> bytes:
                return bytes(10_000 + number)

            return stream_cached(ttl=60)(function)

        functions = [decorated() for _ in range(4)]
        for number in range(3):
            for function in functions:
                await function(number)
        held = [size for each in functions for size in each.cache.sizes().values()]
        assert 20_000 < sum(held) <= bound

    run(test)


def test_functions_that_are_decorated_in_a_request_are_kept_apart() -> None:
    app = FastAPI()

    @app.get("/{user}")
    async def orders(user: str, request: Request) -> Any:
        @stream_cached(ttl=60, key="orders")
        async def export(request: Request) -> Response:
            return StreamingResponse(iter([f"orders of {user}"]))

        return await export(request)

    async def test() -> None:
        for user in ("alice", "bob", "alice"):
            assert (await get(app, f"/{user}")).body == f"orders of {user}".encode()

    run(test)


# -- two functions with one key, where others share the cache -------------------------------------


def _sharing(cache: str, **settings: Any) -> list[Any]:
    async def users() -> str:
        return "users"

    async def orders() -> str:
        return "orders"

    cached = stream_cached(ttl=60, cache=cache, key="all", **settings)
    return [cached(users), cached(users), cached(orders), stream_cached(ttl=60, cache=cache)(users)]


def test_one_warning_names_the_function_that_has_the_same_key(
    cache_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        users, again, orders, apart = _sharing(cache_url)
        assert [await users(), await again(), await apart()] == ["users"] * 3
        assert warnings(caplog) == []
        for _ in range(2):
            assert await orders() == "users"

    run(test)
    (line,) = warnings(caplog)
    assert "<locals>.orders" in line.partition(": it has a key that ")[0]
    assert "<locals>.users has, too" in line
    assert "pass another key=, key_builder= or namespace=" in line


def test_another_namespace_is_another_key(cache_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        users, *_ = _sharing(cache_url)
        *_, orders, _ = _sharing(cache_url, namespace="other")
        assert [await users(), await orders()] == ["users", "orders"]

    run(test)
    assert warnings(caplog) == []


# -- applications ---------------------------------------------------------------------------------


def source() -> str:
    return "the source"


router = APIRouter()


@router.get("/")
@stream_cached(ttl=60, key_args={"given": lambda given: None})
async def page(request: Request, given: str = Depends(source)) -> Response:
    return StreamingResponse(iter([f"{request.app.title} {given}"]))


def made(title: str) -> FastAPI:
    app = FastAPI(title=title)
    app.include_router(router)
    return app


def test_an_application_is_not_given_what_another_one_has_cached() -> None:
    async def test() -> None:
        first, second = made("first"), made("second")
        for status in (MISS, HIT):
            for app in (first, second):
                answer = await get(app)
                assert answer.body == f"{app.title} the source".encode()
                assert answer.cache_status == status

    run(test)


def test_an_application_at_the_address_of_another_one_is_another_one() -> None:
    async def test() -> None:
        for number in range(20):
            assert (await get(made(str(number)))).body == f"{number} the source".encode()
            gc.collect()

    run(test)


def test_what_a_dependency_is_overridden_with_is_a_part_of_the_key() -> None:
    async def test() -> None:
        app = made("app")

        async def given() -> str:
            return (await get(app)).body.decode()

        assert await given() == "app the source"
        for number in range(20):
            # The function of the last turn is gone, and its address may be used again.
            app.dependency_overrides = {source: lambda number=number: f"fake {number}"}
            assert [await given(), await given()] == [f"app fake {number}"] * 2
            gc.collect()
        app.dependency_overrides.clear()
        assert await given() == "app the source"

    run(test)


class Slotted:
    """An override that can't be referred to weakly."""

    __slots__ = ("answer",)

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def __call__(self) -> str:
        return self.answer


def test_an_override_may_be_any_object() -> None:
    async def test() -> None:
        app = made("app")
        for answer in ("one", "two", "one"):
            app.dependency_overrides = {source: Slotted(answer)}
            assert (await get(app)).body == f"app {answer}".encode()

    run(test)


def test_a_memory_by_url_keeps_applications_apart() -> None:
    async def test() -> None:
        async def endpoint(request: Request) -> Response:
            return StreamingResponse(iter([request.app.title]))

        cached = stream_cached(ttl=60, cache="memory://")(endpoint)
        apps = [FastAPI(title=title) for title in ("first", "second")]
        for app in apps:
            app.get("/")(cached)
        assert [(await get(app)).body for app in apps] == [b"first", b"second"]

    run(test)
