"""What the front doors for metrics have in common."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from stream_cached.events import Answered
from stream_cached.http.reasons import NotCached
from stream_cached.runs.load import is_busy_here

#: Bounds in seconds: of the first byte, and of a look-up in a store.
FIRST_BYTE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LOOK_UP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

_WORDS = frozenset(each.word for each in NotCached)


def reason_of(event: Answered) -> str:
    """Return the one reason under which a bypass is counted, out of a closed set."""
    if event.reasons:
        return event.reasons[0].word
    # The words of a marker come from the store, where others may write.
    return event.detail if event.detail in _WORDS else "other"


class Sampler:
    """
    Calls a function now and then, in each event loop in which something goes on.

    Args:
        sample: The function.
        interval: Seconds between two calls.
    """

    def __init__(self, sample: Callable[[], None], interval: float) -> None:
        self._sample = sample
        self._interval = interval
        self._running: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def wake(self) -> None:
        """Call the function now, and go on as long as a stream is read or written."""
        self._sample()
        loop = asyncio.get_running_loop()
        if loop not in self._running:
            self._running.add(loop)
            loop.call_later(self._interval, self._again, weakref.ref(loop))

    def _again(self, of: weakref.ref[asyncio.AbstractEventLoop]) -> None:
        self._sample()
        loop = of()
        if loop is None:
            return
        if is_busy_here():
            loop.call_later(self._interval, self._again, of)
        else:
            self._running.discard(loop)
