"""The streaming-aware caching decorator for Starlette and FastAPI, on aiocache."""

from stream_cached.decorator import CachedEndpoint, stream_cached
from stream_cached.exceptions import (
    BrokenStreamError,
    ConfigurationError,
    StoreError,
    StreamCachedError,
)
from stream_cached.policy import NotCached
from stream_cached.store.memory import MemoryCache

__all__ = [
    "BrokenStreamError",
    "CachedEndpoint",
    "ConfigurationError",
    "MemoryCache",
    "NotCached",
    "StoreError",
    "StreamCachedError",
    "stream_cached",
]
