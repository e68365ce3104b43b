"""The chunks of a stream that memory holds: the newest part, as a chain of links."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

#: What a chunk costs beside its bytes, so that tiny chunks are bounded, too.
LINK_SIZE = 96


class Link:
    """Chunks that were handed on together, and the link of the next ones."""

    __slots__ = ("chunks", "next", "size")

    def __init__(self, chunks: Sequence[bytes], size: int) -> None:
        self.chunks = chunks
        self.size = size
        """Bytes of the chunks, with `LINK_SIZE` for each."""
        self.next: Link | None = None


class Backlog:
    """
    The newest chunks of a stream.

    Args:
        max_ahead: Bytes that the source may be ahead of its fastest reader. Memory holds twice as
            much.
    """

    first_number = 0
    """The number of the first chunk that memory holds."""
    made = 0
    """Bytes of all chunks so far, with their links."""
    dropped = 0

    def __init__(self, max_ahead: int) -> None:
        self._max_ahead = max_ahead
        # The chunks of the first link are dropped: readers that want what follows stand here.
        self.first = self.last = Link((), 0)

    @property
    def begin(self) -> Link | None:
        """The link before the first chunk; None if memory no longer holds that chunk."""
        return None if self.first_number else self.first

    def append(self, chunks: Sequence[bytes], size: int) -> bool:
        """Take chunks. Return whether memory now holds more than it should."""
        self.last.next = self.last = Link(chunks, size)
        self.made += size
        return self.made - self.dropped > 2 * self._max_ahead

    def drop(self, fastest: int | None) -> tuple[int, list[bytes]]:
        """
        Drop the oldest chunks.

        `fastest` is the position in bytes that all readers have to pass, None for none. Return the
        number of the first dropped chunk, and the chunks.
        """
        target = self.made - self._max_ahead - self._max_ahead // 2
        if fastest is not None:
            target = min(target, fastest)
        first, number = self.first, self.first_number
        chunks: list[bytes] = []
        while first.next is not None and self.dropped + first.next.size <= target:
            first = first.next
            chunks += first.chunks
            self.dropped += first.size
            first.chunks = ()
        self.first = first
        self.first_number += len(chunks)
        return number, chunks

    def newest(self, count: int, size: int) -> list[bytes]:
        """Return the last chunks in memory: at most so many, and no more than reach that size."""
        last: deque[bytes] = deque(maxlen=count)
        link = self.first.next
        while link is not None:
            last.extend(link.chunks)
            link = link.next
        total = sum(map(len, last))
        while len(last) > 1 and total - len(last[0]) >= size:
            total -= len(last.popleft())
        return list(last)

    def before(self, number: int) -> tuple[Link | None, int]:
        """
        Return the link before that of a chunk; None if memory no longer holds the chunk.

        Return also how many chunks there are between the two.
        """
        if number < self.first_number:
            return None, 0
        link, skip = self.first, number - self.first_number
        while link.next is not None and len(link.next.chunks) <= skip:
            link = link.next
            skip -= len(link.chunks)
        return link, skip
