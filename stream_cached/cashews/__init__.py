"""stream_cached for applications that use cashews."""

from stream_cached.cashews.codec import install, uninstall
from stream_cached.cashews.decorator import stream_cached

__all__ = ["install", "stream_cached", "uninstall"]
