"""Another process's run, read from the store while it is recorded: a source of a flight here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from stream_cached.connections.deadline import Deadline
from stream_cached.entries.chunks import ChunkIndex, ChunkJoiner
from stream_cached.entries.recorder import RUN_TTL, WINDOW
from stream_cached.entries.resource import Hit, Resource
from stream_cached.errors import (
    BrokenStreamError,
    LostStreamError,
    StoreError,
    StoreUnavailableError,
)
from stream_cached.format.codec import UnsoundError, decode_segment
from stream_cached.format.progress import Head, LeaseRecord, LeaseState, Progress, decode_progress
from stream_cached.format.records import Entry, Segment
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import followed_key, progress_key, segment_key
from stream_cached.runs.lease import BEAT, FOLLOWED, FOLLOWED_TTL, LEASE_TTL, abandon, read_claim
from stream_cached.stores.protocol import wakeup
from stream_cached.streams.stream import Flight
from stream_cached.tasks import spawn

#: Seconds between two looks at a run: at first, after news, and at the most.
_FIRST_LOOK = 0.01
_NEXT_LOOK = 0.025
_LAST_LOOK = 0.2
_GROWTH = 1.5

#: How many looks in a row may fail.
_MOST_FAILURES = 3

#: Seconds after which what is still to be read of an entry is kept from expiring.
_KEEP_EVERY = RUN_TTL / 3


class RemoteRun:
    """
    What one run in another process has come to, as it goes on.

    Args:
        resource: What it is a response of.
        lease_key: Where it says that it goes on.
        claim: What it says there.
    """

    def __init__(self, resource: Resource, lease_key: str, claim: LeaseRecord) -> None:
        self.head: Head | None = None
        """The response without its body, once that is known."""
        self.state = LeaseState.HELD
        self.on_over: Callable[[], object] = lambda: None
        """Called once the run is over, however far those are who read it here."""
        self._resource = resource
        self._store = resource.store
        self._lease_key = lease_key
        self._claim = claim
        self._token = claim.token
        self._progress: Progress | None = None
        self._entry: Entry | None = None
        # One task watches, however slow those are who read here.
        self._watcher: asyncio.Task[None] | None = None
        self._is_over = False
        self._has_looked = False
        self._failure: StoreError | None = None
        self._news = asyncio.Event()
        self._alive_at: float | None = None
        self._beat_at = time.monotonic()
        self._marked_at = 0.0
        self._kept_at = 0.0
        self._pause = _FIRST_LOOK
        self._wakeup = wakeup(self._store, progress_key(resource.key, self._token))
        self._archive = ChunkIndex(self._segment)
        self._joiner = ChunkJoiner()
        self._index = 0
        self._given = 0
        self._length = self._number = 0

    # -- what the store says ----------------------------------------------------------------

    async def begin(self, seconds: float) -> bool:
        """
        Wait for the head, and a sign of life; or the end.

        Who comes after a run was lost, and before its lease has lapsed, is then not given what
        there is of it.

        Returns:
            Whether the time was enough.

        Raises:
            StoreError: The store failed.
        """
        # It is not part of the request that comes first.
        with Deadline(None):
            self._watcher = spawn(self._watch())
        is_known = await self._until(lambda: bool(self.head and self._alive_at), seconds)
        if self._failure is not None:
            raise self._failure
        return is_known

    async def shows_life(self, since: float, seconds: float) -> bool:
        """
        Wait for a sign of life.

        Args:
            since: When it may have been, at the earliest, by the monotonic clock.
            seconds: How long to wait for it.

        Returns:
            False where the run is over: it may have been stored.

        Raises:
            BypassError: That was not enough.
        """
        if not await self._until(lambda: (self._alive_at or 0.0) >= since, seconds):
            raise BypassError(Finding(NotCached.WAITED))
        return not self._is_over

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so, or the run is over; return whether that was in time."""
        try:
            async with asyncio.timeout(seconds):
                while not (self._is_over or condition()):
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def leave(self) -> None:
        """Wait for nothing more of it."""
        self._wakeup.close()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        try:
            while self.state is LeaseState.HELD:
                await self._mark()
                await self._look()
                self._tell()
                await self._wait()
            if self.state is LeaseState.RELEASED and not self._is_complete:
                # At once: it may expire, or be replaced, before slow readers come to it.
                self._entry = await self._what_it_left()
        except StoreError as exc:
            self._failure = exc
        finally:
            self._is_over = True
            self._tell()
            self.on_over()
        await self._keep()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _mark(self) -> None:
        """Let whoever runs know that somebody reads it here."""
        now = time.monotonic()
        if now - self._marked_at >= FOLLOWED_TTL / 3:
            self._marked_at = now
            mark = followed_key(self._resource.key, self._token), FOLLOWED
            with contextlib.suppress(StoreError):
                await self._store.set_many([mark], FOLLOWED_TTL)

    async def _look(self) -> None:
        """See what there is."""
        keys = self._lease_key, progress_key(self._resource.key, self._token)
        for attempt in range(_MOST_FAILURES):
            try:
                lease, progress = await self._store.get_many(keys)
                break
            except StoreUnavailableError:
                raise
            except StoreError:
                if attempt == _MOST_FAILURES - 1:
                    raise
        if progress is not None:
            self._take_progress(progress)
        self._has_looked = True
        self._take_standing(lease)

    async def _wait(self) -> None:
        """Wait a little, unless the run is over."""
        if self.state is LeaseState.HELD:
            await self._wakeup.wait(self._pause)
            self._pause = min(self._pause * _GROWTH, _LAST_LOOK)

    def _take_standing(self, lease: bytes | None) -> None:
        claim, now = read_claim(lease, self._lease_key), time.monotonic()
        if claim is None or claim.token != self._token:
            self.state = LeaseState.RELEASED
            return
        self.state = claim.state
        if claim.beat != self._claim.beat:
            self._claim = claim
            self._beat_at = self._alive_at = now
        elif now - self._beat_at > LEASE_TTL + BEAT and self.state is LeaseState.HELD:
            # It should have lapsed by now: its key was kept from expiring.
            self.state = LeaseState.RELEASED
            abandon(self._token)

    def _take_progress(self, value: bytes) -> None:
        try:
            progress = decode_progress(value, self._token)
        except UnsoundError:
            return
        position = progress.segments, len(progress.chunks)
        known = self._progress
        is_last = progress.length is not None
        if is_last or known is None or position > (known.segments, len(known.chunks)):
            if self._has_looked:
                # It has gone on, or begun, since the look before this one.
                self._alive_at = time.monotonic()
            self._progress = progress
            self.head = progress.head
            self._pause = _NEXT_LOOK

    @property
    def _is_complete(self) -> bool:
        """Whether there is nothing more to come than what is known."""
        return self._progress is not None and self._progress.length is not None

    @property
    def _end(self) -> int | None:
        """The number of segments; None where that is not known."""
        if self._entry is not None:
            return len(self._entry.segments)
        return self._progress.segments if self._progress and self._is_complete else None

    async def _what_it_left(self) -> Entry | None:
        found = await self._resource.look_up()
        is_its_own = isinstance(found, Hit) and found.entry.generation == self._token
        return found.entry if isinstance(found, Hit) and is_its_own else None

    async def _keep(self) -> None:
        """Keep alive what is still to be handed on."""
        while self._end is not None:
            await self._keep_from(self._index)
            await asyncio.sleep(_KEEP_EVERY)

    async def _keep_from(self, index: int) -> None:
        now = time.monotonic()
        if self._end is not None and now - self._kept_at >= _KEEP_EVERY:
            self._kept_at = now
            keys = self._keys(range(index, self._end))
            is_stored = self._entry is not None or (self._progress and self._progress.stored)
            ttl = self._resource.lifetimes.segments if is_stored else RUN_TTL
            with contextlib.suppress(StoreError):
                await self._store.touch_many(keys, ttl)

    # -- the source -------------------------------------------------------------------------

    async def drain(self, flight: Flight) -> None:
        try:
            while True:
                news = self._news
                await self._give_what_there_is(flight)
                if self._is_over and news is self._news:
                    break
                if not self._is_over:
                    await news.wait()
            if self.state is LeaseState.ALONE:
                raise BrokenStreamError("it is shared with nobody any more")
            if self._failure is not None:
                raise self._failure
            await self._finish(flight)
        except (StoreError, UnsoundError) as exc:
            raise LostStreamError(f"what another process runs can't be followed: {exc}") from exc
        finally:
            self.leave()

    async def close(self) -> None:
        self.leave()

    async def _give_what_there_is(self, flight: Flight) -> None:
        progress = self._progress
        if progress is None:
            return
        await self._give_segments(flight, progress.segments)
        if self._index == progress.segments and progress.chunks:
            await self._give(flight, Segment(progress.chunks, False, progress.tail))

    async def _give_segments(self, flight: Flight, end: int) -> None:
        while self._index < end:
            for segment in await self._read(range(self._index, min(self._index + WINDOW, end))):
                await self._give(flight, segment)
                self._archive.close(len(segment.chunks), continues=segment.continues)
                self._index += 1
                self._given = 0

    async def _give(self, flight: Flight, segment: Segment) -> None:
        """Hand on what of a segment is new."""
        chunks = self._joiner.add(segment, self._given)
        self._given = len(segment.chunks)
        for chunk in chunks:
            self._length += len(chunk)
            self._number += 1
            if flight.feed(chunk):
                await flight.pace()

    async def _finish(self, flight: Flight) -> None:
        """Go on with what the run has left."""
        entry = self._entry
        if entry is not None and self.head is not None:
            self._progress = Progress.of(entry, self.head)
            await self._give_what_there_is(flight)
        if self._progress is None or not self._is_complete:
            raise LostStreamError("the process that ran it is gone, or has not stored it")
        if self._length != self._progress.length or self._joiner.is_within_chunk:
            raise UnsoundError("length of the body")

    # -- segments ---------------------------------------------------------------------------

    async def read(self, number: int) -> list[bytes]:
        """
        Return chunks that were handed on, from a number on; at least one.

        Raises:
            BrokenStreamError: They are lost.
        """
        try:
            # There may be more, which was not handed on yet.
            return (await self._archive.read(number))[: self._number - number]
        except (StoreError, UnsoundError) as exc:
            raise LostStreamError(f"what a slow reader had still to read is lost: {exc}") from exc

    async def _segment(self, index: int) -> Segment:
        if index == self._index and self._progress and self._progress.segments == index:
            return Segment(self._progress.chunks, False, self._progress.tail)
        await self._keep_from(index)
        (segment,) = await self._read(range(index, index + 1))
        return segment

    async def _read(self, indexes: range) -> list[Segment]:
        values = await self._store.get_many(self._keys(indexes))
        return [self._decode(i, value) for i, value in zip(indexes, values, strict=True)]

    def _keys(self, indexes: range) -> list[str]:
        return [segment_key(self._resource.key, self._token, index) for index in indexes]

    def _decode(self, index: int, value: bytes | None) -> Segment:
        if value is None:
            raise UnsoundError(f"segment {index} is missing")
        return decode_segment(value, self._token, index)
