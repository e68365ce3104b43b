"""Calls that join a run at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter

from stream_cached.runs.line import AT_ONCE, Line


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
        assert joined[-1][1] - joined[0][1] == 4

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
