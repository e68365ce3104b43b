"""The plugin, in the tests of this folder."""

from stream_cached.testing import stream_cache

__all__ = ["stream_cache"]
