"""The chunks of a run that is recorded, for readers that come late or are slow."""

from __future__ import annotations

from typing import Protocol

from stream_cached.entries.body import Body
from stream_cached.entries.chunks import ChunkPacker
from stream_cached.entries.segment_queue import SegmentQueue
from stream_cached.errors import BrokenStreamError, LostStreamError, StoreError
from stream_cached.format.records import ClosedSegment, Segment
from stream_cached.format.validation import UnsoundError


class Recording(Protocol):
    """What records the run."""

    @property
    def is_lost(self) -> bool:
        """Whether there will be no entry, and nothing is kept for slow readers either."""

    @property
    def is_renewing(self) -> bool:
        """Whether it keeps what is written from expiring."""

    @property
    def ttl(self) -> float | None:
        """How long segments live that are read."""

    def wakes_source(self) -> None:
        """Let the source see whether it may go on."""

    def lost_segments(self) -> None:
        """Note that segments are missing that were written."""


class LateChunks:
    """
    Chunks by their numbers, wherever they are by now.

    Args:
        recording: What records the run.
        body: Where segments are written.
        queue: The segments that wait to be written.
        packer: What holds the open segment.
    """

    def __init__(
        self, recording: Recording, body: Body, queue: SegmentQueue, packer: ChunkPacker
    ) -> None:
        self._recording = recording
        self._body = body
        self._queue = queue
        self._packer = packer
        self._waiting = 0

    @property
    def are_awaited(self) -> bool:
        """Whether a reader needs what can be read only once the body is complete."""
        return self._waiting > 0

    async def read(self, number: int) -> list[bytes]:
        """Return chunks that were fed, from a number on; at least one."""
        return await self._queue.index.read(number, self)

    async def segment(self, index: int) -> Segment | ClosedSegment:
        """Return a segment, wherever it is by now."""
        if index == self._queue.count:
            if self._recording.is_lost:
                raise BrokenStreamError("chunks that a slow reader needs are not stored")
            return self._packer.open
        try:
            return self._queue.waiting(index) or await self._stored(index)
        except (StoreError, UnsoundError, LookupError) as exc:
            if isinstance(exc, UnsoundError):
                self._recording.lost_segments()
            raise LostStreamError(f"chunks that a slow reader needs are lost: {exc}") from exc

    async def _stored(self, index: int) -> Segment:
        if not self._recording.is_renewing:
            ttl = self._recording.ttl
            await self._body.renew_if_due(range(index, self._queue.count), ttl)
        try:
            return await self._read(index)
        except UnsoundError:
            if not self._body.is_object:
                raise
        # Meanwhile it was dropped; or the body is whole, and is elsewhere.
        return await self._read(index)

    async def _read(self, index: int) -> Segment:
        if index < self._body.first:
            await self._shown()
        (segment,) = await self._body.read(range(index, index + 1))
        return segment

    async def _shown(self) -> None:
        """Wait for the whole body; the source must not wait for this reader meanwhile."""
        self._waiting += 1
        self._recording.wakes_source()
        try:
            await self._body.shown()
        finally:
            self._waiting -= 1
