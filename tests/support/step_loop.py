"""An event loop that takes its steps one by one, in the order and at the time that a test says.

Nothing runs and no time passes unless the test asks for it. Each task is an actor, and what is no
task's step is one more actor; whose turn it is may be drawn, within an actor the order is kept.
Some of them can be frozen, as if they were in a process that is stopped: the time goes on for them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
from asyncio.events import _set_running_loop
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")

_START = 1000.0

#: Steps after which a loop in which no time passes is taken for one that spins.
_MOST = 100_000

#: Steps of which one is that of the task that has waited longest: nobody waits for ever.
_FAIR = 10

#: Which process what runs belongs to; what it begins belongs there, too.
process: ContextVar[int | None] = ContextVar("process", default=None)


class SpinningError(Exception):
    """Somebody goes on and on, and waits for nothing."""


class StepLoop(asyncio.SelectorEventLoop):
    """An event loop that a test drives."""

    def __init__(self) -> None:
        self.choose: Callable[[int], int] = lambda count: 0
        """Returns whose turn it is, among so many actors that are ready; the first is asyncio's."""
        self.frozen: set[int] = set()
        """The processes that take no step."""
        self.complaints: list[str] = []
        """What nobody has taken care of: an exception that was never retrieved, say."""
        self._now = _START
        self._steps = 0
        self._entries: list[tuple[asyncio.Handle, object, int | None]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, int | None]] = []
        self._numbers = itertools.count()
        super().__init__()
        self.set_exception_handler(lambda _, context: self.complaints.append(_words(context)))

    # -- what asyncio asks of a loop --------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        task = getattr(callback, "__self__", None)
        actor = task if isinstance(task, asyncio.Task) else None
        self._entries.append((handle, actor, _process_in(context)))
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        timer = when, next(self._numbers), handle, _process_in(context)
        heapq.heappush(self._timers, timer)
        return handle

    # -- what a test asks of it -------------------------------------------------------------

    def run(self, steps: int | None = None) -> None:
        """Take so many steps; as many as there are at this time where it is not said."""
        with self._running():
            for _ in range(_MOST if steps is None else steps):
                if not self._step():
                    return
        if steps is None:
            raise SpinningError(f"of {len(self._entries)} that are ready, some never wait")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and all that happens meanwhile happen."""
        until = self._now + seconds
        self.run()
        while (when := self.next_timer) is not None and when <= until:
            self._now = max(self._now, when)
            self.run()
        self._now = until

    def hold_up(self, seconds: float) -> None:
        """Let time pass at once, as if something had blocked the loop."""
        self._now += seconds

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due that can run."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        dues = (when for when, _, handle, owner in self._timers if owner not in self.frozen)
        return self._timers[0][0] if self._timers and not self.frozen else min(dues, default=None)

    @property
    def timers(self) -> list[str]:
        """Those that are still to come."""
        return [repr(handle) for _, _, handle, _ in self._timers if not handle.cancelled()]

    def _step(self) -> bool:
        self._ring()
        ready = [entry for entry in self._entries if not entry[0].cancelled()]
        self._entries = ready
        if self.frozen:
            ready = [entry for entry in ready if entry[2] not in self.frozen]
        if not ready:
            return False
        chosen = ready[0]
        if self._steps % _FAIR:
            actors = list(dict.fromkeys(actor for _, actor, _ in ready))
            actor = actors[self.choose(len(actors))]
            chosen = next(entry for entry in ready if entry[1] is actor)
        self._steps += 1
        # Timers may be equal.
        self._entries = [entry for entry in self._entries if entry is not chosen]
        chosen[0]._run()
        return True

    def _ring(self) -> None:
        """Make ready whose time has come."""
        while self._timers and (self._timers[0][0] <= self._now or self._timers[0][2].cancelled()):
            _, _, handle, owner = heapq.heappop(self._timers)
            self._entries.append((handle, None, owner))

    @contextmanager
    def _running(self) -> Iterator[None]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._finalize)
        _set_running_loop(self)
        try:
            yield
        finally:
            _set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _finalize(self, generator: Any) -> None:
        self.call_soon(self.create_task, generator.aclose())


def _process_in(context: Context | None) -> int | None:
    return process.get() if context is None else context.get(process)


def _words(context: dict[str, Any]) -> str:
    exc = context.get("exception")
    return f"{context['message']}: {exc!r}"


def in_order_of_making(cls: type[Any]) -> type[Any]:
    """Return a class whose instances stand in sets in the order in which they were made."""
    numbers: Iterable[int] = itertools.count()

    class Numbered(cls):  # type: ignore[misc]
        __slots__ = ("_number",)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._number = next(iter(numbers))

        def __hash__(self) -> int:
            return int(self._number)

    return Numbered
