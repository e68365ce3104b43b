"""The response of a run: of the request that leads it, and of a request that joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import anyio
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached.errors import LostStreamError
from stream_cached.format.progress import Head
from stream_cached.http.event_ids import AfterEvent
from stream_cached.http.headers import content_length
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.observed import plain_scope
from stream_cached.responses.joined import JoinedBody, is_for_call
from stream_cached.responses.messages import (
    CountedSend,
    RawHeaders,
    WatchedClient,
    body_message,
    merged,
    set_head,
    start_message,
)
from stream_cached.responses.resumption import Again, Resumption, RunHead, resuming
from stream_cached.runs.answer import Joined
from stream_cached.runs.run import Run
from stream_cached.runs.states import GivenUp
from stream_cached.sending import Sending
from stream_cached.streams.ends import Complete
from stream_cached.streams.reader import Reader

#: Seconds that a client waits in all for the event that it has had last. A process that follows a
#: run may be a little behind the one that has sent it; and a client may name any number.
EVENT_WITHIN = 1.0

#: Seconds within which a cancelled call ends, though its run is not closed yet.
_ABORT_WITHIN = 0.9


class LiveResponse(StreamingResponse):
    """
    The response of a run: its `body_iterator` is a reader of the stream.

    `__call__` of the request that leads the run returns once its client has everything, or has
    left; the run goes on, and `failed_apart` is told what it raises. Without `failed_apart` the
    call is held open until the run has ended, so that what belongs to the request (a session from a
    `yield` dependency) outlives the run. Nothing of a request that joined belongs to the run.
    """

    resumption: Resumption | None = None
    after: AfterEvent | None = None
    """Where in an event stream the body begins; None for the begin."""
    _plain_send: Send | None = None
    _sent = 0
    _has_head = False
    """Whether the head is sent."""

    def __init__(
        self,
        run: Run,
        reader: Reader,
        head: Head,
        headers: RawHeaders,
        *,
        merge: bool,
        sending: Sending,
        body: bytes | None = None,
        generation: bytes | None = None,
        joined: Joined | None = None,
        again: Again | None = None,
        failed_apart: Callable[[BaseException], None] | None = None,
    ) -> None:
        set_head(self, head.status, headers, head.media_type, head.charset)
        if body is not None:
            # The body of a response that is no stream, but sends in its own way.
            self.body = body
        self._run = run
        self._reader = reader
        self._merge = merge
        self._joined = joined
        self._failed_apart = failed_apart
        self._sending = sending
        self.generation = generation
        """The random id of the run."""
        self._body: AsyncIterator[bytes] = reader
        if again is not None and joined is not None:
            of_run = RunHead.of(head.status, headers)
            self.resumption = Resumption(again, of_run, within_body=False)
            self._body = JoinedBody(joined, reader, of_run, again)
        self.body_iterator = self._body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # An HTTPEndpoint sends with the scope and the `receive` that its method was given.
        scope = plain_scope(scope)
        if isinstance(receive, DisconnectShield):
            receive = receive.receive
        if scope["type"] == "http":
            asides = self._reader.asides
            asides.headers = self.raw_headers
            if self.after is None:
                send = asides.through(send)
            self._plain_send = send
        send = self._sending.through(send) if self._sending.watches else send
        counted: CountedSend | None = None
        is_cancelled = False
        try:
            if self.body_iterator is self._body and scope["type"] == "http":
                if self.resumption is None:
                    await self._send_body(scope, receive, send)
                else:
                    await self._send_or_go_on(self.resumption, scope, receive, send)
            else:
                counted = CountedSend(scope, send)
                background, self.background = self.background, None
                await super().__call__(scope, receive, counted.send)
                self.background = background
        except asyncio.CancelledError:
            is_cancelled = True
            raise
        finally:
            size = self._sent if counted is None else counted.size
            # Another run may have sent the rest.
            size += 0 if self.resumption is None else self.resumption.went_on_with
            self._sending.sent(0 if scope.get("method") == "HEAD" else size)
            await self.end_call(is_cancelled)
        if self._joined is None and self._run.background_error is not None:
            raise self._run.background_error
        if self.background is not None:
            await self.background()
        if (
            self._joined is not None
            and (own := self._own) is not None
            and own.background is not None
        ):
            await own.background()

    @property
    def _own(self) -> Response | None:
        """What the call has answered itself to what iterates over the body of a run it joined."""
        return self._body.own if isinstance(self._body, JoinedBody) else None

    async def end_call(self, is_cancelled: bool) -> None:
        """Read no more, and wait as long as a run needs the call that leads it."""
        self._reader.close()
        if self._joined is None:
            if not self._run.is_over:
                await self._until_released(is_cancelled)
        elif isinstance(self._own, LiveResponse):
            await self._own.end_call(is_cancelled)

    def go_on_for_another(self, *, within_body: bool) -> None:
        """Send the rest of what another response has begun."""
        if within_body:
            self._reader.asides.close()
        else:
            self._reader.asides.go_on_after_head()

    # -- for what reads the items of a generator --------------------------------------------

    @property
    def reader(self) -> Reader:
        return self._reader

    @property
    def is_joined(self) -> bool:
        return self._joined is not None

    @property
    def last_event(self) -> int | None:
        """The number of the last event of the run so far; None if that is not known."""
        answer = None if self._joined is None else self._joined.answer
        return None if answer is None or answer.last_event is None else answer.last_event()

    async def is_for_call(self) -> bool:
        """Wait for the first chunk. Return whether it is for this call."""
        return self._joined is None or await is_for_call(self._joined)

    async def end_read(self, size: int, is_cancelled: bool) -> None:
        """Report what was read, and wait as long as the run needs the call that leads it."""
        self._sending.sent(size)
        await self.end_call(is_cancelled)
        if not is_cancelled and self._joined is None and self._run.is_aborting:
            await self._run.over()

    async def fails_at_once(self) -> bool:
        """Wait for the first chunk. Return whether the run failed before there was one."""
        return await self._reader.fails_at_once()

    async def run_unsent(self) -> None:
        """Let the run go on to its end without a client. Raise what was raised after the body."""
        self._run.start()
        await self.discard()
        if self._run.background_error is not None:
            raise self._run.background_error

    async def discard(self) -> None:
        self._reader.close()
        await self._run.over()

    async def _until_released(self, is_cancelled: bool) -> None:
        """Wait as long as the run needs the call that leads it. A cancellation ends the wait."""
        is_held = self._failed_apart is None
        if not is_cancelled and (is_held or self._run.has_ended):
            try:
                await self._run.over()
            except asyncio.CancelledError:
                await self._let_go()
                raise
        else:
            await self._let_go()

    async def _let_go(self) -> None:
        """Let the run go on without the call, or give it up if it needs the request."""
        if self._failed_apart is not None:
            self._run.go_on_alone(self._failed_apart)
            return
        self._run.abort(GivenUp.CANCELLED)
        with anyio.move_on_after(_ABORT_WITHIN, shield=True):
            await self._run.over()

    @property
    def is_stored(self) -> bool:
        """Whether the whole body can be served from the cache."""
        is_remote = self._run.remote is not None
        return self._run.is_visible or (is_remote and isinstance(self._run.end, Complete))

    async def run_is_over(self) -> None:
        await self._run.over()

    async def _send_or_go_on(
        self, resumption: Resumption, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the body. If it is lost, and may go on, send the rest from another run."""
        if resumption.within_body:
            await resuming(resumption, self._send_body, scope, receive, send)
            return
        try:
            await self._send_body(scope, receive, send)
        except LostStreamError as exc:
            resumption.note(self.raw_headers if self._has_head else None, self._sent)
            await resumption.go_on(exc, scope, receive, send)

    async def _send_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared, reader = content_length(self.raw_headers), self._reader
        self._sent = 0
        # A client that leaves while the head is sent leaves a run that other requests wait for.
        reader.start()
        async with WatchedClient(scope, receive, reader.close):
            if declared == 0 or self.status_code == 204:
                # For the client the head is the end, and the end waits for the commit.
                await reader.ended()
            rest = b"" if self.after is None else await self._rest(self.after)
            self._has_head = True
            await send(start_message(self.status_code, list(self.raw_headers)))
            if self._joined is not None and self.after is None:
                if scope["method"] == "HEAD":
                    await send(body_message(b"", more=False))
                    return
                if not reader.has_first:
                    await self._check_joined()
            if self.after is not None:
                await send(body_message(rest, more=True))
                self._sent += len(rest)
            while chunks := await reader.take():
                for part in merged(chunks) if self._merge else chunks:
                    if declared is not None and part and self._sent + len(part) == declared:
                        # For the client the last byte is the end: it waits for the commit.
                        await send(body_message(part[:-1], more=True))
                        self._sent += len(part) - 1
                        await reader.ended()
                        part = part[-1:]
                    await send(body_message(part, more=True))
                    self._sent += len(part)
            if not reader.closed:
                await send(body_message(b"", more=False))

    async def _check_joined(self) -> None:
        if self._joined is not None and not await is_for_call(self._joined):
            raise LostStreamError("the run that was joined is not for this request")

    async def _rest(self, after: AfterEvent) -> bytes:
        """Read on to the end of an event. Return what follows there of the chunks that end it."""
        await self._check_joined()
        loop = asyncio.get_running_loop()
        left, rest = EVENT_WITHIN, None
        while rest is None:
            began = loop.time()
            try:
                async with asyncio.timeout(left):
                    chunks = await self._reader.take()
            except TimeoutError:
                chunks = []
            if self._reader.closed:
                # Its client has left.
                return b""
            if not chunks:
                raise LostStreamError("the run has no such event")
            left -= loop.time() - began
            rest = after.rest(b"".join(chunks))
        assert self._plain_send is not None
        # Before the head, there was no place for a comment.
        self._reader.asides.through(self._plain_send)
        return rest
