"""The turns of the event loop in which chunks get from a stream to its readers' sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_cached.streams.reader import Seat

#: Turns of the event loop that a chunk may need from a reader to the socket: each
#: BaseHTTPMiddleware on the way takes three to five.
_TURNS_TO_SOCKET = 12
_TURNS_TO_READER = 48


class Turns:
    """Gives way to the readers who have these seats."""

    def __init__(self, seats: Set[Seat]) -> None:
        self._seats = seats
        self._woken: list[Seat] = []

    def woke(self, seats: Iterable[Seat]) -> None:
        """Note readers who are about to take chunks."""
        self._woken.extend(seats)

    async def give(self) -> None:
        """Let the readers who were woken take what there is, and send it."""
        for _ in range(_TURNS_TO_READER):
            await asyncio.sleep(0)
            # Not for readers that their clients hold up.
            self._woken = [seat for seat in self._woken if self._is_on_its_way(seat)]
            if not self._woken:
                break
        self._woken.clear()
        if self._seats:
            await _turns(_TURNS_TO_SOCKET)

    async def give_at_end(self) -> None:
        """Let the readers leave: what the last one has sent may still be on its way."""
        for turn in range(_TURNS_TO_READER):
            if turn >= _TURNS_TO_SOCKET and not self._seats:
                break
            await asyncio.sleep(0)

    def _is_on_its_way(self, seat: Seat) -> bool:
        return not seat.is_waiting and seat.link is not None and seat in self._seats


async def _turns(count: int) -> None:
    """Wait for two or more turns: a task need not wake in each of them."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    # In each turn it calls itself with what is left, so that no code of ours runs.
    soon: Callable[..., object] = loop.call_soon
    soon(*[soon] * (count - 2), _end, over)
    await over


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
