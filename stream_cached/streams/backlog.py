"""The chunks of a stream that memory holds: the newest part, as a chain of links."""

from __future__ import annotations

from collections import deque

#: What a link costs beside the bytes of its chunk, so that tiny chunks are bounded, too.
LINK_SIZE = 96


class Link:
    """One chunk, and the link of the next one."""

    __slots__ = ("chunk", "next")

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.next: Link | None = None


class Backlog:
    """
    The newest chunks of a stream.

    Args:
        max_ahead: Bytes that the source may be ahead of its fastest reader. Memory holds twice as
            much.
    """

    def __init__(self, max_ahead: int) -> None:
        self._max_ahead = max_ahead
        # The chunk of the first link is dropped already: readers that want what follows stand here.
        self.first = self.last = Link(b"")
        self.first_number = 0
        """The number of the first chunk that memory holds."""
        self.made = 0
        """Bytes of all chunks so far, with their links."""
        self.dropped = 0

    @property
    def is_full(self) -> bool:
        """Whether memory holds more than it should."""
        return self.made - self.dropped > 2 * self._max_ahead

    def append(self, chunk: bytes) -> None:
        self.last.next = self.last = Link(chunk)
        self.made += len(chunk) + LINK_SIZE

    def drop(self, fastest: int | None) -> tuple[int, list[bytes]]:
        """
        Drop the oldest chunks.

        `fastest` is the position in bytes that all readers have to pass, None for none. Return the
        number of the first dropped chunk, and the chunks.
        """
        target = self.made - self._max_ahead - self._max_ahead // 2
        if fastest is not None:
            target = min(target, fastest)
        chunks, first, number = [], self.first, self.first_number
        while first.next is not None and self.dropped + len(first.next.chunk) <= target:
            first = first.next
            chunks.append(first.chunk)
            self.dropped += len(first.chunk) + LINK_SIZE
            first.chunk = b""
        self.first = first
        self.first_number += len(chunks)
        return number, chunks

    def newest(self, count: int, size: int) -> list[bytes]:
        """Return the last chunks in memory: at most so many, and no more than reach that size."""
        last: deque[bytes] = deque(maxlen=count)
        link = self.first.next
        while link is not None:
            last.append(link.chunk)
            link = link.next
        total = sum(map(len, last))
        while len(last) > 1 and total - len(last[0]) >= size:
            total -= len(last.popleft())
        return list(last)

    def before(self, number: int) -> Link | None:
        """Return the link before a chunk; None if memory no longer holds that chunk."""
        if number < self.first_number:
            return None
        link = self.first
        for _ in range(number - self.first_number):
            assert link.next is not None
            link = link.next
        return link
