"""The responses of stored entries that were streams, fresh and stale."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached.entries.found import Hit
from stream_cached.entries.part import PartReplay
from stream_cached.entries.replay import Replay
from stream_cached.entries.resource import Resource
from stream_cached.errors import LostStreamError
from stream_cached.format.records import Entry, Segment
from stream_cached.http.event_ids import AfterEvent
from stream_cached.http.sent import is_framed
from stream_cached.responses.messages import (
    CountedSend,
    RawHeaders,
    WatchedClient,
    body_message,
    set_head,
    start_message,
)
from stream_cached.responses.resumption import Resumption, resuming
from stream_cached.responses.stored import Carrying
from stream_cached.sending import Ending

#: What reads a stored body: all of it, or a part.
Replayed = TypeVar("Replayed", Replay, PartReplay)


class OfReplay(Carrying, StreamingResponse, ABC, Generic[Replayed]):
    """
    A response whose `body_iterator` reads a stored body.

    Args:
        replay: What reads it.
        status: The status that is sent.
        headers: The headers that are sent.
        sending: Reports the response once it is sent.
    """

    _replay: Replayed
    _other: Any = None
    """What somebody has put in the place of the stored body."""
    _parts: Sequence[Segment] | None = None
    """The whole body, where nothing has to be read for it, and nothing else is to be sent."""

    def __init__(self, replay: Replayed, status: int, headers: RawHeaders, sending: Ending) -> None:
        set_head(self, status, headers, replay.entry.media_type, replay.entry.charset)
        self._replay = replay
        self.sending = sending

    @property
    def body_iterator(self) -> Any:
        """What gives the body."""
        return self._replay if self._other is None else self._other

    @body_iterator.setter
    def body_iterator(self, other: Any) -> None:
        self._other = None if other is self._replay else other
        self._parts = None

    def _is_sent_here(self, scope: Scope) -> bool:
        """Whether nobody has put another body in the place of the stored one."""
        return self._other is None and scope["type"] == "http"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.sending.watches:
            send = self.sending.through(send)
        counted = CountedSend(scope, send)
        try:
            if not self._is_sent_here(scope):
                await super().__call__(scope, receive, counted.send)
                return
            await self._send(scope, receive, counted.send)
        finally:
            self._replay.close()
            self.sending.sent(counted.size)
            await self.refreshed()
        if self.background is not None:
            await self.background()

    @abstractmethod
    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head and the stored body."""


class ReplayResponse(OfReplay[Replay]):
    """The response of an entry that was a stream: its `body_iterator` gives the stored chunks."""

    after: AfterEvent | None = None
    """Where in an event stream the body begins; None for the begin."""
    _resumption: Resumption | None = None
    _exact = False
    _made: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]] | None = None
    """Its headers as they were made, where they lack the length of the body; and with it."""
    _opens: tuple[Hit, Callable[[], Resource]] | None = None
    """What its replay is made of, if that is needed; None if it has one."""

    def __init__(
        self, replay: Replay, headers: RawHeaders, *, exact: bool, sending: Ending
    ) -> None:
        super().__init__(replay, replay.entry.status, headers, sending)
        self._entry = replay.entry
        self._exact = exact
        self._parts = None if exact else replay.at_hand
        self._left = self._entry.length

    @classmethod
    def at_hand(
        cls,
        hit: Hit,
        resource: Callable[[], Resource],
        headers: list[tuple[bytes, bytes]],
        sending: Ending,
    ) -> ReplayResponse:
        """
        Return the response of an entry with its body.

        Args:
            hit: The entry.
            resource: Returns the resource of the entry.
            headers: The headers that are sent; the response keeps the list.
            sending: Reports the response once it is sent.
        """
        # Hardly any response is read otherwise than by sending it.
        response = cls.__new__(cls)
        entry = response._entry = hit.entry
        set_head(response, entry.status, headers, entry.media_type, entry.charset)
        if not hit.head.is_framed:
            length = b"content-length", b"%d" % entry.length
            response._made = headers, [*headers, length]
        response._parts = hit.body
        response._opens = hit, resource
        response.sending = sending
        return response

    @functools.cached_property
    def _replay(self) -> Replay:  # type: ignore[override]
        assert self._opens is not None
        hit, resource = self._opens
        self._opens = None
        return Replay(resource, hit)

    @property
    def replay(self) -> Replay:
        return self._replay

    @property
    def resumption(self) -> Resumption | None:
        """How it continues where its body is lost."""
        return self._resumption

    @resumption.setter
    def resumption(self, resumption: Resumption | None) -> None:
        self._resumption = resumption
        self._parts = None

    @property
    def generation(self) -> bytes:
        return self._entry.generation

    async def end_read(self, size: int) -> None:
        """Report what was read of the items of a generator."""
        self._replay.close()
        self.sending.sent(size)
        await self.refreshed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._parts
        if parts is None or scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        size, sending = 0, self.sending
        if sending.watches:
            send = sending.through(send)
        try:
            await send(self._start())
            if scope["method"] == "HEAD":
                await send(body_message(b"", more=False))
                parts = ()
            last = parts[-1] if parts else None
            for part in parts:
                payload, more = part.payload, part is not last
                # Not by `body_message`: each hit comes here.
                await send({"type": "http.response.body", "body": payload, "more_body": more})
                size += len(payload)
        finally:
            if self._opens is None:
                self._replay.close()
            sending.sent(size)
            if self.refresh is not None:
                await self.refreshed()
        if self.background is not None:
            await self.background()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await resuming(self.resumption, self._send_body, scope, receive, send)

    async def _send_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send(self._start())
            await send(body_message(b"", more=False))
            return
        if self._replay.at_hand is not None or not self._replay.is_long:
            await self._send_parts(send)
            return
        async with WatchedClient(scope, receive, self._replay.close):
            await self._send_parts(send)

    def _start(self) -> dict[str, object]:
        # The length is known here, and a connection that breaks before it does so visibly.
        made = self._made
        if made is not None and made[0] == self.raw_headers:
            # Nobody has changed them, so that they need no look.
            headers = [*made[1]]
        else:
            headers = _with_length(self.raw_headers, self._entry)
        return {"type": "http.response.start", "status": self.status_code, "headers": headers}

    async def _rest(self, after: AfterEvent) -> bytes | None:
        """Read on to the end of an event. Return what follows there of the part that ends it."""
        while (part := await self._next_part()) is not None:
            self._left -= len(part)
            if (rest := after.rest(part)) is not None:
                return rest
        return None

    async def _send_parts(self, send: Send) -> None:
        self._left = self._entry.length
        if self.after is None:
            await send(self._start())
        else:
            rest = await self._rest(self.after)
            if rest is None and not self._replay.closed:
                raise LostStreamError("the stored body has no such event")
            await send(start_message(self.status_code, list(self.raw_headers)))
            await send(body_message(rest or b"", more=True))
        while (part := await self._next_part()) is not None:
            self._left -= len(part)
            if self._left == 0 and not self._exact:
                await send(body_message(part, more=False))
                return
            await send(body_message(part, more=True))
        if self._left:
            if self._replay.closed:
                return
            raise LostStreamError(f"{self._left} bytes of the stored body are missing")
        await send(body_message(b"", more=False))

    async def _next_part(self) -> bytes | None:
        if self._exact:
            return await anext(self._replay, None)
        return await self._replay.part()


def _with_length(headers: RawHeaders, entry: Entry) -> list[tuple[bytes, bytes]]:
    if is_framed(entry.status, headers):
        return list(headers)
    return [*headers, (b"content-length", str(entry.length).encode())]
