"""The runs in this process: what a request may join, and what it has to run itself."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from weakref import WeakKeyDictionary

from stream_cached.backends.binding import RunScope
from stream_cached.keys.variants import ANY, Select, Variant, is_for, variant_of
from stream_cached.runs.claim import Claim
from stream_cached.runs.run import Run

#: Seconds for which a stale entry is not refreshed again after a refresh has failed.
BACK_OFF = 5.0

#: Seconds after which to look again whether another process still refreshes a stale entry.
LEFT_FOR = 1.0

#: Keys that are remembered, and variants of each.
_MAX_KEYS = 10_000
_MAX_VARIANTS = 64

#: The identities of the runs that the running code is part of: it must not wait for itself. A timer
#: that is cancelled keeps its context until it would have been due, so a context must not hold a
#: run.
_own: ContextVar[tuple[object, ...]] = ContextVar("stream_cached_runs", default=())


#: Returns an event loop, or None once it is gone.
_Loop = Callable[[], asyncio.AbstractEventLoop | None]


class Leading:
    """
    Lets the code within, and the tasks that it creates, be part of a run.

    If the code raises, the run ends.
    """

    # No generator: there are two for each miss.

    def __init__(self, run: Run | None) -> None:
        self._run = run

    async def __aenter__(self) -> None:
        if self._run is not None:
            self._token = _own.set((*_own.get(), self._run.identity))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run = self._run
        if run is None:
            return
        try:
            if error is not None:
                run.fail()
            if error is None or isinstance(error, Exception):
                await run.released()
        finally:
            _own.reset(self._token)


def runs_of_this_code() -> tuple[object, ...]:
    """Return the identities of the runs that the running code is part of."""
    return _own.get()


@contextmanager
def part_of_runs(identities: tuple[object, ...]) -> Iterator[None]:
    """Let the code within be part of some runs, also in another thread than what has begun them."""
    token = _own.set(identities)
    try:
        yield
    finally:
        _own.reset(token)


class RunRegistry:
    """The runs of one store in one event loop, by key."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Run]] = {}
        self._hit_for_miss = _HitForMiss()
        self._backing_off = _Remembered(BACK_OFF)
        self._left_to_others = _Remembered(LEFT_FOR)
        self.ended = 0
        """How many runs have ended: a look-up before the last end may have missed its entry."""

    def lead_or_join(
        self, key: str, names: Sequence[str], select: Select | None, *, again: bool = False
    ) -> tuple[Run | None, bool]:
        """
        Return the run to wait for, or a new one.

        Args:
            key: The key of the resource.
            names: The headers that are known to select among its responses.
            select: What tells the request's variant.
            again: Whether the run is to be shared though the last response could not be.

        Returns:
            The run, and whether it is new: the caller leads it. None if no request waits for
            another one, or the caller would wait for itself.
        """
        if not again and self._hit_for_miss.has(key, select):
            return None, False
        runs = self._runs.get(key, ())
        for run in runs:
            if run.is_for(select):
                return (None, False) if run.identity in _own.get() else (run, False)
        others = self._hit_for_miss.variants(key)
        if runs or others or names:
            # The headers that another run's response varies on are known by now.
            others += [run.variant for run in runs]
            known = {*names, *(name for variant in others for name in variant[0])}
            run = Run(self, key, variant_of(tuple(known), select))
        else:
            run = Run(self, key, ANY)
        self._runs.setdefault(key, []).append(run)
        return run, True

    def lead(self, key: str) -> Run | None:
        """Return a new run, which the caller leads; None if anything is known of the key."""
        if self._runs.get(key) or self._hit_for_miss.variants(key):
            return None
        return self.lead_or_join(key, (), None)[0]

    def joinable(self, key: str, select: Select | None) -> Run | None:
        """Return the run that a request may wait for, if the request can't lead one."""
        if self._hit_for_miss.has(key, select):
            return None
        for run in self._runs.get(key, []):
            if run.is_for(select) and run.identity not in _own.get():
                return run
        return None

    async def in_line(self, key: str) -> None:
        """Wait while earlier calls look for the runs of a key; see `Line`."""
        if runs := self._runs.get(key):
            await runs[0].line_to_look.wait()

    def remove(self, run: Claim, *, alone_for: float) -> None:
        """Take a run away. For so many seconds, no request for its variant waits for another."""
        runs = self._runs.get(run.key, [])
        if run in runs:
            self.ended += 1
            runs.remove(run)
            if not runs:
                del self._runs[run.key]
        if alone_for:
            self._hit_for_miss.add(run.key, run.variant, alone_for)

    def share_again(self, key: str, select: Select | None) -> None:
        """Forget that the response to a request could not be shared."""
        self._hit_for_miss.discard(key, select)

    def back_off(self, place: str) -> None:
        """Remember that a stale entry could not be refreshed."""
        self._backing_off.add(place)

    def is_backing_off(self, place: str) -> bool:
        """Whether a stale entry is not to be refreshed yet."""
        return place in self._backing_off

    def try_again(self, place: str) -> None:
        """Let the next request refresh a stale entry."""
        self._backing_off.discard(place)

    def leave_to_others(self, place: str) -> None:
        """Remember that another process refreshes a stale entry."""
        self._left_to_others.add(place)

    def is_left_to_others(self, place: str) -> bool:
        """Whether another process refreshes a stale entry."""
        return place in self._left_to_others


class _Registries:
    """The registries of one scope, by event loop."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, RunRegistry] = (
            WeakKeyDictionary()
        )
        self._pid = os.getpid()
        # One object: the loop of another thread may set it in between.
        self._last: tuple[_Loop, RunRegistry] = (lambda: None), RunRegistry()

    def here(self) -> RunRegistry:
        loop, pid = asyncio.get_running_loop(), os.getpid()
        last_loop, last = self._last
        if last_loop() is loop and pid == self._pid:
            return last
        if pid != self._pid:
            # A fork has no runs.
            self._by_loop, self._pid = WeakKeyDictionary(), pid
        registry = self._by_loop.get(loop)
        if registry is None:
            registry = self._by_loop[loop] = RunRegistry()
        self._last = weakref.ref(loop), registry
        return registry


def registry_of(scope: RunScope) -> RunRegistry:
    """Return the runs of a store in the running event loop."""
    if scope.registries is None:
        scope.registries = _Registries()
    registry: RunRegistry = scope.registries.here()
    return registry


class _Remembered:
    """Keys that are remembered for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._until[key]
        return False

    def discard(self, key: str) -> None:
        self._until.pop(key, None)

    def add(self, key: str) -> None:
        self._until.pop(key, None)
        if len(self._until) >= _MAX_KEYS:
            del self._until[next(iter(self._until))]
        self._until[key] = time.monotonic() + self._seconds


class _HitForMiss:
    """Variants that are remembered because their response could not be shared."""

    def __init__(self) -> None:
        self._until: dict[str, dict[Variant, float]] = {}

    def add(self, key: str, variant: Variant, seconds: float) -> None:
        until = self._until.pop(key, {})
        until.pop(variant, None)
        if len(self._until) >= _MAX_KEYS:
            del self._until[next(iter(self._until))]
        if len(until) >= _MAX_VARIANTS:
            del until[next(iter(until))]
        until[variant] = time.monotonic() + seconds
        self._until[key] = until

    def variants(self, key: str) -> list[Variant]:
        """Return the variants of a key that are still remembered."""
        until = self._until.get(key)
        if until is None:
            return []
        now = time.monotonic()
        for variant in [variant for variant, end in until.items() if end <= now]:
            del until[variant]
        if not until:
            del self._until[key]
        return list(until)

    def has(self, key: str, select: Select | None) -> bool:
        return key in self._until and any(is_for(each, select) for each in self.variants(key))

    def discard(self, key: str, select: Select | None) -> None:
        """Forget the variants that a request may be for."""
        for variant in self.variants(key):
            if is_for(variant, select):
                del self._until[key][variant]
