"""From a URL, a class, an alias or an instance to a cache, and to its store in the running loop."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import os
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import aiocache
from aiocache.base import BaseCache

from stream_cached.exceptions import ConfigurationError
from stream_cached.store import Store
from stream_cached.store.aiocache import AiocacheStore
from stream_cached.store.memcached import MemcachedStore
from stream_cached.store.memory import MemoryCache, MemoryStore
from stream_cached.store.redis import RedisStore

#: Seconds that one operation of a store may take, unless the cache or its URL says otherwise.
DEFAULT_TIMEOUT = 0.5

#: What aiocache gives a cache for which nobody chose a time-out.
_AIOCACHE_TIMEOUT = 5.0

_POOL_SIZE = 64
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20}
_UNITS["gib"] = 2**30
_EXTRAS = {"redis": "redis", "rediss": "redis", "unix": "redis", "memcached": "memcached"}


class _Told(float):
    """A time-out that somebody chose, also where it is the one that aiocache gives."""


class Binding:
    """
    A cache as it was configured, and what the engine uses of it in the running loop.

    Args:
        cache: The user's cache; plugins see this one.
    """

    def __init__(self, cache: BaseCache) -> None:
        self.cache: Any = cache
        self._clients = _Clients.of(cache)
        self._current: tuple[asyncio.AbstractEventLoop, int, Any, Store] | None = None

    def _bound(self) -> tuple[asyncio.AbstractEventLoop, int, Any, Store]:
        loop, pid = asyncio.get_running_loop(), os.getpid()
        current = self._current
        if current is None or current[0] is not loop or current[1] != pid:
            cache = self._clients.in_loop(self.cache, loop, pid)
            current = self._current = (loop, pid, cache, _store(cache))
        return current

    @property
    def loop_cache(self) -> Any:
        """The cache with a client that belongs to the running loop."""
        return self._bound()[2]

    @property
    def store(self) -> Store:
        """The store over the cache in the running loop."""
        return self._bound()[3]

    def public_ttl(self, ttl: float | None) -> Any:
        """Return a ttl as the cache's public `set` takes it; memcached refuses fractions."""
        store = self.store
        return store.native_ttl(ttl) if isinstance(store, MemcachedStore) else ttl


class _Clients:
    """The clients of one cache: one for each process and event loop, since connections die with it.

    The first loop uses the user's own cache; another one that runs at the same time gets a copy
    with a client of its own. Once its loop is closed, or in a fork, the user's cache is given a new
    client. A view of the cache (with another namespace, say) has the same clients.
    """

    _all: ClassVar[weakref.WeakKeyDictionary[Any, _Clients]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._fresh = True
        self._owner: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._by_loop: dict[asyncio.AbstractEventLoop, Any] = {}
        self._closers: dict[asyncio.AbstractEventLoop, AsyncIterator[None]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, cache: Any) -> _Clients:
        """Return the clients of a cache, which all decorators over it share."""
        return cls._all.setdefault(cache, cls())

    @classmethod
    def share(cls, cache: Any, view: Any) -> None:
        """Let a view of the cache have its clients."""
        cls._all[view] = cls.of(cache)

    def in_loop(self, cache: Any, loop: asyncio.AbstractEventLoop, pid: int) -> Any:
        """Return the cache, or view of it, as it is to be used in this loop of this process."""
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
    """Let a client's connections be closed when the running loop ends.

    `asyncio.run` (and with it uvicorn, anyio and Starlette's TestClient) closes the asynchronous
    generators that its loop knows, by `loop.shutdown_asyncgens`; there is no other hook.
    """

    async def closer() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await (client.aclose() if hasattr(client, "aclose") else client.close())

    generator = closer()
    # Its first step, which is what makes it known to the loop, awaits nothing.
    with contextlib.suppress(StopIteration):
        generator.__anext__().__await__().send(None)
    return generator


def _client_factory(cache: Any) -> Callable[[], Any] | None:
    """Return what makes another client like the cache's own; None where it has no connections."""
    redis_class, memcached_class = _backend("RedisCache"), _backend("MemcachedCache")
    if redis_class is not None and isinstance(cache, redis_class.__mro__[1]):
        return lambda: _redis_client(cache)
    if memcached_class is not None and isinstance(cache, memcached_class.__mro__[1]):
        return lambda: type(cache.client)(cache.endpoint, cache.port, pool_size=cache.pool_size)
    return None


def _redis_client(cache: Any) -> Any:
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


def _backend(name: str) -> Any:
    """Return a class that aiocache only has if its client library is installed."""
    return getattr(aiocache, name, None)


def _store(cache: Any) -> Store:
    if isinstance(cache, MemoryCache):
        return MemoryStore(cache)
    timeout = cache.timeout or None
    if timeout == _AIOCACHE_TIMEOUT and not isinstance(timeout, _Told):
        timeout = DEFAULT_TIMEOUT
    redis_class, memcached_class = _backend("RedisCache"), _backend("MemcachedCache")
    if redis_class is not None and isinstance(cache, redis_class.__mro__[1]):
        return RedisStore(cache, timeout)
    if memcached_class is not None and isinstance(cache, memcached_class.__mro__[1]):
        return MemcachedStore(cache, timeout)
    return AiocacheStore(cache, timeout)


# -- what the decorator is given --------------------------------------------------------------


def resolve_alias(alias: str) -> Any:
    """
    Return the cache of an alias of `caches.set_config`.

    Raises:
        ConfigurationError: It is not configured.
    """
    try:
        return aiocache.caches.get(alias)
    except KeyError:
        known = ", ".join(sorted(aiocache.caches.get_config()))
        raise ConfigurationError(
            f"alias {alias!r} is not configured (there are: {known}): "
            "name it in caches.set_config before the first request"
        ) from None


def resolve_cache(
    cache: object,
    *,
    serializer: Any = None,
    plugins: Any = None,
    namespace: str | None = None,
    options: Mapping[str, Any],
) -> Any:
    """
    Return the cache that a URL, a class or an instance stands for.

    Args:
        cache: A URL, a subclass of aiocache's `BaseCache`, or an instance of one.
        serializer: Instead of the cache's own.
        plugins: Instead of the cache's own.
        namespace: Instead of the cache's own.
        options: Keyword arguments of the class.

    Raises:
        ConfigurationError: There is no such cache, or it does not take the options.
    """
    overrides = {
        name: value
        for name, value in (
            ("serializer", serializer),
            ("plugins", plugins),
            ("namespace", namespace),
        )
        if value is not None
    }
    if isinstance(cache, type) and issubclass(cache, BaseCache):
        try:
            return _mark(cache(**overrides, **options), options)
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(f"{cache.__name__} refuses its options: {exc}") from exc
    if options:
        raise ConfigurationError(
            f"unknown parameter {next(iter(options))!r}: the decorator has none of that name, and "
            "keyword arguments of a cache go with a class (cache=Cache.REDIS, endpoint=...), or "
            "into the URL's query"
        )
    if isinstance(cache, str):
        return _with(_from_url(cache), overrides)
    if isinstance(cache, BaseCache):
        return _with(cache, overrides)
    if cache is None:
        raise ConfigurationError(
            "cache=None: aiocache's Cache.REDIS and Cache.MEMCACHED are None where their client is "
            "not installed: pip install 'stream-cached[redis]' or 'stream-cached[memcached]'"
        )
    raise ConfigurationError(
        f"cache={cache!r} is no cache: pass a URL, a class such as Cache.REDIS, or an instance"
    )


def _mark(cache: Any, options: Mapping[str, Any]) -> Any:
    """Remember that a cache's time-out was among its options."""
    if "timeout" in options and cache.timeout is not None:
        cache.timeout = _Told(cache.timeout)
    return cache


def _with(cache: Any, overrides: Mapping[str, Any]) -> Any:
    """Return a view of the cache with other settings, over the same client or memory."""
    if not overrides:
        return cache
    view = copy.copy(cache)
    _Clients.share(cache, view)
    for name, value in overrides.items():
        setattr(view, name, value)
    return view


_by_url: dict[str, Any] = {}


def _from_url(url: str) -> Any:
    """Return the cache of a URL: one per process, whatever decorators name it."""
    if url not in _by_url:
        _by_url[url] = _make(url)
    return _by_url[url]


def _make(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    # What the exception quotes may be a part of the password.
    except ValueError:
        raise ConfigurationError(
            f"cache URL {_without_secrets(url)!r} can't be read: write "
            "scheme://user:password@host:port, with / ? # and @ in them percent-encoded"
        ) from None
    makers = {
        "memory": _make_memory,
        "redis": _make_redis,
        "rediss": _make_redis,
        "unix": _make_redis,
        "memcached": _make_memcached,
    }
    if parts.scheme not in makers:
        raise ConfigurationError(
            f"cache URL {_without_secrets(url)!r} has an unknown scheme: use "
            "memory://, redis://, rediss://, unix:// or memcached://"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        return _mark(makers[parts.scheme](parts, query), query)
    except (ValueError, KeyError) as exc:
        reason = exc.args[0] if exc.args else exc
        raise ConfigurationError(f"cache URL {_without_secrets(url)!r}: {reason}") from None


def _without_secrets(url: str) -> str:
    # Up to the last @: one that is not encoded may be a part of the password.
    return re.sub(r"//.*@", "//***@", re.sub(r"(password=)[^&]*", r"\1***", url))


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is no number of seconds")
    return value


def _lifetime(text: str) -> float:
    value = _number(text)
    if not value:
        raise ValueError("leave it out for entries that never expire")
    return value


def _index(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("write a whole number, 0 or more")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError("write a positive whole number")
    return int(text)


def _truth(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def parse_size(text: str) -> int:
    """
    Return a number of bytes: `1048576`, `64MiB`, `1GB`.

    Raises:
        ValueError: It is no size.
    """
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS or not int(match[1]):
        raise ValueError(f"{text!r} is no size in bytes; write 64MiB, say")
    return int(match[1]) * _UNITS[match[2]]


_Options = Mapping[str, Callable[[str], Any]]

_COMMON: _Options = {"namespace": str, "timeout": _number, "ttl": _lifetime}
_MEMORY: _Options = {**_COMMON, "max_bytes": parse_size}
_MEMCACHED: _Options = {**_COMMON, "pool_size": _count}
_REDIS: _Options = {
    **_COMMON,
    "db": _index,
    "username": str,
    "password": str,
    "pool_max_size": _count,
    "create_connection_timeout": _number,
    "ssl": _truth,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": _truth,
}


def _typed(query: Mapping[str, str], known: _Options) -> dict[str, Any]:
    for name in query:
        if name not in known:
            raise ValueError(f"unknown option {name!r}, there are: {', '.join(sorted(known))}")
    typed = {}
    for name, text in query.items():
        try:
            typed[name] = known[name](text)
        except ValueError as exc:
            raise ValueError(f"{name}={text}: {exc}") from None
    return typed


def _make_memory(parts: SplitResult, query: Mapping[str, str]) -> Any:
    if parts.netloc or parts.path.strip("/"):
        raise ValueError("memory:// has no host and no path; its options go into the query")
    return MemoryCache(**_typed(query, _MEMORY))


def _make_memcached(parts: SplitResult, query: Mapping[str, str]) -> Any:
    cache_class = _installed("MemcachedCache", parts.scheme)
    if "@" in parts.netloc or parts.path.strip("/"):
        raise ValueError("memcached has no user and no password here, and no database")
    return cache_class(
        endpoint=parts.hostname or "127.0.0.1",
        port=parts.port or 11211,
        **{"timeout": DEFAULT_TIMEOUT, **_typed(query, _MEMCACHED)},
    )


def _make_redis(parts: SplitResult, query: Mapping[str, str]) -> Any:
    cache_class = _installed("RedisCache", parts.scheme)
    from redis.asyncio import BlockingConnectionPool, UnixDomainSocketConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options = _typed(query, _REDIS)
    timeout = options.setdefault("timeout", DEFAULT_TIMEOUT)
    connection = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    # Once and at once: what was pooled before the server was restarted is connected anew.
    connection["retry"] = Retry(NoBackoff(), 1)
    if parts.username or "username" in options:
        connection["username"] = options.pop("username", None) or unquote(parts.username or "")
    if parts.password:
        options["password"] = unquote(parts.password)
    options["ssl"] = parts.scheme == "rediss" or options.get("ssl", False)
    if not options["ssl"] and any(name.startswith("ssl_") for name in connection):
        raise ValueError("its TLS options do nothing without TLS: write rediss:// for redis://")
    if parts.scheme == "unix":
        if options["ssl"]:
            raise ValueError("there is no TLS over a socket in the file system")
        if not parts.path:
            raise ValueError("write the path of its socket, unix:///run/redis.sock")
        connection |= {"connection_class": UnixDomainSocketConnection, "path": parts.path}
    else:
        path = parts.path.strip("/")
        if path and not path.isdigit():
            raise ValueError("its path is no number of a database")
        options |= {"endpoint": parts.hostname or "127.0.0.1", "port": parts.port or 6379}
        options |= {"db": int(path)} if path else {}

    def make_pool(**settings: Any) -> Any:
        if parts.scheme == "unix":
            del settings["host"], settings["port"]
        # A request waits for a connection as long as for the answer, and no longer.
        return BlockingConnectionPool(timeout=timeout or None, **settings)

    return cache_class(
        **{"pool_max_size": _POOL_SIZE, "create_connection_timeout": timeout, **options},
        connection_pool_class=make_pool,
        connection_pool_kwargs=connection,
    )


def _installed(name: str, scheme: str) -> Any:
    cache_class = _backend(name)
    if cache_class is None:
        raise ValueError(f"its client is missing: pip install 'stream-cached[{_EXTRAS[scheme]}]'")
    return cache_class
