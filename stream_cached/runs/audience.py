"""Who reads a run: its readers in this process, and other processes that follow it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_cached.streams.stream import Stream
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.run import Run


class Audience:
    """
    Decides how long a run without readers goes on.

    Args:
        run: The run.
        stream: Its stream.
        finish_timeout: Seconds that it goes on while it is recorded; None without a bound.
    """

    def __init__(self, run: Run, stream: Stream, finish_timeout: float | None) -> None:
        self.is_followed = False
        """Whether another process follows the run."""
        self._run = run
        self._stream = stream
        self._finish_timeout = finish_timeout
        self._deadline: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Leave a run without readers to its recorder."""
        if self._stream.seats or self.is_followed or not self._run.is_started:
            return
        if self._stream.end is None and self._deadline is None:
            self._finish_alone()
        self._stream.wake_source()

    def keep(self) -> None:
        """Let the run go on, because it has a reader; or its end is known."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def set_followed(self, followed: bool) -> None:
        """
        Note whether another process follows the run.

        The source then goes at the pace of the recorder, not of the readers in this process.
        """
        if followed == self.is_followed:
            return
        self.is_followed = followed
        if followed:
            self.keep()
            self._stream.wake_source()
        else:
            self.check()

    def lose_followers(self) -> None:
        """Note that what is not recorded can't be followed."""
        self.is_followed = False

    def _finish_alone(self) -> None:
        if not self._run.is_recorded:
            self._run.abort("its client left")
        elif self._finish_timeout == 0:
            self._abort_unless_followed("its client left")
        elif self._finish_timeout is not None:
            why = "its client left, and finish_timeout is over"
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._finish_timeout, self._abort_unless_followed, why)

    def _abort_unless_followed(self, reason: str) -> None:
        if self._run.lease is None:
            self._run.abort(reason)
        elif self._asking is None:
            self._asking = spawn(self._ask_followers(reason))

    async def _ask_followers(self, reason: str) -> None:
        assert self._run.lease is not None
        followed = await self._run.lease.channel.is_followed()
        self._asking = None
        if followed:
            self.set_followed(True)
        elif not self._stream.seats:
            self._run.abort(reason)
