"""What an endpoint sees of its client's disconnect while its response is recorded."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive


class DetachedReceive:
    """A `receive` for a run that outlives its request: the request's body, and no disconnect."""

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
        # No client is left that could disconnect.
        await asyncio.Event().wait()
        raise AssertionError


class DisconnectShield:
    """A `receive` that hides the client's disconnect while the answer may be recorded.

    `if await request.is_disconnected(): return` would otherwise end a body cleanly, and short.
    Without a run, it hides for `patience` seconds only: the endpoint may wait for it. It does not
    hide from an endpoint that the rest of the request's body will never come."""

    receive: Receive

    def __init__(
        self, patience: float = 0.0, *, may_have_body: bool = True, body_is_read: bool = True
    ) -> None:
        self.has_run = False
        """Whether a run has taken the shield over."""
        self.has_revealed = False
        """Whether the endpoint knows of the disconnect, and may have cut its body short."""
        self._may_have_body = may_have_body
        self._body_is_read = body_is_read
        self._patience = patience
        self._gone_at: float | None = None
        self._revealed = asyncio.Event()

    def take_over(self) -> None:
        """Hide the disconnect until a run reveals it."""
        self.has_run = True

    def reveal(self) -> None:
        self._revealed.set()

    def hide(self) -> None:
        """Hide what was to be revealed, because another client reads the answer, too."""
        self._revealed.clear()

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request":
            self._body_is_read = not message.get("more_body", False)
        elif message["type"] == "http.disconnect":
            if self._body_is_read or self.has_run:
                await self._hide()
            elif self._may_have_body:
                self.has_revealed = True
            else:
                # A server whose client left early says nothing of the body, which is empty.
                self._body_is_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
        return message

    async def _hide(self) -> None:
        now = asyncio.get_running_loop().time
        if self._gone_at is None:
            self._gone_at = now()
        while not self._revealed.is_set():
            if self.has_run:
                await self._revealed.wait()
            elif (left := self._gone_at + self._patience - now()) <= 0:
                break
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._revealed.wait()
        self.has_revealed = True
