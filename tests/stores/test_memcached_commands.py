"""Values, and sizes of values, that are read from memcached in one round trip."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest import mock

import pytest
from aiocache import MemcachedCache
from aiomcache import Client
from aiomcache.exceptions import ClientException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.connections.deadline import Deadline, allowed
from stream_cached.connections.time_limit import TimeLimit
from stream_cached.errors import StoreError
from stream_cached.format.envelope import State, pack
from stream_cached.stores import memcached
from stream_cached.stores.memcached import MemcachedStore
from stream_cached.stores.memcached_commands import Pool, _sizes, _values, can_read, has_sizes, read
from tests.support.asgi import get
from tests.support.gates import run, runs_over
from tests.support.proxy import DelayProxy
from tests.support.servers import MemcachedServer

AWKWARD = b"\r\nEND\r\nVALUE b 0 3 1\r\nabc\r\nEN\r\nHD s5 c1\r\n"


def _client(server: MemcachedServer) -> Client:
    client: Any = Client("127.0.0.1", server.port, pool_size=1)
    client._pool = Pool(client._pool, 1, 30)
    of_aiomcache: Client = client
    return of_aiomcache


def test_values_and_sizes_are_those_that_were_set(memcached_server: MemcachedServer) -> None:
    async def main() -> None:
        client, large = _client(memcached_server), bytes(range(256)) * 4000
        values = {b"a": AWKWARD, b"b": b"", b"c": large, b"d": b"\r\n", b"e": large[1:]}
        for key, value in values.items():
            await client.set(key, value)
        none = b"none"
        assert await read(client, [none]) == ({}, [])
        found, sizes = await read(client, [*values, none], [b"a", none, b"b", b"c"])
        assert {key: value for key, (value, _) in found.items()} == values
        tokens = {key: token for key, (_, token) in found.items()}
        assert len({*tokens.values()}) == len(values)
        of_c = len(large), tokens[b"c"]
        assert sizes == [(len(AWKWARD), tokens[b"a"]), None, (0, tokens[b"b"]), of_c]
        # What is set once more has another token, and what is touched has the same.
        await client.touch(b"c", 60)
        assert await read(client, [none], [b"c"]) == ({}, [of_c])
        await client.set(b"c", large)
        (again,) = (await read(client, [none], [b"c"]))[1]
        assert again is not None
        assert again[0] == of_c[0]
        assert again[1] != of_c[1]
        await client.close()

    run(main)


def test_a_value_of_another_client_with_flags_is_a_value(memcached_server: MemcachedServer) -> None:
    async def main() -> None:
        client = _client(memcached_server)
        memcached_server.execute("set k 17 0 5\r\nvalue")
        found, sizes = await read(client, [b"k"], [b"k"])
        assert found[b"k"][0] == b"value"
        assert sizes == [(5, found[b"k"][1])]
        await client.close()

    run(main)


REPLY = (
    b"VALUE a 0 %d 7\r\n%b\r\n" % (len(AWKWARD), AWKWARD)
    + b"VALUE b 7 0 8\r\n\r\nVALUE c 0 2 99\r\n\r\n\r\nEND\r\n"
    + b"HD s12 c3\r\nEN\r\nHD s0 c4\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 40, 1000])
def test_a_reply_is_understood_however_it_comes_in(size: int) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()

        async def feed() -> None:
            for at in range(0, len(REPLY), size):
                reader.feed_data(REPLY[at : at + size])
                await asyncio.sleep(0)

        feeding = asyncio.create_task(feed())
        values, rest = await _values(reader)
        assert values == {b"a": (AWKWARD, b"7"), b"b": (b"", b"8"), b"c": (b"\r\n", b"99")}
        assert await _sizes(reader, rest, 3) == [(12, b"3"), None, (0, b"4")]
        await feeding

    run(main)


def test_a_reply_that_is_cut_anywhere_is_no_reply() -> None:
    async def main() -> None:
        for end in range(len(REPLY)):
            reader = asyncio.StreamReader()
            reader.feed_data(REPLY[:end])
            reader.feed_eof()
            with pytest.raises(EOFError):
                await _sizes(reader, (await _values(reader))[1], 3)

    run(main)


@pytest.mark.parametrize(
    "reply",
    [
        b"SERVER_ERROR out of memory\r\n",
        b"ERROR\r\n",
        b"VALUE a 0 x 1\r\n",
        b"VALUE a 0 1 1\r\na\r\nCLIENT_ERROR bad\r\nEND\r\n",
        b"END\r\nSERVER_ERROR busy\r\n",
        b"END\r\nHD\r\n",
        b"END\r\nHD s5\r\n",
        b"END\r\nVALUE a 0 1 1\r\na\r\n",
        b"VALUE a 0 1\r\na\r\nEND\r\n",
    ],
)
def test_what_is_no_reply_to_it_is_an_error(reply: bytes) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(reply)
        with pytest.raises(ClientException, match="get failed"):
            await _sizes(reader, (await _values(reader))[1], 1)

    run(main)


def test_a_call_that_is_cancelled_leaves_no_reply_to_the_next_one(
    memcached_server: MemcachedServer,
) -> None:
    async def main() -> None:
        with DelayProxy(memcached_server.port, scheme="memcached") as proxy:
            client: Any = Client("127.0.0.1", proxy.port, pool_size=1)
            client._pool = Pool(client._pool, 1, 30)
            await client.set(b"a", b"1")
            await client.set(b"b", b"2")
            proxy.holding, requested = True, proxy.requested
            waiting = asyncio.create_task(read(client, [b"a"], [b"b"]))
            while proxy.requested == requested:  # noqa: ASYNC110
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            proxy.holding = False
            assert (await read(client, [b"b"]))[0][b"b"][0] == b"2"
            await client.close()

    run(main)


@pytest.mark.parametrize(
    "key", [b"", b"a b\r\nflush_all", b"a\nb", b"a\0b", b"a\x7fb", b"k" * 251, b"a\tb"]
)
def test_keys_that_would_be_more_than_keys_are_left_to_the_client(key: bytes) -> None:
    async def main() -> None:
        client = Client("127.0.0.1", 1)
        assert can_read(client, [b"a", b"k" * 250, "k\u00e4y".encode()])
        assert not can_read(client, [key])
        assert not can_read(client, [b"a", key])

    run(main)


class _Own(Client):
    """A client of the user's."""


def test_a_client_that_was_changed_reads_itself() -> None:
    async def main() -> None:
        keys, client = [b"a"], Client("127.0.0.1", 1)
        for name in ("get", "multi_get", "_multi_get"):
            with mock.patch.object(client, name):
                assert not can_read(client, keys)
        assert can_read(client, keys)
        assert not can_read(_Own("127.0.0.1", 1), keys)

    run(main)


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        (b"1.6.18", True),
        (b"1.6.0_beta1", True),
        (b"1.10.2", True),
        (b"1.5.22", False),
        (b"1.4.33", False),
        (b"mcrouter 1.0", False),
        (b"twemproxy", False),
    ],
)
def test_sizes_are_asked_for_where_the_server_knows_them(version: bytes, knows: bool) -> None:
    async def main() -> None:
        with mock.patch.object(Client, "version", return_value=version):
            assert await has_sizes(Client("127.0.0.1", 1)) is knows

    run(main)


def _value(number: int, body: bytes) -> bytes:
    return pack(State.SEGMENT, bytes(16), number, ((len(body),), False), body)


@contextlib.asynccontextmanager
async def _store(
    server: MemcachedServer, time_limit: TimeLimit | None = None
) -> AsyncIterator[MemcachedStore]:
    cache = MemcachedCache(port=server.port)
    try:
        yield MemcachedStore(cache, 5, time_limit)
    finally:
        await cache.close()


@pytest.mark.parametrize("version", [None, b"1.5.1"])
def test_values_are_compared_with_what_they_are_to_begin_with(
    memcached_server: MemcachedServer, version: bytes | None
) -> None:
    async def main() -> None:
        async with _store(memcached_server) as store:
            if version is not None:
                store.cache.client.version = mock.AsyncMock(return_value=version)
            first, second = _value(0, b"a" * 5000), _value(1, b"b" * 7)
            await store.set_many([("one", first), ("two", second), ("v", b"version")], 60)
            starts = {"one": first[:64], "two": second[:64]}
            assert await store.get_many_and_compare(["v"], starts) == ([b"version"], True)
            assert await store.get_many_and_compare(["x", "v"], starts) == (
                [None, b"version"],
                True,
            )
            for key, changed in [("one", b""), ("two", second[1:]), ("one", first[:60])]:
                await store.set_many([(key, changed)], 60)
                assert await store.get_many_and_compare(["v"], starts) == ([b"version"], False)
                await store.set_many([("one", first), ("two", second)], 60)
            await store.delete_many(["two"])
            assert await store.get_many_and_compare(["v"], starts) == ([b"version"], False)

    run(main)


def test_a_record_that_was_replaced_by_one_of_its_size_is_not_the_same(
    memcached_server: MemcachedServer,
) -> None:
    first, second = (
        pack(State.ENTRY, bytes([n]) * 16, 0, {"n": n}, bytes([n]) * 50_000) for n in (1, 2)
    )
    assert len(first) == len(second)

    async def main() -> None:
        async with _store(memcached_server) as store:
            await store.set_many([("r", first), ("v", b"version")], 60)
            starts = {"r": first[:70]}
            # Nothing was read before: now it is, as a whole.
            assert await store.get_many_and_compare(["v"], starts) == ([b"version"], True)
            with mock.patch.object(store, "get_many", side_effect=AssertionError):
                assert await store.get_many_and_compare(["v"], starts) == ([b"version"], True)
                await store.set_many([("r", second)], 60)
                assert await store.get_many_and_compare(["v"], starts) == ([b"version"], False)
            assert await store.get_many(["r"]) == [second]
            assert await store.get_many_and_compare(["v"], starts) == ([b"version"], False)
            with mock.patch.object(store, "get_many", side_effect=AssertionError):
                compared = await store.get_many_and_compare(["v"], {"r": second[:70]})
                assert compared == ([b"version"], True)

    run(main)


REFUSALS = [
    ClientException("get failed", b"ERROR"),
    ClientException("get failed", b"CLIENT_ERROR bad command"),
    EOFError("the server has closed the connection"),
    ConnectionResetError(),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_where_sizes_are_refused_whole_values_are_compared(
    memcached_server: MemcachedServer, refusal: Exception
) -> None:
    asked: list[int] = []

    async def refusing(client: Any, keys: Sequence[bytes], others: Sequence[bytes] = ()) -> Any:
        if others:
            asked.append(len(others))
            raise refusal
        return await read(client, keys)

    async def main() -> None:
        outages: list[StoreError] = []
        async with _store(memcached_server, TimeLimit(on_failure=outages.append)) as store:
            values = [(f"k{n}", _value(n, b"a" * 100)) for n in range(5)]
            await store.set_many([("v", b"version"), *values], 60)
            starts = {key: value[:64] for key, value in values[:4]}
            with mock.patch.object(memcached, "read", refusing):
                for _ in range(2):
                    assert await store.get_many_and_compare(["v"], starts) == ([b"version"], True)
                # These are not read at once.
                starts = {key: value[:64] for key, value in values}
                assert await store.get_many_and_compare(["v"], starts) == ([b"version"], False)
        assert (asked, outages) == ([4], [])

    run(main)


def test_what_is_read_after_a_refusal_has_the_rest_of_the_time_out(
    memcached_server: MemcachedServer,
) -> None:
    limits: list[float | None] = []
    of_store = MemcachedStore.get_many

    async def noting(self: MemcachedStore, keys: Sequence[str]) -> list[bytes | None]:
        limits.append(allowed(None))
        return await of_store(self, keys)

    async def main() -> None:
        async with _store(memcached_server) as store:
            value = _value(0, b"a")
            await store.set_many([("v", b"version"), ("k", value)], 60)
            store.cache.client.version = mock.AsyncMock(return_value=b"1.5.1")
            with mock.patch.object(MemcachedStore, "get_many", noting):
                for outer in (contextlib.nullcontext(), Deadline(3)):
                    store.may_compare = True
                    with outer:
                        found = await store.get_many_and_compare(["v"], {"k": value[:64]})
                    assert found == ([b"version"], True)

    run(main)
    alone, within = limits
    assert alone is not None
    assert within is not None
    assert 3 < alone < 5
    assert 0 < within < 3


@pytest.mark.parametrize(
    "failure",
    [
        ClientException("get failed", b"SERVER_ERROR out of memory"),
        EOFError("the server has closed the connection"),
        ConnectionResetError(),
    ],
)
def test_sizes_are_asked_for_again_after_a_failure_of_the_server(
    memcached_server: MemcachedServer, failure: Exception
) -> None:
    async def main() -> None:
        async with _store(memcached_server) as store:
            value = _value(0, b"a")
            await store.set_many([("v", b"version"), ("k", value)], 60)
            starts = {"k": value[:64]}
            assert await store.get_many_and_compare(["v"], starts) == ([b"version"], True)
            with (
                mock.patch.object(memcached, "read", side_effect=failure),
                pytest.raises(StoreError),
            ):
                await store.get_many_and_compare(["v"], starts)
            assert store.may_compare
            assert await store.get_many_and_compare(["v"], starts) == ([b"version"], True)

    run(main)


def test_a_server_that_is_away_is_a_store_error() -> None:
    async def main() -> None:
        store = MemcachedStore(MemcachedCache(port=1), 5)
        with pytest.raises(StoreError):
            await store.get_many_and_compare(["v"], {"k": _value(0, b"a")[:64]})

    run(main)


def test_a_long_body_that_this_process_keeps_is_not_read_again(
    memcached_server: MemcachedServer, namespace: str
) -> None:
    runs: list[int] = []

    async def main() -> None:
        with DelayProxy(memcached_server.port, scheme="memcached") as proxy:

            @stream_cached(ttl=60, cache=proxy.url(namespace=namespace))
            async def endpoint(request: Request) -> StreamingResponse:
                runs.append(len(runs))

                async def chunks() -> AsyncIterator[bytes]:
                    for _ in range(20):
                        yield b"%d" % len(runs) * 100_000

                return StreamingResponse(chunks(), media_type="text/csv")

            app = Starlette(routes=[Route("/", endpoint)])

            async def body() -> bytes:
                exchange = await get(app)
                await runs_over()
                assert exchange.complete
                assert set(exchange.body) == {ord(b"%d" % len(runs))}
                return exchange.body

            for _ in range(4):
                assert len(await body()) == 2_000_000
            replied = proxy.replied
            assert len(await body()) == 2_000_000
            assert proxy.replied - replied < 2_000
            assert runs == [0]
            # What has gone from the store is not answered from here.
            memcached_server.execute("flush_all")
            assert len(await body()) == 2_000_000
            assert runs == [0, 1]

    run(main)
