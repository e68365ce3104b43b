"""A response that is made and not sent, of a refresh or of one that has failed, is closed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from stream_cached.tasks import running_here
from tests.support.asgi import get
from tests.support.gates import run

TTL = 60.0

_sizes = itertools.count(5 << 25)


class Chunks:
    """An iterator that has something to release, begun or not; at the second chunk, it may fail."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.number = 0
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        self.number += 1
        if self.way == "raises" and self.number == 2:
            raise LookupError
        if self.way == "raises at once":
            raise LookupError
        if self.way == "hangs" and self.number == 2:
            await asyncio.Event().wait()
        if self.number > 3:
            raise StopAsyncIteration
        return b"chunk"

    async def aclose(self) -> None:
        self.is_closed = True


class Sending(Response):
    """Sends in a way of its own, with a cookie that it says nothing of before."""

    def __init__(self, chunks: Chunks) -> None:
        super().__init__()
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = [(b"set-cookie", b"a=b")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self.chunks.aclose()


class Endpoint:
    """An endpoint whose first run is stored; all later ones go another way."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.made: list[Chunks] = []

    async def __call__(self, request: Request) -> Response:
        first = not self.made
        chunks = Chunks("" if first else self.way)
        self.made.append(chunks)
        headers: dict[str, str] = {}
        status = 200
        if not first and self.way == "sets a cookie":
            headers = {"set-cookie": "a=b"}
        if not first and self.way == "answers 503":
            status = 503
        if not first and self.way == "sets a cookie by itself":
            return Sending(chunks)
        return StreamingResponse(chunks, status_code=status, headers=headers)


async def nothing_runs() -> None:
    while running_here():
        await asyncio.wait(running_here())
    assert asyncio.all_tasks() == {asyncio.current_task()}


WAYS = [
    *("raises", "raises at once", "hangs"),
    *("sets a cookie", "sets a cookie by itself", "answers 503"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_a_refresh_that_fails_or_is_not_stored_is_closed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    url = f"memory://?max_bytes={next(_sizes)}"
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
    endpoint = Endpoint(way)
    settings: dict[str, Any] = {"max_duration": 0.1} if way == "hangs" else {}
    cached = stream_cached(ttl=TTL, cache=url, stale_while_revalidate=TTL, **settings)
    app = Starlette(routes=[Route("/", cached(endpoint.__call__))])
    now = time.time

    async def test() -> None:
        whole = (await get(app)).body
        await nothing_runs()
        monkeypatch.setattr(time, "time", lambda: now() + TTL + 0.5)
        stale = await get(app)
        assert stale.cache_status == "stream-cached; hit; ttl=-1"
        assert stale.body == whole
        await nothing_runs()
        assert [chunks.is_closed for chunks in endpoint.made] == [True, True]
        assert (await get(app)).body == whole

    run(test)


@pytest.mark.parametrize("way", ["raises at once", "answers 503"])
def test_what_a_stale_response_is_sent_instead_of_is_closed(
    cache_url: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    endpoint = Endpoint(way)
    cached = stream_cached(ttl=TTL, cache=cache_url, stale_if_error=TTL)
    app = Starlette(routes=[Route("/", cached(endpoint.__call__))])
    now = time.time

    async def test() -> None:
        whole = (await get(app)).body
        monkeypatch.setattr(time, "time", lambda: now() + TTL + 0.5)
        stale = await get(app)
        assert "stale-if-error" in stale.cache_status
        assert stale.body == whole
        await nothing_runs()
        assert [chunks.is_closed for chunks in endpoint.made] == [True, True]

    run(test)
