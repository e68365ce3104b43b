"""The store over any aiocache `BaseCache`, through its binary-safe backend methods.

The public `get` and `set` decode values and pass them through the serializer, which breaks bytes.
The backend methods (`_get`, `_set`) take and return bytes. They are called with the cache's
`build_key` and namespace, under one time-out of our own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from aiocache.base import BaseCache

from stream_cached.connections.deadline import rest_of
from stream_cached.connections.shared_reads import SharedReads
from stream_cached.connections.time_limit import TimeLimit
from stream_cached.errors import StoreError
from stream_cached.stores.protocol import Items, all_as_bytes, read_and_compare

T = TypeVar("T")

Begin = Callable[[], Awaitable[T]]
Passes = tuple[type[Exception], ...]


class AiocacheStore:
    """The store over an aiocache cache, for one event loop; `timeout` is in seconds."""

    capacity: int | None = None

    own_reads: tuple[object, object] = None, None
    """How aiocache reads one value, and several: its methods for this kind of server."""

    may_compare = True
    """False once the server has refused to tell how values begin, where that is asked of it."""

    def __init__(
        self, cache: BaseCache, timeout: float | None, time_limit: TimeLimit | None = None
    ) -> None:
        self.cache: Any = cache
        self.timeout = timeout
        self.time_limit = time_limit or TimeLimit()
        self._reads = SharedReads(self._read)
        build = getattr(type(cache), "_build_key", None)
        is_aiocaches = getattr(build, "__module__", "").partition(".")[0] == "aiocache"
        # Else nothing is the same object.
        self._own_build_key = build if is_aiocaches else object()
        self._natives: dict[tuple[str | None, ...], tuple[Any, ...]] = {}
        """The backend's forms of keys, by the namespace and these keys."""

    def native_key(self, key: str) -> Any:
        """Return the backend's form of the key, with the cache's namespace."""
        try:
            return self.cache.build_key(key, namespace=self.cache.namespace)
        except UnicodeEncodeError:
            raise
        # The user's `key_builder` may raise anything.
        except Exception as exc:
            raise StoreError(f"key: {type(exc).__name__}") from exc

    def native_keys(self, keys: Sequence[str]) -> tuple[Any, ...]:
        """Return the same of several keys, which are read together again and again."""
        cache = self.cache
        if not (
            getattr(cache.build_key, "__func__", None) is self._own_build_key
            and type(cache.namespace) in _TEXTS
            and _TEXTS.issuperset(map(type, keys))
            and len(keys) <= _FEW
        ):
            # What a user's function returns may change, and segments are read once or twice.
            return self._built(keys)
        place = cache.namespace, *keys
        natives = self._natives.get(place)
        if natives is None:
            if len(self._natives) >= _MOST_NATIVES:
                self._natives.clear()
            natives = self._natives[place] = self._built(keys)
        return natives

    def _built(self, keys: Sequence[str]) -> tuple[Any, ...]:
        return tuple(map(self.native_key, keys))

    def native_ttl(self, ttl: float | None) -> Any:
        return ttl

    def is_lost(self, exc: Exception) -> bool:
        """Whether the failure shows that the server can't be reached."""
        return isinstance(exc, OSError | EOFError)

    def is_no_outage(self, exc: Exception) -> bool:
        """Whether the failure concerns one key, value or client instead of the server."""
        return isinstance(exc, UnicodeError)

    def fix_of(self, exc: Exception) -> str:
        """Return what to change, where the failure will not go away by itself."""
        return ""

    async def diagnosis(self, failure: StoreError) -> str:
        """Return the same for a server that never answered, as far as it can be found out."""
        return failure.fix

    def call(self, name: str, begin: Begin[T], passes: Passes = ()) -> Awaitable[T]:
        """Return a backend call within the time-out; exceptions in `passes` are answers."""
        translated = partial(self._translated, passes) if passes else self._failure
        return self.time_limit.run(name, begin, self.timeout, translated)

    def _translated(self, passes: Passes, name: str, exc: Exception) -> Exception:
        return exc if isinstance(exc, passes) else self._failure(name, exc)

    def _failure(self, name: str, exc: Exception) -> Exception:
        # The border to the store: any exception of a backend is a failed operation.
        return exc if isinstance(exc, StoreError) else self.failure(name, exc)

    def failure(self, name: str, exc: Exception) -> StoreError:
        """Report a backend's exception to the circuit breaker; return the error to raise."""
        cause, fix = f"{name}: {type(exc).__name__}", self.fix_of(exc)
        if self.is_no_outage(exc):
            return StoreError(cause).with_fix(fix)
        return self.time_limit.failure(cause, answered=not self.is_lost(exc), fix=fix)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        natives = self.native_keys(keys)
        if not natives:
            return []
        values = await self.call("get", partial(self._reads, natives))
        return all_as_bytes(values)

    @property
    def reads_as_aiocache(self) -> bool:
        """Whether values are read by aiocache's own methods, and not by those of a user's class."""
        one, many = self.cache._get, self.cache._multi_get
        return (getattr(one, "__func__", None), getattr(many, "__func__", None)) == self.own_reads

    async def _read(self, natives: tuple[Any, ...]) -> Sequence[Any]:
        if len(natives) == 1:
            return (await self.cache._get(natives[0], encoding=None),)
        return tuple(await self.cache._multi_get(natives, encoding=None))

    async def read_and_compare(
        self, keys: Sequence[str], starts: Mapping[str, bytes], began: float
    ) -> tuple[list[bytes | None], bool]:
        """Do what `ComparesStarts` does by reading whole values; too many of them differ."""
        with rest_of(self.timeout, began):
            if len(starts) > _MOST_WHOLE:
                # They are read in parts, each within a time-out of its own.
                return await self.get_many(keys), False
            return await read_and_compare(self, keys, starts)

    async def set_many(self, items: Items, ttl: float | None) -> None:
        async def set_each() -> None:
            for key, value in items:
                await self._set(self.native_key(key), value, ttl)

        await self.call("set", set_each)

    async def _set(self, native: Any, value: bytes, ttl: float | None) -> None:
        done = await self.cache._set(native, value, ttl=self.native_ttl(ttl))
        # A user's backend may return None; aiocache ignores the result, too.
        if done is not None and not done:
            raise StoreError("set: refused")

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        async def add() -> bool:
            try:
                await self.cache._add(self.native_key(key), value, ttl=self.native_ttl(ttl))
            except ValueError:
                return False
            return True

        return await self.call("add", add)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        native, seconds = self.native_key(key), self.native_ttl(ttl)
        swap = partial(self.cache._set, native, value, ttl=seconds, _cas_token=expected)
        return bool(await self.call("compare and set", swap))

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        async def touch_each() -> int:
            seconds = 0 if ttl is None else self.native_ttl(ttl)
            return sum([bool(await self.cache._expire(self.native_key(k), seconds)) for k in keys])

        return await self.call("touch", touch_each)

    async def delete_many(self, keys: Sequence[str]) -> None:
        async def delete_each() -> None:
            for key in keys:
                await self.cache._delete(self.native_key(key))

        await self.call("delete", delete_each)

    async def ping(self) -> None:
        exists = partial(self.cache._exists, self.native_key("ping"))
        # A user's cache class may not implement `_exists`.
        with contextlib.suppress(NotImplementedError):
            await self.call("ping", exists, (NotImplementedError,))

    async def reconnect(self) -> None:
        """Close the idle connections, because connections to a restarted server are dead."""


@runtime_checkable
class OwnStore(Protocol):
    """A cache class that brings its own store."""

    def store(self, timeout: float | None, time_limit: TimeLimit) -> AiocacheStore: ...


#: How many sets of keys are remembered, and of how many keys.
_MOST_NATIVES = 1000
_FEW = 8

#: How many values of a body are read at once only to be compared: as many as where it is sent.
_MOST_WHOLE = 4

#: The classes of keys and of namespaces that never change.
_TEXTS = frozenset({str, type(None)})

#: How `os.environ` keeps the name of the variable.
_SWITCH = os.environ.encodekey("AIOCACHE_DISABLE")


def switched_off() -> bool:
    # A look at an absent variable raises and catches an exception, which takes a while.
    known = getattr(os.environ, "_data", None)
    if known is not None and _SWITCH not in known:
        return False
    return os.getenv("AIOCACHE_DISABLE") == "1"
