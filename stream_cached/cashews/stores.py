"""aiocache caches over cashews' memory and disk backends."""

from __future__ import annotations

import asyncio
import io
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from stream_cached.connections.time_limit import TimeLimit
from stream_cached.errors import StoreError
from stream_cached.keys.names import is_segment_key
from stream_cached.stores.aiocache import AiocacheStore
from stream_cached.stores.bounded import BoundedMemory, Item
from stream_cached.stores.memory import MemoryCache
from stream_cached.stores.protocol import FOREIGN, Items, all_as_bytes

if TYPE_CHECKING:
    from cashews.backends.diskcache import DiskCache
    from cashews.backends.memory import Memory

T = TypeVar("T")

#: The bound of all segments in one memory, in bytes.
DEFAULT_MAX_BYTES = 64 * 1024 * 1024

#: Seconds between two attempts of a call on a locked disk cache.
_PAUSE = 0.001


# -- memory -------------------------------------------------------------------------------------


class Raw(NamedTuple):
    """Wraps bytes in cashews' memory, which would pass plain bytes to its own serializer."""

    value: bytes


_segments: weakref.WeakKeyDictionary[Memory, BoundedMemory] = weakref.WeakKeyDictionary()
_segments_lock = threading.Lock()


class _SplitMemory(BoundedMemory):
    """Records in cashews' memory, which bounds the number of keys; segments in a second memory."""

    def __init__(self, backend: Memory, max_bytes: int, clock: Callable[[], float]) -> None:
        with _segments_lock:
            self._segments = _segments.setdefault(backend, BoundedMemory(max_bytes, clock))
        super().__init__(self._segments.max_bytes, clock)
        self._backend = backend
        self._lock = self._segments._lock

    @property
    def _records(self) -> OrderedDict[str, tuple[float | None, Any]]:
        # `clear` of the backend replaces the dict, so it must not be kept in an attribute.
        return self._backend.store

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        with self._lock:
            return [self._value(key) for key in keys]

    def _value(self, key: str) -> Any:
        if (item := self._live(key)) is None:
            return None
        # None may be a value of cashews' own.
        return FOREIGN if item.value is None else item.value

    def held(self, values: Mapping[str, Any], starts: Mapping[str, bytes]) -> None:
        """Return None: cashews changes its records itself."""

    def touch(self, key: str, ttl: float | None) -> bool:
        if is_segment_key(key):
            return self._segments.touch(key, ttl)
        with self._lock:
            if self._live(key) is None:
                return False
            _, value = self._records[key]
            # The value may be cashews' own and is not unwrapped.
            self._records[key] = self._deadline(ttl), value
            return True

    def delete(self, key: str) -> bool:
        if is_segment_key(key):
            return self._segments.delete(key)
        with self._lock:
            return self._records.pop(key, None) is not None

    def clear(self, prefix: str) -> None:
        with self._lock:
            self._segments.clear(prefix)
            for key in [key for key in self._records if key.startswith(prefix)]:
                self.delete(key)

    def sizes(self) -> dict[str, int]:
        """Return the size of each segment in bytes by key, the most recently used last."""
        return self._segments.sizes()

    def _live(self, key: str) -> Item | None:
        if is_segment_key(key):
            return self._segments._live(key)
        records = self._records
        if key not in records:
            return None
        deadline, value = records[key]
        if deadline is not None and deadline <= self._clock():
            del records[key]
            return None
        records.move_to_end(key)
        return Item(value.value if isinstance(value, Raw) else value, deadline, 0)

    def _put(self, key: str, value: Any, deadline: float | None) -> bool:
        if is_segment_key(key):
            return self._segments._put(key, value, deadline)
        records = self._records
        records[key] = deadline, Raw(value) if isinstance(value, bytes) else value
        records.move_to_end(key)
        if len(records) > self._backend.size:
            records.popitem(last=False)
        return True


class CashewsMemory(MemoryCache):
    """
    An aiocache cache over cashews' memory backend (`mem://`), whose keys and bound it shares.

    All views of one backend share a second memory for segments, bounded by the first `max_bytes`.
    """

    def __init__(
        self,
        backend: Memory,
        serializer: Any = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
        **kwargs: Any,
    ) -> None:
        super().__init__(serializer, max_bytes=max_bytes, clock=clock, **kwargs)
        self.memory = _SplitMemory(backend, max_bytes, clock)


# -- disk ---------------------------------------------------------------------------------------


class CashewsDisk(BaseCache):  # type: ignore[misc]
    """An aiocache cache over cashews' disk backend (`disk://`), which is called in threads."""

    NAME = "disk"

    def __init__(self, backend: DiskCache, serializer: Any = None, **kwargs: Any) -> None:
        super().__init__(serializer=serializer or NullSerializer(), **kwargs)
        self.backend = backend

    def store(self, timeout: float | None, time_limit: TimeLimit) -> CashewsDiskStore:
        """Return the store over this cache."""
        return CashewsDiskStore(self, timeout, time_limit)

    @property
    def shards(self) -> Sequence[Any]:
        """The diskcache caches among which the keys are distributed."""
        # FanoutCache reports a key of a locked or broken disk as missing, so it is bypassed.
        cache: Any = self.backend._cache
        return getattr(cache, "_shards", (cache,))

    async def in_thread(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run the calls in one thread; after a cancellation, skip those that have not started."""
        from diskcache import Timeout

        cancelled = False

        def attempt(call: Callable[[], T]) -> T:
            while True:
                try:
                    return call()
                except Timeout:
                    if cancelled:
                        raise
                time.sleep(_PAUSE)

        def run_all() -> list[T]:
            return [attempt(call) for call in calls if not cancelled]

        try:
            return await asyncio.to_thread(run_all) if calls else []
        finally:
            cancelled = True

    # -- called in a thread

    def _place(self, key: Any) -> tuple[Any, Any]:
        # cashews matches its patterns with every key, so all keys have to be str; SQLite refuses
        # str with lone surrogates.
        name = key.encode("utf-8", "backslashreplace").decode() if isinstance(key, str) else key
        shards = self.shards
        return shards[shards[0].disk.hash(name) % len(shards)], name

    def read(self, key: Any) -> Any:
        """Return the value, None for a missing or expired key."""
        shard, name = self._place(key)
        value = shard.get(name)
        if value is None and name in shard:
            # The value was replaced during the read, and its file is gone. A transaction prevents
            # another replacement.
            with shard.transact():
                value = shard.get(name)
                if value is None and name in shard:
                    # It is a value of cashews' own.
                    return FOREIGN
        return value

    def write(self, key: Any, value: Any, ttl: float | None) -> bool:
        """Set the key; return whether it was set."""
        shard, name = self._place(key)
        if isinstance(value, bytes) and len(value) >= shard.disk.min_file_size:
            # diskcache writes bytes line by line, but copies a file object in blocks.
            return bool(shard.set(name, io.BytesIO(value), ttl or None, read=True))
        return bool(shard.set(name, value, ttl or None))

    def add_missing(self, key: Any, value: Any, ttl: float | None) -> bool:
        """Set the key if it is missing; return whether it was set."""
        shard, name = self._place(key)
        return bool(shard.add(name, value, ttl or None))

    def swap(self, key: Any, expected: Any, value: Any, ttl: float | None) -> bool:
        """Set the key if its value equals `expected`; return whether it was set."""
        shard, name = self._place(key)
        with shard.transact():
            return shard.get(name) == expected and bool(shard.set(name, value, ttl or None))

    def touch(self, key: Any, ttl: float | None) -> bool:
        """Give the key a new ttl; return whether it exists."""
        shard, name = self._place(key)
        return bool(shard.touch(name, ttl or None))

    def remove(self, key: Any) -> bool:
        """Delete the key; return whether it existed."""
        shard, name = self._place(key)
        return bool(shard.delete(name))

    def _holds(self, key: Any) -> bool:
        shard, name = self._place(key)
        return name in shard

    def _empty(self, prefix: str) -> None:
        for shard in self.shards:
            for name in shard.iterkeys():
                if isinstance(name, str) and name.startswith(prefix):
                    shard.delete(name)

    # -- the backend methods of aiocache

    async def _one(self, call: Callable[[], T]) -> T:
        (result,) = await self.in_thread([call])
        return result

    async def _get(self, key: Any, encoding: str | None = None, _conn: Any = None) -> Any:
        return await self._one(partial(self.read, key))

    async def _multi_get(
        self, keys: Sequence[Any], encoding: str | None = None, _conn: Any = None
    ) -> list[Any]:
        return await self.in_thread([partial(self.read, key) for key in keys])

    async def _set(
        self,
        key: Any,
        value: Any,
        ttl: float | None = None,
        _cas_token: Any = None,
        _conn: Any = None,
    ) -> bool:
        if _cas_token is not None:
            return await self._one(partial(self.swap, key, _cas_token, value, ttl))
        return await self._one(partial(self.write, key, value, ttl))

    async def _multi_set(
        self, pairs: Sequence[tuple[Any, Any]], ttl: float | None = None, _conn: Any = None
    ) -> bool:
        return all(await self.in_thread([partial(self.write, *pair, ttl) for pair in pairs]))

    async def _add(self, key: Any, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if not await self._one(partial(self.add_missing, key, value, ttl)):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _exists(self, key: Any, _conn: Any = None) -> bool:
        return await self._one(partial(self._holds, key))

    async def _expire(self, key: Any, ttl: float, _conn: Any = None) -> bool:
        return await self._one(partial(self.touch, key, ttl))

    async def _delete(self, key: Any, _conn: Any = None) -> int:
        return await self._one(partial(self.remove, key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        await self._one(partial(self._empty, namespace or ""))
        return True


class CashewsDiskStore(AiocacheStore):
    """The store over `CashewsDisk`: many keys in one thread."""

    def __init__(
        self, cache: CashewsDisk, timeout: float | None, time_limit: TimeLimit | None = None
    ) -> None:
        super().__init__(cache, timeout, time_limit)
        bounded = all(shard.eviction_policy != "none" for shard in cache.shards)
        self.capacity = int(sum(s.size_limit for s in cache.shards)) if bounded else None

    async def set_many(self, items: Items, ttl: float | None) -> None:
        pairs = [(self.native_key(key), value) for key, value in items]
        if not await self.call("set", partial(self.cache._multi_set, pairs, ttl)):
            raise StoreError("set: refused")

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]:
        """Do the work of `add`, then of `get_many`, in one thread."""
        add = partial(self.cache.add_missing, self.native_key(key), value, ttl)
        reads = [partial(self.cache.read, self.native_key(other)) for other in keys]
        done, *values = await self.call("add", partial(self.cache.in_thread, [add, *reads]))
        return done, all_as_bytes(values)

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        calls = [partial(self.cache.touch, self.native_key(key), ttl) for key in keys]
        return sum(await self.call("touch", partial(self.cache.in_thread, calls)))

    async def delete_many(self, keys: Sequence[str]) -> None:
        calls = [partial(self.cache.remove, self.native_key(key)) for key in keys]
        await self.call("delete", partial(self.cache.in_thread, calls))
