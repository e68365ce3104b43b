"""What is sent: a live stream, a hit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached.entries.replay import Replay
from stream_cached.errors import LostStreamError
from stream_cached.format.records import Entry
from stream_cached.http.headers import content_length
from stream_cached.request.incoming import DisconnectShield
from stream_cached.request.observed import plain_scope
from stream_cached.responses.resumption import Resumption
from stream_cached.streams.stream import Flight, Reader

R = TypeVar("R", bound=Response)

RawHeaders = Sequence[tuple[bytes, bytes]]


class LiveResponse(StreamingResponse):
    """
    The response of a miss, or of one who joined it: its `body_iterator` is a reader of the flight.

    `__call__` does not return before the run is over, so that what belongs to the request (a
    session from a `yield` dependency, say) outlives the run, even when its client has gone. Of one
    who joined, nothing belongs to the run, and he may leave.
    """

    def __init__(
        self,
        flight: Flight,
        reader: Reader,
        *,
        status: int,
        headers: RawHeaders,
        media_type: str | None,
        charset: str,
        merge: bool,
        generation: bytes | None,
        body: bytes | memoryview | None = None,
        joined: bool = False,
    ) -> None:
        _set_head(self, status, headers, media_type, charset)
        if body is not None:
            # Of one that is no stream, but sends in its own way.
            self.body = body
        self.body_iterator = reader
        self._flight = flight
        self._reader = reader
        self._merge = merge
        self._joined = joined
        self.generation = generation
        """The id of the run; None where it is another process's."""
        self.resumption: Resumption | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # An HTTPEndpoint sends with what its method was given.
        scope = plain_scope(scope)
        if isinstance(receive, DisconnectShield):
            receive = receive.receive
        try:
            if self.body_iterator is self._reader and scope["type"] == "http":
                await _resuming(self.resumption, self._send_body, scope, receive, send)
            else:
                background, self.background = self.background, None
                await super().__call__(scope, receive, send)
                self.background = background
        finally:
            self._reader.close()
            if not self._joined:
                await self.run_is_over()
        if not self._joined and self._flight.background_error is not None:
            raise self._flight.background_error
        if self.background is not None:
            await self.background()

    async def fails_at_once(self) -> bool:
        """Wait for the first byte; return whether the run failed before there was one."""
        return await self._reader.fails_at_once()

    async def run_unsent(self) -> None:
        """
        Let the run go on to its end though nobody is sent anything.

        Raises:
            Exception: What was raised once the body was complete.
        """
        self._flight.start()
        await self.discard()
        if self._flight.background_error is not None:
            raise self._flight.background_error

    async def discard(self) -> None:
        """Leave the run, and wait until it is over."""
        self._reader.close()
        await self._flight.over()

    async def run_is_over(self) -> None:
        """Wait until the run is over, and what it has made is stored."""
        # An enclosing scope may be cancelled (BaseHTTPMiddleware); the run is bounded.
        with anyio.CancelScope(shield=True):
            await self._flight.over()

    async def _send_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = content_length(self.raw_headers)
        sent = 0
        # Whoever leaves while the head is sent leaves a run that others wait for.
        self._reader.start()
        async with _watch_client(scope, receive, self._reader.close):
            if declared == 0 or self.status_code == 204:
                # For its client the head is the end, which waits for the commit.
                await self._reader.ended()
            await send(_start(self.status_code, self.raw_headers))
            if self._joined and scope["method"] == "HEAD":
                await send(_body(b"", more=False))
                return
            while chunks := await self._reader.take():
                for part in [b"".join(chunks)] if self._merge else chunks:
                    sent += len(part)
                    if part and sent == declared:
                        # For its client this is the end: the last byte waits for the commit.
                        await send(_body(part[:-1], more=True))
                        await self._reader.ended()
                        await send(_body(part[-1:], more=True))
                    else:
                        await send(_body(part, more=True))
            if not self._reader.closed:
                await send(_body(b"", more=False))


class Held:
    """A response whose `__call__` does not return before a run is over that its request carries."""

    carries: asyncio.Task[None] | None = None

    async def run_is_over(self) -> None:
        """Wait for that run."""
        if self.carries is not None:
            # An enclosing scope may be cancelled; the run is bounded.
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self.carries])


class StaleResponse(Held, Response):
    """The response of a stale hit on one that was no stream."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.run_is_over()


class ReplayResponse(Held, StreamingResponse):
    """The response of a hit on a stream: its `body_iterator` gives the stored chunks."""

    def __init__(self, replay: Replay, *, headers: RawHeaders, exact: bool) -> None:
        entry = replay.entry
        _set_head(self, entry.status, headers, entry.media_type, entry.charset)
        self.body_iterator = replay
        self._replay = replay
        self._exact = exact
        self.resumption: Resumption | None = None

    @property
    def generation(self) -> bytes:
        """The id of the run that it is a replay of."""
        return self._replay.entry.generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.body_iterator is self._replay and scope["type"] == "http":
                await _resuming(self.resumption, self._send_body, scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
                return
        finally:
            self._replay.close()
            await self.run_is_over()
        if self.background is not None:
            await self.background()

    async def _send_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The length is known here, and a connection that breaks short of it does so visibly.
        await send(_start(self.status_code, _with_length(self.raw_headers, self._replay.entry)))
        if scope["method"] == "HEAD":
            await send(_body(b"", more=False))
            return
        if not self._replay.is_long:
            await self._send_parts(send)
            return
        async with _watch_client(scope, receive, self._replay.close):
            await self._send_parts(send)

    async def _send_parts(self, send: Send) -> None:
        left = self._replay.entry.length
        while (part := await self._next_part()) is not None:
            left -= len(part)
            if left == 0 and not self._exact:
                await send(_body(part, more=False))
                return
            await send(_body(part, more=True))
        if left:
            if self._replay.closed:
                return
            raise LostStreamError(f"{left} bytes of the stored body are missing")
        await send(_body(b"", more=False))

    async def _next_part(self) -> bytes | None:
        if self._exact:
            return await anext(self._replay, None)
        return await self._replay.part()


async def _resuming(
    resumption: Resumption | None, respond: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a body; where that is lost, and may go on, from another run."""
    if resumption is None:
        await respond(scope, receive, send)
        return
    send = resumption.watched(send)
    try:
        await respond(scope, receive, send)
    except LostStreamError as exc:
        await resumption.go_on(exc, scope, receive, send)


def stored_response(entry: Entry, headers: RawHeaders, body: bytes) -> Response:
    """Return the response of a hit on one that was no stream."""
    return _stored(Response, entry, headers, body)


def stale_response(entry: Entry, headers: RawHeaders, body: bytes) -> StaleResponse:
    """Return the response of a stale hit on one that was no stream."""
    return _stored(StaleResponse, entry, headers, body)


def _stored(cls: type[R], entry: Entry, headers: RawHeaders, body: bytes) -> R:
    response = cls.__new__(cls)
    _set_head(response, entry.status, headers, entry.media_type, entry.charset)
    response.body = body
    return response


def _set_head(
    response: Response, status: int, headers: RawHeaders, media_type: str | None, charset: str
) -> None:
    """Do what `Response.__init__` does, with headers that are complete already."""
    response.status_code = status
    response.raw_headers = list(headers)
    response.media_type = media_type
    response.charset = charset
    response.background = None


def _with_length(headers: RawHeaders, entry: Entry) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in headers}
    if entry.status in (204, 304) or names & {b"content-length", b"transfer-encoding"}:
        return list(headers)
    return [*headers, (b"content-length", str(entry.length).encode())]


def _start(status: int, headers: RawHeaders) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def _body(part: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": part, "more_body": more}


@asynccontextmanager
async def _watch_client(
    scope: Scope, receive: Receive, left: Callable[[], object]
) -> AsyncIterator[None]:
    """Call `left` when the client goes away; from ASGI 2.4 on, `send` raises instead."""
    spec_version = scope.get("asgi", {}).get("spec_version", "2.0")
    if tuple(map(int, spec_version.split("."))) >= (2, 4):
        try:
            yield
        except OSError:
            raise ClientDisconnect from None
        return
    listener = asyncio.create_task(_listen(receive, left))
    try:
        yield
    finally:
        listener.cancel()


async def _listen(receive: Receive, left: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left()
