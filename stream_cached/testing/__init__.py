"""The pytest plugin: the cache of an application, fresh for each test.

Turn it on in the topmost `conftest.py`: `pytest_plugins = ["stream_cached.testing"]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream_cached.testing.cache import CacheUnderTest

__all__ = ["CacheUnderTest", "stream_cache"]


@pytest.fixture
def stream_cache() -> Iterator[CacheUnderTest]:
    """The cache that stands for all caches of the application in this test. It begins empty."""
    cache = CacheUnderTest()
    with cache._in_place():
        yield cache
