"""The properties that only the stores in cashews' memory and disk cache have."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cashews import Cache
from cashews.backends.diskcache import DiskCache
from cashews.backends.memory import Memory
from diskcache import Timeout

from stream_cached.cashews.stores import CashewsDisk, CashewsDiskStore, CashewsMemory
from stream_cached.errors import StoreError
from stream_cached.keys.names import is_segment_key, segment_key, variant_key
from stream_cached.stores.aiocache import AiocacheStore
from stream_cached.stores.memory import MemoryStore
from stream_cached.stores.protocol import FOREIGN, Store
from tests.support.gates import wait_until
from tests.support.process import ROOT

pytestmark = pytest.mark.anyio

GENERATION = bytes(range(16))
SEGMENTS = [(segment_key("key", GENERATION, number), b"%d" % number) for number in range(100)]
NAMES = [name for name, _ in SEGMENTS]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(
    params=[pytest.param(1, marks=pytest.mark.full), 8],
    ids=["one shard", "shards"],
)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskCache]:
    backend = DiskCache(directory=tmp_path, shards=request.param)
    yield backend
    backend._cache.close()


def memory_store(backend: Memory, **options: Any) -> MemoryStore:
    return MemoryStore(CashewsMemory(backend, **options))


async def get(store: Store, key: str) -> bytes | None:
    (value,) = await store.get_many([key])
    return value


def test_a_segment_key_is_one_in_any_namespace() -> None:
    assert is_segment_key(f"a namespace: {NAMES[0]}")
    for other in ("key", "key:1", variant_key("key", GENERATION, "ab"), "key:lease:" + "a" * 32):
        assert not is_segment_key(other)


# -- memory


async def test_segments_are_no_keys_of_the_memory() -> None:
    backend = Memory(size=10)
    store = memory_store(backend, namespace="ns:")
    await store.set_many([("key", b"record")], 60)
    before = list(backend.store)
    await store.set_many(SEGMENTS, 60)
    assert list(backend.store) == before == ["ns:key"]
    assert await store.get_many(NAMES) == [value for _, value in SEGMENTS]
    assert await store.touch_many(NAMES, None) == len(NAMES)
    await store.delete_many(NAMES)
    assert await store.get_many(NAMES) == [None] * len(NAMES)


async def test_views_of_one_memory_share_the_segments_and_the_bound_of_the_first() -> None:
    backend = Memory()
    one = memory_store(backend, max_bytes=10_000)
    two = memory_store(backend, max_bytes=20_000)
    another = memory_store(Memory())
    await one.set_many(SEGMENTS[:2], 60)
    assert await two.get_many(NAMES[:2]) == [b"0", b"1"]
    assert await another.get_many(NAMES[:2]) == [None, None]
    assert (one.capacity, two.capacity, another.capacity) == (10_000, 10_000, 64 << 20)


async def test_segments_are_bounded_in_bytes() -> None:
    store = memory_store(Memory(), max_bytes=10_000)
    await store.set_many([("key", b"record")], 60)
    for number in range(20):
        name = segment_key(f"key-{number}", GENERATION, 0)
        await store.set_many([(name, bytes(2000))], 60)
    assert await get(store, segment_key("key-0", GENERATION, 0)) is None
    assert await get(store, segment_key("key-19", GENERATION, 0)) == bytes(2000)
    assert await get(store, "key") == b"record"
    with pytest.raises(StoreError):
        await store.set_many([(NAMES[0], bytes(10_000))], 60)


async def test_what_is_deleted_from_the_memory_is_missing() -> None:
    backend = Memory()
    store = memory_store(backend)
    for delete in (
        lambda: backend.delete("key"),
        lambda: backend.delete_match("key*"),
        lambda: backend.clear(),
    ):
        await store.set_many([("key", b"record"), *SEGMENTS], 60)
        assert await get(store, "key") == b"record"
        await delete()
        assert await get(store, "key") is None
        assert await store.add("key", b"another", 60)


async def test_the_memory_evicts_what_was_used_longest_ago() -> None:
    backend = Memory(size=3)
    store = memory_store(backend)
    await store.set_many([("one", b"1"), ("two", b"2")], 60)
    await backend.set("three", 3)
    assert await get(store, "one") == b"1"
    await backend.set("four", 4)
    assert await store.get_many(["one", "two"]) == [b"1", None]
    await store.set_many([("five", b"5")], 60)
    assert list(backend.store) == ["four", "one", "five"]
    await store.set_many([("four", b"4"), ("six", b"6")], 60)
    assert list(backend.store) == ["five", "four", "six"]


async def test_values_of_the_memory_s_own_are_foreign() -> None:
    backend = Memory()
    store = memory_store(backend)
    await backend.set("k", {"a": 1}, expire=60)
    assert await get(store, "k") == FOREIGN
    assert not await store.add("k", b"value", 60)
    await backend.set("expired", {"a": 1}, expire=-1)
    assert await get(store, "expired") is None
    assert await store.add("expired", b"value", 60)


@pytest.mark.parametrize(
    "options", [{}, {"secret": "secret"}, {"pickle_type": "json"}, {"compress_type": "gzip"}]
)
async def test_the_memory_s_own_task_goes_on_over_our_bytes(options: dict[str, Any]) -> None:
    cache = Cache()
    cache.setup("mem://", check_interval=0.01, **options)
    await cache.init()
    (backend,) = cache._backends.values()
    assert isinstance(backend, Memory)
    value = b"\xc1a_value:of ours"
    await memory_store(backend).set_many([("key", value)], 60)
    await memory_store(backend).set_many([("soon", value)], 0.02)
    await asyncio.to_thread(wait_until, lambda: list(backend.store) == ["key"])
    await backend.expire("key", 30)
    assert await get(memory_store(backend), "key") == value
    await cache.close()


# -- disk


async def test_what_is_deleted_from_the_disk_is_missing(disk: DiskCache) -> None:
    store = CashewsDiskStore(CashewsDisk(disk, namespace="ns:"), 10)
    await store.set_many([("key", b"record"), *SEGMENTS[:3], ("lone \udc80", b"value")], 60)
    assert await disk.exists("ns:key")
    assert 59 <= await disk.get_expire("ns:key") <= 60
    assert await disk.delete("ns:key")
    assert await get(store, "key") is None
    if not disk._sharded:  # cashews can't look for keys in several
        await disk.delete_match(f"ns:key:{GENERATION.hex()}:*")
        assert await store.get_many(NAMES[:3]) == [None] * 3
    await disk.clear()  # type: ignore[no-untyped-call]
    assert await store.get_many([*NAMES[:3], "lone \udc80"]) == [None] * 4


async def test_values_of_the_disk_s_own_are_foreign(disk: DiskCache) -> None:
    store = CashewsDiskStore(CashewsDisk(disk), 10)
    for number, value in enumerate((1, "text", {"a": 1}, "long" * 20_000, ["long" * 20_000])):
        assert disk._cache.set(f"k{number}", value)
        assert await get(store, f"k{number}") == FOREIGN
    await disk.set("expired", {"a": 1}, expire=-1)
    assert await get(store, "expired") is None


async def test_the_disk_s_bound_is_the_capacity(disk: DiskCache, tmp_path: Path) -> None:
    assert CashewsDiskStore(CashewsDisk(disk), 10).capacity == 1 << 30
    unbounded = DiskCache(directory=tmp_path / "other", eviction_policy="none")
    assert CashewsDiskStore(CashewsDisk(unbounded), 10).capacity is None
    unbounded._cache.close()


async def test_clear_deletes_one_namespace(disk: DiskCache) -> None:
    one, two = (CashewsDisk(disk, namespace=name) for name in ("one:", "two:"))
    await one.set("key", b"1")
    await two.set("key", b"2")
    await one.clear(namespace="one:")
    assert (await one.get("key"), await two.get("key")) == (None, b"2")


def race(store: AiocacheStore, contenders: int) -> int:
    """Return how many of so many threads, each with a loop, have swapped one value."""
    barrier = threading.Barrier(contenders)
    won = []

    async def swap(number: int) -> bool:
        await store.ping()  # opens the connections
        barrier.wait()
        return await store.compare_and_set("key", b"start" * 9000, b"%d" % number, 60)

    def contend(number: int) -> None:
        won.append(asyncio.run(swap(number)))

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == contenders
    return won.count(True)


def test_of_many_threads_that_compare_and_set_one_wins(disk: DiskCache) -> None:
    store = CashewsDiskStore(CashewsDisk(disk), 30)
    for _ in range(3):
        asyncio.run(store.set_many([("key", b"start" * 9000)], 60))
        assert race(store, 20) == 1


INCREMENTING = """
import asyncio, sys
from cashews.backends.diskcache import DiskCache
from stream_cached.cashews.stores import CashewsDisk, CashewsDiskStore

async def main():
    backend = DiskCache(directory=sys.argv[1], shards=int(sys.argv[2]))
    store = CashewsDiskStore(CashewsDisk(backend), 30)
    for _ in range(100):
        while True:
            (value,) = await store.get_many(["key"])
            if await store.compare_and_set("key", value, b"%d" % (int(value) + 1), 60):
                break

asyncio.run(main())
"""


@pytest.mark.full
def test_no_increment_is_lost_between_processes(disk: DiskCache, tmp_path: Path) -> None:
    store = CashewsDiskStore(CashewsDisk(disk), 30)
    asyncio.run(store.set_many([("key", b"0")], 60))
    command = [sys.executable, "-c", INCREMENTING, str(tmp_path), str(8 if disk._sharded else 1)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert asyncio.run(get(store, "key")) == b"300"


async def test_a_large_value_is_never_missing_while_it_is_replaced(disk: DiskCache) -> None:
    store = CashewsDiskStore(CashewsDisk(disk), 30)
    values = [bytes([number]) * 40_000 for number in range(2)]
    await store.set_many([("key", values[0])], 60)

    async def replace() -> None:
        for number in range(100):
            await store.set_many([("key", values[number % 2])], 60)

    async def read() -> None:
        while not replacing.done():
            assert await get(store, "key") in values

    # With several writers, the second file that a reader opens may be gone, too.
    replacing = asyncio.gather(*(replace() for _ in range(3)))
    await asyncio.gather(*(read() for _ in range(3)), replacing)


async def test_a_disk_that_is_busy_is_waited_for_and_then_a_store_error(disk: DiskCache) -> None:
    cache = CashewsDisk(disk)
    store = CashewsDiskStore(cache, 0.2)
    shard, _ = cache._place("key")
    for seconds, is_done in ((0.05, True), (0.5, False)):
        taken, free = threading.Event(), threading.Event()

        def hold(taken: threading.Event = taken, free: threading.Event = free) -> None:
            with shard.transact(retry=True):
                taken.set()
                free.wait(10)

        holding = asyncio.ensure_future(asyncio.to_thread(hold))
        await asyncio.to_thread(taken.wait)
        writing = asyncio.ensure_future(store.set_many([("key", b"%r" % is_done)], 60))
        await asyncio.sleep(seconds)
        free.set()
        await holding
        if is_done:
            await writing
        else:
            with pytest.raises(StoreError):
                await writing
    if disk._sharded:  # diskcache itself waits for a minute, in a cache without shards
        await asyncio.sleep(0.05)
        assert await get(store, "key") == b"True"


async def test_calls_of_a_cancelled_task_are_not_begun(disk: DiskCache) -> None:
    cache = CashewsDisk(disk)
    begun, go_on = threading.Event(), threading.Event()
    made = []

    def first() -> None:
        begun.set()
        go_on.wait(10)
        made.append("first")

    def busy() -> None:
        made.append("second")
        raise Timeout

    task = asyncio.ensure_future(cache.in_thread([first, busy, busy]))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await asyncio.sleep(0.05)
    assert made == ["first"]
