"""The effects of a run that take time: one task carries them out, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from stream_cached.http.reasons import NotCached
from stream_cached.runs.states import Effect
from stream_cached.streams.ends import Complete, End
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.run import Run


class EffectQueue:
    """Queued effects, and the task that works through them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._effects: deque[Effect] = deque()
        self._worker: asyncio.Task[None] | None = None

    def put(self, effect: Effect) -> None:
        self._effects.append(effect)
        if self._worker is None or self._worker.done():
            self._worker = spawn(self._work())

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

    async def _work(self) -> None:
        while self._effects:
            effect = self._effects.popleft()
            if effect is Effect.COMMIT:
                await self._commit()
            elif effect is Effect.END:
                self._close_stream(self._run.end)
            elif self._run.recorder is not None:
                await self._run.recorder.discard()

    async def _commit(self) -> None:
        """Let the readers reach the end once the entry is visible, or that takes too long."""
        run = self._run
        if run.recorder is None or run.answer is None:
            self._close_stream(Complete())
            return
        is_complete = run.answer.is_complete
        if is_complete is not None and run.stream is not None and not is_complete(run.stream):
            run.mark_unstorable(NotCached.UNFINISHED)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(run.answer.commit_wait, self._close_stream, Complete())
        try:
            await run.recorder.commit()
        finally:
            timer.cancel()
            run.unlist()
            self._close_stream(Complete())
        await run.recorder.settled()

    def _close_stream(self, end: End) -> None:
        if self._run.stream is not None:
            self._run.stream.close(end)
