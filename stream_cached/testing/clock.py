"""The time of the library, which a test moves."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

_PACKAGE = "stream_cached."

#: What stands for backends of cashews goes by the same time.
_OTHERS = ("cashews.backends.memory",)

#: They go by the time of the machine.
_APART = (f"{_PACKAGE}testing", f"{_PACKAGE}demo")


class MovedTime:
    """
    What stands for the module `time` in the modules of the library.

    It asks that module at each call, so that freezegun and time-machine move it, too.
    """

    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds by which it is ahead."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.ahead

    def monotonic(self) -> float:
        """Return seconds of a clock that is never set back."""
        return time.monotonic() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def travel(self, seconds: float, patch: pytest.MonkeyPatch) -> None:
        """Move on, with all modules that are imported by now."""
        for name, module in list(sys.modules.items()):
            moves = name.startswith(_PACKAGE) and not name.startswith(_APART)
            if (moves or name in _OTHERS) and vars(module).get("time") is time:
                patch.setattr(module, "time", self)
        self.ahead += seconds
