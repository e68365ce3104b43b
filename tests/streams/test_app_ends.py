"""A response that sends its own messages, and returns before the end of its body."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.app_server import HttpParser
from tests.support.gates import Gate
from tests.support.http_client import RawClient, fetch
from tests.support.runs import HIT, MISS

CHUNK = 300_000


class Sending(Response):
    """Sends some chunks, and then its end unless it is the first one."""

    def __init__(self, run: int, chunks: int, length: int | None, gate: Gate) -> None:
        super().__init__()
        self.run, self.chunks, self.length, self.gate = run, chunks, length, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if self.length is None else [(b"content-length", b"%d" % self.length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        chunk = b"%d" % self.run * CHUNK
        for number in range(self.chunks):
            if number:
                await self.gate.passed()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.run > 1:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.matrix("chunks", "length")
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("chunks", "length"),
    [(2, None), (2, 3 * CHUNK), (0, None), (1, None)],
    ids=["two chunks", "two of three chunks", "no chunk", "one chunk"],
)
def test_half_a_body_breaks_for_all_and_is_not_stored(
    serve: Serve, cache_url: str, http: HttpParser, chunks: int, length: int | None
) -> None:
    runs = 0
    gate = Gate()

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        whole = chunks if length is None or runs == 1 else length // CHUNK
        return Sending(runs, whole, length, gate)

    server = serve(Starlette(routes=[Route("/", endpoint)]), http)
    with RawClient(server.port) as first, RawClient(server.port) as other:
        first.send()
        first.read_head()
        if chunks > 1:
            first.read_until(CHUNK)
            other.send()
            other.read_head()
            other.read_until(CHUNK)
        gate.open()
        assert not first.read_rest().complete
        if chunks > 1:
            assert not other.read_rest().complete
    following, hit = fetch(server.port), fetch(server.port)
    assert following.complete
    assert following.body == hit.body == b"2" * len(hit.body)
    assert [each.header("Cache-Status") for each in (following, hit)] == [MISS, HIT]
    assert runs == 2
