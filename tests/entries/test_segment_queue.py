"""The segments of a run that wait to be written: who waits for the store to catch up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stream_cached.entries.body import Body
from stream_cached.entries.segment_queue import SegmentQueue
from stream_cached.format.records import ClosedSegment
from stream_cached.stores.memory import MemoryCache, MemoryStore
from tests.support.gates import run

#: Seconds that no test takes.
LONG = 600.0


def _written(queue: SegmentQueue) -> None:
    queue.wrote(len(queue))


def _queue() -> SegmentQueue:
    body = Body(MemoryStore(MemoryCache(1024)), "key", b"generation")
    return SegmentQueue(400, body, digest=None, coder=None)


def _segment(size: int) -> ClosedSegment:
    return ClosedSegment((size,), False, (bytes(size),), size)


@pytest.mark.parametrize("end", [_written, SegmentQueue.give_up])
def test_all_who_wait_for_the_store_are_woken(end: Callable[[SegmentQueue], None]) -> None:
    async def main() -> None:
        queue = _queue()
        for _ in range(2):
            queue.put(_segment(100))
        assert queue.is_behind
        waiting = [asyncio.create_task(queue.catch_up(LONG)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        end(queue)
        await asyncio.gather(*waiting)
        assert not queue.is_behind
        await queue.catch_up(LONG)

    run(main)


def test_who_waits_for_a_store_that_does_not_catch_up_goes_on_after_a_while() -> None:
    async def main() -> None:
        queue = _queue()
        queue.put(_segment(101))
        await queue.catch_up(0.001)
        assert queue.is_behind

    run(main)
