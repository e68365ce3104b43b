"""A part of a stored response (206)."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from stream_cached.entries.part import PartReplay
from stream_cached.errors import LostStreamError
from stream_cached.responses.messages import RawHeaders, WatchedClient, body_message, start_message
from stream_cached.responses.replayed import OfReplay
from stream_cached.sending import Sending


class PartResponse(OfReplay[PartReplay]):
    """A part of an entry: its `body_iterator` gives the pieces."""

    def __init__(self, replay: PartReplay, headers: RawHeaders, sending: Sending) -> None:
        length = (b"content-length", b"%d" % replay.length)
        super().__init__(replay, 206, [*headers, length], sending)

    async def open(self) -> bool:
        """See `PartReplay.open`."""
        return await self._replay.open()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(self.status_code, list(self.raw_headers)))
        if not self._replay.is_long:
            await self._send_pieces(send)
            return
        async with WatchedClient(scope, receive, self._replay.close):
            await self._send_pieces(send)

    async def _send_pieces(self, send: Send) -> None:
        left = self._replay.length
        while (piece := await self._replay.part()) is not None:
            left -= len(piece)
            await send(body_message(piece, more=left > 0))
        if left and not self._replay.closed:
            raise LostStreamError(f"{left} bytes of the stored body are missing")
