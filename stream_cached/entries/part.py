"""A part of a stored body: only the segments that hold it are read."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

from stream_cached.bodies.protocol import MissingBodyError
from stream_cached.entries.body import Body, window_end
from stream_cached.entries.found import Hit
from stream_cached.entries.replay import lose
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.format.records import Segment
from stream_cached.format.validation import UnsoundError


class PartReplay:
    """
    The bytes of an entry from `start` up to `stop`, in pieces as large as they are stored.

    Args:
        resource: The resource of the entry.
        hit: The entry, and the key of its record.
        start: The first byte.
        stop: The byte after the last one.
    """

    def __init__(self, resource: Resource, hit: Hit, start: int, stop: int) -> None:
        self.entry = entry = hit.entry
        self.length = stop - start
        self.closed = False
        self._resource = resource
        self._hit = hit
        self._left = self.length
        self._pieces: deque[bytes] = deque()
        self._indexes, self._skip = range(0), start
        self._body: Body | None = None
        if not entry.segments:
            self._pieces.append(entry.body[start:stop])
            return
        if hit.body is not None:
            # This process keeps it.
            self._take(hit.body)
            return
        begins = [0, *accumulate(size for size, _ in entry.segments)]
        first, last = bisect_right(begins, start) - 1, bisect_right(begins, stop - 1) - 1
        self._indexes = range(first, last + 1)
        self._body = resource.records.body_of(entry, last + 1)
        self._skip = start - begins[first]

    @property
    def is_long(self) -> bool:
        """Whether more is to be read."""
        return bool(self._indexes)

    async def open(self) -> bool:
        """Read the first pieces. Return False, and delete the record, unless all are there."""
        if self._body is None:
            return True
        indexes, records, key = self._indexes, self._resource.records, self._hit.key
        try:
            held = records.hold(self._body, indexes, key, self.entry)
            found, _ = await asyncio.gather(held, self._read())
        except (UnsoundError, MissingBodyError):
            found = 0
        except StoreError:
            if not self._body.is_object:
                raise
            return False
        except asyncio.CancelledError:
            self.close()
            raise
        if found != len(indexes):
            await self._resource.delete(self._hit)
            return False
        return True

    async def _read(self) -> None:
        start, stop = self._indexes.start, self._indexes.stop
        end = min(window_end(self.entry.segments, start), stop)
        window, self._indexes = range(start, end), range(end, stop)
        assert self._body is not None
        self._take(await self._body.read(window, self.entry.segments))

    def _take(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            piece = segment.payload[self._skip : self._skip + self._left]
            self._skip = max(0, self._skip - len(segment.payload))
            self._left -= len(piece)
            if piece:
                self._pieces.append(piece)

    async def part(self) -> bytes | None:
        """Return the next piece, None at the end."""
        if not self._pieces and self._body is not None and self._indexes and not self.closed:
            try:
                ttl = self._resource.lifetimes.segments_of(self.entry)
                await self._body.renew_if_due(self._indexes, ttl)
                await self._read()
            except (StoreError, UnsoundError) as exc:
                if self.closed:
                    # Its client has left in the middle of the read.
                    return None
                await lose(self._resource, self._hit, exc)
        return self._pieces.popleft() if self._pieces and not self.closed else None

    def close(self) -> None:
        self.closed = True
        if self._body is not None:
            self._body.close()

    async def aclose(self) -> None:
        self.close()

    def __aiter__(self) -> PartReplay:
        return self

    async def __anext__(self) -> bytes:
        if (piece := await self.part()) is None:
            raise StopAsyncIteration
        return piece
