"""An event loop whose clock jumps: what waits costs no time, and how long it waited is exact.

Where nothing is ready and the next timer is due in t seconds, the clock is put forward by t. As
long as a real server owes a reply, or a thread its result, the loop really waits and the clock
stands still: on it, a server that works takes no time at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import selectors
import struct
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Real seconds that bytes may take on the loopback before the clock jumps.
GRACE = 0.001

#: Real seconds to wait for a server or a thread before the test is given up.
PATIENCE = 20.0

#: Real seconds that a socket may take to get rid of some of what was written to it, before it is
#: taken for one that nobody reads from.
UNREAD = 0.25

_START = 1000.0
_STEP = 0.02

#: Asks Linux how many bytes of a socket were not sent yet.
_SIOCOUTQNSD = 0x894B


class StuckError(Exception):
    """Nothing will ever happen any more, or a real server does not answer."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own."""

    def __init__(self) -> None:
        self.jumps = 0
        self.owed: list[Callable[[], bool]] = []
        """Each says whether something real is on its way, for which the clock stands still."""
        self._now = _START
        self._threads = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """Put the clock forward."""
        self.jumps += 1
        self._now += seconds

    def is_owed(self) -> bool:
        """Whether something real is on its way."""
        return self._threads > 0 or any(owed() for owed in self.owed)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, future: asyncio.Future[Any]) -> None:
        self._threads -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that lets its loop's clock jump instead of waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._stuck = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        deadline = time.monotonic() + PATIENCE
        while self._loop.is_owed() or timeout is None:
            if ready := super().select(_STEP):
                return ready
            if time.monotonic() > deadline:
                raise StuckError("nothing is ready, and what is waited for does not come")
        if ready := super().select(GRACE) or self._rest():
            return ready
        self._loop.jump(timeout)
        return []

    def _rest(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what is on its way, unless it was waited for in vain before."""
        unsent = self._unsent()
        if unsent and unsent != self._stuck:
            if ready := super().select(UNREAD):
                return ready
            self._stuck = self._unsent()
        return []

    def _unsent(self) -> int:
        """Return how many bytes are still on this side of all connections."""
        unsent = 0
        for key in self.get_map().values() if sys.platform == "linux" else ():
            with contextlib.suppress(OSError):  # it is no socket
                (size,) = struct.unpack("i", fcntl.ioctl(key.fd, _SIOCOUTQNSD, bytes(4)))
                unsent += size
        return unsent


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, as `asyncio.run` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
