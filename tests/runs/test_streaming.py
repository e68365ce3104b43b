"""The runs that have a stream, while other threads begin more of them."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator

import pytest

from stream_cached.keys.variants import ANY
from stream_cached.runs import streaming
from stream_cached.runs.run import Run


class Growing(weakref.WeakSet[Run]):
    """Runs to which another thread adds one while they are looked at."""

    def __init__(self, runs: list[Run], late: Run) -> None:
        super().__init__(runs)
        self._late = late

    def __iter__(self) -> Iterator[Run]:
        for run in super().__iter__():
            self.add(self._late)
            yield run


def test_runs_are_found_while_another_thread_begins_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        runs = [Run(None, name, ANY) for name in ("one", "two")]
        late = Run(None, "late", ANY)
        monkeypatch.setattr(streaming, "streaming", Growing(runs, late))
        assert set(streaming.runs_here()) == {*runs, late}

    asyncio.run(main())
