"""Who reads a run: its readers in this process, and other processes that follow it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_cached.runs.answer import Answer
from stream_cached.runs.states import GivenUp
from stream_cached.streams.reader import Seat
from stream_cached.streams.stream import Stream
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.run import Run

#: Seconds within which the request that leads a run has to ask for the first chunk. Requests that
#: wait for the run are then sent away.
START_WITHIN = 1.0


class Audience:
    """
    Decides how long a run goes on for its readers, and what the endpoint sees of its client.

    Args:
        run: The run.
        stream: Its stream.
        answer: The answer that it streams.
    """

    is_followed = False
    """Whether another process follows the run."""
    _has_ended = False
    _deadline: asyncio.TimerHandle | None = None
    _start_timer: asyncio.TimerHandle | None = None
    _asking: asyncio.Task[None] | None = None

    def __init__(self, run: Run, stream: Stream, answer: Answer) -> None:
        self._run = run
        self._stream = stream
        self._shield = answer.shield
        self._finish_timeout = answer.finish_timeout

    @property
    def goes_ahead(self) -> bool:
        """Whether the source does not go at the pace of the readers in this process."""
        run = self._run
        reads_ahead = run.remote is not None and run.remote.reads_ahead
        is_awaited = run.recorder is not None and run.recorder.is_awaited
        return self.is_followed or reads_ahead or is_awaited or run.is_waited_for

    # -- the start --------------------------------------------------------------------------

    def expect_start(self) -> None:
        if not self._run.is_started and self._start_timer is None:
            loop = asyncio.get_running_loop()
            self._start_timer = loop.call_later(START_WITHIN, self._abandon)

    def started(self) -> None:
        if self._start_timer is not None:
            self._start_timer.cancel()

    def _abandon(self) -> None:
        if not self._run.is_started:
            self._run.abandon()

    # -- readers come and leave -------------------------------------------------------------

    def came(self) -> None:
        self._shield.hide()
        self.keep()
        self.expect_start()

    def left(self, seat: Seat | None) -> None:
        """Note that a reader has left, or (None) that readers were cut."""
        if self._has_ended:
            self._stream.forget_spooled()
            return
        if seat is not None:
            self._reveal_unless_joined()
            self._stream.forget_spooled()
            if not self._run.is_started and not self._run.is_aborting and not seat.joins:
                # Only this reader could start the run: requests that wait find another one.
                self._run.abandon()
                self._run.abort(GivenUp.UNREAD)
                return
        self.check()

    def lost_entry(self) -> None:
        """Note that there will be no entry: what is not recorded can't be followed."""
        self.is_followed = False
        self._reveal_unless_joined()
        if not self._stream.seats and self._run.is_started:
            self._run.abort(GivenUp.UNSTORED)
        # Readers that have no chunk yet may run the endpoint themselves.
        self._stream.wake_readers()
        self._stream.wake_source()

    def end(self) -> None:
        """Note that the run has ended: readers may still read it, and decide nothing any more."""
        self._has_ended = True
        self.keep()
        self._shield.reveal()
        self._stream.forget_spooled()

    def _reveal_unless_joined(self) -> None:
        """Let the endpoint see its client's disconnect, if the run is for that client only."""
        if self._run.is_unstored and not self._stream.is_joined:
            self._shield.reveal()

    # -- a run without readers --------------------------------------------------------------

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

    def _finish_alone(self) -> None:
        if not self._run.is_recorded:
            self._run.abort(GivenUp.CLIENT_LEFT)
        elif self._finish_timeout == 0:
            self._abort_unless_followed(GivenUp.CLIENT_LEFT)
        elif self._finish_timeout is not None:
            why = GivenUp.FINISH_TIMEOUT
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._finish_timeout, self._abort_unless_followed, why)

    def _abort_unless_followed(self, reason: GivenUp) -> None:
        if self._run.lease is None:
            self._run.abort(reason)
        elif self._asking is None:
            self._asking = spawn(self._ask_followers(reason))

    async def _ask_followers(self, reason: GivenUp) -> None:
        assert self._run.lease is not None
        followed = await self._run.lease.channel.is_followed()
        self._asking = None
        if followed:
            self.set_followed(True)
        elif not self._stream.seats:
            self._run.abort(reason)
