"""`on_event=`: what a function of the application is told of calls, runs and stores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import (
    Answered,
    ConfigurationError,
    Event,
    MemoryCache,
    Outcome,
    RunBegan,
    RunEnded,
    RunResult,
    StoreAway,
    StoreBack,
    StreamCache,
    aclose,
    stream_cached,
)
from stream_cached.backends.breaker import CircuitBreaker
from stream_cached.bodies.files import FileBodies
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.entries.recorder import Recorder
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.event_hook import EventHook
from tests.support.asgi import Exchange, get, leave
from tests.support.gates import runs_over

pytestmark = pytest.mark.anyio

CHUNKS = (b"one,", b"two,", b"three")
SIZE = sum(map(len, CHUNKS))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Seen(list[Event]):
    """The events so far."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def ends(self) -> list[tuple[RunResult, str]]:
        return [(each.result, each.cause) for each in self if isinstance(each, RunEnded)]

    @property
    def answers(self) -> list[Answered]:
        return [each for each in self if isinstance(each, Answered)]


class Pages:
    """An endpoint whose answer a test may change."""

    def __init__(self, kind: str = "stream", **headers: str) -> None:
        self.kind, self.headers = kind, headers
        self.gate: asyncio.Event | None = None

    async def __call__(self, request: Request) -> Any:
        if self.kind == "raises":
            raise RuntimeError("the endpoint broke")
        if self.kind == "value":
            return {"a": 1}
        if self.kind == "at hand":
            return PlainTextResponse(b"".join(CHUNKS), headers=self.headers)
        return StreamingResponse(self._body(), headers=self.headers)

    async def _body(self) -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            if self.gate is not None:
                await self.gate.wait()
            if self.kind == "breaks":
                raise RuntimeError("the stream broke")


def app_of(pages: Pages, seen: Any, **settings: Any) -> Starlette:
    given = {"ttl": 60, "cache": MemoryCache(), "on_event": seen, **settings}
    decorated = stream_cached(**given)(pages.__call__)

    async def endpoint(request: Request) -> Response:
        result = await decorated(request)
        return result if isinstance(result, Response) else Response()

    return Starlette(routes=[Route("/", endpoint)])


# -- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stream", "at hand"])
async def test_a_miss_and_a_hit(kind: str) -> None:
    seen = Seen()
    app = app_of(Pages(kind), seen)
    for _ in range(2):
        await get(app)
        await runs_over()
    miss, hit = seen.answers
    assert (miss.outcome, hit.outcome) == (Outcome.MISS, Outcome.HIT)
    assert miss.size == hit.size == SIZE
    assert miss.endpoint == hit.endpoint == f"{__name__}.Pages.__call__"
    assert miss.key == hit.key != ""
    (began,) = [each for each in seen if isinstance(each, RunBegan)]
    (ended,) = [each for each in seen if isinstance(each, RunEnded)]
    assert (began.run, began.endpoint, began.key) == (ended.run, ended.endpoint, ended.key)
    assert (began.endpoint, began.key) == (miss.endpoint, miss.key)
    assert (ended.result, ended.cause) == (RunResult.STORED, "")
    # The entry says how long its run took.
    assert miss.saved is None
    assert hit.saved is not None
    assert 0 < hit.saved <= ended.seconds
    assert hit.first_byte is not None
    assert 0 < hit.first_byte <= hit.seconds
    # What is at hand is sent by the framework.
    assert (miss.first_byte is None) is (kind == "at hand")
    assert (hit.look_up, hit.store) == (None, "")


async def test_the_first_byte_is_that_of_the_body() -> None:
    seen, pages = Seen(), Pages()
    pages.gate = asyncio.Event()
    exchange = Exchange(app_of(pages, seen))
    async with asyncio.timeout(10):
        sending = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        await asyncio.sleep(0.05)
        pages.gate.set()
        await sending
    (answer,) = seen.answers
    assert answer.first_byte is not None
    assert answer.first_byte <= answer.seconds - 0.05


async def test_a_hit_chunk_by_chunk_has_a_first_byte_too() -> None:
    seen = Seen()
    app = app_of(Pages(), seen, replay="exact")
    for _ in range(2):
        await get(app)
        await runs_over()
    hit = seen.answers[1]
    assert hit.outcome is Outcome.HIT
    assert hit.first_byte is not None


async def test_a_look_up_over_a_network_has_a_duration(redis_url: str, namespace: str) -> None:
    seen = Seen()
    app = app_of(Pages(), seen, cache=redis_url, namespace=namespace, key="page")
    for _ in range(2):
        await get(app)
        await runs_over()
    await aclose()
    for answer in seen.answers:
        assert answer.look_up is not None
        assert 0 < answer.look_up <= answer.seconds
        assert answer.store.startswith("redis://")
    assert seen.answers[1].saved is not None


async def test_an_entry_that_was_made_without_the_option_saves_nothing_known() -> None:
    cache, pages, seen = MemoryCache(), Pages(), Seen()
    decorated = [
        stream_cached(ttl=60, cache=cache, key="page", on_event=hook)(pages.__call__)
        for hook in (None, seen)
    ]
    first, second = (Starlette(routes=[Route("/", each)]) for each in decorated)
    await get(first)
    await runs_over()
    await get(second)
    (answer,) = seen.answers
    assert (answer.outcome, answer.saved) == (Outcome.HIT, None)


# -- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "headers", "settings", "end"),
    [
        ("stream", {}, {}, (RunResult.STORED, "")),
        ("at hand", {}, {}, (RunResult.STORED, "")),
        ("value", {}, {}, (RunResult.STORED, "")),
        ("stream", {"Set-Cookie": "a=b"}, {}, (RunResult.UNSTORED, "set-cookie")),
        ("at hand", {"Set-Cookie": "a=b"}, {}, (RunResult.UNSTORED, "set-cookie")),
        ("stream", {}, {"max_body": 5}, (RunResult.UNSTORED, "max-body")),
        ("at hand", {}, {"max_body": 5}, (RunResult.UNSTORED, "max-body")),
        ("raises", {}, {}, (RunResult.FAILED, "")),
        ("breaks", {}, {}, (RunResult.FAILED, "")),
    ],
)
async def test_a_run_ends_once(
    kind: str, headers: dict[str, str], settings: Any, end: tuple[RunResult, str]
) -> None:
    seen = Seen()
    app = app_of(Pages(kind, **headers), seen, **settings)
    try:
        await get(app)
    except Exception:
        assert kind in ("raises", "breaks")
    await runs_over()
    assert seen.ends == [end]
    assert sum(isinstance(each, RunBegan) for each in seen) == 1


async def test_a_run_whose_client_has_left_is_given_up() -> None:
    seen = Seen()
    await leave(app_of(Pages(), seen, on_disconnect="stop"))
    assert seen.ends == [(RunResult.ABORTED, "client-left")]


async def test_a_run_that_is_stored_after_its_call_was_cancelled_ends_as_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, publishes, gate = Seen(), asyncio.Event(), asyncio.Event()
    publish = Recorder._publish

    async def late(recorder: Recorder, *args: Any, **kwargs: Any) -> None:
        publishes.set()
        await gate.wait()
        await publish(recorder, *args, **kwargs)

    monkeypatch.setattr(Recorder, "_publish", late)
    async with asyncio.timeout(10):
        call = asyncio.create_task(get(app_of(Pages("at hand"), seen)))
        await publishes.wait()
        call.cancel()
        await asyncio.wait([call])
        assert seen.ends == []
        gate.set()
        await runs_over()
    assert seen.ends == [(RunResult.STORED, "")]


async def test_a_call_that_is_cancelled_while_the_endpoint_runs_ends_its_run() -> None:
    seen, runs = Seen(), asyncio.Event()

    class Waiting(Pages):
        async def __call__(self, request: Request) -> Any:
            runs.set()
            await asyncio.Event().wait()

    call = asyncio.create_task(get(app_of(Waiting(), seen)))
    await runs.wait()
    call.cancel()
    await asyncio.wait([call])
    assert seen.ends == [(RunResult.ABORTED, "cancelled")]


async def test_a_run_ends_with_the_application() -> None:
    seen, pages = Seen(), Pages()
    pages.gate = asyncio.Event()
    exchange = Exchange(app_of(pages, seen))
    sending = asyncio.create_task(exchange.run())
    await exchange.received.wait()
    await aclose(timeout=0.01)
    with pytest.raises(Exception, match="the application ends"):
        await sending
    assert seen.ends == [(RunResult.ABORTED, "shutdown")]


# -- stores ---------------------------------------------------------------------------------------


class Probe:
    """A server that answers."""

    async def reconnect(self) -> None: ...

    async def ping(self) -> None: ...

    async def set_many(self, *args: Any) -> None: ...

    async def get_many(self, *args: Any) -> None: ...


async def test_a_store_goes_away_and_comes_back_for_each_function_once() -> None:
    seen, probe, is_back = Seen(), Probe(), asyncio.Event()

    def note(event: Event) -> None:
        seen(event)
        if isinstance(event, StoreBack):
            is_back.set()

    breaker = CircuitBreaker("redis://host", 0.01)
    # Those of two decorators, to which one function was given.
    hooks = [EventHook(note), EventHook(note)]
    breaker.hooks.update(hooks)
    breaker._lost(StoreUnavailableError("no answer"), probe)  # type: ignore[arg-type]
    assert seen == [StoreAway("redis://host", "records")]
    async with asyncio.timeout(10):
        await is_back.wait()
    (back,) = seen[1:]
    assert isinstance(back, StoreBack)
    assert (back.store, back.role) == ("redis://host", "records")
    assert back.seconds > 0
    assert breaker.is_available


async def test_a_store_of_bodies_goes_away_and_comes_back(tmp_path: Path) -> None:
    class Bodies(FileBodies):
        fails = True

        async def ping(self) -> None:
            if self.fails:
                raise StoreError("no such directory")

    seen, bodies = Seen(), Bodies(tmp_path)
    watched, hook = WatchedBodies(bodies), EventHook(seen)
    watched.hooks.add(hook)
    for _ in range(2):
        await watched.try_out()
    bodies.fails = False
    await watched.try_out()
    away, back = seen
    assert away == StoreAway(bodies.name, "bodies")
    assert isinstance(back, StoreBack)
    assert (back.store, back.role) == (bodies.name, "bodies")


@pytest.mark.parametrize("late", [False, True])
async def test_the_breaker_knows_the_function(late: bool, redis_url: str, namespace: str) -> None:
    seen, url = Seen(), f"{redis_url}?namespace={namespace}"
    streams = StreamCache(url, ttl=60, on_event=seen)
    decorator = streams.cached() if late else stream_cached(60, cache=url, on_event=seen)
    decorator(Pages().__call__)
    breaker = decorator.hooks.binding().breaker
    assert breaker is not None
    assert seen in [hook.function for hook in breaker.hooks]


def test_the_store_of_bodies_knows_the_function(tmp_path: Path) -> None:
    seen, url = Seen(), f"file://{tmp_path}"
    decorator = stream_cached(60, cache="memory://", bodies=url, on_event=seen)
    decorator(Pages().__call__)
    assert decorator.options.bodies is not None
    assert seen in [hook.function for hook in decorator.options.bodies.hooks]


# -- the function ---------------------------------------------------------------------------------


async def test_what_it_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fails(event: Event) -> None:
        raise LookupError("a bug")

    streams = StreamCache("memory://", ttl=60, on_event=fails)
    routes = [Route(f"/{n}", streams.cached(key=f"{n}")(Pages().__call__)) for n in range(2)]
    app = Starlette(routes=routes)
    with caplog.at_level(logging.INFO, "stream_cached"):
        for path in ("/0", "/0", "/1", "/1"):
            assert (await get(app, path)).body == b"".join(CHUNKS)
            await runs_over()
    (record,) = [each for each in caplog.records if "on_event=" in each.getMessage()]
    assert record.getMessage() == "on_event= failed (LookupError('a bug'); logged once)"


async def _async(event: Event) -> None: ...


@pytest.mark.parametrize("wrong", [_async, 5, "name"])
def test_it_is_a_function(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event="):
        stream_cached(60, on_event=wrong)
