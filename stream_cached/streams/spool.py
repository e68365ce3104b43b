"""Chunks that slow readers still need, in unlinked temporary files."""

from __future__ import annotations

import struct
import tempfile
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import IO

from stream_cached.streams.reader import TAKE_MAX

#: Bytes of one file. Space is given back a file at a time.
_PART_SIZE = 16 * 1024 * 1024

_COUNT = struct.Struct(">Q")


class Spool:
    """
    Consecutive chunks on disk, in files without a name that end with the process.

    Reading and writing go through the page cache, and block the event loop only for that long. All
    files together may have `max_bytes`, and one file about `part_size`.
    """

    def __init__(self, max_bytes: int, part_size: int = _PART_SIZE) -> None:
        self._max_bytes = max_bytes
        self._part_size = min(part_size, max_bytes)
        self._parts: deque[_Part] = deque()
        self._next = 0

    @property
    def first(self) -> int | None:
        """The number of the first chunk; None if there is none."""
        return self._parts[0].numbers[0] if self._parts else None

    def lacks(self, number: int) -> bool:
        """Whether a chunk is not here, unless it comes after all that are."""
        return not self._parts or number < self._parts[0].numbers[0]

    @property
    def used(self) -> int:
        return sum(part.size for part in self._parts)

    @property
    def is_full(self) -> bool:
        return self.used >= self._max_bytes

    def append(self, number: int, chunks: Sequence[bytes]) -> None:
        """Append chunks. If `number` leaves a gap, the existing content is discarded."""
        if number != self._next:
            self.close()
        if not self._parts or self._parts[-1].size >= self._part_size:
            self._parts.append(_Part())
        self._parts[-1].write(number, chunks)
        self._next = number + len(chunks)

    def read(self, number: int) -> list[bytes]:
        """Return chunks from a number on, as many as were added together."""
        if self.first is None or not self.first <= number < self._next:
            raise LookupError(number)
        part = next(part for part in reversed(self._parts) if part.numbers[0] <= number)
        return part.read(number)

    def forget(self, number: int | None) -> None:
        """Give back the chunks before a number; with None, all chunks."""
        while self._parts and (number is None or self._next_of_first <= number):
            self._parts.popleft().file.close()

    def forget_first(self) -> int:
        """Give back the oldest file. Return the number of the first chunk after it."""
        after = self._next_of_first
        self._parts.popleft().file.close()
        return after

    @property
    def _next_of_first(self) -> int:
        return self._parts[1].numbers[0] if len(self._parts) > 1 else self._next

    def close(self) -> None:
        self.forget(None)


#: The one of all streams that have nothing on disk.
NO_SPOOL = Spool(0)


class _Part:
    """One file: batches of chunks, each behind the lengths of its chunks."""

    def __init__(self) -> None:
        # The spool closes the file.
        self.file: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115
            prefix="stream-cached-", buffering=0
        )
        self.size = 0
        self.numbers: list[int] = []
        self._offsets: list[int] = []

    def write(self, number: int, chunks: Sequence[bytes]) -> None:
        table = struct.pack(f">{len(chunks)}Q", *map(len, chunks))
        batch = memoryview(b"".join((_COUNT.pack(len(chunks)), table, *chunks)))
        self.file.seek(self.size)
        written = 0
        while written < len(batch):
            written += self.file.write(batch[written:])
        self.numbers.append(number)
        self._offsets.append(self.size)
        self.size += len(batch)

    def read(self, number: int) -> list[bytes]:
        index = bisect_right(self.numbers, number) - 1
        start = self._offsets[index]
        end = self._offsets[index + 1] if index + 1 < len(self._offsets) else self.size
        self.file.seek(start)
        batch = b""
        while len(batch) < end - start:
            more = self.file.read(end - start - len(batch))
            if not more:
                raise OSError("a temporary file is cut")
            batch += more
        (count,) = _COUNT.unpack_from(batch)
        lengths = struct.unpack_from(f">{count}Q", batch, _COUNT.size)
        edges = [_COUNT.size * (1 + count)]
        for length in lengths:
            edges.append(edges[-1] + length)
        chunks = [batch[left:right] for left, right in pairwise(edges)]
        return chunks[number - self.numbers[index] :]


def batches(chunks: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Divide chunks into parts that are read together."""
    start = size = 0
    for index, chunk in enumerate(chunks):
        size += len(chunk)
        if size >= TAKE_MAX:
            yield chunks[start : index + 1]
            start, size = index + 1, 0
    if start < len(chunks):
        yield chunks[start:]
