"""Calls that join a run at the same time, a few after the others."""

from __future__ import annotations

import asyncio

#: How many calls join a run in one turn of the event loop.
AT_ONCE = 8


class Line:
    """
    Lets few calls join a run in one turn of the event loop.

    uvloop sends what was written at the end of a turn. If a hundred calls joined in one, the first
    of them would be sent its first byte after all of them. They wait before they look into the
    store, and once more before they join: a server answers many of them at once.
    """

    ahead = 0
    """How many have joined in this turn, and are going to in the next ones."""

    async def wait(self) -> None:
        """Wait until those who came earlier have joined."""
        ahead = self.ahead
        if not ahead:
            self._count_down_later()
        self.ahead += 1
        for _ in range(ahead // AT_ONCE):
            await asyncio.sleep(0)

    def _count_down_later(self) -> None:
        asyncio.get_running_loop().call_soon(self._count_down)

    def _count_down(self) -> None:
        self.ahead = max(0, self.ahead - AT_ONCE)
        if self.ahead:
            self._count_down_later()
