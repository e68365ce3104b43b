"""The store over aiocache's memcached backend, with fixes for its client aiomcache."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from aiocache import MemcachedCache
from aiocache.base import BaseCache
from aiomcache.exceptions import ClientException, ValidationException

from stream_cached.connections.shared_reads import SharedReads
from stream_cached.connections.time_limit import WAIT_FOR_CONNECTION, TimeLimit
from stream_cached.format.envelope import PREFIX_SIZE, is_of_segment, size_told_by
from stream_cached.keys.memcached import MEMCACHED_LIMIT, for_memcached
from stream_cached.stores.aiocache import AiocacheStore, Begin, Passes
from stream_cached.stores.memcached_commands import (
    Pool,
    Size,
    Value,
    can_read,
    has_sizes,
    read,
    simple_command,
)
from stream_cached.stores.protocol import Items

#: memcached reads a larger number as an absolute time (seconds since the epoch).
_MEMCACHED_RELATIVE = 30 * 24 * 60 * 60

#: The latest absolute time that memcached accepts.
_MEMCACHED_LAST = 2**31 - 1

#: An absolute time that is long past: what is set with it is gone at once.
_PAST = _MEMCACHED_RELATIVE + 1

#: Parts of error messages that concern one command or value instead of the server.
_MISTAKES = ("too large", "CLIENT_ERROR", "duplicate keys")

#: Bytes from which on the token of a value is remembered, and how many of them are.
_LONG = 16 * 1024
_MOST_TOKENS = 1000

_NOTHING: tuple[None, bytes] = None, b""

#: Stands for the token of a value whose key never has another one.
_ANY = b""

T = TypeVar("T")


class MemcachedStore(AiocacheStore):
    """The store over memcached: shortened keys, ttls in whole seconds, concurrent calls."""

    own_reads = MemcachedCache._get, MemcachedCache._multi_get

    def __init__(
        self, cache: BaseCache, timeout: float | None, time_limit: TimeLimit | None = None
    ) -> None:
        super().__init__(cache, timeout, time_limit)
        client = self.cache.client
        client._execute_simple_command = simple_command
        if not isinstance(client._pool, Pool):
            wait = None if timeout is None else timeout * WAIT_FOR_CONNECTION
            client._pool = Pool(client._pool, self.cache.pool_size, wait)
        self._has_told_sizes = False
        self._compared = SharedReads(self._read_sizes)
        self._tokens: dict[bytes, tuple[bytes, bytes]] = {}
        """Those of long values that were read, and how each begins."""

    def native_key(self, key: str) -> bytes:
        try:
            native: bytes = super().native_key(key)
        except UnicodeEncodeError:
            return self.native_key(for_memcached(key))
        overhead = len(native) - len(key.encode())
        # aiocache replaces spaces by underscores; a key that needs no other change is kept.
        if for_memcached(key.replace(" ", "_"), overhead) == key.replace(" ", "_"):
            return native
        native = super().native_key(for_memcached(key, overhead))
        # A long namespace can make even a shortened key too long.
        return native if len(native) <= MEMCACHED_LIMIT else for_memcached(native.decode()).encode()

    def native_ttl(self, ttl: float | None) -> int:
        if ttl is None:
            return 0
        seconds = max(1, math.ceil(ttl))
        if seconds > _MEMCACHED_RELATIVE:
            seconds += math.ceil(time.time())
        return min(seconds, _MEMCACHED_LAST)

    def is_lost(self, exc: Exception) -> bool:
        # aiomcache reads an empty line from a closed connection, and quotes it in its error.
        return super().is_lost(exc) or str(exc).endswith(": b''")

    def is_no_outage(self, exc: Exception) -> bool:
        text = str(exc) if isinstance(exc, ClientException) else ""
        is_mistake = any(words in text for words in _MISTAKES)
        is_refused = isinstance(exc, ValidationException)
        return is_mistake or is_refused or super().is_no_outage(exc)

    def call(self, name: str, begin: Begin[T], passes: Passes = ()) -> Awaitable[T]:
        return super().call(name, partial(self._drop_unread, begin), passes)

    async def _drop_unread(self, begin: Begin[T]) -> T:
        """Await a call, and close the idle connections if it is cancelled."""
        try:
            return await begin()
        except asyncio.CancelledError:
            # aiomcache returns the connection to the pool with the reply unread, and the next
            # call on this connection would read that reply.
            await self.cache.client.close()
            raise

    async def _run_all(self, name: str, begins: Sequence[Begin[T]]) -> list[T]:
        async def run_all() -> list[T]:
            running = map(self._drop_unread, begins)
            results = await asyncio.gather(*running, return_exceptions=True)
            # A failure is raised only after all calls have ended: a call that continued in the
            # background could undo a later write.
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            return cast("list[T]", results)

        return await self.call(name, run_all)

    async def _read(self, natives: tuple[Any, ...]) -> Sequence[Any]:
        if self.reads_as_aiocache and can_read(self.cache.client, natives):
            values, _ = await read(self.cache.client, natives)
            return self._values(natives, values)
        # aiomcache refuses duplicate keys.
        unique = tuple(dict.fromkeys(natives))
        found = dict(zip(unique, await super()._read(unique), strict=True))
        return [found[native] for native in natives]

    async def get_many_and_compare(
        self, keys: Sequence[str], starts: Mapping[str, bytes]
    ) -> tuple[list[bytes | None], bool]:
        began, client = time.monotonic(), self.cache.client
        every, count = self.native_keys([*keys, *starts]), len(keys)
        natives, others = place = every[:count], every[count:]
        tokens = [self._token(*each) for each in zip(others, starts.values(), strict=True)]
        if not self.may_compare or None in tokens:
            return await self.read_and_compare(keys, starts, began)
        if self.reads_as_aiocache and can_read(client, every):
            found = await self.call("get", partial(self._compared, place))
            if found is not None:
                values, sizes = found
                is_same = [
                    size is not None and size[0] == size_told_by(start) and token in (_ANY, size[1])
                    for size, token, start in zip(sizes, tokens, starts.values(), strict=True)
                ]
                return self._values(natives, values), all(is_same)
        result = await self.read_and_compare(keys, starts, began)
        # It answers, but does not tell sizes.
        self.may_compare = False
        return result

    async def _read_sizes(
        self, place: tuple[tuple[bytes, ...], tuple[bytes, ...]]
    ) -> tuple[dict[bytes, Value], list[Size | None]] | None:
        """Read values and sizes; return None where the server may not know how to tell sizes."""
        client = self.cache.client
        try:
            if not self._has_told_sizes and not await has_sizes(client):
                return None
            found = await read(client, *place)
        except ClientException as exc:
            # Another server may have taken its place.
            if "SERVER_ERROR" in str(exc):
                raise
            return None
        except (EOFError, ConnectionError):
            # A proxy may close the connection on commands that it does not know.
            if self._has_told_sizes:
                raise
            return None
        self._has_told_sizes = True
        return found

    def _values(self, natives: Sequence[bytes], found: Mapping[bytes, Value]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for native in natives:
            value, token = found.get(native, _NOTHING)
            values.append(value)
            if value is not None and len(value) >= _LONG:
                if len(self._tokens) >= _MOST_TOKENS:
                    self._tokens.clear()
                self._tokens[native] = token, value[:PREFIX_SIZE]
        return values

    def _token(self, native: bytes, start: bytes) -> bytes | None:
        """Return the token of a value that begins so, None where it is not known."""
        if is_of_segment(start):
            # The generation is in the key: what has the size is what was stored.
            return _ANY
        token, known = self._tokens.get(native, _NOTHING)
        return token if start.startswith(known) else None

    async def set_many(self, items: Items, ttl: float | None) -> None:
        sets = [partial(self._set, self.native_key(key), value, ttl) for key, value in items]
        await self._run_all("set", sets)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        return await self._swap("compare and set", key, expected, value, self.native_ttl(ttl))

    async def compare_and_delete(self, key: str, expected: bytes) -> bool:
        return await self._swap("compare and delete", key, expected, b"", _PAST)

    async def _swap(self, name: str, key: str, expected: bytes, value: bytes, seconds: int) -> bool:
        native, client = self.native_key(key), self.cache.client
        current, token = await self.call(name, partial(client.gets, native))
        if token is None or current != expected:
            return False
        swap = partial(client.cas, native, value, token, exptime=seconds)
        return bool(await self.call(name, swap))

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        seconds = self.native_ttl(ttl)
        client = self.cache.client
        touches = [partial(client.touch, self.native_key(key), seconds) for key in keys]
        return sum(await self._run_all("touch", touches))

    async def delete_many(self, keys: Sequence[str]) -> None:
        deletes = [partial(self.cache._delete, self.native_key(key)) for key in keys]
        await self._run_all("delete", deletes)

    async def ping(self) -> None:
        await self.call("ping", self.cache.client.version)

    async def reconnect(self) -> None:
        await self.call("reconnect", self.cache.client.close)
