"""What stores a stream: chunks in, segments out; then commit or discard.

The recorder is fed in passing, and the stream never waits for it. A task of its own writes the
segments, with the ttl of a run. The record is written last, and that one write is the commit.
Whatever goes wrong costs the entry and nothing else: the segments are deleted, and segments that
can't be deleted expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from stream_cached.bodies.watched import TooManyUploadsError
from stream_cached.entries.body import RENEW_EVERY, RUN_TTL, PackedSegment
from stream_cached.entries.body_digest import body_digest
from stream_cached.entries.coding import Coder
from stream_cached.entries.late import LateChunks
from stream_cached.entries.protocols import Channel, Owner
from stream_cached.entries.resource import Resource
from stream_cached.entries.segment_queue import SegmentQueue
from stream_cached.entries.telling import Telling
from stream_cached.errors import StoreError
from stream_cached.format.codec import fits
from stream_cached.format.records import ClosedSegment, Entry
from stream_cached.http.reasons import NotCached
from stream_cached.limits import Limits
from stream_cached.tasks import spawn

#: Seconds until followers learn of a run's progress: for the first time, and from then on.
TELL_FIRST_AFTER = 0.01
TELL_AFTER = 0.05


class Recorder:
    """Records one run. `entry` is the response without its body."""

    failure: NotCached | None = None
    _length = 0
    _late: LateChunks | None = None
    _is_held = _is_left = _closing = _has_news = False
    _writer: asyncio.Task[None] | None = None
    _cleanup: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _tell_timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        owner: Owner,
        resource: Resource,
        entry: Entry,
        *,
        varies_on: frozenset[str],
        hashes: bool = False,
        limits: Limits,
        channel: Channel | None = None,
        coder: Coder | None = None,
    ) -> None:
        self._owner, self.wakes_source = owner, owner.recorder_moved
        self._resource, self._entry, self._channel = resource, entry, channel
        self._body, self._varies_on = resource.records.body(entry.generation), varies_on
        self._limits, self.turn_after = limits, limits.pending_share
        self._packer = self._body.packer(limits, is_coded=coder is not None)
        self._telling = None if channel is None else Telling(channel, self._packer)
        digest = body_digest(sha256=hashes, has_tag=entry.etag is not None)
        self._queue = SegmentQueue(limits.max_pending, self._body, digest, coder)

    @property
    def is_failed(self) -> bool:
        return self.failure is not None

    @property
    def has_room(self) -> bool:
        return self.is_failed or self._queue.has_room

    @property
    def holds_begin(self) -> bool:
        return not self.is_failed and not self._body.first

    @property
    def is_awaited(self) -> bool:
        return self._late is not None and self._late.are_awaited

    @property
    def is_behind(self) -> bool:
        return self._queue.is_behind

    async def catch_up(self, timeout: float) -> None:
        await self._queue.catch_up(timeout)

    def pending(self) -> int:
        return self._queue.pending()

    async def read(self, number: int) -> list[bytes]:
        """Return chunks that were fed, from a number on; at least one."""
        self._late = self._late or LateChunks(self, self._body, self._queue, self._packer)
        return await self._late.read(number)

    def start(self) -> None:
        """Begin to count `max_duration`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limits.max_duration, self.fail, NotCached.DURATION)
        # Also before the first chunk: followers then know the head of the response.
        self._tell_later(TELL_FIRST_AFTER)

    # -- chunks in --------------------------------------------------------------------------

    def feed(self, chunks: Sequence[bytes]) -> None:
        """Take chunks; never wait."""
        # Also if there will be no entry: readers may have joined before that was known.
        if reason := self._owner.objection():
            self.fail(reason)
        if self.failure is not None:
            return
        size = sum(map(len, chunks))
        if self._length + size > self._limits.max_body:
            self.fail(NotCached.BODY_SIZE)
            return
        # Before the chunks, not after them: one larger than the bound is in memory anyway.
        if self._queue.is_full:
            self.fail(NotCached.BEHIND)
            return
        self._length += size
        if self._channel is not None and self._tell_timer is None:
            self._tell_later()
        for segment in self._packer.add(chunks, size):
            self._enqueue(segment)

    def _enqueue(self, segment: ClosedSegment) -> None:
        self._queue.put(segment)
        if not (self._closing and self._queue.fits_commit):
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer is None:
            self._wakeup = asyncio.Event()
            self._writer = asyncio.create_task(self._write())
        self._wakeup.set()

    # -- progress for followers -------------------------------------------------------------

    def _tell_later(self, seconds: float = TELL_AFTER) -> None:
        if not (self._channel is None or self._tell_timer or self.failure or self._closing):
            self._tell_timer = asyncio.get_running_loop().call_later(seconds, self._tell_now)

    def _tell_now(self) -> None:
        self._tell_timer = None
        self._has_news = True
        self._wake_writer()

    async def _tell_news(self) -> None:
        assert self._telling is not None
        needs_segment = await self._telling.needs_segment(self._length)
        # Slow readers go on to read the open chunks of a run that has failed meanwhile.
        if needs_segment and self.failure is None and not self._closing:
            self._enqueue(self._packer.close())
        if self._queue and self.failure is None:
            await self._write_window()
        if self._closing or self.failure is not None:
            return
        written, first = self._queue.written, self._body.first
        is_told = await self._telling.tell(written, first, is_next=written == self._queue.count)
        if not is_told:
            self._tell_later()

    # -- segments out -----------------------------------------------------------------------

    async def _write(self) -> None:
        """Write and renew segments until closed or failed."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        try:
            while self.failure is None and not (self._closing and self._queue.fits_commit):
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
        except TooManyUploadsError:
            self.fail(NotCached.BEHIND)
        except StoreError as exc:
            self.fail(NotCached.STORE, exc)
        except BaseException:
            # Nobody else can clean up after a task that is cancelled.
            await self._body.abort()
            raise

    async def _write_window(self) -> None:
        await self._queue.write_next()
        self._tell_later()
        self._owner.recorder_moved()

    async def _renew(self) -> None:
        written = self._queue.written
        if await self._body.renew(range(written), RUN_TTL) != written:
            raise StoreError("segments are missing that were written")

    # -- commit or discard ------------------------------------------------------------------

    async def commit(self) -> None:
        """Publish the complete body, or fail."""
        # The stream is over: from here on, the store's own time-outs bound what is left.
        self._stop_timers()
        if reason := self._owner.objection():
            self.fail(reason)
        elif self._owner.declared not in (None, self._length):
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
        entry = self._entry
        entry.length, entry.took = self._length, self._owner.took
        self._closing = True
        room = self._limits.inline_max - self._resource.versions_size
        if not self._queue.count and self._packer.filled <= room:
            whole = self._packer.open
            if fits(entry, whole, room):
                await self._written_out()
                await self._queue.put_inline(whole, entry)
                await self._publish([])
                return
        if not self._packer.is_empty:
            self._enqueue(self._packer.close())
        await self._written_out()
        last = await self._queue.put_segments(entry)
        if self.failure is None:
            entry.sizes = await self._body.finish()
            await self._publish(last)

    async def _written_out(self) -> None:
        if self._writer is not None:
            self._wakeup.set()
            await self._writer

    async def _publish(self, last: Sequence[PackedSegment]) -> None:
        """Write what is left of the body, and the record."""
        lifetimes, entry, digest = self._resource.lifetimes, self._entry, self._queue.digest()
        if entry.etag is not None:
            entry.etag = f'{entry.etag}"{digest[:32]}"'
        if lifetimes.ttl is not None and lifetimes.is_told and entry.fresh_until is None:
            entry.fresh_until = time.time() + lifetimes.ttl
        reason: NotCached | None = NotCached.OVERTAKEN
        if not await self._owner.has_lost_lease() or not await self._resource.was_replaced():
            items = self._body.items(last) if last else ()
            reason = await self._resource.publish(entry, self._varies_on, self._owner.lease, items)
        if self._channel is not None and reason in (None, NotCached.OVERTAKEN):
            if last and reason is not None:
                await self._body.write(last)
            self._channel.complete(entry, stored=reason is None)
            # Followers that have begun to read the body may go on to its end.
            self._is_left = reason is not None and await self._channel.is_followed()
        if reason is not None:
            self.fail(reason)
            return
        if last:
            self._queue.wrote(len(last))
        self._owner.visible()
        await self._owner.stored(entry, digest)
        if self._queue.count:
            # What is left of it expires.
            with contextlib.suppress(StoreError):
                await self._body.recorded()

    async def discard(self) -> None:
        """Delete what was written."""
        self.fail(NotCached.INCOMPLETE)
        await self.settled()

    @property
    def is_lost(self) -> bool:
        return self.failure is not None and not self._is_held

    @property
    def is_renewing(self) -> bool:
        return self._writer is not None and not self._writer.done()

    @property
    def ttl(self) -> float | None:
        return RUN_TTL if self.failure is not None else self._resource.lifetimes.segments

    def lost_segments(self) -> None:
        if not self._closing:
            self.fail(NotCached.STORE, StoreError("segments are missing that were written"))

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
        self._queue.give_up()
        self._stop_timers()
        mark = reason if reason.is_lasting and not known else None
        # A slow reader goes on to the end if only a limit was passed.
        self._is_held = reason is not NotCached.INCOMPLETE and self._owner.has_slow_readers
        self._cleanup = spawn(self._give_up(mark) if self._is_held else self._clean_up(mark))
        self._owner.unstored(reason, cause)

    async def _give_up(self, mark: NotCached | None) -> None:
        await self._body.abort()
        if mark is not None:
            with contextlib.suppress(StoreError):
                await self._resource.mark_unstorable(mark, self._varies_on)

    async def _clean_up(self, mark: NotCached | None) -> None:
        self._packer.clear()
        self._queue.clear()
        # A write that goes on would come after the deletion. Wait for it; it is bounded.
        if self._writer is not None and not self._writer.done():
            self._wakeup.set()
            await self._body.abort()
            await asyncio.wait([self._writer])
        if segments := range(self._queue.count):
            # If the store fails, they expire; and if they are left, unless followers renew them.
            with contextlib.suppress(StoreError):
                if self._is_left:
                    await self._body.leave(segments)
                else:
                    await self._body.drop(segments)
        if mark is not None:
            await self._give_up(mark)

    def _stop_timers(self) -> None:
        for timer in filter(None, (self._timer, self._tell_timer)):
            timer.cancel()
