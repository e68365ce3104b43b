"""stream_cached for applications that use cashews."""

from stream_cached.cashews.decorator import stream_cached
from stream_cached.cashews.patches import install, uninstall

__all__ = ["install", "stream_cached", "uninstall"]
