"""From a URL, a class, an alias or an instance to a cache."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import aiocache
from aiocache.base import BaseCache

from stream_cached.backends.urls import _from_url, _mark, _without_secrets
from stream_cached.connections.clients import Clients
from stream_cached.errors import ConfigurationError
from stream_cached.stores.memory import MemoryCache

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
        return with_settings(_from_url(cache), overrides)
    if isinstance(cache, BaseCache):
        return with_settings(cache, overrides)
    if cache is None:
        raise ConfigurationError(
            "cache=None: aiocache's Cache.REDIS and Cache.MEMCACHED are None where their client is "
            "not installed: pip install 'stream-cached[redis]' or 'stream-cached[memcached]'"
        )
    raise ConfigurationError(
        f"cache={cache!r} is no cache: pass a URL, a class such as Cache.REDIS, or an instance"
    )


def resolve_fallback(fallback: object) -> MemoryCache | None:
    """
    Return the memory that stands in for a store; None where nothing is to.

    Args:
        fallback: A `memory://` URL, an alias of `caches.set_config`, a `MemoryCache`, or False.

    Raises:
        ConfigurationError: It is none of these, or nothing that is bounded.
    """
    if fallback is False:
        return None
    cache = fallback
    if isinstance(fallback, str):
        cache = _from_url(fallback) if "://" in fallback else resolve_alias(fallback)
    if not isinstance(cache, MemoryCache):
        raise ConfigurationError(
            f"fallback={_without_secrets(repr(fallback))}: what stands in for a store is bounded, "
            'and in this process: pass "memory://?max_bytes=64MiB", a MemoryCache or the alias of '
            "one, or False to let requests go past the cache instead"
        )
    return cache


def with_settings(cache: Any, overrides: Mapping[str, Any]) -> Any:
    """Return a view of the cache with other settings, over the same client or memory."""
    if not overrides:
        return cache
    view = copy.copy(cache)
    Clients.share(cache, view)
    for name, value in overrides.items():
        setattr(view, name, value)
    return view
