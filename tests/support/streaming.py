"""Runs over a source, without a decorator and without a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stream_cached.format.progress import Head
from stream_cached.keys.variants import ANY
from stream_cached.limits import Limits
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.runs.answer import Answer
from stream_cached.runs.run import Run
from stream_cached.streams.ends import End
from stream_cached.streams.protocols import Source
from stream_cached.streams.reader import Reader
from stream_cached.streams.stream import Stream

HEAD = Head(200, (), None, "utf-8", (), "")


def run_of(
    source: Source,
    *,
    max_ahead: int = 1_000_000,
    finish_timeout: float = 30,
    background: Callable[[], Awaitable[None]] | None = None,
) -> Run:
    """Return a run that is not recorded."""
    run = Run(None, "key", ANY)
    run.refuse(ANY, alone_for=0)
    limits = Limits(max_ahead=max_ahead)
    answer = Answer(HEAD, limits, DisconnectShield(), finish_timeout, background=background)
    run.begin(source, answer, None)
    return run


def stream_of(run: Run) -> Stream:
    """Return the stream of a run."""
    assert run.stream is not None
    return run.stream


def read(run: Run) -> Reader:
    """Return one more reader, which may start the run."""
    return stream_of(run).read()


def end_of(run: Run) -> End | None:
    """Return how the stream of a run has ended."""
    return stream_of(run).end
