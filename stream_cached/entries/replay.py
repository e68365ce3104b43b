"""A stored body, read in parts: the next window is read while the current one is sent."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

from stream_cached.bodies.protocol import MissingBodyError
from stream_cached.entries.body import window_end
from stream_cached.entries.chunks import ChunkJoiner, joined
from stream_cached.entries.found import Hit
from stream_cached.entries.local import Filling
from stream_cached.entries.resource import Resource
from stream_cached.errors import LostStreamError, StoreError
from stream_cached.format.records import Segment
from stream_cached.format.validation import UnsoundError
from stream_cached.stores.protocol import may_compare


class Replay:
    """
    The body of an entry: chunk by chunk, or by `part` in pieces of a megabyte.

    Args:
        resource: Returns the resource of the entry.
        hit: The entry, and the key of its record.
    """

    def __init__(self, resource: Callable[[], Resource], hit: Hit) -> None:
        self.entry = entry = hit.entry
        self.closed = False
        self._resource_of = resource
        self._hit = hit
        self._count = len(entry.segments)
        self._next = 0
        self._ahead: asyncio.Task[list[Segment]] | None = None
        self._filling: Filling | None = None
        self._window: deque[Segment] = deque()
        self._chunks: deque[bytes] = deque()
        self._joiner: ChunkJoiner | None = None
        self.at_hand = hit.body
        """The whole body, where nothing has to be read for it; None if it is not all there."""
        if self.at_hand is None:
            self._body = self._resource.records.body_of(entry)
        else:
            self._next = self._count
            self._window.extend(self.at_hand)

    @functools.cached_property
    def _resource(self) -> Resource:
        return self._resource_of()

    @property
    def is_long(self) -> bool:
        return window_end(self.entry.segments, 0) < self._count

    async def open(self, *, in_chunks: bool = False) -> bool:
        """
        Read the first window. Return False, and delete the record, unless all segments are there.

        The segments get a ttl that outlives a replay, whatever is left of the entry's ttl. With
        `in_chunks`, the lengths of the chunks are looked at, too.
        """
        try:
            found = self._count if self.at_hand is not None else await self._read_first()
            if in_chunks and found == self._count:
                for segment in self._window:
                    len(segment.chunks)
        except (UnsoundError, MissingBodyError):
            found = -1
        except StoreError:
            if not self._body.is_object:
                raise
            # The record is as good as before. For this request there is no entry.
            self.close()
            return False
        except asyncio.CancelledError:
            self.close()
            raise
        if found == self._count:
            return True
        self.close()
        await self._resource.delete(self._hit)
        return False

    async def _read_first(self) -> int:
        """Read the first window. Return how many segments there are."""
        self._filling = self._begin_filling()
        indexes = self._take()
        found, window = await asyncio.gather(self._renew(0), self._read(indexes))
        self._add(window)
        if found == self._count == indexes.stop:
            self.at_hand = tuple(self._window)
        return found

    def _begin_filling(self) -> Filling | None:
        """Return what keeps the body, where a later look-up can see that the store holds it."""
        store, local = self._resource.store, self._resource.local
        if local is None:
            return None
        # An object is what its record says, for ever: whether it is still there need not be seen.
        is_seen = self._body.is_object or local.in_process or may_compare(store)
        if self.is_long and not is_seen:
            return None
        return local.begin(self._hit.key, self.entry, self._body.keys(range(self._count)))

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
        if self._filling is not None:
            self._end_filling(whole=False)
        if self.at_hand is None:
            self._body.close()

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
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __aiter__(self) -> Replay:
        return self

    async def __anext__(self) -> bytes:
        if self._joiner is None:
            self._joiner = ChunkJoiner()
        while not self._chunks:
            segment = await self._segment()
            if segment is None:
                if self._joiner.is_within_chunk and not self.closed:
                    raise LostStreamError("the stored body ends within a chunk")
                raise StopAsyncIteration
            try:
                self._chunks.extend(self._joiner.add(segment))
            except UnsoundError as exc:
                await lose(self._resource, self._hit, exc)
        return self._chunks.popleft()

    async def _segment(self) -> Segment | None:
        if self._ahead is None and self._next < self._count:
            self._read_ahead()
        if not self._window and self._ahead is not None:
            task, self._ahead = self._ahead, None
            try:
                self._add(await task)
            except (StoreError, UnsoundError) as exc:
                if self.closed:
                    # Its client has left in the middle of the read.
                    return None
                await lose(self._resource, self._hit, exc)
            self._read_ahead()
        return self._window.popleft() if self._window and not self.closed else None

    def _add(self, segments: Sequence[Segment]) -> None:
        """Take a window that was read."""
        part = joined(segments)
        self._window.append(part)
        if self._filling is not None:
            self._filling.add(segments, part)
            if self._next == self._count:
                self._end_filling(whole=True)

    def _end_filling(self, *, whole: bool) -> None:
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.end(whole=whole)

    def _read_ahead(self) -> None:
        indexes = self._take()
        if indexes:
            self._ahead = asyncio.create_task(self._read(indexes))
            # The last read of an abandoned replay is never awaited.
            self._ahead.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _take(self) -> range:
        start = self._next
        self._next = window_end(self.entry.segments, start)
        return range(start, self._next)

    async def _read(self, indexes: range) -> list[Segment]:
        rest = range(indexes.start, self._count)
        if indexes.start:
            ttl = self._resource.lifetimes.segments_of(self.entry)
            await self._body.renew_if_due(rest, ttl)
        segments = await self._body.read(indexes, self.entry.segments)
        if indexes.stop == self._count and segments[-1].continues:
            raise UnsoundError("the stored body ends within a chunk")
        return segments

    async def _renew(self, start: int) -> int:
        rest = range(start, self._count)
        return await self._resource.records.hold(self._body, rest, self._hit.key, self.entry)


async def lose(resource: Resource, hit: Hit, cause: Exception) -> NoReturn:
    """Break off a body that can't be read on, and delete its record."""
    is_away = hit.entry.sizes and isinstance(cause, StoreError)
    if isinstance(cause, MissingBodyError) or not is_away:
        # If the store fails here, too, the next look-up finds the same damage.
        with contextlib.suppress(StoreError):
            await resource.delete(hit)
    raise LostStreamError(f"the stored body can't be read on: {cause}") from cause
