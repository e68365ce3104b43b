"""A miss is streamed and stored; what comes after it is served from the cache, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.format.codec import encode_segment
from stream_cached.format.records import Segment
from tests.conftest import Serve
from tests.support.http_client import fetch


def test_the_second_request_is_answered_from_the_cache(serve: Serve, cache_url: str) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            for number in range(100):
                yield b"%d\n" % number

        nonlocal runs
        runs += 1
        return StreamingResponse(rows(), media_type="text/csv")

    server = serve(Starlette(routes=[Route("/rows", endpoint)]))
    miss, hit = fetch(server.port, "/rows"), fetch(server.port, "/rows")

    assert runs == 1
    assert miss.complete
    assert hit.complete
    assert miss.body == hit.body == b"".join(b"%d\n" % number for number in range(100))
    assert miss.header("Cache-Status") == "stream-cached; fwd=uri-miss; stored"
    assert hit.header("Cache-Status") == "stream-cached; hit"


def test_a_segment_that_is_sound_but_not_the_one_that_was_stored_is_not_served(
    serve: Serve,
) -> None:
    cache = MemoryCache()
    bodies: list[bytes] = []

    @stream_cached(ttl=60, cache=cache, inline_max=0)
    async def endpoint(request: Request) -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            bodies.append(b"run %d" % len(bodies))
            yield bodies[-1]

        return StreamingResponse(rows())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    assert fetch(server.port).body == b"run 0"
    (key,) = [key for key in cache.sizes() if key.endswith(":0")]
    generation = bytes.fromhex(key.split(":")[-2])
    forged = encode_segment(Segment((5,), False, b"false"), generation, 0)
    assert cache.memory.set(key, forged, 60)

    assert fetch(server.port).body == b"run 1"
    assert fetch(server.port).body == b"run 1"
