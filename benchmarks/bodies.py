"""The bodies that are served: JSON lines, whose every chunk is another one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

#: It has no parameter, as the charset of a text is one: of that, cashews makes a header on a hit
#: which uvicorn refuses.
MEDIA_TYPE = "application/x-ndjson"

#: Bodies over this are made while they are served, and are nowhere held as a whole.
HELD = 16 * 1024 * 1024


class Expected(Protocol):
    """What an answer has to be."""

    @property
    def length(self) -> int:
        """Its bytes."""

    @property
    def whole(self) -> bytes:
        """All of it."""


@dataclass(frozen=True)
class Given:
    """A body that somebody else has made."""

    whole: bytes

    @property
    def length(self) -> int:
        """Its bytes."""
        return len(self.whole)


@dataclass(frozen=True)
class Body:
    """
    A body in which no chunk can be lost or displaced unseen.

    Args:
        size: Bytes of a chunk.
        count: How many there are.
        step: Chunk i is the line of number i x step, so that bodies of one shape differ, too.
    """

    size: int
    count: int
    step: int = 1

    @property
    def length(self) -> int:
        """Bytes of all of it."""
        return self.size * self.count

    def chunk(self, number: int) -> bytes:
        """A line of JSON: its number, padded with zeros."""
        return b'{"n":"%0*d"}\n' % (self.size - 9, number * self.step)

    @cached_property
    def _chunks(self) -> tuple[bytes, ...]:
        return tuple(map(self.chunk, range(self.count)))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks) if self.length <= HELD else map(self.chunk, range(self.count))

    @cached_property
    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self)

    @cached_property
    def digest(self) -> int:
        """The CRC-32 of all of it."""
        digest = 0
        for chunk in self:
            digest = zlib.crc32(chunk, digest)
        return digest

    def __str__(self) -> str:
        return f"{self.count:,} chunks of {self.size:,} bytes"


#: What most of the measuring is done with.
WORKS = {
    "W1": Body(256, 4),
    "W2": Body(100, 1_000),
    "W3": Body(20, 20_000),
    "W4": Body(65_536, 160),
}

#: The growth in the number of chunks.
GROWTH = {f"{count:,}": Body(20, count) for count in (100, 1_000, 10_000, 100_000)}

#: One that is larger than what a process should hold.
LARGE = Body(65_536, 3_200)

#: How many bodies of mixed size there are, and their sizes: from 1 KiB to 512 KiB, a factor of two
#: from one to the next, in an order that mixes them.
MIXED = {
    f"mixed-{number}": Body(1_024, 1 << (number * 7 % 10), number + 1) for number in range(200)
}


def body_of(name: str) -> Body:
    """Return the body that a path names: `bytes-123` is one chunk of 123 bytes."""
    if name in _BY_PATH:
        return _BY_PATH[name]
    return _BY_PATH.setdefault(name, Body(int(name.removeprefix("bytes-")), 1))


def path_of(name: str) -> str:
    """Return how paths call a body."""
    return name.replace(",", "").replace(" ", "-")


_BY_PATH = {path_of(name): body for name, body in {**WORKS, **GROWTH, **MIXED}.items()}
_BY_PATH["200-MiB"] = LARGE
