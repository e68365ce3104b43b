"""The segments of a run that wait to be written, in bounded memory, and how they are written."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time

from stream_cached.entries.body import WINDOW, Body, PackedSegment, Seal
from stream_cached.entries.body_digest import Digest
from stream_cached.entries.chunks import ChunkIndex
from stream_cached.entries.coding import Coder
from stream_cached.format.records import ClosedSegment, Entry, Segment


class SegmentQueue:
    """
    Segments in their order.

    Args:
        max_pending: More bytes than these are too many.
        body: Where they are written.
        digest: What digests them.
        coder: What compresses them.
    """

    count = 0
    """How many segments there are so far."""
    written = 0
    """How many segments are written."""
    _size = 0
    _is_given_up = False
    _kept_up: asyncio.Event | None = None

    def __init__(
        self, max_pending: int, body: Body, digest: Digest | None, coder: Coder | None
    ) -> None:
        self._body, self._digest, self._coder = body, digest, coder
        self._seals: list[Seal] = []
        self._codings = bytearray()
        self._max_pending = max_pending
        self._waiting: list[ClosedSegment] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @functools.cached_property
    def index(self) -> ChunkIndex:
        """Finds chunks in all segments so far."""
        # Most bodies are no segments.
        return ChunkIndex()

    @property
    def fits_commit(self) -> bool:
        """Whether so little waits that it can be written with the record."""
        return len(self._waiting) <= (0 if self._body.is_object else WINDOW)

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

    def pending(self) -> int:
        """Return the bytes that wait."""
        return sum(segment.size for segment in self._waiting)

    async def write_next(self) -> None:
        """Write the next segments."""
        packed, began = await self._pack_next(), time.monotonic()
        await self._body.write(packed)
        if self._coder is not None:
            self._coder.written_in = time.monotonic() - began
        self.wrote(len(packed))

    async def _pack_next(self) -> list[PackedSegment]:
        """Return the next segments as they are written, once. They are digested and packed here,
        and not before: what has made them goes on sooner, and so do its readers."""
        window = self._waiting[:WINDOW]
        if self._digest is not None:
            for segment in window:
                for piece in segment.pieces:
                    self._digest.update(piece)
        packed = [self._body.pack(number, each) for number, each in enumerate(window, self.written)]
        if self._coder is not None:
            packed = await self._coder.coded(packed, lambda: self.is_half_full)
        self._seals += [segment.seal for segment in packed]
        self._codings += bytes([segment.coding for segment in packed])
        return packed

    def wrote(self, count: int) -> None:
        """Take away what was packed and is written."""
        self._size -= sum(segment.size for segment in self._waiting[:count])
        del self._waiting[:count]
        self.written += count
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

    async def put_segments(self, entry: Entry) -> list[PackedSegment]:
        """Put what the record has to know of all segments into an entry. Return those that are not
        written yet."""
        last = await self._pack_next() if self._waiting else []
        entry.segments = tuple(self._seals)
        # It is empty if none is compressed.
        entry.codings = bytes(self._codings) if any(self._codings) else b""
        return last

    async def put_inline(self, whole: Segment, entry: Entry) -> None:
        """Put a body that needs no segments into the record of its entry."""
        entry.chunks, entry.body = whole.chunks, whole.payload
        if self._coder is not None:
            entry.codings, entry.coded = await self._coder.inline(whole.payload)
        if self._digest is not None:
            self._digest.update(whole.payload)

    def digest(self) -> str:
        """Return the digest of the body in hexadecimal; empty if there is none."""
        return "" if self._digest is None else self._digest.hexdigest()

    def clear(self) -> None:
        self._waiting = []
