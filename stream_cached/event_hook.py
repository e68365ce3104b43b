"""The function of `on_event=`, and what it is told of runs and stores."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger("stream_cached")


class RunResult(enum.StrEnum):
    """What became of a run."""

    STORED = "stored"
    """Its entry is visible; of a plain value: it was given to the cache."""
    UNSTORED = "unstored"
    """It went on to its end, and is not stored."""
    FAILED = "failed"
    """The endpoint has raised, or its stream has."""
    ABORTED = "aborted"
    """It was given up."""


@dataclass(frozen=True, slots=True)
class RunBegan:
    """An endpoint is about to run, and its answer may be stored."""

    run: int
    """The number of the run. In this process, no other run has it."""
    endpoint: str
    """The module and the qualified name of the endpoint."""
    key: str
    """The key of the call, without values of arguments."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended, with all that it has to write."""

    run: int
    endpoint: str
    key: str
    result: RunResult
    cause: str
    """Of one that is not stored, the reason as `Cache-Status` names it; of one that was given up:
    `unread`, `client-left`, `finish-timeout`, `shutdown` or `cancelled`. Else it is empty."""
    seconds: float
    """From its begin to its end."""


@dataclass(frozen=True, slots=True)
class StoreAway:
    """A store has failed, and is left alone until it answers again."""

    store: str
    """Its address, without credentials."""
    role: str
    """What is kept there: `"records"`, with small bodies, or large `"bodies"`."""


@dataclass(frozen=True, slots=True)
class StoreBack:
    """A store works again."""

    store: str
    role: str
    seconds: float
    """For how long it was away."""


class EventHook:
    """Calls a function of the application with events. What it raises is logged once."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.function = function
        self._has_failed = False

    def __repr__(self) -> str:
        return repr(self.function)

    def tell(self, event: object) -> None:
        try:
            self.function(event)
        # Whatever it does, no client notices.
        except Exception as exc:
            if not self._has_failed:
                self._has_failed = True
                logger.error("on_event= failed (%r; logged once)", exc, exc_info=exc)


def tell_all(hooks: Iterable[EventHook], event: object) -> None:
    """Tell an event that concerns several endpoints: each function is called once."""
    told: list[object] = []
    for hook in tuple(hooks):
        if hook.function not in told:
            told.append(hook.function)
            hook.tell(event)
