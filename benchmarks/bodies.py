"""The bodies that are streamed: few small chunks, very many tiny ones, ten megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

#: It has no parameter, as the charset of a text is one: of that, cashews makes a header on a hit
#: which uvicorn refuses (`TEXT` shows it).
MEDIA_TYPE = "application/octet-stream"
TEXT = "text/csv"


@dataclass(frozen=True)
class Body:
    """
    A body whose every chunk is another one, so that none can be lost or displaced unseen.

    Args:
        size: Bytes of a chunk.
        count: How many there are.
    """

    size: int
    count: int

    @cached_property
    def chunks(self) -> tuple[bytes, ...]:
        """The chunks: each is its number, padded with zeros, on a line."""
        return tuple(b"%0*d\n" % (self.size - 1, number) for number in range(self.count))

    @cached_property
    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self.chunks)

    def __str__(self) -> str:
        return f"{self.count:,} chunks of {self.size:,} bytes"


BODIES = {"small": Body(100, 20), "tiny-chunks": Body(20, 20_000), "10-MB": Body(65_536, 160)}
