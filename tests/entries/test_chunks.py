"""Chunks are packed into segments, and copied only where they have to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.entries.body import Body
from stream_cached.entries.chunks import PART_SIZE, ChunkJoiner, ChunkPacker
from stream_cached.format.codec import encode_segment
from stream_cached.format.envelope import size_of_value
from stream_cached.format.records import ClosedSegment
from stream_cached.limits import VALUE_SIZE, Limits
from stream_cached.stores.memory import MemoryCache, MemoryStore

#: The kinds of stores: a server, this process, and this process with compressed bodies.
PACKERS = {
    "server": {"keeps": False, "max_size": VALUE_SIZE},
    "kept": {"keeps": True, "max_size": PART_SIZE},
    "kept, and compressed": {"keeps": True, "max_size": VALUE_SIZE},
}
each_packer = pytest.mark.parametrize("options", PACKERS.values(), ids=PACKERS)

#: From nothing to more than the largest segment of all.
SIZES = [0, 1, 100, 70_000, VALUE_SIZE - 80, VALUE_SIZE, VALUE_SIZE + 1, 5 * VALUE_SIZE]


def _packed(packer: ChunkPacker, chunks: Sequence[bytes], together: int) -> list[ClosedSegment]:
    segments: list[ClosedSegment] = []
    for start in range(0, len(chunks), together):
        part = chunks[start : start + together]
        segments += packer.add(part, sum(map(len, part)))
    return segments if packer.is_empty else [*segments, packer.close()]


@each_packer
@given(st.lists(st.sampled_from(SIZES), max_size=8), st.integers(1, 8))
def test_segments_have_the_chunks_and_are_no_larger_than_the_store_takes_them(
    options: dict[str, Any], sizes: list[int], together: int
) -> None:
    chunks = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    segments = _packed(ChunkPacker(**options), chunks, together)
    joiner = ChunkJoiner()
    assert [chunk for segment in segments for chunk in joiner.add(segment)] == chunks
    assert not joiner.is_within_chunk
    most = PART_SIZE + VALUE_SIZE if options == PACKERS["kept"] else VALUE_SIZE
    for segment in segments:
        assert segment.size == sum(map(len, segment.pieces)) == sum(segment.chunks)
        assert size_of_value(encode_segment(segment, bytes(16), 0)) <= most


@pytest.mark.parametrize("size", [1, 20, 127, 128, 300])
@pytest.mark.parametrize("together", [1, 1000, 100_000])
def test_the_table_of_small_chunks_leaves_no_room_unused(size: int, together: int) -> None:
    packer = ChunkPacker(keeps=False, max_size=VALUE_SIZE)
    segments = _packed(packer, [bytes(size)] * 60_000, together)
    values = [size_of_value(encode_segment(segment, bytes(16), 0)) for segment in segments]
    assert max(values) <= VALUE_SIZE
    for segment, value in zip(segments[:-1], values[:-1], strict=True):
        # There are no more chunks in one than a process may divide at once.
        is_full = len(segment.chunks) == 16 * 1024 or value > VALUE_SIZE * 0.97 - size
        assert is_full


@each_packer
def test_a_large_chunk_is_not_copied_before_it_is_packed(options: dict[str, Any]) -> None:
    chunks = [bytes([number]) * 70_000 for number in range(20)]
    segments = _packed(ChunkPacker(**options), chunks, 1)
    pieces = [piece for segment in segments for piece in segment.pieces]
    whole = [piece for piece in pieces if any(piece is chunk for chunk in chunks)]
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    copies = len(pieces) - len(whole) - len(views)
    if options == PACKERS["kept"]:
        assert (len(segments), len(whole), len(views), copies) == (2, 20, 0, 0)
    elif options == PACKERS["server"]:
        # A view is enough until the segment is written.
        assert (len(segments), len(views), copies) == (6, 10, 0)
    else:
        # One that is kept would keep all of the chunk.
        assert (len(segments), len(views), copies) == (6, 0, 10)


@pytest.mark.parametrize("max_pending", [VALUE_SIZE, 2 * PART_SIZE, 64 * PART_SIZE])
def test_several_segments_of_a_run_may_wait(max_pending: int) -> None:
    body = Body(MemoryStore(MemoryCache()), "key", bytes(16))
    packer = body.packer(Limits(max_pending=max_pending), is_coded=False)
    segments = _packed(packer, [bytes(20_000)] * 200, 1)
    assert max(segment.size for segment in segments) <= max(VALUE_SIZE, max_pending // 3)
