"""Segments in, chunks out; the next window is read while this one is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from stream_cached.entries.chunks import ChunkJoiner
from stream_cached.entries.recorder import RUN_TTL, WINDOW
from stream_cached.entries.resource import Resource
from stream_cached.errors import LostStreamError, StoreError
from stream_cached.format.codec import UnsoundError, decode_segment
from stream_cached.format.envelope import read_prefix
from stream_cached.format.records import Entry, Segment
from stream_cached.keys.names import segment_key


class Replay:
    """
    The chunks of a stored body, one by one; or, by `part`, in pieces as large as they are stored.

    Args:
        resource: What it is a response of.
        key: The key of the record.
        entry: The record.
    """

    def __init__(self, resource: Resource, key: str, entry: Entry) -> None:
        self.entry = entry
        self.closed = False
        self._resource = resource
        self._store = resource.store
        self._key = key
        self._next = 0
        self._ahead: asyncio.Task[list[Segment]] | None = None
        self._window: deque[Segment] = deque()
        self._chunks: deque[bytes] = deque()
        self._joiner = ChunkJoiner()
        self._renewed = asyncio.get_running_loop().time()
        if not entry.segments:
            self._window.append(Segment(entry.chunks, False, entry.body))

    @property
    def is_long(self) -> bool:
        """Whether there is more to read from the store than the first window."""
        return len(self.entry.segments) > WINDOW

    async def open(self) -> bool:
        """
        Read the first window and see that all segments are there; False where that is not so.

        The segments are given a ttl that outlives a replay, whatever is left of the entry's.

        Raises:
            StoreError: The store failed.
        """
        count = len(self.entry.segments)
        if not count:
            return True
        try:
            found, window = await asyncio.gather(self._renew(0), self._read(self._take()))
        except UnsoundError:
            found, window = 0, []
        if found != count:
            await self._store.delete_many([self._key])
            lifetimes = self._resource.lifetimes
            if lifetimes.ttl is None:
                # Nothing leads to its segments any more. Not at once: somebody may be reading them.
                await self._store.touch_many(self._keys(range(count)), lifetimes.longest_run)
            return False
        self._window.extend(window)
        return True

    def close(self) -> None:
        """Stop: nothing more is read."""
        self.closed = True
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None

    async def aclose(self) -> None:
        """Stop, as an asynchronous generator is closed."""
        self.close()

    async def part(self) -> bytes | None:
        """
        Return the next piece of the body, None at its end.

        Raises:
            BrokenStreamError: A segment is missing, damaged, or can't be read in time.
        """
        segment = await self._segment()
        return None if segment is None else segment.payload

    async def whole(self) -> bytes:
        """
        Return the whole body.

        Raises:
            BrokenStreamError: As for `part`.
        """
        parts = []
        while (part := await self.part()) is not None:
            parts.append(part)
        return b"".join(parts)

    def __aiter__(self) -> Replay:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            segment = await self._segment()
            if segment is None:
                if self._joiner.is_within_chunk and not self.closed:
                    raise LostStreamError("the stored body ends within a chunk")
                raise StopAsyncIteration
            self._chunks.extend(self._joiner.add(segment))
        return self._chunks.popleft()

    async def _segment(self) -> Segment | None:
        if self._ahead is None:
            self._read_ahead()
        if not self._window and self._ahead is not None:
            task, self._ahead = self._ahead, None
            try:
                self._window.extend(await task)
            except (StoreError, UnsoundError) as exc:
                await self._drop()
                raise LostStreamError(f"the stored body can't be read on: {exc}") from exc
            self._read_ahead()
        return self._window.popleft() if self._window and not self.closed else None

    def _read_ahead(self) -> None:
        indexes = self._take()
        if indexes:
            self._ahead = asyncio.create_task(self._read(indexes))
            # A replay that is abandoned takes no notice of how its last read went.
            self._ahead.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _take(self) -> range:
        start = self._next
        self._next = min(start + WINDOW, len(self.entry.segments))
        return range(start, self._next)

    async def _read(self, indexes: range) -> list[Segment]:
        now = asyncio.get_running_loop().time()
        if now - self._renewed >= RUN_TTL / 3:
            self._renewed = now
            await self._renew(indexes.start)
        values = await self._store.get_many(self._keys(indexes))
        return [self._decode(i, value) for i, value in zip(indexes, values, strict=True)]

    def _decode(self, index: int, value: bytes | None) -> Segment:
        if value is None:
            raise UnsoundError(f"segment {index} is missing")
        segment = decode_segment(value, self.entry.generation, index)
        if (len(segment.payload), read_prefix(value).body_checksum) != self.entry.segments[index]:
            raise UnsoundError(f"segment {index} is not the one that was stored")
        if segment.continues and index == len(self.entry.segments) - 1:
            raise UnsoundError("the stored body ends within a chunk")
        return segment

    async def _renew(self, start: int) -> int:
        """Keep what is still to be read alive; return how many segments were found."""
        keys = self._keys(range(start, len(self.entry.segments)))
        return await self._store.touch_many(keys, self._resource.lifetimes.segments)

    def _keys(self, indexes: range) -> list[str]:
        generation = self.entry.generation
        return [segment_key(self._resource.key, generation, index) for index in indexes]

    async def _drop(self) -> None:
        # Where the store fails, whoever finds the record next finds the same damage.
        with contextlib.suppress(StoreError):
            await self._store.delete_many([self._key])
