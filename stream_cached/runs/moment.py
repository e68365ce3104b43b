"""Something that happens once in a run."""

from __future__ import annotations

import asyncio


class Moment:
    """Something that happens once. An event is made for it only if somebody waits."""

    has_come = False
    _event: asyncio.Event | None = None

    def come(self) -> None:
        self.has_come = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        if not self.has_come:
            self._event = self._event or asyncio.Event()
            await self._event.wait()
