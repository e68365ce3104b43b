"""One class holds every store to the guarantees of `stream_cached.stores.protocol.Store`."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiocache
import pytest
from aiocache.base import BaseCache
from cashews import Cache
from cashews.backends.diskcache import DiskCache
from cashews.backends.memory import Memory
from redis.asyncio.client import Pipeline

from stream_cached.cashews.stores import CashewsDisk, CashewsDiskStore, CashewsMemory
from stream_cached.cashews.views import view_of
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.stores.aiocache import AiocacheStore
from stream_cached.stores.memcached import MemcachedStore
from stream_cached.stores.memory import MemoryCache, MemoryStore
from stream_cached.stores.protocol import (
    FOREIGN,
    Commit,
    Release,
    Store,
    add_and_get_many,
    commit_at_once,
    compare_and_delete,
    look_and_claim,
    may_claim,
)
from stream_cached.stores.redis import RedisStore
from stream_cached.stores.signed import SignedStore
from stream_cached.stores.transformed import CompressedStore
from tests.support.gates import wait_until
from tests.support.process import HOST, ROOT, ServerProcess
from tests.support.proxy import DelayProxy
from tests.support.servers import MemcachedServer, RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.every_store]

DAY = 24 * 60 * 60
BYTES = bytes(range(256)) + b"\xff\xfe\x00\r\n END\r\n $5\r\n"
AWKWARD_KEYS = [
    "k" * 2000,
    "a key\nwith\r\nlines\tand \0 controls",
    "schlüssel 🔑 " * 200,
    "lone surrogate \udc80",
    "get other\r\nflush_all\r\n",
    "",
]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class DictCache(BaseCache):  # type: ignore[misc]
    """What a user writes: only what aiocache asks for, over a dict and a clock."""

    NAME = "dict"

    def __init__(self, clock: Clock, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clock = clock
        self.items: dict[str, tuple[Any, float | None]] = {}

    def _deadline(self, ttl: float | None) -> float | None:
        return self.clock() + ttl if ttl else None

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        value, deadline = self.items.get(key, (None, None))
        if deadline is not None and deadline <= self.clock():
            return None
        return value.decode(encoding) if encoding and isinstance(value, bytes) else value

    async def _multi_get(
        self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        return [await self._get(key, encoding) for key in keys]

    async def _set(
        self,
        key: str,
        value: Any,
        ttl: float | None = None,
        _cas_token: Any = None,
        _conn: Any = None,
    ) -> bool:
        if _cas_token is not None and await self._get(key, None) != _cas_token:
            return False
        self.items[key] = value, self._deadline(ttl)
        return True

    async def _add(self, key: str, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if await self._get(key, None) is not None:
            raise ValueError(f"{key} is there")
        return await self._set(key, value, ttl)

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return await self._get(key, None) is not None

    async def _expire(self, key: str, ttl: float, _conn: Any = None) -> bool:
        value = await self._get(key, None)
        if value is not None:
            await self._set(key, value, ttl)
        return value is not None

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(self.items.pop(key, None) is not None)


async def _ready_to_commit(
    held: Held, ttl: float | None, last: Sequence[str] = ("last",)
) -> Commit:
    there = {"segment": b"body", "version": b"old", "lease": b"mine", "progress": b"so far"}
    await held.store.set_many([*there.items()], 10)
    return Commit(
        key="record",
        value=BYTES,
        ttl=ttl,
        expected={"record": None, "version": b"old", "revoked": None},
        body=["segment", *last],
        body_ttl=ttl,
        last=[(key, BYTES[::-1]) for key in last],
        last_ttl=30,
        touched=["version", "missing"],
        touched_ttl=ttl,
        lease=Release("lease", b"mine", "followed", ["progress"]),
    )


@dataclass
class Held:
    """A store, and what a test asks of what is behind it."""

    store: Store
    other: Store
    """Another client of the same data."""
    remaining: Callable[[str], float | None]
    """How long a key has to live, by what is behind the store; None for ever."""
    pass_seconds: Callable[[float], Awaitable[None]]
    set_foreign: Callable[[str], None] | None = None
    """Puts an object that is not bytes under a key; None where what is behind it takes bytes."""
    whole_seconds: bool = False

    async def get(self, key: str) -> bytes | None:
        (value,) = await self.store.get_many([key])
        return value

    async def set(self, key: str, value: bytes, ttl: float | None = 60) -> None:
        await self.store.set_many([(key, value)], ttl)


def memory(namespace: str | None) -> Held:
    clock = Clock()
    cache = MemoryCache(clock=clock, namespace=namespace)

    def remaining(key: str) -> float | None:
        deadline = cache.memory._items[cache.build_key(key, namespace)].deadline
        return None if deadline is None else deadline - clock()

    return Held(
        MemoryStore(cache),
        MemoryStore(cache),
        remaining,
        lambda seconds: _advance(clock, seconds),
        lambda key: _ignore(cache.memory.set(cache.build_key(key, namespace), ["object"], None)),
    )


def custom(namespace: str | None) -> Held:
    clock = Clock()
    cache = DictCache(clock, namespace=namespace)

    def remaining(key: str) -> float | None:
        _, deadline = cache.items[cache.build_key(key, namespace)]
        return None if deadline is None else deadline - clock()

    def set_foreign(key: str) -> None:
        cache.items[cache.build_key(key, namespace)] = "text", None

    return Held(
        AiocacheStore(cache, 1),
        AiocacheStore(cache, None),
        remaining,
        lambda seconds: _advance(clock, seconds),
        set_foreign,
    )


def simple(namespace: str | None) -> Held:
    cache = aiocache.SimpleMemoryCache(namespace=namespace)

    def remaining(key: str) -> float | None:
        handle = cache._handlers.get(cache.build_key(key, namespace))
        if handle is None or handle.cancelled():
            return None
        return float(handle.when() - asyncio.get_running_loop().time())

    def set_foreign(key: str) -> None:
        cache._cache[cache.build_key(key, namespace)] = {"an": "object"}

    return Held(
        AiocacheStore(cache, 1), AiocacheStore(cache, 1), remaining, asyncio.sleep, set_foreign
    )


def cashews_memory(namespace: str | None) -> Held:
    clock = Clock()
    backend = Memory()
    caches = [CashewsMemory(backend, clock=clock, namespace=namespace) for _ in range(2)]

    def remaining(key: str) -> float | None:
        deadline, _ = backend.store[caches[0].build_key(key, namespace)]
        return None if deadline is None else deadline - clock()

    def set_foreign(key: str) -> None:
        backend.store[caches[0].build_key(key, namespace)] = None, {"an": "object"}

    return Held(
        MemoryStore(caches[0]),
        AiocacheStore(caches[1], 1),
        remaining,
        lambda seconds: _advance(clock, seconds),
        set_foreign,
    )


@contextlib.contextmanager
def cashews_disk(directory: Path, shards: int, namespace: str | None) -> Iterator[Held]:
    backends = [DiskCache(directory=directory, shards=shards) for _ in range(2)]
    caches = [CashewsDisk(backend, namespace=namespace) for backend in backends]

    def remaining(key: str) -> float | None:
        shard, name = caches[0]._place(caches[0].build_key(key, namespace))
        _, deadline = shard.get(name, expire_time=True)
        return None if deadline is None else float(deadline) - time.time()

    def set_foreign(key: str) -> None:
        assert backends[0]._cache.set(caches[0].build_key(key, namespace), {"an": "object"})

    try:
        yield Held(
            CashewsDiskStore(caches[0], 10),
            AiocacheStore(caches[1], 10),
            remaining,
            asyncio.sleep,
            set_foreign,
        )
    finally:
        for backend in backends:
            backend._cache.close()


def signed(held: Held) -> Held:
    """A signed store; its other client has begun to sign with the next secret."""
    secrets = [b"first secret" * 2, b"second secret" * 2]
    return replace(
        held,
        store=SignedStore(held.store, secrets, "namespace"),
        other=SignedStore(held.other, secrets[::-1], "namespace"),
    )


def signed_memory(namespace: str | None) -> Held:
    return signed(memory(namespace))


def compressed_memory(namespace: str | None) -> Held:
    held = memory(namespace)
    store, other = (
        CompressedStore(each, gzip.compress, gzip.decompress) for each in (held.store, held.other)
    )
    return replace(held, store=store, other=other)


async def _advance(clock: Clock, seconds: float) -> None:
    clock.now += seconds


def _ignore(result: object) -> None:
    assert result


def redis_cache(port: int, namespace: str | None = None) -> Any:
    return aiocache.RedisCache(endpoint=HOST, port=port, namespace=namespace)


def cashews_redis(port: int, namespace: str | None = None) -> Any:
    cache = Cache()
    backend = cache.setup(f"redis://{HOST}:{port}")
    return view_of(cache, backend, namespace or "", ())


def memcached_cache(port: int, namespace: str | None = None) -> Any:
    return aiocache.MemcachedCache(endpoint=HOST, port=port, namespace=namespace)


@contextlib.asynccontextmanager
async def redis(
    server: RedisServer, namespace: str | None, first: str = "redis"
) -> AsyncIterator[Held]:
    caches = [redis_cache(server.port, namespace), cashews_redis(server.port, namespace)]
    store, other = (RedisStore(cache, 2) for cache in caches[:: -1 if first == "cashews" else 1])

    def remaining(key: str) -> float | None:
        milliseconds = int(server.execute("PTTL", store.native_key(key)) or 0)
        assert milliseconds != -2, "the key is missing"
        return None if milliseconds == -1 else milliseconds / 1000

    try:
        yield Held(store, other, remaining, asyncio.sleep)
    finally:
        for cache in caches:
            await cache.client.aclose()


@contextlib.asynccontextmanager
async def memcached(server: MemcachedServer, namespace: str | None) -> AsyncIterator[Held]:
    caches = [memcached_cache(server.port, namespace) for _ in range(2)]
    store, other = (MemcachedStore(cache, 2) for cache in caches)

    def remaining(key: str) -> float | None:
        reply = server.execute(f"mg {store.native_key(key).decode()} t")
        assert reply.startswith(b"HD t"), reply
        seconds = int(reply[4:])
        if seconds > 30 * DAY:
            # It was given the moment: where the time was set meanwhile, its own clock was not.
            seconds -= int(time.time()) - server.clock()
        return None if seconds == -1 else seconds

    try:
        yield Held(store, other, remaining, asyncio.sleep, whole_seconds=True)
    finally:
        for cache in caches:
            await cache.client.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["bare", "namespace"])
def prefix(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "bare" else "a namespace: ü"


@pytest.fixture(
    params=[
        "memory",
        "simple",
        "custom",
        "cashews memory",
        "cashews disk",
        "cashews disk, one shard",
        "cashews redis",
        "compressed memory",
        "redis",
        "memcached",
        "signed memory",
        "signed redis",
    ]
)
async def held(
    request: pytest.FixtureRequest, prefix: str | None, anyio_backend: str, tmp_path: Path
) -> AsyncIterator[Held]:
    makers: dict[str, Callable[[str | None], Held]] = {
        "memory": memory,
        "simple": simple,
        "custom": custom,
        "cashews memory": cashews_memory,
        "signed memory": signed_memory,
        "compressed memory": compressed_memory,
    }
    if request.param in makers:
        yield makers[request.param](prefix)
        return
    if request.param.startswith("cashews disk"):
        with cashews_disk(tmp_path, 1 if "one" in request.param else 8, prefix) as held:
            yield held
        return
    name = request.param.removeprefix("signed ").removeprefix("cashews ")
    request.getfixturevalue(f"{name}_url")  # running and empty
    server = request.getfixturevalue(f"{name}_server")
    if name == "redis":
        opened = redis(server, prefix, request.param.split()[0])
    else:
        opened = memcached(server, prefix)
    async with opened as held:
        yield signed(held) if request.param.startswith("signed ") else held


@pytest.mark.matrix
class TestEveryStore:
    """A test for each sentence of the guarantees."""

    # -- a write is visible, byte for byte

    async def test_a_write_is_visible_to_this_and_another_client(self, held: Held) -> None:
        await held.set("key", b"one")
        assert await held.store.get_many(["key"]) == [b"one"]
        assert await held.other.get_many(["key"]) == [b"one"]
        await held.other.set_many([("key", b"two")], 60)
        assert await held.get("key") == b"two"
        assert await held.store.compare_and_set("key", b"two", b"three", 60)
        assert await held.other.get_many(["key"]) == [b"three"]
        await held.other.delete_many(["key"])
        assert await held.get("key") is None
        assert await held.store.add("key", b"four", 60)
        assert await held.other.get_many(["key"]) == [b"four"]

    @pytest.mark.parametrize(
        "value", [BYTES, b"", b"\x00", b"\x80\x04K\x01.", b"1", b"null", os.urandom(300_000)]
    )
    async def test_values_come_back_byte_for_byte(self, held: Held, value: bytes) -> None:
        await held.set("key", value)
        await held.store.add("added", value, 60)
        await held.set("swapped", BYTES)
        assert await held.store.compare_and_set("swapped", BYTES, value, 60)
        assert await held.store.get_many(["key", "added", "swapped"]) == [value] * 3
        assert type(await held.get("key")) is bytes

    async def test_many_keys_are_set_and_read_in_their_order(self, held: Held) -> None:
        items = [(f"key-{number}", b"%d" % number) for number in range(50)]
        await held.store.set_many(items, 60)
        names = [key for key, _ in items]
        assert await held.store.get_many(names) == [value for _, value in items]
        assert await held.store.get_many([*names[::-1], "none"]) == [
            *(value for _, value in reversed(items)),
            None,
        ]

    async def test_a_key_may_be_asked_for_twice(self, held: Held) -> None:
        await held.set("key", b"value")
        assert await held.store.get_many(["key", "none", "key"]) == [b"value", None, b"value"]

    async def test_no_keys_are_no_error(self, held: Held) -> None:
        assert await held.store.get_many([]) == []
        assert await held.store.touch_many([], 60) == 0
        assert await held.store.touch_many([], None) == 0
        await held.store.set_many([], 60)
        await held.store.delete_many([])

    # -- missing and expired

    async def test_a_missing_key_is_none(self, held: Held) -> None:
        assert await held.store.get_many(["none"]) == [None]
        assert await held.store.get_many(["none", "neither"]) == [None, None]

    async def test_an_expired_key_is_the_same_as_a_missing_one(self, held: Held) -> None:
        # Long enough for a touch on a busy machine.
        ttl = 1 if held.whole_seconds else 0.3
        await held.set("set", b"value", ttl)
        await held.store.add("added", b"value", ttl)
        await held.set("swapped", b"value", None)
        await held.store.compare_and_set("swapped", b"value", b"other", ttl)
        await held.set("touched", b"value", None)
        await held.store.touch_many(["touched"], ttl)
        await held.set("kept", b"value", ttl)
        await held.store.touch_many(["kept"], None)
        await held.set("set again", b"value", ttl)
        await held.set("set again", b"value", None)
        names = ["set", "added", "swapped", "touched"]
        deadline = time.monotonic() + 10
        while await held.store.get_many(names) != [None] * 4:
            assert time.monotonic() < deadline, "they do not expire"
            await held.pass_seconds(ttl / 4)
        assert await held.store.touch_many(names, 60) == 0
        assert not await held.store.compare_and_set("set", b"value", b"other", 60)
        assert await held.store.add("added", b"new", 60)
        assert await held.store.get_many(["added", "kept", "set again"]) == [
            b"new",
            b"value",
            b"value",
        ]

    async def test_only_the_value_that_was_read_is_deleted(self, held: Held) -> None:
        await held.set("key", BYTES)
        await held.other.set_many([("key", b"newer")], 60)
        assert not await compare_and_delete(held.store, "key", BYTES)
        assert await held.get("key") == b"newer"
        assert await compare_and_delete(held.store, "key", b"newer")
        assert await held.get("key") is None
        assert not await compare_and_delete(held.store, "key", b"newer")
        assert await held.store.add("key", b"new", 60)

    # -- ttl

    @pytest.mark.parametrize("ttl", [0.0004, 0.75, 1.5, 59.5, 60, 40 * DAY, 40.5 * DAY])
    async def test_a_ttl_is_kept_or_rounded_up(self, held: Held, ttl: float) -> None:
        if ttl < 0.01 and not held.whole_seconds:
            await held.set("key", b"value", ttl)  # gone before anyone can look
            return
        await held.set("set", b"value", ttl)
        await held.store.add("added", b"value", ttl)
        await held.set("swapped", b"value", 5)
        assert await held.store.compare_and_set("swapped", b"value", b"other", ttl)
        await held.set("touched", b"value", 5)
        assert await held.store.touch_many(["touched"], ttl) == 1
        for key in ("set", "added", "swapped", "touched"):
            remaining = held.remaining(key)
            assert remaining is not None
            # Some of it is over; memcached counts by the ticks of a clock of seconds.
            assert ttl - (1 if held.whole_seconds else 0.5) <= remaining
            assert remaining <= ttl + (2 if held.whole_seconds else 0.001)

    async def test_none_never_expires(self, held: Held) -> None:
        await held.set("set", b"value", 60)
        await held.set("set", b"value", None)
        await held.store.add("added", b"value", None)
        await held.set("swapped", b"value", 60)
        assert await held.store.compare_and_set("swapped", b"value", b"other", None)
        await held.set("touched", b"value", 60)
        assert await held.store.touch_many(["touched"], None) == 1
        for key in ("set", "added", "swapped", "touched"):
            assert held.remaining(key) is None

    async def test_what_is_refused_keeps_its_ttl(self, held: Held) -> None:
        await held.set("key", b"value", 500)
        assert not await held.store.add("key", b"other", 5)
        assert not await held.store.compare_and_set("key", b"another", b"other", 5)
        remaining = held.remaining("key")
        assert remaining is not None
        assert remaining > 400

    async def test_touch_counts_the_keys_that_exist(self, held: Held) -> None:
        await held.store.set_many([("one", b"1"), ("two", b"2")], 60)
        await held.set("for ever", b"3", None)
        for ttl in (30, None, None, 0.75, 40 * DAY):
            names = ["one", "none", "two", "for ever", "neither"]
            assert await held.store.touch_many(names, ttl) == 3
        assert await held.store.touch_many(["none"], 30) == 0
        assert await held.store.touch_many(["none"], None) == 0
        assert await held.store.get_many(["one", "none", "two", "for ever"]) == [
            b"1",
            None,
            b"2",
            b"3",
        ]

    # -- keys

    @pytest.mark.parametrize("key", AWKWARD_KEYS, ids=lambda key: repr(key)[:12])
    async def test_keys_have_any_length_and_any_characters(self, held: Held, key: str) -> None:
        assert await held.store.get_many([key]) == [None]
        assert await held.store.add(key, b"added", 60)
        assert not await held.store.add(key, b"again", 60)
        await held.set(key + "x", b"another")
        assert await held.other.get_many([key, key + "x"]) == [b"added", b"another"]
        assert await held.store.compare_and_set(key, b"added", b"swapped", 60)
        assert await held.store.touch_many([key], 30) == 1
        assert await held.get(key) == b"swapped"
        await held.set(key, b"set")
        assert await held.get(key) == b"set"
        await held.store.delete_many([key])
        assert await held.store.get_many([key, key + "x"]) == [None, b"another"]

    # -- add, compare and set, delete

    async def test_add_sets_only_what_is_missing(self, held: Held) -> None:
        assert await held.store.add("key", b"one", 60)
        assert not await held.store.add("key", b"two", 60)
        assert not await held.other.add("key", b"two", None)
        assert await held.get("key") == b"one"
        await held.store.delete_many(["key"])
        assert await held.store.add("key", b"", 60)
        assert not await held.store.add("key", b"three", 60)
        assert await held.get("key") == b""

    async def test_what_is_added_and_what_others_hold_come_together(self, held: Held) -> None:
        await held.store.set_many([("other", b"value")], 60)
        keys = ["key", "other", "missing"]
        done, values = await add_and_get_many(held.store, "key", b"one", 60, keys)
        assert (done, values) == (True, [b"one", b"value", None])
        done, values = await add_and_get_many(held.other, "key", b"two", 60, keys)
        assert (done, values) == (False, [b"one", b"value", None])
        remaining = held.remaining("key")
        assert remaining is not None
        assert 58 < remaining <= 61

    # -- look, and claim

    async def _claim(
        self, held: Held, value: bytes = BYTES, version: bytes | None = b"old"
    ) -> tuple[bool, list[bytes | None]]:
        keys = ["record", "version", "revoked"]
        return await look_and_claim(held.store, ("lease", value, 60), keys, [version, None])

    async def test_a_lease_is_taken_where_there_is_nothing(self, held: Held) -> None:
        await held.set("version", b"old")
        for _ in range(2):
            # A client that has lost its connection asks once more.
            is_taken, values = await self._claim(held)
            assert values == [None, b"old", None]
            assert is_taken == may_claim(held.store)
        assert await held.get("lease") == (BYTES if is_taken else None)
        if is_taken:
            assert 55 < (held.remaining("lease") or 0) <= 61
            assert await self._claim(held, b"another's") == (False, values)

    @pytest.mark.parametrize("there", ["record", "revoked", "version", "lease"])
    async def test_a_lease_is_not_taken_where_there_is_something_else(
        self, held: Held, there: str
    ) -> None:
        await held.set("version", b"old")
        await held.set(there, b"new")
        is_taken, values = await self._claim(held)
        found = {"version": b"old", there: b"new"}
        assert (is_taken, values) == (
            False,
            [found.get(k) for k in ("record", "version", "revoked")],
        )
        assert await held.get("lease") == (b"new" if there == "lease" else None)

    async def test_a_lease_is_not_taken_where_a_version_is_missing_or_came(
        self, held: Held
    ) -> None:
        assert await self._claim(held) == (False, [None, None, None])
        await held.set("version", b"old")
        assert await self._claim(held, version=None) == (False, [None, b"old", None])
        assert await held.get("lease") is None

    async def test_of_many_that_claim_one_wins(self, held: Held) -> None:
        stores = [held.store, held.other] * 5
        claims = [
            look_and_claim(store, ("lease", b"%d" % number, 60), ["record"], [])
            for number, store in enumerate(stores)
        ]
        found = await asyncio.gather(*claims)
        assert [is_taken for is_taken, _ in found].count(True) == may_claim(held.store)

    # -- commit

    @pytest.mark.parametrize("ttl", [60, None])
    async def test_a_commit_is_done_with_all_that_goes_with_it(
        self, held: Held, ttl: float | None
    ) -> None:
        commit = await _ready_to_commit(held, ttl)
        done = await commit_at_once(held.store, commit)
        if done == (False, False):
            # It can do without, and has touched nothing.
            assert await held.get("record") is None
            assert await held.get("lease") == b"mine"
            return
        assert done == (True, True)
        found = await held.other.get_many(["record", "last", "lease", "progress"])
        assert found == [BYTES, BYTES[::-1], None, None]
        for key in ("record", "segment", "last", "version"):
            remaining = held.remaining(key)
            assert remaining is None if ttl is None else 55 < (remaining or 0) <= 61

    async def test_a_commit_leaves_the_lease_of_another_holder(self, held: Held) -> None:
        commit = await _ready_to_commit(held, 60)
        await held.set("lease", b"another's")
        assert await commit_at_once(held.store, commit) in ((True, False), (False, False))
        assert await held.get("lease") == b"another's"

    async def test_a_commit_leaves_a_lease_whose_run_is_followed(self, held: Held) -> None:
        commit = await _ready_to_commit(held, 60)
        await held.set("followed", b"1")
        assert await commit_at_once(held.store, commit) in ((True, False), (False, False))
        found = await held.store.get_many(["lease", "progress"])
        assert found == [b"mine", b"so far"]

    @pytest.mark.parametrize(
        "change", ["record", "version", "version gone", "revoked", "segment gone"]
    )
    async def test_a_commit_that_comes_too_late_changes_nothing(
        self, held: Held, change: str
    ) -> None:
        commit = await _ready_to_commit(held, 60)
        key, _, gone = change.partition(" ")
        await held.store.delete_many([key])
        if not gone:
            await held.set(key, b"new")
        assert await commit_at_once(held.store, commit) == (False, False)
        found = await held.store.get_many(["record", "lease"])
        assert found == [b"new" if change == "record" else None, b"mine"]

    async def test_a_commit_that_lacks_a_part_of_the_body_keeps_no_other_part(
        self, held: Held
    ) -> None:
        commit = await _ready_to_commit(held, 60)
        commit.body = ["last", "segment"]
        await held.store.set_many(commit.last, 30)
        await held.store.delete_many(["segment"])
        assert await commit_at_once(held.store, commit) == (False, False)
        assert (held.remaining("last") or 0) <= 31

    async def test_of_many_that_commit_one_wins(self, held: Held) -> None:
        commit = await _ready_to_commit(held, 60)
        stores = [held.store, held.other] * 5
        done = await asyncio.gather(*(commit_at_once(store, commit) for store in stores))
        assert done.count((True, True)) in (0, 1)
        assert done.count((False, False)) >= 9

    async def test_of_many_that_add_one_wins(self, held: Held) -> None:
        stores = [held.store, held.other] * 10
        won = await asyncio.gather(
            *(store.add("key", b"%d" % number, 60) for number, store in enumerate(stores))
        )
        assert won.count(True) == 1
        assert await held.get("key") == b"%d" % won.index(True)

    async def test_compare_and_set_sets_only_what_is_expected(self, held: Held) -> None:
        assert not await held.store.compare_and_set("key", b"", b"value", 60)
        assert not await held.store.compare_and_set("key", b"value", b"value", None)
        assert await held.get("key") is None
        await held.set("key", BYTES)
        assert not await held.store.compare_and_set("key", BYTES[:-1], b"other", 60)
        assert await held.get("key") == BYTES
        assert await held.store.compare_and_set("key", BYTES, b"other", None)
        assert await held.get("key") == b"other"
        assert await held.store.compare_and_set("key", b"other", b"", 60)
        assert await held.store.compare_and_set("key", b"", b"again", 60)
        assert await held.get("key") == b"again"

    async def test_of_many_that_compare_and_set_one_wins(self, held: Held) -> None:
        await held.set("key", b"start")
        stores = [held.store, held.other] * 10
        won = await asyncio.gather(
            *(
                store.compare_and_set("key", b"start", b"%d" % number, 60)
                for number, store in enumerate(stores)
            )
        )
        assert won.count(True) == 1
        assert await held.get("key") == b"%d" % won.index(True)

    async def test_no_increment_is_lost_where_many_compare_and_set(self, held: Held) -> None:
        await held.set("key", b"0")

        async def increment(store: Store) -> None:
            for _ in range(5):
                while True:
                    (value,) = await store.get_many(["key"])
                    assert value is not None
                    if await store.compare_and_set("key", value, b"%d" % (int(value) + 1), 60):
                        break

        await asyncio.gather(*(increment(store) for store in [held.store, held.other] * 2))
        assert await held.get("key") == b"20"

    async def test_deleting_what_is_missing_is_no_error(self, held: Held) -> None:
        await held.set("key", b"value")
        await held.store.delete_many(["none", "key", "neither"])
        assert await held.get("key") is None
        await held.store.delete_many(["none"])

    async def test_ping_answers(self, held: Held) -> None:
        await held.store.ping()

    async def test_a_capacity_is_a_number_of_bytes_or_unknown(self, held: Held) -> None:
        assert held.store.capacity is None or held.store.capacity > 0


@pytest.mark.parametrize("kind", [memory, simple, custom, cashews_memory, signed_memory])
async def test_a_value_that_is_not_bytes_is_given_as_foreign(
    kind: Callable[[str | None], Held],
) -> None:
    held = kind("namespace")
    assert held.set_foreign is not None
    held.set_foreign("key")
    assert await held.store.get_many(["key"]) == [FOREIGN]
    assert await held.store.get_many(["key", "none"]) == [FOREIGN, None]
    assert not await held.store.add("key", b"value", 60)
    assert not await held.store.compare_and_set("key", FOREIGN, b"value", 60)
    assert await held.get("key") == FOREIGN


@pytest.mark.parametrize("kind", [memory, simple, custom, cashews_memory])
async def test_namespaces_do_not_see_each_other(kind: Callable[[str | None], Held]) -> None:
    one = kind("one:")
    view: Any = one.store
    await one.set("key", b"value")
    if isinstance(view, AiocacheStore):
        assert view.native_key("key") == "one:key"
    else:
        assert view._native("key") == "one:key"


async def test_namespaces_do_not_see_each_other_in_redis(
    redis_server: RedisServer, redis_url: str
) -> None:
    async with redis(redis_server, "one") as one, redis(redis_server, "two") as two:
        await one.set("key", b"1")
        await two.set("key", b"2")
        assert redis_server.execute("GET", "one:key") == b"1"
        assert redis_server.execute("GET", "two:key") == b"2"
        await one.store.delete_many(["key"])
        assert await two.get("key") == b"2"


@pytest.mark.parametrize("length", [0, 100, 150, 200, 215])
async def test_a_long_namespace_leaves_room_for_any_key_in_memcached(
    memcached_server: MemcachedServer, memcached_url: str, length: int
) -> None:
    async with memcached(memcached_server, "n" * length) as held:
        for key in ("key", "k" * 100, "k" * 2000, "a key"):
            await held.set(key, key.encode())
            assert await held.get(key) == key.encode()


async def test_a_key_that_memcached_takes_is_the_one_that_aiocache_uses(
    memcached_server: MemcachedServer, memcached_url: str
) -> None:
    async with memcached(memcached_server, "ns:") as held:
        cache = memcached_cache(memcached_server.port, "ns:")
        for key in ("plain", "with a space", "k" * 247):
            await cache.set(key, "value")
            assert await held.get(key) == b'"value"'
        await cache.client.close()


# -- failures


Operation = Callable[[Store], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "get": lambda store: store.get_many(["key"]),
    "get many": lambda store: store.get_many(["key", "other"]),
    "set": lambda store: store.set_many([("key", b"value")], 60),
    "set many": lambda store: store.set_many([("key", b"value"), ("other", b"value")], None),
    "add": lambda store: store.add("key", b"value", 60),
    "compare and set": lambda store: store.compare_and_set("key", b"value", b"other", 60),
    "touch": lambda store: store.touch_many(["key", "other"], 60),
    "touch for ever": lambda store: store.touch_many(["key", "other"], None),
    "delete": lambda store: store.delete_many(["key", "other"]),
    "ping": lambda store: store.ping(),
}


async def fails_soon(store: Store, operation: Operation) -> None:
    before = time.monotonic()
    with pytest.raises(StoreError) as failure:
        await operation(store)
    assert time.monotonic() - before < 1
    assert failure.value.__cause__ is not None


@pytest.fixture
def own_memcached() -> Iterator[MemcachedServer]:
    with MemcachedServer() as server:
        yield server


def hang(server: ServerProcess) -> None:
    """Pause it, and wait until the last of its threads has stopped."""
    server.pause()
    os.waitpid(server.pid, os.WUNTRACED)


@contextlib.asynccontextmanager
async def redis_store(port: int, timeout: float | None = 0.1) -> AsyncIterator[RedisStore]:
    cache = redis_cache(port)
    try:
        yield RedisStore(cache, timeout)
    finally:
        await cache.client.aclose()


@contextlib.asynccontextmanager
async def memcached_store(port: int, timeout: float | None = 0.1) -> AsyncIterator[MemcachedStore]:
    cache = memcached_cache(port)
    try:
        yield MemcachedStore(cache, timeout)
    finally:
        await cache.client.close()


async def test_a_redis_that_hangs_is_a_store_error_within_the_timeout(
    own_redis: RedisServer,
) -> None:
    async with redis_store(own_redis.port) as store:
        await store.ping()
        hang(own_redis)
        for operation in OPERATIONS.values():
            await fails_soon(store, operation)
        own_redis.resume()
        # Another key: what was given up may still take effect.
        await store.set_many([("new", b"after")], 60)
        assert await store.get_many(["new"]) == [b"after"]


async def test_a_redis_that_is_gone_is_a_store_error_until_it_is_back(
    own_redis: RedisServer,
) -> None:
    async with redis_store(own_redis.port) as store:
        await store.ping()
        own_redis.stop()
        for operation in OPERATIONS.values():
            await fails_soon(store, operation)
        own_redis.start()
        await store.set_many([("key", b"after")], 60)
        assert await store.get_many(["key"]) == [b"after"]


async def test_a_redis_that_refuses_a_write_is_a_store_error(own_redis: RedisServer) -> None:
    own_redis.execute("CONFIG", "SET", "maxmemory", "1")
    async with redis_store(own_redis.port) as store:
        for name in ("set", "set many", "add", "compare and set"):
            if name == "compare and set":
                own_redis.execute("CONFIG", "SET", "maxmemory", "0")
                await store.set_many([("key", b"value")], 60)
                own_redis.execute("CONFIG", "SET", "maxmemory", "1")
            await fails_soon(store, OPERATIONS[name])
        assert await store.get_many(["key"]) == [b"value"]


async def test_a_memcached_that_hangs_is_a_store_error_within_the_timeout(
    own_memcached: MemcachedServer,
) -> None:
    async with memcached_store(own_memcached.port) as store:
        await store.ping()
        hang(own_memcached)
        for operation in OPERATIONS.values():
            await fails_soon(store, operation)
        own_memcached.resume()
        # Another key: what was given up may still take effect.
        await store.set_many([("new", b"after")], 60)
        assert await store.get_many(["new"]) == [b"after"]


async def test_a_memcached_that_is_gone_is_a_store_error_until_it_is_back(
    own_memcached: MemcachedServer,
) -> None:
    async with memcached_store(own_memcached.port) as store:
        await store.ping()
        own_memcached.stop()
        for operation in OPERATIONS.values():
            await fails_soon(store, operation)
        own_memcached.start()
        await store.set_many([("key", b"after")], 60)
        assert await store.get_many(["key"]) == [b"after"]


CLOSING_SERVER = """
import asyncio, sys
from stream_cached.errors import StoreError, StoreUnavailableError
from tests.stores.test_contract import OPERATIONS, memcached_store

async def close(reader, writer):
    await reader.readline()
    writer.write(sys.argv[1].encode())
    writer.close()

async def main():
    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server, memcached_store(server.sockets[0].getsockname()[1], 1) as store:
        for name, operation in OPERATIONS.items():
            try:
                await operation(store)
            except StoreError as exc:
                assert exc.__cause__ is not None
            else:
                raise AssertionError(name)

asyncio.run(main())
"""


@pytest.mark.full
@pytest.mark.parametrize("reply", ["", "STO"], ids=["nothing", "half a line"])
def test_a_memcached_that_closes_instead_of_answering_is_a_store_error(reply: str) -> None:
    # In a process of its own: aiomcache's own code then never suspends again, and no time-out
    # of asyncio can end that.
    script = [sys.executable, "-c", CLOSING_SERVER, reply]
    result = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr


async def test_a_value_that_memcached_refuses_is_a_store_error(
    memcached_server: MemcachedServer, memcached_url: str
) -> None:
    large = bytes(2 << 20)
    async with memcached_store(memcached_server.port, 5) as store:
        items = [("large", large), *((f"small-{number}", b"value") for number in range(20))]
        tasks = asyncio.all_tasks()
        with pytest.raises(StoreError):
            await store.set_many(items, 60)
        # Nothing that goes on behind it may write what somebody deletes next.
        assert asyncio.all_tasks() == tasks
        with pytest.raises(StoreError):
            await store.add("large", large, 60)
        assert await store.get_many(["large"]) == [None]
        assert await store.add("small", b"value", 60)
        assert await store.get_many(["small"]) == [b"value"]


async def test_a_key_deleted_between_the_two_steps_in_memcached_is_not_what_was_expected(
    memcached_server: MemcachedServer, memcached_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memcached(memcached_server, None) as held:
        await held.set("key", b"value")
        client = held.store.cache.client  # type: ignore[attr-defined]
        cas = client.cas

        async def late(*args: Any, **kwargs: Any) -> Any:
            await held.other.delete_many(["key"])
            return await cas(*args, **kwargs)

        monkeypatch.setattr(client, "cas", late)
        assert not await held.store.compare_and_set("key", b"value", b"other", 60)
        assert await held.get("key") is None


async def test_a_redis_without_scripts_deletes_what_was_read_in_two_steps(
    own_redis: RedisServer,
) -> None:
    own_redis.execute("ACL", "SETUSER", "default", "-eval")
    async with redis(own_redis, None) as held:
        await held.set("key", b"newer")
        assert not await compare_and_delete(held.store, "key", b"older")
        assert await held.get("key") == b"newer"
        assert await compare_and_delete(held.store, "key", b"newer")
        assert await held.get("key") is None


async def test_a_redis_without_scripts_compares_and_sets(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_redis.execute("ACL", "SETUSER", "default", "-@scripting")
    async with redis(own_redis, None) as held:
        await held.set("key", b"older")
        assert not await held.store.compare_and_set("key", b"another", b"newer", 60)
        assert not await held.store.compare_and_set("missing", b"older", b"newer", 60)
        assert await held.get("key") == b"older"
        assert await held.store.compare_and_set("key", b"older", b"newer", 60)
        assert await held.get("key") == b"newer"
        assert own_redis.execute("PTTL", "key") not in {b"-1", b"-2"}
        assert await held.store.compare_and_set("key", b"newer", b"newest", None)
        assert own_redis.execute("PTTL", "key") == b"-1"

        execute = Pipeline.execute

        async def late(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
            own_redis.execute("SET", "key", "of another")
            return await execute(pipeline, *args, **kwargs)

        monkeypatch.setattr(Pipeline, "execute", late)
        assert not await held.store.compare_and_set("key", b"newest", b"last", 60)
        assert await held.get("key") == b"of another"


async def test_a_redis_without_scripts_takes_no_lease_with_a_look(own_redis: RedisServer) -> None:
    own_redis.execute("ACL", "SETUSER", "default", "-eval")
    async with redis(own_redis, None) as held:
        await held.set("record", b"value")
        for _ in range(2):
            claimed = await look_and_claim(held.store, ("lease", b"mine", 60), ["record"], [])
            assert claimed == (False, [b"value"])
            assert not may_claim(held.store)


async def test_a_redis_that_is_full_is_read_and_goes_on_to_take_leases(
    own_redis: RedisServer,
) -> None:
    async with redis(own_redis, None) as held:
        await held.set("version", b"old")
        own_redis.execute("CONFIG", "SET", "maxmemory", "1")
        claim = partial(look_and_claim, held.store, ("lease", b"mine", 60), ["record", "version"])
        assert await claim([b"old"]) == (False, [None, b"old"])
        own_redis.execute("CONFIG", "SET", "maxmemory", "0")
        assert await claim([b"old"]) == (True, [None, b"old"])


async def test_a_redis_that_was_held_up_takes_no_lease_for_who_has_gone(
    own_redis: RedisServer,
) -> None:
    def has_run_scripts(number: int) -> bool:
        return f"cmdstat_eval:calls={number}," in str(own_redis.execute("INFO", "commandstats"))

    async with redis_store(own_redis.port, 0.5) as store:
        for name in ("first", "second"):
            assert await store.look_and_claim((name, b"mine", 60), ["record"], []) == (True, [None])
        hang(own_redis)
        try:
            with pytest.raises(StoreError):
                await store.look_and_claim(("late", b"mine", 60), ["record"], [])
        finally:
            own_redis.resume()
        wait_until(lambda: has_run_scripts(3))
        assert own_redis.execute("GET", "late") is None
        assert await store.look_and_claim(("next", b"mine", 60), ["record"], []) == (True, [None])


async def test_a_lease_is_held_though_the_server_is_asked_again_too_late(
    redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis(redis_server, namespace) as held:
        claim = partial(look_and_claim, held.store, ("lease", b"mine", 60), ["record"], [])
        assert await claim() == (True, [None])
        # As if the first reply was lost, and the client had taken that long to connect again.
        monkeypatch.setattr("stream_cached.stores.redis._CLAIM_WITHIN", -60_000)
        assert await claim() == (True, [None])
        await held.store.delete_many(["lease"])
        assert await claim() == (False, [None])


async def test_a_value_larger_than_the_memory_is_a_store_error() -> None:
    store = MemoryStore(MemoryCache(max_bytes=1000))
    await store.set_many([("key", b"value")], None)
    with pytest.raises(StoreError):
        await store.set_many([("key", bytes(1001))], None)
    with pytest.raises(StoreError):
        await store.add("other", bytes(1001), None)
    with pytest.raises(StoreError):
        await store.compare_and_set("key", b"value", bytes(1001), None)
    # As it was: nothing that was asked for has happened.
    assert await store.get_many(["key", "other"]) == [b"value", None]


@pytest.mark.parametrize("error", [KeyError("x"), OSError("x"), ValueError("x"), AssertionError()])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_whatever_a_backend_raises_is_a_store_error(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    store = AiocacheStore(DictCache(Clock()), 1)
    for method in ("_get", "_multi_get", "_set", "_add", "_exists", "_expire", "_delete"):
        monkeypatch.setattr(store.cache, method, fail)
    if name == "add" and isinstance(error, ValueError):
        # That is how an aiocache backend says that the key exists.
        assert not await store.add("key", b"value", 60)
    else:
        await fails_soon(store, OPERATIONS[name])


async def test_a_backend_whose_set_says_nothing_has_set() -> None:
    class Silent(DictCache):
        async def _set(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
            await super()._set(*args, **kwargs)

    store = AiocacheStore(Silent(Clock()), 1)
    await store.set_many([("key", b"value")], 60)
    assert await store.get_many(["key"]) == [b"value"]


async def test_a_backend_whose_set_says_no_is_a_store_error() -> None:
    class Full(DictCache):
        async def _set(self, *args: Any, **kwargs: Any) -> bool:
            return False

    with pytest.raises(StoreError):
        await AiocacheStore(Full(Clock()), 1).set_many([("key", b"value")], 60)


async def test_a_backend_without_an_answer_is_a_store_error_within_the_timeout() -> None:
    class Mute(DictCache):
        async def _get(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.Event().wait()

    with pytest.raises(StoreError, match=r"get: no answer within 0\.01 s"):
        await AiocacheStore(Mute(Clock()), 0.01).get_many(["key"])


async def test_a_cancellation_is_not_a_failure() -> None:
    started = asyncio.Event()

    class Mute(DictCache):
        async def _get(self, *args: Any, **kwargs: Any) -> Any:
            started.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(AiocacheStore(Mute(Clock()), 5).get_many(["key"]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- a call that is given up leaves no connection with the reply of another


@dataclass
class Slow:
    proxy: DelayProxy
    open: Callable[[int, float | None], contextlib.AbstractAsyncContextManager[AiocacheStore]]


@pytest.fixture(params=["redis", "memcached"])
def slow(request: pytest.FixtureRequest) -> Iterator[Slow]:
    request.getfixturevalue(f"{request.param}_url")
    server = request.getfixturevalue(f"{request.param}_server")
    with DelayProxy(server.port, scheme=request.param) as proxy:
        yield Slow(proxy, redis_store if request.param == "redis" else memcached_store)


NAMES = [f"key-{number}" for number in range(20)]


async def fill(store: Store) -> None:
    await store.set_many([(name, name.encode()) for name in [*NAMES, "key", "other"]], 60)


async def is_in_step(store: Store) -> None:
    """Every call gets its own reply, one by one and at once."""
    for _ in range(2):
        for name in NAMES:
            assert await store.get_many([name]) == [name.encode()]
        replies = await asyncio.gather(*(store.get_many([name]) for name in NAMES))
        assert replies == [[name.encode()] for name in NAMES]
        assert await store.get_many(NAMES) == [name.encode() for name in NAMES]
        assert await store.touch_many([*NAMES, "none"], 60) == len(NAMES)
        assert not await store.add(NAMES[0], b"value", 60)
        assert await store.compare_and_set(NAMES[1], NAMES[1].encode(), NAMES[1].encode(), 60)


@pytest.mark.matrix
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_cancelled_call_leaves_the_connections_in_step(slow: Slow, name: str) -> None:
    async with slow.open(slow.proxy.port, 5) as store:
        await fill(store)
        slow.proxy.holding = True
        sent = slow.proxy.requested
        task = asyncio.ensure_future(OPERATIONS[name](store))
        await asyncio.to_thread(wait_until, lambda: slow.proxy.requested > sent)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.proxy.holding = False
        await is_in_step(store)


async def test_calls_that_time_out_leave_the_connections_in_step(slow: Slow) -> None:
    async with slow.open(slow.proxy.port, 1) as store:
        await fill(store)
        store.timeout = 0.03
        slow.proxy.delay = 0.4
        results = await asyncio.gather(
            *(operation(store) for operation in OPERATIONS.values()), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailableError] * len(OPERATIONS)
        slow.proxy.delay = 0
        store.timeout = 1
        await is_in_step(store)


async def test_calls_whose_reply_is_lost_leave_the_connections_in_step(slow: Slow) -> None:
    async with slow.open(slow.proxy.port, 1) as store:
        await fill(store)
        store.timeout = 0.05
        slow.proxy.swallow = True
        results = await asyncio.gather(
            *(store.get_many([name]) for name in NAMES), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailableError] * len(NAMES)
        slow.proxy.swallow = False
        store.timeout = 1
        await is_in_step(store)


async def test_connections_that_are_torn_down_are_replaced(slow: Slow) -> None:
    async with slow.open(slow.proxy.port, 1) as store:
        await fill(store)
        slow.proxy.delay = 0.2
        task = asyncio.ensure_future(store.get_many(NAMES))
        sent = slow.proxy.requested
        await asyncio.to_thread(wait_until, lambda: slow.proxy.requested > sent)
        slow.proxy.delay = 0
        await asyncio.to_thread(slow.proxy.cut)
        with contextlib.suppress(StoreError):  # a client may try again by itself
            assert await task == [name.encode() for name in NAMES]
        await is_in_step(store)


@pytest.mark.parametrize("leaving", [1, 2, 5])
async def test_calls_that_wait_behind_cancelled_ones_are_answered(slow: Slow, leaving: int) -> None:
    async with slow.open(slow.proxy.port, 5) as store:
        await fill(store)
        slow.proxy.delay = 0.05
        sent = slow.proxy.requested
        tasks = [asyncio.ensure_future(store.get_many([name])) for name in NAMES]
        await asyncio.to_thread(wait_until, lambda: slow.proxy.requested > sent)
        for task in tasks[:leaving]:
            task.cancel()
        slow.proxy.delay = 0
        _, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert others[leaving - 1 :] == [[name.encode()] for name in NAMES[leaving:]]
        await is_in_step(store)


async def test_values_that_memcached_refuses_do_not_hold_up_the_others(
    memcached_server: MemcachedServer, memcached_url: str
) -> None:
    async with memcached_store(memcached_server.port, 30) as store:
        large = [(f"large-{number}", bytes(2 << 20)) for number in range(4)]
        small = [(name, name.encode()) for name in NAMES]
        await fill(store)
        before = time.monotonic()
        with pytest.raises(StoreError):
            await store.set_many([*large, *small], 60)
        assert time.monotonic() - before < 10
        assert await store.get_many(NAMES) == [name.encode() for name in NAMES]
