"""A clock that a test moves."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest


class Clock:
    """The time of the engine. Stores have clocks of their own."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


class StillClock(Clock):
    """The same, which only the test moves. It begins at half a second."""

    def __init__(self) -> None:
        super().__init__()
        self._began = int(time.time()) + 0.5, time.monotonic()

    def time(self) -> float:
        return self._began[0] + self.passed

    def monotonic(self) -> float:
        return self._began[1] + self.passed


def moved_clock(monkeypatch: pytest.MonkeyPatch, clock: Clock | None = None) -> Clock:
    """Let the engine go by a clock that the test moves."""
    clock = Clock() if clock is None else clock
    for module in (
        "engine.outcome",
        "engine.at_hand",
        "engine.lookup",
        "engine.record",
        "engine.storable",
        "engine.collapse",
        "engine.confirm",
        "entries.recorder",
        "runs.registry",
        "sending",
    ):
        namespace = SimpleNamespace(time=clock.time, monotonic=clock.monotonic)
        monkeypatch.setattr(f"stream_cached.{module}.time", namespace)
    return clock
