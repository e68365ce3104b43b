"""The segments of a run that wait to be written, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import functools

from stream_cached.entries.body import WINDOW, PackedSegment, Seal
from stream_cached.entries.chunks import ChunkIndex
from stream_cached.format.records import ClosedSegment


class SegmentQueue:
    """Segments in their order. More than `max_pending` bytes are too many."""

    count = 0
    """How many segments there are so far."""
    written = 0
    """How many segments are written."""
    _size = 0
    _is_given_up = False
    _kept_up: asyncio.Event | None = None

    def __init__(self, max_pending: int) -> None:
        self.seals: list[Seal] = []
        """Those of the segments that are written."""
        self._codings = bytearray()
        self._max_pending = max_pending
        self._waiting: list[ClosedSegment] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @functools.cached_property
    def index(self) -> ChunkIndex:
        """Finds chunks in all segments so far."""
        # Most bodies are no segments.
        return ChunkIndex()

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
        return self._size > self._max_pending // 4 and not self._is_given_up

    async def catch_up(self, timeout: float) -> None:
        if self.is_behind:
            kept_up = self._kept_up = self._kept_up or asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await kept_up.wait()

    def put(self, segment: ClosedSegment) -> None:
        self.count += 1
        self.index.close(len(segment.chunks), continues=segment.continues)
        self._waiting.append(segment)
        self._size += segment.size

    @property
    def codings(self) -> bytes:
        """How the segments are coded; empty if none is compressed."""
        return bytes(self._codings) if any(self._codings) else b""

    def pending(self) -> int:
        """Return the bytes that wait."""
        return sum(segment.size for segment in self._waiting)

    def window(self) -> list[ClosedSegment]:
        """Return the segments to write next. The number of the first one is `written`."""
        return self._waiting[:WINDOW]

    def wrote(self, packed: list[PackedSegment]) -> None:
        """Take away what is written, given its form."""
        for segment in packed:
            self.seals.append(segment.seal)
            self._codings.append(segment.coding)
        self._size -= sum(segment.size for segment in self._waiting[: len(packed)])
        del self._waiting[: len(packed)]
        self.written += len(packed)
        self._wake_if_kept_up()

    def waiting(self, index: int) -> ClosedSegment | None:
        """Return a segment if it is not written yet."""
        if index < self.written or not self._waiting:
            return None
        return self._waiting[index - self.written]

    def give_up(self) -> None:
        """Let nobody wait any more."""
        self._is_given_up = True
        self._wake_if_kept_up()

    def _wake_if_kept_up(self) -> None:
        if self._kept_up is not None and not self.is_behind:
            self._kept_up.set()
            self._kept_up = None

    def clear(self) -> None:
        self._waiting = []
