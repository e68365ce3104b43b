"""What the tests of one module have taken is given back before the next one begins."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

from stream_cached.backends import urls


def give_back() -> None:
    """Free what is garbage; let the allocator return what it keeps (where it is glibc's)."""
    gc.collect()
    # The next collections need not look through all modules and tests again.
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def forgetting_memory_caches() -> Iterator[None]:
    """Forget afterwards which caches in memory were named by a URL: a process keeps them all."""
    before = set(urls._by_url)
    yield
    for url in set(urls._by_url) - before:
        if url.startswith("memory:"):
            del urls._by_url[url]
