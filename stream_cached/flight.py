"""One running stream and its readers.

A source is drained by a task of its own into a chain of links; each reader stands somewhere on
that chain, and so keeps alive only what it has still to read. The recorder is fed in passing: it
never holds anything up, and may fail without any reader noticing. How the stream ended is a value
that every reader reaches; no reader does the pulling, so none can spoil it for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from stream_cached.exceptions import BrokenStreamError
from stream_cached.policy import NotCached
from stream_cached.recorder import Recorder
from stream_cached.tasks import spawn

#: Seconds after which a source that never suspends gives way to its readers.
GIVE_WAY_AFTER = 0.005

#: Seconds that a source gives the store for each `max_ahead` bytes while that is behind. Source,
#: client and store share one event loop: a source that is quicker than all of them would starve the
#: store, however quick that is.
STORE_TURN = 0.005

#: Turns of the event loop that a chunk may need from a reader to the socket: each
#: BaseHTTPMiddleware on the way takes three to five.
_TURNS_TO_SOCKET = 12
_TURNS_TO_READER = 48

#: Seconds that the end of a stream waits for its entry to become visible, at the most.
COMMIT_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class Complete:
    """The source ended by itself."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The source raised."""

    cause: Exception


@dataclass(frozen=True, slots=True)
class Aborted:
    """The run was given up."""

    reason: str


End = Complete | Failed | Aborted


class Source(Protocol):
    """What a flight drains."""

    async def drain(self, flight: Flight) -> None:
        """
        Feed every chunk to the flight, and close what was drained in this same task.

        Returns once the source is complete; anything that it raises means that it is not.
        """
        ...

    async def close(self) -> None:
        """Release what a source holds that will never be drained."""
        ...


class _Link:
    __slots__ = ("chunk", "next")

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.next: _Link | None = None


#: What a link costs beside the bytes of its chunk, so that tiny chunks are bounded, too.
_LINK_SIZE = 96


class Flight:
    """
    One run of a source.

    Args:
        source: What is drained, from the moment that the first reader asks.
        recorder: What stores the chunks, None where nothing is to be stored.
        max_ahead: Bytes that the source may be ahead of its fastest reader.
        finish_timeout: Seconds that a run may go on which nobody reads any more, while it is
            stored; one that is not stored ends at once.
        commit_wait: Seconds that the end of the stream waits for its entry to become visible.
        background: What belongs to the run and is done after a complete one.
        on_unshared: Called once the run is its own client's only: no longer stored, or over.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder | None,
        *,
        max_ahead: int,
        finish_timeout: float,
        commit_wait: float = COMMIT_WAIT,
        background: Callable[[], Awaitable[None]] | None = None,
        on_unshared: Callable[[], object] = lambda: None,
    ) -> None:
        self.end: End | None = None
        self.background_error: Exception | None = None
        self._source = source
        self._recorder = recorder
        self._max_ahead = max_ahead
        self.commit_wait = commit_wait
        self._finish_timeout = finish_timeout
        self._background = background
        self._tail = _Link(b"")
        self._made = 0
        self._fastest = 0
        self._first = True
        self._store_turn_at = 0
        self._gave_way = time.monotonic()
        self._seats: set[_Seat] = set()
        self._loop = asyncio.get_running_loop()
        self._cancellations = 0
        self._producer: asyncio.Task[None] | None = None
        self._conclusion: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._aborting: str | None = None
        self._ended = asyncio.Event()
        self._over = asyncio.Event()
        self._on_unshared = on_unshared
        if recorder is None:
            on_unshared()
        else:
            recorder.on_progress = self._recorder_moved

    def __repr__(self) -> str:
        state = self.end or ("running" if self._producer else "not started")
        return f"<Flight {state}, {self._made} made, {len(self._seats)} readers>"

    # -- the source's side ------------------------------------------------------------------

    def feed(self, chunk: bytes) -> bool:
        """Hand on one chunk; return whether the source now has to `pace` itself."""
        link = _Link(chunk)
        self._tail.next = link
        self._tail = link
        self._made += len(chunk) + _LINK_SIZE
        if self._recorder is not None:
            self._recorder.feed(chunk)
        for seat in self._seats:
            seat.wake()
        if self._producer is not None:
            self._cancellations = self._producer.cancelling()
        return (
            self._first
            or self._aborting is not None
            or time.monotonic() - self._gave_way >= GIVE_WAY_AFTER
            or not self._has_room()
            or self._owes_store_turn()
        )

    async def pace(self) -> None:
        """Give way to the readers, and wait while the source is too far ahead of them."""
        self._first = False
        await self._give_way()
        if self._recorder is not None and self._owes_store_turn():
            turns = (self._made - self._store_turn_at) / self._max_ahead
            self._store_turn_at = self._made
            await self._recorder.catch_up(STORE_TURN * turns)
        while not self._has_room() and self._aborting is None:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self._aborting is not None:
            # A source that swallowed its cancellation ends here.
            raise asyncio.CancelledError
        self._gave_way = time.monotonic()

    def _owes_store_turn(self) -> bool:
        return (
            self._recorder is not None
            and self._recorder.is_behind
            and self._made - self._store_turn_at >= self._max_ahead
        )

    async def _give_way(self) -> None:
        for _ in range(_TURNS_TO_READER):
            await asyncio.sleep(0)
            if all(seat.waiting for seat in self._seats):
                break
        for _ in range(_TURNS_TO_SOCKET if self._seats else 0):
            await asyncio.sleep(0)

    def _has_room(self) -> bool:
        if self._seats:
            return self._made - self._fastest < self._max_ahead
        return self._recorder is None or self._recorder.has_room

    def spoil(self) -> None:
        """Say that the body is not to be stored, however it ends."""
        if self._recorder is not None:
            self._recorder.fail(NotCached.INCOMPLETE)

    def finish_body(self) -> None:
        """Say that the body is complete, where the source itself has still something to do."""
        if self._conclusion is None and self._aborting is None:
            self._conclusion = spawn(self._conclude(Complete()))

    # -- the readers' side ------------------------------------------------------------------

    def read(self, declared: int | None = None) -> Reader:
        """
        Return a reader that stands at the end of what was made so far.

        Args:
            declared: Where the body's length is known, and the end with its last byte.
        """
        seat = _Seat()
        self._seats.add(seat)
        return Reader(self, self._tail, seat, declared)

    def start(self) -> None:
        """Begin to drain the source, in the context of whoever asks first."""
        if self._producer is None:
            self._gave_way = time.monotonic()
            self._producer = spawn(self._produce())
            if self._recorder is not None:
                self._recorder.start()

    def advanced(self, position: int) -> None:
        """Note how far a reader has come."""
        if position > self._fastest:
            self._fastest = position
            self._wake_producer()

    def left(self, seat: _Seat) -> None:
        """Note that a reader has gone; the last one leaves the run to the recorder."""
        self._seats.discard(seat)
        if self._seats:
            return
        if self._producer is None:
            self._aborting = "nobody read it"
            self._producer = spawn(self._dismiss())
        elif self.end is None and self._deadline is None:
            if self._recorder is None or self._recorder.failure is not None:
                self.abort("its client left")
            else:
                loop = asyncio.get_running_loop()
                self._deadline = loop.call_later(
                    self._finish_timeout, self.abort, "its client left, and finish_timeout is over"
                )
        self._wake_producer()

    def left_behind(self, seat: _Seat) -> None:
        """Note that a reader was dropped without being closed, in whatever thread that shows."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.left, seat)

    async def _dismiss(self) -> None:
        try:
            await self._source.close()
        finally:
            self._close(Aborted("nobody read it"))
            self._on_unshared()
            self._over.set()

    def abort(self, reason: str) -> None:
        """Give the run up; nothing is stored, and readers end broken."""
        if self.end is None and self._aborting is None and self._conclusion is None:
            self._aborting = reason
            self._wake_producer()
            if self._producer is not None:
                self._producer.cancel()

    async def ended(self) -> None:
        """Wait until readers may reach the end."""
        await self._ended.wait()

    async def over(self) -> None:
        """Wait until nothing of the run is left: source closed, entry visible or discarded."""
        await self._over.wait()

    # -- the run ----------------------------------------------------------------------------

    async def _produce(self) -> None:
        end: End = Aborted("cancelled")
        try:
            await self._source.drain(self)
            # A source that swallows its cancellation ends cleanly, and short.
            if self._aborting is not None:
                end = Aborted(self._aborting)
            elif self._producer is None or self._producer.cancelling() <= self._cancellations:
                end = Complete()
        except asyncio.CancelledError:
            end = Aborted(self._aborting or "cancelled")
            if self._aborting is None:
                raise
        except Exception as exc:
            end = Failed(exc)
        finally:
            await self._wind_up(end)

    async def _wind_up(self, end: End) -> None:
        try:
            if self._conclusion is None:
                self._conclusion = spawn(self._conclude(end))
            elif isinstance(end, Failed):
                # The body was complete before: this is about what came after it.
                self.background_error = end.cause
            await self._conclusion
            if isinstance(self.end, Complete) and self._background is not None:
                try:
                    await self._background()
                except Exception as exc:
                    self.background_error = exc
        finally:
            if self.end is None:
                self._close(Aborted("cancelled"))
            if self._deadline is not None:
                self._deadline.cancel()
            self._on_unshared()
            self._over.set()

    async def _conclude(self, end: End) -> None:
        """Let the readers reach the end once the entry is visible, or that takes too long."""
        if self._recorder is None:
            self._close(end)
            return
        if not isinstance(end, Complete):
            self._close(end)
            await self._recorder.discard()
            return
        timer = asyncio.get_running_loop().call_later(self.commit_wait, self._close, end)
        try:
            await self._recorder.commit()
        finally:
            timer.cancel()
            self._close(end)
        await self._recorder.settled()

    def _close(self, end: End) -> None:
        if self.end is None:
            self.end = end
            self._ended.set()
            for seat in self._seats:
                seat.wake()

    def _recorder_moved(self) -> None:
        if self._recorder is not None and self._recorder.failure is not None:
            self._on_unshared()
            if not self._seats and self._producer is not None:
                self.abort("its client left, and it is not stored")
        self._wake_producer()

    def _wake_producer(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class _Seat:
    """What a flight holds of a reader: only whether it waits, so as not to keep it alive."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether the reader has come back for more."""
        return self.future is not None and not self.future.done()

    def wake(self) -> None:
        """Tell the reader that there is something new."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Reader:
    """One reader's place in a flight; iterates over its chunks. One that is dropped has left."""

    def __init__(self, flight: Flight, link: _Link, seat: _Seat, declared: int | None) -> None:
        self._flight = flight
        self._link = link
        self._seat = seat
        self._left = declared
        self._position = 0
        self.closed = False

    def __del__(self) -> None:
        if not self.closed:
            self._flight.left_behind(self._seat)

    def close(self) -> None:
        """Leave the flight."""
        if not self.closed:
            self.closed = True
            self._seat.wake()
            self._flight.left(self._seat)

    async def aclose(self) -> None:
        """Leave the flight, as an asynchronous generator is closed."""
        self.close()

    async def ended(self) -> None:
        """Wait until the flight has ended, for as long as that may wait for its entry at most."""
        self._flight.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._flight.commit_wait):
                await self._flight.ended()

    async def take(self) -> list[bytes]:
        """
        Wait for chunks, and return all that there are; none at the clean end, or once closed.

        Raises:
            BrokenStreamError: The run was given up, or its source raised an OSError.
            Exception: What the source raised.
        """
        chunks: list[bytes] = []
        if await self._has_next():
            while self._link.next is not None:
                chunks.append(self._advance(self._link.next))
            self._flight.advanced(self._position)
        return chunks

    async def _has_next(self) -> bool:
        """Wait for a chunk; return whether there is one."""
        self._flight.start()
        while self._link.next is None:
            if self.closed:
                return False
            if self._flight.end is not None:
                self._end(self._flight.end)
                return False
            self._seat.future = asyncio.get_running_loop().create_future()
            try:
                await self._seat.future
            finally:
                self._seat.future = None
        return not self.closed

    def _advance(self, link: _Link) -> bytes:
        self._link = link
        self._position += len(link.chunk) + _LINK_SIZE
        return link.chunk

    def _end(self, end: End) -> None:
        match end:
            case Complete():
                return
            case Failed(cause) if not isinstance(cause, OSError):
                raise cause
            case Failed(cause):
                # From ASGI 2.4 on, Starlette takes an OSError for the client's disconnect.
                raise BrokenStreamError(f"the stream raised {cause!r}") from cause
            case Aborted(reason):
                raise BrokenStreamError(f"the stream was given up: {reason}")

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        if not await self._has_next():
            raise StopAsyncIteration
        assert self._link.next is not None
        chunk = self._advance(self._link.next)
        self._flight.advanced(self._position)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left == 0 and chunk:
                # For its client this is the end, which waits for the commit.
                await self.ended()
        return chunk
