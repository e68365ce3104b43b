"""One DEBUG line for each answered request, and a Cache-Status that says the same."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import cashews
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from stream_cached import MemoryCache, stream_cached
from stream_cached import cashews as front_door
from stream_cached.events import Answered, Outcome, Reporter
from stream_cached.keys.digest import digest
from stream_cached.sending import Sending, Withheld
from stream_cached.tasks import running_here
from tests.support.asgi import Exchange
from tests.support.process import HOST, free_port
from tests.support.runs import segments

pytestmark = pytest.mark.anyio

_LINE = re.compile(
    r"(?P<endpoint>.*): answered: (?P<outcome>\w+)(?: \((?P<detail>.*)\))?, key (?P<key>\S+), "
    r"(?P<size>\d+|-) bytes, (?P<milliseconds>\d+\.\d) ms"
)

CHUNKS = [b"one,", b"two,", b"three"]
WHOLE = sum(map(len, CHUNKS))
MISS, HIT = "stream-cached; fwd=uri-miss; stored", "stream-cached; hit"
BY_REQUEST = re.compile(r"[\w.<>-]+:[0-9a-f]{32}")
DIGEST = re.compile(r"[0-9a-f]{32}")


class Line(NamedTuple):
    """What one line says."""

    outcome: str
    size: int | None
    detail: str
    key: str
    milliseconds: float


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Log:
    """What the library says at DEBUG of answered requests."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "stream_cached")
        self._caplog = caplog

    @property
    def lines(self) -> list[Line]:
        """The lines so far."""
        found = []
        for record in self._caplog.records:
            text = record.getMessage()
            if record.name == "stream_cached" and "answered:" in text:
                line = _LINE.fullmatch(text)
                assert line is not None, text
                assert record.levelno == logging.DEBUG
                size = None if line["size"] == "-" else int(line["size"])
                took = float(line["milliseconds"])
                found.append(Line(line["outcome"], size, line["detail"] or "", line["key"], took))
        return found

    async def of(self, exchange: Exchange) -> Line:
        """Send a request, wait for all that it leaves behind, and return its one line."""
        before = len(self.lines)
        await exchange.run()
        await settled()
        (line,) = self.lines[before:]
        return line


async def settled() -> None:
    """Wait until nothing is left of runs and refreshes."""
    while tasks := running_here():
        await asyncio.wait(tasks)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@dataclass
class Pages:
    """An endpoint that streams, and whose answer a test may change."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=lambda: list(CHUNKS))
    at_hand: bool = False
    fails: bool = False
    before_last: Callable[[], Awaitable[None]] | None = None
    runs: int = 0

    async def __call__(self, request: Request) -> Response:
        self.runs += 1
        if self.fails:
            raise RuntimeError("the endpoint broke")
        if self.at_hand:
            return PlainTextResponse(b"".join(self.chunks), self.status, self.headers)
        return StreamingResponse(self._body(), self.status, self.headers)

    async def _body(self) -> AsyncIterator[bytes]:
        for number, chunk in enumerate(self.chunks):
            if self.before_last is not None and number == len(self.chunks) - 1:
                await self.before_last()
            yield chunk


def app_of(pages: Pages, **settings: Any) -> Starlette:
    settings = {"ttl": 60, "cache": MemoryCache(), **settings}
    methods = ["GET", "POST"]
    return Starlette(
        routes=[Route("/", stream_cached(**settings)(pages.__call__), methods=methods)]
    )


def asking(
    app: ASGIApp, method: str = "GET", headers: list[tuple[bytes, bytes]] | None = None
) -> Exchange:
    exchange = Exchange(app)
    exchange.scope["method"] = method
    exchange.scope["headers"] += headers or []
    return exchange


def said(line: Line) -> tuple[str, int | None, str]:
    return line.outcome, line.size, line.detail


each_kind = pytest.mark.parametrize("at_hand", [False, True], ids=["stream", "at hand"])


class Clock:
    """A clock that a test moves, of all that takes the time of an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        namespace = SimpleNamespace(
            time=lambda: time.time() + self.passed, monotonic=lambda: 1000 + self.passed
        )
        for module in ("engine.at_hand", "engine.lookup", "engine.outcome", "sending"):
            monkeypatch.setattr(f"stream_cached.{module}.time", namespace)


# -- misses and hits ------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("replay", ["fast", "exact"])
async def test_a_miss_and_a_hit(log: Log, at_hand: bool, replay: Any) -> None:
    app = app_of(Pages(at_hand=at_hand), replay=replay)
    first, second = asking(app), asking(app)
    miss, hit = await log.of(first), await log.of(second)
    assert said(miss) == ("miss", WHOLE, "")
    assert first.cache_status == MISS
    assert said(hit) == ("hit", WHOLE, "")
    assert second.cache_status == HIT
    assert hit.key == miss.key
    assert BY_REQUEST.fullmatch(hit.key)


async def test_a_miss_that_is_not_to_be_stored(log: Log) -> None:
    decorated = stream_cached(ttl=60, cache=MemoryCache())(Pages().__call__)

    async def endpoint(request: Request) -> Response:
        response: Response = await decorated(request, cache_write=False)  # type: ignore[call-arg]
        return response

    exchange = asking(Starlette(routes=[Route("/", endpoint)]))
    line = await log.of(exchange)
    # A stream that the endpoint sends itself is not looked at.
    assert said(line) == ("miss", None, "")
    assert exchange.cache_status == "stream-cached; fwd=uri-miss"


@each_kind
async def test_an_answer_that_must_not_be_stored(log: Log, at_hand: bool) -> None:
    app = app_of(Pages(at_hand=at_hand, headers={"Set-Cookie": "a=b"}))
    exchange = asking(app)
    line = await log.of(exchange)
    assert said(line) == ("bypass", WHOLE if at_hand else None, "set-cookie")
    assert exchange.cache_status == 'stream-cached; fwd=uri-miss; detail="set-cookie"'


async def test_all_reasons_are_named(log: Log) -> None:
    app = app_of(Pages(status=500, headers={"Set-Cookie": "a=b"}))
    exchange = asking(app, headers=[(b"authorization", b"secret")])
    line = await log.of(exchange)
    assert line.outcome == "bypass"
    assert exchange.cache_status == f'stream-cached; fwd=uri-miss; detail="{line.detail}"'
    assert "authorization" in line.detail
    assert "secret" not in str(line)


async def test_a_method_that_is_not_cached(log: Log) -> None:
    exchange = asking(app_of(Pages(at_hand=True)), "POST")
    line = await log.of(exchange)
    assert said(line) == ("bypass", WHOLE, "")
    assert line.key == "-"
    assert exchange.cache_status == "stream-cached; fwd=method"


async def test_a_mark_that_says_it_can_not_be_stored(log: Log) -> None:
    app = app_of(Pages(at_hand=True), max_body=5, cache=MemoryCache())
    streams = app_of(Pages(), max_body=5, cache=MemoryCache())
    exchange = asking(app)
    assert said(await log.of(exchange)) == ("bypass", WHOLE, "max-body")
    first, second = asking(streams), asking(streams)
    # While it is sent, it is not known yet how long it is.
    assert said(await log.of(first)) == ("miss", WHOLE, "")
    assert first.cache_status == MISS
    assert said(await log.of(second)) == ("bypass", WHOLE, "max-body")
    assert second.cache_status == 'stream-cached; fwd=uri-miss; detail="max-body"'


@each_kind
async def test_a_head_request_is_sent_no_body(log: Log, at_hand: bool) -> None:
    app = app_of(Pages(at_hand=at_hand))
    first = asking(app, "HEAD")
    line = await log.of(first)
    assert said(line) == ("miss", 0 if at_hand else None, "")
    assert first.cache_status == "stream-cached; fwd=uri-miss"
    await asking(app).run()
    second = asking(app, "HEAD")
    assert said(await log.of(second)) == ("hit", 0, "")
    assert second.cache_status == HIT


async def test_the_memory_that_stands_in_for_a_store(log: Log) -> None:
    app = app_of(Pages(), cache=f"redis://{HOST}:{free_port()}/0")
    first, second = asking(app), asking(app)
    assert said(await log.of(first)) == ("miss", WHOLE, "fallback")
    assert first.cache_status == f'{MISS}; detail="fallback"'
    assert said(await log.of(second)) == ("hit", WHOLE, "fallback")
    assert second.cache_status == f'{HIT}; detail="fallback"'


# -- stale ----------------------------------------------------------------------------------------


@each_kind
async def test_a_stale_hit_and_its_refresh_are_one_answer(
    log: Log, monkeypatch: pytest.MonkeyPatch, at_hand: bool
) -> None:
    clock, pages = Clock(monkeypatch), Pages(at_hand=at_hand)
    app = app_of(pages, stale_while_revalidate=100)
    await asking(app).run()
    clock.passed = 60.5
    exchange = asking(app)
    assert said(await log.of(exchange)) == ("stale", WHOLE, "")
    assert exchange.cache_status == "stream-cached; hit; ttl=-1"
    assert pages.runs == 2


@pytest.mark.parametrize("way", ["raises", "answers", "streams"])
async def test_the_answer_that_a_stale_one_replaces_is_not_reported(
    log: Log, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    clock, pages = Clock(monkeypatch), Pages()
    app = app_of(pages, stale_if_error=100)
    await asking(app).run()
    clock.passed = 70
    pages.status, pages.fails, pages.at_hand = 503, way == "raises", way == "answers"
    exchange = asking(app)
    assert said(await log.of(exchange)) == ("stale", WHOLE, "stale-if-error")
    status = "" if way == "raises" else " fwd-status=503;"
    assert exchange.cache_status == f'stream-cached; fwd=stale;{status} detail="stale-if-error"'
    assert pages.runs == 2


@each_kind
async def test_the_answer_that_replaces_a_stale_one_is_reported(
    log: Log, monkeypatch: pytest.MonkeyPatch, at_hand: bool
) -> None:
    clock, pages = Clock(monkeypatch), Pages(at_hand=at_hand)
    app = app_of(pages, stale_if_error=100)
    await asking(app).run()
    clock.passed = 70
    exchange = asking(app)
    assert said(await log.of(exchange)) == ("miss", WHOLE, "")
    assert exchange.cache_status == "stream-cached; fwd=stale; stored"


async def test_a_failure_is_reported_where_the_stale_answer_is_gone(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, cache = Clock(monkeypatch), MemoryCache()
    pages = Pages(chunks=[bytes(2_000_000)])
    app = app_of(pages, stale_if_error=100, cache=cache)
    await asking(app).run()
    clock.passed = 70
    for key in segments(set(cache.memory._items)):
        await cache.delete(key)
    pages.status, pages.at_hand = 503, True
    exchange = asking(app)
    assert said(await log.of(exchange)) == ("bypass", 2_000_000, "status")
    assert exchange.cache_status == 'stream-cached; fwd=stale; detail="status"'


# -- several requests -----------------------------------------------------------------------------


class Held:
    """What an endpoint waits for before its last chunk."""

    def __init__(self) -> None:
        self.gate, self.reached = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        async with asyncio.timeout(10):
            await self.gate.wait()


@pytest.mark.parametrize("replay", ["fast", "exact"])
async def test_requests_that_join_a_run_have_a_line_each(log: Log, replay: Any) -> None:
    held = Held()
    app = app_of(Pages(before_last=held), replay=replay)
    leads, joins, heads = asking(app), asking(app), asking(app, "HEAD")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(leads.run())
        await held.reached.wait()
        joining = group.create_task(joins.run())
        await heads.run()
        await joins.received.wait()
        assert [said(line) for line in log.lines] == [("joined", 0, "")]
        assert not joining.done()
        held.gate.set()
    await settled()
    assert joins.cache_status == heads.cache_status == "stream-cached; fwd=uri-miss; collapsed"
    assert leads.cache_status == MISS
    lines = sorted(said(line) for line in log.lines)
    assert lines == [("joined", 0, ""), ("joined", WHOLE, ""), ("miss", WHOLE, "")]
    assert len({line.key for line in log.lines}) == 1


async def test_a_request_that_joins_a_body_at_hand(log: Log) -> None:
    held = Held()

    class Waiting(Pages):
        async def __call__(self, request: Request) -> Response:
            await held()
            return await super().__call__(request)

    app = app_of(Waiting(at_hand=True))
    leads, joins = asking(app), asking(app)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(leads.run())
        await held.reached.wait()
        group.create_task(joins.run())
        held.gate.set()
    await settled()
    assert leads.body == joins.body
    lines = [said(line) for line in log.lines]
    assert len(lines) == 2
    assert ("miss", WHOLE, "") in lines


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_client_that_leaves_half_way(log: Log, spec_version: str) -> None:
    held = Held()
    app = app_of(Pages(before_last=held), replay="exact")
    leaves = Exchange(app, spec_version)
    async with asyncio.timeout(10):
        leaving = asyncio.create_task(leaves.run())
        await held.reached.wait()
        await leaves.received.wait()
        leaves.left.set()
        held.gate.set()
        # Starlette's word for it, which a server takes for no error.
        with pytest.raises(ClientDisconnect) if spec_version == "2.4" else nullcontext():
            await leaving
    await settled()
    (line,) = log.lines
    assert (line.outcome, line.detail) == ("miss", "")
    # A `send` that is silent after the client has left may be given what is there.
    assert line.size is not None
    assert len(leaves.body) <= line.size
    if spec_version == "2.4":
        assert line.size == len(leaves.body) < WHOLE
    # The run went on for others.
    assert said(await log.of(asking(app))) == ("hit", WHOLE, "")


async def test_a_client_that_leaves_a_hit_half_way(log: Log) -> None:
    pages = Pages(chunks=[bytes([number]) * 500_000 for number in range(6)])
    app = app_of(pages)
    await asking(app).run()

    class Leaving(Exchange):
        async def _send(self, message: Message) -> None:
            await super()._send(message)
            if message.get("body"):
                self.left.set()

    leaves = Leaving(app, "2.4")
    before = len(log.lines)
    with pytest.raises(ClientDisconnect):
        await leaves.run()
    (line,) = log.lines[before:]
    assert (line.outcome, line.size) == ("hit", len(leaves.body))
    assert 0 < len(leaves.body) < 3_000_000


async def test_a_body_that_goes_on_from_another_run_is_one_answer(log: Log) -> None:
    cache = MemoryCache()
    pages = Pages(chunks=[bytes([number]) * 500_000 for number in range(8)])
    app = app_of(pages, cache=cache, resume=True)
    await asking(app).run()

    class Losing(Exchange):
        async def _send(self, message: Message) -> None:
            await super()._send(message)
            if message.get("body") and pages.runs == 1:
                for key in segments(set(cache.memory._items)):
                    await cache.delete(key)

    exchange = Losing(app)
    line = await log.of(exchange)
    assert pages.runs == 2
    assert len(exchange.body) == 4_000_000
    assert said(line) == ("hit", 4_000_000, "")


@pytest.mark.parametrize("stored", [False, True])
async def test_a_body_that_passes_through_another_iterator(log: Log, stored: bool) -> None:
    """What stands above the decorator may wrap the body: what is sent then is what counts."""
    decorated = stream_cached(ttl=60, cache=MemoryCache())(Pages().__call__)

    async def endpoint(request: Request) -> Response:
        response = await decorated(request)
        assert isinstance(response, StreamingResponse)
        body = response.body_iterator

        async def doubled() -> AsyncIterator[bytes]:
            async for chunk in body:
                assert isinstance(chunk, bytes)
                yield chunk * 2

        response.body_iterator = doubled()
        response.background = BackgroundTask(settled)
        return response

    app = Starlette(routes=[Route("/", endpoint)])
    if stored:
        await asking(app).run()
    exchange = asking(app)
    line = await log.of(exchange)
    assert said(line) == ("hit" if stored else "miss", 2 * WHOLE, "")
    assert len(exchange.body) == 2 * WHOLE


# -- plain values, and keys -----------------------------------------------------------------------


async def test_a_plain_value_has_no_bytes(log: Log) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60, cache=MemoryCache(), values="aiocache")
    async def value() -> dict[str, int]:
        return {"a": 1}

    first, second = asking(app), asking(app)
    assert said(await log.of(first)) == ("miss", None, "")
    assert said(await log.of(second)) == ("hit", None, "")
    assert BY_REQUEST.fullmatch(log.lines[0].key)
    assert log.lines[0].key == log.lines[1].key
    assert first.body == second.body == b'{"a":1}'


async def test_a_call_without_a_request_has_a_key_without_its_arguments(log: Log) -> None:
    @stream_cached(ttl=60, cache=MemoryCache())
    async def value(password: str) -> str:
        return password

    for _ in range(2):
        await value("my secret")
        await settled()
    miss, hit = log.lines
    assert (miss.outcome, hit.outcome) == ("miss", "hit")
    assert DIGEST.fullmatch(miss.key)
    assert miss.key == hit.key == digest(await value.cache_key("my secret"))


@pytest.mark.parametrize(
    "settings",
    [{"key": "user my-secret"}, {"key_builder": lambda *args, **kwargs: "user my-secret"}],
    ids=["key", "key_builder"],
)
async def test_a_key_of_the_application_is_a_digest_in_the_log(
    log: Log, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    app = app_of(Pages(), **settings)
    for _ in range(2):
        line = await log.of(asking(app))
        assert line.key == digest("user my-secret")
    assert "my-secret" not in caplog.text


# -- cashews --------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("key", [None, "page:my-secret"], ids=["by request", "template"])
async def test_the_decorator_for_cashews(log: Log, at_hand: bool, key: str | None) -> None:
    cache = cashews.Cache()
    cache.setup("mem://")
    decorated = stream_cached_for(cache, key=key)(Pages(at_hand=at_hand).__call__)
    app = Starlette(routes=[Route("/", decorated)])
    first, second = asking(app), asking(app)
    miss, hit = await log.of(first), await log.of(second)
    assert [said(miss), said(hit)] == [("miss", WHOLE, ""), ("hit", WHOLE, "")]
    assert (first.cache_status, second.cache_status) == (MISS, HIT)
    assert miss.key == hit.key
    assert (BY_REQUEST if key is None else DIGEST).fullmatch(miss.key)


def stream_cached_for(cache: cashews.Cache, **settings: Any) -> Any:
    return stream_cached_by_cashews(cache, 60, **settings)


stream_cached_by_cashews: Any = front_door.stream_cached


@pytest.mark.parametrize("places", [1, 2])
async def test_streams_of_the_decorators_of_cashews(log: Log, places: int) -> None:
    """However many of them stand above each other, a request is answered once."""
    install, uninstall = front_door.install, front_door.uninstall
    cache, pages = cashews.Cache(), Pages()
    cache.setup("mem://")
    install()
    try:

        async def page() -> Response:
            return await pages(Request({"type": "http", "method": "GET", "path": "/"}))

        decorated = page
        for number in range(places):
            decorated = cache(ttl=60, key=f"my-secret:{number}")(decorated)

        async def endpoint(request: Request) -> Response:
            return await decorated()

        app = Starlette(routes=[Route("/", endpoint)])
        first, second = asking(app), asking(app)
        miss, hit = await log.of(first), await log.of(second)
        assert [said(miss), said(hit)] == [("miss", WHOLE, ""), ("hit", WHOLE, "")]
        assert (first.cache_status, second.cache_status) == (MISS, HIT)
        assert DIGEST.fullmatch(miss.key)
        assert miss.key == hit.key
    finally:
        uninstall()


# -- the line itself ------------------------------------------------------------------------------


async def test_the_time_is_that_from_the_call_to_the_last_byte(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def pause() -> None:
        clock.passed += 1.25

    app = app_of(Pages(before_last=pause))
    assert (await log.of(asking(app))).milliseconds == 1250
    assert (await log.of(asking(app))).milliseconds == 0


async def test_nothing_is_said_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stream_cached")
    app = app_of(Pages())
    for method in ("GET", "GET", "POST", "HEAD"):
        await asking(app, method).run()
    assert "answered" not in caplog.text


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_line(log: Log, outcome: Outcome) -> None:
    event = Answered(outcome, key="key", detail="detail")
    Sending(Reporter("endpoint"), event, time.monotonic()).sent(5)
    (line,) = log.lines
    assert line[:4] == (outcome.value, 5, "detail", "key")


def test_what_is_withheld_is_reported_once_it_is_released(log: Log) -> None:
    withheld = Withheld(Reporter("endpoint"))
    event = Answered(Outcome.MISS, key="key")
    Sending(withheld, event, time.monotonic()).sent(1)
    assert log.lines == []
    withheld.release()
    Sending(withheld, event, time.monotonic()).sent(2)
    assert [line.size for line in log.lines] == [1, 2]
