"""Gates and notes that are files: a server in another process is held up, and tells what it did."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.support.gates import TIMEOUT, wait_until


class FileGates:
    """The gates and notes in one directory."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)

    def open(self, name: str, number: int | str = "all") -> None:
        """Open one gate, or all of that name."""
        (self._directory / f"{name}.{number}").touch()

    def is_open(self, name: str, number: int) -> bool:
        files = (self._directory / f"{name}.all", self._directory / f"{name}.{number}")
        return any(each.exists() for each in files)

    def wait(self, name: str, number: int) -> None:
        """Wait in a thread for a gate."""
        wait_until(lambda: self.is_open(name, number))

    async def passed(self, name: str, number: int) -> None:
        """Wait in a loop for a gate."""
        deadline = time.monotonic() + TIMEOUT
        while not self.is_open(name, number):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gate {name}.{number} was not opened")
            await asyncio.sleep(0.002)

    def note(self, name: str) -> None:
        """Note that something has happened."""
        with (self._directory / f"{name}.notes").open("a") as notes:
            notes.write("x")

    def notes(self, name: str) -> int:
        """How often it has happened."""
        path = self._directory / f"{name}.notes"
        return path.stat().st_size if path.exists() else 0
