"""The task that drains the source of a run, and what follows the end of the source."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from stream_cached.streams.ends import CANCELLED, Aborted, Complete, End, Failed
from stream_cached.streams.protocols import Source
from stream_cached.streams.stream import Stream
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.answer import Answer

#: What is done after a complete run.
Background = Callable[[], Awaitable[None]]

#: Seconds after which the clean-up of a source is cancelled. It may have to finish a query or to
#: give back a connection, and gets as long as sse-starlette gives the same clean-up.
CLEAN_UP_MAX = 30.0

#: Seconds that a run whose source has ended stays open for the clean-up, so that what belongs to
#: the request (a session from a `yield` dependency) outlives a usual clean-up. Without a cache
#: nothing would wait at all, so this is short.
CLEAN_UP_WAIT = 1.0


class Owner(Protocol):
    """What owns a producer: a run."""

    @property
    def is_aborting(self) -> bool:
        """Whether the run is given up, so that no end of its source is a clean one."""

    def source_ended(self, end: End) -> bool:
        """Note how the source ended. Return False if the body was complete before."""

    async def settled(self) -> None:
        """Wait until what follows from the end is done: the commit, or the discarding."""

    def finish_once_settled(self) -> None:
        """Let the run finish then, without a task that waits for it."""

    async def finish(self) -> None:
        """End the run, now that its source is closed."""


class Producer:
    """
    Drains a source into a stream, in the context of the request that brought the source.

    The task that drains the source also closes it: an async generator must be closed in the task
    that iterated it. If there is anything to clean up, a second task winds the run up, so that
    neither the readers nor the commit nor the background tasks wait for that.
    """

    error: BaseException | None = None
    """What was raised after the body was complete."""
    _task: asyncio.Task[None] | None = None
    _is_running = False
    _is_clean: asyncio.Event
    """Set once the source is closed, where a second task waits for that."""
    _clean_up_is_late = False

    def __init__(self, owner: Owner, source: Source, stream: Stream, answer: Answer) -> None:
        self._owner = owner
        self._source = source
        self._stream = stream
        self._background = answer.background
        self._reporter = answer.reporter
        self._context = contextvars.copy_context()

    @property
    def is_started(self) -> bool:
        return self._task is not None

    def start(self) -> bool:
        """Begin to drain the source. Return False if it has begun already."""
        if self._task is not None:
            return False
        self._task = spawn(self._produce(), self._context)
        return True

    def stop(self) -> None:
        """Close the source, now that its run is given up."""
        self._stream.wake_source()
        self.start()
        # A task that is cancelled before its first step would never close its source.
        if self._task is not None and self._is_running:
            self._task.cancel()

    async def _produce(self) -> None:
        assert self._task is not None
        self._is_running = True
        end: End = CANCELLED
        try:
            # A source that swallows its cancellation ends cleanly, and short.
            if (
                not self._owner.is_aborting
                and await self._stream.drain(self._source, self._task)
                and not self._owner.is_aborting
            ):
                end = Complete()
        except asyncio.CancelledError:
            if not self._owner.is_aborting:
                raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            # It is for the readers: nobody awaits this task.
            end = Failed(exc)
        finally:
            await self._end(end)

    async def _end(self, end: End) -> None:
        if not self._owner.source_ended(end) and isinstance(end, Failed):
            # The body was complete before: the source raised after it.
            self.error = end.cause
        if self._source.is_exhausted and self._background is None:
            # Nothing is left to clean up, nor to be done in the context of the request.
            self._owner.finish_once_settled()
            return
        self._is_clean = asyncio.Event()
        winding_up = spawn(self._wind_up(), self._context)
        try:
            await self._clean_up()
        finally:
            self._is_clean.set()
            # What ends the event loop and cancels this task waits for both.
            await asyncio.wait({winding_up})

    # -- the clean-up -----------------------------------------------------------------------

    async def _clean_up(self) -> None:
        task = self._task
        assert task is not None
        try:
            if not self._source.is_exhausted:
                # A clean-up may hold up the whole event loop.
                await self._stream.handed_on()
        finally:
            cancellations = task.cancelling()
            timer = asyncio.get_running_loop().call_later(CLEAN_UP_MAX, self._stop_clean_up)
            try:
                await self._source.close()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as exc:
                if not self._clean_up_is_late:
                    if task.cancelling() > cancellations:
                        raise
                    self._report(exc)
            finally:
                timer.cancel()

    def _stop_clean_up(self) -> None:
        self._clean_up_is_late = True
        self._report(f"it takes longer than {CLEAN_UP_MAX:g} seconds, and is cancelled")
        if self._task is not None:
            self._task.cancel()

    def _report(self, cause: BaseException | str) -> None:
        if self._reporter is not None:
            self._reporter.clean_up_failed(cause)

    async def _clean_up_ended(self) -> None:
        """Wait for the clean-up, for as long as the run stays open for it."""
        if self._is_clean.is_set():
            return
        is_aborted = isinstance(self._stream.end, Aborted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAN_UP_WAIT + (CLEAN_UP_MAX if is_aborted else 0)):
                await self._is_clean.wait()

    # -- the end ----------------------------------------------------------------------------

    async def _wind_up(self) -> None:
        try:
            await self._owner.settled()
            if self._background is not None and isinstance(self._stream.end, Complete):
                await self._run_background(self._background)
            await self._clean_up_ended()
        finally:
            await self._owner.finish()

    async def _run_background(self, background: Background) -> None:
        try:
            await background()
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self.error = exc
