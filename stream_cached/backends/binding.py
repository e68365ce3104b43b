"""The cache of a decorator in the running loop: itself, or memory that stands in for it."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiocache
from aiocache.base import SENTINEL, BaseCache

from stream_cached.backends.breaker import CircuitBreaker
from stream_cached.backends.public import public_view
from stream_cached.backends.urls import DEFAULT_TIMEOUT, ExplicitTimeout
from stream_cached.connections.deadline import Deadline
from stream_cached.connections.time_limit import TimeLimit
from stream_cached.entries.local import LocalEntries
from stream_cached.errors import StoreUnavailableError
from stream_cached.limits import RETRY_INTERVAL
from stream_cached.stores.aiocache import AiocacheStore, OwnStore
from stream_cached.stores.clients import Clients, address_of, is_memcached, is_mock, is_redis
from stream_cached.stores.memory import MemoryCache, MemoryStore
from stream_cached.stores.protocol import Store
from stream_cached.stores.signed import SignedStore

#: The time-out that aiocache gives a cache by default.
_AIOCACHE_TIMEOUT = 5.0


class RunScope:
    """An identity: backends with the same scope share the runs of their endpoints."""

    def __init__(self) -> None:
        self.registries: Any = None
        """The registries of these runs; what keeps them here is above this layer."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A cache that is used in the running loop. A request stays with its first backend."""

    cache: Any
    """Its public interface, for plain values."""
    store: Store
    """Its bytes, for the engine."""
    server: AiocacheStore | None = None
    """The server behind it, which may hang; None for memory."""
    signs: bool = False
    is_fallback: bool = False
    """Whether it stands in for another one."""
    is_shared: bool = False
    """Whether other processes may use it, too."""
    scope: RunScope = field(default_factory=RunScope)
    local: LocalEntries = field(default_factory=LocalEntries)
    """What this process keeps decoded of the entries in it."""

    @property
    def timeout(self) -> float | None:
        return None if self.server is None else self.server.timeout

    def public_ttl(self, ttl: float | None) -> Any:
        """Return a ttl as the cache's public `set` takes it; memcached refuses fractions."""
        return self.server.native_ttl(ttl) if self.server and is_memcached(self.cache) else ttl


@dataclass(frozen=True, slots=True)
class _Bound:
    """A cache in one loop of one process."""

    loop: asyncio.AbstractEventLoop
    pid: int
    backend: Backend
    probe: Backend
    """The same while its server is away: for pings, and for pending invalidations."""


class Binding:
    """A cache as it was configured, and the backends over it in the running loop.

    `fallback` returns the memory that is used while the server is away; it is called at the first
    use, when aliases are configured. `secrets` sign the values in a server."""

    def __init__(
        self,
        cache: BaseCache,
        *,
        fallback: Callable[[], MemoryCache | None] = lambda: None,
        retry_interval: float = RETRY_INTERVAL,
        timeout: float | None = SENTINEL,
        secrets: Sequence[bytes] = (),
    ) -> None:
        self.cache: Any = cache
        self._clients = Clients.of(cache)
        self._timeout = timeout
        self._secrets = secrets
        self._find_fallback = fallback
        self._fallback: MemoryCache | None = None
        self._stand_in: tuple[int, Backend] | None = None
        self._bound_now: _Bound | None = None
        self._scope = RunScope()
        self.breaker: CircuitBreaker | None = None
        is_memory = isinstance(cache, MemoryCache | aiocache.SimpleMemoryCache.__mro__[1])
        if not is_memory and not is_mock(cache):
            self.breaker = CircuitBreaker.of(*address_of(cache), retry_interval)

    @property
    def timeout(self) -> float | None:
        return self._bound().backend.timeout

    @property
    def primary(self) -> Backend:
        """The configured cache, also while its server is away."""
        return self._bound().backend

    @property
    def at_once(self) -> Backend | None:
        """The configured cache, where no ping has to show first that it can be used."""
        if self.breaker is not None and not self.breaker.is_available:
            return None
        # Each hit comes here. What `_bound` looks at is looked at without one more call.
        bound = self._bound_now
        if (
            bound is None
            or bound.loop is not asyncio.get_running_loop()
            or bound.pid != os.getpid()
        ):
            bound = self._bound()
        return bound.backend

    async def backend(self, deadline: Deadline) -> Backend:
        """Return the cache or its stand-in; raise `StoreUnavailableError` without one."""
        return self.primary if await self.is_used(deadline) else self.stand_in()

    async def is_used(self, deadline: Deadline) -> bool:
        """Whether the configured cache is used. The first ping may take the whole deadline."""
        server = self._bound().probe.server
        if self.breaker is None or server is None or self.breaker.is_available:
            return True
        with deadline:
            return await self.breaker.is_used(server, deadline.left)

    def stand_in(self) -> Backend:
        """Return the memory that stands in for the cache, and count the request."""
        if self.breaker is not None:
            self.breaker.count_request()
        backend = self.fallback
        if backend is None:
            raise StoreUnavailableError("the store is away")
        return backend

    @property
    def fallback(self) -> Backend | None:
        """The memory that stands in for the cache in the last outage; None without one."""
        if self.breaker is None or self._fallback is None:
            return None
        # Entries of an earlier outage may be invalidated since: each outage has keys of its own.
        outage = self.breaker.outages
        if self._stand_in is None or self._stand_in[0] != outage:
            # Two servers may have the same keys.
            prefix = f"{self.breaker.number}.{outage}"
            self._stand_in = outage, self._made_stand_in(self._fallback, prefix)
        return self._stand_in[1]

    @property
    def probe(self) -> Backend:
        """The configured cache, reached also while its server is away."""
        return self._bound().probe

    def _made_stand_in(self, memory: MemoryCache, prefix: str) -> Backend:
        cache, view = self.cache, copy.copy(memory)
        view.namespace = f"{prefix}:{cache.namespace or ''}:"
        view.serializer, view.plugins, view.ttl = cache.serializer, cache.plugins, cache.ttl
        return Backend(
            view, MemoryStore(view), is_fallback=True, local=LocalEntries(in_process=True)
        )

    # -- in the running loop ----------------------------------------------------------------

    def _bound(self) -> _Bound:
        loop, pid = asyncio.get_running_loop(), os.getpid()
        bound = self._bound_now
        if bound is None or bound.loop is not loop or bound.pid != pid:
            bound = self._bound_now = self._bind(loop, pid)
        return bound

    def _bind(self, loop: asyncio.AbstractEventLoop, pid: int) -> _Bound:
        self._fallback = self._find_fallback()
        if is_mock(self.cache):
            # It has no bytes to give, so that only its `get` and `set` are used.
            backend = Backend(self.cache, MemoryStore(MemoryCache()), scope=self._scope)
            return _Bound(loop, pid, backend, backend)
        cache = self._clients.in_loop(self.cache, loop, pid)
        if isinstance(cache, MemoryCache):
            local = LocalEntries(in_process=True)
            backend = Backend(cache, MemoryStore(cache), scope=self._scope, local=local)
            return _Bound(loop, pid, backend, backend)
        probe = self._backend_over(cache, TimeLimit())
        if self.breaker is None or probe.server is None:
            return _Bound(loop, pid, probe, probe)
        time_limit = self.breaker.time_limit(probe.server)
        return _Bound(loop, pid, self._backend_over(cache, time_limit), probe)

    def _backend_over(self, cache: Any, time_limit: TimeLimit) -> Backend:
        server = _server(cache, self._seconds(cache), time_limit)
        is_shared = self.breaker is not None
        signs = is_shared and bool(self._secrets)
        store = SignedStore(server, self._secrets, cache.namespace or "") if signs else server
        return Backend(
            public_view(server), store, server, signs=signs, is_shared=is_shared, scope=self._scope
        )

    def _seconds(self, cache: Any) -> float | None:
        if self._timeout is not SENTINEL:
            return self._timeout or None
        timeout = cache.timeout or None
        if timeout == _AIOCACHE_TIMEOUT and not isinstance(timeout, ExplicitTimeout):
            return DEFAULT_TIMEOUT
        return timeout


def _server(cache: Any, timeout: float | None, time_limit: TimeLimit) -> AiocacheStore:
    if isinstance(cache, OwnStore):
        return cache.store(timeout, time_limit)
    # These modules import clients that may not be installed.
    if is_redis(cache):
        from stream_cached.stores.redis import RedisStore

        return RedisStore(cache, timeout, time_limit)
    if is_memcached(cache):
        from stream_cached.stores.memcached import MemcachedStore

        return MemcachedStore(cache, timeout, time_limit)
    return AiocacheStore(cache, timeout, time_limit)
