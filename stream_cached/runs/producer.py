"""The task that drains the source of a run."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Protocol

from stream_cached.streams.ends import Aborted, Complete, End, Failed
from stream_cached.streams.protocols import Source
from stream_cached.streams.stream import Stream
from stream_cached.tasks import spawn

#: What is done after a complete run.
Background = Callable[[], Awaitable[None]]


class Owner(Protocol):
    """What owns a producer: a run."""

    @property
    def is_aborting(self) -> bool: ...

    def source_ended(self, end: End) -> bool: ...

    async def settled(self) -> None: ...

    async def finish(self) -> None: ...


class Producer:
    """Drains a source into a stream, in the context of the request that brought the source."""

    def __init__(
        self, owner: Owner, source: Source, stream: Stream, background: Background | None
    ) -> None:
        self.error: Exception | None = None
        """What was raised after the body was complete."""
        self._owner = owner
        self._source = source
        self._stream = stream
        self._background = background
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[None] | None = None
        self._is_running = False

    @property
    def is_started(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        if self._task is None:
            self._task = spawn(self._produce(), self._context)

    def stop(self) -> None:
        """Close the source, now that its run is given up."""
        self._stream.wake_source()
        self.start()
        # A task that is cancelled before its first step would never close its source.
        if self._task is not None and self._is_running:
            self._task.cancel()

    async def _produce(self) -> None:
        self._is_running = True
        end: End = Aborted("cancelled")
        try:
            if self._owner.is_aborting:
                await self._source.close()
            # A source that swallows its cancellation ends cleanly, and short.
            elif await self._stream.drain(self._source) and not self._owner.is_aborting:
                end = Complete()
        except asyncio.CancelledError:
            if not self._owner.is_aborting:
                raise
        except Exception as exc:
            end = Failed(exc)
        finally:
            await self._wind_up(end)

    async def _wind_up(self, end: End) -> None:
        try:
            if not self._owner.source_ended(end) and isinstance(end, Failed):
                # The body was complete before: the source raised after it.
                self.error = end.cause
            await self._owner.settled()
            if self._background is not None and isinstance(self._stream.end, Complete):
                await self._run_background(self._background)
        finally:
            await self._owner.finish()

    async def _run_background(self, background: Background) -> None:
        try:
            await background()
        except Exception as exc:
            self.error = exc
