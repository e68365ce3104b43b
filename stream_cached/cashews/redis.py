"""An aiocache view of cashews' Redis backends, with connections of its own to the same server."""

from __future__ import annotations

from typing import Any

import aiocache
from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer
from redis.asyncio import BlockingConnectionPool, Redis

from stream_cached.backends.urls import DEFAULT_TIMEOUT, POOL_SIZE, redis_pool_options
from stream_cached.errors import ConfigurationError

#: Options of cashews' own client that are about its pool, or that we choose by ourselves.
_NOT_OURS = frozenset(
    {"client_name", "health_check_interval", "max_connections", "retry_on_timeout", "timeout"}
)


def redis_view(backend: Any) -> BaseCache:
    """
    Return a view of a Redis backend.

    cashews' own client may suppress errors, and has ten connections, which streams would take
    from others.

    Raises:
        ConfigurationError: It is a cluster.
    """
    if backend.is_cluster:
        raise ConfigurationError(
            "cluster=True: streams are not stored in a cluster; set up a single Redis for the "
            "prefix of these keys"
        )
    options = {name: value for name, value in backend._kwargs.items() if name not in _NOT_OURS}
    options |= {"max_connections": POOL_SIZE, "decode_responses": False}
    options |= redis_pool_options(DEFAULT_TIMEOUT)
    view = aiocache.RedisCache(serializer=NullSerializer(), timeout=DEFAULT_TIMEOUT)
    view.client = Redis(
        connection_pool=BlockingConnectionPool.from_url(backend._address, **options)
    )
    view.client.auto_close_connection_pool = True
    return view
