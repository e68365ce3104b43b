"""The runs of this process that have a stream: for the end of an application, and for metrics."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_cached.runs.run import Run

#: Each run adds itself once it has a stream. Other threads do, too: read it by `all_runs`.
streaming: weakref.WeakSet[Run] = weakref.WeakSet()


def all_runs() -> list[Run]:
    """Return the runs of all event loops."""
    while True:
        try:
            return list(streaming)
        except RuntimeError:
            # Another thread has just added one.
            continue


def runs_here() -> list[Run]:
    """Return the runs of the running event loop."""
    loop = asyncio.get_running_loop()
    return [run for run in all_runs() if run.loop is loop]
