"""What a source makes without suspending is handed on together, and none of it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from stream_cached import BrokenStreamError
from stream_cached.streams.burst import BURST_MAX
from stream_cached.streams.ends import Failed
from stream_cached.streams.sources import IteratorSource
from stream_cached.streams.stream import Stream
from tests.support.gates import run
from tests.support.streaming import end_of, read, run_of

COUNT = 300


async def quick() -> AsyncIterator[bytes]:
    for number in range(COUNT):
        yield b"%d\n" % number


async def taken_from(chunks: AsyncIterator[bytes]) -> list[list[bytes]]:
    """Return what a reader was given at once, each time."""
    a_run, taken = run_of(IteratorSource(chunks, "utf-8"), max_ahead=1_000_000), []
    reader = read(a_run)
    while batch := await reader.take():
        taken.append(batch)
    await a_run.over()
    return taken


def test_the_first_chunk_comes_at_once_and_the_others_together() -> None:
    async def test() -> None:
        first, *others = await taken_from(quick())
        assert first == [b"0\n"]
        assert len(others) <= 2
        assert b"".join(map(b"".join, others)) == b"".join(b"%d\n" % n for n in range(1, COUNT))

    run(test)


def test_what_a_source_has_made_comes_as_soon_as_it_suspends() -> None:
    go_on: asyncio.Event

    async def pausing() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        yield b"third"
        await go_on.wait()
        yield b"last"

    async def test() -> None:
        nonlocal go_on
        go_on = asyncio.Event()
        reader = read(run_of(IteratorSource(pausing(), "utf-8"), max_ahead=1_000_000))
        assert await reader.take() == [b"first"]
        assert await reader.take() == [b"second", b"third"]
        go_on.set()
        assert await reader.take() == [b"last"]
        assert await reader.take() == []

    run(test)


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    fed = Stream.feed_all

    def feed_all(stream: Stream, chunks: list[bytes], size: int) -> None:
        sizes.append(sum(map(len, chunks)))
        fed(stream, chunks, size)

    async def large() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(BURST_MAX // 3)

    async def test() -> None:
        monkeypatch.setattr(Stream, "feed_all", feed_all)
        await taken_from(large())

    run(test)
    assert sum(sizes) == 10 * (BURST_MAX // 3)
    assert max(sizes) <= BURST_MAX + BURST_MAX // 3


@pytest.mark.parametrize("ends", ["raises", "is cancelled"])
def test_what_comes_before_a_bad_end_is_handed_on(ends: str) -> None:
    async def bad() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        raise LookupError if ends == "raises" else asyncio.CancelledError

    async def test() -> None:
        reader = read(run_of(IteratorSource(bad(), "utf-8"), max_ahead=1_000_000))
        assert await reader.take() == [b"first"]
        assert await reader.take() == [b"second"]
        with pytest.raises((LookupError, BrokenStreamError)):
            await reader.take()

    run(test)


def test_a_burst_that_can_not_be_handed_on_is_no_clean_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop hands it on: nobody else would see what is raised there."""

    async def pausing() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        await asyncio.sleep(0)

    fed = Stream.feed_all

    def feed_all(stream: Stream, chunks: Sequence[bytes], size: int) -> None:
        if b"second" in chunks:
            raise MemoryError
        fed(stream, [*chunks], size)

    async def test() -> None:
        monkeypatch.setattr(Stream, "feed_all", feed_all)
        a_run = run_of(IteratorSource(pausing(), "utf-8"), max_ahead=1_000_000)
        reader = read(a_run)
        assert await reader.take() == [b"first"]
        with pytest.raises(MemoryError):
            await reader.take()
        await a_run.over()
        assert isinstance(end_of(a_run), Failed)

    run(test)


def test_what_a_source_has_made_does_not_depend_on_the_reader_that_is_woken() -> None:
    """The reader that waits for it is cancelled at that very moment."""
    go_on: asyncio.Event
    waiting: asyncio.Task[list[bytes]]

    async def pausing() -> AsyncIterator[bytes]:
        yield b"first"
        await go_on.wait()
        yield b"second"
        waiting.cancel()
        await asyncio.Event().wait()

    async def test() -> None:
        nonlocal go_on, waiting
        go_on = asyncio.Event()
        a_run = run_of(IteratorSource(pausing(), "utf-8"), max_ahead=1_000_000)
        reader, other = read(a_run), read(a_run)
        assert await reader.take() == [b"first"]
        waiting = asyncio.create_task(reader.take())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await other.take() == [b"first", b"second"]

    run(test)
