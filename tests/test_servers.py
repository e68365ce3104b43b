"""Behind each server, each form of endpoint answers as it does without the decorator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.responses import Response, StreamingResponse

from stream_cached import stream_cached
from tests.support.added import ADDED
from tests.support.app_server import AppServer
from tests.support.gates import Gate
from tests.support.hypercorn_server import HypercornServer

CLIENTS = 3
WHOLE = b"row 0\nrow 1\nrow 2\nthe end\n"

Server = Callable[[Any], AbstractContextManager[Any]]

SERVERS: dict[str, tuple[Server, str]] = {
    "uvicorn, h11": (lambda app: AppServer(app, "h11"), "HTTP/1.1"),
    "uvicorn, httptools": (lambda app: AppServer(app, "httptools"), "HTTP/1.1"),
    "hypercorn": (HypercornServer, "HTTP/1.1"),
    "hypercorn, HTTP/2": (HypercornServer, "HTTP/2"),
}

#: What differs from request to request, or is the cache's own.
OURS = ADDED | {"date", "content-length", "transfer-encoding", "connection"}


class Session:
    """What a `yield` dependency opens and closes."""

    is_open = True


async def session() -> AsyncIterator[Session]:
    opened = Session()
    try:
        yield opened
    finally:
        opened.is_open = False


class World:
    """Endpoints over one body, which a gate holds before its last chunk."""

    def __init__(self) -> None:
        self.gate = Gate()

    async def rows(self, opened: Session | None = None) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"row %d\n" % number
        await self.gate.passed()
        assert opened is None or opened.is_open
        yield b"the end\n"

    def sync_rows(self) -> Iterator[bytes]:
        for number in range(3):
            yield b"row %d\n" % number
        self.gate.wait()
        yield b"the end\n"

    def respond(self, rows: Any) -> Response:
        headers = {"X-Kind": "rows", "ETag": '"1"'}
        return StreamingResponse(rows, 200, headers, media_type="text/plain")

    async def is_async(self) -> Response:
        return self.respond(self.rows())

    def is_sync(self) -> Response:
        return self.respond(self.sync_rows())

    async def is_held(self, opened: Annotated[Session, Depends(session)]) -> Response:
        return self.respond(self.rows(opened))

    def app(self, cache: str) -> FastAPI:
        app = FastAPI()
        for endpoint in (self.is_async, self.is_sync, self.is_held):
            name = endpoint.__name__
            ignored = ("opened",) if endpoint == self.is_held else ()
            cached = stream_cached(ttl=60, cache=cache, key_ignore=ignored, key_host=False)
            app.add_api_route(f"/plain/{name}", endpoint)
            app.add_api_route(f"/cached/{name}", cached(endpoint))
        return app


def seen(answer: httpx.Response) -> tuple[object, ...]:
    """Return what a client sees of an answer, but for what is the cache's own."""
    headers = sorted(each for each in answer.headers.multi_items() if each[0] not in OURS)
    return answer.status_code, answer.http_version, headers, answer.read()


@pytest.mark.matrix
@pytest.mark.parametrize("form", ["is_async", "is_sync", "is_held"])
@pytest.mark.parametrize("name", SERVERS)
def test_each_form_behind_each_server(cache_url: str, name: str, form: str) -> None:
    start, version = SERVERS[name]
    world = World()
    with ExitStack() as stack:
        server = stack.enter_context(start(world.app(cache_url)))
        client = stack.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{server.port}",
                http1=version == "HTTP/1.1",
                http2=version == "HTTP/2",
                timeout=10,
            )
        )
        streams = []
        for _ in range(CLIENTS):
            # Live: each has the head and the first row while the endpoint is held.
            streams.append(stack.enter_context(client.stream("GET", f"/cached/{form}")))
        world.gate.open()
        answers = [seen(answer) for answer in streams]
        hit = client.get(f"/cached/{form}")
        plain = seen(client.get(f"/plain/{form}"))
    assert plain[1] == version
    assert plain[-1] == WHOLE
    assert [*answers, seen(hit)] == [plain] * (CLIENTS + 1)
    assert hit.headers["Cache-Status"] == "stream-cached; hit"
    assert hit.headers["Content-Length"] == str(len(WHOLE))
