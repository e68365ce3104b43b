"""What a call comes to, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from stream_cached.engine.outcome import Stale, View
from stream_cached.events import Answered
from stream_cached.http.reasons import Finding
from stream_cached.runs.run import Run


@dataclass(slots=True)
class Serve:
    """The answer is there."""

    result: Any


@dataclass(frozen=True, slots=True)
class Raise:
    """The run that the call waited for has failed."""

    error: Exception
    traceback: TracebackType | None


@dataclass(frozen=True, slots=True)
class Bypass:
    """The call is not for the cache."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class PassOn:
    """The function runs, and its answer is not stored."""

    answered: Answered


@dataclass(frozen=True, slots=True)
class Lead:
    """The function runs, and its answer is recorded."""

    view: View
    run: Run | None = None
    """The run that other requests may join; None if none may."""


@dataclass(frozen=True, slots=True)
class LeadOrStale:
    """The function runs; a stale entry answers if that fails."""

    view: View
    stale: Stale
    run: Run | None = None


Decision = Serve | Raise | Bypass | PassOn | Lead | LeadOrStale
