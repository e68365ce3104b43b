"""Nothing that one test has stored is there in the next one, whatever the cache of the application.

Each of these tests runs twice: what the first run leaves behind would change the second one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any
from unittest.mock import create_autospec

import aiocache
import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient

from stream_cached import MemoryCache, StreamCache, stream_cached
from stream_cached.decorated.wrapping import decorated_of
from stream_cached.testing import CacheUnderTest

pytestmark = pytest.mark.parametrize("run", ["first", "second"])

streams = StreamCache("redis://127.0.0.1:9/0", ttl=60)

app = FastAPI()

_OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "in-process": {"cache": "memory://?max_bytes=1MiB&namespace=isolation"},
    "server": {"cache": "redis://127.0.0.1:9/0?namespace=isolation"},
    "instance": {"cache": MemoryCache(namespace="isolation")},
    "aiocache": {"cache": aiocache.SimpleMemoryCache()},
    "alias": {"alias": "of-the-application"},
    "unknown": {"alias": "not-configured-in-tests"},
}


async def _rows() -> AsyncIterator[bytes]:
    yield b"one\n"
    yield b"two\n"


def _add(target: FastAPI) -> FastAPI:
    for name, options in _OPTIONS.items():

        @target.get(f"/{name}")
        @stream_cached(ttl=60, namespace=name if "cache" in options else None, **options)
        async def export() -> StreamingResponse:
            return StreamingResponse(_rows())

    @target.get("/streams")
    @streams.cached()
    async def stream() -> StreamingResponse:
        return StreamingResponse(_rows())

    return target


aiocache.caches.add(
    "of-the-application", {"cache": "aiocache.SimpleMemoryCache", "namespace": "alias"}
)
_add(app)


@pytest.mark.parametrize("path", [*_OPTIONS, "streams"])
@pytest.mark.parametrize("is_factory", [False, True])
def test_each_test_begins_with_an_empty_cache(
    path: str, is_factory: bool, run: str, stream_cache: CacheUnderTest
) -> None:
    client = TestClient(_add(FastAPI()) if is_factory else app)
    first, second = client.get(f"/{path}"), client.get(f"/{path}")
    stream_cache.assert_miss(first)
    stream_cache.assert_stored(first)
    stream_cache.assert_hit(second)
    assert first.content == second.content == b"one\ntwo\n"


def test_a_cache_of_the_application_can_still_be_configured(
    run: str, stream_cache: CacheUnderTest
) -> None:
    counting.configure("redis://127.0.0.1:9/1")
    assert TestClient(app).get("/counted").status_code == 200
    counting.configure("redis://127.0.0.1:9/0")


def who() -> str:
    return "nobody"


@app.get("/who")
@stream_cached(ttl=60, cache="redis://127.0.0.1:9/0")
async def asked(name: Annotated[str, Depends(who)]) -> dict[str, str]:
    return {"name": name}


@pytest.mark.parametrize("name", ["one", "two", ""])
def test_what_overrides_a_dependency_does_not_outlive_its_test(
    name: str, run: str, stream_cache: CacheUnderTest
) -> None:
    if name:
        app.dependency_overrides[who] = lambda: name
    try:
        client = TestClient(app)
        for check in (stream_cache.assert_miss, stream_cache.assert_hit):
            response = client.get("/who")
            check(response)
            assert response.json() == {"name": name or "nobody"}
    finally:
        app.dependency_overrides.clear()


counting = StreamCache("redis://127.0.0.1:9/0")


@app.get("/counted")
@counting.cached(60)
async def counted() -> Response:
    return Response("counted")


@app.get("/tagged")
@counting.cached(60, tags=("tag",))
async def tagged() -> Response:
    return Response("tagged")


def test_counts_and_lines_that_are_logged_once_begin_again(
    run: str, stream_cache: CacheUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(app)
    assert sum(each.misses + each.hits for each in counting.stats().values()) == 0
    client.get("/counted")
    assert sum(each.misses for each in counting.stats().values()) == 1
    for _ in range(2):
        client.get("/counted", headers={"Authorization": "Basic b25l"})
    assert caplog.text.count("the request carries Authorization") == 1


@pytest.mark.parametrize("by", ["tag", "cache", "endpoint"])
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_invalidated_is_that_of_the_test(
    by: str, run: str, stream_cache: CacheUnderTest, anyio_backend: str
) -> None:
    transport = httpx.ASGITransport(app)
    stream_cache.assert_miss(await _asked_with(transport, "/tagged"))
    stream_cache.assert_hit(await _asked_with(transport, "/tagged"))
    if by == "tag":
        assert await counting.invalidate_tags("tag")
    else:
        assert await (counting.clear() if by == "cache" else tagged.invalidate())
    stream_cache.assert_miss(await _asked_with(transport, "/tagged"))
    await counting.ping()
    assert counting.health().store == "memory"


async def _asked_with(transport: Any, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_of_its_own_for_each_test(
    run: str, stream_cache: CacheUnderTest, anyio_backend: str
) -> None:
    transport = httpx.ASGITransport(app)
    stream_cache.assert_miss(await _asked_with(transport, "/server"))
    stream_cache.assert_hit(await _asked_with(transport, "/server"))


async def _set_up(request: Request) -> Response:
    return Response("value")


plain = stream_cached(ttl=60, key="plain", cache="redis://127.0.0.1:9/0")(_set_up)


def test_the_cache_of_a_function_is_the_one_of_the_test(
    run: str, stream_cache: CacheUnderTest
) -> None:
    before = plain.cache
    assert counted.cache is None
    with TestClient(FastAPI(routes=[])) as client:
        client.app.add_route("/plain", plain)  # type: ignore[attr-defined]
        stream_cache.assert_miss(client.get("/plain"))
        stream_cache.assert_hit(client.get("/plain"))
        assert isinstance(plain.cache, MemoryCache)
        assert before is not plain.cache
    stream_cache.assert_miss(TestClient(app).get("/counted"))
    assert isinstance(counted.cache, MemoryCache)


told: list[object] = []


@app.get("/heard")
@stream_cached(ttl=60, cache="redis://127.0.0.1:9/0", on_event=told.append)
async def heard() -> Response:
    return Response("heard")


def test_what_is_told_of_events_is_told_in_a_test_too(
    run: str, stream_cache: CacheUnderTest
) -> None:
    told.clear()
    stream_cache.assert_miss(TestClient(app).get("/heard"))
    assert told


def test_what_the_runs_of_a_test_have_shown_is_forgotten(
    run: str, stream_cache: CacheUnderTest
) -> None:
    known = decorated_of(tagged)
    assert known is not None
    TestClient(app).get("/tagged")
    assert not known.service.request_bound.is_known
    known.service.request_bound.note_failure()


def test_a_mock_stays_in_its_place(run: str, stream_cache: CacheUnderTest) -> None:
    mock = create_autospec(MemoryCache, instance=True)
    mock.get.return_value = "value"

    @stream_cached(cache=mock, key="key")
    async def value() -> str:
        raise AssertionError("it is not called")

    async def main() -> str:
        return await value()

    assert asyncio.run(main()) == "value"


runs = 0


@stream_cached(ttl=60, cache="redis://127.0.0.1:9/0")
async def numbers(count: int) -> AsyncIterator[int]:
    global runs
    runs += 1
    for number in range(count):
        yield number


def test_a_function_that_yields(run: str, stream_cache: CacheUnderTest) -> None:
    async def main() -> list[list[int]]:
        return [[number async for number in numbers(3)] for _ in range(2)]

    before = runs
    assert asyncio.run(main()) == [[0, 1, 2]] * 2
    assert runs == before + 1


@pytest.fixture(scope="module")
def started_before() -> Iterator[TestClient]:
    with TestClient(FastAPI(routes=app.routes, lifespan=streams.lifespan)) as client:
        yield client


def test_an_application_that_was_started_before(
    run: str, started_before: TestClient, stream_cache: CacheUnderTest
) -> None:
    stream_cache.assert_miss(started_before.get("/streams"))
    stream_cache.assert_hit(started_before.get("/streams"))
    stream_cache.travel(61)
    stream_cache.assert_miss(started_before.get("/streams"))
