"""What an endpoint reads of its request after its last chunk counts, too, before it is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.gates import wait_until
from tests.support.http_client import fetch
from tests.support.runs import HIT


class Sending(Response):
    """Sends in a way of its own."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__()
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.matrix("size", "when")
@pytest.mark.parametrize("when", ["after the last chunk", "in finally"])
@pytest.mark.parametrize("size", [10, 700_000], ids=["short", "long"])
@pytest.mark.parametrize("response", [StreamingResponse, Sending])
def test_a_cookie_that_is_read_after_the_last_chunk_keeps_the_body_from_others(
    serve: Serve, cache_url: str, response: type[Response], size: int, when: str
) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        run = runs

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"%d" % run * size
                if when == "after the last chunk":
                    request.cookies.get("name")
            finally:
                if when == "in finally":
                    request.cookies.get("name")

        return response(body())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    for run in (1, 2):
        answer = fetch(server.port, headers={"Cookie": f"name={run}"})
        assert answer.complete
        assert answer.body == b"%d" % run * size
        wait_until(lambda: not server.requests_running)
    assert runs == 2


def test_what_is_read_there_and_is_part_of_the_key_does_not(serve: Serve, cache_url: str) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url, vary=("Cookie",))
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1

        async def body() -> AsyncIterator[bytes]:
            yield b"whole"
            request.cookies.get("name")

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    fetch(server.port)
    assert fetch(server.port).header("Cache-Status") == HIT
    assert runs == 1
