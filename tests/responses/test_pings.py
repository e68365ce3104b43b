"""Comments that a response class sends by itself are for the connections that are open then.

The same application without the decorator is the oracle for what the first client gets.
"""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cashews import Cache
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Send

import stream_cached.cashews
from stream_cached import stream_cached as cached
from stream_cached.errors import LostStreamError
from stream_cached.responses.resumption import Resumption, RunHead
from tests.conftest import Serve
from tests.support.asgi import Exchange, get
from tests.support.gates import Gate, run, runs_over, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.runs import HIT, MISS

PING = b": ping\n\n"
HELLO, ONE, AGAIN, TWO = b": hello\n\n", b"data: 1\n\n", b": again\n\n", b"data: 2\n\n"
ITEMS = HELLO + ONE + AGAIN + TWO
HEADERS = {"cache-control": "max-age=60", "content-type": "text/event-stream"}


class Feed:
    """What an endpoint yields, and when its response pings."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.pings: asyncio.Queue[None] = asyncio.Queue()

    async def events(self) -> AsyncIterator[bytes]:
        # Comments that the endpoint yields are part of its body.
        yield HELLO
        yield ONE
        await self.gate.passed()
        yield AGAIN
        yield TWO

    def ping(self) -> None:
        self.pings.put_nowait(None)


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Own(StreamingResponse):
    """A class of an application, that pings in a task of its own."""

    ping = PING

    def __init__(self, feed: Feed, headers: dict[str, str] = HEADERS) -> None:
        super().__init__(feed.events(), headers=headers)
        self.feed = feed

    async def stream_response(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        pinging = asyncio.create_task(self.pinging(send))
        try:
            await self.body_of(send)
        finally:
            pinging.cancel()
        await send(part(b"", more=False))

    async def pinging(self, send: Send) -> None:
        while True:
            await self.feed.pings.get()
            await send(part(self.ping))

    async def body_of(self, send: Send) -> None:
        async for item in self.body_iterator:
            await self.send_item(send, item)

    async def send_item(self, send: Send, item: Any) -> None:
        await send(part(item))


class InOneTask(Own):
    """Waits for an item and for the moment of a ping, and sends both itself."""

    async def pinging(self, send: Send) -> None:
        return

    async def body_of(self, send: Send) -> None:
        items = aiter(self.body_iterator)
        item: asyncio.Future[Any] = asyncio.ensure_future(anext(items))
        ping = asyncio.ensure_future(self.feed.pings.get())
        try:
            while True:
                await asyncio.wait({item, ping}, return_when=asyncio.FIRST_COMPLETED)
                if item.done():
                    await send(part(item.result()))
                    item = asyncio.ensure_future(anext(items))
                else:
                    await send(part(self.ping))
                    ping = asyncio.ensure_future(self.feed.pings.get())
        except StopAsyncIteration:
            ping.cancel()


class ByHand(Own):
    """Asks its `body_iterator` for the items without a loop, and for the first one early."""

    async def body_of(self, send: Send) -> None:
        items: Any = self.body_iterator
        item = await anext(items)
        while item is not None:
            await send(part(item))
            item = await anext(items, None)


class Twice(Own):
    """Sends a comment and a number with each item."""

    async def send_item(self, send: Send, item: Any) -> None:
        await send(part(b"id: 1\n"))
        await send(part(b": an item\n"))
        await send(part(item))


class Framed(Own):
    """Sends a comment before the first item, and after the last one."""

    async def body_of(self, send: Send) -> None:
        await send(part(b": welcome\n\n"))
        await super().body_of(send)
        await send(part(b": bye\n\n"))


class Collecting(Own):
    """Sends two items at once."""

    async def body_of(self, send: Send) -> None:
        kept = b""
        async for item in self.body_iterator:
            if kept:
                await send(part(kept + item))  # type: ignore[operator]
            kept = b"" if kept else item  # type: ignore[assignment]


class LeavingOut(Own):
    """Sends no message for some items."""

    async def send_item(self, send: Send, item: Any) -> None:
        if item != HELLO:
            await send(part(item))


class Apart(Own):
    """Lets one task read the items, and another one send them."""

    async def body_of(self, send: Send) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            async for item in self.body_iterator:
                queue.put_nowait(item)
            queue.put_nowait(None)

        reading = asyncio.create_task(read())
        while (item := await queue.get()) is not None:
            await asyncio.sleep(0)
            await send(part(item))
        await reading


class Compressed(Own):
    def __init__(self, feed: Feed) -> None:
        super().__init__(feed, {**HEADERS, "content-encoding": "some"})


class OfLines(Own):
    def __init__(self, feed: Feed) -> None:
        super().__init__(feed, {**HEADERS, "content-type": "text/plain"})


class WithEvent(Own):
    ping = b": ping\nevent: ping\n\n"


class WithoutEnd(Own):
    ping = b": ping"


#: Those of which it shows which messages answer an item.
TOLD_APART: list[type[Own]] = [Own, InOneTask, ByHand, Twice, Framed]


class Fixed(Own):
    """Makes a new `body_iterator` at each access."""

    @property
    def body_iterator(self) -> Any:
        return self.feed.events()

    @body_iterator.setter
    def body_iterator(self, value: object) -> None:
        if hasattr(self, "feed"):
            raise AttributeError


#: Those whose comments count as a part of the body.
STORED: list[type[Own]] = [
    *(Collecting, LeavingOut, Apart, Fixed, Compressed, OfLines, WithEvent, WithoutEnd),
]


def application(
    cache: str, make: Callable[[Feed], Response], feed: Feed, *, sync: bool = False, **settings: Any
) -> Starlette:
    async def endpoint(request: Request) -> Response:
        return make(feed)

    def in_thread(request: Request) -> Response:
        return make(feed)

    decorated = cached(**{"ttl": 60, "cache": cache, "namespace": uuid.uuid4().hex, **settings})(
        in_thread if sync else endpoint
    )
    return Starlette(routes=[Route("/plain", endpoint), Route("/", decorated)])


async def came(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces: `run` bounds this."""
    for _ in iter(condition, True):
        await asyncio.sleep(0)


async def some_turns() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def pinged(feed: Feed, *exchanges: Exchange, ping: bytes = PING) -> None:
    """Let clients get the first items, then two pings, and then the rest."""
    sending = [asyncio.create_task(exchange.run()) for exchange in exchanges]
    for exchange in exchanges:
        await came(lambda exchange=exchange: b"data: 1" in exchange.body.lower())  # type: ignore[misc]
    for number in (1, 2):
        feed.ping()
        await came(lambda number=number: exchanges[0].body.count(ping) >= number)  # type: ignore[misc]
    await some_turns()
    feed.gate.open()
    await asyncio.gather(*sending)
    await runs_over()


@pytest.mark.matrix(one_store=True)
@pytest.mark.parametrize("replay", ["merge", "exact"])
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("form", TOLD_APART)
@pytest.mark.parametrize("sync", [False, True])
def test_a_ping_is_for_live_connections(
    cache_url: str, sync: bool, form: type[Own], spec_version: str, replay: str
) -> None:
    async def test() -> None:
        plain_feed, feed = Feed(), Feed()
        plain = Exchange(application(cache_url, form, plain_feed), spec_version, "/plain")
        await pinged(plain_feed, plain)
        settings = {"replay": replay} if replay == "exact" else {}
        app = application(cache_url, form, feed, sync=sync, **settings)
        leader, joiner = Exchange(app, spec_version), Exchange(app, spec_version)
        await pinged(feed, leader, joiner)
        assert leader.body == joiner.body == plain.body
        assert leader.body.count(PING) == 2
        hit = await get(app)
        assert hit.cache_status == HIT
        assert hit.body == plain.body.replace(PING, b"")
        for item in (HELLO, ONE, AGAIN, TWO):
            assert item in hit.body

    run(test)


@pytest.mark.matrix
@pytest.mark.parametrize("form", STORED)
@pytest.mark.parametrize("sync", [False, True])
def test_what_can_not_be_told_apart_is_a_part_of_the_body(
    cache_url: str, sync: bool, form: type[Own]
) -> None:
    async def test() -> None:
        plain_feed, feed = Feed(), Feed()
        plain = Exchange(application(cache_url, form, plain_feed), path="/plain")
        await pinged(plain_feed, plain, ping=form.ping)
        app = application(cache_url, form, feed, sync=sync)
        miss = Exchange(app)
        await pinged(feed, miss, ping=form.ping)
        hit = await get(app)
        assert hit.cache_status == HIT
        assert miss.body == hit.body == plain.body
        assert miss.body.count(form.ping) == 2

    run(test)


def test_who_leads_is_kept_alive_though_it_joins_late_or_the_run_goes_on(cache_url: str) -> None:
    async def test() -> None:
        feed = Feed()
        app = application(cache_url, Own, feed)
        leader, joiner = Exchange(app), Exchange(app)
        leading = asyncio.create_task(leader.run())
        await came(lambda: leader.body == HELLO + ONE)
        feed.ping()
        await came(lambda: leader.body.endswith(PING))
        # A ping from before it has joined is not for it.
        joining = asyncio.create_task(joiner.run())
        await came(lambda: joiner.body == HELLO + ONE)
        leader.left.set()
        await leading
        feed.ping()
        await came(lambda: joiner.body.endswith(PING))
        assert joiner.body == HELLO + ONE + PING
        feed.gate.open()
        await joining
        await runs_over()
        assert (await get(app)).body == ITEMS

    run(test)


def test_without_a_client_a_ping_is_for_no_one(cache_url: str) -> None:
    async def test() -> None:
        feed = Feed()
        app = application(cache_url, Own, feed)
        exchange = Exchange(app)
        sending = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        exchange.left.set()
        await sending
        for _ in range(5):
            feed.ping()
        await some_turns()
        feed.gate.open()
        await runs_over()
        hit = await get(app)
        assert (hit.cache_status, hit.body) == (HIT, ITEMS)

    run(test)


class Slow(Exchange):
    """A client that takes three messages, and then as many as a test allows."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(app)
        self.allowed = asyncio.Semaphore(3)

    async def _send(self, message: Message) -> None:
        await self.allowed.acquire()
        await super()._send(message)


def test_a_slow_client_is_not_sent_all_pings_that_it_missed(cache_url: str) -> None:
    async def test() -> None:
        feed = Feed()
        slow = Slow(application(cache_url, Own, feed))
        sending = asyncio.create_task(slow.run())
        await came(lambda: len(slow.sent) == 3)
        for _ in range(500):
            feed.ping()
        await came(feed.pings.empty)
        feed.gate.open()
        for _ in range(500):
            slow.allowed.release()
        await sending
        assert slow.complete
        assert 0 < slow.body.count(PING) < 20
        assert slow.body.replace(PING, b"") == ITEMS

    run(test)


def test_pings_without_a_pause_leave_others_their_turns(cache_url: str) -> None:
    turns = 0

    class Flooding(Own):
        async def pinging(self, send: Send) -> None:
            await self.feed.pings.get()
            before = turns
            for _ in range(1000):
                await send(part(PING))
            assert turns - before > 500
            self.feed.gate.open()

    async def test() -> None:
        nonlocal turns
        feed = Feed()
        exchange = Exchange(application(cache_url, Flooding, feed))
        sending = asyncio.create_task(exchange.run())
        await came(lambda: exchange.body == HELLO + ONE)
        feed.ping()
        while not sending.done():
            turns += 1
            await asyncio.sleep(0)
        assert exchange.complete

    run(test)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_another_decorator_changes_the_items_but_no_ping(
    cache_url: str, is_compressed: bool
) -> None:
    async def marked(body: Any) -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk.replace(b"data", b"DATA")

    async def test() -> None:
        feed = Feed()

        @cached(ttl=60, cache=cache_url)
        async def endpoint(request: Request) -> Response:
            return Own(feed)

        async def outer(request: Request) -> Response:
            response: Any = await endpoint(request)
            response.body_iterator = marked(response.body_iterator)
            if is_compressed:
                response.headers["content-encoding"] = "some"
            return response  # type: ignore[no-any-return]

        exchange = Exchange(Starlette(routes=[Route("/", outer)]))
        if not is_compressed:
            await pinged(feed, exchange)
        else:
            # Nothing fits into such a body.
            sending = asyncio.create_task(exchange.run())
            await came(lambda: b"DATA: 1" in exchange.body)
            feed.ping()
            await some_turns()
            feed.gate.open()
            await sending
        assert exchange.body.replace(PING, b"") == ITEMS.replace(b"data", b"DATA")
        assert exchange.body.count(PING) == (0 if is_compressed else 2)

    run(test)


def test_a_body_that_goes_on_from_another_run_has_no_ping_of_it(cache_url: str) -> None:
    async def test() -> None:
        feed = Feed()
        exchange = Exchange(application(cache_url, Own, feed))

        @cached(ttl=60, cache=cache_url)
        async def endpoint(request: Request) -> Response:
            return Own(feed)

        async def again() -> Response:
            return await endpoint(Request(exchange.scope, exchange._receive))

        raw = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        resumption = Resumption(again, RunHead.of(200, raw))
        send = resumption.watched(exchange._send)
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send(part(HELLO + ONE + AGAIN))
        lost = LostStreamError("the test says so")
        going_on = asyncio.create_task(
            resumption.go_on(lost, exchange.scope, exchange._receive, exchange._send)
        )
        await some_turns()
        feed.ping()
        await came(feed.pings.empty)
        feed.gate.open()
        await going_on
        assert exchange.body == ITEMS

    run(test)


def test_two_decorators(cache_url: str, namespace: str) -> None:
    async def test() -> None:
        feed = Feed()
        inner = cached(ttl=60, cache=f"memory://?namespace={namespace}-inner")

        async def endpoint(request: Request) -> Response:
            return Own(feed)

        outer = cached(ttl=60, cache=cache_url)(inner(endpoint))
        app = Starlette(routes=[Route("/", outer), Route("/inner", inner(endpoint))])
        exchange = Exchange(app)
        await pinged(feed, exchange)
        assert exchange.body.count(PING) == 2
        assert exchange.body.replace(PING, b"") == ITEMS
        assert (await get(app)).body == ITEMS

    run(test)


class Again:
    """Items that can be read again and again."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.feed.events()


def test_one_response_for_many_requests(cache_url: str) -> None:
    async def test() -> None:
        feed = Feed()
        response = Own(feed)
        response.body_iterator = Again(feed)
        app = application(cache_url, lambda _: response, feed)
        for path in "ab":
            feed.gate = Gate()
            exchange = Exchange(app)
            exchange.scope["query_string"] = path.encode()
            await pinged(feed, exchange)
            hit = Exchange(app)
            hit.scope["query_string"] = path.encode()
            await hit.run()
            assert exchange.body.count(PING) == 2
            assert (hit.cache_status, hit.body) == (HIT, ITEMS)
        # It is not watched once more for each request.
        items: Any = response.body_iterator
        assert type(items.plain) is Again

    run(test)


def test_cashews() -> None:
    async def test() -> None:
        cache, feed = Cache(), Feed()
        cache.setup("mem://")

        @stream_cached.cashews.stream_cached(cache, ttl=60, key="pings")
        async def endpoint(request: Request) -> Response:
            return Own(feed)

        app = Starlette(routes=[Route("/", endpoint)])
        leader, joiner = Exchange(app), Exchange(app)
        await pinged(feed, leader, joiner)
        assert leader.body == joiner.body == HELLO + ONE + PING + PING + AGAIN + TWO
        assert (await get(app)).body == ITEMS

    run(test)


# -- sse-starlette -------------------------------------------------------------------------------


def sse(feed: Feed) -> Response:
    return EventSourceResponse(feed.events(), headers=HEADERS, ping=0.01)


def with_a_message(feed: Feed) -> Response:
    def message() -> ServerSentEvent:
        return ServerSentEvent(comment="still\nhere")

    return EventSourceResponse(
        feed.events(), headers=HEADERS, ping=0.01, ping_message_factory=message
    )


def from_a_queue(feed: Feed) -> Response:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def read() -> AsyncIterator[bytes]:
        while (item := await queue.get()) is not None:
            yield item

    async def fill() -> None:
        async for item in feed.events():
            await queue.put(item)
        await queue.put(None)

    return EventSourceResponse(read(), headers=HEADERS, ping=0.01, data_sender_callable=fill)


_PINGS = re.compile(rb"(: ping - [^\r\n]*|: still\r\n: here)\r\n\r\n")


@pytest.mark.matrix("make", "sync")
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("make", [sse, with_a_message, from_a_queue])
@pytest.mark.parametrize("sync", [False, True])
def test_an_event_source_response_over_http(
    serve: Serve, cache_url: str, sync: bool, make: Callable[[Feed], Response], http: Any
) -> None:
    feed = Feed()
    server = serve(application(cache_url, make, feed, sync=sync), http)
    with RawClient(server.port) as leader, RawClient(server.port) as joiner:
        for client in (leader, joiner):
            client.send()
            client.read_head()
            client.read_until(len(HELLO + ONE))
        for client in (leader, joiner):
            # It is kept alive while the source is silent.
            client.read_until(len(client.response.body) + 200)
        feed.gate.open()
        answers = [leader.read_rest(), joiner.read_rest()]
    for answer in answers:
        assert answer.complete
        assert _PINGS.search(answer.body)
        assert _PINGS.sub(b"", answer.body) == ITEMS
    wait_until(lambda: fetch(server.port).header("cache-status") == HIT)
    hit = fetch(server.port)
    assert (hit.complete, hit.body) == (True, ITEMS)


def test_a_refresh_stores_no_ping(serve: Serve, cache_url: str) -> None:
    feed = Feed()
    settings: dict[str, Any] = {"ttl": 0.05, "stale_while_revalidate": 60}
    server = serve(application(cache_url, sse, feed, **settings))
    feed.gate.open()
    assert fetch(server.port).header("cache-status") == MISS

    def is_stale() -> bool:
        return "ttl=" in (fetch(server.port).header("cache-status") or "")

    feed.gate = Gate()
    wait_until(is_stale)
    threading.Event().wait(0.1)
    feed.gate.open()
    wait_until(lambda: not is_stale())
    assert fetch(server.port).body == ITEMS
