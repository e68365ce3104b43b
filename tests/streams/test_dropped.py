"""Responses that are dropped, read in part or sent late, and readers whose client has left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.support.asgi import Exchange, get
from tests.support.gates import run
from tests.support.runs import HIT, MISS

pytestmark = pytest.mark.usefixtures("apps_are_processes")

Wrapper = Callable[[Request], Awaitable[Response]]

_sizes = itertools.count(1 << 25)


def memory() -> str:
    """A store that no other test has: equal URLs share one."""
    return f"memory://?max_bytes={next(_sizes)}"


async def nothing_pending() -> None:
    """Wait for whatever still runs; one that never ends is a TimeoutError of the test."""
    gc.collect()
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


async def some_turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def serving(wrapper: Wrapper) -> Starlette:
    return Starlette(routes=[Route("/", wrapper)])


class Source:
    """A stream of ten chunks, or endless, which can be held after its first."""

    def __init__(self, chunk: bytes = b"x" * 100, *, endless: bool = False) -> None:
        self.chunk = chunk
        self.endless = endless
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = asyncio.Event()
        self.runs = 0

    @property
    def body(self) -> bytes:
        return self.chunk * 10

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            yield self.chunk
            await self.gate.wait()
            for _ in itertools.count() if self.endless else range(9):
                yield self.chunk
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def __call__(self, request: Request) -> Response:
        self.runs += 1
        return StreamingResponse(self.chunks())


def replacing(cached: Wrapper) -> Wrapper:
    """Reads one chunk, and returns something else."""

    async def wrapper(request: Request) -> Response:
        response = await cached(request)
        assert isinstance(response, StreamingResponse)
        async for _ in response.body_iterator:
            return PlainTextResponse("something else")
        raise AssertionError

    return wrapper


def impatient(cached: Wrapper) -> Wrapper:
    """Gives up after some chunks, while it waits for the next."""

    async def wrapper(request: Request) -> Response:
        response = await cached(request)
        assert isinstance(response, StreamingResponse)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as bound:
                async for _ in response.body_iterator:
                    bound.reschedule(loop.time())
                    await asyncio.Event().wait()
        except TimeoutError:
            return PlainTextResponse("something else")
        raise AssertionError

    return wrapper


def impatient_of_the_source(cached: Wrapper) -> Wrapper:
    """Gives up while the source is slow."""

    async def wrapper(request: Request) -> Response:
        response = await cached(request)
        assert isinstance(response, StreamingResponse)
        iterator = aiter(response.body_iterator)
        await anext(iterator)
        try:
            async with asyncio.timeout(0):
                await anext(iterator)
        except TimeoutError:
            return PlainTextResponse("something else")
        raise AssertionError

    return wrapper


each_wrapper = pytest.mark.parametrize("wrap", [replacing, impatient, impatient_of_the_source])


@pytest.mark.matrix
@each_wrapper
def test_a_response_that_is_read_in_part_and_dropped_is_stored_all_the_same(
    cache_url: str, wrap: Callable[[Wrapper], Wrapper]
) -> None:
    async def test() -> None:
        source = Source()
        cached = stream_cached(ttl=60, cache=cache_url)(source.__call__)
        if wrap is impatient_of_the_source:
            source.gate.clear()
        assert (await get(serving(wrap(cached)))).body == b"something else"
        source.gate.set()
        await source.closed.wait()
        await nothing_pending()
        hit = await get(serving(cached))
        assert hit.cache_status == HIT
        assert hit.body == source.body
        assert source.runs == 1

    run(test)


@each_wrapper
def test_the_run_of_a_dropped_response_that_is_not_stored_is_closed_at_once(
    wrap: Callable[[Wrapper], Wrapper],
) -> None:
    async def test() -> None:
        source = Source(b"x" * 1000, endless=True)
        cached = stream_cached(ttl=60, cache=memory(), max_body=20_000)(source.__call__)
        if wrap is impatient_of_the_source:
            source.gate.clear()
        assert (await get(serving(wrap(cached)))).body == b"something else"
        source.gate.set()
        await source.closed.wait()
        await nothing_pending()

    run(test)


def test_a_response_that_is_dropped_unread_leaves_nothing_behind() -> None:
    async def test() -> None:
        source = Source(endless=True)
        cached = stream_cached(ttl=60, cache=memory())(source.__call__)

        async def wrapper(request: Request) -> Response:
            await cached(request)
            return PlainTextResponse("something else")

        assert (await get(serving(wrapper))).body == b"something else"
        await nothing_pending()
        assert source.runs == 1

    run(test)


def test_a_hit_that_is_read_in_part_and_dropped_costs_nothing(cache_url: str) -> None:
    async def test() -> None:
        source = Source(b"x" * 300_000)
        cached = stream_cached(ttl=60, cache=cache_url)(source.__call__)
        await get(serving(cached))
        assert (await get(serving(replacing(cached)))).body == b"something else"
        await nothing_pending()
        assert (await get(serving(cached))).body == source.body
        assert source.runs == 1

    run(test)


def test_the_body_can_be_read_in_aclosing_on_a_miss_and_on_a_hit(cache_url: str) -> None:
    async def test() -> None:
        source = Source()
        cached = stream_cached(ttl=60, cache=cache_url)(source.__call__)
        states = []

        async def wrapper(request: Request) -> Response:
            response = await cached(request)
            states.append(response.headers["Cache-Status"])
            iterator = response.body_iterator  # type: ignore[attr-defined]
            async with contextlib.aclosing(iterator) as chunks:
                return Response(b"".join([chunk async for chunk in chunks]))

        answers = [await get(serving(wrapper)) for _ in range(3)]
        assert [answer.body for answer in answers] == [source.body] * 3
        assert states == [MISS, HIT, HIT]
        await nothing_pending()

    run(test)


def test_aclosing_after_one_chunk_leaves_the_rest_to_the_store(cache_url: str) -> None:
    async def test() -> None:
        source = Source(b"x" * 300_000)
        cached = stream_cached(ttl=60, cache=cache_url)(source.__call__)

        async def wrapper(request: Request) -> Response:
            response = await cached(request)
            iterator = response.body_iterator  # type: ignore[attr-defined]
            async with contextlib.aclosing(iterator) as chunks:
                return Response(await anext(chunks))

        assert (await get(serving(wrapper))).body == source.chunk
        await nothing_pending()
        for _ in range(2):
            assert (await get(serving(wrapper))).body == source.chunk
        hit = await get(serving(cached))
        assert (hit.cache_status, hit.body) == (HIT, source.body)
        await nothing_pending()

    run(test)


@pytest.mark.parametrize("seconds", [60, 599, 3600, 86400])
def test_a_response_that_is_sent_long_after_it_was_returned_is_whole(
    monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    async def test() -> None:
        loop, source = asyncio.get_running_loop(), Source()
        cached = stream_cached(ttl=60, cache=memory())(source.__call__)
        time = loop.time

        async def wrapper(request: Request) -> Response:
            response = await cached(request)
            monkeypatch.setattr(loop, "time", lambda: time() + seconds)
            await some_turns()
            return response

        answer = await get(serving(wrapper))
        assert answer.complete
        assert answer.body == source.body
        assert source.runs == 1
        await nothing_pending()

    asyncio.run(test())


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_class_based_endpoint_does_not_see_its_client_leave_while_it_is_recorded(
    cache_url: str, spec_version: str
) -> None:
    async def test() -> None:
        asked: list[bool] = []
        gone = asyncio.Event()

        class Page(HTTPEndpoint):
            @stream_cached(ttl=60, cache=cache_url)
            async def get(self, request: Request) -> Response:
                client = Request(self.scope, self.receive)

                async def body() -> AsyncIterator[bytes]:
                    yield b"first "
                    await gone.wait()
                    for _ in range(3):
                        asked.append(await client.is_disconnected())
                        if asked[-1]:
                            return
                        yield b"next "

                return StreamingResponse(body())

        exchange = Exchange(Page, spec_version)
        running = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        exchange.left.set()
        await some_turns()
        gone.set()
        with contextlib.suppress(ClientDisconnect):  # which is how it ends from 2.4 on
            await running
        await nothing_pending()
        assert asked == [False] * 3
        hit = await get(Page)
        assert hit.cache_status == HIT
        assert hit.complete
        assert hit.body == b"first next next next "

    run(test)


@pytest.mark.matrix
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("based", [True, False], ids=["class-based", "function"])
def test_the_time_to_finish_begins_when_the_client_leaves(spec_version: str, based: bool) -> None:
    async def test() -> None:
        source = Source(endless=True)
        decorate = stream_cached(ttl=60, cache=memory(), max_body="1MiB", finish_timeout=0.001)
        cached = decorate(source.__call__)

        class Page(HTTPEndpoint):
            @decorate
            async def get(self, request: Request) -> Response:
                return await source(request)

        source.gate.clear()  # not before the client has left, and then never
        exchange = Exchange(Page if based else serving(cached), spec_version)
        running = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        exchange.left.set()
        if spec_version == "2.4":  # it is noticed by sending only
            source.gate.set()
        with contextlib.suppress(ClientDisconnect):
            await running
        await nothing_pending()
        assert source.closed.is_set()

    run(test)
