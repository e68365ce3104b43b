"""The chunks of a run, out of its segments: one after the other, or by their numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable
from itertools import pairwise

from stream_cached.format.records import Segment


class ChunkIndex:
    """
    Finds chunks by their numbers.

    Args:
        segment: Returns a segment; for the number of those that are closed, the one at hand, which
            ends with a whole chunk.
    """

    def __init__(self, segment: Callable[[int], Awaitable[Segment]]) -> None:
        self._segment = segment
        # For each segment, how many chunks have begun before it.
        self._begun: list[int] = []
        self._begun_now = 0
        self._continued: list[bool] = []

    def close(self, pieces: int, *, continues: bool) -> None:
        """Note that a segment of so many pieces is closed."""
        self._begun.append(self._begun_now)
        self._begun_now += pieces - self._continues_into(len(self._continued))
        self._continued.append(continues)

    def _continues_into(self, index: int) -> bool:
        """Whether the first piece of a segment belongs to a chunk that has begun before."""
        return index > 0 and self._continued[index - 1]

    async def read(self, number: int) -> list[bytes]:
        """
        Return chunks from a number on; at least one.

        Raises:
            Exception: What reading a segment raised.
        """
        index = len(self._begun)
        skip = number - self._begun_now
        if skip < 0:
            index = bisect_right(self._begun, number) - 1
            skip = number - self._begun[index]
        skip += self._continues_into(index)
        joiner = ChunkJoiner()
        while True:
            segment = await self._segment(index)
            if chunks := joiner.add(segment, skip):
                return chunks
            skip = max(0, skip - len(segment.chunks))
            index += 1


class ChunkJoiner:
    """Takes segments apart, and joins what belongs to one chunk."""

    def __init__(self) -> None:
        self._partial: list[bytes] = []

    @property
    def is_within_chunk(self) -> bool:
        """Whether the last chunk goes on."""
        return bool(self._partial)

    def add(self, segment: Segment, skip: int = 0) -> list[bytes]:
        """
        Return the chunks that are complete with a segment.

        Args:
            segment: The next one.
            skip: How many of its pieces are left out.
        """
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


def _cut(payload: bytes, lengths: tuple[int, ...]) -> list[bytes]:
    """Cut a payload into pieces of these lengths."""
    edges = [0]
    for length in lengths:
        edges.append(edges[-1] + length)
    return [payload[start:end] for start, end in pairwise(edges)]
