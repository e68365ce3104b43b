"""What an endpoint iterates over is closed after its body: whatever that does, the body is whole.

Starlette never closes it, so the same application without the decorator is the oracle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Annotated, Any, ClassVar

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import aclose, stream_cached
from stream_cached.runs import producer
from stream_cached.tasks import running_here
from tests.conftest import Serve
from tests.support.asgi import Exchange, get, leave
from tests.support.gates import Gate, run, runs_over, until, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

ROWS = 3


class Cursor:
    """Three rows, of which the first waits for nothing."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.gate = gate
        self.made = 0
        self.tasks: list[Any] = []

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> bytes:
        self.tasks.append(asyncio.current_task())
        if self.made and self.gate is not None:
            await self.gate.passed()
        if self.made == ROWS:
            raise StopAsyncIteration
        self.made += 1
        return b"row\n"


class Raises(Cursor):
    async def aclose(self) -> None:
        raise RuntimeError("the connection is closed already")


class IsCancelled(Cursor):
    async def aclose(self) -> None:
        raise asyncio.CancelledError


class RaisesNoException(Cursor):
    async def aclose(self) -> None:
        raise GeneratorExit


class RaisesWhenCalled(Cursor):
    def aclose(self) -> None:
        raise RuntimeError("the connection is closed already")


class RaisesWhenRead(Cursor):
    @property
    def aclose(self) -> object:
        raise RuntimeError("the connection is closed already")


class TakesAnArgument(Cursor):
    async def aclose(self, how: str) -> None:
        raise AssertionError


class IsNoCoroutine(Cursor):
    def aclose(self) -> None:
        return None


class IsAFuture(Cursor):
    def aclose(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()


class IsNotCallable(Cursor):
    aclose = True


class TakesItsTime(Cursor):
    async def aclose(self) -> None:
        await asyncio.sleep(1.5)


class BlocksTheLoop(Cursor):
    def aclose(self) -> None:
        time.sleep(0.5)


class Iterable:
    """Makes a generator each time, and is closed itself."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __aiter__(self) -> AsyncIterator[bytes]:
        return generator(self.gate)

    async def aclose(self) -> None:
        raise RuntimeError("the connection is closed already")


async def generator(gate: Gate) -> AsyncIterator[bytes]:
    async for row in Cursor(gate):
        yield row


async def breaks_at_its_end(gate: Gate) -> AsyncIterator[bytes]:
    try:
        async for row in Cursor(gate):
            yield row
    finally:
        raise RuntimeError("the connection is closed already")


async def breaks_after_its_last_row(gate: Gate) -> AsyncIterator[bytes]:
    async for row in Cursor(gate):
        yield row
    raise RuntimeError("the connection is closed already")


class SyncCursor:
    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.made = 0

    def __iter__(self) -> SyncCursor:
        return self

    def __next__(self) -> bytes:
        if self.made:
            self.gate.wait()
        if self.made == ROWS:
            raise StopIteration
        self.made += 1
        return b"row\n"

    def close(self) -> None:
        raise RuntimeError("the connection is closed already")


def sync_generator(gate: Gate) -> Iterator[bytes]:
    yield from SyncCursor(gate)


def sync_that_breaks_at_its_end(gate: Gate) -> Iterator[bytes]:
    try:
        yield from SyncCursor(gate)
    finally:
        raise RuntimeError("the connection is closed already")


#: Those whose clean-up fails, where the cache calls it.
FAIL = [
    *(Raises, IsCancelled, RaisesNoException, RaisesWhenCalled, RaisesWhenRead, TakesAnArgument),
    Iterable,
]
FORMS: list[Callable[[Gate], Any]] = [
    *FAIL,
    *(IsNoCoroutine, IsAFuture, IsNotCallable, TakesItsTime, BlocksTheLoop),
    *(generator, breaks_at_its_end, breaks_after_its_last_row),
    *(SyncCursor, sync_generator, sync_that_breaks_at_its_end),
]


class Endpoint:
    """Streams one form of rows, whose first row is followed by the others when a gate opens."""

    def __init__(self, form: Callable[[Gate], Any]) -> None:
        self.form = form
        self.gate = Gate()
        self.made: list[Any] = []

    async def __call__(self, request: Request) -> Response:
        self.made.append(self.form(self.gate))
        return StreamingResponse(self.made[-1])

    def app(self, cache_url: str, **settings: Any) -> Starlette:
        self.cached = stream_cached(ttl=60, cache=cache_url, **settings)(self.__call__)
        return Starlette(routes=[Route("/plain", self.__call__), Route("/", self.cached)])


# -- the body is complete -----------------------------------------------------------------------


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_its_body_ends_as_without_the_cache(
    serve: Serve, cache_url: str, caplog: pytest.LogCaptureFixture, form: Callable[[Gate], Any]
) -> None:
    endpoint = Endpoint(form)
    server = serve(endpoint.app(cache_url))
    with RawClient(server.port) as first, RawClient(server.port) as joined:
        for client in (first, joined):
            client.send()
            client.read_head()
            client.read_until(1)
        endpoint.gate.open()
        opened = time.monotonic()
        answers = [first.read_rest(), joined.read_rest()]
        took = time.monotonic() - opened
    hit = fetch(server.port)
    plain = fetch(server.port, "/plain")
    assert [answer.body for answer in answers] == [plain.body, plain.body]
    assert [answer.complete for answer in answers] == [plain.complete] * 2
    assert took < (0.4 if form is BlocksTheLoop else 1.0)
    assert (hit.complete, hit.body) == (plain.complete, plain.body)
    assert hit.header("Cache-Status") == (HIT if plain.complete else MISS)


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_clean_up_that_fails_is_logged_once(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    cache_url: str,
    form: Callable[[Gate], Any],
) -> None:
    monkeypatch.setattr(producer, "CLEAN_UP_WAIT", 0.05)
    monkeypatch.setitem(aclose.__globals__, "_CLEAN_UP", 0.05)
    endpoint = Endpoint(form)
    app = endpoint.app(cache_url)
    endpoint.gate.open()

    async def test() -> None:
        for _ in range(2):
            try:
                await get(app)
            except RuntimeError:
                assert "breaks" in form.__name__
            await endpoint.cached.invalidate()
        await aclose(timeout=0.1)

    run(test)
    lines = [line for line in warnings(caplog) if "clean-up" in line]
    assert len(lines) == (form in FAIL)


def test_code_after_the_last_chunk_is_part_of_the_body(cache_url: str) -> None:
    done = asyncio.Event()

    async def rows(gate: Gate) -> AsyncIterator[bytes]:
        yield b"row\n"
        await asyncio.sleep(0.2)
        done.set()

    app = Endpoint(rows).app(cache_url)

    async def test() -> None:
        for path in ("/plain", "/"):
            done.clear()
            exchange = Exchange(app, path=path)
            sending = asyncio.create_task(exchange.run())
            await exchange.received.wait()
            assert not exchange.complete
            await sending
            assert exchange.complete
            assert done.is_set()

    run(test)


def test_background_tasks_and_hits_do_not_wait_for_a_clean_up(cache_url: str) -> None:
    clean, called = asyncio.Event(), asyncio.Event()

    class Held(Cursor):
        async def aclose(self) -> None:
            await clean.wait()

    async def background() -> None:
        called.set()

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(Held(), background=BackgroundTask(background))

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        first = Exchange(app)
        sending = asyncio.create_task(first.run())
        await called.wait()
        # The last message may be a few turns of the event loop behind.
        await until(lambda: first.complete)
        assert (await get(app)).cache_status == HIT
        clean.set()
        await sending

    run(test)


class Session(Cursor):
    said: ClassVar[list[str]] = []

    async def aclose(self) -> None:
        await asyncio.sleep(0.2)
        self.said.append("the cursor is closed")


async def session() -> AsyncIterator[Session]:
    yield Session()
    Session.said.append("the session is closed")


def test_what_belongs_to_the_request_outlives_a_usual_clean_up(
    serve: Serve, cache_url: str
) -> None:
    app, said = FastAPI(), Session.said
    said.clear()

    @app.get("/")
    @stream_cached(ttl=60, cache=cache_url, key_ignore=("cursor",))
    async def endpoint(cursor: Annotated[Session, Depends(session)]) -> StreamingResponse:
        return StreamingResponse(cursor)

    server = serve(app)
    assert fetch(server.port).complete
    wait_until(lambda: len(said) == 2)
    assert said == ["the cursor is closed", "the session is closed"]


# -- the body is not complete -------------------------------------------------------------------


@pytest.mark.parametrize("form", [*FAIL, generator], ids=lambda form: form.__name__)
def test_a_run_that_is_given_up_is_cleaned_up(
    cache_url: str, caplog: pytest.LogCaptureFixture, form: Callable[[Gate], Any]
) -> None:
    endpoint = Endpoint(form)
    app = endpoint.app(cache_url, on_disconnect="stop")

    async def test() -> None:
        assert not (await leave(app)).complete
        endpoint.gate.open()
        assert (await get(app)).cache_status == MISS

    run(test)
    assert len([line for line in warnings(caplog) if "clean-up" in line]) == (form in FAIL)


class Rows:
    """Rows that note which tasks iterate over them and close them."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.iterating: set[object] = set()
        self.closing: list[object] = []
        self.generator = self._rows()
        self.each_time = EachTime(self._rows)

    async def _rows(self) -> AsyncGenerator[object]:
        try:
            for number in range(3):
                self.iterating.add(asyncio.current_task())
                if number and self.way == "given up":
                    await asyncio.sleep(0.01)
                # A chunk that can't be sent leaves the generator suspended.
                yield 1 if number and self.way == "raises" else b"row"
        finally:
            self.closing.append(asyncio.current_task())

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        return await anext(self.generator)

    async def aclose(self) -> None:
        await self.generator.aclose()


class EachTime:
    """Makes an iterator each time, and has nothing to close itself."""

    def __init__(self, make: Callable[[], AsyncIterator[object]]) -> None:
        self.make = make

    def __aiter__(self) -> AsyncIterator[object]:
        return self.make()


@pytest.mark.parametrize("way", ["complete", "given up", "raises"])
@pytest.mark.parametrize("kind", ["iterator", "generator", "iterable"])
def test_it_is_closed_once_by_the_task_that_iterated_it(
    cache_url: str, kind: str, way: str
) -> None:
    rows = Rows(way)
    forms = {"iterator": rows, "generator": rows.generator, "iterable": rows.each_time}
    app = Endpoint(lambda gate: forms[kind]).app(cache_url, on_disconnect="stop")

    async def test() -> None:
        exchange = Exchange(app)
        sending = asyncio.create_task(exchange.run())
        if way == "given up":
            await exchange.received.wait()
            exchange.left.set()
        if way == "raises":
            with pytest.raises(TypeError, match="a stream yields"):
                await sending
        await asyncio.wait({sending})
        await runs_over()
        assert len(rows.iterating) == 1
        assert rows.closing == [*rows.iterating]

    run(test)


def test_the_error_of_a_source_is_not_replaced_nor_held_up(
    serve: Serve, cache_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(Cursor):
        async def __anext__(self) -> bytes:
            if self.made:
                raise LookupError("the table is gone")
            return await super().__anext__()

        async def aclose(self) -> None:
            await asyncio.sleep(0.2)
            raise RuntimeError("the connection is closed already")

    endpoint = Endpoint(lambda gate: Breaks())
    app = endpoint.app(cache_url)

    async def test() -> None:
        for path in ("/", "/plain"):
            with pytest.raises(LookupError):
                await get(app, path)
        joined = [Exchange(app) for _ in range(2)]
        outcomes = await asyncio.gather(*(each.run() for each in joined), return_exceptions=True)
        assert all(isinstance(outcome, LookupError) for outcome in outcomes)

    run(test)
    assert len([line for line in warnings(caplog) if "clean-up" in line]) == 1


# -- a clean-up that never ends -----------------------------------------------------------------


@pytest.mark.matrix("way", "is_stubborn")
@pytest.mark.parametrize("way", ["complete", "given up"])
@pytest.mark.parametrize("is_stubborn", [False, True], ids=["", "swallows its cancellation"])
def test_it_does_not_keep_the_run_open_for_ever(
    cache_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    is_stubborn: bool,
) -> None:
    monkeypatch.setattr(producer, "CLEAN_UP_MAX", 0.1)
    monkeypatch.setattr(producer, "CLEAN_UP_WAIT", 0.05)
    monkeypatch.setitem(aclose.__globals__, "_CLEAN_UP", 0.05)
    ended = asyncio.Event()

    class Endless(Cursor):
        async def aclose(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
                if not is_stubborn:
                    raise
            await asyncio.Event().wait()

    endpoint = Endpoint(Endless)
    app = endpoint.app(cache_url, on_disconnect="stop")

    async def test() -> None:
        exchange = Exchange(app)
        sending = asyncio.create_task(exchange.run())
        if way == "given up":
            await exchange.received.wait()
            exchange.left.set()
        endpoint.gate.open()
        await sending
        await ended.wait()
        await aclose(timeout=0.05)
        assert not running_here()

    run(test)
    (line,) = [line for line in warnings(caplog) if "clean-up" in line]
    assert "it takes longer than 0.1 seconds, and is cancelled" in line


def test_the_end_of_the_application_waits_for_it(
    cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "CLEAN_UP_WAIT", 0.05)
    steps: list[str] = []
    endpoint = Endpoint(Cursor)

    class Slow(Cursor):
        async def aclose(self) -> None:
            await asyncio.sleep(producer.CLEAN_UP_WAIT + 0.3)
            steps.append("closed")

    endpoint.form = Slow
    endpoint.gate.open()
    app = endpoint.app(cache_url)

    async def test() -> None:
        # The run is over before the clean-up is.
        assert (await get(app)).complete
        assert not steps
        assert running_here()
        await aclose()
        assert steps == ["closed"]
        assert not running_here()

    run(test)


# -- a response that is not sent ----------------------------------------------------------------


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("form", [Raises, IsNoCoroutine, TakesItsTime, IsNotCallable])
def test_a_stale_response_does_not_wait_for_the_one_that_it_replaces(
    cache_url: str, monkeypatch: pytest.MonkeyPatch, form: type[Cursor]
) -> None:
    made: list[Cursor] = []

    @stream_cached(ttl=60, cache=cache_url, stale_if_error=60)
    async def endpoint(request: Request) -> Response:
        made.append(form())
        return StreamingResponse(made[-1], status_code=200 if len(made) == 1 else 503)

    app = Starlette(routes=[Route("/", endpoint)])
    now = time.time

    async def test() -> None:
        whole = (await get(app)).body
        monkeypatch.setattr(time, "time", lambda: now() + 61)
        began = time.monotonic()
        stale = await get(app)
        assert "stale-if-error" in stale.cache_status
        assert stale.body == whole
        assert time.monotonic() - began < 1
        await aclose()

    run(test)
