"""An aiocache view of cashews' Redis backends, with its own connections to the same server."""

from __future__ import annotations

from typing import Any

import aiocache
from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer
from redis.asyncio import Redis

from stream_cached.backends.urls import DEFAULT_TIMEOUT, POOL_SIZE, redis_pool_options
from stream_cached.errors import ConfigurationError
from stream_cached.stores.redis_pool import RedisPool

#: Options of cashews' client that concern its pool, or that our client sets itself.
_OMITTED = frozenset(
    {"client_name", "health_check_interval", "max_connections", "retry_on_timeout", "timeout"}
)


def redis_view(backend: Any) -> BaseCache:
    """Return a view of a Redis backend with its own client."""
    # cashews' client may suppress errors, and streams would occupy its ten connections.
    if backend.is_cluster:
        raise ConfigurationError(
            "cluster=True: streams can't be stored in a Redis cluster; set up a single Redis for "
            "the prefix of these keys"
        )
    options = {name: value for name, value in backend._kwargs.items() if name not in _OMITTED}
    options |= {"max_connections": POOL_SIZE, "decode_responses": False}
    options |= redis_pool_options(DEFAULT_TIMEOUT)
    view = aiocache.RedisCache(serializer=NullSerializer(), timeout=DEFAULT_TIMEOUT)
    view.client = Redis(connection_pool=RedisPool.from_url(backend._address, **options))
    view.client.auto_close_connection_pool = True
    return view
