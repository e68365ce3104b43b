"""Calls that join a run at the same time, a few after the others."""

from __future__ import annotations

import asyncio
from collections import deque

#: How many calls join a run in one turn of the event loop.
AT_ONCE = 8


class Line:
    """
    Lets few calls join a run in one turn of the event loop.

    uvloop sends what was written at the end of a turn. If a hundred calls joined in one, the first
    of them would be sent its first byte after all of them. They wait before they look into the
    store, and once more before they join: a server answers many of them at once.
    """

    _has_begun = False
    _joined = 0
    """How many have joined in this turn."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until those who came earlier have joined."""
        loop = asyncio.get_running_loop()
        if not self._has_begun:
            self._has_begun = True
            loop.call_soon(self._next_turn)
        if self._joined < AT_ONCE and not self._waiting:
            self._joined += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_turn(self) -> None:
        self._joined = 0
        while self._waiting and self._joined < AT_ONCE:
            turn = self._waiting.popleft()
            # One that is cancelled is done.
            if not turn.done():
                turn.set_result(None)
                self._joined += 1
        self._has_begun = self._joined > 0
        if self._has_begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
