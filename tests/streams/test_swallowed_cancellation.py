"""A source that is cancelled from outside, swallows that and ends cleanly: its body is short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from tests.support.asgi import Exchange, get
from tests.support.gates import run
from tests.support.runs import HIT, MISS


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


@pytest.mark.matrix("size", "chunks")
@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("size", [10, 300_000], ids=["short", "long"])
@pytest.mark.parametrize("response", [StreamingResponse, Sending])
def test_it_breaks_for_all_and_is_not_stored(
    cache_url: str, response: type[Response], size: int, chunks: int
) -> None:
    runs = 0
    waiting: list[asyncio.Task[object] | None] = []
    waits = asyncio.Event()

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        run = runs

        async def body() -> AsyncIterator[bytes]:
            for number in range(4):
                if run == 1 and number == chunks:
                    waiting.append(asyncio.current_task())
                    waits.set()
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        return
                yield b"%d" % run * size

        return response(body())

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        exchanges = [Exchange(app) for _ in range(2)]
        tasks = [asyncio.create_task(exchange.run()) for exchange in exchanges]
        await waits.wait()
        if chunks:
            await asyncio.gather(*(exchange.received.wait() for exchange in exchanges))
        assert waiting[0] is not None
        waiting[0].cancel()
        await asyncio.wait(tasks)
        # One who has joined, and has nothing of it yet, is given another run.
        whole = [exchange.body for exchange in exchanges if exchange.complete]
        assert whole in ([], [b"2" * 4 * size])
        assert not (whole and chunks)
        following, hit = await get(app), await get(app)
        assert following.body == hit.body == b"2" * 4 * size
        assert hit.cache_status == HIT
        assert following.cache_status == (HIT if whole else MISS)
        assert runs == 2

    run(test)
