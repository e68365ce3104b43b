"""The segments of a run that wait to be written, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib

from stream_cached.entries.body import WINDOW, PackedSegment, Seal
from stream_cached.entries.chunks import ChunkIndex


class SegmentQueue:
    """Segments in their order. More than `max_pending` bytes are too many."""

    def __init__(self, max_pending: int) -> None:
        self.seals: list[Seal] = []
        """Those of all segments so far; of one that waits, as it is not compressed."""
        self.written = 0
        """How many segments are written."""
        self.index = ChunkIndex()
        """Finds chunks in all segments so far."""
        self._codings = bytearray()
        self._max_pending = max_pending
        self._waiting: list[PackedSegment] = []
        self._size = 0
        self._kept_up = asyncio.Event()
        self._kept_up.set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        return self._size > self._max_pending

    @property
    def is_half_full(self) -> bool:
        return self._size > self._max_pending // 2

    @property
    def has_room(self) -> bool:
        """Whether a source that nobody waits for may go on."""
        return self._size < self._max_pending // 2

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that the store needs time to catch up."""
        return not self._kept_up.is_set()

    async def catch_up(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._kept_up.wait()

    def put(self, packed: PackedSegment) -> None:
        self.seals.append(packed.seal)
        self._codings.append(packed.coding)
        self._waiting.append(packed)
        self._size += packed.size
        if self._size > self._max_pending // 4:
            self._kept_up.clear()

    @property
    def codings(self) -> bytes:
        """How the segments are coded; empty if none is compressed."""
        return bytes(self._codings) if any(self._codings) else b""

    def pending(self) -> int:
        """Return the bytes that wait."""
        return sum(segment.size for segment in self._waiting)

    def window(self) -> list[PackedSegment]:
        """Return the segments to write next."""
        return self._waiting[:WINDOW]

    def wrote(self, window: list[PackedSegment], coded: list[PackedSegment]) -> None:
        """Take away what is written, and in which form."""
        for segment in coded:
            self.seals[segment.index] = segment.seal
            self._codings[segment.index] = segment.coding
        del self._waiting[: len(window)]
        self.written += len(window)
        self._size -= sum(segment.size for segment in window)
        if self._size <= self._max_pending // 4:
            self._kept_up.set()

    def waiting(self, index: int) -> PackedSegment | None:
        """Return a segment if it is not written yet."""
        if index < self.written or not self._waiting:
            return None
        return self._waiting[index - self.written]

    def give_up(self) -> None:
        """Let nobody wait any more."""
        self._kept_up.set()

    def clear(self) -> None:
        self._waiting = []
