"""Chunks into segments, and segments into chunks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

from stream_cached.format.envelope import PREFIX_SIZE
from stream_cached.format.lengths import LazyLengths
from stream_cached.format.records import ClosedSegment, Piece, Segment
from stream_cached.limits import VALUE_SIZE

#: Bytes of a chunk's length in the table of its segment: those of a small chunk, and of any other.
_LENGTH_SIZES = 1, 5

#: Bytes from which on a chunk is not small.
_SMALL = 128

#: Bytes of a segment beside its chunks and their lengths.
_FIXED = PREFIX_SIZE + 12

#: Bytes, on average, of chunks that are not joined: each one is an object, and a call.
_LARGE = 8 * 1024

#: The classes of what is kept as it is. An object of a user's class may hold other objects.
_PLAIN = frozenset({bytes, memoryview})

#: Bytes of a body that are sent at once.
PART_SIZE = 1024 * 1024

#: Chunks in one segment at most, however small they are.
_MAX_CHUNKS = 16 * 1024


class ChunkPacker:
    """
    Packs chunks into segments of the size that a store takes.

    Args:
        keeps: Whether the store keeps the very objects.
        max_size: Bytes of a segment. Where that is more than a server takes, a segment is as much
            larger as its last chunk needs: to divide a chunk is to copy it.
    """

    filled = 0
    """Bytes of the chunks in the open segment."""
    _table = 0
    """Bytes of their lengths."""

    def __init__(self, *, keeps: bool, max_size: int) -> None:
        self._keeps, self._max_size = keeps, max_size
        self._keeps_whole = max_size > VALUE_SIZE
        self._pieces: list[Piece] = []

    @property
    def is_empty(self) -> bool:
        return not self._pieces

    @property
    def open(self) -> Segment:
        """The open segment, which ends with a whole chunk."""
        return Segment(tuple(map(len, self._pieces)), False, b"".join(self._pieces))

    def add(self, chunks: Sequence[bytes], size: int) -> list[ClosedSegment]:
        """Add chunks of that size together. Return the segments that they close."""
        are_small = size < _SMALL or max(map(len, chunks)) < _SMALL
        lengths = len(chunks) * _LENGTH_SIZES[not are_small]
        used = _FIXED + self.filled + self._table + size + lengths
        if used <= self._max_size and len(self._pieces) + len(chunks) <= _MAX_CHUNKS:
            self._pieces += chunks
            self.filled += size
            self._table += lengths
            return []
        room, (small, other) = self._max_size - _FIXED, _LENGTH_SIZES
        closed: list[ClosedSegment] = []
        for chunk in chunks:
            if len(self._pieces) >= _MAX_CHUNKS:
                closed.append(self.close())
            # There may be thousands of them: no call for each.
            length = len(chunk)
            of_length = small if length < _SMALL else other
            if length + of_length <= room - self.filled - self._table:
                self._pieces.append(chunk)
                self.filled += length
                self._table += of_length
            elif self._keeps_whole and len(chunk) <= VALUE_SIZE:
                self._put(chunk)
                closed.append(self.close())
            else:
                self._divide(chunk, closed)
        return closed

    def _divide(self, chunk: bytes, closed: list[ClosedSegment]) -> None:
        """Add a chunk that there is no room for."""
        room, rest = self._room(), memoryview(chunk)
        if not room:
            closed.append(self.close())
            room = self._room()
        while len(rest) > room:
            self._put(self._part(rest[:room]))
            rest = rest[room:]
            closed.append(self.close(continues=True))
            room = self._room()
        self._put(self._part(rest))

    def _part(self, view: memoryview) -> Piece:
        # A view that is kept would keep all of the chunk. Others are copied when they are packed.
        return bytes(view) if self._keeps else view

    def close(self, *, continues: bool = False) -> ClosedSegment:
        """Return the open segment, and begin the next one."""
        pieces: Sequence[Piece] = self._pieces
        lengths = tuple(map(len, pieces))
        if self.filled < _LARGE * len(pieces) or not _PLAIN.issuperset(map(type, pieces)):
            pieces = (b"".join(pieces),)
        segment = ClosedSegment(lengths, continues, pieces, self.filled)
        self.clear()
        return segment

    def clear(self) -> None:
        self._pieces, self.filled, self._table = [], 0, 0

    def _room(self) -> int:
        """Return how many bytes there is room for, in one chunk."""
        return max(0, self._max_size - _FIXED - self.filled - self._table - _LENGTH_SIZES[1])

    def _put(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self.filled += len(piece)
        self._table += _LENGTH_SIZES[1]


class Segments(Protocol):
    """The segments of a run, wherever they are."""

    async def segment(self, index: int) -> Segment | ClosedSegment: ...


class ChunkIndex:
    """Finds chunks by their numbers."""

    def __init__(self) -> None:
        # For each closed segment, how many chunks have begun before it.
        self._begun: list[int] = []
        self._begun_now = 0
        self._continued: list[bool] = []

    def close(self, pieces: int, *, continues: bool) -> None:
        """Note that a segment of so many pieces is closed."""
        self._begun.append(self._begun_now)
        self._begun_now += pieces - self._continues_into(len(self._continued))
        self._continued.append(continues)

    def _continues_into(self, index: int) -> bool:
        """Whether the first piece of a segment belongs to a chunk that began earlier."""
        return index > 0 and self._continued[index - 1]

    async def read(self, number: int, segments: Segments) -> list[bytes]:
        """Return chunks from a number on; at least one."""
        index = len(self._begun)
        skip = number - self._begun_now
        if skip < 0:
            index = bisect_right(self._begun, number) - 1
            skip = number - self._begun[index]
        skip += self._continues_into(index)
        joiner = ChunkJoiner()
        while True:
            segment = await segments.segment(index)
            if chunks := joiner.add(segment, skip):
                return chunks
            skip = max(0, skip - len(segment.chunks))
            index += 1


class ChunkJoiner:
    """Takes segments apart, and joins the pieces of a chunk."""

    def __init__(self) -> None:
        self._partial: list[bytes] = []

    @property
    def is_within_chunk(self) -> bool:
        """Whether the last chunk goes on in the next segment."""
        return bool(self._partial)

    def add(self, segment: Segment | ClosedSegment, skip: int = 0) -> list[bytes]:
        """Return the chunks that a segment completes, without its first `skip` pieces."""
        pieces = _cut(segment.payload, segment.chunks)[skip:]
        if not pieces:
            return []
        first, *others = pieces
        self._partial.append(first)
        if segment.continues and not others:
            return []
        chunks = [b"".join(self._partial), *others]
        self._partial = [chunks.pop()] if segment.continues else []
        return chunks


class _Joined(LazyLengths):
    """The lengths of the chunks of consecutive segments."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._parts = [(segment.chunks, segment.continues) for segment in segments]

    def unpacked(self) -> list[int]:
        lengths: list[int] = []
        continues = False
        for part, goes_on in self._parts:
            first, *others = part
            if continues:
                lengths[-1] += first
            else:
                lengths.append(first)
            lengths += others
            continues = goes_on
        return lengths


def joined(segments: Sequence[Segment]) -> Segment:
    """Return consecutive segments as one, which is sent at once."""
    if len(segments) == 1:
        return segments[0]
    payload = b"".join([segment.payload for segment in segments])
    return Segment(_Joined(segments), segments[-1].continues, payload)


def merged(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Join consecutive segments, to parts of a megabyte at most."""
    together: list[Segment] = []
    size = 0
    for segment in segments:
        if together and size + len(segment.payload) > PART_SIZE:
            yield joined(together)
            together, size = [], 0
        together.append(segment)
        size += len(segment.payload)
    if together:
        yield joined(together)


def _cut(payload: bytes, lengths: Sequence[int]) -> list[bytes]:
    edges = [0]
    for length in lengths:
        edges.append(edges[-1] + length)
    return [payload[start:end] for start, end in pairwise(edges)]
