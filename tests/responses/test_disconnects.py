"""A response class that sends by itself learns that its client has left, if its run does not go on.

The same application without the decorator is the oracle.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from stream_cached import aclose, stream_cached
from stream_cached.streams import sources
from stream_cached.tasks import running_here
from tests.conftest import Serve
from tests.support.asgi import Exchange, get, leave
from tests.support.gates import run, runs_over, wait_until
from tests.support.http_client import RawClient
from tests.support.runs import HIT, MISS

HEADERS = {"cache-control": "max-age=60"}


class Said:
    """What the endpoints of a test have said, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.ends = asyncio.Event()

    async def events(self) -> AsyncIterator[str]:
        try:
            yield "first"
            await self.ends.wait()
            yield "last"
        finally:
            self.words.append("the generator is closed")

    async def endless(self) -> AsyncIterator[str]:
        try:
            while True:
                yield "event"
                await asyncio.sleep(0.002)
        finally:
            self.words.append("the generator is closed")

    async def handler(self, message: Message) -> None:
        await asyncio.sleep(0.05)
        self.words.append(f"the handler is called: {message['type']}")


class Polling(Response):
    """Asks before each chunk whether its client is still there."""

    def __init__(self, events: AsyncIterator[str], said: Said) -> None:
        super().__init__(headers=HEADERS)
        self.events, self.said = events, said

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in self.events:
            if await request.is_disconnected():
                self.said.words.append("it stops by itself")
                break
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Listening(StreamingResponse):
    """Starlette's own way to end at a disconnect, in a class of its own."""

    async def stream_response(self, send: Send) -> None:
        await super().stream_response(send)


def with_handler(events: AsyncIterator[str], said: Said) -> Response:
    return EventSourceResponse(
        events, headers=HEADERS, client_close_handler_callable=said.handler, ping=3600
    )


def with_pings(events: AsyncIterator[str], said: Said) -> Response:
    return EventSourceResponse(
        events, headers=HEADERS, client_close_handler_callable=said.handler, ping=0.001
    )


def listening(events: AsyncIterator[str], said: Said) -> Response:
    return Listening(events, headers=HEADERS)


FORMS: list[Callable[[AsyncIterator[str], Said], Response]] = [
    *(with_handler, with_pings, listening, Polling),
]


def application(
    cache_url: str, form: Callable[[AsyncIterator[str], Said], Response], said: Said, **how: Any
) -> Starlette:
    async def endpoint(request: Request) -> Response:
        endless = form is Polling or "endless" in request.url.query
        return form(said.endless() if endless else said.events(), said)

    settings = {"on_disconnect": "stop", **how}
    cached = stream_cached(ttl=60, cache=cache_url, **settings)
    return Starlette(routes=[Route("/plain", endpoint), Route("/", cached(endpoint))])


@pytest.mark.parametrize("query", [b"", b"endless"])
@pytest.mark.parametrize("form", FORMS)
def test_it_reacts_as_without_the_cache(
    cache_url: str, form: Callable[[AsyncIterator[str], Said], Response], query: bytes
) -> None:
    async def test() -> None:
        words = []
        for path in ("/plain", "/"):
            said = Said()
            began = asyncio.get_running_loop().time()
            await leave(application(cache_url, form, said), path, query)
            # Starlette leaves a generator that is suspended to the garbage collector: some time.
            words.append([word for word in said.words if "generator" not in word])
            assert asyncio.get_running_loop().time() - began < 1
        assert words[0] == words[1]
        # A ping that finds the client gone ends the response before its handler has ended.
        assert bool(words[0]) == (form in (with_handler, Polling))
        await aclose()
        assert not running_here()

    run(test)


def test_it_reacts_when_the_last_client_leaves_over_http(serve: Serve, cache_url: str) -> None:
    said = Said()
    server = serve(application(cache_url, with_handler, said))
    with RawClient(server.port) as other:
        with RawClient(server.port) as first:
            for client in (first, other):
                client.send()
                client.read_head()
                client.read_until(1)
        wait_until(lambda: server.connections == 1)
        assert not said.words
    wait_until(lambda: "the handler is called: http.disconnect" in said.words)


def test_it_learns_nothing_while_the_run_goes_on(cache_url: str) -> None:
    async def test() -> None:
        said = Said()
        app = application(cache_url, with_handler, said, on_disconnect="finish")
        exchange = Exchange(app)
        sending = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        exchange.left.set()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not said.words
        said.ends.set()
        await sending
        await runs_over()
        hit = await get(app)
        assert (hit.cache_status, hit.body) == (HIT, b"data: first\r\n\r\ndata: last\r\n\r\n")

    run(test)


def test_it_learns_when_finish_timeout_is_over(cache_url: str) -> None:
    async def test() -> None:
        said = Said()
        app = application(cache_url, with_handler, said, on_disconnect="finish", finish_timeout=0.1)
        await leave(app)
        assert "the handler is called: http.disconnect" in said.words

    run(test)


def test_it_learns_of_the_end_of_the_application(cache_url: str) -> None:
    async def test() -> None:
        said = Said()
        exchange = Exchange(application(cache_url, with_handler, said))
        sending = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        await aclose(timeout=0.01)
        assert "the handler is called: http.disconnect" in said.words
        with pytest.raises(Exception, match="the application ends"):
            await sending
        assert not exchange.complete

    run(test)


@pytest.mark.parametrize("is_stubborn", [False, True], ids=["", "swallows its cancellation"])
def test_a_handler_that_never_ends_is_cancelled(
    cache_url: str, monkeypatch: pytest.MonkeyPatch, is_stubborn: bool
) -> None:
    monkeypatch.setattr(sources, "REACT_WITHIN", 0.1)

    class Never(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            headers = [(b"cache-control", b"max-age=60")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not is_stubborn:
                    raise
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def test() -> None:
        app = application(cache_url, lambda events, said: Never(), Said())
        exchange = await leave(app)
        assert not exchange.complete
        assert (await leave(app)).cache_status == MISS

    run(test)


@pytest.mark.parametrize("form", [with_handler, listening, Polling])
def test_what_it_still_sends_is_not_stored(
    serve: Serve, cache_url: str, form: Callable[[AsyncIterator[str], Said], Response]
) -> None:
    said = Said()
    server = serve(application(cache_url, form, said))
    with RawClient(server.port) as client:
        client.send("GET", "/?endless")
        client.read_head()
        client.read_until(1)
    wait_until(lambda: not server.requests_running)
    with RawClient(server.port) as client:
        client.send("GET", "/?endless")
        client.read_head()
        assert client.response.header("Cache-Status") == MISS
