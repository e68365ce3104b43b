"""The effects of a run that take time: one task carries them out, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from stream_cached.http.reasons import NotCached
from stream_cached.runs.states import Effect
from stream_cached.streams.ends import Complete, End
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.run import Run


class EffectQueue:
    """Queued effects, and the task that works through them."""

    _worker: asyncio.Task[None] | None = None
    _last: Callable[[], Awaitable[None]] | None = None

    def __init__(self) -> None:
        self._effects: deque[Effect] = deque()

    def put(self, run: Run, effect: Effect) -> None:
        self._effects.append(effect)
        self._begin(run)

    def end_with(self, run: Run, last: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do something once all effects are carried out, whatever becomes of them."""
        self._last = last
        return self._begin(run)

    def _begin(self, run: Run) -> asyncio.Task[None]:
        if self._worker is None or self._worker.done():
            self._worker = spawn(self._work(run))
        return self._worker

    async def done(self) -> None:
        """Wait until all effects are carried out, also if the waiting task is cancelled."""
        cancellation: asyncio.CancelledError | None = None
        while self._worker is not None and not self._worker.done():
            try:
                await asyncio.wait({self._worker})
            except asyncio.CancelledError as exc:
                # A commit that has begun is not cut short.
                cancellation = exc
        if cancellation is not None:
            raise cancellation
        if self._worker is not None:
            await self._worker

    async def _work(self, run: Run) -> None:
        try:
            while self._effects:
                effect = self._effects.popleft()
                if effect is Effect.COMMIT:
                    await _commit(run)
                elif effect is Effect.END:
                    _close_stream(run, run.end)
                elif run.recorder is not None:
                    await run.recorder.discard()
        finally:
            if (last := self._last) is not None:
                self._last = None
                await last()


async def _commit(run: Run) -> None:
    """Let the readers reach the end once the entry is visible, or that takes too long."""
    if run.recorder is None or run.answer is None:
        _close_stream(run, Complete())
        return
    is_complete = run.answer.is_complete
    if is_complete is not None and run.stream is not None and not is_complete(run.stream):
        run.mark_unstorable(NotCached.UNFINISHED)
    loop = asyncio.get_running_loop()
    timer = loop.call_later(run.answer.commit_wait, _close_stream, run, Complete())
    try:
        await run.recorder.commit()
    finally:
        timer.cancel()
        run.unlist()
        _close_stream(run, Complete())
    await run.recorder.settled()


def _close_stream(run: Run, end: End) -> None:
    if run.stream is not None:
        run.stream.close(end)
