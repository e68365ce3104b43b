"""One running stream and its readers.

A source is drained by a task of its own into a chain of links, of which memory holds the newest
part; each reader stands somewhere on it. One that lags behind reads what is older from the store,
or from a temporary file. The recorder is fed in passing: it never holds anything up, and may fail
without any reader noticing. How the stream ended is a value that every reader reaches; no reader
does the pulling, so none can spoil it for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_cached.entries.recorder import Recorder
from stream_cached.errors import BrokenStreamError, LostStreamError
from stream_cached.http.reasons import NotCached
from stream_cached.streams.spool import Spool
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

#: Seconds within which whoever began a run has to ask for its first chunk; those who wait for it
#: are then sent away.
START_WITHIN = 1.0

#: Bytes that slow readers may have still to read in temporary files.
SPOOL_MAX = 256 * 1024 * 1024

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


#: Bytes that one reader is given, or reads from a file, at once: each holds so much of its own.
_TAKE_MAX = 256 * 1024

#: What a link costs beside the bytes of its chunk, so that tiny chunks are bounded, too.
_LINK_SIZE = 96


_flights: weakref.WeakSet[Flight] = weakref.WeakSet()


class Flight:
    """
    One run of a source.

    Args:
        source: What is drained, from the moment that the first reader asks.
        recorder: What stores the chunks, None where nothing is to be stored.
        max_ahead: Bytes that the source may be ahead of its fastest reader; memory holds twice as
            much.
        finish_timeout: Seconds that a run may go on which nobody reads any more, while it is
            stored; one that is not stored, and any with 0, ends at once. None for no bound.
        spool_max: Bytes that slow readers may have still to read where no store has it.
        commit_wait: Seconds that the end of the stream waits for its entry to become visible.
        archive: Returns chunks from a number on, at least one, where it is not the recorder that
            keeps them: of a run in another process.
        background: What belongs to the run and is done after a complete one.
        on_unshared: Called once the run is its own client's only: no longer stored, and read by
            nobody else; or over.
        on_settled: Called once it can't be joined any more, with its end if that is why.
        released: Waits until other processes know that it can't.
        is_followed: Says whether it is read in another process, as far as is known there.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder | None,
        *,
        max_ahead: int,
        finish_timeout: float | None,
        spool_max: int = SPOOL_MAX,
        commit_wait: float = COMMIT_WAIT,
        archive: Callable[[int], Awaitable[list[bytes]]] | None = None,
        background: Callable[[], Awaitable[None]] | None = None,
        on_unshared: Callable[[], object] = lambda: None,
        on_settled: Callable[[End | None], object] = lambda end: None,
        released: Callable[[], Awaitable[None]] | None = None,
        is_followed: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.end: End | None = None
        self.background_error: Exception | None = None
        self._source = source
        self._recorder = recorder
        self._max_ahead = max_ahead
        self.commit_wait = commit_wait
        self._finish_timeout = finish_timeout
        self._background = background
        # What memory holds lies between these two; the first one has been given up itself.
        self._first_link = self._tail = _Link(b"")
        self._first_number = 0
        self._dropped = 0
        self._made = 0
        self._fastest = 0
        self._spool = Spool(spool_max)
        self._first = True
        self._store_turn_at = 0
        self._gave_way = time.monotonic()
        self._seats: set[_Seat] = set()
        # Of those, the ones that have read everything: looked at once a wake-up, not at each chunk.
        self._waiting: set[_Seat] = set()
        self._woken: list[_Seat] = []
        self._loop = asyncio.get_running_loop()
        _flights.add(self)
        # Whoever asks first, the source runs for the request that brought it.
        self._context = contextvars.copy_context()
        self._is_abandoned = False
        self._is_settled = False
        self._is_running = False
        self._start_timer: asyncio.TimerHandle | None = None
        self._cancellations = 0
        self._producer: asyncio.Task[None] | None = None
        self._conclusion: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._aborting: str | None = None
        self._ended = asyncio.Event()
        self._over = asyncio.Event()
        self._on_unshared = on_unshared
        self._on_settled = on_settled
        self._released = released
        self._is_followed = is_followed
        self._followed = False
        self._asking: asyncio.Task[None] | None = None
        self._archive = archive
        if recorder is None:
            if archive is None:
                self._settle()
            on_unshared()
        else:
            self._archive = recorder.read
            recorder.on_progress = self._recorder_moved
            recorder.on_visible = self._settle
            recorder.is_needed = lambda: any(seat.link is None for seat in self._seats)

    def __repr__(self) -> str:
        state = self.end or ("running" if self._producer else "not started")
        return f"<Flight {state}, {self._made} made, {len(self._seats)} readers>"

    # -- the source's side ------------------------------------------------------------------

    def feed(self, chunk: bytes) -> bool:
        """Hand on one chunk; return whether the source now has to `pace` itself."""
        if self._recorder is not None:
            # First: it may turn out that this chunk is for nobody else.
            self._recorder.feed(chunk)
        link = _Link(chunk)
        self._tail.next = link
        self._tail = link
        self._made += len(chunk) + _LINK_SIZE
        if self._waiting:
            for seat in self._waiting:
                seat.wake()
            self._woken.extend(self._waiting)
            self._waiting.clear()
        if self._made - self._dropped > 2 * self._max_ahead:
            self._let_go()
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
            # Not for those that are held up by their clients.
            self._woken = [seat for seat in self._woken if self._is_on_its_way(seat)]
            if not self._woken:
                break
        self._woken.clear()
        for _ in range(_TURNS_TO_SOCKET if self._seats else 0):
            await asyncio.sleep(0)

    def _is_on_its_way(self, seat: _Seat) -> bool:
        return not seat.waiting and seat.link is not None and seat in self._seats

    def _has_room(self) -> bool:
        if self._seats and self._made - self._fastest < self._max_ahead:
            return True
        if self._seats and not self._followed:
            return False
        return self._recorder is None or self._recorder.has_room

    # -- what memory no longer holds --------------------------------------------------------

    def _let_go(self) -> None:
        """Drop the oldest chunks; those that a reader has still to read go into a file."""
        target = self._made - self._max_ahead - self._max_ahead // 2
        if self._seats and not self._followed:
            # Otherwise it may be far ahead of all who read here.
            target = min(target, self._fastest)
        chunks, first, number = [], self._first_link, self._first_number
        while first.next is not None and self._dropped + len(first.next.chunk) <= target:
            first = first.next
            chunks.append(first.chunk)
            self._dropped += len(first.chunk) + _LINK_SIZE
            first.chunk = b""
        self._first_link = first
        self._first_number += len(chunks)
        late = [seat for seat in self._seats if seat.number < self._first_number]
        for seat in late:
            seat.link = None
        if not late or not chunks:
            self._forget_spooled()
        else:
            # Also where they are stored: a store that fails later breaks off nobody.
            self._put_by(number, chunks)

    @property
    def _is_kept(self) -> bool:
        """Whether what memory drops can be read elsewhere."""
        if self._recorder is not None and self._recorder.failure is not None:
            return False
        return self._archive is not None

    def _put_by(self, number: int, chunks: list[bytes]) -> None:
        try:
            self._forget_spooled()
            for batch in _batches(chunks):
                self._make_room()
                self._spool.append(number, batch)
                number += len(batch)
        except OSError as exc:
            self._spool.close()
            if not self._is_kept:
                self._cut(lambda seat: seat.link is None, f"it fell behind, and {exc!r}")

    def _make_room(self) -> None:
        while self._spool.is_full:
            first = self._spool.forget_first()
            if not self._is_kept:
                # The slowest are cut, and nobody else.
                too_late = functools.partial(_is_before, first)
                self._cut(too_late, "it fell behind by more than spool_max")

    def _forget_spooled(self) -> None:
        """Give back what no reader needs any more, here and in the store."""
        late = [seat.number for seat in self._seats if seat.link is None]
        if self._spool.first is not None:
            self._spool.forget(min(late, default=None))
        if self._recorder is not None and self._recorder.failure is not None:
            first = self._spool.first
            if not any(first is None or number < first for number in late):
                self._recorder.release()

    def _cut(self, which: Callable[[_Seat], bool], why: str) -> None:
        for seat in tuple(self._seats):
            if which(seat):
                seat.cut, seat.link = why, None
                seat.wake()
                # It reads nothing more, however long its client takes to see that.
                self._seats.discard(seat)
        self._see_who_reads()

    async def older(self, number: int) -> list[bytes]:
        """
        Return chunks that memory no longer holds, from a number on; at least one.

        Raises:
            BrokenStreamError: They are lost.
        """
        first = self._spool.first
        try:
            if first is not None and number >= first:
                return self._spool.read(number)
        except (OSError, LookupError) as exc:
            raise LostStreamError(f"what a slow reader had still to read is lost: {exc}") from exc
        if self._archive is None:
            raise LostStreamError("what a slow reader had still to read is lost")
        return await self._archive(number)

    def return_to_memory(self, seat: _Seat) -> None:
        """Let a reader go on in memory, where that holds what it reads next."""
        if seat.number >= self._first_number and not seat.cut:
            link = self._first_link
            for _ in range(seat.number - self._first_number):
                assert link.next is not None
                link = link.next
            seat.link = link
        self._forget_spooled()

    def mark_incomplete(self) -> None:
        """Say that the body is not to be stored, however it ends."""
        if self._recorder is not None:
            self._recorder.fail(NotCached.INCOMPLETE)

    def finish_body(self) -> None:
        """Say that the body is complete, where the source itself has still something to do."""
        if self._conclusion is None and self._aborting is None:
            self._conclusion = spawn(self._conclude(Complete()))

    # -- the readers' side ------------------------------------------------------------------

    def read(self, declared: int | None = None, *, joins: bool = False) -> Reader:
        """
        Return a reader that stands at the beginning.

        Args:
            declared: Where the body's length is known, and the end with its last byte.
            joins: Whether it joins a run that is somebody else's, and does not start it.
        """
        seat = _Seat(joins, self._first_link if not self._first_number else None)
        self._seats.add(seat)
        self._keep()
        if joins:
            self.expect_start()
        return Reader(self, seat, declared)

    @property
    def can_be_joined(self) -> bool:
        """Whether another reader may come, from the beginning on: until the entry is visible."""
        if self._is_settled or not self._is_kept:
            return False
        return not self._is_abandoned and (self.end is None or isinstance(self.end, Complete))

    @property
    def has_begun(self) -> bool:
        """Whether there is a first chunk."""
        return self._tail is not self._first_link or self._first_number > 0

    @property
    def is_for_one(self) -> bool:
        """Whether those who have no byte of it yet had better run the endpoint themselves."""
        if self._is_abandoned or isinstance(self.end, Failed | Aborted):
            return True
        failure = None if self._recorder is None else self._recorder.failure
        return failure is not None and not failure.is_of_store

    def start(self) -> None:
        """Begin to drain the source."""
        if self._producer is None:
            self._gave_way = time.monotonic()
            self._producer = spawn(self._produce(), self._context)
            if self._start_timer is not None:
                self._start_timer.cancel()
            if self._recorder is not None:
                self._recorder.start()

    def expect_start(self) -> None:
        """Say that others wait for it: unless it is begun in time, they are sent away."""
        if self._producer is None and self._start_timer is None:
            self._start_timer = self._loop.call_later(START_WITHIN, self._abandon)

    def _abandon(self) -> None:
        if self._producer is None:
            self._is_abandoned = True
            self._settle()
            self._cut(lambda seat: seat.joins, "nobody began to read it")

    def _settle(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._on_settled(self.end)

    def waits(self, seat: _Seat) -> asyncio.Future[None]:
        """Return what is done once there is something new for a reader; then it has `waited`."""
        seat.future = future = self._loop.create_future()
        self._waiting.add(seat)
        return future

    def waited(self, seat: _Seat) -> None:
        """Note that a reader waits no more."""
        seat.future = None
        self._waiting.discard(seat)

    def advanced(self, position: int) -> None:
        """Note how far a reader has come."""
        if position > self._fastest:
            self._fastest = position
            self._wake_producer()

    def left(self, seat: _Seat) -> None:
        """Note that a reader has gone; the last one leaves the run to the recorder."""
        self._seats.discard(seat)
        self._check_shared()
        self._forget_spooled()
        if self._producer is None and self._aborting is None and not seat.joins:
            # It is his to start; those who wait for it find somebody else.
            self._is_abandoned = True
            self._settle()
            self._cut(lambda other: other.joins, "nobody began to read it")
            self._aborting = "nobody read it"
            self._producer = spawn(self._dismiss())
            return
        self._see_who_reads()

    def _see_who_reads(self) -> None:
        """Leave a run that nobody reads any more to the recorder."""
        if self._seats or self._followed or self._producer is None:
            return
        if self.end is None and self._deadline is None:
            unstored = self._recorder is None or self._recorder.failure is not None
            if unstored:
                self.abort("its client left")
            elif self._finish_timeout == 0:
                self._abort_unless_followed("its client left")
            elif self._finish_timeout is not None:
                why = "its client left, and finish_timeout is over"
                self._deadline = self._loop.call_later(
                    self._finish_timeout, self._abort_unless_followed, why
                )
        self._wake_producer()

    def _abort_unless_followed(self, reason: str) -> None:
        if self._is_followed is None:
            self.abort(reason)
        elif self._asking is None:
            self._asking = spawn(self._ask_followers(reason))

    async def _ask_followers(self, reason: str) -> None:
        assert self._is_followed is not None
        followed = await self._is_followed()
        self._asking = None
        if followed:
            self.set_followed(True)
        elif not self._seats:
            self.abort(reason)

    def set_followed(self, followed: bool) -> None:
        """
        Take note of whether it is read in another process.

        The source does not wait for the readers of this one then, but for the recorder.
        """
        if followed == self._followed:
            return
        self._followed = followed
        if followed:
            self._keep()
            self._wake_producer()
        else:
            self._see_who_reads()

    def _keep(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

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
            if self._recorder is not None:
                await self._recorder.discard()
            await self._other_processes_know()

    def abort(self, reason: str) -> None:
        """Give the run up; nothing is stored, and readers end broken."""
        if self.end is None and self._aborting is None and self._conclusion is None:
            self._aborting = reason
            # It may take its time to close; nobody has to wait for that.
            self._settle()
            self._wake_producer()
            # One that is cancelled before its first step would never wind up.
            if self._producer is not None and self._is_running:
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
        self._is_running = True
        try:
            if self._aborting is None:
                await self._source.drain(self)
            else:
                await self._source.close()
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
            self._settle()
            self._on_unshared()
            self._forget_spooled()
            try:
                await self._other_processes_know()
            finally:
                self._over.set()

    async def _other_processes_know(self) -> None:
        if self._released is not None:
            await self._released()

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
            self._settle()
            timer.cancel()
            self._close(end)
        await self._recorder.settled()

    def _close(self, end: End) -> None:
        if self.end is None:
            self.end = end
            if not isinstance(end, Complete):
                self._settle()
            self._ended.set()
            for seat in self._seats:
                seat.wake()

    def _recorder_moved(self) -> None:
        if self._recorder is not None and self._recorder.failure is not None:
            self._settle()
            # What is not stored can't be followed.
            self._followed = False
            if self._recorder.failure.is_private:
                self._cut(lambda seat: seat.joins, "it turned out to be one client's own")
            self._check_shared()
            if not self._seats and self._producer is not None:
                self.abort("its client left, and it is not stored")
            for seat in self._seats:
                # Those who have nothing of it yet may go.
                seat.wake()
        self._wake_producer()

    def _check_shared(self) -> None:
        if self._recorder is None or self._recorder.failure is None:
            return
        if not any(seat.joins for seat in self._seats):
            self._on_unshared()

    def _wake_producer(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def flights_here() -> list[Flight]:
    """Return those in the running event loop."""
    loop = asyncio.get_running_loop()
    return [flight for flight in tuple(_flights) if flight._loop is loop]


def _batches(chunks: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Divide chunks into parts, each of them some that are read together."""
    start = size = 0
    for index, chunk in enumerate(chunks):
        size += len(chunk)
        if size >= _TAKE_MAX:
            yield chunks[start : index + 1]
            start, size = index + 1, 0
    if start < len(chunks):
        yield chunks[start:]


def _is_before(number: int, seat: _Seat) -> bool:
    return seat.number < number


class _Seat:
    """What a flight holds of a reader: where it stands, so as not to keep it alive."""

    __slots__ = ("cut", "future", "joins", "link", "number")

    def __init__(self, joins: bool, link: _Link | None) -> None:
        self.joins = joins
        self.link = link
        """The last one that it has read; None where memory no longer holds the next one."""
        self.number = 0
        """That of the chunk that it reads next."""
        self.cut = ""
        """Why it gets nothing more."""
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

    def __init__(self, flight: Flight, seat: _Seat, declared: int | None) -> None:
        self._flight = flight
        self._seat = seat
        self._left = declared
        self._position = 0
        self._older: deque[bytes] = deque()
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
        """
        Wait until the flight has ended, for as long as that may wait for its entry at most.

        Raises:
            Exception: As for `take`: the source may fail after its last chunk, too.
        """
        self.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._flight.commit_wait):
                await self._flight.ended()
        if self._flight.end is not None and not self.closed:
            self._end(self._flight.end)

    def start(self) -> None:
        """Start the run, unless that is another one's to do."""
        if not self._seat.joins:
            self._flight.start()

    @property
    def is_at_hand(self) -> bool:
        """Whether there is a first chunk for this reader in memory."""
        return self._is_there and not self._flight.is_for_one

    async def begun(self) -> bool:
        """
        Wait for the first chunk, or a clean end without one.

        Returns:
            False where there will be none, or none for this reader.
        """
        while not self._flight.has_begun and not self._flight.is_for_one and not self._seat.cut:
            if self._flight.end is not None:
                return True
            await self._woken()
        if self._seat.cut or not self._flight.has_begun:
            return not self._seat.cut and not self._flight.is_for_one
        try:
            await self._read_older()
        except BrokenStreamError:
            return False
        return True

    async def fails_at_once(self) -> bool:
        """Wait for the first chunk, or the end; return whether the run failed without a chunk."""
        self.start()
        while not self._flight.has_begun and self._flight.end is None:
            await self._woken()
        return not self._flight.has_begun and not isinstance(self._flight.end, Complete)

    async def _read_older(self) -> None:
        """Read on where memory no longer holds what comes next."""
        seat = self._seat
        if seat.link is None and not self._older:
            chunks = await self._flight.older(seat.number)
            self._older.extend(chunks)
            seat.number += len(chunks)
            self._flight.return_to_memory(seat)

    async def _woken(self) -> None:
        try:
            await self._flight.waits(self._seat)
        finally:
            self._flight.waited(self._seat)

    async def take(self) -> list[bytes]:
        """
        Wait for chunks, and return some; none at the clean end, or once closed.

        Raises:
            BrokenStreamError: The run was given up, its source raised an OSError, or what this
                reader had still to read is lost.
            Exception: What the source raised.
        """
        chunks: list[bytes] = []
        if (self._is_there and not self.closed) or await self._has_next():
            size = 0
            while self._older and size < _TAKE_MAX:
                chunks.append(self._older.popleft())
                size += len(chunks[-1])
            seat, from_older = self._seat, len(chunks)
            link = seat.link
            # There may be a thousand of them for each of a hundred readers.
            while link is not None and link.next is not None and size < _TAKE_MAX:
                seat.link = link = link.next
                chunks.append(link.chunk)
                size += len(link.chunk)
            seat.number += len(chunks) - from_older
            self._position += size + _LINK_SIZE * len(chunks)
            self._flight.advanced(self._position)
        return chunks

    @property
    def _is_there(self) -> bool:
        link = self._seat.link
        return bool(self._older) or (link is not None and link.next is not None)

    async def _has_next(self) -> bool:
        """Wait for a chunk; return whether there is one."""
        self.start()
        seat = self._seat
        while not self._is_there and not self.closed:
            if seat.cut:
                raise BrokenStreamError(f"the stream was cut for this reader: {seat.cut}")
            if seat.link is None:
                await self._read_older()
            elif self._flight.end is not None:
                self._end(self._flight.end)
                return False
            else:
                await self._woken()
        return not self.closed

    def _advance(self) -> bytes:
        if self._older:
            chunk = self._older.popleft()
        else:
            seat = self._seat
            assert seat.link is not None
            assert seat.link.next is not None
            seat.link = seat.link.next
            seat.number += 1
            chunk = seat.link.chunk
        self._position += len(chunk) + _LINK_SIZE
        return chunk

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
        chunk = self._advance()
        self._flight.advanced(self._position)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left == 0 and chunk:
                # For its client this is the end, which waits for the commit.
                await self.ended()
        return chunk
