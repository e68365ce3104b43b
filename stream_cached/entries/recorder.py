"""What stores a stream: chunks in, segments out; then commit or discard.

The recorder is fed in passing, and the stream never waits for it. A task of its own writes the
segments, with the ttl of a run. The record is written last, and that one write is the commit.
Whatever goes wrong costs the entry and nothing else: the segments are deleted, and segments that
can't be deleted expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time

from stream_cached.entries.body import RENEW_EVERY, RUN_TTL, WINDOW, PackedSegment, Seal
from stream_cached.entries.chunks import ChunkIndex, ChunkPacker
from stream_cached.entries.protocols import Channel, Owner
from stream_cached.entries.resource import Resource
from stream_cached.entries.telling import Telling
from stream_cached.errors import BrokenStreamError, LostStreamError, StoreError
from stream_cached.format.codec import encode_record
from stream_cached.format.records import Entry, Segment
from stream_cached.format.validation import UnsoundError
from stream_cached.http.headers import content_length
from stream_cached.http.reasons import NotCached
from stream_cached.limits import Limits
from stream_cached.tasks import spawn

#: Seconds until followers learn of a run's progress: for the first time, and from then on.
TELL_FIRST_AFTER = 0.01
TELL_AFTER = 0.05


class Recorder:
    """Records one run. `entry` is the response without its body."""

    def __init__(
        self,
        owner: Owner,
        resource: Resource,
        entry: Entry,
        *,
        varies_on: frozenset[str],
        limits: Limits,
        channel: Channel | None = None,
    ) -> None:
        self.failure: NotCached | None = None
        self._owner = owner
        self._resource = resource
        self._entry = entry
        self._body = resource.body(entry.generation)
        self._varies_on = varies_on
        self._limits = limits
        self._channel = channel
        self._has_news = False
        self._tell_timer: asyncio.TimerHandle | None = None
        self._length = 0
        self._index = ChunkIndex(self)
        self._packer = ChunkPacker(hashes=entry.etag is not None)
        self._telling = None if channel is None else Telling(channel, self._packer)
        self._seals: list[Seal] = []
        self._queue: list[PackedSegment] = []
        self._pending = 0
        self._written = 0
        self._is_held = self._is_left = False
        self._closing = False
        self._wakeup = asyncio.Event()
        self._kept_up = asyncio.Event()
        self._kept_up.set()
        self._writer: asyncio.Task[None] | None = None
        self._cleanup: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_failed(self) -> bool:
        return self.failure is not None

    @property
    def has_room(self) -> bool:
        """Whether a source without readers may go on."""
        return self.is_failed or self._pending < self._limits.max_pending // 2

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that the store needs time to catch up."""
        return not self._kept_up.is_set()

    async def catch_up(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._kept_up.wait()

    def start(self) -> None:
        """Begin to count `max_duration`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limits.max_duration, self.fail, NotCached.DURATION)
        # Also before the first chunk: followers then know the head of the response.
        self._tell_later(TELL_FIRST_AFTER)

    # -- chunks in --------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Take one chunk; never wait."""
        # Also if there will be no entry: readers may have joined before that was known.
        if reason := self._owner.objection():
            self.fail(reason)
        if self.failure is not None:
            return
        if self._length + len(chunk) > self._limits.max_body:
            self.fail(NotCached.BODY_SIZE)
            return
        # Before the chunk, not after it: a chunk larger than the bound is in memory anyway.
        if self._pending > self._limits.max_pending:
            self.fail(NotCached.BEHIND)
            return
        self._length += len(chunk)
        if self._channel is not None and self._tell_timer is None:
            self._tell_later()
        for segment in self._packer.add(chunk):
            self._enqueue(segment)

    def _enqueue(self, segment: Segment) -> None:
        if self.failure is not None:
            return
        packed = self._body.pack(len(self._seals), segment)
        self._seals.append(packed.seal)
        self._index.close(len(segment.chunks), continues=segment.continues)
        self._queue.append(packed)
        self._pending += len(packed.value)
        if self._pending > self._limits.max_pending // 4:
            self._kept_up.clear()
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        self._wakeup.set()

    # -- progress for followers -------------------------------------------------------------

    def _tell_later(self, seconds: float = TELL_AFTER) -> None:
        if self._channel is not None and self.failure is None and not self._closing:
            loop = asyncio.get_running_loop()
            self._tell_timer = loop.call_later(seconds, self._tell_now)

    def _tell_now(self) -> None:
        self._tell_timer = None
        self._has_news = True
        self._wake_writer()

    async def _tell_news(self) -> None:
        assert self._telling is not None
        if await self._telling.needs_segment(self._length) and not self._closing:
            self._enqueue(self._packer.close())
        if self._queue:
            await self._write_window()
        if self._closing:
            return
        is_next = self._written == len(self._seals)
        is_told = await self._telling.tell(self._written, is_next=is_next)
        if not is_told and self._tell_timer is None:
            self._tell_later()

    # -- segments out -----------------------------------------------------------------------

    async def _write(self) -> None:
        """Write and renew segments until closed or failed."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        try:
            while self.failure is None and not (self._closing and not self._queue):
                if loop.time() - renewed >= RENEW_EVERY:
                    renewed = loop.time()
                    await self._renew()
                    self._has_news = self._channel is not None
                if self._has_news and not self._closing:
                    self._has_news = False
                    await self._tell_news()
                elif self._queue:
                    await self._write_window()
                else:
                    self._wakeup.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RENEW_EVERY):
                            await self._wakeup.wait()
        except StoreError as exc:
            self.fail(NotCached.STORE, exc)

    async def _write_window(self) -> None:
        window = self._queue[:WINDOW]
        await self._body.write(window)
        del self._queue[: len(window)]
        self._written += len(window)
        self._pending -= sum(len(segment.value) for segment in window)
        if self._pending <= self._limits.max_pending // 4:
            self._kept_up.set()
        if self._tell_timer is None:
            self._tell_later()
        self._owner.recorder_moved()

    async def _renew(self) -> None:
        if await self._body.renew(range(self._written), RUN_TTL) != self._written:
            raise StoreError("segments are missing that were written")

    # -- commit or discard ------------------------------------------------------------------

    async def commit(self) -> None:
        """Publish the complete body, or fail."""
        # The stream is over: from here on, the store's own time-outs bound what is left.
        self._stop_timers()
        declared = content_length(self._entry.headers)
        if reason := self._owner.objection():
            self.fail(reason)
        elif declared is not None and declared != self._length:
            self.fail(NotCached.CONTENT_LENGTH)
        try:
            if self.failure is None:
                await self._commit()
        except StoreError as exc:
            self.fail(NotCached.STORE, exc)

    async def settled(self) -> None:
        """Wait until the segments of a failed run are deleted."""
        if self._cleanup is not None:
            await self._cleanup

    async def _commit(self) -> None:
        etag = None if self._entry.etag is None else f'{self._entry.etag}"{self._packer.digest()}"'
        entry = dataclasses.replace(self._entry, length=self._length, etag=etag)
        self._closing = True
        if not self._seals:
            whole = self._packer.open
            inline = dataclasses.replace(entry, chunks=whole.chunks)
            size = len(encode_record(inline)) + self._length + self._resource.versions_size
            if size <= self._limits.inline_max:
                await self._written_out()
                await self._publish(dataclasses.replace(inline, body=whole.payload))
                return
        if not self._packer.is_empty:
            self._enqueue(self._packer.close())
        await self._written_out()
        if self.failure is None:
            await self._publish(dataclasses.replace(entry, segments=tuple(self._seals)))

    async def _written_out(self) -> None:
        self._wakeup.set()
        if self._writer is not None:
            await self._writer

    async def _publish(self, entry: Entry) -> None:
        lifetimes = self._resource.lifetimes
        if lifetimes.ttl is not None and lifetimes.is_told and entry.fresh_until is None:
            entry = dataclasses.replace(entry, fresh_until=time.time() + lifetimes.ttl)
        reason: NotCached | None = NotCached.OVERTAKEN
        if not await self._owner.has_lost_lease() or not await self._resource.was_replaced():
            reason = await self._resource.publish(entry, self._varies_on, self._owner.lease)
        if self._channel is not None and reason in (None, NotCached.OVERTAKEN):
            self._channel.complete(entry, stored=reason is None)
            # Followers that have begun to read the body may go on to its end.
            self._is_left = reason is not None and await self._channel.is_followed()
        if reason is None:
            self._owner.visible()
            await self._owner.stored()
        else:
            self.fail(reason)

    async def discard(self) -> None:
        """Delete what was written."""
        self.fail(NotCached.INCOMPLETE)
        await self.settled()

    async def read(self, number: int) -> list[bytes]:
        """Return chunks that were fed, from a number on; at least one."""
        return await self._index.read(number)

    async def segment(self, index: int) -> Segment:
        """Return a segment, wherever it is by now."""
        if index == len(self._seals):
            if self.failure is not None and not self._is_held:
                raise BrokenStreamError("chunks that a slow reader needs are not stored")
            return self._packer.open
        try:
            if index >= self._written and self._queue:
                packed = self._queue[index - self._written]
                return self._body.unpack(index, packed.value)
            return await self._stored(index)
        except (StoreError, UnsoundError, LookupError) as exc:
            if isinstance(exc, UnsoundError) and not self._closing:
                self.fail(NotCached.STORE, StoreError("segments are missing that were written"))
            raise LostStreamError(f"chunks that a slow reader needs are lost: {exc}") from exc

    async def _stored(self, index: int) -> Segment:
        if self._writer is None or self._writer.done():
            # The writer renews the segments no more.
            ttl = RUN_TTL if self.failure is not None else self._resource.lifetimes.segments
            await self._body.renew_if_due(range(index, len(self._seals)), ttl)
        (segment,) = await self._body.read(range(index, index + 1))
        return segment

    def release(self) -> None:
        """Delete what a failed run has written, once no slow reader needs it."""
        if self._is_held:
            self._is_held = False
            self._cleanup = spawn(self._clean_up(None))

    def fail(self, reason: NotCached, cause: Exception | None = None, known: bool = False) -> None:
        """Give the entry up, at once and once. The store has a mark already if that is `known`."""
        if self.failure is not None:
            return
        self.failure = reason
        self._kept_up.set()
        self._stop_timers()
        mark = reason if reason.is_lasting and not known else None
        # A slow reader goes on to the end if only a limit was passed.
        self._is_held = reason is not NotCached.INCOMPLETE and self._owner.has_slow_readers
        if not self._is_held:
            self._cleanup = spawn(self._clean_up(mark))
        elif mark is not None:
            self._cleanup = spawn(self._mark_unstorable(mark))
        self._owner.unstored(reason, cause)

    async def _mark_unstorable(self, mark: NotCached) -> None:
        with contextlib.suppress(StoreError):
            await self._resource.mark_unstorable(mark, self._varies_on)

    async def _clean_up(self, mark: NotCached | None) -> None:
        self._packer.clear()
        self._queue = []
        self._wakeup.set()
        # A write that goes on would come after the deletion. Wait for it; it is bounded.
        if self._writer is not None and self._writer is not asyncio.current_task():
            await asyncio.wait([self._writer])
        # If the store fails, the segments expire.
        with contextlib.suppress(StoreError):
            if self._seals and self._is_left:
                # The body expires unless its followers renew it.
                await self._body.renew(range(len(self._seals)), RUN_TTL)
            elif self._seals:
                await self._body.drop(range(len(self._seals)))
        if mark is not None:
            await self._mark_unstorable(mark)

    def _stop_timers(self) -> None:
        for timer in filter(None, (self._timer, self._tell_timer)):
            timer.cancel()
