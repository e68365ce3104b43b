"""The clients of a cache: one per process and event loop, because connections belong to both."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import aiocache


class Clients:
    """The clients of one cache.

    The first event loop uses the user's cache itself; each further loop gets a copy of the cache
    with its own client. A closed loop or a fork frees the user's cache for the next loop."""

    _all: ClassVar[weakref.WeakKeyDictionary[Any, Clients]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._fresh = True
        self._owner: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._by_loop: dict[asyncio.AbstractEventLoop, Any] = {}
        self._closers: dict[asyncio.AbstractEventLoop, AsyncIterator[None]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, cache: Any) -> Clients:
        """Return the clients of a cache, which all its decorators share."""
        return cls._all.setdefault(cache, cls())

    @classmethod
    def share(cls, cache: Any, view: Any) -> None:
        cls._all[view] = cls.of(cache)

    def in_loop(self, cache: Any, loop: asyncio.AbstractEventLoop, pid: int) -> Any:
        """Return the cache, or a copy of it, with this loop's client."""
        make_client = _client_factory(cache)
        if make_client is None:
            return cache
        with self._lock:
            client = self._client(cache, make_client, loop, pid)
            if self._owner is loop:
                cache.client = client
                return cache
        clone = copy.copy(cache)
        clone.client = client
        return clone

    @classmethod
    async def close_here(cls) -> None:
        """Close the connections of the running loop; a client reopens them when it is used."""
        loop = asyncio.get_running_loop()
        every = {id(clients): clients for clients in tuple(cls._all.values())}
        for clients in every.values():
            client = clients._by_loop.get(loop)
            if client is not None and clients._pid == os.getpid():
                await _close(client)

    def _client(
        self, cache: Any, make: Callable[[], Any], loop: asyncio.AbstractEventLoop, pid: int
    ) -> Any:
        if pid != self._pid:
            self._fresh, self._owner, self._pid = False, None, pid
            self._by_loop, self._closers = {}, {}
        for closed in [other for other in self._by_loop if other.is_closed()]:
            del self._by_loop[closed], self._closers[closed]
        if self._owner not in self._by_loop:
            self._owner = loop
        if loop not in self._by_loop:
            self._by_loop[loop] = cache.client if self._fresh else make()
            self._closers[loop] = _close_with_loop(self._by_loop[loop])
            self._fresh = False
        return self._by_loop[loop]


def _close_with_loop(client: Any) -> AsyncIterator[None]:
    """Close a client's connections when the running loop ends."""

    # `asyncio.run` (and with it uvicorn, anyio and Starlette's TestClient) closes the loop's
    # asynchronous generators by `loop.shutdown_asyncgens`; there is no other hook.
    async def closer() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await _close(client)

    generator = closer()
    # The first step registers the generator with the loop, and awaits nothing.
    with contextlib.suppress(StopIteration):
        generator.__anext__().__await__().send(None)
    return generator


async def _close(client: Any) -> None:
    await (client.aclose() if hasattr(client, "aclose") else client.close())


def _client_factory(cache: Any) -> Callable[[], Any] | None:
    """Return a factory of further clients; None for a cache without connections."""
    if is_redis(cache):
        return lambda: redis_client(cache)
    if is_memcached(cache):
        return lambda: type(cache.client)(cache.endpoint, cache.port, pool_size=cache.pool_size)
    return None


def redis_client(cache: Any) -> Any:
    """Return a new client with a pool of its own and the same options."""
    pool = cache.client.connection_pool
    options = dict(pool.connection_kwargs)
    if hasattr(pool, "queue_class"):
        options |= {"timeout": pool.timeout, "queue_class": pool.queue_class}
    twin = type(pool)(
        connection_class=pool.connection_class, max_connections=pool.max_connections, **options
    )
    client = type(cache.client)(connection_pool=twin)
    client.auto_close_connection_pool = True
    return client


def backend_class(name: str) -> Any:
    """Return a class of aiocache; None if its client library is not installed."""
    return getattr(aiocache, name, None)


def is_redis(cache: object) -> bool:
    cls = backend_class("RedisCache")
    return cls is not None and isinstance(cache, cls.__mro__[1])


def is_memcached(cache: object) -> bool:
    cls = backend_class("MemcachedCache")
    return cls is not None and isinstance(cache, cls.__mro__[1])


def is_mock(cache: object) -> bool:
    """Whether a test has put it in the place of a cache: there is nothing behind it."""
    mock = sys.modules.get("unittest.mock")
    return mock is not None and isinstance(cache, mock.NonCallableMock)


def address_of(cache: Any) -> tuple[str, tuple[object, ...]]:
    """Return the server's address without credentials, and its identity."""
    if is_redis(cache):
        options = getattr(cache.client.connection_pool, "connection_kwargs", {})
        user = options.get("username"), options.get("password")
        if "path" in options:
            name = f"unix://{options['path']}?db={options.get('db', 0)}"
        else:
            host, port = options.get("host", cache.endpoint), options.get("port", cache.port)
            name = f"redis://{host}:{port}/{options.get('db', 0)}"
        return name, (name, *user)
    if is_memcached(cache):
        name = f"memcached://{cache.endpoint}:{cache.port}"
        return name, (name,)
    return f"{type(cache).__module__}.{type(cache).__qualname__}", (Clients.of(cache),)
