"""A stored body, read in parts: the next window is read while the current one is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from stream_cached.entries.body import WINDOW
from stream_cached.entries.chunks import ChunkJoiner
from stream_cached.entries.found import Hit
from stream_cached.entries.resource import Resource
from stream_cached.errors import LostStreamError, StoreError
from stream_cached.format.records import Segment
from stream_cached.format.validation import UnsoundError


class Replay:
    """
    The body of an entry: chunk by chunk, or by `part` in pieces as large as they are stored.

    Args:
        resource: The resource of the entry.
        hit: The entry, and the key of its record.
    """

    def __init__(self, resource: Resource, hit: Hit) -> None:
        self.entry = entry = hit.entry
        self.closed = False
        self._resource = resource
        self._hit = hit
        self._body = resource.body(entry.generation)
        self._count = len(entry.segments)
        self._next = 0
        self._ahead: asyncio.Task[list[Segment]] | None = None
        self._window: deque[Segment] = deque()
        self._chunks: deque[bytes] = deque()
        self._joiner = ChunkJoiner()
        if not entry.segments:
            self._window.append(Segment(entry.chunks, False, entry.body))

    @property
    def is_long(self) -> bool:
        return self._count > WINDOW

    async def open(self) -> bool:
        """
        Read the first window. Return False, and delete the record, unless all segments are there.

        The segments get a ttl that outlives a replay, whatever is left of the entry's ttl.
        """
        if not self._count:
            return True
        try:
            found, window = await asyncio.gather(self._renew(0), self._read(self._take()))
        except UnsoundError:
            found, window = 0, []
        if found != self._count:
            await self._resource.delete(self._hit)
            return False
        self._window.extend(window)
        return True

    async def discard(self) -> None:
        """Delete the record of a body that turned out to be unsound."""
        self.close()
        # If the store fails here, too, the next look-up finds the same damage.
        with contextlib.suppress(StoreError):
            await self._resource.delete(self._hit)

    def close(self) -> None:
        self.closed = True
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None

    async def aclose(self) -> None:
        self.close()

    async def part(self) -> bytes | None:
        """Return the next piece of the body, None at its end."""
        segment = await self._segment()
        return None if segment is None else segment.payload

    async def whole(self) -> bytes:
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
                # If the store fails here, too, the next look-up finds the same damage.
                with contextlib.suppress(StoreError):
                    await self._resource.store.delete_many([self._hit.key])
                raise LostStreamError(f"the stored body can't be read on: {exc}") from exc
            self._read_ahead()
        return self._window.popleft() if self._window and not self.closed else None

    def _read_ahead(self) -> None:
        indexes = self._take()
        if indexes:
            self._ahead = asyncio.create_task(self._read(indexes))
            # The last read of an abandoned replay is never awaited.
            self._ahead.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _take(self) -> range:
        start = self._next
        self._next = min(start + WINDOW, self._count)
        return range(start, self._next)

    async def _read(self, indexes: range) -> list[Segment]:
        rest = range(indexes.start, self._count)
        if indexes.start:
            await self._body.renew_if_due(rest, self._resource.lifetimes.segments)
        segments = await self._body.read(indexes, self.entry.segments)
        if indexes.stop == self._count and segments[-1].continues:
            raise UnsoundError("the stored body ends within a chunk")
        return segments

    async def _renew(self, start: int) -> int:
        rest = range(start, self._count)
        return await self._body.renew(rest, self._resource.lifetimes.segments)
