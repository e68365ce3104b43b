"""A hit of which the record is long: only its head is read again, and decides what is answered."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.stores.redis import RedisStore
from tests.support.asgi import get
from tests.support.gates import run, runs_over
from tests.support.proxy import DelayProxy
from tests.support.servers import MemcachedServer, RedisServer

HIT = "stream-cached; hit"
COUNT, SIZE = 20, 5000


class App:
    """An application whose body names the run; each one keeps its own entries in memory."""

    def __init__(self, cache: str, runs: list[int], *, streamed: bool) -> None:
        self.runs = runs

        async def chunks(number: int) -> AsyncIterator[bytes]:
            for _ in range(COUNT):
                yield b"%05d" % number * (SIZE // 5)

        @stream_cached(ttl=60, cache=cache, key="long")
        async def endpoint(request: Request) -> Response:
            runs.append(len(runs))
            if streamed:
                return StreamingResponse(chunks(runs[-1]), media_type="text/csv")
            return Response(b"%05d" % runs[-1] * (COUNT * SIZE // 5))

        self.cached: Any = endpoint
        self.app = Starlette(routes=[Route("/", endpoint)])

    async def get(self) -> tuple[int, bool]:
        """Return which run has answered, and whether that was a hit."""
        exchange = await get(self.app)
        await runs_over()
        number = int(exchange.body[:5])
        assert exchange.complete
        assert exchange.body == b"%05d" % number * (COUNT * SIZE // 5)
        return number, exchange.cache_status == HIT


@pytest.fixture
def store(own_redis: RedisServer) -> Iterator[Redis]:
    with contextlib.closing(Redis(port=own_redis.port)) as client:
        yield client


def _record(store: Redis) -> bytes:
    """Return the key of the record, which is the only long one."""
    (key,) = [key for key in store.scan_iter() if store.strlen(key) > SIZE]
    return bytes(key)


def _deleted(store: Redis, key: bytes) -> None:
    store.delete(key)


def _emptied(store: Redis, key: bytes) -> None:
    store.set(key, b"")


def _text(store: Redis, key: bytes) -> None:
    store.set(key, b"text")


def _another_kind(store: Redis, key: bytes) -> None:
    store.delete(key)
    store.rpush(key, b"a", b"b")


def _damaged(store: Redis, key: bytes) -> None:
    store.setrange(key, 20, b"\0\1\2")


def _cut_within_its_head(store: Redis, key: bytes) -> None:
    store.set(key, store.getrange(key, 0, 99))


def _without_versions(store: Redis, key: bytes) -> None:
    store.delete(*[other for other in store.scan_iter() if other != key])


@pytest.mark.parametrize(
    "change",
    [
        _deleted,
        _emptied,
        _text,
        _another_kind,
        _damaged,
        _cut_within_its_head,
        _without_versions,
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_not_the_same_in_the_store_is_a_miss(
    own_redis: RedisServer, store: Redis, change: Callable[[Redis, bytes], None], streamed: bool
) -> None:
    async def main() -> None:
        app = App(own_redis.url(), [], streamed=streamed)
        assert await app.get() == (0, False)
        for _ in range(5):
            assert await app.get() == (0, True)
        change(store, _record(store))
        assert await app.get() == (1, False)
        assert await app.get() == (1, True)

    run(main)


@pytest.mark.parametrize("kind", ["redis", "memcached"])
@pytest.mark.parametrize("streamed", [True, False])
def test_what_another_process_has_stored_is_what_is_answered(
    kind: str, streamed: bool, namespace: str, request: pytest.FixtureRequest
) -> None:
    base = f"{request.getfixturevalue(f'{kind}_url')}?namespace={namespace}"

    async def main() -> None:
        runs: list[int] = []
        # Of two URLs, each one has its own memory of what it has read.
        app, other = (App(f"{base}&timeout={n}", runs, streamed=streamed) for n in (6, 7))
        assert await app.get() == (0, False)
        for each in (app, other) * 5:
            assert await each.get() == (0, True)
        await other.cached.invalidate()
        # Of the same size.
        assert await other.get() == (1, False)
        for each in (app, other) * 5:
            assert await each.get() == (1, True)

    run(main)


@pytest.mark.parametrize("streamed", [True, False])
def test_of_memcached_only_the_size_and_the_token_of_a_record_are_read(
    streamed: bool, namespace: str, memcached_server: MemcachedServer
) -> None:
    async def main() -> None:
        with DelayProxy(memcached_server.port, scheme="memcached") as proxy:
            app = App(proxy.url(namespace=namespace), [], streamed=streamed)
            await app.get()
            for _ in range(4):
                assert await app.get() == (0, True)
            replied = proxy.replied
            assert await app.get() == (0, True)
            assert proxy.replied - replied < 1000
            memcached_server.execute("flush_all")
            assert await app.get() == (1, False)
            assert await app.get() == (1, True)

    run(main)


@pytest.mark.parametrize("streamed", [True, False])
def test_where_parts_of_values_may_not_be_read_the_whole_record_is(
    own_redis: RedisServer, store: Redis, streamed: bool
) -> None:
    async def main() -> None:
        app = App(own_redis.url(), [], streamed=streamed)
        await app.get()
        own_redis.execute("ACL", "SETUSER", "default", "-getrange")
        for _ in range(5):
            assert await app.get() == (0, True)
        _deleted(store, _record(store))
        assert await app.get() == (1, False)

    run(main)


@pytest.mark.parametrize("forbidden", [True, False])
def test_where_the_server_refuses_parts_of_values_no_long_body_is_read_at_once(
    forbidden: bool,
) -> None:
    reads: list[int] = []
    compared: list[Any] = []
    of_store: Any = RedisStore._read
    compares: Any = RedisStore._read_starts

    async def noting(self: RedisStore, natives: tuple[Any, ...]) -> Any:
        reads.append(len(natives))
        return await of_store(self, natives)

    async def noting_starts(self: RedisStore, place: Any) -> Any:
        compared.append(place)
        return await compares(self, place)

    async def main(server: RedisServer) -> None:
        if forbidden:
            server.execute("ACL", "SETUSER", "default", "-getrange")

        @stream_cached(ttl=60, cache=server.url())
        async def endpoint(request: Request) -> Response:
            async def chunks() -> AsyncIterator[bytes]:
                for _ in range(20):
                    yield bytes(100_000)

            return StreamingResponse(chunks(), media_type="text/csv")

        app = Starlette(routes=[Route("/", endpoint)])
        with mock.patch.multiple(RedisStore, _read=noting, _read_starts=noting_starts):
            for number in range(6):
                exchange = await get(app)
                await runs_over()
                assert len(exchange.body) == 2_000_000
                assert exchange.cache_status == HIT or not number
        # Four segments at once, of eight; a record, with what it depends on.
        assert (max(reads), len(compared)) == (4, 1)

    options = () if forbidden else ("--rename-command", "GETRANGE", "")
    with RedisServer(*options) as server:
        run(partial(main, server))
