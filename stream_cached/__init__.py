"""The streaming-aware caching decorator for Starlette and FastAPI, on aiocache."""

from stream_cached.availability import Health, State
from stream_cached.cached_endpoint import CachedEndpoint
from stream_cached.decorator import stream_cached
from stream_cached.exceptions import (
    BrokenStreamError,
    ConfigurationError,
    StoreError,
    StoreUnavailableError,
    StreamCachedError,
)
from stream_cached.fallback_cache import FallbackCache
from stream_cached.plumbing import NotInKey, not_in_key
from stream_cached.policy import BypassError, NotCached
from stream_cached.shutdown import aclose, lifespan
from stream_cached.store.memory import MemoryCache
from stream_cached.store.switch import health

__all__ = [
    "BrokenStreamError",
    "BypassError",
    "CachedEndpoint",
    "ConfigurationError",
    "FallbackCache",
    "Health",
    "MemoryCache",
    "NotCached",
    "NotInKey",
    "State",
    "StoreError",
    "StoreUnavailableError",
    "StreamCachedError",
    "aclose",
    "health",
    "lifespan",
    "not_in_key",
    "stream_cached",
]
