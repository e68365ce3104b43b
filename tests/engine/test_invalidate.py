"""What `invalidate` says that it has done, and what `cache_key` says of a key."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiocache.serializers import JsonSerializer
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from stream_cached import BypassError, ConfigurationError, NotCached, stream_cached
from tests.support.asgi import Exchange
from tests.support.logs import warnings


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def counting(**settings: Any) -> Any:
    numbers = itertools.count()

    async def value(name: str) -> dict[str, int]:
        return {name: next(numbers)}

    return stream_cached(ttl=60, **settings)(value)


@pytest.mark.parametrize("settings", [{}, {"cache": "memory://?max_bytes=9MiB"}])
def test_plain_values_in_memory_are_invalidated_as_a_whole(settings: dict[str, Any]) -> None:
    async def test() -> None:
        value = counting(**settings)
        assert [await value("a"), await value("a"), await value("b")] == [
            *({"a": 0}, {"a": 0}, {"b": 1})
        ]
        assert await value.invalidate() is True
        assert [await value("a"), await value("a")] == [{"a": 2}] * 2
        assert [await value("b"), await value("b")] == [{"b": 3}] * 2

    run(test)


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_plain_values_on_a_server_are_invalidated_by_their_keys(
    kind: str, request: pytest.FixtureRequest, namespace: str
) -> None:
    url = f"{request.getfixturevalue(f'{kind}_url')}?namespace={namespace}&timeout=5"

    async def test() -> None:
        value = counting(cache=url, serializer=JsonSerializer())
        # Nothing is there yet that has no version.
        assert await value.invalidate() is True
        assert [await value("a"), await value("a")] == [{"a": 0}] * 2
        with pytest.raises(ConfigurationError, match=r"invalidate\(key=\.\.\.\)"):
            await value.invalidate()
        assert await value("a") == {"a": 0}
        assert await value.invalidate(key=await value.cache_key("a")) is True
        assert await value("a") == {"a": 1}

        # It knows of what another process has stored, once it has served it. In one process, two
        # functions that hold other values would be told apart.
        del value
        gc.collect()
        other = counting(cache=url, serializer=JsonSerializer())
        assert await other("a") == {"a": 1}
        with pytest.raises(ConfigurationError):
            await other.invalidate()

        keyed = counting(cache=url, serializer=JsonSerializer(), key="one")
        assert [await keyed("a"), await keyed("a")] == [{"a": 0}] * 2
        assert await keyed.invalidate() is True
        assert await keyed("a") == {"a": 1}

        signed = counting(cache=url, serializer=JsonSerializer(), secret="s" * 32, namespace="s")
        assert [await signed("a"), await signed("a")] == [{"a": 0}] * 2
        assert await signed.invalidate() is True
        assert await signed("a") == {"a": 1}

    run(test)


def test_with_the_cache_switched_off_nothing_is_invalidated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIOCACHE_DISABLE", "1")
    assert asyncio.run(counting().invalidate()) is False


# -- cache_key ------------------------------------------------------------------------------------


def request_to(path: str, **scope: Any) -> Request:
    async def app(*args: Any) -> None: ...

    headers = [(b"host", b"testserver")]
    return Request({**Exchange(app, path=path).scope, "headers": headers, **scope})


def test_a_key_that_no_request_has_is_told(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    async def product(number: int) -> Response:
        return PlainTextResponse(f"product {number}")

    cached: Any = stream_cached(ttl=60)(product)
    app.get("/products/{number}")(cached)
    # Nobody knows yet that requests will ask for it.
    asyncio.run(cached.cache_key(number=1))
    with TestClient(app) as client:
        assert client.get("/products/1").text == "product 1"
    assert not warnings(caplog)
    asyncio.run(cached.cache_key(number=1))
    (warning,) = warnings(caplog)
    assert "pass the request" in warning
    request = request_to("/products/1", app=app, path_params={"number": "1"})
    key = asyncio.run(cached.cache_key(number=1, request=request))
    assert asyncio.run(cached.invalidate(key=key)) is True
    with TestClient(app) as client:
        assert "fwd=uri-miss" in client.get("/products/1").headers["cache-status"]


def test_a_function_that_takes_a_request_has_no_key_without_one() -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    async def either(request: Request | None = None) -> Response:
        return PlainTextResponse("page")

    with pytest.raises(BypassError, match="made from the request") as raised:
        asyncio.run(stream_cached(ttl=60)(page).cache_key())
    assert raised.value.reasons == (NotCached.NO_REQUEST,)
    assert asyncio.run(stream_cached(ttl=60)(either).cache_key())
    assert asyncio.run(stream_cached(ttl=60, key="page")(page).cache_key()) == "page"
    assert asyncio.run(stream_cached(ttl=60, request_key=False, key="p")(page).cache_key()) == "p"


def test_a_function_that_is_called_with_and_without_a_request_has_both_keys() -> None:
    async def test() -> None:
        async def helper(number: int, request: Request | None = None) -> Response:
            return PlainTextResponse(f"{number}")

        cached: Any = stream_cached(ttl=60)(helper)
        await cached(1, request=request_to("/"))
        await cached(1)
        assert await cached.cache_key(1) != await cached.cache_key(1, request=request_to("/"))

    run(test)
