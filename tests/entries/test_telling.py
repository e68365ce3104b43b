"""What followers are told of chunks that are no segment yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stream_cached.entries.chunks import ChunkPacker
from stream_cached.entries.telling import Telling
from stream_cached.format.records import Entry
from stream_cached.limits import VALUE_SIZE

SHORT, LONG = b"x" * 1_000, b"x" * 70_000


class Channel:
    def __init__(self, *, followed: bool = False) -> None:
        self.followed = followed
        self.told: list[tuple[int, bytes]] = []
        self.questions = 0

    async def tell(self, segments: int, chunks: Sequence[int], tail: bytes, first: int = 0) -> None:
        assert sum(chunks) == len(tail)
        self.told.append((segments, tail))

    async def is_followed(self) -> bool:
        self.questions += 1
        return self.followed

    def complete(self, entry: Entry, *, stored: bool) -> None:
        raise NotImplementedError


def test_few_chunks_are_told_again_and_again() -> None:
    async def main() -> None:
        channel, packer = Channel(), ChunkPacker(keeps=False, max_size=VALUE_SIZE)
        telling = Telling(channel, packer)
        for number in 1, 2, 3:
            packer.add([SHORT], len(SHORT))
            assert not await telling.needs_segment(packer.filled)
            assert await telling.tell(0, is_next=True)
            assert channel.told[-1] == (0, SHORT * number)
        assert await telling.tell(0, is_next=False)
        assert channel.told[-1] == (0, b"")
        assert channel.questions == 0

    asyncio.run(main())


def test_many_chunks_of_a_run_without_followers_are_no_segment_while_more_come() -> None:
    async def main() -> None:
        channel, packer = Channel(), ChunkPacker(keeps=False, max_size=VALUE_SIZE)
        telling = Telling(channel, packer)
        for _ in range(3):
            packer.add([LONG], len(LONG))
            assert not await telling.needs_segment(packer.filled)
            assert not await telling.tell(0, is_next=True)
        # The head is known.
        assert channel.told == [(0, b"")]
        assert not await telling.tell(1, is_next=True)
        assert channel.told[1:] == [(1, b"")]

    asyncio.run(main())


def test_what_was_told_is_not_taken_back() -> None:
    async def main() -> None:
        channel, packer = Channel(), ChunkPacker(keeps=False, max_size=VALUE_SIZE)
        telling = Telling(channel, packer)
        packer.add([SHORT], len(SHORT))
        assert await telling.tell(0, is_next=True)
        packer.add([LONG], len(LONG))
        assert not await telling.tell(0, is_next=True)
        assert channel.told == [(0, SHORT)]

    asyncio.run(main())


def test_many_chunks_are_a_segment_if_somebody_follows() -> None:
    async def main() -> None:
        channel, packer = Channel(followed=True), ChunkPacker(keeps=False, max_size=VALUE_SIZE)
        packer.add([LONG], len(LONG))
        assert await Telling(channel, packer).needs_segment(packer.filled)

    asyncio.run(main())


def test_many_chunks_are_a_segment_if_no_more_come() -> None:
    async def main() -> None:
        channel, packer = Channel(), ChunkPacker(keeps=False, max_size=VALUE_SIZE)
        telling = Telling(channel, packer)
        packer.add([LONG], len(LONG))
        assert not await telling.needs_segment(packer.filled)
        assert await telling.needs_segment(packer.filled)
        assert channel.questions == 1

    asyncio.run(main())
