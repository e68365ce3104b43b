"""A stream: how it ends is a value that every reader reaches, and no end is taken for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from stream_cached import BrokenStreamError, stream_cached
from stream_cached.runs.run import Run
from stream_cached.runs.states import GivenUp
from stream_cached.streams.ends import Aborted, Complete, Failed
from stream_cached.streams.sources import AppSource, IteratorSource
from stream_cached.streams.stream import Stream
from tests.support.asgi import Exchange, get
from tests.support.gates import run
from tests.support.runs import HIT, MISS
from tests.support.streaming import end_of, read, run_of

SCOPE = {"type": "http", "method": "GET", "headers": []}

Chunks = Callable[[], AsyncIterator[bytes]]


def run_over(chunks: Chunks, *, max_ahead: int = 1_000_000) -> Run:
    return run_of(IteratorSource(chunks(), "utf-8"), max_ahead=max_ahead)


async def everything(reader: AsyncIterator[bytes]) -> list[bytes]:
    return [chunk async for chunk in reader]


async def three() -> AsyncIterator[bytes]:
    for chunk in (b"a", b"", b"c"):
        yield chunk


def test_a_reader_gets_every_chunk_and_then_the_end() -> None:
    async def test() -> None:
        a_run = run_over(three)
        assert await everything(read(a_run)) == [b"a", b"", b"c"]
        await a_run.over()
        assert end_of(a_run) == Complete()

    run(test)


def test_every_reader_gets_the_same_chunks_whichever_pulls() -> None:
    async def test() -> None:
        a_run = run_over(three)
        readers = [read(a_run) for _ in range(3)]
        assert await asyncio.gather(*map(everything, readers)) == [[b"a", b"", b"c"]] * 3

    run(test)


def test_a_source_that_raises_fails_every_reader_after_what_it_made() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    async def test() -> None:
        a_run = run_over(failing)
        for reader in (read(a_run), read(a_run)):
            assert await anext(reader) == b"a"
            with pytest.raises(LookupError, match="no more"):
                await anext(reader)
        assert isinstance(end_of(a_run), Failed)

    run(test)


def test_an_oserror_of_the_source_is_not_taken_for_a_client_that_left() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ConnectionResetError

    async def test() -> None:
        reader = read(run_over(failing))
        assert await anext(reader) == b"a"
        with pytest.raises(BrokenStreamError) as caught:
            await anext(reader)
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    run(test)


def test_a_source_that_swallows_its_cancellation_is_aborted_all_the_same() -> None:
    started = asyncio.Event()

    async def stubborn() -> AsyncIterator[bytes]:
        yield b"a"
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def test() -> None:
        a_run = run_over(stubborn)
        reader = read(a_run)
        assert await anext(reader) == b"a"
        await started.wait()
        a_run.abort(GivenUp.SHUTDOWN)
        with pytest.raises(BrokenStreamError, match=GivenUp.SHUTDOWN):
            await anext(reader)
        await a_run.over()
        assert end_of(a_run) == Aborted(GivenUp.SHUTDOWN)

    run(test)


def test_an_app_that_ends_its_body_when_cancelled_is_aborted_all_the_same() -> None:
    async def app(scope: object, receive: object, send: Callable[..., Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def test() -> None:
        source = AppSource(app, SCOPE)
        await source.begin()
        a_run = run_of(source, max_ahead=1_000_000, finish_timeout=30)
        reader = read(a_run)
        assert await anext(reader) == b"a"
        a_run.abort(GivenUp.SHUTDOWN)
        with pytest.raises(BrokenStreamError):
            await everything(reader)

    run(test)


def test_the_source_waits_for_its_fastest_reader() -> None:
    made = 0

    async def many() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield b"x" * 1_000

    async def test() -> None:
        a_run = run_over(many, max_ahead=10_000)
        reader = read(a_run)
        await anext(reader)
        for _ in range(200):
            await asyncio.sleep(0)
        assert made <= 12
        assert len(await everything(reader)) == 99

    run(test)


def test_the_last_reader_that_leaves_ends_a_run_that_is_not_stored() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"a"
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def test() -> None:
        a_run = run_over(endless)
        first, last = read(a_run), read(a_run)
        await anext(first)
        first.close()
        assert await anext(last) == b"a"
        assert not closed.is_set()
        last.close()
        await a_run.over()
        assert closed.is_set()

    run(test)


def test_a_reader_that_leaves_before_the_first_step_ends_the_run() -> None:
    async def test() -> None:
        a_run = run_over(three)
        reader = read(a_run)
        a_run.start()
        # As a client whose disconnect is there when its response begins.
        reader.close()
        await a_run.over()
        assert end_of(a_run) == Aborted("its client left")

    run(test)


def test_a_run_whose_reader_is_dropped_before_it_starts_is_given_up() -> None:
    closed = asyncio.Event()

    class Source:
        is_exhausted = False

        async def drain(self, stream: Stream) -> None:
            raise AssertionError

        async def close(self) -> None:
            closed.set()

    async def test() -> None:
        a_run = run_of(Source(), max_ahead=1, finish_timeout=1)
        read(a_run)
        await a_run.over()
        assert closed.is_set()

    run(test)


def test_what_belongs_to_the_run_is_done_once_and_only_after_a_complete_one() -> None:
    done = 0

    async def background() -> None:
        nonlocal done
        done += 1

    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise LookupError

    async def test() -> None:
        for chunks, times in ((three, 1), (failing, 1)):
            source = IteratorSource(chunks(), "utf-8")
            a_run = run_of(source, max_ahead=1_000, finish_timeout=1, background=background)
            readers = read(a_run), read(a_run)
            for reader in readers:
                while await _next(reader):
                    pass
            await a_run.over()
            assert done == times

    async def _next(reader: AsyncIterator[bytes]) -> bool:
        try:
            await anext(reader)
        except (StopAsyncIteration, LookupError):
            return False
        return True

    run(test)


class Ending(StreamingResponse):
    """Ends its body whatever happens."""

    async def stream_response(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        try:
            async for chunk in self.body_iterator:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize("error", [LookupError, OSError, asyncio.CancelledError])
def test_a_body_that_is_ended_while_an_exception_passes_is_never_stored(
    cache_url: str, error: type[BaseException]
) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        fails = runs == 1

        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            if fails:
                raise error
            yield b"last"

        return Ending(body())

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        with contextlib.suppress(Exception):
            await get(app)
        answers = [await get(app) for _ in range(2)]
        assert [answer.body for answer in answers] == [b"first last"] * 2
        assert [answer.cache_status for answer in answers] == [MISS, HIT]
        assert runs == 2

    run(test)


def test_a_body_that_is_ended_while_everything_is_cancelled_is_never_stored(
    redis_url: str,
) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=redis_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        hangs = runs == 1

        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            if hangs:
                await asyncio.Event().wait()
            yield b"last"

        return Ending(body())

    app = Starlette(routes=[Route("/", endpoint)])

    async def until_the_first_chunk() -> None:
        exchange = Exchange(app)
        running = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        assert not running.done()

    async def test() -> None:
        answers = [await get(app) for _ in range(2)]
        assert [answer.body for answer in answers] == [b"first last"] * 2
        assert runs == 2

    # As a server does that stops: it ends with its tasks cancelled.
    run(until_the_first_chunk)
    run(test)


def test_a_source_that_cancels_itself_and_goes_on_is_complete(cache_url: str) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1

        async def body() -> AsyncIterator[bytes]:
            task = asyncio.current_task()
            assert task is not None
            for number in range(3):
                # A time-out of its own, which does not uncancel.
                asyncio.get_running_loop().call_later(0.001, task.cancel)
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                yield b"%d " % number

        return StreamingResponse(body())

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        answers = [await get(app) for _ in range(2)]
        assert [answer.body for answer in answers] == [b"0 1 2 "] * 2
        assert all(answer.complete for answer in answers)
        assert [answer.cache_status for answer in answers] == [MISS, HIT]
        assert runs == 1

    run(test)
