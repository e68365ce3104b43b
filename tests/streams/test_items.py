"""Which messages of an event stream are comments of the class that sends it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from stream_cached.streams.items import WatchedItems
from tests.support.gates import Gate, run

PING = b": ping\n\n"


async def three() -> AsyncIterator[bytes]:
    for item in (b"data: 1\n\n", b": a comment\n\n", b"data: 3\n\n"):
        yield item


def is_comment(items: WatchedItems, body: bytes, more: bool = True) -> bool:
    return items.is_comment(body, more=more)


async def by_another_task(items: WatchedItems, body: bytes = PING) -> bool:
    async def send() -> bool:
        return is_comment(items, body)

    return await asyncio.create_task(send())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (PING, True),
        (b":\n\n", True),
        (b"\n", True),
        (b": a\r\n: b\r\n\r\n", True),
        (b": a\r\r", True),
        (b": a\n\n: b\n\n", True),
        (b"", False),
        (b": a", False),
        (b": a\ndata: b\n\n", False),
        (b": a\n id: b\n", False),
        (b"event: ping\ndata: \n\n", False),
        (b"data: a\n\n: b\n\n", False),
    ],
)
def test_only_comments_count(body: bytes, expected: bool) -> None:
    async def test() -> None:
        gate = Gate()

        async def silent() -> AsyncIterator[bytes]:
            await gate.passed()
            yield b"data: 1\n\n"

        items = WatchedItems(silent())
        asking = asyncio.ensure_future(anext(aiter(items)))
        await asyncio.sleep(0)
        assert is_comment(items, body) is expected
        assert is_comment(items, body, more=False) is False
        gate.open()
        assert await asking == b"data: 1\n\n"
        assert is_comment(items, body) is False

    run(test)


def test_a_line_is_ended_before_a_comment_begins() -> None:
    async def test() -> None:
        items = WatchedItems(three())
        async for _ in items:
            assert not is_comment(items, b"data: ")
            assert not await by_another_task(items)
            assert not is_comment(items, b"1\n\n")
            assert await by_another_task(items)

    run(test)


def test_each_item_is_answered() -> None:
    async def test() -> None:
        items = WatchedItems(three())
        assert not await by_another_task(items)
        async for item in items:
            assert not is_comment(items, item)
            # More for the same item, and a ping while the item is still on its way.
            assert not is_comment(items, PING)
            assert await by_another_task(items)
        assert not is_comment(items, PING)
        assert await by_another_task(items)

    run(test)


async def loses_step_by_asking(items: WatchedItems) -> None:
    iterator = aiter(items)
    await anext(iterator)
    await anext(iterator)


async def loses_step_by_a_second_iterator(items: WatchedItems) -> None:
    aiter(items)
    is_comment(items, await anext(aiter(items)))


@pytest.mark.parametrize("lose", [loses_step_by_asking, loses_step_by_a_second_iterator])
def test_where_it_can_not_be_told_all_is_a_part_of_the_body(
    lose: Callable[[WatchedItems], Awaitable[None]],
) -> None:
    async def test() -> None:
        items = WatchedItems(three())
        await lose(items)
        async for item in items:
            assert not is_comment(items, item)
            assert not await by_another_task(items)

    run(test)


def test_it_has_all_that_the_iterator_has() -> None:
    class Items:
        name = "the items"
        closed = False

        def __aiter__(self) -> AsyncIterator[bytes]:
            return three()

        async def __aenter__(self) -> Items:
            return self

        async def __aexit__(self, *raised: object) -> None:
            self.closed = True

    async def test() -> None:
        plain = Items()
        items = WatchedItems(plain)
        assert items.name == "the items"
        # One that can be read again is read from its begin.
        for _ in range(2):
            assert [item async for item in items] == [item async for item in three()]
        async with items as entered:
            assert entered is plain
        assert plain.closed
        with pytest.raises(AttributeError):
            _ = items.missing
        generator = WatchedItems(three())
        assert inspect.isasyncgen(generator)
        assert await anext(generator) == b"data: 1\n\n"
        assert await generator.asend(None) == b": a comment\n\n"
        assert [item async for item in generator] == [b"data: 3\n\n"]

    run(test)
