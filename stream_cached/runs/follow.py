"""A run of another process, read from the store while it is recorded: a source of a run here."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

from stream_cached.connections.deadline import Deadline
from stream_cached.entries.body import RENEW_EVERY, RUN_TTL, WINDOW
from stream_cached.entries.chunks import ChunkIndex, ChunkJoiner
from stream_cached.entries.found import Hit
from stream_cached.entries.resource import Resource
from stream_cached.errors import (
    BrokenStreamError,
    LostStreamError,
    StoreError,
    StoreUnavailableError,
)
from stream_cached.format.progress import Head, LeaseRecord, LeaseState, Progress, decode_progress
from stream_cached.format.records import Entry, Segment
from stream_cached.format.validation import UnsoundError
from stream_cached.runs.channel import FOLLOWED_TTL, ProgressChannel
from stream_cached.runs.lease import BEAT, LEASE_TTL, abandon, read_lease
from stream_cached.runs.remote_body import RemoteBody
from stream_cached.streams.stream import Stream
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.run import Run

#: Seconds between two looks at a run: at first, after news, and at most.
_FIRST_LOOK = 0.01
_NEXT_LOOK = 0.025
_LAST_LOOK = 0.2
_GROWTH = 1.5

#: How many looks in a row may fail.
_MAX_FAILURES = 3


class RemoteRun:
    """
    A run of another process, as it goes on.

    Args:
        resource: The resource that it makes a response of.
        lease_key: The key of its lease.
        lease: What the lease says.
    """

    def __init__(self, resource: Resource, lease_key: str, lease: LeaseRecord) -> None:
        self.head: Head | None = None
        """The response without its body, once that is known."""
        self.state = LeaseState.HELD
        self._resource = resource
        self._store = resource.store
        self._lease_key = lease_key
        self._lease = lease
        self.token = lease.token
        """The random id of the run."""
        self._channel = ProgressChannel(resource.store, resource.key, lease.token)
        self._body = RemoteBody(resource.records.body(lease.token), self._until_over)
        self._follower: Run | None = None
        self._progress: Progress | None = None
        self._entry: Entry | None = None
        # One task watches, however slow the readers in this process are.
        self._watcher: asyncio.Task[None] | None = None
        self.reads_ahead = self._body.may_go
        self._is_over = self._has_looked = self._has_left = False
        self._failure: StoreError | None = None
        self._news = asyncio.Event()
        self._alive_at: float | None = None
        self._beat_at = time.monotonic()
        self._marked_at = 0.0
        self._pause = _FIRST_LOOK
        self._wakeup = self._channel.wakeup()
        self._chunks = ChunkIndex()
        self._joiner = ChunkJoiner()
        self._index = self._given = 0
        self._length = self._number = 0

    # -- what the store says ----------------------------------------------------------------

    async def begin(self, seconds: float, for_object: float) -> bool:
        """
        Wait for the head and a sign of life, or the end. Return whether `seconds` were enough.

        Where the begin of the body has left the store, its object is waited for: `for_object`.

        The lease of a killed process exists until it lapses. A request that comes then must not be
        given the part of the body that exists.
        """
        # The task is not part of the request that comes first.
        with Deadline(None):
            self._watcher = spawn(self._watch())
        is_known = await self._until_known(seconds, for_object=for_object)
        if self._failure is not None:
            raise self._failure
        return is_known

    async def shows_life(self, since: float, seconds: float) -> bool:
        """
        Wait for a sign of life after `since`. Return False if the run has ended.

        Raises:
            TimeoutError: There was none for so many seconds.
        """
        if not await self._until_known(seconds, since):
            raise TimeoutError
        return not self._is_over

    async def _until_known(
        self, seconds: float, since: float = 0.0, for_object: float = math.inf
    ) -> bool:
        """Wait for the head and a sign of life, or the end. Return whether that was in time."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds) as limit:
                while not (
                    self._is_over or (self.head is not None and (self._alive_at or 0.0) > since)
                ):
                    if self.lacks_begin:
                        limit.reschedule(now + min(seconds, for_object))
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def followed_by(self, run: Run) -> None:
        self._follower = run

    def leave(self) -> None:
        # Before Python 3.12, `wait_for` may swallow the cancellation in a client of Redis.
        self._has_left = True
        self._wakeup.close()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        try:
            while self.state is LeaseState.HELD and not self._has_left:
                await self._mark()
                await self._look()
                self._tell()
                await self._wait()
            # What keeps the segments alive has to know the ttl of the entry, too.
            is_known = self._is_complete and self._resource.lifetimes.left is None
            if self.state is LeaseState.RELEASED and not is_known:
                # At once: the entry may expire or be replaced before slow readers come to it.
                self._entry = await self._find_entry()
            self._body.find_object(self._entry or self._progress)
        except StoreError as exc:
            self._failure = exc
        finally:
            self._is_over = True
            self._tell()
            if self._follower is not None:
                self._follower.retire()
        await self._keep_renewing()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _mark(self) -> None:
        now = time.monotonic()
        if now - self._marked_at >= FOLLOWED_TTL / 3:
            self._marked_at = now
            await self._channel.mark_followed()

    async def _look(self) -> None:
        keys = self._lease_key, self._channel.progress_key
        for attempt in range(_MAX_FAILURES):
            try:
                lease, progress = await self._store.get_many(keys)
                break
            except StoreUnavailableError:
                raise
            except StoreError:
                if attempt == _MAX_FAILURES - 1:
                    raise
        if progress is not None:
            self._take_progress(progress)
        self._has_looked = True
        self._take_lease(lease)

    async def _wait(self) -> None:
        if self.state is LeaseState.HELD:
            await self._wakeup.wait(self._pause)
            self._pause = min(self._pause * _GROWTH, _LAST_LOOK)

    def _take_lease(self, value: bytes | None) -> None:
        lease, now = read_lease(value, self._lease_key), time.monotonic()
        if lease is None or lease.token != self.token:
            self.state = LeaseState.RELEASED
            return
        self.state = lease.state
        if lease.beat != self._lease.beat:
            self._lease = lease
            self._beat_at = self._alive_at = now
        elif now - self._beat_at > LEASE_TTL + BEAT and self.state is LeaseState.HELD:
            # The lease should have lapsed by now: something kept its key from expiring.
            self.state = LeaseState.RELEASED
            abandon(self.token)

    def _take_progress(self, value: bytes) -> None:
        try:
            progress = decode_progress(value, self.token)
        except UnsoundError:
            return
        if progress.tells_more_than(self._progress):
            if self._has_looked:
                # The run has gone on, or begun, since the previous look.
                self._alive_at = time.monotonic()
            self._progress = progress
            if self._index >= progress.first:
                self.head = progress.head
            self._pause = _NEXT_LOOK

    @property
    def lacks_begin(self) -> bool:
        """Whether the run goes on, and its begin has left the store already."""
        return self._progress is not None and self.head is None

    @property
    def _is_complete(self) -> bool:
        return self._progress is not None and self._progress.length is not None

    @property
    def _end(self) -> int | None:
        """The number of segments, None as long as it is not known."""
        if self._entry is not None:
            return len(self._entry.segments)
        return self._progress.segments if self._progress and self._is_complete else None

    @property
    def holds_begin(self) -> bool:
        """Whether the first chunk can be read now."""
        return self._body.holds_begin(self._progress)

    async def _find_entry(self) -> Entry | None:
        """Find the entry that the run has left, and no other run's."""
        found = await self._resource.look_up()
        is_its_own = isinstance(found, Hit) and found.entry.generation == self.token
        return found.entry if isinstance(found, Hit) and is_its_own else None

    async def _keep_renewing(self) -> None:
        """Renew the segments that are still to be handed on."""
        while self._end is not None and not self._has_left:
            await self._renew_from(self._index)
            await asyncio.sleep(RENEW_EVERY)

    async def _renew_from(self, index: int) -> None:
        if self._end is not None:
            is_stored = self._entry is not None or (self._progress and self._progress.stored)
            ttl = self._resource.lifetimes.segments_of(self._entry) if is_stored else RUN_TTL
            with contextlib.suppress(StoreError):
                await self._body.renew_if_due(range(index, self._end), ttl)

    # -- the source -------------------------------------------------------------------------

    is_exhausted = False

    async def drain(self, stream: Stream) -> None:
        try:
            while True:
                news = self._news
                await self._hand_on(stream)
                if self._is_over and news is self._news:
                    break
                if not self._is_over:
                    await news.wait()
            if self.state is LeaseState.ALONE:
                raise BrokenStreamError("the run is not shared any more")
            if self._failure is not None:
                raise self._failure
            await self._finish(stream)
        except (StoreError, UnsoundError) as exc:
            raise LostStreamError(f"a run of another process can't be followed: {exc}") from exc
        finally:
            self.leave()

    async def close(self) -> None:
        self.leave()

    async def _hand_on(self, stream: Stream) -> None:
        progress = self._progress
        if progress is None:
            return
        await self._hand_on_segments(stream, progress.segments)
        if self._index == progress.segments and progress.chunks:
            await self._give(stream, Segment(progress.chunks, False, progress.tail))

    async def _hand_on_segments(self, stream: Stream, end: int) -> None:
        while self._index < end:
            window = range(self._index, min(self._index + WINDOW, end))
            segments = await self._body.following(window)
            if not segments:
                return
            for segment in segments:
                await self._give(stream, segment)
                self._chunks.close(len(segment.chunks), continues=segment.continues)
                self._index += 1
                self._given = 0

    async def _give(self, stream: Stream, segment: Segment) -> None:
        """Hand on the new chunks of a segment."""
        chunks = self._joiner.add(segment, self._given)
        self._given = len(segment.chunks)
        for chunk in chunks:
            self._length += len(chunk)
            self._number += 1
            if stream.put(chunk):
                await stream.pace()

    async def _finish(self, stream: Stream) -> None:
        """Go on with the entry that the run has left."""
        if self._entry is not None and self.head is not None:
            self._progress = Progress.of(self._entry, self.head)
            await self._hand_on(stream)
        if self._progress is None or not self._is_complete:
            raise LostStreamError("the process that ran it is gone, or has not stored it")
        if self._length != self._progress.length or self._joiner.is_within_chunk:
            raise UnsoundError("length of the body")

    # -- slow readers -----------------------------------------------------------------------

    async def read(self, number: int) -> list[bytes]:
        """Return chunks that were handed on, from a number on; at least one."""
        try:
            # The segment may have chunks that were not handed on yet.
            return (await self._chunks.read(number, self))[: self._number - number]
        except (StoreError, UnsoundError) as exc:
            raise LostStreamError(f"chunks that a slow reader needs are lost: {exc}") from exc

    async def segment(self, index: int) -> Segment:
        """Return a segment; for the number of closed segments, the open one."""
        if index == self._index and self._progress and self._progress.segments == index:
            return Segment(self._progress.chunks, False, self._progress.tail)
        await self._renew_from(index)
        return await self._body.segment(index)

    async def _until_over(self) -> None:
        while not self._is_over:
            await self._news.wait()
