"""The responses of stored entries that were no streams, and what all of stored entries can do."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stream_cached.format.progress import Head
from stream_cached.format.records import Entry
from stream_cached.responses.messages import CountedSend, RawHeaders, set_head
from stream_cached.sending import Ending


class Carrying:
    """A response whose `__call__` returns after a refresh that may need its request."""

    refresh: asyncio.Task[None] | None = None
    carried_for: float | None = None
    has_returned = False
    """Whether the call has returned, and what belonged to its request may be closed."""

    def carry(self, refresh: asyncio.Task[None], seconds: float | None) -> None:
        """Let the response return only after a refresh, or after so many seconds."""
        self.refresh, self.carried_for = refresh, seconds

    async def refreshed(self) -> None:
        if self.refresh is None:
            return
        try:
            await asyncio.wait([self.refresh], timeout=self.carried_for)
        except asyncio.CancelledError:
            if self.carried_for is None:
                # The refresh needs what ends with this call.
                self.refresh.cancel()
            raise
        finally:
            self.has_returned = True


class StoredResponse(Carrying, Response):
    """The response of an entry that was no stream."""

    sending: Ending | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.sending is not None and self.sending.watches:
            send = self.sending.through(send)
        counted = CountedSend(scope, send)
        # What the refresh adds to the tasks of the request is carried out, too.
        background, self.background = self.background, None
        try:
            await super().__call__(scope, receive, counted.send)
        finally:
            self.background = background
            if self.sending is not None:
                self.sending.sent(counted.size)
            await self.refreshed()
        if background is not None:
            await background()


def stored_response(
    head: Entry | Head, headers: RawHeaders, body: bytes, sending: Ending | None = None
) -> StoredResponse:
    """Return the response of an entry that was no stream; `sending` reports it once it is sent."""
    response = _response(head.status, headers, head.media_type, head.charset, sending)
    response.body = body
    return response


def bare_response(status: int, headers: RawHeaders, sending: Ending) -> StoredResponse:
    """Return a response that is no entry's own, and has no body."""
    length = [] if status == 304 else [(b"content-length", b"0")]
    return _response(status, [*headers, *length], None, "utf-8", sending)


def _response(
    status: int,
    headers: RawHeaders,
    media_type: str | None,
    charset: str,
    sending: Ending | None,
) -> StoredResponse:
    # Its constructor would make headers of its own.
    response = StoredResponse.__new__(StoredResponse)
    set_head(response, status, headers, media_type, charset)
    response.body, response.sending = b"", sending
    return response


def as_error(response: StoredResponse) -> HTTPException:
    """Return what a framework makes the same answer of, where no response can be returned."""
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in response.raw_headers}
    headers.pop("content-length", None)
    if response.sending is not None:
        response.sending.sent(0)
    return HTTPException(response.status_code, headers=headers)
