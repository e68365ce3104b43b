"""The reader that stores: chunks in, segments out; then commit or discard.

It is fed in passing and never waited for. Segments are written behind, by a task of its own, with
the ttl of a run; the record is written last, and that one write is the commit. Whatever goes wrong
costs the entry and nothing else: the segments are deleted, and those that can't be die by their
ttl.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from stream_cached.entries.chunks import ChunkIndex
from stream_cached.entries.resource import Resource
from stream_cached.errors import BrokenStreamError, LostStreamError, StoreError
from stream_cached.format.codec import UnsoundError, decode_segment, encode_record, encode_segment
from stream_cached.format.envelope import PREFIX_SIZE, read_prefix
from stream_cached.format.records import Entry, Segment
from stream_cached.http.headers import content_length
from stream_cached.http.reasons import NotCached
from stream_cached.keys.names import segment_key
from stream_cached.limits import VALUE_SIZE, Limits
from stream_cached.tasks import spawn

#: Segments that are written, or read, in one round trip.
WINDOW = 4

#: Seconds that a segment lives unless its run renews it.
RUN_TTL = 60.0

#: Bytes of a chunk's length in the table of its segment.
_LENGTH_SIZE = 5

#: What the next run would come to, too, so that it is not worth recording for a while.
_LASTING = frozenset({NotCached.BODY_SIZE, NotCached.DURATION, NotCached.READ})

#: Seconds after which others are told what a run has come to, for the first time and then.
TELL_FIRST_AFTER = 0.01
TELL_AFTER = 0.05

#: Bytes of chunks that they are told again and again, until these are a segment.
_TOLD = 64 * 1024

#: Chunks in one segment at most, however small they are.
_MAX_CHUNKS = 16 * 1024


class News(Protocol):
    """Where others learn what a run has come to."""

    async def tell(self, segments: int, chunks: tuple[int, ...], tail: bytes) -> None:
        """Say how many segments are written, the lengths of the chunks that follow, and those."""
        ...

    def complete(self, entry: Entry, *, stored: bool) -> None:
        """Have the whole body said once it is over, and whether it is one that is served."""
        ...

    async def is_followed(self) -> bool:
        """Say whether anybody reads it there."""
        ...


class Recorder:
    """
    Records one run.

    Args:
        resource: What it is a response of.
        entry: The response without its body; its generation names the segments.
        varies_on: The names in its Vary that are not part of the resource's key.
        limits: What it may use.
        objection: Called before each chunk and before the commit; returns why there must be none,
            if there is a reason.
        on_stored: Called once the entry is visible.
        on_failure: Called once with the reason why it will not be, and its cause.
        news: For those who follow the run in other processes; None where nobody can.
    """

    def __init__(
        self,
        resource: Resource,
        entry: Entry,
        *,
        varies_on: frozenset[str],
        limits: Limits,
        objection: Callable[[], NotCached | None],
        on_stored: Callable[[], Awaitable[None]],
        on_failure: Callable[[NotCached, Exception | None], object],
        news: News | None = None,
    ) -> None:
        self.failure: NotCached | None = None
        self.on_progress: Callable[[], object] = lambda: None
        self.is_needed: Callable[[], bool] = lambda: False
        self.on_visible: Callable[[], object] = lambda: None
        self._resource = resource
        self._store = resource.store
        self._entry = entry
        self._varies_on = varies_on
        self._limits = limits
        self._objection = objection
        self._on_stored = on_stored
        self._on_failure = on_failure
        self._news = news
        self._has_news = False
        self._tell_timer: asyncio.TimerHandle | None = None
        self._length = 0
        self._archive = ChunkIndex(self._segment)
        self._is_held = self._is_left = False
        self._renewed = asyncio.get_running_loop().time()
        self._pieces: list[bytes] = []
        self._lengths: list[int] = []
        self._filled = 0
        self._segments: list[tuple[int, int]] = []
        self._queue: list[tuple[str, bytes]] = []
        self._pending = 0
        self._written = 0
        self._closing = False
        self._wakeup = asyncio.Event()
        self._kept_up = asyncio.Event()
        self._kept_up.set()
        self._writer: asyncio.Task[None] | None = None
        self._cleanup: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """Whether a source that is read by nobody else may go on."""
        return self.failure is not None or self._pending < self._limits.max_pending // 2

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that the store should be given a turn."""
        return not self._kept_up.is_set()

    async def catch_up(self, timeout: float) -> None:
        """Wait until the recorder is no longer behind, for `timeout` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._kept_up.wait()

    def start(self) -> None:
        """Begin to count `max_duration`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limits.max_duration, self.fail, NotCached.DURATION)
        # Also where there is no chunk yet: who waits for the run then knows what it answers.
        self._tell_later(TELL_FIRST_AFTER)

    # -- chunks in --------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Take one chunk; never waits."""
        if self.failure is not None:
            return
        if reason := self._objection():
            self.fail(reason)
            return
        if self._length + len(chunk) > self._limits.max_body:
            self.fail(NotCached.BODY_SIZE)
            return
        # Before the chunk, not after it: one larger than the bound is in memory anyway.
        if self._pending > self._limits.max_pending:
            self.fail(NotCached.BEHIND)
            return
        self._length += len(chunk)
        if self._news is not None and self._tell_timer is None:
            self._tell_later()
        if len(self._lengths) >= _MAX_CHUNKS:
            self._cut(continues=False)
        room = self._room()
        if len(chunk) <= room:
            self._add(chunk)
            return
        rest = memoryview(chunk)
        if not room:
            self._cut(continues=False)
            room = self._room()
        while len(rest) > room:
            self._add(bytes(rest[:room]))
            rest = rest[room:]
            self._cut(continues=True)
            room = self._room()
        self._add(bytes(rest))

    def _room(self) -> int:
        used = self._filled + _LENGTH_SIZE * (len(self._lengths) + 2) + PREFIX_SIZE
        return max(0, VALUE_SIZE - used)

    def _add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._lengths.append(len(piece))
        self._filled += len(piece)

    def _cut(self, *, continues: bool) -> None:
        """Close the segment at hand, and hand it to the writer."""
        if self.failure is not None:
            return
        payload = b"".join(self._pieces)
        segment = Segment(tuple(self._lengths), continues, payload)
        index = len(self._segments)
        key = segment_key(self._resource.key, self._entry.generation, index)
        value = encode_segment(segment, self._entry.generation, index)
        self._segments.append((len(payload), read_prefix(value).body_checksum))
        self._archive.close(len(self._lengths), continues=continues)
        self._pieces, self._lengths, self._filled = [], [], 0
        self._queue.append((key, value))
        self._pending += len(value)
        if self._pending > self._limits.max_pending // 4:
            self._kept_up.clear()
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        self._wakeup.set()

    # -- news for other processes -----------------------------------------------------------

    def _tell_later(self, seconds: float = TELL_AFTER) -> None:
        if self._news is not None and self.failure is None and not self._closing:
            loop = asyncio.get_running_loop()
            self._tell_timer = loop.call_later(seconds, self._tell_now)

    def _tell_now(self) -> None:
        self._tell_timer = None
        self._has_news = True
        self._wake_writer()

    async def _tell_news(self) -> None:
        assert self._news is not None
        if self._filled >= _TOLD:
            self._cut(continues=False)
        if self._queue:
            await self._write_window()
        # What waits to be written comes before what follows it.
        is_next = self._written == len(self._segments)
        tail = self._pieces if is_next else []
        # The segments' own writes show whether the store still works.
        with contextlib.suppress(StoreError):
            lengths = tuple(self._lengths) if is_next else ()
            await self._news.tell(self._written, lengths, b"".join(tail))

    # -- segments out -----------------------------------------------------------------------

    async def _write(self) -> None:
        """Write what is queued, and renew what is written, until closed or failed."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        try:
            while self.failure is None and not (self._closing and not self._queue):
                if loop.time() - renewed >= RUN_TTL / 3:
                    renewed = loop.time()
                    await self._renew()
                    self._has_news = self._news is not None
                if self._has_news and not self._closing:
                    self._has_news = False
                    await self._tell_news()
                elif self._queue:
                    await self._write_window()
                else:
                    self._wakeup.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RUN_TTL / 3):
                            await self._wakeup.wait()
        except StoreError as exc:
            self.fail(NotCached.STORE, exc)

    async def _write_window(self) -> None:
        window = self._queue[:WINDOW]
        await self._store.set_many(window, RUN_TTL)
        del self._queue[: len(window)]
        self._written += len(window)
        self._pending -= sum(len(value) for _, value in window)
        if self._pending <= self._limits.max_pending // 4:
            self._kept_up.set()
        if self._tell_timer is None:
            self._tell_later()
        self.on_progress()

    async def _renew(self) -> None:
        keys = self._keys()[: self._written]
        if await self._store.touch_many(keys, RUN_TTL) != len(keys):
            raise StoreError("segments are missing that were written")

    def _keys(self) -> list[str]:
        generation = self._entry.generation
        count = len(self._segments)
        return [segment_key(self._resource.key, generation, index) for index in range(count)]

    # -- commit or discard ------------------------------------------------------------------

    async def commit(self) -> None:
        """Publish the complete body, or fail."""
        if self.failure is None:
            declared = content_length(self._entry.headers)
            if declared is not None and declared != self._length:
                self.fail(NotCached.CONTENT_LENGTH)
            elif reason := self._objection():
                self.fail(reason)
        try:
            if self.failure is None:
                await self._commit()
        except StoreError as exc:
            self.fail(NotCached.STORE, exc)
        finally:
            self._stop_timers()

    async def settled(self) -> None:
        """Wait until what a failed run wrote is deleted."""
        if self._cleanup is not None:
            await self._cleanup

    async def _commit(self) -> None:
        entry = dataclasses.replace(self._entry, length=self._length)
        self._closing = True
        if not self._segments:
            entry = dataclasses.replace(entry, chunks=tuple(self._lengths))
            # The record will hold versions, too; they are less than a kilobyte.
            if len(encode_record(entry)) + self._length + 1024 <= self._limits.inline_max:
                await self._written_out()
                await self._publish(dataclasses.replace(entry, body=b"".join(self._pieces)))
                return
            entry = dataclasses.replace(entry, chunks=())
        if self._lengths:
            self._cut(continues=False)
        await self._written_out()
        if self.failure is None:
            await self._publish(dataclasses.replace(entry, segments=tuple(self._segments)))

    async def _written_out(self) -> None:
        self._wakeup.set()
        if self._writer is not None:
            await self._writer

    async def _publish(self, entry: Entry) -> None:
        lifetimes = self._resource.lifetimes
        if lifetimes.ttl is not None and lifetimes.stale:
            entry = dataclasses.replace(entry, fresh_until=time.time() + lifetimes.ttl)
        reason = await self._resource.publish(entry, self._varies_on)
        if self._news is not None and reason in (None, NotCached.OVERTAKEN):
            self._news.complete(entry, stored=reason is None)
            # Those who have begun to read it in other processes may go on to its end.
            self._is_left = reason is not None and await self._news.is_followed()
        if reason is None:
            # Plugins may take their time.
            self.on_visible()
            await self._on_stored()
        else:
            self.fail(reason)

    async def discard(self) -> None:
        """Delete what was written; there will be no entry."""
        self.fail(NotCached.INCOMPLETE)
        await self.settled()

    async def read(self, number: int) -> list[bytes]:
        """
        Return chunks that were fed, from a number on; at least one.

        Raises:
            BrokenStreamError: They are lost.
        """
        return await self._archive.read(number)

    async def _segment(self, index: int) -> Segment:
        """Return a segment, wherever that is by now."""
        if index == len(self._segments):
            if self.failure is not None and not self._is_held:
                raise BrokenStreamError("what a slow reader had still to read is not stored")
            return Segment(tuple(self._lengths), False, b"".join(self._pieces))
        try:
            if index >= self._written and self._queue:
                _, value = self._queue[index - self._written]
                return decode_segment(value, self._entry.generation, index)
            return await self._stored(index)
        except (StoreError, UnsoundError, LookupError) as exc:
            raise LostStreamError(f"what a slow reader had still to read is lost: {exc}") from exc

    async def _stored(self, index: int) -> Segment:
        loop = asyncio.get_running_loop()
        is_over = self._writer is None or self._writer.done()
        if is_over and loop.time() - self._renewed >= RUN_TTL / 3:
            # Nobody else keeps them alive any more.
            self._renewed = loop.time()
            ttl = RUN_TTL if self.failure is not None else self._resource.lifetimes.segments
            await self._store.touch_many(self._keys()[index:], ttl)
        (value,) = await self._store.get_many([self._keys()[index]])
        if value is None:
            raise UnsoundError(f"segment {index} is missing")
        return decode_segment(value, self._entry.generation, index)

    def release(self) -> None:
        """Say that nobody reads any more what a failed run has written: it is deleted."""
        if self._is_held:
            self._is_held = False
            self._cleanup = spawn(self._clean_up(None))

    def fail(self, reason: NotCached, cause: Exception | None = None) -> None:
        """Give the entry up, at once and once."""
        if self.failure is not None:
            return
        self.failure = reason
        self._kept_up.set()
        self._stop_timers()
        self._on_failure(reason, cause)
        mark = reason if reason in _LASTING else None
        # Where only a limit was passed, a slow reader goes on to the end.
        self._is_held = reason is not NotCached.INCOMPLETE and self.is_needed()
        if not self._is_held:
            self._cleanup = spawn(self._clean_up(mark))
        elif mark is not None:
            self._cleanup = spawn(self._mark_unstorable(mark))
        self.on_progress()

    async def _mark_unstorable(self, mark: NotCached) -> None:
        with contextlib.suppress(StoreError):
            await self._resource.mark_unstorable(mark, self._varies_on)

    async def _clean_up(self, mark: NotCached | None) -> None:
        self._pieces, self._lengths, self._queue = [], [], []
        self._wakeup.set()
        # A write that is on its way would come after the deletion: wait for it, it is bounded.
        if self._writer is not None and self._writer is not asyncio.current_task():
            await asyncio.wait([self._writer])
        # Where the store fails, the segments die by the ttl of a run.
        with contextlib.suppress(StoreError):
            if self._segments and self._is_left:
                # It expires unless they keep it.
                await self._store.touch_many(self._keys(), RUN_TTL)
            elif self._segments:
                await self._store.delete_many(self._keys())
        if mark is not None:
            await self._mark_unstorable(mark)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._tell_timer):
            if timer is not None:
                timer.cancel()
