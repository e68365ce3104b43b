"""One running stream and its readers.

The owner drains a source into the stream, in a task of its own. Memory holds the newest chunks, and
each reader has a position. A reader that lags behind reads the older chunks from the recorder or
from a temporary file. The recorder is fed in passing: it holds nothing up, and readers do not
notice its failure. How the stream ended is a value that every reader reaches. No reader pulls
chunks from the source, so no reader can spoil the stream for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from stream_cached.errors import LostStreamError
from stream_cached.streams.asides import Asides, Comment
from stream_cached.streams.backlog import Backlog
from stream_cached.streams.burst import BURST_MAX, Burst
from stream_cached.streams.ends import End
from stream_cached.streams.protocols import Archive, Owner, Recording, Source
from stream_cached.streams.reader import Reader, Seat
from stream_cached.streams.spool import NO_SPOOL, Spool, batches
from stream_cached.streams.turns import Turns

#: Seconds after which a source that never suspends gives way to its readers.
GIVE_WAY_AFTER = 0.005

#: Seconds that a source gives the store for each `max_ahead` bytes while the store is behind.
#: Source, client and store share one event loop: a source that is quicker than the others would
#: starve the store, however quick the store is.
STORE_TURN = 0.005

#: Seconds that the end of a stream waits for the commit.
COMMIT_WAIT = 1.0


class Stream:
    """
    The chunks of one run, for any number of readers.

    Args:
        owner: The run.
        max_ahead: Bytes that the source may be ahead of its fastest reader.
        spool_max: Bytes that slow readers may have in temporary files.
        commit_wait: Seconds that the end of the stream waits for the commit.
        recorder: What records the chunks.
        archive: What keeps the chunks, where no recorder does.
    """

    end: End | None = None
    has_begun = False
    """Whether there is a first byte. An endpoint may yield nothing first, to send the head."""
    _is_first = True
    _fastest = _store_turn_at = _cancellations = 0
    _gave_way = 0.0
    _spool = NO_SPOOL
    _room: asyncio.Future[None] | None = None
    _producer: asyncio.Task[None] | None = None

    def __init__(
        self,
        owner: Owner,
        *,
        max_ahead: int,
        spool_max: int,
        commit_wait: float = COMMIT_WAIT,
        recorder: Recording | None = None,
        archive: Archive | None = None,
    ) -> None:
        self.owner, self.commit_wait = owner, commit_wait
        self.seats: set[Seat] = set()
        self._recorder, self._archive = recorder, recorder or archive
        self._max_ahead, self._backlog = max_ahead, Backlog(max_ahead)
        self._turn_after = max_ahead if recorder is None else min(max_ahead, recorder.turn_after)
        self._burst = Burst(self)
        self.put, self.forget_source = self._burst.put, self._burst.forget_receiver
        self._spool_max, self._loop = spool_max, asyncio.get_running_loop()
        # Seats that have read everything: looked at once a wake-up, not at each chunk.
        self._waiting: set[Seat] = set()
        self._ended, self._turns = asyncio.Event(), Turns(self.seats)

    # -- the source -------------------------------------------------------------------------

    async def drain(self, source: Source, task: asyncio.Task[None]) -> bool:
        """Drain a source in a task. Return False if it swallowed a cancellation: it may be cut."""
        self._producer, self._gave_way = task, time.monotonic()
        try:
            await source.drain(self)
        finally:
            self._burst.hand_on()
        return task.cancelling() <= self._cancellations

    def feed(self, chunk: bytes) -> bool:
        """Hand on one chunk now. Return whether the source now has to `pace` itself."""
        return self.put(chunk) or self._burst.flush()

    def begin_burst(self) -> tuple[int, float]:
        if self._producer is not None:
            # It is cancelled only while it is suspended: later chunks of the burst change nothing.
            self._cancellations = self._producer.cancelling()
        # The first chunk is sent by itself. What waits until a source suspends is not paced.
        has_to_pace = self._is_first or self.owner.is_aborting or self._owes_store_turn()
        if has_to_pace or not self._has_room():
            return 0, 0.0
        room = self._max_ahead - (self._backlog.made - self._fastest if self.seats else 0)
        return min(room, BURST_MAX, self._turn_after), self._gave_way + GIVE_WAY_AFTER

    def wake_waiting(self) -> bool:
        if not self._waiting:
            return False
        for seat in self._waiting:
            seat.wake()
        self._turns.woke(self._waiting)
        self._waiting.clear()
        return True

    def feed_all(self, chunks: list[bytes], size: int) -> None:
        """Hand on chunks."""
        if self._recorder is not None:
            # First: they may turn out to be for no other client.
            self._recorder.feed(chunks)
        is_full = self._backlog.append(chunks, size)
        self.has_begun = self.has_begun or any(chunks)
        self.wake_waiting()
        if is_full:
            self._drop_oldest()

    def has_to_pace(self) -> bool:
        return (
            self._is_first
            or self.owner.is_aborting
            or time.monotonic() - self._gave_way >= GIVE_WAY_AFTER
            or not self._has_room()
            or self._owes_store_turn()
        )

    async def pace(self) -> None:
        """Give way to the readers, and wait while the source is too far ahead of them."""
        self._is_first = False
        await self._turns.give()
        if self._recorder is not None and self._owes_store_turn():
            turns = (self._backlog.made - self._store_turn_at) / self._max_ahead
            self._store_turn_at = self._backlog.made
            await self._recorder.catch_up(STORE_TURN * turns)
        while not self._has_room() and not self.owner.is_aborting:
            self._room = self._loop.create_future()
            await self._room
        if self.owner.is_aborting:
            # A source that swallowed its cancellation ends here.
            raise asyncio.CancelledError
        self._gave_way = time.monotonic()

    def wake_source(self) -> None:
        """Let the source see whether it may go on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _owes_store_turn(self) -> bool:
        is_due = self._backlog.made - self._store_turn_at >= self._turn_after
        return is_due and self._recorder is not None and self._recorder.is_behind

    def _has_room(self) -> bool:
        # Who joins reads nothing before there are bytes: empty chunks must not wait for that.
        is_near = not self.has_begun or self._backlog.made - self._fastest < self._max_ahead
        if self.seats and is_near:
            return True
        if self.seats and not self.owner.goes_ahead:
            return False
        return self._recorder is None or self._recorder.has_room

    async def ended(self) -> None:
        """Wait for the end that the readers are given, for as long as it may wait for a commit."""
        if self.end is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.commit_wait):
                    await self._ended.wait()

    async def handed_on(self) -> None:
        """Wait until the readers have the end, for as long as that may wait for the commit."""
        await self.ended()
        await self._turns.give_at_end()

    # -- what memory drops ------------------------------------------------------------------

    def _drop_oldest(self) -> None:
        """Drop the oldest chunks. Those that a reader still needs go into a file."""
        # A source that goes ahead may be far ahead of all its readers here.
        bound = self._fastest if self.seats and not self.owner.goes_ahead else None
        number, chunks = self._backlog.drop(bound)
        late = [seat for seat in self.seats if seat.number < self._backlog.first_number]
        for seat in late:
            seat.fall_behind()
        if not late or not chunks:
            self.forget_spooled()
        else:
            # Also what is recorded: a store that fails later breaks no reader.
            self._spool_chunks(number, chunks)

    @property
    def is_kept(self) -> bool:
        """Whether what memory drops can be read elsewhere."""
        if self._recorder is not None and self._recorder.is_failed:
            return False
        return self._archive is not None

    @property
    def holds_begin(self) -> bool:
        """Whether what keeps the dropped chunks has the first one."""
        return self._archive is not None and self._archive.holds_begin

    @property
    def is_whole(self) -> bool:
        """Whether memory still holds the first chunk, or will hold it."""
        return not self._backlog.first_number

    def _spool_chunks(self, number: int, chunks: list[bytes]) -> None:
        if self._spool is NO_SPOOL:
            self._spool = Spool(self._spool_max)
        try:
            self.forget_spooled()
            for batch in batches(chunks):
                self._make_room()
                self._spool.append(number, batch)
                number += len(batch)
        except OSError as exc:
            self._spool.close()
            if not self.is_kept:
                self.cut(lambda seat: seat.link is None, f"it fell behind, and {exc!r}")

    def _make_room(self) -> None:
        while self._spool.is_full:
            first = self._spool.forget_first()
            if not self.is_kept:
                self._cut_before(first)

    def forget_spooled(self) -> None:
        """Give back what no reader needs any more, here and in the store."""
        is_failed = self._recorder is not None and self._recorder.is_failed
        if self.is_whole and not is_failed:
            return
        late = [seat.number for seat in self.seats if seat.link is None]
        self._spool.forget(min(late, default=None))
        if self._recorder is not None and is_failed and not any(map(self._spool.lacks, late)):
            self._recorder.release()

    def cut(self, which: Callable[[Seat], bool], why: str) -> None:
        """Break off readers."""
        for seat in tuple(self.seats):
            if which(seat):
                seat.cut_off(why)
                # The reader reads nothing more, even if its client takes long to notice.
                self.seats.discard(seat)
        self.owner.reader_left(None)

    def _cut_before(self, number: int) -> None:
        self.cut(lambda seat: seat.number < number, "it fell behind by over spool_max")

    def cut_joined(self, why: str) -> None:
        if self.is_joined:
            self.cut(lambda seat: seat.joins, why)

    async def older(self, number: int) -> list[bytes]:
        """Return chunks that memory has dropped, from a number on; at least one."""
        try:
            if not self._spool.lacks(number):
                return self._spool.read(number)
        except (OSError, LookupError) as exc:
            raise LostStreamError(f"chunks that a slow reader needs are lost: {exc}") from exc
        if self._archive is None:
            raise LostStreamError("chunks that a slow reader needs are lost")
        return await self._archive.read(number)

    def return_to_memory(self, seat: Seat) -> None:
        """Let a reader go on in memory, if memory holds its next chunk."""
        if not seat.cut:
            seat.stand_before(*self._backlog.before(seat.number))
        self.forget_spooled()

    # -- the readers ------------------------------------------------------------------------

    def read(
        self, length: int | None = None, *, joins: bool = False, asides: Asides | None = None
    ) -> Reader:
        """Return a reader at the beginning; one that joins does not start the run."""
        seat = Seat(joins, self._backlog.begin, asides or Asides())
        self.seats.add(seat)
        return Reader(self, seat, length)

    def comment(self, message: Comment) -> None:
        """Hand a comment to the readers that are here now. It is no part of the body."""
        for seat in self.seats:
            seat.asides.comment(message, self.made)
        self.wake_readers()

    @property
    def made(self) -> int:
        self._burst.hand_on()
        return self._backlog.made

    def newest(self, count: int, size: int) -> list[bytes]:
        """Return the last chunks so far, as far as memory holds them; see `Backlog.newest`."""
        return self._backlog.newest(count, size)

    @property
    def has_slow_readers(self) -> bool:
        """Whether a reader needs chunks that memory has dropped."""
        return any(seat.link is None for seat in self.seats)

    @property
    def is_joined(self) -> bool:
        return any(seat.joins for seat in self.seats)

    async def news_for(self, seat: Seat) -> None:
        """Wait for the next change."""
        self._waiting.add(seat)
        seat.future = self._loop.create_future()
        try:
            await seat.future
        finally:
            seat.future = None
            self._waiting.discard(seat)
            self._burst.suspended()

    def advanced(self, position: int) -> None:
        """Note how many bytes a reader has read, with their links."""
        if position > self._fastest:
            self._fastest = position
            self.wake_source()

    def left(self, seat: Seat) -> None:
        self.seats.discard(seat)
        self.owner.reader_left(seat)

    def left_behind(self, seat: Seat) -> None:
        """Note that a reader was garbage-collected, in whatever thread that happened."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.left, seat)

    def wake_readers(self) -> None:
        for seat in self.seats:
            seat.wake()

    def close(self, end: End) -> None:
        """Let the readers reach the end."""
        if self.end is None:
            self.end = end
            self._ended.set()
            self.wake_readers()
