"""A part of a stored response (206)."""

from __future__ import annotations

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached.entries.part import PartReplay
from stream_cached.errors import LostStreamError
from stream_cached.events import Sending
from stream_cached.responses.messages import (
    CountedSend,
    RawHeaders,
    body_message,
    set_head,
    start_message,
    watch_client,
)
from stream_cached.responses.stored import Carrying


class PartResponse(Carrying, StreamingResponse):
    """A part of an entry: its `body_iterator` gives the pieces."""

    def __init__(self, replay: PartReplay, headers: RawHeaders, sending: Sending) -> None:
        entry = replay.entry
        length = (b"content-length", b"%d" % replay.length)
        set_head(self, 206, [*headers, length], entry.media_type, entry.charset)
        self.body_iterator = replay
        self._replay = replay
        self._sending = sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counted = CountedSend(scope, send)
        try:
            if self.body_iterator is not self._replay or scope["type"] != "http":
                await super().__call__(scope, receive, counted.send)
                return
            await self._send(scope, receive, counted.send)
        finally:
            self._replay.close()
            self._sending.sent(counted.size)
            await self.refreshed()
        if self.background is not None:
            await self.background()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(self.status_code, self.raw_headers))
        if not self._replay.is_long:
            await self._send_pieces(send)
            return
        async with watch_client(scope, receive, self._replay.close):
            await self._send_pieces(send)

    async def _send_pieces(self, send: Send) -> None:
        left = self._replay.length
        while (piece := await self._replay.part()) is not None:
            left -= len(piece)
            await send(body_message(piece, more=left > 0))
        if left and not self._replay.closed:
            raise LostStreamError(f"{left} bytes of the stored body are missing")
