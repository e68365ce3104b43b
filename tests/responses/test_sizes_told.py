"""What is told of how many bytes were sent."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.events import Answered
from stream_cached.stores.memory import MemoryStore
from tests.support.asgi import Exchange
from tests.support.gates import run, until

_commit = MemoryStore.commit


def test_a_call_that_is_cancelled_before_the_last_byte_has_sent_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        go_on, events = asyncio.Event(), list[Any]()

        async def held(store: MemoryStore, commit: Any) -> tuple[bool, bool]:
            await go_on.wait()
            return await _commit(store, commit)

        monkeypatch.setattr(MemoryStore, "commit", held)

        @stream_cached(ttl=60, cache=MemoryCache(), on_event=events.append)
        async def endpoint(request: Request) -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                yield b"hello"

            return StreamingResponse(chunks(), headers={"Content-Length": "5"})

        exchange = Exchange(Starlette(routes=[Route("/", endpoint)]))
        answering = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        answering.cancel()
        await until(lambda: any(isinstance(event, Answered) for event in events))
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert exchange.body == b"hell"
        (answered,) = (event for event in events if isinstance(event, Answered))
        assert (answered.size, endpoint.stats().bytes) == (4, 4)

    run(test)


def test_a_call_that_has_joined_in_vain_has_sent_what_its_own_run_made() -> None:
    async def test() -> None:
        go_on, events = asyncio.Event(), list[Any]()

        @stream_cached(ttl=60, cache=MemoryCache(), on_event=events.append)
        async def endpoint(request: Request) -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                await go_on.wait()
                # What is read of the request only now makes the body this client's own.
                yield request.headers["x-name"].encode()

            return StreamingResponse(chunks())

        app = Starlette(routes=[Route("/", endpoint)])
        exchanges = [Exchange(app), Exchange(app)]
        for exchange, name in zip(exchanges, (b"Ada", b"Grace"), strict=True):
            exchange.scope["headers"] = [(b"x-name", name)]
        answering = []
        for exchange in exchanges:
            answering.append(asyncio.create_task(exchange.run()))
            await until(functools.partial(bool, exchange.sent))
        go_on.set()
        await asyncio.gather(*answering)
        assert [exchange.body for exchange in exchanges] == [b"Ada", b"Grace"]
        assert "collapsed" in exchanges[1].cache_status
        assert {event.size for event in events if isinstance(event, Answered)} == {3, 5}

    run(test)


@pytest.mark.parametrize("is_changed", [False, True])
def test_what_a_middleware_compresses_is_told_as_it_was_before(is_changed: bool) -> None:
    async def test() -> None:
        @stream_cached(ttl=60, cache=MemoryCache())
        async def cached(request: Request) -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                yield b"a" * 1000

            return StreamingResponse(chunks())

        async def endpoint(request: Request) -> StreamingResponse:
            response = await cached(request)
            if is_changed:
                response.body_iterator = upper(response.body_iterator)
            return response

        async def upper(body: Any) -> AsyncIterator[bytes]:
            async for chunk in body:
                yield chunk.upper()

        exchange = Exchange(GZipMiddleware(Starlette(routes=[Route("/", endpoint)])))
        exchange.scope["headers"] += [(b"accept-encoding", b"gzip")]
        await exchange.run()
        assert len(exchange.body) < 100
        assert cached.stats().bytes == 1000

    run(test)
