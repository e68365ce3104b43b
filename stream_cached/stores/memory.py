"""The memory store: an aiocache `BaseCache` in this process, bounded in bytes.

aiocache's own memory cache has no bound. This cache evicts the least recently used keys. The
segments of one run are evicted together, because a body with a missing segment can't be served.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from stream_cached.errors import StoreError
from stream_cached.keys.names import segment_group
from stream_cached.stores.protocol import as_bytes

DEFAULT_MAX_BYTES = 256 * 1024 * 1024

#: Bytes that a key costs beside its characters and its value: the dict slots and the objects.
_OVERHEAD = 200

#: Seconds between two searches for expired keys. Only a full memory is searched.
_SWEEP_INTERVAL = 10.0


@dataclass(slots=True)
class Item:
    """A value, the time of its expiry, and its size in bytes."""

    value: Any
    deadline: float | None
    size: int


class BoundedMemory:
    """A thread-safe dict with expiry, which evicts the least recently used group of keys.

    Its bound in bytes includes the keys and an allowance for the objects."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._clock = clock
        self._next_sweep = clock()
        self._items: dict[str, Item] = {}
        self._groups: OrderedDict[str, dict[str, None]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: str) -> Any:
        with self._lock:
            item = self._live(key)
            return None if item is None else item.value

    def set(self, key: str, value: Any, ttl: float | None) -> bool:
        """Set the key; return False if the value alone exceeds the bound."""
        with self._lock:
            return self._put(key, value, self._deadline(ttl))

    def add(self, key: str, value: Any, ttl: float | None) -> bool:
        with self._lock:
            return self._live(key) is None and self._put(key, value, self._deadline(ttl))

    def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        with self._lock:
            item = self._live(key)
            if item is None or item.value != expected:
                return False
            return self._put(key, value, self._deadline(ttl))

    def increment(self, key: str, delta: int) -> int:
        """Add to a number and keep its ttl; a missing key counts as 0."""
        with self._lock:
            item = self._live(key)
            value = delta + (0 if item is None else int(item.value))
            self._put(key, value, None if item is None else item.deadline)
            return value

    def touch(self, key: str, ttl: float | None) -> bool:
        with self._lock:
            item = self._live(key)
            if item is not None:
                item.deadline = self._deadline(ttl)
            return item is not None

    def delete(self, key: str) -> bool:
        with self._lock:
            item = self._items.pop(key, None)
            if item is None:
                return False
            self.used -= item.size
            name = _group_name(key)
            group = self._groups[name]
            del group[key]
            if not group:
                del self._groups[name]
            return True

    def clear(self, prefix: str) -> None:
        with self._lock:
            for key in [key for key in self._items if key.startswith(prefix)]:
                self.delete(key)

    def fits(self, key: str, value: Any) -> bool:
        return _cost(key, value) <= self.max_bytes

    def sizes(self) -> dict[str, int]:
        with self._lock:
            self._sweep()
            keys = [key for group in self._groups.values() for key in group]
            return {key: _size(self._items[key].value) for key in keys}

    def _deadline(self, ttl: float | None) -> float | None:
        return self._clock() + ttl if ttl else None

    def _live(self, key: str) -> Item | None:
        item = self._items.get(key)
        if item is None:
            return None
        if item.deadline is not None and item.deadline <= self._clock():
            self.delete(key)
            return None
        self._groups.move_to_end(_group_name(key))
        return item

    def _put(self, key: str, value: Any, deadline: float | None) -> bool:
        self.delete(key)
        size = _cost(key, value)
        if size > self.max_bytes:
            return False
        name = _group_name(key)
        if name in self._groups:
            self._groups.move_to_end(name)
        if self.used + size > self.max_bytes and not self._make_room(size, name):
            return False
        self.used += size
        self._items[key] = Item(value, deadline, size)
        self._groups.setdefault(name, {})[key] = None
        return True

    def _make_room(self, size: int, name: str) -> bool:
        """Evict the least recently used groups; return False if the named group is evicted."""
        if self._clock() >= self._next_sweep:
            self._next_sweep = self._clock() + _SWEEP_INTERVAL
            self._sweep()
        while self.used + size > self.max_bytes:
            oldest, keys = next(iter(self._groups.items()))
            for key in list(keys):
                self.delete(key)
            if oldest == name:
                return False
        return True

    def _sweep(self) -> None:
        now = self._clock()
        for key, item in list(self._items.items()):
            if item.deadline is not None and item.deadline <= now:
                self.delete(key)


def _group_name(key: str) -> str:
    return segment_group(key) or key


def _cost(key: str, value: object) -> int:
    return _OVERHEAD + len(key) + _size(value)


def _size(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    size, seen, pending = 0, set(), [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        size += sys.getsizeof(item)
        if isinstance(item, dict):
            pending.extend((*item.keys(), *item.values()))
        elif isinstance(item, list | tuple | set | frozenset):
            pending.extend(item)
        elif not isinstance(item, type | ModuleType):
            pending.extend(getattr(item, "__dict__", {}).values())
    return size


class MemoryCache(BaseCache):  # type: ignore[misc]
    """
    An aiocache cache in this process, bounded in bytes. It is the default and `memory://`.

    Args:
        serializer: The aiocache serializer; by default, values are stored unchanged.
        max_bytes: The bound in bytes, which includes keys and an allowance for the objects. The
            size of a value that is not bytes is estimated together with its content.
        clock: Monotonic seconds; for tests.
        kwargs: The keyword arguments of `aiocache.base.BaseCache`.
    """

    NAME = "memory"

    def __init__(
        self,
        serializer: Any = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(serializer=serializer or NullSerializer(), **kwargs)
        self.memory = BoundedMemory(max_bytes, clock)

    def sizes(self) -> dict[str, int]:
        """Return the size of each value in bytes by key, the most recently used last."""
        return self.memory.sizes()

    async def _get(self, key: str, encoding: str | None = None, _conn: Any = None) -> Any:
        return self.memory.get(key)

    async def _gets(self, key: str, encoding: str | None = None, _conn: Any = None) -> Any:
        return self.memory.get(key)

    async def _multi_get(
        self, keys: Sequence[str], encoding: str | None = None, _conn: Any = None
    ) -> list[Any]:
        return [self.memory.get(key) for key in keys]

    async def _set(
        self,
        key: str,
        value: Any,
        ttl: float | None = None,
        _cas_token: Any = None,
        _conn: Any = None,
    ) -> bool:
        if _cas_token is not None:
            return self.memory.compare_and_set(key, _cas_token, value, ttl)
        return self.memory.set(key, value, ttl)

    async def _multi_set(
        self, pairs: Sequence[tuple[str, Any]], ttl: float | None = None, _conn: Any = None
    ) -> bool:
        for key, value in pairs:
            self.memory.set(key, value, ttl)
        return True

    async def _add(self, key: str, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if not self.memory.add(key, value, ttl):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return self.memory.get(key) is not None

    async def _increment(self, key: str, delta: int, _conn: Any = None) -> int:
        try:
            return self.memory.increment(key, delta)
        except ValueError:
            raise TypeError("Value is not an integer") from None

    async def _expire(self, key: str, ttl: float, _conn: Any = None) -> bool:
        return self.memory.touch(key, ttl or None)

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(self.memory.delete(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        self.memory.clear(namespace or "")
        return True

    async def _raw(self, command: str, *args: Any, encoding: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("_conn", None)
        return getattr(self.memory, command)(*args, **kwargs)

    async def _redlock_release(self, key: str, value: Any) -> int:
        return int(self.memory.get(key) == value and self.memory.delete(key))

    @classmethod
    def parse_uri_path(cls, path: str) -> dict[str, Any]:
        """Return no options: the path of a `memory://` URL is empty."""
        return {}


class MemoryStore:
    """The store over a `MemoryCache`."""

    def __init__(self, cache: MemoryCache) -> None:
        self._memory = cache.memory
        self._namespace = cache.namespace
        self._build_key: Callable[..., str] = cache.build_key

    @property
    def capacity(self) -> int | None:
        return self._memory.max_bytes

    def _native(self, key: str) -> str:
        try:
            return self._build_key(key, namespace=self._namespace)
        # The user's `key_builder` may raise anything.
        except Exception as exc:
            raise StoreError(f"key: {type(exc).__name__}") from exc

    def _fitting(self, key: str, value: bytes) -> str:
        native = self._native(key)
        if not self._memory.fits(native, value):
            raise StoreError("set: the value is larger than max_bytes of the store")
        return native

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [as_bytes(self._memory.get(self._native(key))) for key in keys]

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        for key, value in items:
            self._memory.set(self._fitting(key, value), value, ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return self._memory.add(self._fitting(key, value), value, ttl)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        return self._memory.compare_and_set(self._fitting(key, value), expected, value, ttl)

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return sum([self._memory.touch(self._native(key), ttl) for key in keys])

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._memory.delete(self._native(key))

    async def ping(self) -> None:
        return
