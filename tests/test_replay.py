"""A miss is streamed and stored; what comes after it is served from the cache, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.http_client import fetch


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
