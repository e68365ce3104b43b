"""What `on_event=` is told of the runs of one endpoint."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from stream_cached.engine.outcome import Call
from stream_cached.event_hook import EventHook, RunBegan, RunEnded, RunResult
from stream_cached.http.reasons import Finding
from stream_cached.runs.run import Run
from stream_cached.runs.states import GivenUp, RunState

_numbers = itertools.count(1)

#: One word for each way in which a run is given up.
_GIVEN_UP = {
    GivenUp.UNREAD: "unread",
    GivenUp.CLIENT_LEFT: "client-left",
    GivenUp.UNSTORED: "client-left",
    GivenUp.FINISH_TIMEOUT: "finish-timeout",
    GivenUp.SHUTDOWN: "shutdown",
    GivenUp.CANCELLED: "cancelled",
}


class RunEvents:
    """What `on_event=` is told of one run: nothing, where there is no `on_event=`."""

    def refused(self, findings: Sequence[Finding]) -> None:
        """Note why the answer is not stored."""

    def brought_value(self) -> None:
        """Note that the answer is a plain value that the cache was given."""

    def hand_over(self, run: Run) -> None:
        """Let a run say when it has ended: it goes on after its call."""


class _Telling(RunEvents):
    """One run that a function of the application is told of."""

    def __init__(self, hook: EventHook, endpoint: str, key: str) -> None:
        self._hook = hook
        self.number = next(_numbers)
        self._of = self.number, endpoint, key
        self._began = time.monotonic()
        self._cause = ""
        self._result = RunResult.UNSTORED
        self._has_ended = False
        self._run: Run | None = None
        hook.tell(RunBegan(*self._of))

    def refused(self, findings: Sequence[Finding]) -> None:
        self._cause = self._cause or findings[0].reason.word

    def brought_value(self) -> None:
        self._result = RunResult.STORED

    def hand_over(self, run: Run) -> None:
        self._run = run
        run.number, run.watched_since = self.number, self._began
        run.on_close = functools.partial(self._closed, run)

    @property
    def goes_on(self) -> bool:
        """Whether the run ends by itself, whatever becomes of its call."""
        return self._run is not None and self._run.answer is not None

    def returned(self) -> None:
        self._end(self._result, self._cause)

    def raised(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._end(RunResult.ABORTED, _GIVEN_UP[GivenUp.CANCELLED])
        else:
            self._end(RunResult.FAILED)

    def _closed(self, run: Run, before: RunState) -> None:
        match before:
            case RunState.VISIBLE:
                self._end(RunResult.STORED)
            case RunState.DRAINED:
                failure = None if run.recorder is None else run.recorder.failure
                self._end(RunResult.UNSTORED, self._cause or (failure.word if failure else ""))
            case RunState.FAILED:
                self._end(RunResult.FAILED)
            case _:
                self._end(RunResult.ABORTED, _GIVEN_UP[run.given_up or GivenUp.CANCELLED])

    def _end(self, result: RunResult, cause: str = "") -> None:
        if not self._has_ended:
            self._has_ended = True
            self._hook.tell(RunEnded(*self._of, result, cause, time.monotonic() - self._began))


_NOBODY = nullcontext(RunEvents())


def run_events(call: Call) -> AbstractContextManager[RunEvents]:
    """Tell that the endpoint runs for a call, and what becomes of it."""
    hook = call.service.reporter.hook
    return _NOBODY if hook is None else _told(call, hook)


@contextmanager
def _told(call: Call, hook: EventHook) -> Iterator[RunEvents]:
    events = _Telling(hook, call.service.reporter.name, call.shown_key)
    call.run = events.number
    try:
        yield events
    except BaseException as exc:
        if not events.goes_on:
            events.raised(exc)
        raise
    if not events.goes_on:
        events.returned()
