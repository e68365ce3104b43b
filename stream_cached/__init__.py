"""The streaming-aware caching decorator for Starlette and FastAPI, on aiocache."""

from stream_cached.cached_endpoint import CachedEndpoint
from stream_cached.decorator import stream_cached
from stream_cached.exceptions import (
    BrokenStreamError,
    ConfigurationError,
    StoreError,
    StreamCachedError,
)
from stream_cached.plumbing import NotInKey, not_in_key
from stream_cached.policy import BypassError, NotCached
from stream_cached.store.memory import MemoryCache

__all__ = [
    "BrokenStreamError",
    "BypassError",
    "CachedEndpoint",
    "ConfigurationError",
    "MemoryCache",
    "NotCached",
    "NotInKey",
    "StoreError",
    "StreamCachedError",
    "not_in_key",
    "stream_cached",
]
