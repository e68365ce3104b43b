"""The embedded store: bounded in bytes, whole groups at a time, and an aiocache cache like any."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiocache.base import BaseCache
from aiocache.plugins import BasePlugin, HitMissRatioPlugin
from aiocache.serializers import JsonSerializer, NullSerializer, PickleSerializer, StringSerializer
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_cached.errors import StoreError
from stream_cached.keys.names import segment_key
from stream_cached.stores.bounded import BoundedMemory
from stream_cached.stores.memory import DEFAULT_MAX_BYTES, MemoryCache, MemoryStore, partition_of
from stream_cached.stores.protocol import FOREIGN, held
from tests.support.selection import no_address

GENERATION = bytes(range(16))
OTHER_GENERATION = bytes(range(1, 17))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def move_on(self, seconds: float) -> float:
        self.now += seconds
        return self.now


def run(operation: Any) -> Any:
    """The result of a coroutine, on a loop of its own."""
    return asyncio.run(_awaited(operation))


async def _awaited(operation: Any) -> Any:
    return await operation


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> BoundedMemory:
    return BoundedMemory(10_000, clock)


@pytest.fixture
def cache(clock: Clock) -> Any:
    return MemoryCache(max_bytes=100_000, clock=clock)


def segments(name: str, count: int, generation: bytes = GENERATION) -> list[str]:
    return [segment_key(name, generation, index) for index in range(count)]


# -- the bound


def test_what_is_stored_never_takes_more_than_the_bound(memory: BoundedMemory) -> None:
    for number in range(1000):
        assert memory.set(f"key-{number}", bytes(number), None)
        assert memory.used <= memory.max_bytes
    assert memory.get("key-999") == bytes(999)
    assert memory.get("key-0") is None


def test_keys_and_objects_count_too() -> None:
    memory = BoundedMemory(10_000)
    for number in range(1000):
        memory.set(f"{number:04}" + "k" * 96, b"", None)
    assert 10 < len(memory.sizes()) <= 10_000 // 100


def test_the_size_of_what_is_not_bytes_counts() -> None:
    memory = BoundedMemory(100_000)
    for number in range(1000):
        memory.set(f"key-{number}", "text" * 1000, None)
    assert 10 < len(memory.sizes()) <= 100_000 // 4000
    assert memory.used <= memory.max_bytes


def test_an_overwritten_value_counts_once(memory: BoundedMemory) -> None:
    memory.set("kept", b"value", None)
    for _ in range(100):
        assert memory.set("key", bytes(5000), None)
    assert memory.get("kept") == b"value"
    memory.set("key", b"", None)
    small = memory.used
    memory.set("key", bytes(5000), None)
    assert memory.used == small + 5000


def test_what_is_deleted_takes_nothing(memory: BoundedMemory) -> None:
    names = ["one", *segments("two", 3)]
    for name in names:
        memory.set(name, bytes(100), None)
    for name in names:
        assert memory.delete(name)
        assert not memory.delete(name)
    assert memory.used == 0
    assert memory.sizes() == {}


def test_a_value_as_large_as_the_store_fits_and_one_byte_more_does_not() -> None:
    memory = BoundedMemory(10_000)
    memory.set("key", b"", None)
    room = memory.max_bytes - memory.used
    assert memory.set("key", bytes(room), None)
    assert memory.used == memory.max_bytes
    assert not memory.set("key", bytes(room + 1), None)
    assert memory.used <= memory.max_bytes


def test_a_value_larger_than_the_store_throws_nothing_else_out(memory: BoundedMemory) -> None:
    memory.set("one", b"1", None)
    memory.set("two", b"2", None)
    assert not memory.set("large", bytes(10_001), None)
    assert not memory.add("large", bytes(10_001), None)
    assert memory.get("large") is None
    assert list(memory.sizes()) == ["one", "two"]


def test_a_value_larger_than_the_store_leaves_no_older_one_in_its_place(
    memory: BoundedMemory,
) -> None:
    memory.set("set", b"old", None)
    memory.set("swapped", b"old", None)
    assert not memory.set("set", bytes(10_001), None)
    assert not memory.compare_and_set("swapped", b"old", bytes(10_001), None)
    assert memory.sizes() == {}
    assert memory.used == 0


def test_a_run_larger_than_the_store_is_refused_in_the_end(memory: BoundedMemory) -> None:
    done = [memory.set(name, bytes(1000), None) for name in segments("run", 20)]
    assert not all(done)
    assert memory.used <= memory.max_bytes


def test_a_store_says_what_it_can_hold() -> None:
    assert MemoryStore(MemoryCache(max_bytes=12_345)).capacity == 12_345
    assert MemoryStore(MemoryCache()).capacity == DEFAULT_MAX_BYTES


def test_a_value_larger_than_the_store_is_an_error_of_the_store() -> None:
    store = MemoryStore(MemoryCache(max_bytes=1000))
    with pytest.raises(StoreError):
        run(store.set_many([("key", bytes(1001))], None))
    with pytest.raises(StoreError):
        run(store.add("key", bytes(1001), None))


# -- what goes first


def test_what_was_used_longest_ago_goes_first(memory: BoundedMemory) -> None:
    for name in ("one", "two", "three"):
        memory.set(name, bytes(2500), None)
    memory.get("one")
    memory.set("four", bytes(2500), None)
    assert list(memory.sizes()) == ["three", "one", "four"]


@pytest.mark.parametrize(
    "use",
    [
        lambda memory: memory.get("one"),
        lambda memory: memory.set("one", bytes(2500), None),
        lambda memory: memory.touch("one", 60),
        lambda memory: memory.compare_and_set("one", bytes(2500), bytes(2500), None),
        lambda memory: memory.add("one", b"", None),
    ],
    ids=["get", "set", "touch", "compare and set", "add"],
)
def test_every_use_of_a_key_keeps_it(
    memory: BoundedMemory, use: Callable[[BoundedMemory], object]
) -> None:
    for name in ("one", "two", "three"):
        memory.set(name, bytes(2500), None)
    use(memory)
    memory.set("four", bytes(2500), None)
    assert "one" in memory.sizes()
    assert "two" not in memory.sizes()


def test_asking_for_a_missing_key_changes_nothing(memory: BoundedMemory) -> None:
    memory.set("one", b"1", None)
    memory.set("two", b"2", None)
    assert memory.get("none") is None
    assert not memory.touch("none", 60)
    assert not memory.delete("none")
    assert not memory.compare_and_set("none", None, b"value", 60)
    assert list(memory.sizes()) == ["one", "two"]


def test_the_segments_of_a_run_go_together(memory: BoundedMemory) -> None:
    for name in segments("run", 3):
        memory.set(name, bytes(1500), None)
    memory.set("other", bytes(1500), None)
    memory.set("large", bytes(6000), None)
    assert list(memory.sizes()) == ["other", "large"]


def test_using_one_segment_keeps_its_whole_run(memory: BoundedMemory) -> None:
    run = segments("run", 3)
    for name in run:
        memory.set(name, bytes(1500), None)
    memory.set("other", bytes(1500), None)
    assert memory.get(run[1]) is not None
    memory.set("large", bytes(3500), None)
    assert list(memory.sizes()) == [*run, "large"]


def test_two_runs_of_one_key_are_two_groups(memory: BoundedMemory) -> None:
    old, new = segments("key", 3), segments("key", 3, OTHER_GENERATION)
    for name in [*old, *new]:
        memory.set(name, bytes(1200), None)
    memory.set("large", bytes(2500), None)
    assert list(memory.sizes()) == [*new, "large"]


def test_a_record_is_no_part_of_its_runs_group(memory: BoundedMemory) -> None:
    memory.set("key", b"record", None)
    for name in segments("key", 3):
        memory.set(name, bytes(1500), None)
    memory.get("key")
    memory.set("large", bytes(6000), None)
    assert list(memory.sizes()) == ["key", "large"]


@pytest.mark.parametrize("size", [1, 1000, 3000])
def test_no_run_is_ever_there_in_part(size: int) -> None:
    memory = BoundedMemory(20_000)
    runs = [segments(f"run-{number}", 5) for number in range(40)]
    for names in runs:
        for name in names:
            memory.set(name, bytes(size), None)
        for other in runs:
            held = {name in memory.sizes() for name in other}
            assert held in ({True}, {False})


def test_what_has_expired_goes_before_what_is_fresh(clock: Clock) -> None:
    memory = BoundedMemory(10_000, clock)
    memory.set("fresh", bytes(4000), None)
    memory.set("expired", bytes(4000), 5)
    clock.now += 5
    memory.set("new", bytes(4000), None)
    assert list(memory.sizes()) == ["fresh", "new"]


# -- expiry


def test_a_key_expires_when_its_ttl_is_over(memory: BoundedMemory, clock: Clock) -> None:
    memory.set("key", b"value", 0.5)
    clock.now += 0.499
    assert memory.get("key") == b"value"
    clock.now += 0.001
    assert memory.get("key") is None
    assert memory.used == 0


def test_an_expired_key_is_missing_for_every_call(memory: BoundedMemory, clock: Clock) -> None:
    def expired(value: object = b"value") -> None:
        memory.set("key", value, 5)
        clock.now += 5

    expired()
    assert not memory.touch("key", 60)
    expired()
    assert not memory.compare_and_set("key", b"value", b"other", 60)
    expired()
    assert memory.sizes() == {}
    expired(41)
    assert memory.increment("key", 1) == 1
    memory.delete("key")
    expired()
    assert memory.add("key", b"other", 60)
    assert memory.get("key") == b"other"


def test_none_never_expires(memory: BoundedMemory, clock: Clock) -> None:
    memory.set("set", b"value", None)
    memory.set("touched", b"value", 5)
    memory.touch("touched", None)
    memory.set("set again", b"value", 5)
    memory.set("set again", b"value", None)
    clock.now += 1e9
    assert list(memory.sizes()) == ["set", "touched", "set again"]


def test_a_new_value_has_a_ttl_of_its_own(memory: BoundedMemory, clock: Clock) -> None:
    memory.set("key", b"one", 5)
    clock.now += 4
    memory.set("key", b"two", 5)
    clock.now += 4
    assert memory.get("key") == b"two"
    clock.now += 1
    assert memory.get("key") is None


def test_a_deleted_key_leaves_no_deadline_behind(memory: BoundedMemory, clock: Clock) -> None:
    memory.set("key", b"one", 5)
    memory.delete("key")
    memory.set("key", b"two", None)
    clock.now += 10
    assert memory.get("key") == b"two"


def test_using_a_key_does_not_prolong_it(memory: BoundedMemory, clock: Clock) -> None:
    memory.set("key", b"value", 5)
    clock.now += 4
    memory.get("key")
    memory.add("key", b"other", 60)
    memory.compare_and_set("key", b"other", b"other", 60)
    clock.now += 1
    assert memory.get("key") is None


def test_an_increment_keeps_the_ttl(memory: BoundedMemory, clock: Clock) -> None:
    memory.set("key", 1, 5)
    clock.now += 4
    assert memory.increment("key", 2) == 3
    clock.now += 1
    assert memory.get("key") is None
    assert memory.increment("key", 2) == 2
    clock.now += 1e6
    assert memory.get("key") == 2


# -- any sequence of calls

KEYS = ["one", "two", *segments("run", 3), *segments("run", 2, OTHER_GENERATION)]
calls = st.tuples(
    st.sampled_from(["set", "add", "touch", "delete", "get", "swap", "wait"]),
    st.sampled_from(KEYS),
    st.integers(0, 900),
    st.none() | st.integers(1, 20),
)


@settings(deadline=None)
@given(st.lists(calls, max_size=60))
def test_any_sequence_of_calls_keeps_the_bound_and_gives_right_values(
    sequence: list[tuple[str, str, int, int | None]],
) -> None:
    clock = Clock()
    memory = BoundedMemory(3000, clock)
    model: dict[str, tuple[bytes, float | None]] = {}
    for call, key, size, ttl in sequence:
        value, deadline = bytes(size), None if ttl is None else clock.now + ttl
        held = memory.get(key)
        if call == "wait":
            clock.now += size / 100
        elif call == "get":
            assert held is None or held == model[key][0]
        elif call == "set":
            if memory.set(key, value, ttl):
                model[key] = value, deadline
        elif call == "add":
            added = memory.add(key, value, ttl)
            assert not (added and held is not None)
            if added:
                model[key] = value, deadline
        elif call == "swap":
            swapped = memory.compare_and_set(key, held, value, ttl)
            assert not (swapped and held is None)
            if swapped:
                model[key] = value, deadline
        elif call == "touch":
            assert memory.touch(key, ttl) == (held is not None)
            if held is not None:
                model[key] = held, deadline
        elif call == "delete":
            assert memory.delete(key) == (held is not None)
        assert memory.used <= memory.max_bytes
        for name in memory.sizes():
            expected, until = model[name]
            assert until is None or until > clock.now
            assert memory._items[name].value == expected
    for key in KEYS:
        memory.delete(key)
    assert memory.used == 0


# -- as an aiocache cache


def test_it_is_an_aiocache_cache(cache: Any) -> None:
    assert isinstance(cache, BaseCache)
    assert isinstance(cache.serializer, NullSerializer)
    assert MemoryCache.NAME == "memory"
    assert MemoryCache.parse_uri_path("/whatever") == {}


def test_get_gives_what_was_set_as_it_is(cache: Any) -> None:
    value = {"an": ["object"]}
    assert run(cache.set("key", value)) is True
    assert run(cache.get("key")) is value
    assert run(cache.get("none")) is None
    assert run(cache.get("none", default=value)) is value


def test_the_ttl_of_the_cache_holds_where_a_call_has_none(clock: Clock) -> None:
    cache: Any = MemoryCache(clock=clock, ttl=5)
    run(cache.set("short", 1))
    run(cache.set("long", 2, ttl=50))
    run(cache.set("for ever", 3, ttl=None))
    run(cache.set("zero", 4, ttl=0))
    clock.now += 5
    assert run(cache.multi_get(["short", "long", "for ever", "zero"])) == [None, 2, 3, 4]


def test_a_value_that_does_not_fit_is_said_not_to_be_set(cache: Any) -> None:
    assert run(cache.set("key", bytes(100_001))) is False
    assert run(cache.get("key")) is None


def test_add_raises_where_there_is_a_value(cache: Any, clock: Clock) -> None:
    assert run(cache.add("key", 1, ttl=5)) is True
    with pytest.raises(ValueError, match="already exists"):
        run(cache.add("key", 2))
    assert run(cache.get("key")) == 1
    clock.now += 5
    assert run(cache.add("key", 3)) is True
    assert run(cache.get("key")) == 3


def test_increment_counts_and_keeps_its_ttl(cache: Any, clock: Clock) -> None:
    assert run(cache.increment("counter")) == 1
    assert run(cache.increment("counter", delta=5)) == 6
    assert run(cache.increment("counter", delta=-7)) == -1
    run(cache.set("text", "41", ttl=5))
    assert run(cache.increment("text")) == 42
    clock.now += 5
    assert run(cache.get("text")) is None


@pytest.mark.parametrize("value", ["text", b"text", "1.5"])
def test_increment_of_what_is_no_number_raises(cache: Any, value: object) -> None:
    run(cache.set("key", value))
    with pytest.raises(TypeError):
        run(cache.increment("key"))
    assert run(cache.get("key")) == value


@pytest.mark.parametrize("value", [{}, [1], object()], ids=no_address)
def test_increment_of_an_object_raises(cache: Any, value: object) -> None:
    run(cache.set("key", value))
    with pytest.raises(TypeError):
        run(cache.increment("key"))
    assert run(cache.get("key")) is value


def test_expire_sets_a_ttl_and_takes_it_away(cache: Any, clock: Clock) -> None:
    run(cache.set("one", 1))
    run(cache.set("two", 2, ttl=5))
    assert run(cache.expire("one", 5)) is True
    assert run(cache.expire("two", 0)) is True
    assert run(cache.expire("none", 5)) is False
    clock.now += 5
    assert run(cache.multi_get(["one", "two"])) == [None, 2]


def test_delete_counts_what_it_deleted(cache: Any) -> None:
    run(cache.set("key", 1))
    assert run(cache.delete("key")) == 1
    assert run(cache.delete("key")) == 0
    assert run(cache.get("key")) is None


def test_exists_says_whether_a_key_is_there(cache: Any, clock: Clock) -> None:
    run(cache.set("key", 0, ttl=5))
    assert run(cache.exists("key")) is True
    assert run(cache.exists("none")) is False
    clock.now += 5
    assert run(cache.exists("key")) is False


def test_multi_set_and_multi_get_work_in_order(cache: Any, clock: Clock) -> None:
    pairs = [["one", 1], ["two", 2], ["three", 3]]
    assert run(cache.multi_set(pairs, ttl=5)) is True
    assert run(cache.multi_get(["three", "none", "one", "one"])) == [3, None, 1, 1]
    assert run(cache.multi_get([])) == []
    clock.now += 5
    assert run(cache.multi_get(["one", "two", "three"])) == [None] * 3


def test_raw_calls_what_is_behind_the_cache(cache: Any) -> None:
    run(cache.set("key", b"value"))
    assert run(cache.raw("get", "key")) == b"value"
    assert run(cache.raw("set", "other", 1, None)) is True
    assert run(cache.get("other")) == 1
    with pytest.raises(AttributeError):
        run(cache.raw("flushall"))


def test_clear_deletes_everything(cache: Any) -> None:
    run(cache.multi_set([("one", 1), ("two", 2)]))
    assert run(cache.clear()) is True
    assert run(cache.multi_get(["one", "two"])) == [None, None]
    assert cache.sizes() == {}
    assert cache.memory.used == 0


def test_clear_with_a_namespace_deletes_what_is_in_it(cache: Any) -> None:
    for namespace in ("a:", "b:", ""):
        run(cache.set("key", namespace, namespace=namespace))
    assert run(cache.clear(namespace="a:")) is True
    assert cache.sizes().keys() == {"b:key", "key"}
    assert run(cache.get("key", namespace="b:")) == "b:"
    assert run(cache.get("key")) == ""


def test_what_is_set_after_a_clear_is_not_deleted_by_an_older_ttl(cache: Any, clock: Clock) -> None:
    run(cache.set("key", 1, ttl=5))
    run(cache.clear())
    run(cache.set("key", 2))
    clock.now += 10
    assert run(cache.get("key")) == 2


def test_namespaces_over_one_memory_do_not_see_each_other() -> None:
    cache: Any = MemoryCache(namespace="a:")
    run(cache.set("key", 1))
    assert run(cache.get("key", namespace="b:")) is None
    assert run(cache.get("key", namespace="a:")) == 1
    assert list(cache.sizes()) == ["a:key"]
    assert run(MemoryStore(cache).get_many(["key"])) == [FOREIGN]


def test_a_key_builder_is_used_by_the_cache_and_the_store() -> None:
    cache: Any = MemoryCache(
        namespace="a", key_builder=lambda key, namespace: f"<{namespace}|{key}>"
    )
    run(cache.set("key", b"value"))
    assert list(cache.sizes()) == ["<a|key>"]
    assert run(MemoryStore(cache).get_many(["key"])) == [b"value"]


#: What ends that keys have the values that they had.
_CHANGES: dict[str, Callable[[Any, Clock], object]] = {
    "set": lambda cache, clock: run(cache.set("key", b"value")),
    "set again": lambda cache, clock: run(cache.set("other", b"1")),
    "added": lambda cache, clock: run(cache.add("absent", b"1")),
    "deleted": lambda cache, clock: run(cache.delete("other")),
    "cleared": lambda cache, clock: run(cache.clear()),
    "counted": lambda cache, clock: run(cache.increment("number")),
    "expired": lambda cache, clock: clock.move_on(10),
    "expires sooner": lambda cache, clock: (run(cache.expire("key", 1)), clock.move_on(2)),
    "evicted": lambda cache, clock: run(cache.set("large", bytes(cache.memory.max_bytes - 300))),
}


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("namespace", ["", "a:"])
@pytest.mark.parametrize("is_part", [False, True])
def test_it_tells_whether_keys_still_have_their_values(
    is_part: bool, namespace: str, change: str, clock: Clock
) -> None:
    cache: Any = MemoryCache(namespace=namespace, clock=clock, max_bytes=10_000)
    if is_part:
        cache = partition_of(cache, "part")
    store, value, other = MemoryStore(cache), b"value", b"1"
    run(store.set_many([("key", value), ("other", other)], 5))
    run(cache.set("number", 1))
    keys, values = ["key", "other", "absent"], [value, other, None]
    if change == "counted":
        keys, values = ["number"], [cache.memory.get(f"{namespace}number")]
    found = held(store, dict(zip(keys, values, strict=True)), {})
    assert found is not None

    for _ in range(2):
        run(cache.set("another", b"value"))
        clock.now += 2
        assert found.are_there()
    _CHANGES[change](cache, clock)
    assert not found.are_there()


def test_what_is_held_is_used() -> None:
    cache: Any = MemoryCache(max_bytes=3_000)
    store, value = MemoryStore(cache), bytes(1_000)
    run(store.set_many([("key", value), ("other", bytes(1_000))], None))
    found = held(store, {"key": value}, {})
    assert found is not None
    assert found.are_there()
    run(cache.set("third", bytes(1_000)))
    assert [key for key in ("key", "other", "third") if run(cache.exists(key))] == ["key", "third"]


def test_what_is_held_is_not_kept_alive() -> None:
    cache: Any = MemoryCache()
    # There is no weak reference to bytes.
    value = Clock()
    alive = weakref.ref(value)
    cache.memory.set("key", value, None)
    found = cache.memory.held({"key": value}, {})
    assert found.are_there()
    del value, cache
    gc.collect()
    assert alive() is None
    assert not found.are_there()


def test_of_other_values_nothing_is_held() -> None:
    store, value = MemoryStore(MemoryCache()), b"value"
    run(store.set_many([("key", value)], None))
    assert held(store, {"key": b"other"}, {}) is None
    assert held(store, {"key": bytes(bytearray(value))}, {}) is None
    assert held(store, {"key": None}, {}) is None
    assert held(store, {"absent": value}, {}) is None
    assert held(store, {"key": value}, {"key": b"va", "absent": b"va"}) is None
    assert held(store, {"key": value}, {"key": b"v2"}) is None
    found = held(store, {}, {"key": b"va"})
    assert found is not None
    assert found.are_there()
    run(store.set_many([("key", b"va")], None))
    assert not found.are_there()


def test_a_key_builder_is_called_at_each_read() -> None:
    store = MemoryStore(MemoryCache(key_builder=lambda key, namespace: f"<{namespace}|{key}>"))
    assert held(store, {"key": None}, {}) is None


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        (JsonSerializer(), {"a": [1, None, "ü"]}),
        (PickleSerializer(), {"a": {1, 2}, "b": b"\xff"}),
        (NullSerializer(), object()),
        (StringSerializer(), "text"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_serializer_of_aiocache_works(serializer: Any, value: object) -> None:
    cache: Any = MemoryCache(serializer=serializer)
    run(cache.set("key", value))
    assert run(cache.get("key")) == value
    assert run(cache.multi_get(["key", "none"]))[0] == value
    assert isinstance(cache.memory.get("key"), type(serializer.dumps(value)))


def test_plugins_are_called_around_each_call() -> None:
    seen: list[str] = []

    class Recorder(BasePlugin):  # type: ignore[misc]
        async def pre_set(self, client: Any, *args: Any, **kwargs: Any) -> None:
            seen.append(f"pre_set {args}")

        async def post_get(self, client: Any, *args: Any, ret: Any = None, **kwargs: Any) -> None:
            seen.append(f"post_get {ret}")

    cache: Any = MemoryCache(plugins=[Recorder(), HitMissRatioPlugin()])
    run(cache.set("key", 1))
    run(cache.get("key"))
    run(cache.get("none"))
    assert seen == ["pre_set ('key', 1)", "post_get 1", "post_get None"]
    assert cache.hit_miss_ratio["hits"] == 1


def test_a_cas_token_is_compared_with_what_there_is(cache: Any) -> None:
    run(cache.set("key", 1))
    token = run(cache._gets("key"))
    assert run(cache.set("key", 2, _cas_token=token))
    assert not run(cache.set("key", 3, _cas_token=token))
    assert run(cache.get("key")) == 2


def test_a_lock_is_released_by_its_owner_only(cache: Any) -> None:
    run(cache.set("lock", "mine"))
    assert run(cache._redlock_release("lock", "another's")) == 0
    assert run(cache._redlock_release("lock", "mine")) == 1
    assert run(cache.get("lock")) is None


def test_an_address_as_an_option_is_refused() -> None:
    with pytest.raises(TypeError):
        MemoryCache(endpoint="127.0.0.1")


# -- several threads


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run it in threads that begin together; raise what one of them has raised."""
    together = threading.Barrier(count)

    def begin(number: int) -> None:
        together.wait(10)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(begin, number) for number in range(count)]:
            done.result(30)


@pytest.mark.usefixtures("hasty_threads")
def test_no_increment_of_several_threads_is_lost() -> None:
    memory = BoundedMemory(10_000)
    in_threads(8, lambda _: [memory.increment("key", 1) for _ in range(500)].clear())
    assert memory.get("key") == 4000


@pytest.mark.usefixtures("hasty_threads")
def test_of_several_threads_that_add_one_wins() -> None:
    memory = BoundedMemory(1_000_000)
    won: list[tuple[int, int]] = []

    def add(number: int) -> None:
        for turn in range(200):
            if memory.add(f"key-{turn}", b"%d" % number, None):
                won.append((turn, number))

    in_threads(8, add)
    assert len(won) == 200
    assert all(memory.get(f"key-{turn}") == b"%d" % number for turn, number in won)


@pytest.mark.usefixtures("hasty_threads")
def test_of_several_threads_that_compare_and_set_one_wins() -> None:
    memory = BoundedMemory(10_000)
    memory.set("key", b"0", None)

    def count(_: int) -> None:
        for _ in range(100):
            while True:
                value = memory.get("key")
                if memory.compare_and_set("key", value, b"%d" % (int(value) + 1), None):
                    break

    in_threads(6, count)
    assert memory.get("key") == b"600"


@pytest.mark.usefixtures("hasty_threads")
def test_several_threads_keep_the_bound_and_the_groups_whole() -> None:
    memory = BoundedMemory(30_000)

    def work(number: int) -> None:
        for turn in range(100):
            for name in segments(f"run-{number}-{turn % 7}", 4):
                memory.set(name, b"%d" % number * 500, None if turn % 3 else 60)
            memory.set(f"key-{turn % 10}", bytes(turn * 10), 60)
            memory.touch(f"key-{turn % 5}", None)
            if turn % 20 == 19:
                memory.clear(f"run-{number}")
            memory.delete(f"key-{turn % 3}")
            for value in map(memory.get, segments(f"run-{number}-{turn % 7}", 4)):
                assert value is None or value == b"%d" % number * 500
            assert memory.used <= memory.max_bytes

    in_threads(6, work)
    used = sum(memory._items[key].size for key in memory.sizes())
    assert memory.used == used <= memory.max_bytes
    for key in list(memory.sizes()):
        memory.delete(key)
    assert memory.used == 0
    assert not memory._groups


@pytest.mark.usefixtures("hasty_threads")
def test_loops_in_several_threads_share_one_cache() -> None:
    cache: Any = MemoryCache(max_bytes=1_000_000)
    store = MemoryStore(cache)

    async def use(number: int) -> None:
        for turn in range(100):
            await cache.set(f"{number}-{turn}", turn)
            assert await cache.get(f"{number}-{turn}") == turn
            await cache.increment("all")
            await store.set_many([(f"bytes-{number}", b"%d" % turn)], 60)
            assert await store.get_many([f"bytes-{number}"]) == [b"%d" % turn]

    in_threads(6, lambda number: asyncio.run(use(number)))
    assert run(cache.get("all")) == 600
