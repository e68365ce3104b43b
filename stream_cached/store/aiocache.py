"""The store over any aiocache `BaseCache`: by its direct, binary-safe calls.

The public `get` and `set` decode what they read and run everything through the serializer, in
which bytes die; the methods behind them take and give bytes. They are called under one time-out
of our own, with the cache's `build_key` and namespace.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from aiocache.base import BaseCache

from stream_cached.exceptions import StoreError
from stream_cached.keys import MEMCACHED_LIMIT, for_memcached
from stream_cached.store import as_bytes

#: memcached takes a larger number for a date (seconds since the epoch).
_MEMCACHED_RELATIVE = 30 * 24 * 60 * 60

#: The last date that memcached takes.
_MEMCACHED_LAST = 2**31 - 1

T = TypeVar("T")


class AiocacheStore:
    """
    The engine's view of an aiocache cache.

    Args:
        cache: The cache, used by the event loop that runs now.
        timeout: Seconds that one operation may take, None for no bound.
    """

    capacity: int | None = None

    def __init__(self, cache: BaseCache, timeout: float | None) -> None:
        self.cache: Any = cache
        self.timeout = timeout

    def native_key(self, key: str) -> Any:
        """Return the key as the backend wants it, in the cache's namespace."""
        return self.cache.build_key(key, namespace=self.cache.namespace)

    def native_ttl(self, ttl: float | None) -> Any:
        """Return the ttl as the backend's `_set` wants it."""
        return ttl

    async def _run(self, name: str, operation: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self.timeout):
                return await operation
        except TimeoutError as exc:
            raise StoreError(f"{name}: no answer within {self.timeout} s") from exc
        except StoreError:
            raise
        # At the border to a store: whatever a backend raises means that it failed.
        except Exception as exc:
            raise StoreError(f"{name}: {type(exc).__name__}") from exc

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        natives = [self.native_key(key) for key in keys]
        if not natives:
            return []
        if len(natives) == 1:
            values = [await self._run("get", self.cache._get(natives[0], encoding=None))]
        else:
            values = await self._run("get", self._multi_get(natives))
        return [as_bytes(value) for value in values]

    async def _multi_get(self, natives: Sequence[Any]) -> list[Any]:
        return list(await self.cache._multi_get(natives, encoding=None))

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        async def set_each() -> None:
            for key, value in items:
                await self._set(self.native_key(key), value, ttl)

        await self._run("set", set_each())

    async def _set(self, native: Any, value: bytes, ttl: float | None) -> None:
        done = await self.cache._set(native, value, ttl=self.native_ttl(ttl))
        # A user's backend may say nothing; aiocache does not look.
        if done is not None and not done:
            raise StoreError("set: refused")

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        async def add() -> bool:
            try:
                await self.cache._add(self.native_key(key), value, ttl=self.native_ttl(ttl))
            except ValueError:
                return False
            return True

        return await self._run("add", add())

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        operation = self.cache._set(
            self.native_key(key), value, ttl=self.native_ttl(ttl), _cas_token=expected
        )
        return bool(await self._run("compare and set", operation))

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        async def touch_each() -> int:
            seconds = 0 if ttl is None else self.native_ttl(ttl)
            return sum([bool(await self.cache._expire(self.native_key(k), seconds)) for k in keys])

        return await self._run("touch", touch_each())

    async def delete_many(self, keys: Sequence[str]) -> None:
        async def delete_each() -> None:
            for key in keys:
                await self.cache._delete(self.native_key(key))

        await self._run("delete", delete_each())

    async def ping(self) -> None:
        await self._run("ping", self.cache._exists(self.native_key("ping")))


class RedisStore(AiocacheStore):
    """Over aiocache's Redis backend: many keys in one round trip, ttls in milliseconds."""

    def native_key(self, key: str) -> Any:
        native = super().native_key(key)
        return native.encode("utf-8", "surrogatepass") if isinstance(native, str) else native

    def native_ttl(self, ttl: float | None) -> int | None:
        return None if ttl is None else max(1, math.ceil(ttl * 1000))

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        px = self.native_ttl(ttl)
        pipeline = self.cache.client.pipeline(transaction=False)
        for key, value in items:
            pipeline.set(self.native_key(key), value, px=px)
        await self._run("set", pipeline.execute())

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        operation = self.cache.client.set(
            self.native_key(key), value, px=self.native_ttl(ttl), nx=True
        )
        return bool(await self._run("add", operation))

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        expiry = () if ttl is None else ("PX", self.native_ttl(ttl))
        operation = self.cache.client.eval(
            self.cache.CAS_SCRIPT, 1, self.native_key(key), value, expected, *expiry
        )
        return bool(await self._run("compare and set", operation))

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        px = self.native_ttl(ttl)
        pipeline = self.cache.client.pipeline(transaction=False)
        for key in keys:
            if px is None:
                # PERSIST answers 0 for a key that has no ttl, too.
                pipeline.persist(self.native_key(key))
                pipeline.exists(self.native_key(key))
            else:
                pipeline.pexpire(self.native_key(key), px)
        found = await self._run("touch", pipeline.execute())
        return sum(map(bool, found[1::2] if px is None else found))

    async def delete_many(self, keys: Sequence[str]) -> None:
        if keys:
            await self._run("delete", self.cache.client.delete(*map(self.native_key, keys)))

    async def ping(self) -> None:
        await self._run("ping", self.cache.client.ping())


class MemcachedStore(AiocacheStore):
    """Over aiocache's memcached backend: short keys, whole seconds, calls side by side."""

    def __init__(self, cache: BaseCache, timeout: float | None) -> None:
        super().__init__(cache, timeout)
        client = self.cache.client
        client._execute_simple_command = _simple_command
        if not isinstance(client._pool, _Pool):
            client._pool = _Pool(client._pool, self.cache.pool_size)

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

    async def _run(self, name: str, operation: Awaitable[T]) -> T:
        return await super()._run(name, self._in_step(operation))

    async def _in_step(self, operation: Awaitable[T]) -> T:
        """Drop the idle connections where a call is cancelled before its reply was read.

        aiomcache puts such a connection back, and its next user would read that reply.
        """
        try:
            return await operation
        except asyncio.CancelledError:
            await self.cache.client.close()
            raise

    async def _run_all(self, name: str, operations: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        async def run_all() -> list[T]:
            running = map(self._in_step, operations)
            results = await asyncio.gather(*running, return_exceptions=True)
            # Raised only now: what goes on behind a failure could undo what comes after it.
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            return cast("list[T]", results)

        return await self._run(name, run_all())

    async def _multi_get(self, natives: Sequence[Any]) -> list[Any]:
        # aiomcache refuses a key that is there twice.
        unique = list(dict.fromkeys(natives))
        found = dict(zip(unique, await super()._multi_get(unique), strict=True))
        return [found[native] for native in natives]

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        await self._run_all("set", [self._set(self.native_key(k), v, ttl) for k, v in items])

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        native = self.native_key(key)
        client = self.cache.client
        current, token = await self._run("compare and set", client.gets(native))
        if token is None or current != expected:
            return False
        operation = client.cas(native, value, token, exptime=self.native_ttl(ttl))
        return bool(await self._run("compare and set", operation))

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        seconds = self.native_ttl(ttl)
        touches = [self.cache.client.touch(self.native_key(key), seconds) for key in keys]
        return sum(await self._run_all("touch", touches))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._run_all("delete", [self.cache._delete(self.native_key(key)) for key in keys])

    async def ping(self) -> None:
        await self._run("ping", self.cache.client.version())


class _Pool:
    """aiomcache's pool, entered by no more calls at once than it has connections.

    One that waits inside for a connection is never woken where all of them are closed instead of
    given back.
    """

    def __init__(self, pool: Any, size: int) -> None:
        self._pool = pool
        self._turns = asyncio.Semaphore(size)

    async def acquire(self) -> Any:
        await self._turns.acquire()
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


def switched_off() -> bool:
    """Whether aiocache's own switch (`AIOCACHE_DISABLE=1`) is set."""
    return os.getenv("AIOCACHE_DISABLE") == "1"
