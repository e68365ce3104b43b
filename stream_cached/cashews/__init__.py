"""stream_cached for applications that use cashews."""

from stream_cached.cashews.decorator import stream_cached

__all__ = ["stream_cached"]
