"""What an app sends beside the body that is stored: messages for the clients that are there now.

They pass the recorder by, and no later client gets them. Each has its place in the body.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from stream_cached.streams.items import takes_comments

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

#: The places of messages before the head, after it, and after the body. In between, a place is what
#: `Stream.made` is there: how far the stream has come.
BEFORE = -1
BEGINNING = 0
AFTER = math.inf

#: How many messages may wait for a client that is slow.
_MAX_WAITING = 16


class Comment(dict[str, Any]):
    """A message of the body that is for live connections only: a comment of an event stream."""


class Asides:
    """
    The comments for a reader that has joined a run.

    The reader delivers them itself, between two chunks: there is one writer to each connection.
    """

    # There is one for each reader, and few are given a message.

    is_closed = False
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Those of the head that is sent: with some of them no more bytes fit into the body."""
    waiting: deque[tuple[float, Message]] | None = None
    """The messages that wait, with their places; None if there was none yet."""
    _send: Send | None = None
    _room: asyncio.Event | None = None

    def through(self, send: Send) -> Send:
        """Deliver by a `send` from now on. Return what the rest of the response is sent with."""
        self._send = send
        return send

    def is_due(self, place: float) -> bool:
        """Whether a message is to be sent that belongs at a place, or before it."""
        if self._send is None or not self.waiting:
            return False
        return self.waiting[0][0] <= place

    def comment(self, message: Comment, place: float) -> None:
        """Take a comment. For a client that is slow it is of no use: what waits is bounded."""
        has_room = not self.is_closed and len(self.waiting or ()) < _MAX_WAITING
        if has_room and takes_comments(self.headers):
            self._put(message, place)

    def _put(self, message: Message, place: float) -> None:
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append((place, message))

    async def deliver(self, place: float) -> None:
        """Send what belongs at a place, or before it."""
        while self._send is not None and self.waiting and self.is_due(place):
            message = self.waiting.popleft()[1]
            if self._room is not None:
                self._room.set()
            await self._send(message)

    def go_on_after_head(self) -> None:
        """Note that another head was sent: what belongs to it is for no one."""

    def close(self) -> None:
        """Drop what waits and what comes: the client has left."""
        self.is_closed = True
        self.waiting = None
        if self._room is not None:
            self._room.set()


class LeadersAsides(Asides):
    """
    All that an app sends beside its body, for the client of its own request.

    That are ASGI messages of other types, other fields of its head, and comments. `left` is called
    when the client leaves.
    """

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left
        self.head: dict[str, Any] = {}
        """The fields of `http.response.start` beside the status and the headers."""
        self.awaits_trailers = False
        self._has_head = True
        self._news = asyncio.Event()

    def put(self, message: Message, place: float) -> None:
        """Take a message."""
        if self._has_head and not self.is_closed:
            self._put(message, place)
            self._news.set()

    async def room(self) -> None:
        """Wait while too much waits for a client that is slow."""
        self._room = self._room or asyncio.Event()
        while len(self.waiting or ()) > _MAX_WAITING and self._send is not None:
            self._room.clear()
            await self._room.wait()

    def no_more(self) -> None:
        """Note that the app sends nothing more."""
        self.awaits_trailers = False
        self._news.set()

    def go_on_after_head(self) -> None:
        """Note that another head was sent: what belongs to it is for no one."""
        self._has_head = self.awaits_trailers = False
        self.waiting = None

    def close(self) -> None:
        """Drop what waits and what comes: the client has left."""
        super().close()
        self._left()

    def through(self, send: Send) -> Send:
        """Deliver by a `send` from now on. Return what the rest of the response is sent with."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self.deliver(BEFORE)
                message = {**self.head, **message}
            await send(message)
            if message["type"] == "http.response.start":
                await self.deliver(BEGINNING)
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                await self._deliver_rest()

        self._send = send
        return sending

    async def _deliver_rest(self) -> None:
        """Send what comes after the body, until the last trailers or the end of the app."""
        await self.deliver(AFTER)
        while self.awaits_trailers:
            self._news.clear()
            await self._news.wait()
            await self.deliver(AFTER)
