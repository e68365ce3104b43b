"""Compresses what a run stores, as far as it becomes smaller."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from stream_cached.bodies.threads import in_thread
from stream_cached.compression import Compression
from stream_cached.entries.body import PackedSegment
from stream_cached.format.codec import coded_segment, is_worth_it
from stream_cached.format.coding import Coding, compressed
from stream_cached.format.envelope import read_prefix
from stream_cached.format.records import Entry
from stream_cached.http.headers import header_values
from stream_cached.limits import VALUE_SIZE

T = TypeVar("T")

#: Bytes that are compressed without a thread. A thread costs a tenth of a millisecond,
#: and zlib takes a third of one for these. For 256 KiB it takes three.
AT_ONCE = 32 * 1024

#: How many segments in a row may save nothing. The others of the run are not tried.
_MAX_FAILURES = 8


class Coder:
    """Compresses the parts of one body."""

    def __init__(self, compression: Compression) -> None:
        self.coding = Coding.ZSTD if compression.codec == "zstd" else Coding.ZLIB
        self._level = compression.level
        self._min_size = max(1, compression.min_size)
        self._failures = 0
        self.written_in = 0.0
        """Seconds that the store took for the last window."""
        self._took = 0.0
        """Seconds that the last segment took."""

    async def coded(
        self, window: list[PackedSegment], is_half_full: Callable[[], bool]
    ) -> list[PackedSegment]:
        """Return segments as they are written; as they are, where only that keeps up."""
        sizes = [segment.seal[0] for segment in window]
        if self._failures >= _MAX_FAILURES or max(sizes) < self._min_size:
            return window

        def is_late() -> bool:
            # A store that is much slower itself has less to write then.
            return is_half_full() and self.written_in <= 2 * len(window) * self._took

        def coded() -> list[PackedSegment]:
            return [segment if is_late() else self._coded(segment) for segment in window]

        if is_late():
            # Not even a thread is worth its time.
            return window
        return await for_bytes(sum(sizes), coded)

    def _coded(self, segment: PackedSegment) -> PackedSegment:
        length = segment.seal[0]
        if length < self._min_size or self._failures >= _MAX_FAILURES:
            return segment
        began = time.monotonic()
        value = coded_segment(segment.value, self.coding, self._compressed)
        self._took = time.monotonic() - began
        if value is None:
            self._failures += 1
            return segment
        self._failures = 0
        seal = length, read_prefix(value).body_checksum
        return PackedSegment(segment.index, value, seal, self.coding)

    async def inline(self, body: bytes) -> tuple[bytes, bytes]:
        """Return `codings` and `coded` of an entry whose record holds a body."""
        if self._min_size <= len(body) <= VALUE_SIZE:
            coded = await for_bytes(len(body), lambda: self._compressed(body))
            if is_worth_it(coded, body):
                return bytes([self.coding]), coded
        return b"", b""

    def _compressed(self, data: bytes) -> bytes:
        return compressed(self.coding, self._level, data)


def coder_of(compression: Compression | None, entry: Entry) -> Coder | None:
    """Return what compresses the body of an entry; None if it is stored as it is."""
    if compression is None or header_values(entry.headers, b"content-encoding"):
        return None
    named = header_values(entry.headers, b"content-type")
    media_type = named[0].decode("latin-1") if named else entry.media_type or ""
    return Coder(compression) if compression.applies_to(media_type) else None


async def for_bytes(size: int, work: Callable[[], T]) -> T:
    """Do some work on so many bytes: at once, or in a thread."""
    return work() if size <= AT_ONCE else await in_thread(work)
