"""Whatever an endpoint sends, a hit is what the miss was: status, headers and every byte."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_cached import stream_cached
from stream_cached.limits import VALUE_SIZE
from tests.conftest import Serve
from tests.support.added import ADDED_BYTES
from tests.support.app_server import HttpParser
from tests.support.gates import wait_until
from tests.support.http_client import RawResponse, fetch

Endpoint = Callable[[Request], Awaitable[Response]]

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"

#: What the server, the framing and the cache itself say about one transfer.
_OF_THE_TRANSFER = ADDED_BYTES | {
    b"connection",
    b"content-length",
    b"date",
    b"server",
    b"transfer-encoding",
}


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def app_of(endpoint: Endpoint) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)])


@dataclass
class Runs:
    """An endpoint that answers with what `make` returns, and counts how often it ran."""

    make: Callable[[], Response]
    count: int = field(default=0, init=False)

    async def __call__(self, request: Request) -> Response:
        self.count += 1
        return self.make()


def headers_of(response: RawResponse) -> list[tuple[bytes, bytes]]:
    pairs = [(name.lower(), value) for name, value in response.headers]
    return [pair for pair in pairs if pair[0] not in _OF_THE_TRANSFER]


def assert_equal_on_miss_and_hit(serve: Serve, runs: Runs, **settings: object) -> RawResponse:
    """Ask twice; return the hit, once it is what the miss was."""
    # The port, and so the key, may be that of an earlier server.
    settings.setdefault("namespace", uuid.uuid4().hex)
    endpoint = stream_cached(**{"ttl": 60, **settings})(runs.__call__)  # type: ignore[arg-type]
    port = serve(app_of(endpoint)).port
    miss, hit = fetch(port), fetch(port)
    assert_same(miss, hit)
    assert runs.count == 1
    return hit


def assert_same(miss: RawResponse, hit: RawResponse) -> None:
    assert (miss.complete, miss.error) == (True, None)
    assert (hit.complete, hit.error) == (True, None)
    assert miss.header("Cache-Status") == MISS
    assert hit.header("Cache-Status") == HIT
    assert hit.status == miss.status
    assert headers_of(hit) == headers_of(miss)
    assert len(hit.body) == len(miss.body)
    assert hit.body == miss.body
    if hit.status not in (204, 304):
        assert hit.header("Content-Length") == str(len(hit.body))


# -- streams, each of a new random body at each run ----------------------------------------------


def random_4_mb() -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield os.urandom(64 * 1024)

    return StreamingResponse(body(), media_type="application/octet-stream")


def one_chunk_of_4_mb() -> Response:
    return StreamingResponse(stream(os.urandom(1 << 20) * 4))


def many_tiny_chunks() -> Response:
    secret = os.urandom(20 * 20_000)
    return StreamingResponse(stream(*(secret[i : i + 20] for i in range(0, len(secret), 20))))


def empty_body() -> Response:
    return StreamingResponse(stream(), headers={"x-run": os.urandom(4).hex()})


def empty_chunks() -> Response:
    return StreamingResponse(stream(b"", b"", os.urandom(9), b"", b"", os.urandom(9), b"", b""))


def only_an_empty_chunk() -> Response:
    return StreamingResponse(stream(b""), headers={"x-run": os.urandom(4).hex()})


def str_chunks() -> Response:
    async def body() -> AsyncIterator[str]:
        for part in ("Grüße ", os.urandom(4).hex(), "", " Ω\n"):
            yield part

    return StreamingResponse(body(), media_type="text/plain")


class _Latin1Response(StreamingResponse):
    charset = "latin-1"


def str_chunks_in_latin_1() -> Response:
    async def body() -> AsyncIterator[str]:
        yield "Grüße "
        yield os.urandom(4).hex()

    return _Latin1Response(body(), media_type="text/plain")


def views_of_one_buffer() -> Response:
    async def body() -> AsyncIterator[memoryview]:
        buffer = bytearray(1000)
        for _ in range(500):
            buffer[:] = os.urandom(1000)
            yield memoryview(buffer)
            buffer[:] = bytes(1000)

    return StreamingResponse(body())


def sync_generator() -> Response:
    def body() -> Iterator[bytes]:
        for _ in range(50):
            yield os.urandom(100)

    return StreamingResponse(body())


def awkward_headers() -> Response:
    response = StreamingResponse(stream(os.urandom(10)), media_type="text/csv")
    response.raw_headers += [
        (b"content-disposition", b'attachment; filename="a:b;c=d.csv"; x=\'\\"\''),
        (b"x-latin", "Größe: 5 €".encode("latin-1", "replace") + b"\xe9\xff"),
        (b"x-empty", b""),
        (b"link", b"</a>; rel=next"),
        (b"x-between", b"1"),
        (b"link", b"</b>; rel=prev, </c>"),
        (b"x-run", os.urandom(4).hex().encode()),
    ]
    return response


def media_type_with_charset() -> Response:
    return StreamingResponse(stream(os.urandom(10)), media_type="text/plain; charset=utf-8")


def another_status() -> Response:
    return StreamingResponse(stream(b"gone ", os.urandom(10)), status_code=410)


def no_content() -> Response:
    return StreamingResponse(stream(), status_code=204, headers={"x-run": os.urandom(4).hex()})


def its_own_length() -> Response:
    body = os.urandom(300_000)
    parts = (body[:100], body[100:299_999], body[299_999:])
    return StreamingResponse(stream(*parts), headers={"content-length": "300000"})


def its_own_length_of_nothing() -> Response:
    headers = {"content-length": "0", "x-run": os.urandom(4).hex()}
    return StreamingResponse(stream(), headers=headers)


def json() -> Response:
    return JSONResponse({"run": os.urandom(4).hex(), "ü": [1, None, "€"]})


def plain_text() -> Response:
    return PlainTextResponse("Grüße " + os.urandom(4).hex())


def large_and_not_streamed() -> Response:
    return HTMLResponse(os.urandom(600_000).hex())


def redirect() -> Response:
    return RedirectResponse("/é?run=" + os.urandom(4).hex(), status_code=308)


def bare() -> Response:
    return Response(os.urandom(10))


def event_source() -> Response:
    async def events() -> AsyncIterator[ServerSentEvent | dict[str, str]]:
        for number in range(20):
            yield ServerSentEvent(data=os.urandom(8).hex(), event="token", id=str(number))
        yield {"event": "end", "data": "line 1\nline 2"}

    return EventSourceResponse(events(), headers={"Cache-Control": "max-age=60"})


CASES = [
    *(random_4_mb, one_chunk_of_4_mb, many_tiny_chunks, empty_body, empty_chunks),
    *(only_an_empty_chunk, str_chunks, str_chunks_in_latin_1, views_of_one_buffer, sync_generator),
    *(awkward_headers, media_type_with_charset, another_status, no_content, its_own_length),
    *(its_own_length_of_nothing, json, plain_text, large_and_not_streamed, redirect, bare),
    event_source,
]


@pytest.mark.matrix
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("make", CASES)
def test_a_hit_is_what_the_miss_was(
    serve: Serve, cache_url: str, http: HttpParser, make: Callable[[], Response]
) -> None:
    runs = Runs(make)
    port = serve(app_of(stream_cached(ttl=60, cache=cache_url)(runs.__call__)), http=http).port

    miss, hit, again = fetch(port), fetch(port), fetch(port)

    assert_same(miss, hit)
    assert_same(miss, again)
    assert runs.count == 1


@pytest.mark.matrix(share=3)
@pytest.mark.parametrize("make", CASES)
def test_a_hit_is_what_the_miss_was_with_every_body_under_chunk_keys(
    serve: Serve, redis_url: str, make: Callable[[], Response]
) -> None:
    assert_equal_on_miss_and_hit(serve, Runs(make), cache=redis_url, inline_max=0)


@pytest.mark.matrix(share=3)
@pytest.mark.parametrize("cache", ["memory://", "redis"])
@pytest.mark.parametrize("make", CASES)
def test_a_hit_is_what_the_miss_was_with_every_body_in_a_file(
    serve: Serve, redis_url: str, tmp_path: Path, cache: str, make: Callable[[], Response]
) -> None:
    url = redis_url if cache == "redis" else cache
    bodies = f"file://{tmp_path}"
    assert_equal_on_miss_and_hit(serve, Runs(make), cache=url, inline_max=0, bodies=bodies)


@pytest.mark.matrix(share=3)
@pytest.mark.parametrize("make", CASES)
def test_a_hit_is_what_the_miss_was_when_it_is_sent_chunk_by_chunk(
    serve: Serve, make: Callable[[], Response]
) -> None:
    assert_equal_on_miss_and_hit(serve, Runs(make), replay="exact")


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_file_response_is_stored_and_replayed(
    serve: Serve, cache_url: str, http: HttpParser, tmp_path: Path
) -> None:
    path = tmp_path / "größe.bin"
    content = os.urandom(700_000)
    path.write_bytes(content)
    runs = Runs(lambda: FileResponse(path, filename="größe.bin"))
    port = serve(app_of(stream_cached(ttl=60, cache=cache_url)(runs.__call__)), http=http).port

    miss = fetch(port)
    path.write_bytes(b"another")
    hit = fetch(port)

    assert_same(miss, hit)
    assert hit.body == content
    assert runs.count == 1


# -- keys and ttls --------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("make", [bare, many_tiny_chunks])
def test_a_key_may_have_2000_characters_with_spaces_and_non_ascii(
    serve: Serve, cache_url: str, make: Callable[[], Response]
) -> None:
    key = ("sales in Köln, 第1四半期\r\n\x00 " * 100)[:2000]
    assert_equal_on_miss_and_hit(serve, Runs(make), cache=cache_url, key=key)


@pytest.mark.matrix
@pytest.mark.parametrize("make", [bare, many_tiny_chunks])
def test_two_long_keys_that_differ_in_their_last_character_are_two(
    serve: Serve, cache_url: str, make: Callable[[], Response]
) -> None:
    first, second = Runs(make), Runs(make)
    for last, runs in (("a", first), ("b", second)):
        assert_equal_on_miss_and_hit(serve, runs, cache=cache_url, key="ü " * 999 + last)


@pytest.mark.matrix
@pytest.mark.parametrize("make", [bare, many_tiny_chunks])
@pytest.mark.parametrize("ttl", [40 * 24 * 60 * 60, 30.5, None], ids=str)
def test_a_ttl_may_be_40_days_or_a_fraction(
    serve: Serve, cache_url: str, make: Callable[[], Response], ttl: float | None
) -> None:
    assert_equal_on_miss_and_hit(serve, Runs(make), cache=cache_url, ttl=ttl)


# -- chunk by chunk -------------------------------------------------------------------------------

#: Made for each test: together they have four megabytes.
CHUNKS: dict[str, Callable[[], list[bytes]]] = {
    "none": list,
    "only empty ones": lambda: [b"", b"", b""],
    "empty ones in between": lambda: [b"", b"a", b"", b"", b"bc", b""],
    "over several segments": lambda: [b"a", b"b" * (3 * VALUE_SIZE), b"", b"c" * VALUE_SIZE, b"d"],
    "just over a segment": lambda: [b"a" * (VALUE_SIZE - 64), b"b" * 100, b"", b"c" * 100_000],
    "more than a window": lambda: [bytes([i]) * 200_000 for i in range(12)],
}
each_list_of_chunks = pytest.mark.parametrize("chunks", CHUNKS, indirect=True)


@pytest.fixture
def chunks(request: pytest.FixtureRequest) -> list[bytes]:
    return CHUNKS[request.param]()


class Messages:
    """An ASGI middleware that remembers the body messages of each response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.bodies: list[list[tuple[bytes, bool]]] = []
        self.ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent: list[tuple[bytes, bool]] = []
        self.bodies.append(sent)

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.body":
                sent.append((bytes(message.get("body", b"")), message.get("more_body", False)))
            await send(message)

        await self.app(scope, receive, listen)
        self.ended += 1

    def of_two_responses(self) -> tuple[list[tuple[bytes, bool]], list[tuple[bytes, bool]]]:
        # A client has all of an empty body before its last message is sent.
        wait_until(lambda: self.ended == 2)
        return self.bodies[0], self.bodies[1]


@pytest.mark.matrix
@pytest.mark.parametrize("inline_max", [0, "256KiB"])
@each_list_of_chunks
def test_an_exact_replay_sends_each_chunk_by_itself(
    serve: Serve, cache_url: str, chunks: list[bytes], inline_max: int | str
) -> None:
    runs = Runs(lambda: StreamingResponse(stream(*chunks)))
    cached = stream_cached(ttl=60, cache=cache_url, replay="exact", inline_max=inline_max)
    messages = Messages(app_of(cached(runs.__call__)))
    port = serve(messages).port

    assert_same(fetch(port), fetch(port))

    miss, hit = messages.of_two_responses()
    assert hit == miss == [*((chunk, True) for chunk in chunks), (b"", False)]


@pytest.mark.matrix
@pytest.mark.parametrize("inline_max", [0, "256KiB"])
@each_list_of_chunks
def test_the_body_iterator_of_a_hit_gives_the_chunks_of_the_run(
    serve: Serve, cache_url: str, chunks: list[bytes], inline_max: int | str
) -> None:
    runs = Runs(lambda: StreamingResponse(stream(*chunks)))
    cached = stream_cached(ttl=60, cache=cache_url, inline_max=inline_max)(runs.__call__)
    seen: list[list[object]] = []

    async def outer(request: Request) -> Response:
        response = await cached(request)
        assert isinstance(response, StreamingResponse)
        seen.append([chunk async for chunk in response.body_iterator])
        return PlainTextResponse("")

    port = serve(app_of(outer)).port
    fetch(port), fetch(port)

    assert runs.count == 1
    assert seen == [chunks, chunks]


@pytest.mark.matrix
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(16_382, marks=pytest.mark.full),
        16_383,
        16_384,
        pytest.param(32_768, marks=pytest.mark.full),
    ],
)
def test_a_segment_is_full_of_tiny_chunks_when_a_large_one_comes(
    serve: Serve, cache_url: str, count: int
) -> None:
    chunks = [*(b"%d" % (number % 10) for number in range(count)), bytes(600_000), b"last"]
    runs = Runs(lambda: StreamingResponse(stream(*chunks)))
    cached = stream_cached(ttl=60, cache=cache_url, replay="exact")
    messages = Messages(app_of(cached(runs.__call__)))
    port = serve(messages).port

    assert_same(fetch(port), fetch(port))

    _, hit = messages.of_two_responses()
    assert hit == [*((chunk, True) for chunk in chunks), (b"", False)]


@each_list_of_chunks
def test_a_fast_replay_merges_chunks_and_loses_none(
    serve: Serve, cache_url: str, chunks: list[bytes]
) -> None:
    runs = Runs(lambda: StreamingResponse(stream(*chunks)))
    messages = Messages(app_of(stream_cached(ttl=60, cache=cache_url)(runs.__call__)))
    port = serve(messages).port

    assert_same(fetch(port), fetch(port))

    _, hit = messages.of_two_responses()
    assert b"".join(body for body, _ in hit) == b"".join(chunks)
    assert [more for _, more in hit] == [True] * (len(hit) - 1) + [False]
    assert len(hit) <= 2 + sum(map(len, chunks)) // (VALUE_SIZE // 2)


def test_a_stored_response_that_was_no_stream_comes_back_with_its_body(
    serve: Serve, cache_url: str
) -> None:
    cached = stream_cached(ttl=60, cache=cache_url)(Runs(json).__call__)
    bodies: list[object] = []

    async def outer(request: Request) -> Response:
        response = await cached(request)
        assert not isinstance(response, StreamingResponse)
        bodies.append(response.body)
        return response

    port = serve(app_of(outer)).port
    miss, hit = fetch(port), fetch(port)

    assert bodies == [miss.body, hit.body]
    assert miss.body == hit.body
