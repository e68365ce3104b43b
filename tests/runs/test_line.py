"""Calls that join a run at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiocache import SimpleMemoryCache
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from stream_cached import MemoryCache, stream_cached
from stream_cached.runs.line import AT_ONCE, Line
from tests.support.asgi import Exchange
from tests.support.gates import run, until


class Turns:
    """Counts the turns of the running event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def _joined_in(line: Line, turns: Turns, count: int) -> list[tuple[int, int]]:
    """Return in which turn each of several calls has joined, in their order."""
    joined: list[tuple[int, int]] = []

    async def join(call: int) -> None:
        await line.wait()
        joined.append((call, turns.number))

    await asyncio.gather(*map(join, range(count)))
    return joined


def test_few_join_in_one_turn_and_in_their_order() -> None:
    async def main() -> None:
        turns, count = Turns(), 5 * AT_ONCE
        joined = await _joined_in(Line(), turns, count)
        turns.stop()
        assert [call for call, _ in joined] == [*range(count)]
        assert Counter(turn for _, turn in joined).most_common(1)[0][1] == AT_ONCE
        assert joined[-1][1] - joined[0][1] == 5

    asyncio.run(main())


def test_who_comes_later_does_not_wait_for_those_who_have_joined() -> None:
    async def main() -> None:
        line, turns = Line(), Turns()
        for _ in range(3):
            await _joined_in(line, turns, 3 * AT_ONCE + 1)
            before = turns.number
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            after = turns.number
            ((_, turn),) = await _joined_in(line, turns, 1)
            # A task of its own begins in the next turn.
            assert (after - before, turn - after) == (2, 1)
        for _ in range(4):
            await asyncio.sleep(0)
        # Nothing counts any more.
        assert not line._has_begun
        turns.stop()

    asyncio.run(main())


def test_a_call_that_is_cancelled_in_the_line_holds_nobody_up() -> None:
    async def main() -> None:
        line, turns = Line(), Turns()
        waiting = [asyncio.create_task(line.wait()) for _ in range(3 * AT_ONCE)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
        before = turns.number
        await line.wait()
        assert turns.number == before
        turns.stop()

    asyncio.run(main())


@pytest.mark.parametrize("store", ["memory", "server"])
def test_few_of_those_who_join_are_sent_their_first_byte_in_one_turn(store: str) -> None:
    async def main() -> None:
        begun, go_on, answer = asyncio.Event(), asyncio.Event(), asyncio.Event()

        class Slow(SimpleMemoryCache):  # type: ignore[misc]
            async def _multi_get(self, *args: Any, **kwargs: Any) -> Any:
                values = await super()._multi_get(*args, **kwargs)
                if begun.is_set():
                    await answer.wait()
                return values

        @stream_cached(ttl=60, cache=MemoryCache() if store == "memory" else Slow())
        async def endpoint(request: Request) -> StreamingResponse:
            async def chunks() -> AsyncIterator[bytes]:
                yield b"first"
                begun.set()
                await go_on.wait()

            return StreamingResponse(chunks())

        app, turns, sent_in = Starlette(routes=[Route("/", endpoint)]), Turns(), list[int]()

        class Counting(Exchange):
            async def _send(self, message: Message) -> None:
                if message.get("body"):
                    sent_in.append(turns.number)
                self.sent.append(message)

        leader, others = Counting(app), [Counting(app) for _ in range(5 * AT_ONCE)]
        tasks = [asyncio.create_task(leader.run())]
        await begun.wait()
        sent_in.clear()
        tasks += [asyncio.create_task(each.run()) for each in others]
        for _ in range(20):
            await asyncio.sleep(0)
        # A server that has hung answers all of them at once.
        answer.set()
        await until(lambda: len(sent_in) == len(others))
        turns.stop()
        assert Counter(sent_in).most_common(1)[0][1] <= AT_ONCE
        go_on.set()
        await asyncio.gather(*tasks)
        assert {each.body for each in others} == {b"first"}

    run(main)
