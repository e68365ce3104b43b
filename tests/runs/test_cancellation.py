"""A run that is cancelled at any of its await points: nothing is left of it, and others go on."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import MemoryCache, stream_cached
from stream_cached.entries.body import RUN_TTL
from stream_cached.tasks import running_here
from tests.support.asgi import Exchange
from tests.support.gates import wait_until
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT, segments
from tests.support.servers import RedisServer
from tests.support.suspensions import Suspensions

#: Seconds within which all that a run began has to be over, and the next client to be answered:
#: fewer than a lease lives.
SOON = 2.0

#: More than any ttl that the library gives to anything of an entry that lives for a minute.
LONG = 10_000.0

#: Suspensions after which a task is taken for one that never ends.
MOST = 500


class Store(Protocol):
    """A store, and what stands in it."""

    @property
    def cache(self) -> Any:
        """What the decorator takes."""
        ...

    def all(self) -> set[str]:
        """All keys."""
        ...

    def without_ttl(self) -> set[str]:
        """Those that never expire."""
        ...

    def until_stored(self) -> set[str]:
        """Those that expire as early as what a run writes that is not stored yet."""
        ...


class Memory:
    """The embedded store, whose clock can be put forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cache = MemoryCache(max_bytes=64 << 20, clock=lambda: self.now)

    def all(self) -> set[str]:
        return set(self.cache.sizes())

    def without_ttl(self) -> set[str]:
        self.now += LONG
        return self.all()

    def until_stored(self) -> set[str]:
        before = self.all()
        self.now += RUN_TTL
        return before - self.all()


class Redis:
    """A Redis that is empty at first."""

    def __init__(self, url: str, port: int) -> None:
        # A machine that is busy is no outage.
        self.cache = f"{url}?timeout=5"
        self._keyspace = Keyspace(port)

    def all(self) -> set[str]:
        return {key.decode() for key in self._keyspace.run("KEYS", "*")}

    def without_ttl(self) -> set[str]:
        return {key for key in self.all() if self._keyspace.run("PTTL", key) == -1}

    def until_stored(self) -> set[str]:
        return {key for key in self.all() if 0 <= self._keyspace.run("TTL", key) <= RUN_TTL}


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return Memory()
    server: RedisServer = request.getfixturevalue("redis_server")
    return Redis(request.getfixturevalue("redis_url"), server.port)


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


class Endpoint:
    """An endpoint whose every run has another body, of several segments or of one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.bodies: list[bytes] = []
        self.open = 0
        """How many generators have begun and were not closed."""
        self.on_begin: Callable[[], object] = lambda: None
        self.on_end: Callable[[], object] = lambda: None
        """Called in the task that a body is made in, when that begins, and when it has ended."""

    async def __call__(self, request: Request) -> Response:
        await asyncio.sleep(0)
        size = 1000 if self.kind == "short" else 150_000
        chunks = [os.urandom(size) for _ in range(3)]
        body = b"".join(chunks)
        if self.kind == "at hand":
            self.bodies.append(body.hex().encode())
            return Response(self.bodies[-1])
        self.bodies.append(body)
        made = self.made(chunks)
        return Sending(made) if self.kind == "own messages" else StreamingResponse(made)

    async def made(self, chunks: list[bytes]) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            self.on_begin()
            for chunk in chunks:
                await asyncio.sleep(0)
                yield chunk
            await asyncio.sleep(0)
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.open -= 1
                self.on_end()


class Trial:
    """One run after the other of one endpoint, each under a key of its own."""

    def __init__(self, store: Store, kind: str) -> None:
        self.store = store
        self.endpoint = Endpoint(kind)
        cached = stream_cached(ttl=60, cache=store.cache, inline_max="64KiB")
        self.app = Starlette(routes=[Route("/{name}", cached(self.endpoint.__call__))])

    def is_whole(self, exchange: Exchange) -> bool:
        return exchange.complete and exchange.body in self.endpoint.bodies

    async def asks(self, path: str) -> Exchange:
        """Ask, and see that what comes does not end cleanly unless it is whole."""
        exchange = Exchange(self.app, path=path)
        try:
            await exchange.run()
        except (Exception, asyncio.CancelledError):
            assert not exchange.complete or self.is_whole(exchange)
        else:
            assert self.is_whole(exchange)
        return exchange

    async def is_over(self, path: str) -> None:
        """See that nothing is left, and that who comes next is answered."""
        async with asyncio.timeout(SOON):
            while running_here():
                await asyncio.wait(running_here())
            if self.endpoint.open:
                gc.collect()
            # What was dropped is closed by a task of the event loop's own.
            await asyncio.sleep(0)
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
        assert self.endpoint.open == 0
        async with asyncio.timeout(SOON):
            following = Exchange(self.app, path=path)
            await following.run()
            assert self.is_whole(following)
            hit = Exchange(self.app, path=path)
            await hit.run()
            assert (hit.cache_status, hit.body) == (HIT, following.body)

    async def of_many(self, path: str, readers: int) -> None:
        """Let so many ask at once; see that they are answered, and that nothing is left."""
        async with asyncio.timeout(SOON):
            await asyncio.gather(*(self.asks(path) for _ in range(readers)))
        await self.is_over(path)

    def has_left_nothing(self) -> None:
        """See that of runs that were not stored nothing is in the store, nor anything for ever."""
        # A lease that was released is there for a millisecond.
        wait_until(lambda: not any(":lease:" in key for key in self.store.all()))
        assert not segments(self.store.until_stored())
        assert not self.store.without_ttl()


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


KINDS = ["stream", "short", "own messages", "at hand"]


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, each: complaints.append(each))
        await test()

    asyncio.run(main())
    assert not complaints


@pytest.mark.matrix
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_is_cancelled_anywhere_leaves_nothing(
    store: Store, kind: str, others: int
) -> None:
    trial = Trial(store, kind)

    async def test() -> None:
        suspensions = Suspensions()
        for number in range(1, MOST):
            path = f"/{number}"
            task = asyncio.create_task(trial.asks(path))
            suspensions.cancel(task, number)
            readers = [asyncio.create_task(trial.asks(path)) for _ in range(others)]
            async with asyncio.timeout(SOON):
                await asyncio.gather(task, *readers)
            await trial.is_over(path)
            if suspensions.cancelled < number:
                break
        assert 0 < suspensions.cancelled < MOST - 1

    in_a_loop(test)
    trial.has_left_nothing()


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["stream", "short", "own messages"])
def test_a_source_that_is_cancelled_anywhere_leaves_nothing(store: Store, kind: str) -> None:
    trial = Trial(store, kind)

    async def test() -> None:
        suspensions = Suspensions()
        trial.endpoint.on_end = lambda: suspensions.spare(this_task())
        for number in range(1, MOST):
            # Only in the first run of each key.
            begins = iter([lambda number=number: suspensions.cancel(this_task(), number)])
            trial.endpoint.on_begin = lambda begins=begins: next(begins, int)()  # type: ignore[misc]
            await trial.of_many(f"/{number}", 2)
            if suspensions.cancelled < number:
                break
        assert 5 < suspensions.cancelled < MOST - 1

    in_a_loop(test)
    trial.has_left_nothing()


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["stream", "short"])
def test_a_producer_that_is_cancelled_after_its_last_chunk_leaves_nothing(
    store: Store, kind: str
) -> None:
    trial = Trial(store, kind)

    async def test() -> None:
        suspensions = Suspensions()
        for number in range(1, MOST):
            ends = iter([lambda number=number: suspensions.cancel(this_task(), number)])
            trial.endpoint.on_end = lambda ends=ends: next(ends, int)()  # type: ignore[misc]
            await trial.of_many(f"/{number}", 2)
            if suspensions.cancelled < number:
                break
        # What follows the last chunk has a task of its own.
        assert suspensions.cancelled < MOST - 1

    in_a_loop(test)
    trial.has_left_nothing()
