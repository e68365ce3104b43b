"""What the tests of one module have taken is given back before the next one begins."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_cached.backends import urls
from stream_cached.bodies import urls as bodies_urls
from stream_cached.endpoint import identity
from stream_cached.entries import local
from stream_cached.request import live_apps
from stream_cached.stores.memory import MemoryCache

# The numbers that glibc's malloc.h gives them.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def keep_together() -> None:
    """
    Let glibc's allocator take large values from the system, one by one, and give them back.

    Else each thread has a heap of its own, and a small value at its end keeps the rest.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
        libc.mallopt(_M_ARENA_MAX, 1)


#: Bytes by which a process of the tests may grow before its garbage is freed.
_GROWTH = 8 * 1024 * 1024

_kept = 0


def begin() -> None:
    """To be called once all tests are collected, and before the first one runs."""
    gc.unfreeze()
    give_back()


def give_back() -> None:
    """Free what is garbage; let the allocator return what it keeps (where it is glibc's)."""
    global _kept
    _forget_functions()
    _forget_bodies()
    gc.collect()
    # Garbage is looked for only among what comes from now on, not among all modules and tests. Were
    # this done each time, what a test has left in a cycle would never be freed.
    if not gc.get_freeze_count():
        gc.freeze()
    _trim()
    _kept = resident()


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_if_grown() -> None:
    """Do the same, but only if this process has grown since, and no more than is needed."""
    for step in _trim, _collect, give_back:
        if resident() <= _kept + _GROWTH:
            return
        step()


def _collect() -> None:
    gc.collect()
    _trim()


def resident() -> int:
    """The bytes of memory that this process has; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


@contextlib.contextmanager
def forgetting_caches() -> Iterator[None]:
    """Forget afterwards what a process keeps for ever: the caches that were named by a URL.

    The applications and the functions of a test, too, which live as long as they are frozen.
    """
    # Another cache may have the address of one that is gone, by which this knows them apart.
    kept: list[Any] = [urls._by_url, bodies_urls._by_url, live_apps._live, identity._alike]
    if "stream_cached.cashews.views" in sys.modules:
        # A view's connections lead by their loop to all that the test had, and to its own backend.
        kept.append(sys.modules["stream_cached.cashews.views"]._views)
    if "fastapi.routing" in sys.modules:
        # It names functions by their addresses, too. Older ones have none.
        kept.append(getattr(sys.modules["fastapi.routing"], "_endpoint_context_cache", {}))
    before = [set(memory) for memory in kept]
    bound = local._memory.max_bytes
    yield
    local._memory = local._Memory(bound)
    for memory, names in zip(kept, before, strict=True):
        for name in set(memory) - names:
            # Of weak references, some may have gone since.
            memory.pop(name, None)


class Reports:
    """Lets go of reports that nobody looks at: pytest keeps three of each test to the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        self._forget()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self) -> None:
        self._forget()

    def _forget(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        if hasattr(self._config, "workerinput"):
            # A worker reports nothing itself. It would also keep what it does not run.
            reporter.stats.clear()
        elif not self._config.option.durations:
            # Of what went before and after a test, and passed.
            reporter.stats.pop("", None)
            # Of those that passed, only the number is shown.
            passed = reporter.stats.get("passed")
            if passed and not reporter.hasopt("P") and not reporter.hasopt("p"):
                passed[-1] = passed[0]


def _forget_bodies() -> None:
    """Empty the memories that endpoints share in a process, unless they name another cache."""
    for cache in urls._by_url.values():
        if isinstance(cache, MemoryCache):
            cache.memory.clear("")


def _forget_functions() -> None:
    """Empty what is remembered of functions: those of a test hold all that it had."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("cashews", "fastapi", "stream_cached"):
            for value in list(vars(module).values()):
                # isinstance() would ask a proxy, such as Django's settings, for its class.
                if type(value) is functools._lru_cache_wrapper:
                    value.cache_clear()
