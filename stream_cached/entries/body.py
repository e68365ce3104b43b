"""The body of one run in a store: segments that are written while the run streams.

This module and `object_body` are the ones that know where segments are.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stream_cached.bodies.threads import in_thread
from stream_cached.entries.chunks import PART_SIZE, ChunkPacker
from stream_cached.format.codec import CODED, decode_segment, encode_segment
from stream_cached.format.envelope import Own, read_prefix, seal_of
from stream_cached.format.records import ClosedSegment, Segment
from stream_cached.format.validation import UnsoundError
from stream_cached.keys.names import segment_key
from stream_cached.limits import VALUE_SIZE, Limits
from stream_cached.stores.protocol import Store, kind_of_values

#: Segments that are written or read in one round trip.
WINDOW = 4

#: Segments that are renewed or dropped in one round trip. Each round trip has the time-out of one
#: operation, within which a store that takes one key at a time must be through.
_BATCH = 256

#: Seconds that a segment lives unless it is renewed.
RUN_TTL = 60.0

#: Seconds between two renewals.
RENEW_EVERY = RUN_TTL / 3

#: The length and the CRC-32 of a segment's payload.
Seal = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PackedSegment:
    """A segment as it is written."""

    index: int
    value: bytes
    seal: Seal
    coding: int = 0
    """See `Coding`."""


class Body:
    """
    The segments of one run, in the store of the records.

    Args:
        store: The store that holds them.
        key: The key of the resource.
        generation: The random id of the run.
    """

    def __init__(self, store: Store, key: str, generation: bytes) -> None:
        self._store = store
        self._key = key
        self._generation = generation
        self._renewed_at = -math.inf
        self._kind = kind_of_values(store)

    is_object = False
    """Whether the segments become an object of another store."""

    @property
    def first(self) -> int:
        """The number of the first segment that can be read now."""
        return 0

    def packer(self, limits: Limits, *, is_coded: bool) -> ChunkPacker:
        """
        Return what packs the chunks of the run.

        Args:
            limits: Those of the run. As many bytes as it may be ahead are in memory anyway.
            is_coded: Whether segments may be compressed. A large one would be inflated at once.
        """
        # What this process keeps may be larger, and is fewer.
        keeps, size = self._kind is Own, 0
        if keeps and not is_coded:
            size = min(PART_SIZE, limits.max_ahead, limits.pending_share)
        return ChunkPacker(keeps=keeps, max_size=max(VALUE_SIZE, size))

    def pack(self, index: int, segment: Segment | ClosedSegment) -> PackedSegment:
        value = encode_segment(segment, self._generation, index, self._kind)
        return PackedSegment(index, value, seal_of(value))

    def unpack(self, index: int, value: bytes | None, seal: Seal | None = None) -> Segment:
        """Decode a segment. Raises `UnsoundError` unless it is whole and has that seal."""
        if value is None:
            raise UnsoundError(f"segment {index} is missing")
        length = None if seal is None else seal[0]
        segment = decode_segment(value, self._generation, index, length)
        if seal is not None and seal != (len(segment.payload), read_prefix(value).body_checksum):
            raise UnsoundError(f"segment {index} is not the one that was stored")
        return segment

    async def write(self, segments: Sequence[PackedSegment]) -> None:
        """Write segments in one round trip. They live for `RUN_TTL` unless they are renewed."""
        await self._store.set_many(self.items(segments), RUN_TTL)
        if self._renewed_at == -math.inf:
            self._renewed_at = _now()

    def items(self, segments: Sequence[PackedSegment]) -> list[tuple[str, bytes]]:
        """Return what `write` sets, for what sets it together with more."""
        return [(self._key_of(segment.index), segment.value) for segment in segments]

    async def read(self, indexes: range, seals: Sequence[Seal] | None = None) -> list[Segment]:
        """Read segments in one round trip. `seals` are those of the whole body, where known."""
        values = await self._store.get_many(self.keys(indexes))
        return await self._unpacked(indexes, values, seals)

    async def _unpacked(
        self, indexes: range, values: Sequence[bytes | None], seals: Sequence[Seal] | None
    ) -> list[Segment]:
        def unpacked() -> list[Segment]:
            return [
                self.unpack(index, value, None if seals is None else seals[index])
                for index, value in zip(indexes, values, strict=True)
            ]

        if CODED in [value[9:10] for value in values if value]:
            # It takes a few milliseconds to inflate them.
            return await in_thread(unpacked)
        return unpacked()

    async def renew(self, indexes: range, ttl: float | None) -> int:
        """Give segments a new ttl, in as many round trips as it takes. Return how many exist."""
        self._renewed_at = _now()
        return sum([await self._store.touch_many(keys, ttl) for keys in self._batches(indexes)])

    async def renew_if_due(self, indexes: range, ttl: float | None) -> None:
        """
        Give segments a new ttl, unless that happened less than `RENEW_EVERY` ago.

        With None nothing is done: segments that have a ttl all the same are to expire.
        """
        if ttl is not None and _now() - self._renewed_at >= RENEW_EVERY:
            await self.renew(indexes, ttl)

    async def drop(self, indexes: range) -> None:
        """Delete the segments of a run that has left no record."""
        for keys in self._batches(indexes):
            await self._store.delete_many(keys)

    def keys(self, indexes: range) -> list[str]:
        """Return the keys of segments, for indexes of keys that others keep."""
        return [self._key_of(index) for index in indexes]

    async def leave(self, indexes: range) -> None:
        """Leave segments to those who read them already: no record leads to them."""
        await self.renew(indexes, RUN_TTL)

    # Of a body that becomes an object, there is more to be done.

    async def finish(self) -> tuple[int, ...]:
        """Make a complete body visible. Return the sizes that its record has to hold."""
        return ()

    def show(self, sizes: Sequence[int]) -> None:
        """Note that the whole body can be read."""

    async def shown(self) -> None:
        """Wait until the whole body can be read. Raise `StoreError` if it never can be."""

    async def recorded(self) -> None:
        """Delete what is not needed any more once the record is written."""

    async def abort(self) -> None:
        """Leave nothing of what is not visible yet."""

    def close(self) -> None:
        """Read no more."""

    def _batches(self, indexes: range) -> Iterator[list[str]]:
        for start in range(0, len(indexes), _BATCH):
            yield [self._key_of(index) for index in indexes[start : start + _BATCH]]

    def _key_of(self, index: int) -> str:
        return segment_key(self._key, self._generation, index)


def window_end(seals: Sequence[Seal], start: int) -> int:
    """Return where the segments end that are read together: `WINDOW` of them, or a megabyte."""
    size, end = 0, start
    for length, _ in seals[start : start + WINDOW]:
        size += length
        if end > start and size > PART_SIZE:
            break
        end += 1
    return end


def _now() -> float:
    return asyncio.get_running_loop().time()
