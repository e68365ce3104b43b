"""`stream-cached probe`, which asks a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.command.asking import ask, question
from stream_cached.command.main import main
from tests.conftest import Serve
from tests.support.process import HOST, free_port

SECRET = "geheim"


async def rows(pause: float = 0.02) -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d\n" % number
        await asyncio.sleep(pause)


@stream_cached(ttl=60)
async def stream(request: Request) -> Response:
    return StreamingResponse(rows())


@stream_cached(ttl=60)
async def whole(request: Request) -> Response:
    return PlainTextResponse("whole")


@stream_cached(ttl=60)
async def private(request: Request) -> Response:
    return StreamingResponse(rows(), headers={"Set-Cookie": f"session={SECRET}"})


@stream_cached(ttl=60)
async def slow(request: Request) -> Response:
    return StreamingResponse(rows(0.08))


@stream_cached(ttl=60)
async def endless(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    return StreamingResponse(body())


@stream_cached(ttl=60)
async def broken(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(0.01)
        raise RuntimeError("the stream breaks")

    return StreamingResponse(body())


async def elsewhere(request: Request) -> Response:
    return RedirectResponse(f"/stream?token={SECRET}")


async def bomb(request: Request) -> Response:
    zeros = gzip.compress(bytes(4 << 20))
    return Response(zeros, headers={"Content-Encoding": "gzip"})


class Probe:
    def __init__(self, capsys: pytest.CaptureFixture[str], base: str) -> None:
        self._capsys = capsys
        self.base = base

    def __call__(self, path: str, *arguments: str) -> tuple[int, str, str]:
        url = f"{self.base}{path}" if path.startswith("/") else path
        status = main(["probe", url, *arguments])
        output = self._capsys.readouterr()
        assert SECRET not in output.out + output.err
        return status, output.out, output.err

    def json(self, path: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        status, out, _ = self(path, *arguments, "--json")
        return status, json.loads(out)


def held_back(app: Any) -> Any:
    """The app behind a proxy that sends nothing before it has all."""

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        held: list[Any] = []

        async def hold(message: Any) -> None:
            held.append(message)

        await app(scope, receive, hold)
        for message in held:
            await send(message)

    async def either(scope: Any, receive: Any, send: Any) -> None:
        is_held = scope["type"] == "http" and scope["query_string"] == b"held"
        await (proxied if is_held else app)(scope, receive, send)

    return either


@pytest.fixture
def probe(serve: Serve, capsys: pytest.CaptureFixture[str]) -> Probe:
    endpoints: tuple[Any, ...] = (stream, whole, private, slow, endless, broken, elsewhere, bomb)
    app = Starlette(
        routes=[Route(f"/{each.__name__}", each, methods=["GET", "POST"]) for each in endpoints]
    )
    return Probe(capsys, serve(held_back(app)).url)


def words(found: dict[str, Any]) -> list[str]:
    return [each["reason"] for each in found["findings"]]


def test_it_streams_and_hits(probe: Probe) -> None:
    status, found = probe.json("/stream")
    assert (status, found["streams"], found["hits"], found["findings"]) == (0, True, True, [])
    first, second = found["first"], found["second"]
    assert first["pieces"] == len(first["piece_seconds"]) == 3
    assert first["sha256"] == second["sha256"]
    assert first["transfer_encoding"] == "chunked"
    assert second["content_length"] == "6"
    assert second["age"] == "0"
    assert (first["complete"], first["bytes"], second["cache_status"]) == (
        *(True, 6),
        "stream-cached; hit",
    )
    status, text, _ = probe("/stream")
    assert status == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "hit-at-once" in text


def test_a_hit_without_streaming(probe: Probe) -> None:
    status, found = probe.json("/whole")
    assert (status, found["streams"], found["hits"]) == (1, False, True)
    assert words(found) == ["length"]


def test_why_a_response_is_not_stored(probe: Probe) -> None:
    status, found = probe.json("/private")
    assert (status, found["hits"], words(found)) == (1, False, ["set-cookie"])


def test_a_proxy_that_buffers(probe: Probe) -> None:
    status, found = probe.json("/slow?held")
    assert (status, found["streams"], found["hits"]) == (1, False, True)
    assert words(found) == ["held-back"]


def test_headers_are_sent_and_not_shown(probe: Probe) -> None:
    status, found = probe.json("/stream", "--header", f"Authorization: Bearer {SECRET}")
    assert (status, words(found)) == (1, ["authorization"])
    status, found = probe.json("/stream?a", "--method", "post", "--header", f"Cookie: a={SECRET}")
    assert (status, found["method"], words(found)) == (1, "POST", ["method"])


@pytest.mark.parametrize("bound", [("--timeout", "0.3"), ("--max-bytes", "5000")])
def test_an_endless_stream_is_bounded(bound: tuple[str, str], probe: Probe) -> None:
    start = time.monotonic()
    status, found = probe.json("/endless", *bound)
    assert time.monotonic() - start < 3
    assert (status, words(found), found["second"]) == (1, ["endless"], None)
    assert found["first"]["bytes"] < 100_000


def test_what_breaks(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    status, found = probe.json("/broken")
    assert (status, words(found), found["first"]["complete"]) == (1, ["broken"], False)


def test_a_redirect_is_not_followed(probe: Probe) -> None:
    status, found = probe.json("/elsewhere")
    assert (status, words(found)) == (1, ["redirect"])


def test_what_unpacks_to_more_than_the_bound(probe: Probe) -> None:
    answer = ask(question(f"{probe.base}/bomb", [], max_bytes=1 << 20))
    assert answer.cut == "size"
    assert answer.size < 10_000


@contextmanager
def speaking(reply: bytes, *, pause: float = 0.0) -> Iterator[str]:
    """A server that sends this, byte by byte where there is a pause."""
    with socket.create_server((HOST, 0)) as listening:
        end = threading.Event()

        def run() -> None:
            while not end.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    for piece in (
                        (reply[i : i + 1] for i in range(len(reply))) if pause else [reply]
                    ):
                        try:
                            connection.sendall(piece)
                        except OSError:
                            break
                        if end.wait(pause):
                            break

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{listening.getsockname()[1]}"
        finally:
            end.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def test_a_body_shorter_than_its_length(probe: Probe) -> None:
    with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") as url:
        assert ask(question(url, [])).cut == "broken"


def test_http_1_0_and_what_a_header_holds(probe: Probe) -> None:
    head = b"HTTP/1.0 200 OK\r\nCache-Status: a\x1b[31m\r\n\r\nabc"
    with speaking(head) as url:
        status, text, _ = probe(url)
    assert status == 1
    assert "HTTP/1.0" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\nA: " + b"b" * 5000, b"nonsense\r\n"])
def test_no_answer_of_http(reply: bytes, probe: Probe) -> None:
    with speaking(reply, pause=0.005) as url:
        start = time.monotonic()
        status, _, err = probe(url, "--timeout", "0.3")
    assert time.monotonic() - start < 3
    assert status == 2
    assert url in err
    assert len(err.splitlines()) == 1


URLS = {
    "ftp://localhost/": "none of HTTP",
    "localhost:8000/": "none of HTTP",
    "http://": "none of HTTP",
    f"http://user:{SECRET}@localhost/": "has credentials",
    "http://localhost:port/": "can't be parsed",
    "http://localhost/a b": "a character that HTTP does not allow",
}


@pytest.mark.parametrize("url", URLS)
def test_what_is_no_url(url: str, probe: Probe) -> None:
    if "a b" in url:
        url = f"{probe.base}/a b"
    status, out, err = probe(url)
    assert (status, out) == (2, "")
    assert URLS.get(url, "a character that HTTP does not allow") in err


@pytest.mark.parametrize("header", [f"Authorization {SECRET}", f"A: {SECRET}\r\nB: c", ": a"])
def test_what_is_no_header(header: str, probe: Probe) -> None:
    status, _, err = probe("/stream", "--header", header)
    assert status == 2
    assert "header" in err


def test_a_server_that_is_away(probe: Probe) -> None:
    status, out, err = probe(f"http://{HOST}:{free_port()}/?token={SECRET}")
    assert (status, out) == (2, "")
    assert "can't be reached (Connection refused): start the server" in err


def test_no_tls(probe: Probe) -> None:
    status, _, err = probe(f"https{probe.base.removeprefix('http')}/stream", "--timeout", "2")
    assert status == 2
    assert "no TLS with" in err


@pytest.mark.parametrize("option", [("--timeout", "nan"), ("--timeout", "0"), ("--max-bytes", "x")])
def test_a_bound_that_is_none(option: tuple[str, str], probe: Probe) -> None:
    with pytest.raises(SystemExit, match="2"):
        probe("/stream", *option)
