"""A generator as a source: what it keeps for the caller that leads the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import NO_ITEM, decode_item
from stream_cached.streams.generated import GeneratorSource
from tests.support.gates import run
from tests.support.streaming import read, run_of

CLASSES = ItemClasses(AsyncIterator[Any])


def source_of(*items: Any, max_kept: int = 1000) -> GeneratorSource:
    async def generator() -> AsyncGenerator[Any, None]:
        for item in items:
            yield item

    return GeneratorSource(generator(), CLASSES, max_kept=max_kept)


def test_the_caller_that_leads_is_given_the_items_themselves() -> None:
    items = [[1], {"a": 2}, "text"]
    source = source_of(*items)

    async def test() -> None:
        number = 0
        async for chunk in read(run_of(source)):
            is_kept, item = source.take(number)
            assert is_kept
            assert item is items[number]
            assert decode_item(chunk, CLASSES) == items[number]
            number += 1
        assert number == 3

    run(test)


def test_what_a_slow_caller_has_not_read_is_kept_up_to_a_bound() -> None:
    source = source_of(*["x" * 100] * 50, max_kept=1000)

    async def test() -> None:
        reader = read(run_of(source))
        chunks = [chunk async for chunk in reader]
        assert len(chunks) == 50
        kept = [source.take(number)[0] for number in range(50)]
        # The oldest are decoded once more.
        assert kept == [False] * 45 + [True] * 5

    run(test)


def test_nothing_is_kept_for_a_caller_that_has_left() -> None:
    source = source_of("a", "b")

    async def test() -> None:
        reader = read(run_of(source))
        assert await anext(reader)
        source.leader_left()
        assert [chunk async for chunk in reader]
        assert source.take(1) == (False, None)

    run(test)


def test_of_items_that_can_not_be_stored_one_at_a_time_is_made() -> None:
    made: list[int] = []

    async def generator() -> AsyncGenerator[Any, None]:
        for number in range(5):
            made.append(number)
            yield object()

    source = GeneratorSource(generator(), CLASSES, max_kept=1000)

    async def test() -> None:
        reader = read(run_of(source))
        for number in range(5):
            assert await anext(reader) == NO_ITEM
            for _ in range(100):
                await asyncio.sleep(0)
            assert made == list(range(number + 1))
            assert source.take(number)[0]
        assert [chunk async for chunk in reader] == []

    run(test)
