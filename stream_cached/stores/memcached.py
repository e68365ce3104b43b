"""The store over aiocache's memcached backend, and what its client leaves to be done."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from aiocache.base import BaseCache
from aiomcache.exceptions import ClientException, ValidationException

from stream_cached.connections.time_limit import WAIT_FOR_CONNECTION, TimeLimit
from stream_cached.errors import StoreError
from stream_cached.keys.memcached import MEMCACHED_LIMIT, for_memcached
from stream_cached.stores.aiocache import AiocacheStore

#: memcached takes a larger number for a date (seconds since the epoch).
_MEMCACHED_RELATIVE = 30 * 24 * 60 * 60

#: The last date that memcached takes.
_MEMCACHED_LAST = 2**31 - 1

#: What is said of one command or value.
_MISTAKES = ("too large", "CLIENT_ERROR", "duplicate keys")

T = TypeVar("T")


class MemcachedStore(AiocacheStore):
    """Over aiocache's memcached backend: short keys, whole seconds, calls side by side."""

    def __init__(
        self, cache: BaseCache, timeout: float | None, time_limit: TimeLimit | None = None
    ) -> None:
        super().__init__(cache, timeout, time_limit)
        client = self.cache.client
        client._execute_simple_command = _simple_command
        if not isinstance(client._pool, _Pool):
            wait = None if timeout is None else timeout * WAIT_FOR_CONNECTION
            client._pool = _Pool(client._pool, self.cache.pool_size, wait)

    def native_key(self, key: str) -> bytes:
        try:
            native: bytes = super().native_key(key)
        except UnicodeEncodeError:
            return self.native_key(for_memcached(key))
        overhead = len(native) - len(key.encode())
        # aiocache writes a space as an underscore; where that is all, its key stays as it is.
        if for_memcached(key.replace(" ", "_"), overhead) == key.replace(" ", "_"):
            return native
        native = super().native_key(for_memcached(key, overhead))
        # A long namespace leaves no room even for a shortened key.
        return native if len(native) <= MEMCACHED_LIMIT else for_memcached(native.decode()).encode()

    def native_ttl(self, ttl: float | None) -> int:
        if ttl is None:
            return 0
        seconds = max(1, math.ceil(ttl))
        if seconds > _MEMCACHED_RELATIVE:
            seconds += math.ceil(time.time())
        return min(seconds, _MEMCACHED_LAST)

    def is_lost(self, exc: Exception) -> bool:
        # Where the connection is closed, aiomcache has read an empty line.
        return super().is_lost(exc) or str(exc).endswith(": b''")

    def is_no_outage(self, exc: Exception) -> bool:
        text = str(exc) if isinstance(exc, ClientException) else ""
        is_mistake = any(words in text for words in _MISTAKES)
        is_refused = isinstance(exc, ValidationException)
        return is_mistake or is_refused or super().is_no_outage(exc)

    async def call(
        self,
        name: str,
        begin: Callable[[], Awaitable[T]],
        passes: tuple[type[Exception], ...] = (),
    ) -> T:
        return await super().call(name, partial(self._in_step, begin), passes)

    async def _in_step(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Drop the idle connections where a call is cancelled before its reply was read.

        aiomcache puts such a connection back, and its next user would read that reply.
        """
        try:
            return await begin()
        except asyncio.CancelledError:
            await self.cache.client.close()
            raise

    async def _run_all(self, name: str, begins: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        async def run_all() -> list[T]:
            running = map(self._in_step, begins)
            results = await asyncio.gather(*running, return_exceptions=True)
            # Raised only now: what goes on behind a failure could undo what comes after it.
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            return cast("list[T]", results)

        return await self.call(name, run_all)

    async def _read(self, natives: tuple[Any, ...]) -> Sequence[Any]:
        # aiomcache refuses a key that is there twice.
        unique = tuple(dict.fromkeys(natives))
        found = dict(zip(unique, await super()._read(unique), strict=True))
        return [found[native] for native in natives]

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        sets = [partial(self._set, self.native_key(key), value, ttl) for key, value in items]
        await self._run_all("set", sets)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        native = self.native_key(key)
        client = self.cache.client
        current, token = await self.call("compare and set", partial(client.gets, native))
        if token is None or current != expected:
            return False
        swap = partial(client.cas, native, value, token, exptime=self.native_ttl(ttl))
        return bool(await self.call("compare and set", swap))

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


class _Pool:
    """aiomcache's pool, entered by no more calls at once than it has connections.

    One that waits inside for a connection is never woken where all of them are closed instead of
    given back.
    """

    def __init__(self, pool: Any, size: int, wait: float | None) -> None:
        self._pool = pool
        self._wait = wait
        self._turns = asyncio.Semaphore(size)

    async def acquire(self) -> Any:
        try:
            async with asyncio.timeout(self._wait):
                await self._turns.acquire()
        except TimeoutError as exc:
            # Somebody else's answers are waited for: that is no outage.
            raise StoreError("no connection is free: raise pool_size") from exc
        try:
            return await self._pool.acquire()
        except BaseException:
            self._turns.release()
            raise

    def release(self, connection: Any) -> None:
        self._pool.release(connection)
        self._turns.release()

    async def clear(self) -> None:
        await self._pool.clear()


async def _simple_command(connection: Any, command: bytes) -> bytes:
    """Send a command and read its one line, in the place of aiomcache's own method.

    That one reads on for ever, without ever suspending, where the server closes the connection.
    """
    connection.writer.write(command)
    await connection.writer.drain()
    line: bytes = await connection.reader.readuntil(b"\r\n")
    return line[:-2]
