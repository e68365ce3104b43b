"""What an endpoint sees of its client's disconnect while its response is recorded."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive


class _Kept:
    """A `receive` for a run that outlives its request."""

    def __init__(self, receive: Receive | None) -> None:
        self._receive = receive
        self._is_read = False

    async def __call__(self) -> Message:
        if not self._is_read:
            message: Message = {"type": "http.request", "body": b"", "more_body": False}
            if self._receive is not None:
                message = await self._receive()
            self._is_read = not message.get("more_body", False)
            return message
        # Nobody is there who could leave.
        await asyncio.Event().wait()
        raise AssertionError


class DisconnectShield:
    """
    A `receive` that keeps a client's leaving to itself while the run is, or may be, recorded.

    `if await request.is_disconnected(): return` would otherwise end a body cleanly, and short.

    Args:
        patience: Seconds for which it does so before there is a run: an endpoint that waits for
            something is not to wait for ever.
    """

    receive: Receive

    def __init__(self, deadline: float = 0.0) -> None:
        self.in_flight = False
        self.has_told = False
        """Whether the endpoint knows that its client has left, and may have cut its body short."""
        self._patience = deadline
        self._gone_at: float | None = None
        self._revealed = asyncio.Event()

    def reveal(self) -> None:
        """Let the endpoint see again what its client does."""
        self._revealed.set()

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            await self._hide()
        return message

    async def _hide(self) -> None:
        now = asyncio.get_running_loop().time
        if self._gone_at is None:
            self._gone_at = now()
        while not self._revealed.is_set():
            if self.in_flight:
                await self._revealed.wait()
            elif (left := self._gone_at + self._patience - now()) <= 0:
                self.has_told = True
                return
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._revealed.wait()
