"""Parse a cache URL and create its cache."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from stream_cached.checks import parse_size
from stream_cached.connections.time_limit import WAIT_FOR_CONNECTION
from stream_cached.errors import ConfigurationError
from stream_cached.stores.clients import backend_class
from stream_cached.stores.memory import MemoryCache, partition_of
from stream_cached.stores.serializers import JsonOrBytesSerializer

#: The default time-out of one store operation in seconds.
DEFAULT_TIMEOUT = 0.5

#: The most connections to a Redis server; they are opened on demand.
POOL_SIZE = 64

#: The most connections to a memcached server; each transfers one segment at a time.
_MEMCACHED_POOL_SIZE = 16


class ExplicitTimeout(float):
    """A time-out that the user has set, even if it equals aiocache's default."""


def mark_explicit_timeout(cache: Any, options: Mapping[str, Any]) -> Any:
    if "timeout" in options and cache.timeout is not None:
        cache.timeout = ExplicitTimeout(cache.timeout)
    return cache


_by_url: dict[str, Any] = {}

#: Stands among the URLs for the memory whose partitions decorators have by default.
_PARTITIONED = "partitioned"

_partitions = itertools.count(1)


def from_url(url: str) -> Any:
    """Return the cache of a URL: one per process for equal URLs."""
    if url not in _by_url:
        _by_url[url] = _make(url)
    return _by_url[url]


def own_memory() -> MemoryCache:
    """Return a cache that shares its bound with others, and none of its keys."""
    if _PARTITIONED not in _by_url:
        _by_url[_PARTITIONED] = MemoryCache()
    return partition_of(_by_url[_PARTITIONED], str(next(_partitions)))


def _make(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    # The exception's text may quote a part of the password.
    except ValueError:
        raise ConfigurationError(
            f"cache URL {without_secrets(url)!r} can't be parsed: write "
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
            f"cache URL {without_secrets(url)!r} has an unknown scheme: use "
            "memory://, redis://, rediss://, unix:// or memcached://"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        return mark_explicit_timeout(makers[parts.scheme](parts, query), query)
    except (ValueError, KeyError) as exc:
        reason = exc.args[0] if exc.args else exc
        raise ConfigurationError(f"cache URL {without_secrets(url)!r}: {reason}") from None


def without_secrets(url: str) -> str:
    # Everything up to the last @ is hidden, because an @ in the password may not be encoded.
    return re.sub(r"//.*@", "//***@", re.sub(r"(password=)[^&]*", r"\1***", url))


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is no number of seconds: write a number, 0 or more")
    return value


def _lifetime(text: str) -> float:
    value = _number(text)
    if not value:
        raise ValueError("omit the option for entries that never expire")
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
        raise ValueError(f"{text!r} is neither true nor false: write true or false")
    return known[text.lower()]


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
            raise ValueError(f"unknown option {name!r}: use one of {', '.join(sorted(known))}")
    typed = {}
    for name, text in query.items():
        try:
            typed[name] = known[name](text)
        except ValueError as exc:
            raise ValueError(f"{name}={text}: {exc}") from None
    return typed


def _make_memory(parts: SplitResult, query: Mapping[str, str]) -> Any:
    if parts.netloc or parts.path.strip("/"):
        raise ValueError("memory:// has no host and no path: write options into the query")
    return MemoryCache(**_typed(query, _MEMORY))


def _make_memcached(parts: SplitResult, query: Mapping[str, str]) -> Any:
    cache_class = _installed("MemcachedCache", "memcached")
    if "@" in parts.netloc or parts.path.strip("/"):
        raise ValueError("user, password and database are not supported for memcached: omit them")
    options: dict[str, Any] = {"timeout": DEFAULT_TIMEOUT, "pool_size": _MEMCACHED_POOL_SIZE}
    options |= _typed(query, _MEMCACHED)
    options |= {"endpoint": parts.hostname or "127.0.0.1", "port": parts.port or 11211}
    return cache_class(serializer=JsonOrBytesSerializer(), **options)


def _make_redis(parts: SplitResult, query: Mapping[str, str]) -> Any:
    cache_class = _installed("RedisCache", "redis")
    from redis.asyncio import UnixDomainSocketConnection

    from stream_cached.stores.redis_pool import RedisPool

    options = _typed(query, _REDIS)
    timeout = options.setdefault("timeout", DEFAULT_TIMEOUT)
    connection = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    connection |= redis_pool_options(timeout)
    if parts.username or "username" in options:
        connection["username"] = options.pop("username", None) or unquote(parts.username or "")
    if parts.password:
        options["password"] = unquote(parts.password)
    options["ssl"] = parts.scheme == "rediss" or options.get("ssl", False)
    if not options["ssl"] and any(name.startswith("ssl_") for name in connection):
        raise ValueError("TLS options have no effect without TLS: write rediss:// for redis://")
    if parts.scheme == "unix":
        if options["ssl"]:
            raise ValueError("TLS is not supported over a Unix socket: omit ssl")
        if not parts.path:
            raise ValueError("the path of the socket is missing: write unix:///run/redis.sock")
        connection |= {"connection_class": UnixDomainSocketConnection, "path": parts.path}
    else:
        path = parts.path.strip("/")
        if path and not path.isdigit():
            raise ValueError("the path is no database number: write redis://host:port/0")
        options |= {"endpoint": parts.hostname or "127.0.0.1", "port": parts.port or 6379}
        options |= {"db": int(path)} if path else {}

    def make_pool(**settings: Any) -> Any:
        if parts.scheme == "unix":
            del settings["host"], settings["port"]
        return RedisPool(**settings)

    return cache_class(
        serializer=JsonOrBytesSerializer(),
        **{"pool_max_size": POOL_SIZE, **options},
        connection_pool_class=make_pool,
        connection_pool_kwargs=connection,
    )


def redis_pool_options(timeout: float | None) -> dict[str, Any]:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return {
        # One immediate retry reopens pooled connections that a restart of the server has closed.
        "retry": Retry(NoBackoff(), 1),
        # Our time-out bounds the whole operation. The client's time-out would also fail operations
        # whose answer arrived while the event loop was blocked.
        "socket_timeout": None,
        "timeout": timeout * WAIT_FOR_CONNECTION if timeout else None,
    }


def _installed(name: str, extra: str) -> Any:
    cache_class = backend_class(name)
    if cache_class is None:
        raise ValueError(f"the client library is missing: pip install 'stream-cached[{extra}]'")
    return cache_class
