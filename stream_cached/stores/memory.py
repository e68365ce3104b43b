"""The memory store: an aiocache `BaseCache` in this process, bounded in bytes.

aiocache's own memory cache has no bound.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from stream_cached.checks import require_size
from stream_cached.errors import StoreError
from stream_cached.format.envelope import Own
from stream_cached.stores.bounded import BoundedMemory, HeldItems, Partition
from stream_cached.stores.protocol import Commit, Items, all_as_bytes

#: The class of keys that have a namespace before them.
_TEXT = frozenset({str})

DEFAULT_MAX_BYTES = 256 * 1024 * 1024


class MemoryCache(BaseCache):  # type: ignore[misc]
    """
    An aiocache cache in this process, bounded in bytes. It is the default and `memory://`.

    Args:
        serializer: The aiocache serializer; by default, values are stored unchanged.
        max_bytes: The bound in bytes, or a text such as `"64MiB"`. It includes keys and an
            allowance for the objects. The size of a value that is not bytes is estimated together
            with all that it holds.
        clock: Monotonic seconds; for tests.
        kwargs: The keyword arguments of `aiocache.base.BaseCache`.

    Raises:
        ConfigurationError: `max_bytes` is no size.
    """

    NAME = "memory"

    def __init__(
        self,
        serializer: Any = None,
        *,
        max_bytes: int | str = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(serializer=serializer or NullSerializer(), **kwargs)
        self.memory = BoundedMemory(require_size("max_bytes", max_bytes, least=1), clock)

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
        return int(self.memory.compare_and_delete(key, value))

    @classmethod
    def parse_uri_path(cls, path: str) -> dict[str, Any]:
        """Return no options: the path of a `memory://` URL is empty."""
        return {}


def partition_of(cache: MemoryCache, name: str) -> MemoryCache:
    """Return a cache in the memory of another one, with keys of its own."""
    part = copy.copy(cache)
    part.memory = Partition(cache.memory, name)
    return part


class MemoryStore:
    """The store over a `MemoryCache`."""

    takes = Own

    def __init__(self, cache: MemoryCache) -> None:
        self._memory = cache.memory
        self._namespace = cache.namespace
        self._build_key: Callable[..., str] = cache.build_key
        # What aiocache would put before each key, unless the user has a function for that.
        own = getattr(cache.build_key, "__func__", None) is BaseCache._build_key
        self._prefix = self._namespace or "" if own else None

    @property
    def capacity(self) -> int | None:
        return self._memory.max_bytes

    def _native(self, key: str) -> str:
        if self._prefix is not None and type(key) is str:
            return self._prefix + key
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
        return self._get_many(keys)

    def _get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        prefix, natives = self._prefix, keys
        if prefix is None or not _TEXT.issuperset(map(type, keys)):
            natives = list(map(self._native, keys))
        elif prefix:
            natives = [prefix + key for key in keys]
        return all_as_bytes(self._memory.get_many(natives))

    def held(
        self, values: Mapping[str, bytes | None], starts: Mapping[str, bytes]
    ) -> HeldItems | None:
        # A user's function for keys is called at each read.
        prefix = self._prefix
        if prefix is None or not _TEXT.issuperset(map(type, [*values, *starts])):
            return None
        return self._memory.held(
            {prefix + key: value for key, value in values.items()},
            {prefix + key: start for key, start in starts.items()},
        )

    async def set_many(self, items: Items, ttl: float | None) -> None:
        self._set_many(items, ttl)

    def _set_many(self, items: Items, ttl: float | None) -> None:
        for key, value in items:
            self._memory.set(self._fitting(key, value), value, ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return self._memory.add(self._fitting(key, value), value, ttl)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        return self._memory.compare_and_set(self._fitting(key, value), expected, value, ttl)

    async def compare_and_delete(self, key: str, expected: bytes) -> bool:
        return self._memory.compare_and_delete(self._native(key), expected)

    may_commit = True

    async def commit(self, commit: Commit) -> tuple[bool, bool]:
        key = self._fitting(commit.key, commit.value)
        with self._memory.lock:
            if self._get_many([*commit.expected]) != [*commit.expected.values()]:
                return False, False
            if commit.last:
                self._set_many(commit.last, commit.last_ttl)
            if commit.body and None in self._get_many(commit.body):
                return False, False
            self._memory.set(key, commit.value, commit.ttl)
            if commit.body:
                self._touch_many(commit.body, commit.body_ttl)
            self._touch_many(commit.touched, commit.touched_ttl)
            lease = commit.lease
            if lease is None or self._get_many([lease.key, lease.followed]) != [lease.value, None]:
                return True, False
            self._delete_many([lease.key, *lease.dropped])
            return True, True

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return self._touch_many(keys, ttl)

    def _touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return sum([self._memory.touch(self._native(key), ttl) for key in keys])

    async def delete_many(self, keys: Sequence[str]) -> None:
        self._delete_many(keys)

    def _delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._memory.delete(self._native(key))

    async def ping(self) -> None:
        return
