"""A request for a range: on a miss as without the decorator, on a hit from the entry."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cashews import Cache
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import stream_cached.cashews
from stream_cached import stream_cached as cached
from tests.conftest import Serve
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawResponse, fetch
from tests.support.logs import warnings

HIT = "stream-cached; hit"
MISS = "stream-cached; fwd=uri-miss; stored"
OWN = 'stream-cached; fwd=uri-miss; detail="conditional"'

SIZE = 300_000

Make = Callable[[Path], Response]


class OwnFileResponse(FileResponse):
    chunk_size = 1000


class Blob(Response):
    """A response that is no file, and answers a range by itself."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, headers={"accept-ranges": "bytes", "etag": '"1"'})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get("range")
        response = Response(self.body, headers={"accept-ranges": "bytes", "etag": '"1"'})
        if asked is not None:
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            response = Response(self.body[first : last + 1], 206, {"accept-ranges": "bytes"})
            response.headers["content-range"] = f"bytes {first}-{last}/{len(self.body)}"
        await response(scope, receive, send)


FILES: dict[str, Make] = {
    "file": FileResponse,
    "subclass": OwnFileResponse,
    "download": lambda path: FileResponse(path, filename="a file.bin", media_type="video/mp4"),
    "private": lambda path: FileResponse(path, headers={"cache-control": "private"}),
}

RANGES: dict[str, dict[str, str]] = {
    "first bytes": {"Range": "bytes=0-99"},
    "resumed": {"Range": "bytes=299000-"},
    "last bytes": {"Range": "bytes=-8"},
    "several": {"Range": "bytes=0-9, 100-199, 299990-"},
    "not satisfiable": {"Range": f"bytes={SIZE}-"},
    "malformed": {"Range": "bytes=a-b"},
    "another unit": {"Range": "rows=0-9"},
    "the same file": {"Range": "bytes=0-9", "If-Range": "{etag}"},
    "another file": {"Range": "bytes=0-9", "If-Range": '"another"'},
    "the same date": {"Range": "bytes=5-", "If-Range": "{last-modified}"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(SIZE))
    # A date says nothing of a file that was changed within the same second.
    os.utime(file, (1_000_000_000, 1_000_000_000))
    return file


def serve_both(
    serve: Serve, make: Callable[[], Response], *, sync: bool = False, **settings: Any
) -> int:
    """Serve one endpoint at `/plain`, and decorated at `/cached`."""

    async def endpoint(request: Request) -> Response:
        return make()

    def in_thread(request: Request) -> Response:
        return make()

    decorated = cached(**{"ttl": 60, **settings})(in_thread if sync else endpoint)
    return serve(Starlette(routes=[Route("/plain", endpoint), Route("/cached", decorated)])).port


def seen(response: RawResponse) -> tuple[object, ...]:
    """What a client sees of a response, without what differs from one transfer to the next."""
    # Starlette 0.47 has it in another header, by mistake.
    boundary = re.search(rb"boundary=(\w+)", b" ".join(value for _, value in response.headers))
    headers = sorted(
        (name.lower(), value)
        for name, value in response.headers
        if name.lower() not in (b"date", b"cache-status", b"age")
    )
    text = repr((headers, response.body))
    if boundary is not None:
        text = text.replace(boundary[1].decode(), "-")
    return response.status, response.complete, text


def filled(headers: Mapping[str, str], whole: RawResponse) -> dict[str, str]:
    values = {name: whole.header(name) for name in ("etag", "last-modified")}
    return {name: value.format_map(values) for name, value in headers.items()}


@pytest.mark.matrix(one_store=True)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("asked", RANGES)
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_answered_as_without_the_decorator(
    serve: Serve, cache_url: str, path: Path, sync: bool, kind: str, asked: str, method: str
) -> None:
    port = serve_both(serve, lambda: FILES[kind](path), sync=sync, cache=cache_url)
    headers = filled(RANGES[asked], fetch(port, "/plain"))
    plain = fetch(port, "/plain", headers, method=method)

    cold = fetch(port, "/cached", headers, method=method)
    assert seen(cold) == seen(plain)
    if kind == "private":
        assert seen(fetch(port, "/cached", headers, method=method)) == seen(plain)
        return
    if method == "GET" and plain.status in (206, 416):
        assert cold.header("cache-status") == OWN
    wholes = [fetch(port, "/cached") for _ in range(2)]
    assert [whole.body for whole in wholes] == [path.read_bytes()] * 2
    assert wholes[1].header("cache-status") == HIT

    warm = fetch(port, "/cached", headers, method=method)
    assert (warm.header("cache-status"), warm.complete) == (HIT, True)
    if method == "GET" and plain.status == 206 and asked != "several":
        assert seen(warm) == seen(plain)
    elif method == "GET" and plain.status == 416:
        assert (warm.status, warm.body) == (416, b"")
        assert warm.header("content-range") == f"bytes */{SIZE}"
    else:
        # Several ranges, and what is no range, may be answered by the whole body.
        assert (warm.status, warm.size) == (200, SIZE if method == "GET" else 0)


@pytest.mark.parametrize("settings", [{}, {"unguarded": ("headers",)}, {"key": "blob"}])
def test_another_response_that_answers_ranges(
    serve: Serve, cache_url: str, settings: dict[str, Any]
) -> None:
    content = os.urandom(1000)
    port = serve_both(serve, lambda: Blob(content), cache=cache_url, **settings)
    headers = {"Range": "bytes=10-19"}
    plain = fetch(port, "/plain", headers)
    assert (plain.status, plain.body) == (206, content[10:20])
    for _ in range(2):
        answer = fetch(port, "/cached", headers)
        assert (answer.status, answer.body) == (206, content[10:20])
        assert answer.header("content-range") == "bytes 10-19/1000"
        assert fetch(port, "/cached").body == content


def test_a_range_is_answered_whole_by_a_run_that_goes_on(
    serve: Serve, cache_url: str, path: Path
) -> None:
    begun, gate = Gate(), Gate()

    async def endpoint(request: Request) -> Response:
        if not begun.is_open:
            begun.open()
            await gate.passed()
        return FileResponse(path)

    decorated = cached(ttl=60, cache=cache_url)(endpoint)
    server = serve(Starlette(routes=[Route("/", decorated)]))
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(fetch, server.port)
        begun.wait()
        part = pool.submit(fetch, server.port, headers={"Range": "bytes=0-9"})
        gate.open()
        assert whole.result().body == path.read_bytes()
    # It has joined, or it came after the end.
    assert part.result().body in (path.read_bytes(), path.read_bytes()[:10])
    assert fetch(server.port).header("cache-status") == HIT


def test_a_range_of_a_stale_file(serve: Serve, cache_url: str, path: Path) -> None:
    settings: dict[str, Any] = {"ttl": 0.05, "stale_while_revalidate": 60, "stale_if_error": 60}
    port = serve_both(serve, lambda: FileResponse(path), cache=cache_url, **settings)
    fetch(port, "/cached")
    headers = {"Range": "bytes=0-9"}
    plain = fetch(port, "/plain", headers)
    wait_until(lambda: "ttl=" in (fetch(port, "/cached").header("cache-status") or ""))
    assert seen(fetch(port, "/cached", headers)) == seen(plain)


async def numbers() -> AsyncIterator[bytes]:
    for number in range(1000):
        yield b"%d\n" % number


def test_a_range_of_a_stream_fills_the_cache(serve: Serve, cache_url: str) -> None:
    port = serve_both(serve, lambda: StreamingResponse(numbers()), cache=cache_url)
    headers = {"Range": "bytes=0-9"}
    cold, whole, warm = (fetch(port, "/cached", each) for each in (headers, {}, headers))
    assert [each.header("cache-status") for each in (cold, whole, warm)] == [MISS, HIT, HIT]
    assert [each.status for each in (cold, whole, warm)] == [200, 200, 206]
    assert cold.body == whole.body
    assert warm.body == whole.body[:10]
    ranges = [each.header("accept-ranges") for each in (cold, whole, warm)]
    assert ranges == [None, "bytes", "bytes"]


def test_a_stale_stream_is_refreshed_by_a_request_for_a_range(serve: Serve, cache_url: str) -> None:
    settings: dict[str, Any] = {"ttl": 0.05, "stale_while_revalidate": 60}
    port = serve_both(serve, lambda: StreamingResponse(numbers()), cache=cache_url, **settings)
    fetch(port, "/cached")
    headers = {"Range": "bytes=0-9"}

    def is_fresh() -> bool:
        answer = fetch(port, "/cached", headers)
        assert (answer.status, answer.size) == (206, 10)
        return answer.header("cache-status") == HIT

    wait_until(lambda: not is_fresh())
    wait_until(is_fresh)


def test_no_warning(
    serve: Serve, cache_url: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = serve_both(serve, lambda: FileResponse(path), cache=cache_url)
    for _ in range(3):
        fetch(port, "/cached", {"Range": "bytes=0-9"})
    assert warnings(caplog) == []


@pytest.mark.parametrize("warm", [False, True])
def test_cashews(serve: Serve, path: Path, warm: bool) -> None:
    cache = Cache()
    cache.setup("mem://")
    decorated = stream_cached.cashews.stream_cached(cache, ttl=60)

    async def endpoint(request: Request) -> Response:
        return FileResponse(path)

    app = Starlette(routes=[Route("/plain", endpoint), Route("/cached", decorated(endpoint))])
    port = serve(app).port
    if warm:
        assert [fetch(port, "/cached").header("cache-status") for _ in "12"] == [MISS, HIT]
    headers = {"Range": "bytes=0-9"}
    assert seen(fetch(port, "/cached", headers)) == seen(fetch(port, "/plain", headers))
