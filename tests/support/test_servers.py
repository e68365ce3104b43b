"""The fixtures themselves: servers that really end, and a client that is not fooled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.conftest import Serve, Spawn
from tests.support.app_server import AppProcess, AppServer
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.process import HOST, ROOT, ServerProcess
from tests.support.proxy import DelayProxy
from tests.support.servers import MemcachedServer, RedisServer


def wait_until_closed(port: int, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"port {port} is still open")


# -- Redis and memcached


def test_redis_is_empty_after_a_restart_and_gone_after_stop(own_redis: RedisServer) -> None:
    port, pid = own_redis.port, own_redis.pid
    assert own_redis.execute("SET", "key", b"\r\nvalue") == b"OK"
    assert own_redis.execute("GET", "key") == b"\r\nvalue"
    own_redis.flush()
    assert own_redis.execute("GET", "key") is None

    own_redis.execute("SET", "key", "value")
    own_redis.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        own_redis.connect()

    own_redis.start()
    assert own_redis.port == port
    assert own_redis.execute("DBSIZE") == b"0"
    own_redis.close()
    assert not own_redis.directory.exists()


def test_a_paused_redis_hangs_until_it_is_resumed(own_redis: RedisServer) -> None:
    own_redis.pause()
    with pytest.raises(TimeoutError):
        own_redis.execute("PING", timeout=0.1)
    own_redis.resume()
    assert own_redis.execute("PING") == b"PONG"
    own_redis.pause()
    own_redis.stop()
    assert not own_redis.running


def test_the_shared_redis_comes_back_for_the_next_test(
    redis_server: RedisServer, redis_url: str, request: pytest.FixtureRequest
) -> None:
    assert redis_url == f"redis://127.0.0.1:{redis_server.port}/0"
    assert redis_server.url(namespace="a b") == f"{redis_url}?namespace=a+b"
    redis_server.kill()  # the next test that wants it gets a new one


def test_the_shared_redis_has_come_back(redis_server: RedisServer, redis_url: str) -> None:
    assert redis_server.execute("DBSIZE") == b"0"


def test_a_refused_option_is_told_with_the_output(own_redis: RedisServer) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"), RedisServer("--no-such-option", "1"):
        pass


def test_memcached_answers_and_is_gone_after_stop(memcached_url: str) -> None:
    with MemcachedServer() as server:
        assert server.execute("set key 0 0 5\r\nvalue") == b"STORED"
        assert server.execute("get key") == b"VALUE key 0 5"
        server.flush()
        assert server.execute("get key") == b"END"
        port = server.port
    wait_until_closed(port)


PARENT = """
import sys
from tests.support.servers import RedisServer
server = RedisServer()
server.start()
print(server.port, server.directory, flush=True)
sys.stdin.read()
"""


def test_redis_ends_when_the_process_that_started_it_is_killed(redis_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        port, directory = parent.stdout.readline().split()
        socket.create_connection((HOST, int(port)), 5).close()
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    wait_until_closed(int(port))
    deadline = time.monotonic() + 10
    while Path(directory.decode()).exists():
        assert time.monotonic() < deadline, "its directory is still there"
        time.sleep(0.01)


def test_each_cache_url_is_another_cache(cache_url: str, namespace: str) -> None:
    scheme = cache_url.partition(":")[0]
    assert scheme in ("memory", "redis", "memcached")
    assert f"?namespace={namespace}" in cache_url


# -- the client, against a server that says exactly what it is told to


@contextlib.contextmanager
def scripted(*parts: bytes, reset: bool = False) -> Iterator[int]:
    """A server for one connection: reads a request, writes `parts`, and closes."""
    with socket.create_server((HOST, 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for part in parts:
                    connection.sendall(part)
                if not reset:
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)  # until the client has gone
                # Closed with the client's second request unread, the kernel sends a RST.
                elif connection.recv(1, socket.MSG_PEEK):
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(10)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

WHOLE = [
    (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde", "chunked"),
    (CHUNKED + b"0\r\n\r\n", b"", "chunked"),
    (LENGTH + b"abcde", b"abcde", "length"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"abcde", b"abcde", "length"),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", "none"),
    (b"HTTP/1.0 200 OK\r\n\r\nabcde", b"abcde", "close"),
]

BROKEN = [
    (b"", b"", "a line was due"),
    (b"HTTP/1.1 200 OK\r\nContent-", b"", "a line was due"),
    (b"SPDY 200 OK\r\n\r\n", b"", "status line"),
    (CHUNKED, b"", "a line was due"),
    (CHUNKED + b"3\r\nabc", b"abc", "a line was due"),
    (CHUNKED + b"3\r\nabc\r\n", b"abc", "a line was due"),
    (CHUNKED + b"3\r\nabc\r\n0\r\n", b"abc", "a line was due"),
    (CHUNKED + b"5\r\nabc", b"abc", "2 bytes before"),
    (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", b"abc", "longer than its size"),
    (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", b"", "size of a chunk"),
    (CHUNKED + b"0\r\n\r\nmore", b"", "after the end"),
    (LENGTH, b"", "5 bytes before"),
    (LENGTH + b"abc", b"abc", "2 bytes before"),
    (LENGTH + b"abcdef", b"abcde", "after the end"),
    (LENGTH[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", "both"),
    (LENGTH[:-2] + b"Content-Length: 6\r\n\r\nabcde", b"", "content-length"),
]


@pytest.mark.parametrize("one_by_one", [False, True], ids=["at-once", "by-bytes"])
@pytest.mark.parametrize(("wire", "body", "framing"), WHOLE)
def test_a_whole_response_is_complete(
    wire: bytes, body: bytes, framing: str, one_by_one: bool
) -> None:
    parts = [wire[i : i + 1] for i in range(len(wire))] if one_by_one else [wire]
    with scripted(*parts) as port:
        response = fetch(port)
    assert (response.body, response.complete, response.error) == (body, True, None)
    assert response.framing == framing
    assert response.size == len(body)


@pytest.mark.parametrize(("wire", "body", "error"), BROKEN)
def test_a_broken_response_is_not_complete(wire: bytes, body: bytes, error: str) -> None:
    with scripted(wire) as port:
        response = fetch(port)
    assert (response.body, response.complete) == (body, False)
    assert response.error is not None
    assert error in response.error


def test_a_reset_is_not_complete_even_where_the_end_of_the_connection_ends_the_body() -> None:
    with scripted(b"HTTP/1.0 200 OK\r\n\r\nabc", reset=True) as port, RawClient(port) as client:
        client.send()
        client.read_head()
        assert client.read_some() == b"abc"
        client.send()
        assert client.read_some() == b""
        assert not client.response.complete
        assert "broke" in str(client.response.error)


def test_silence_is_a_timeout() -> None:
    with scripted(CHUNKED + b"3\r\nabc\r\n") as port, RawClient(port) as client:
        client.send()
        assert client.read_head().status == 200
        assert client.read_some() == b"abc"
        assert not client.read_some()  # scripted closes
    with (
        socket.create_server((HOST, 0)) as listener,
        RawClient(listener.getsockname()[1], timeout=0.05) as client,
        pytest.raises(TimeoutError),
    ):
        client.request()


# -- the client, against uvicorn


async def whole(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        yield "one "
        yield "two"

    return StreamingResponse(body(), media_type="text/plain")


async def fails(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        raise RuntimeError("in mid-stream")

    length = request.query_params.get("length")
    return StreamingResponse(body(), headers={"content-length": length} if length else None)


async def endless(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x" * 1000
            await asyncio.Event().wait()
        finally:
            request.app.state.closed.set()

    return StreamingResponse(body())


async def environment(request: Request) -> Response:
    sys.stdout.write(f"asked for {request.url.path}\n")
    return PlainTextResponse(os.environ.get("STREAM_CACHED_TEST", ""))


def make_app() -> Starlette:
    app = Starlette(
        routes=[
            Route("/whole", whole),
            Route("/fails", fails),
            Route("/endless", endless),
            Route("/environment", environment),
        ]
    )
    app.state.closed = threading.Event()
    return app


app = make_app()


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_the_client_tells_whole_from_broken_with_uvicorn(
    serve: Serve, http: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(make_app(), "h11" if http == "h11" else "httptools")
    with RawClient(server.port) as client:
        for _ in range(2):  # one connection, kept alive
            response = client.request("GET", "/whole", {"Accept": "text/plain"})
            assert (response.status, response.reason) == (200, b"OK")
            assert (response.text, response.complete) == ("one two", True)
            assert response.framing == "chunked"
            assert response.header("Content-Type") == "text/plain; charset=utf-8"
        head = client.request("HEAD", "/whole")
        assert (head.status, head.body, head.complete) == (200, b"", True)

    for target in ("/fails", "/fails?length=100"):
        response = fetch(server.port, target)
        assert (response.status, response.body) == (200, b"one ")
        assert not response.complete
        assert response.error
    assert "in mid-stream" in caplog.text


def test_the_end_of_the_client_reaches_the_app(serve: Serve) -> None:
    app = make_app()
    server = serve(app)
    for end in (RawClient.abort, RawClient.close):
        app.state.closed.clear()
        client = RawClient(server.port)
        client.send("GET", "/endless")
        assert client.read_head().header("transfer-encoding") == "chunked"
        assert client.read_until(1000) == b"x" * 1000
        assert server.requests_running == 1
        with pytest.raises(TimeoutError):
            client.read_some(timeout=0.01)
        end(client)
        assert app.state.closed.wait(10)


def test_a_server_that_stops_breaks_its_streams(serve: Serve) -> None:
    server = serve(make_app())
    with RawClient(server.port) as client:
        client.send("GET", "/endless")
        client.read_head()
        client.read_some()
        server.stop()
        assert not client.read_rest().complete
    with pytest.raises(ConnectionRefusedError):
        fetch(server.port)
    server.stop()


def test_many_requests_at_once(serve: Serve) -> None:
    responses = fetch_many(serve(make_app()).port, "/whole", count=20)
    assert [response.text for response in responses] == ["one two"] * 20


def test_a_lifespan_that_fails_is_told() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"), AppServer(broken):
        pass


def test_run_runs_in_the_loop_of_the_server(serve: Serve) -> None:
    async def where() -> str:
        return threading.current_thread().name

    assert serve(make_app(), "httptools").run(where()) == "uvicorn"


@pytest.mark.full
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_an_app_in_a_process_of_its_own(spawn: Spawn, http: str) -> None:
    process = spawn(
        "tests.support.test_servers:app",
        {"STREAM_CACHED_TEST": "value"},
        "h11" if http == "h11" else "httptools",
    )
    assert fetch(process.port, "/environment").text == "value"
    process.wait_for_output("asked for /environment")
    with RawClient(process.port) as client:
        client.send("GET", "/endless")
        client.read_head()
        client.read_some()
        process.kill()
        assert not client.read_rest().complete
    process.start()
    assert fetch(process.port, "/whole").complete


def test_an_app_that_can_not_be_imported_is_told_with_its_output() -> None:
    process: ServerProcess = AppProcess("tests.no_such_module:app")
    with pytest.raises(RuntimeError, match="no_such_module"), process:
        pass


# -- the proxy


@contextlib.contextmanager
def ping(port: int) -> Iterator[RedisServer]:
    """A handle on Redis through a proxy: `execute` only."""
    server = RedisServer()
    server.port = port
    try:
        yield server
    finally:
        server.close()


def test_the_proxy_delays_cuts_and_swallows(redis_server: RedisServer, redis_url: str) -> None:
    with DelayProxy(redis_server.port) as proxy, ping(proxy.port) as redis:
        assert proxy.url(namespace="x") == f"redis://127.0.0.1:{proxy.port}/0?namespace=x"
        assert redis.execute("SET", "key", "v" * 1000) == b"OK"
        assert proxy.connections == 1

        proxy.delay = 0.2
        before = time.monotonic()
        assert redis.execute("PING") == b"PONG"
        assert 0.2 <= time.monotonic() - before < 2
        proxy.delay = 0.0

        proxy.cut_after = 100
        with redis.connect() as connection:
            connection.sendall(b"GET key\r\n")
            assert len(connection.recv(1000)) == 100
            with pytest.raises(ConnectionResetError):
                connection.recv(1000)
        with pytest.raises(ConnectionResetError):
            redis.execute("PING")
        proxy.cut_after = None
        assert redis.execute("PING") == b"PONG"

        with redis.connect() as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            proxy.swallow = True
            connection.settimeout(0.1)
            connection.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(100)
            proxy.swallow = False
            with pytest.raises(TimeoutError):
                connection.recv(100)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
        assert redis.execute("PING") == b"PONG"


def test_a_delay_does_not_lower_the_throughput(redis_server: RedisServer, redis_url: str) -> None:
    redis_server.execute("SET", "key", "v" * 4_000_000)
    with DelayProxy(redis_server.port, delay=0.05) as proxy, ping(proxy.port) as redis:
        before = time.monotonic()
        assert redis.execute("GET", "key") == b"v" * 4_000_000
        assert 0.05 <= time.monotonic() - before < 1.5
    assert proxy.replied > 4_000_000


def test_a_proxy_to_nowhere_breaks_the_connection(own_redis: RedisServer) -> None:
    with DelayProxy(own_redis.port) as proxy, ping(proxy.port) as redis:
        own_redis.stop()
        with pytest.raises(ConnectionError):
            redis.execute("PING")
