"""What feeds a stream: the iterator of a response, or the ASGI messages that an app sends."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Scope

from stream_cached.errors import BrokenStreamError
from stream_cached.http.conditions import CONDITIONS
from stream_cached.http.headers import without
from stream_cached.http.reasons import NotCached
from stream_cached.streams.asides import AFTER, BEFORE, BEGINNING, Comment, LeadersAsides
from stream_cached.streams.ends import is_exhausted
from stream_cached.streams.items import WatchedItems, is_event_stream, takes_comments
from stream_cached.streams.stream import Stream
from stream_cached.tasks import spawn

#: Seconds that an app has to react to the disconnect of its client, before it is cancelled. The end
#: of an application leaves aborted runs as long.
REACT_WITHIN = 2.0

#: What lets a test see how a response was made. It is for the client of the request alone.
_DEBUG = "http.response.debug"

#: Messages that put something else than bytes into the body: a recorded app is not offered them.
_BODIES_ELSEWHERE = frozenset({"http.response.pathsend", "http.response.zerocopysend"})


def sends_by_itself(response: Response) -> bool:
    """Whether a response sends in its own way, so that only its messages have the body."""
    cls = type(response)
    if cls is StreamingResponse:
        return False
    if isinstance(response, StreamingResponse):
        names = ("__call__", "stream_response")
        return any(getattr(cls, name) is not getattr(StreamingResponse, name) for name in names)
    return cls.__call__ is not Response.__call__ or not hasattr(response, "body")


def sends_what_it_is_given(response: Response) -> bool:
    """Whether a response reads nothing of its scope but the conditions."""
    return all(
        cls.__module__.partition(".")[0] in ("starlette", "fastapi", "sse_starlette")
        for cls in type(response).__mro__
        if vars(cls).keys() & {"__call__", "stream_response"}
    )


def as_bytes(chunk: object, charset: str) -> bytes:
    """Return the bytes of a chunk. The buffer of a memoryview may be reused, so copy it."""
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, str):
        return chunk.encode(charset)
    if isinstance(chunk, memoryview | bytearray):
        return bytes(chunk)
    # Starlette fails here, too: it encodes everything that is not bytes.
    raise TypeError(f"a stream yields str, bytes or memoryview, not {type(chunk).__name__}")


class IteratorSource:
    """The `body_iterator` of a StreamingResponse. `charset` encodes a chunk that is a str."""

    def __init__(self, iterable: AsyncIterable[Any], charset: str) -> None:
        self._iterable = iterable
        self._iterator: AsyncIterator[Any] | None = None
        self._charset = charset

    async def drain(self, stream: Stream) -> None:
        self._iterator, put, charset = aiter(self._iterable), stream.put, self._charset
        async for chunk in self._iterator:
            # There may be a hundred thousand of them.
            if put(chunk if type(chunk) is bytes else as_bytes(chunk, charset)):
                await stream.pace()

    @property
    def is_exhausted(self) -> bool:
        return is_exhausted(self._iterable)

    async def close(self) -> None:
        # Starlette never closes the iterator, and leaves the clean-up to the garbage collector.
        iterator, self._iterator = self._iterator, None
        if self.is_exhausted:
            return
        try:
            if iterator is not self._iterable and isinstance(iterator, AsyncGenerator):
                # `__aiter__` has made it: no one else knows it.
                await iterator.aclose()
        finally:
            await close_iterable(self._iterable)


async def close_iterable(iterable: object) -> None:
    """Call `aclose`, where there is one, and await it, where that is possible."""
    aclose = getattr(iterable, "aclose", None)
    if callable(aclose):
        closing = aclose()
        if inspect.isawaitable(closing):
            await closing


class AppSource:
    """
    An ASGI app, such as a response, recorded by the messages that it sends.

    `begin` starts the app, and returns once the app has sent its head. The first part of the body
    waits for the run to start. `body` is the request's body, if it is known, and `items` are what
    the app iterates over, if that tells which comments of an event stream are its own.

    What it sends beside its body is for the client of its own request: `asides`.

    Its client leaves when the run is given up: `receive` says so, and what the app still sends goes
    nowhere, as with a server. An app that never asks `receive` for that is cancelled at once.
    """

    is_exhausted = False

    def __init__(
        self, app: ASGIApp, scope: Scope, body: bytes = b"", items: WatchedItems | None = None
    ) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.asides = LeadersAsides(self._client_left)
        self.unstorable = ""
        """The type of a message that the head came with, and that can't be stored."""
        self._items = items
        self._app = app
        self._scope = scope
        self._body: bytes | None = body
        self._head = asyncio.Event()
        self._may_go_on: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._complete = asyncio.Event()
        self._gone = asyncio.Event()
        """Set once the app may see a disconnect: the body is complete, or the run is given up."""
        self._is_given_up = False
        self._is_listening = False
        self._is_stopped = False
        self._handled_around: BaseException | None = None

    async def begin(self) -> None:
        """
        Run the app until it has sent its head.

        Raise `BrokenStreamError` if it returns without one, and what it raises before.
        """
        self._task = spawn(self._run())
        head = asyncio.create_task(self._head.wait())
        try:
            await asyncio.wait({self._task, head}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self._stop()
            raise
        finally:
            head.cancel()
        if not self._head.is_set():
            await self._task
            raise BrokenStreamError("the app sent no response")

    async def _run(self) -> None:
        # An event loop may run in an `except` block.
        self._handled_around = sys.exc_info()[1]
        try:
            await self._app(self._scope, self._receive, self._send)
        finally:
            self.asides.no_more()

    async def close(self) -> None:
        self._give_up()
        if self._task is not None and self._is_listening and not self._task.done():
            await asyncio.wait({self._task}, timeout=REACT_WITHIN)
        await self._stop()

    def _give_up(self) -> None:
        """Let the app see that its client has left."""
        self._is_given_up = True
        self._gone.set()

    def _client_left(self) -> None:
        """Let the app see that its client has left, if only trailers are missing."""
        if self._complete.is_set():
            self._gone.set()

    async def _stop(self) -> None:
        self._is_stopped = True
        if self._task is None:
            return
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        if not self._task.cancelled():
            # `drain` raises what the app has raised. Without it, the exception is of no interest.
            self._task.exception()

    async def drain(self, stream: Stream) -> None:
        assert self._task is not None
        self._may_go_on.set_result(stream)
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            # From now on nothing is fed. `close` gives the app time to react.
            self._give_up()
            raise
        await self._task
        if not self._complete.is_set():
            raise BrokenStreamError("the app returned before the end of its body")

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        # The run may go on when the client leaves: then only the end of the body is a disconnect.
        self._is_listening = True
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin_head(message)
        elif message["type"] == "http.response.body":
            body, more = bytes(message.get("body", b"")), message.get("more_body", False)
            # Now: later on, an item may have come that this message does not answer.
            is_comment = self._is_comment(message, body, more)
            stream = await asyncio.shield(self._may_go_on)
            if stream.owner.is_aborting or self._is_given_up:
                await self._send_to_no_one()
            elif is_comment:
                stream.comment(Comment(message))
                # An app may send comments without an end.
                await asyncio.sleep(0)
            else:
                await self._send_part(stream, body, more)
        elif not self._head.is_set():
            if message["type"] != _DEBUG:
                self.unstorable = self.unstorable or message["type"]
            self.asides.put(message, BEFORE)
        elif message["type"] == _DEBUG and not self._may_go_on.done():
            # A test client may look for it as soon as it has the head.
            self.asides.put(message, BEGINNING)
        else:
            await self._send_aside(message)

    async def _send_part(self, stream: Stream, body: bytes, more: bool) -> None:
        """Hand on a part of the body. The end must not come before what the app has sent."""
        has_to_pace = stream.put(body) if more else stream.feed(body)
        if has_to_pace and not await self._pace(stream):
            return
        if not more:
            self._end_body(stream)

    def _begin_head(self, message: Message) -> None:
        self.status = message["status"]
        self.headers = [(bytes(k), bytes(v)) for k, v in message.get("headers", ())]
        known = ("type", "status", "headers")
        self.asides.head = {name: value for name, value in message.items() if name not in known}
        if message.get("trailers", False):
            self.asides.awaits_trailers = True
            self.unstorable = self.unstorable or "http.response.trailers"
        if not is_event_stream(self.headers) or not takes_comments(self.headers):
            self._items = None
        self._head.set()

    def _is_comment(self, message: Message, body: bytes, more: bool) -> bool:
        """Whether a message is for live connections only."""
        if isinstance(message, Comment):
            return True
        return self._items is not None and self._items.is_comment(body, more=more)

    async def _send_aside(self, message: Message) -> None:
        """Pass a message on to the client of the app's own request, at its place in the body."""
        stream = await asyncio.shield(self._may_go_on)
        if stream.owner.is_aborting or self._is_given_up:
            await self._send_to_no_one()
            return
        is_complete = self._complete.is_set()
        if message["type"] != _DEBUG:
            stream.owner.mark_unstorable(NotCached.MESSAGE)
            if not is_complete:
                # It may stand for a part of the body.
                stream.cut_joined("a part of it can't be sent to it")
        self.asides.put(message, AFTER if is_complete else stream.made)
        stream.wake_readers()
        if message["type"] == "http.response.trailers" and not message.get("more_trailers", False):
            self.asides.awaits_trailers = False
        await self.asides.room()

    async def _pace(self, stream: Stream) -> bool:
        """Wait for the readers. Return False if the run is given up meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        try:
            await stream.pace()
        except asyncio.CancelledError:
            if task.cancelling() > cancellations or not stream.owner.is_aborting:
                raise
            # It is the stream that raises this. In an app it would cancel what reacts.
            await self._send_to_no_one()
            return False
        return True

    async def _send_to_no_one(self) -> None:
        """Give way, because an app may send without an end."""
        if self._is_stopped:
            # An app that swallowed its cancellation ends here.
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    def _end_body(self, stream: Stream) -> None:
        if self._task is not None and self._task.cancelling():
            # The app swallows its cancellation, and may end its body cleanly, and short.
            return
        if sys.exc_info()[1] not in (None, self._handled_around):
            # The app ends its body while an exception passes. Its client gets this end, as it
            # would without a cache, but the body is not stored.
            stream.owner.mark_unstorable(NotCached.INCOMPLETE)
        self._complete.set()
        if not self.asides.awaits_trailers:
            self._gone.set()
        stream.owner.finish_body()


def recordable(scope: Scope, *, conditional: bool) -> Scope:
    """
    Return a scope without what asks for other messages.

    Unless it may be `conditional`, it asks for the whole body, too.
    """
    changed = dict(scope)
    if not conditional:
        changed["headers"] = without(scope["headers"], CONDITIONS)
    if extensions := scope.get("extensions"):
        kept = {name: value for name, value in extensions.items() if name not in _BODIES_ELSEWHERE}
        changed["extensions"] = kept
    return changed
