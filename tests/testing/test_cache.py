"""What a test does with the cache of the plugin, and what it is told."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, NotCached, StreamCache, stream_cached
from stream_cached.keys.variants import ANY
from stream_cached.runs.run import Run
from stream_cached.runs.streaming import streaming
from stream_cached.testing import CacheUnderTest
from tests.support.asgi import Exchange

SERVER = "redis://127.0.0.1:9/0"

streams = StreamCache(SERVER, ttl=60)


def client_of(*endpoints: Any) -> TestClient:
    app = Starlette()
    for endpoint in endpoints:
        app.add_route(f"/{endpoint.__name__}", endpoint)
    return TestClient(app)


@streams.cached()
async def page(request: Request) -> Response:
    return Response("page")


# -- time ---------------------------------------------------------------------------------------


def test_time_passes_for_freshness_and_for_what_the_store_keeps(
    stream_cache: CacheUnderTest,
) -> None:
    client = client_of(page)
    client.get("/page")
    stream_cache.travel(59)
    found = client.get("/page")
    stream_cache.assert_hit(found)
    assert found.headers["age"] == "59"
    stream_cache.travel(2)
    stream_cache.assert_miss(client.get("/page"))


def test_the_time_of_the_machine_counts_too(
    stream_cache: CacheUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(page)
    client.get("/page")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50)
    stream_cache.assert_hit(client.get("/page"))
    stream_cache.travel(5)
    assert client.get("/page").headers["age"] == "55"
    monkeypatch.setattr(time, "time", lambda: now + 70)
    stream_cache.assert_miss(client.get("/page"))


def test_a_stale_entry_is_served_within_its_window(stream_cache: CacheUnderTest) -> None:
    runs = 0

    @stream_cached(ttl=60, stale_while_revalidate=60, cache=SERVER)
    async def export(request: Request) -> Response:
        nonlocal runs
        runs += 1
        return Response(str(runs))

    with client_of(export) as client:
        assert client.get("/export").text == "1"
        stream_cache.travel(90)
        stale = client.get("/export")
        assert stale.text == "1"
        stream_cache.assert_hit(stale)
        stream_cache.block_until_idle()
        assert client.get("/export").text == "2"
        stream_cache.travel(121)
        assert client.get("/export").text == "3"


def test_a_refresh_that_has_failed_is_tried_again_in_time(stream_cache: CacheUnderTest) -> None:
    runs = 0

    @stream_cached(ttl=60, stale_while_revalidate=600, cache=SERVER)
    async def export(request: Request) -> Response:
        nonlocal runs
        runs += 1
        if runs == 2:
            raise RuntimeError("the database is away")
        return Response(str(runs))

    with client_of(export) as client:
        for seconds, expected in ((0, 1), (61, 2), (0, 2), (6, 3)):
            if seconds:
                stream_cache.travel(seconds)
            assert client.get("/export").text == "1"
            stream_cache.block_until_idle()
            assert runs == expected
        assert client.get("/export").text == "3"


def test_plain_values_expire_too(stream_cache: CacheUnderTest) -> None:
    calls = 0

    @stream_cached(ttl=60, cache=SERVER)
    async def number() -> int:
        nonlocal calls
        calls += 1
        return calls

    async def main() -> list[int]:
        found = [await number(), await number()]
        stream_cache.travel(61)
        return [*found, await number()]

    assert asyncio.run(main()) == [1, 1, 2]


def test_no_key_of_a_test_is_one_of_the_application_later() -> None:
    @stream_cached(ttl=60, cache=SERVER)
    async def export(request: Request) -> Response:
        return Response()

    app = Starlette()
    scope = {**Exchange(app).scope, "app": app, "router": app.router}

    def key() -> str:
        return asyncio.run(export.cache_key(request=Request(dict(scope))))

    before = key()
    under_test = CacheUnderTest()
    with under_test._in_place():
        assert key() != before
    assert key() == before


# -- switches -----------------------------------------------------------------------------------


def test_without_a_cache_each_request_runs_the_endpoint(stream_cache: CacheUnderTest) -> None:
    # One event loop for all requests: the last ones find the entry at hand.
    with client_of(page) as client:
        stored, *_ = [client.get("/page") for _ in range(4)]
        with stream_cache.disabled():
            passed = client.get("/page")
        stream_cache.assert_not_stored(passed, "switched-off")
        assert passed.content == stored.content
        stream_cache.assert_hit(client.get("/page"))


def test_what_is_stored_can_be_forgotten_within_a_test(stream_cache: CacheUnderTest) -> None:
    client = client_of(page)
    for _ in range(2):
        stream_cache.assert_miss(client.get("/page"))
        stream_cache.assert_hit(client.get("/page"))
        stream_cache.clear()


@pytest.mark.parametrize("run", ["first", "second"])
def test_a_real_store_under_a_namespace_of_the_test(
    run: str, stream_cache: CacheUnderTest, redis_url: str
) -> None:
    stream_cache.use(redis_url)
    with client_of(page) as client:
        first = client.get("/page")
        stream_cache.assert_miss(first)
        stream_cache.assert_stored(first)
        stream_cache.assert_hit(client.get("/page"))
    with pytest.raises(ConfigurationError, match="can't move the time of a real store"):
        stream_cache.travel(1)


def test_a_cache_can_be_configured_after_a_test_has_replaced_it() -> None:
    own = StreamCache(SERVER, ttl=60)

    @own.cached()
    async def export(request: Request) -> Response:
        return Response("export")

    client = client_of(export)
    with CacheUnderTest()._in_place():
        client.get("/export")
    own.configure("memory://?namespace=after")
    client.get("/export")
    # Of a server that is away, it would be a hit in the memory that stands in for it.
    assert client.get("/export").headers["cache-status"] == "stream-cached; hit"


def test_nothing_of_a_test_is_left_in_a_real_store(redis_url: str) -> None:
    cache = CacheUnderTest()
    with Redis.from_url(redis_url) as server:
        server.set("another", "value")
        with cache._in_place():
            cache.use(redis_url)
            with client_of(page) as client:
                client.get("/page")
            assert len(server.keys()) > 1
        assert server.keys() == [b"another"]


def test_large_bodies_of_a_test_are_not_where_those_of_the_application_are(
    stream_cache: CacheUnderTest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = StreamCache(SERVER, ttl=60, bodies=f"file://{tmp_path}/bodies", inline_max=10)

    @large.cached()
    async def export(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([b"x" * 1000] * 100))

    app = Starlette(lifespan=large.lifespan)
    app.add_route("/export", export)
    with TestClient(app) as client:
        first = client.get("/export")
        stream_cache.assert_stored(first)
        again = client.get("/export")
        stream_cache.assert_hit(again)
        assert first.content == again.content
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]
    assert not caplog.text


def test_no_test_sweeps_the_objects_of_the_application(tmp_path: Path) -> None:
    large = StreamCache(ttl=60, bodies=f"file://{tmp_path}/bodies", inline_max=10)

    @large.cached()
    async def export(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([b"x" * 1000] * 100))

    client_of(export).get("/export")
    objects = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert sum(each.stat().st_size for each in objects) > 100_000
    for each in objects:
        os.utime(each, (0, 0))
    with CacheUnderTest()._in_place():
        assert asyncio.run(large.sweep()) == 0
    assert all(each.exists() for each in objects)


# -- background work ----------------------------------------------------------------------------


async def _left_in_mid_stream(gate: asyncio.Event) -> Starlette:
    async def rows() -> AsyncIterator[bytes]:
        yield b"one"
        await gate.wait()
        yield b"two"

    @streams.cached()
    async def export(request: Request) -> StreamingResponse:
        return StreamingResponse(rows())

    app = Starlette()
    app.add_route("/export", export)
    exchange = Exchange(app, path="/export")
    asking = asyncio.ensure_future(exchange.run())
    await exchange.received.wait()
    exchange.left.set()
    await asking
    return app


def test_a_run_of_a_loop_that_is_over_is_not_named(stream_cache: CacheUnderTest) -> None:
    async def leave_one() -> Run:
        left = Run(None, "left over", ANY)
        streaming.add(left)
        return left

    async def message() -> str:
        gate = asyncio.Event()
        await _left_in_mid_stream(gate)
        with pytest.raises(TimeoutError) as caught:
            await stream_cache.wait_idle(timeout=0.01)
        gate.set()
        await stream_cache.wait_idle()
        return str(caught.value)

    left = asyncio.run(leave_one())
    assert "<Run STREAMING" in (told := asyncio.run(message()))
    assert repr(left) not in told


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_run_whose_client_has_left_is_waited_for(
    stream_cache: CacheUnderTest, anyio_backend: str
) -> None:
    gate = asyncio.Event()
    app = await _left_in_mid_stream(gate)
    with pytest.raises(TimeoutError, match=r"after 0\.01 s this still runs: <Run STREAMING"):
        await stream_cache.wait_idle(timeout=0.01)
    gate.set()
    await stream_cache.wait_idle()
    again = Exchange(app, path="/export")
    await again.run()
    assert (again.cache_status, again.body) == ("stream-cached; hit", b"onetwo")


# -- what is told -------------------------------------------------------------------------------


def failure(check: Any, *args: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check(*args)
    return str(caught.value)


def test_a_miss_where_a_hit_was_expected(stream_cache: CacheUnderTest) -> None:
    response = client_of(page).get("/page")
    text = failure(stream_cache.assert_hit, response)
    assert text.startswith("expected a hit, but it is none.\n")
    assert "Cache-Status: stream-cached; fwd=uri-miss; stored\n" in text
    assert "nothing was stored under its key" in text


def test_a_hit_where_a_miss_was_expected(stream_cache: CacheUnderTest) -> None:
    client = client_of(page)
    client.get("/page")
    hit = client.get("/page")
    assert "stream_cache.clear()" in failure(stream_cache.assert_miss, hit)
    assert "no-store" in failure(stream_cache.assert_not_stored, hit)


def test_a_refusal_names_its_subject_and_the_line_that_fixes_it(
    stream_cache: CacheUnderTest,
) -> None:
    @streams.cached()
    async def mine(request: Request) -> Response:
        return Response(request.cookies.get("user", ""))

    response = client_of(mine).get("/mine", headers={"Cookie": "user=one"})
    for check in (stream_cache.assert_hit, stream_cache.assert_stored, stream_cache.assert_miss):
        text = failure(check, response)
        assert 'detail="request-read"' in text
        assert "(the cookies" in text
        assert "Fix: " in text
    stream_cache.assert_not_stored(response, NotCached.READ)
    text = failure(stream_cache.assert_not_stored, response, "set-cookie")
    assert "because of 'set-cookie'" in text


def test_a_response_that_was_going_to_be_stored_and_was_not(stream_cache: CacheUnderTest) -> None:
    @streams.cached(max_body=10)
    async def export(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([b"x" * 6] * 2))

    response = client_of(export).get("/export")
    assert "; stored" in response.headers["cache-status"]
    text = failure(stream_cache.assert_stored, response)
    assert "it was going to be stored, and then it was not" in text
    assert NotCached.BODY_SIZE.sentence in text
    assert NotCached.BODY_SIZE.fix in text
    stream_cache.assert_not_stored(response)


def test_a_middleware_may_change_what_is_sent(stream_cache: CacheUnderTest) -> None:
    client = client_of(page)
    response = client.get("/page")
    response._content = b"page, and more"
    stream_cache.assert_stored(response)
    stream_cache.clear()
    assert "no such entry" in failure(stream_cache.assert_stored, response)


def test_items_are_stored_as_items(stream_cache: CacheUnderTest) -> None:
    @streams.cached(max_body=1)
    async def large(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([b"large"]))

    @streams.cached()
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def main() -> list[int]:
        return [number async for number in numbers()]

    # After a failure, entries are compared by their length.
    client_of(large).get("/large")
    response = httpx.Response(200, headers={"Cache-Status": "stream-cached; stored"}, text="[]")
    assert "no such entry" in failure(stream_cache.assert_stored, response)
    assert asyncio.run(main()) == [0, 1, 2]
    stream_cache.assert_stored(response)


@pytest.mark.parametrize("check", ["assert_hit", "assert_miss", "assert_stored"])
def test_a_response_of_a_function_without_the_decorator(
    check: str, stream_cache: CacheUnderTest
) -> None:
    async def bare(request: Request) -> Response:
        return Response()

    text = failure(getattr(stream_cache, check), client_of(bare).get("/bare"))
    assert re.search(r"there is no Cache-Status of stream-cached \(the status is 200\)", text)
    assert "below the route decorator" in text
