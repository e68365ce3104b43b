"""No byte is held: each row reaches the client as it is made, and what comes after is a hit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve, Spawn
from tests.support.app_server import HttpParser
from tests.support.gates import TIMEOUT, Gate
from tests.support.http_client import RawClient, fetch
from tests.support.proxy import DelayProxy
from tests.support.servers import RedisServer

ROW = 1000
HIT = "stream-cached; hit"

each_parser = pytest.mark.parametrize("http", ["h11", "httptools"])


async def pass_through(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


LAYERS = {
    "bare": [],
    "behind three BaseHTTPMiddleware": [Middleware(BaseHTTPMiddleware, dispatch=pass_through)] * 3,
    "behind GZip and three BaseHTTPMiddleware": [
        Middleware(GZipMiddleware),
        *[Middleware(BaseHTTPMiddleware, dispatch=pass_through)] * 3,
    ],
}
each_stack = pytest.mark.parametrize("middleware", LAYERS.values(), ids=LAYERS)


def app_of(
    make: Callable[[], Response], cache: str, middleware: list[Middleware] | None = None
) -> Starlette:
    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> Response:
        return make()

    return Starlette(routes=[Route("/", endpoint)], middleware=middleware)


@each_parser
@each_stack
def test_the_first_chunk_arrives_before_the_second_is_made(
    serve: Serve, cache_url: str, http: HttpParser, middleware: list[Middleware]
) -> None:
    arrived = [Gate() for _ in range(4)]
    rows = [os.urandom(ROW) for _ in arrived]

    async def body() -> AsyncIterator[bytes]:
        for row, gate in zip(rows, arrived, strict=True):
            yield row
            await gate.passed()

    port = serve(app_of(lambda: StreamingResponse(body()), cache_url, middleware), http=http).port
    with RawClient(port) as client:
        client.send()
        client.read_head()
        for number, gate in enumerate(arrived, 1):
            assert client.read_until(number * ROW) == b"".join(rows[:number])
            gate.open()
        assert client.read_rest().complete

    assert fetch(port).header("Cache-Status") == HIT
    assert fetch(port).body == b"".join(rows)


@pytest.mark.matrix
@each_parser
@each_stack
def test_a_generator_that_blocks_the_loop_is_delivered_row_by_row(
    serve: Serve, cache_url: str, http: HttpParser, middleware: list[Middleware]
) -> None:
    # Each row waits, without an await, until the client has the one before.
    arrived = [threading.Event() for _ in range(4)]
    rows = [os.urandom(ROW) for _ in arrived]

    async def body() -> AsyncIterator[bytes]:
        for row, gate in zip(rows, arrived, strict=True):
            time.sleep(0.01)  # noqa: ASYNC251  # as a query does; the loop has to notice
            yield row
            assert gate.wait(TIMEOUT), "the row before did not arrive"

    port = serve(app_of(lambda: StreamingResponse(body()), cache_url, middleware), http=http).port
    with RawClient(port) as client:
        client.send()
        client.read_head()
        for number, gate in enumerate(arrived, 1):
            assert client.read_until(number * ROW) == b"".join(rows[:number])
            gate.set()
        assert client.read_rest().complete

    assert fetch(port).header("Cache-Status") == HIT


def test_a_generator_that_blocks_a_fifth_of_a_second_a_row_is_delivered_row_by_row(
    serve: Serve,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            time.sleep(0.2)  # noqa: ASYNC251
            yield bytes(ROW)

    server = serve(app_of(lambda: StreamingResponse(body()), "memory://"))
    response = fetch(server.port)

    assert response.complete
    times: list[float] = []
    for at, size in response.pieces:
        times += [at] * (size // ROW - len(times))
    assert [round(at / 0.2) for at in times] == [1, 2, 3, 4, 5]


def test_gzip_does_not_hold_back_rows_that_do_not_compress(serve: Serve, cache_url: str) -> None:
    arrived = [Gate() for _ in range(3)]
    rows = [os.urandom(200_000) for _ in arrived]

    async def body() -> AsyncIterator[bytes]:
        for row, gate in zip(rows, arrived, strict=True):
            yield row
            await gate.passed()

    port = serve(
        app_of(lambda: StreamingResponse(body()), cache_url, [Middleware(GZipMiddleware)])
    ).port
    with RawClient(port) as client:
        client.send(headers={"Accept-Encoding": "gzip"})
        client.read_head()
        for number, gate in enumerate(arrived, 1):
            client.read_until(number * 200_000 - 40_000)  # zlib keeps the end of its window
            gate.open()
        assert client.read_rest().complete
    assert fetch(port).body == b"".join(rows)


def test_a_sync_generator_is_delivered_row_by_row(serve: Serve, cache_url: str) -> None:
    arrived = [threading.Event() for _ in range(4)]

    def body() -> Iterator[bytes]:
        for gate in arrived:
            yield bytes(ROW)
            assert gate.wait(TIMEOUT)

    port = serve(app_of(lambda: StreamingResponse(body()), cache_url)).port
    with RawClient(port) as client:
        client.send()
        client.read_head()
        for number, gate in enumerate(arrived, 1):
            client.read_until(number * ROW)
            gate.set()
        assert client.read_rest().complete


def test_the_head_arrives_before_the_first_chunk_is_made(serve: Serve, cache_url: str) -> None:
    seen = Gate()

    async def body() -> AsyncIterator[bytes]:
        await seen.passed()
        yield b"late"

    port = serve(app_of(lambda: StreamingResponse(body()), cache_url)).port
    with RawClient(port) as client:
        client.send()
        assert client.read_head().status == 200
        seen.open()
        assert client.read_rest().body == b"late"


@pytest.mark.parametrize("hold", ["pause", "stop"])
def test_a_redis_that_hangs_or_ends_holds_back_no_row(
    serve: Serve, own_redis: RedisServer, hold: str
) -> None:
    arrived = [Gate() for _ in range(8)]
    rows = [os.urandom(200_000) for _ in arrived]

    async def body() -> AsyncIterator[bytes]:
        for row, gate in zip(rows, arrived, strict=True):
            yield row
            await gate.passed()

    port = serve(app_of(lambda: StreamingResponse(body()), own_redis.url())).port
    with RawClient(port) as client:
        client.send()
        client.read_head()
        client.read_until(200_000)
        getattr(own_redis, hold)()
        for number, gate in enumerate(arrived, 1):
            client.read_until(number * 200_000, timeout=0.4)
            gate.open()
        response = client.read_rest(timeout=3)

    assert response.complete
    assert response.body == b"".join(rows)


# -- what comes after the end of a body is a hit ---------------------------------------------------


def with_its_length(body: bytes) -> Response:
    return StreamingResponse(parts(body), headers={"content-length": str(len(body))})


async def parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


SIZES = [0, 10, 100_000, 3_000_000]
WAYS: dict[str, Callable[[bytes], Response]] = {
    "chunked": lambda body: StreamingResponse(parts(body)),
    "its own length": with_its_length,
    "not a stream": Response,
}


@pytest.mark.matrix
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_a_request_after_the_end_is_a_hit_though_redis_answers_late(
    serve: Serve, redis_server: RedisServer, redis_url: str, way: str, size: int
) -> None:
    with DelayProxy(redis_server.port, delay=0.02) as proxy:
        port = serve(app_of(lambda: WAYS[way](os.urandom(size)), proxy.url(timeout=5))).port
        with RawClient(port) as client, RawClient(port) as other:
            miss, hit = client.request(), other.request()

    assert miss.complete
    assert hit.header("Cache-Status") == HIT
    assert hit.body == miss.body


@pytest.mark.parametrize("status", [204, 200])
def test_a_request_after_a_head_that_is_all_is_a_hit_though_redis_answers_late(
    serve: Serve, redis_server: RedisServer, redis_url: str, status: int
) -> None:
    # Nothing but the head tells the client that it has all.
    headers = {"content-length": "0"} if status == 200 else {}
    with DelayProxy(redis_server.port, delay=0.02) as proxy:
        port = serve(
            app_of(lambda: StreamingResponse(parts(b""), status, headers), proxy.url(timeout=5))
        ).port
        with RawClient(port) as client, RawClient(port) as other:
            client.request()
            assert other.request().header("Cache-Status") == HIT


def test_a_request_after_the_end_of_a_file_is_a_hit_though_redis_answers_late(
    serve: Serve, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1_000_000))
    with DelayProxy(redis_server.port, delay=0.02) as proxy:
        port = serve(app_of(lambda: FileResponse(path), proxy.url(timeout=5))).port
        with RawClient(port) as client, RawClient(port) as other:
            miss, hit = client.request(), other.request()

    assert hit.header("Cache-Status") == HIT
    assert hit.body == miss.body == path.read_bytes()


@each_stack
def test_a_request_after_the_end_is_a_hit_behind_middleware(
    serve: Serve, redis_server: RedisServer, redis_url: str, middleware: list[Middleware]
) -> None:
    with DelayProxy(redis_server.port, delay=0.02) as proxy:
        app = app_of(lambda: with_its_length(os.urandom(300_000)), proxy.url(timeout=5), middleware)
        port = serve(app).port
        with RawClient(port) as client, RawClient(port) as other:
            miss, hit = client.request(), other.request()

    assert hit.header("Cache-Status") == HIT
    assert hit.body == miss.body


@pytest.mark.full
@pytest.mark.parametrize("http", ["h11", pytest.param("httptools", marks=pytest.mark.full)])
def test_a_request_after_the_end_is_a_hit_in_another_process(
    spawn: Spawn, redis_server: RedisServer, redis_url: str, http: HttpParser
) -> None:
    with DelayProxy(redis_server.port, delay=0.02) as proxy:
        environment = {"CACHE": proxy.url()}
        processes = [spawn("tests.support.stream_app:app", environment, http) for _ in range(2)]
        for number, target in enumerate(["/chunked", "/length", "/file", "/json"] * 2):
            # The Host is part of the key, and each process has a port of its own.
            headers = {"Host": "example.org"}
            first, second = (process.port for process in processes[:: (-1) ** number])
            query = f"{target}?number={number}"
            with RawClient(first) as client, RawClient(second) as other:
                miss = client.request("GET", query, headers)
                hit = other.request("GET", query, headers)
            assert miss.complete
            assert (target, hit.header("Cache-Status")) == (target, HIT)
            assert hit.body == miss.body
