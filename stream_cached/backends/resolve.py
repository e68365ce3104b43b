"""Resolve a URL, a class, an alias or an instance to a cache."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import Any

import aiocache
from aiocache.base import BaseCache

from stream_cached.backends.urls import from_url, mark_explicit_timeout, own_memory, without_secrets
from stream_cached.errors import ConfigurationError
from stream_cached.stores.clients import Clients, is_mock
from stream_cached.stores.memory import MemoryCache


class _Default(Enum):
    OWN_MEMORY = "a memory of its own"

    def __repr__(self) -> str:
        return "<memory of its own>"


#: The cache of a decorator that is given none: no other function has its keys.
OWN_MEMORY: Any = _Default.OWN_MEMORY


class LateCache(ABC):
    """A cache that is resolved when it is first used."""

    @abstractmethod
    def resolve(self) -> Any:
        """Return the cache."""


def resolve_alias(alias: str) -> Any:
    try:
        return aiocache.caches.get(alias)
    except KeyError:
        known = ", ".join(sorted(aiocache.caches.get_config()))
        raise ConfigurationError(
            f"alias {alias!r} is not configured (known aliases: {known}): "
            "add it to caches.set_config before the first request"
        ) from None


def resolve_cache(
    cache: object,
    *,
    serializer: Any = None,
    plugins: Any = None,
    namespace: str | None = None,
    options: Mapping[str, Any],
) -> Any:
    """Return the cache of a URL, a class (with `options`), an instance, or `OWN_MEMORY`."""
    settings = {"serializer": serializer, "plugins": plugins, "namespace": namespace}
    overrides = {name: value for name, value in settings.items() if value is not None}
    if isinstance(cache, type) and issubclass(cache, BaseCache):
        try:
            return mark_explicit_timeout(cache(**overrides, **options), options)
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(
                f"{cache.__name__} does not accept its options: {exc}"
            ) from exc
    if options:
        raise ConfigurationError(
            f"unknown parameter {next(iter(options))!r}: the decorator has no such parameter. "
            "Options of a cache need a class (cache=Cache.REDIS, endpoint=...); with a URL, write "
            "them into its query"
        )
    if isinstance(cache, LateCache):
        cache = cache.resolve()
    if cache is OWN_MEMORY:
        return with_settings(own_memory(), overrides)
    if isinstance(cache, str):
        return with_settings(from_url(cache), overrides)
    if isinstance(cache, BaseCache):
        return with_settings(_completed(cache), overrides)
    if cache is None:
        raise ConfigurationError(
            "cache=None: aiocache's Cache.REDIS and Cache.MEMCACHED are None if their client is "
            "not installed: pip install 'stream-cached[redis]' or 'stream-cached[memcached]'"
        )
    raise ConfigurationError(
        f"cache={cache!r} is no cache: pass a URL, a class such as Cache.REDIS, or an instance"
    )


def resolve_fallback(fallback: object) -> MemoryCache | None:
    """Return the memory cache that replaces a store that is away; None for False."""
    if fallback is False:
        return None
    cache = fallback
    if isinstance(fallback, str):
        cache = from_url(fallback) if "://" in fallback else resolve_alias(fallback)
    if not isinstance(cache, MemoryCache):
        raise ConfigurationError(
            f"fallback={without_secrets(repr(fallback))}: the fallback has to be a bounded memory "
            'cache in this process: pass "memory://?max_bytes=64MiB", a MemoryCache or the alias '
            "of one, or False to answer requests without a cache instead"
        )
    return cache


def _completed(cache: Any) -> Any:
    """Give a mock the attributes of an instance, which `create_autospec` does not know of."""
    if is_mock(cache):
        for name in ("namespace", "serializer", "plugins", "timeout", "ttl"):
            if not hasattr(cache, name):
                setattr(cache, name, None)
    return cache


def with_settings(cache: Any, overrides: Mapping[str, Any]) -> Any:
    """Return a view of the cache, over the same client or memory."""
    if not overrides:
        return cache
    view = copy.copy(cache)
    Clients.share(cache, view)
    for name, value in overrides.items():
        setattr(view, name, value)
    return view
