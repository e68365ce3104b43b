"""The streaming-aware caching decorator for Starlette and FastAPI, on aiocache."""

from stream_cached.backends.breaker import health
from stream_cached.backends.breaker_state import Health, State
from stream_cached.compression import Compression
from stream_cached.decorator import stream_cached
from stream_cached.endpoint.cached import CachedEndpoint, CachedGenerator
from stream_cached.endpoint.in_key import InKey, in_key
from stream_cached.endpoint.infrastructure import NotInKey, not_in_key
from stream_cached.engine.completed import Completed
from stream_cached.errors import (
    BrokenStreamError,
    ConfigurationError,
    StoreError,
    StoreUnavailableError,
    StreamCachedError,
)
from stream_cached.event_hook import RunBegan, RunEnded, RunResult, StoreAway, StoreBack
from stream_cached.events import Answered, EndpointStats, Event, Outcome
from stream_cached.fallback_cache import FallbackCache
from stream_cached.http.reasons import BypassError, NotCached
from stream_cached.lifespan import aclose, lifespan
from stream_cached.limits import Limits
from stream_cached.responses.told import bypass, freshness
from stream_cached.stores.memory import MemoryCache
from stream_cached.stores.serializers import CompressionSerializer
from stream_cached.stream_cache import StreamCache
from stream_cached.vary_on_headers import vary_on_headers

__all__ = [
    "Answered",
    "BrokenStreamError",
    "BypassError",
    "CachedEndpoint",
    "CachedGenerator",
    "Completed",
    "Compression",
    "CompressionSerializer",
    "ConfigurationError",
    "EndpointStats",
    "Event",
    "FallbackCache",
    "Health",
    "InKey",
    "Limits",
    "MemoryCache",
    "NotCached",
    "NotInKey",
    "Outcome",
    "RunBegan",
    "RunEnded",
    "RunResult",
    "State",
    "StoreAway",
    "StoreBack",
    "StoreError",
    "StoreUnavailableError",
    "StreamCache",
    "StreamCachedError",
    "aclose",
    "bypass",
    "freshness",
    "health",
    "in_key",
    "lifespan",
    "not_in_key",
    "stream_cached",
    "vary_on_headers",
]
