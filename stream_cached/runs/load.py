"""How much goes on in this process: for metrics, which look now and then."""

from __future__ import annotations

from dataclasses import dataclass

from stream_cached.runs.run import Run
from stream_cached.runs.streaming import all_runs, runs_here


@dataclass(frozen=True, slots=True)
class Load:
    """What the streams of this process hold now."""

    readers: int = 0
    """Clients that are sent a stream."""
    pending: int = 0
    """Bytes that wait to be written to a store."""


def load() -> Load:
    """Return the load of this process, in all its event loops."""
    return _of(all_runs())


def is_busy_here() -> bool:
    """Whether a stream of the running event loop has a reader, or bytes to write."""
    return _of(runs_here()) != Load()


def _of(runs: list[Run]) -> Load:
    readers = [0 if run.stream is None else len(run.stream.seats) for run in runs]
    pending = [0 if run.recorder is None else run.recorder.pending() for run in runs]
    return Load(sum(readers), sum(pending))
