"""The pytest plugin with caches of cashews: memory stands for each of their backends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cashews import Cache
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from stream_cached.cashews import stream_cached
from stream_cached.testing import CacheUnderTest

pytestmark = pytest.mark.parametrize("run", ["first", "second"])

cache = Cache()
cache.setup("redis://127.0.0.1:9/0")
cache.setup("mem://", prefix="mine:")


async def _rows() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


@stream_cached(cache, ttl=60, key="rows:{number}", tags=("tag:{number}",))
async def keyed(request: Request, number: int = 1) -> StreamingResponse:
    return StreamingResponse(_rows())


@stream_cached(cache, ttl=60, prefix="mine")
async def by_request(request: Request) -> StreamingResponse:
    return StreamingResponse(_rows())


app = Starlette()
app.add_route("/keyed", keyed)
app.add_route("/by_request", by_request)


@pytest.mark.parametrize("path", ["/keyed", "/by_request"])
def test_each_test_begins_with_an_empty_cache(
    path: str, run: str, stream_cache: CacheUnderTest
) -> None:
    with TestClient(app) as client:
        for _ in range(2):
            first, second = client.get(path), client.get(path)
            stream_cache.assert_miss(first)
            stream_cache.assert_stored(first)
            stream_cache.assert_hit(second)
            assert first.content == second.content == b"onetwo"
            stream_cache.clear()
        client.get(path)
        stream_cache.travel(59)
        stream_cache.assert_hit(client.get(path))
        stream_cache.travel(2)
        stream_cache.assert_miss(client.get(path))
        with stream_cache.disabled():
            stream_cache.assert_not_stored(client.get(path), "switched-off")


def test_values_and_tags_of_cashews_itself(run: str, stream_cache: CacheUnderTest) -> None:
    async def main() -> Any:
        await cache.init()
        assert await cache.get("value") is None
        await cache.set("value", "one", expire=60)
        assert await cache.get("value") == "one"
        stream_cache.travel(61)
        return await cache.get("value")

    assert asyncio.run(main()) is None
    with TestClient(app) as client:
        client.get("/keyed")
        asyncio.run(cache.delete_tags("tag:1"))
        stream_cache.assert_miss(client.get("/keyed"))


def test_the_cache_has_its_own_backends_again(run: str) -> None:
    kinds = [type(each).__name__ for each in cache._backends.values()]
    assert kinds == ["Redis", "Memory"]
    assert "_backends" in vars(cache)


def test_a_backend_that_a_test_sets_up(run: str) -> None:
    own = Cache()
    own.setup("mem://", disable=True)
    with CacheUnderTest()._in_place():
        made = own.setup("mem://", prefix="late:")
        assert own._get_backend("late:key") is not made
        assert not own.is_disable(prefix="late:")
        assert own.is_disable()
    assert own._get_backend("late:key") is made
