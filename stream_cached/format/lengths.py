"""The lengths of the chunks of a body: packed beside it, and unpacked only where they are needed.

A body is sent without them. Only a replay chunk by chunk, and what goes on within a body, needs
them: so a hit takes the same time whatever the number of its chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

from stream_cached.format.validation import UnsoundError, partition, typed, unpacked
from stream_cached.keys.packing import pack_any_text


class LazyLengths(ABC, Sequence[int]):
    """Lengths that are worked out when they are looked at."""

    __slots__ = ()

    @abstractmethod
    def unpacked(self) -> Sequence[int]:
        """Return the lengths."""

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self.unpacked()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self.unpacked())

    def __len__(self) -> int:
        return len(self.unpacked())


class Lengths(LazyLengths):
    """
    Lengths as they are stored. Whatever looks at them raises `UnsoundError` if they do not fit.

    Args:
        packed: The lengths; empty if there are none.
        total: What they must come to.
        least: How many there must be at least.
    """

    __slots__ = ("_least", "_lengths", "_total", "packed")

    def __init__(self, packed: bytes, total: int, *, least: int = 0) -> None:
        self.packed = packed
        self._total = total
        self._least = least
        self._lengths: tuple[int, ...] | None = None

    def unpacked(self) -> tuple[int, ...]:
        """Return the lengths, checked."""
        if self._lengths is None:
            lengths = partition(unpacked(self.packed) if self.packed else (), self._total)
            if len(lengths) < self._least:
                raise UnsoundError("too few chunks")
            self._lengths = lengths
        return self._lengths

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.unpacked() == tuple(other)

    def __hash__(self) -> int:
        return hash(self.unpacked())

    def __repr__(self) -> str:
        return f"Lengths of {self._total} bytes"


def packed_lengths(lengths: Sequence[int]) -> bytes:
    """Return lengths as they are stored."""
    # The exact type first: `isinstance` is slow for an abstract class.
    if type(lengths) is not tuple and isinstance(lengths, Lengths):
        return lengths.packed
    return pack_any_text(lengths) if lengths else b""


def lengths_of(packed: Any, total: int, *, least: int = 0) -> Lengths:
    """Return the lengths of a field of a head, which are not looked at yet."""
    return Lengths(typed(bytes, packed), total, least=least)
