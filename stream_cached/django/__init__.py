"""The front door for Django: views whose streams are streamed, cached and replayed."""

from __future__ import annotations

from stream_cached.django.cached import CachedView
from stream_cached.django.conf import Cache, caches
from stream_cached.django.decorators import cache_stream
from stream_cached.django.frozen import FrozenHeaderError, freeze_header, header_is_frozen
from stream_cached.django.responses import CachedStreamingHttpResponse

__all__ = [
    "Cache",
    "CachedStreamingHttpResponse",
    "CachedView",
    "FrozenHeaderError",
    "cache_stream",
    "caches",
    "freeze_header",
    "header_is_frozen",
]
