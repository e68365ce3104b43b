"""The states of a run, and how events change them: a table, without I/O.

A run begins as CLAIMED: the endpoint runs, and its answer is not known. Requests for the same may
join a run that is CLAIMED, STREAMING, OUTGROWN or COMMITTING. `TRANSITIONS` has for each state and
event the next state and the effects. An event that is not in the table changes nothing in that
state.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class _Word(Enum):
    """One of a few words. It is looked up for each miss."""

    # That of `Enum` is written in Python. There is one object of each word.
    __hash__ = object.__hash__


class RunState(_Word):
    """What a run has come to."""

    CLAIMED = auto()
    """The endpoint runs, or is about to."""
    STREAMING = auto()
    """The endpoint has answered with a response that is recorded."""
    COMMITTING = auto()
    """The body is complete, and its entry is being written."""
    VISIBLE = auto()
    """The entry can be found."""
    VALUE = auto()
    """The endpoint has answered with a plain value, which only the store can hand on."""
    REFUSED = auto()
    """The answer must not be stored."""
    OUTGROWN = auto()
    """The stream has passed a limit: it goes on without an entry, also for requests to come."""
    UNSTORED = auto()
    """The stream goes on for its readers, without an entry."""
    DRAINED = auto()
    """The body is complete, without an entry."""
    ABORTED = auto()
    """The run was given up."""
    FAILED = auto()
    """The endpoint, or its stream, has raised."""
    CLOSED = auto()
    """Nothing of the run is left."""


class Event(_Word):
    """What can happen to a run."""

    ANSWER = auto()
    """The endpoint has answered with a response that is recorded."""
    VALUE = auto()
    """The endpoint has answered with a plain value that is stored."""
    REFUSE = auto()
    """The endpoint has answered with a response or a value that is not stored."""
    RAISE = auto()
    """The endpoint has raised."""
    ABANDON = auto()
    """The request that has to start the stream did not."""
    COMPLETE = auto()
    """The source has ended by itself."""
    BREAK = auto()
    """The source has raised, or has stopped because the stream was given up."""
    ABORT = auto()
    """The stream is to be given up."""
    UNSTORE = auto()
    """There will be no entry."""
    OUTGROW = auto()
    """There will be no entry, because the stream has passed a limit."""
    SHOW = auto()
    """The entry is visible."""
    CLOSE = auto()
    """Everything is done; or the claim is given back, and another run or the store answers."""


class GivenUp(StrEnum):
    """Why a run was given up."""

    UNREAD = "no request read it"
    CLIENT_LEFT = "its client left"
    UNSTORED = "its client left, and it is not stored"
    FINISH_TIMEOUT = "its client left, and finish_timeout is over"
    SHUTDOWN = "the application ends"
    CANCELLED = "its request was cancelled, and it needs what belongs to the request"


class Effect(_Word):
    """What a run does because of an event."""

    UNLIST = auto()
    """Leave the registry, wake the requests that wait, and release the lease. At once."""
    RELEASE = auto()
    """Release the lease: no other process can follow what is not recorded. At once."""
    WAKE = auto()
    """Wake the requests that wait for the answer. At once."""
    CUT = auto()
    """Break off the readers that joined, if the body is one client's own. At once: the next chunk
    must not reach them."""
    BACK_OFF = auto()
    """Leave the stale entry as it is for a while. At once: before another request looks."""
    STOP_SOURCE = auto()
    """Cancel the task that drains the source. At once."""
    END = auto()
    """Let the readers reach the end. In order."""
    COMMIT = auto()
    """Write the entry, then let the readers reach the end. In order."""
    DISCARD = auto()
    """Delete what was recorded. In order."""


State, E, F = RunState, Event, Effect

_CLOSE: dict[Event, tuple[RunState, tuple[Effect, ...]]] = {E.CLOSE: (State.CLOSED, (F.UNLIST,))}

TRANSITIONS: dict[RunState, dict[Event, tuple[RunState, tuple[Effect, ...]]]] = {
    State.CLAIMED: {
        E.ANSWER: (State.STREAMING, (F.WAKE,)),
        E.VALUE: (State.VALUE, ()),
        E.REFUSE: (State.REFUSED, (F.UNLIST,)),
        E.RAISE: (State.FAILED, (F.UNLIST,)),
        **_CLOSE,
    },
    State.STREAMING: {
        E.ABANDON: (State.STREAMING, (F.UNLIST, F.CUT)),
        E.COMPLETE: (State.COMMITTING, (F.COMMIT,)),
        E.BREAK: (State.FAILED, (F.BACK_OFF, F.UNLIST, F.END, F.DISCARD)),
        E.ABORT: (State.ABORTED, (F.UNLIST, F.STOP_SOURCE)),
        E.UNSTORE: (State.UNSTORED, (F.UNLIST, F.CUT)),
        E.OUTGROW: (State.OUTGROWN, (F.RELEASE,)),
        # The response may still be sent, to its own client only.
        E.RAISE: (State.STREAMING, (F.UNLIST,)),
        **_CLOSE,
    },
    State.OUTGROWN: {
        E.ABANDON: (State.OUTGROWN, (F.UNLIST, F.CUT)),
        E.COMPLETE: (State.DRAINED, (F.UNLIST, F.COMMIT)),
        E.BREAK: (State.FAILED, (F.UNLIST, F.END, F.DISCARD)),
        E.ABORT: (State.ABORTED, (F.UNLIST, F.STOP_SOURCE)),
        E.UNSTORE: (State.UNSTORED, (F.UNLIST, F.CUT)),
        E.RAISE: (State.OUTGROWN, (F.UNLIST,)),
        **_CLOSE,
    },
    State.COMMITTING: {
        E.SHOW: (State.VISIBLE, (F.UNLIST,)),
        E.UNSTORE: (State.DRAINED, (F.UNLIST, F.CUT)),
        E.OUTGROW: (State.DRAINED, (F.UNLIST,)),
        E.RAISE: (State.COMMITTING, (F.UNLIST,)),
        **_CLOSE,
    },
    State.UNSTORED: {
        E.COMPLETE: (State.DRAINED, (F.COMMIT,)),
        E.BREAK: (State.FAILED, (F.END, F.DISCARD)),
        E.ABORT: (State.ABORTED, (F.STOP_SOURCE,)),
        **_CLOSE,
    },
    State.REFUSED: {
        E.COMPLETE: (State.DRAINED, (F.COMMIT,)),
        E.BREAK: (State.FAILED, (F.END, F.DISCARD)),
        E.ABORT: (State.ABORTED, (F.STOP_SOURCE,)),
        **_CLOSE,
    },
    State.ABORTED: {E.BREAK: (State.ABORTED, (F.END, F.DISCARD)), **_CLOSE},
    State.VALUE: {E.REFUSE: (State.REFUSED, (F.UNLIST,)), **_CLOSE},
    State.DRAINED: _CLOSE,
    State.VISIBLE: _CLOSE,
    State.FAILED: _CLOSE,
    State.CLOSED: {},
}

#: The effects that take time.
QUEUED = frozenset({F.END, F.COMMIT, F.DISCARD})

#: The states in which other requests may wait for a run, or read its stream.
JOINABLE = frozenset({State.CLAIMED, State.STREAMING, State.OUTGROWN, State.COMMITTING})
