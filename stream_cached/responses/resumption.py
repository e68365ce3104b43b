"""A body that continues from another run after its own run, or a stored segment, is lost.

`resume=True` asserts that the endpoint is deterministic. The assertion is checked: status, headers
and all bytes that were sent so far have to be the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_cached.errors import BrokenStreamError, LostStreamError
from stream_cached.http.headers import content_length, end_to_end
from stream_cached.responses.messages import CountedSend
from stream_cached.streams.sources import recordable

_Fields = tuple[tuple[bytes, bytes], ...]

#: Answers a call once more.
Again = Callable[[], Awaitable[Any]]

#: How many runs a response may need beyond the first.
_ATTEMPTS = 3

#: Headers that may differ between two equal responses, beside those that are for one connection.
_OF_THE_TRANSFER = frozenset(
    {b"accept-ranges", b"age", b"cache-status", b"content-length", b"date", b"etag"}
)


class RunHead:
    """
    What two responses share, of which one goes on where the other one was sent.

    Args:
        status: The status.
        headers: The headers.
        with_length: The headers that say how long it is, if those are others.
    """

    # The headers are read only where a response has to go on.

    __slots__ = ("_headers", "_status", "_with_length")

    def __init__(self, status: int, headers: _Fields, with_length: _Fields) -> None:
        self._status, self._headers, self._with_length = status, headers, with_length

    @classmethod
    def of(cls, status: int, headers: Iterable[tuple[bytes, bytes]]) -> RunHead:
        # Now: a middleware that is given the headers may add to them.
        headers = tuple(headers)
        return cls(status, headers, headers)

    def sent_with(self, headers: Iterable[tuple[bytes, bytes]]) -> RunHead:
        """Return the same, of which the length is known only now."""
        return RunHead(self._status, self._headers, tuple(headers))

    def may_follow(self, sent: RunHead) -> bool:
        own, of_sent = self._fields(), sent._fields()
        if self._status != sent._status or _kept(own) != _kept(of_sent):
            return False
        # A hit has a length and an ETag, a stream has none.
        lengths = content_length(self._with_length), content_length(sent._with_length)
        etags = dict(own).get(b"etag"), dict(of_sent).get(b"etag")
        return _may_be_same(*lengths) and _may_be_same(*etags)

    def _fields(self) -> _Fields:
        return tuple((name.lower(), value) for name, value in end_to_end(self._headers))


def _kept(fields: _Fields) -> _Fields:
    return tuple(pair for pair in fields if pair[0] not in _OF_THE_TRANSFER)


def _may_be_same(one: object, other: object) -> bool:
    return one is None or other is None or one == other


class Resumption:
    """
    What a response has sent so far, and how it continues.

    Args:
        again: Answers the call once more.
        head: What another answer must share: the head that the run has given. What is sent may be
            another one, because a decorator around the endpoint may have changed it.
        within_body: Whether it may also go on after the first byte of its body.
    """

    def __init__(self, again: Again, head: RunHead, *, within_body: bool = True) -> None:
        self._again = again
        self.within_body = within_body
        self._head = head
        self._has_head = False
        self._length = 0
        self._digest = hashlib.blake2b() if within_body else None
        self.went_on_with = 0
        """Bytes of the body that another answer has sent."""

    def note(self, headers: Iterable[tuple[bytes, bytes]] | None, length: int) -> None:
        """Note what was sent: so many bytes, and a head unless that is None."""
        self._length = length
        if headers is not None:
            self._has_head, self._head = True, self._head.sent_with(headers)

    def watched(self, send: Send) -> Send:
        """Return a `send` that remembers what is sent."""

        async def watching(message: Message) -> None:
            kind = message["type"]
            if kind == "http.response.start":
                self._has_head = True
                self._head = self._head.sent_with(message.get("headers", ()))
            # Now: a middleware that compresses changes the message.
            body = message.get("body", b"")
            await send(message)
            if kind == "http.response.body":
                self._length += len(body)
                if self._digest is not None:
                    self._digest.update(body)

        return watching

    async def go_on(
        self, cause: LostStreamError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """
        Answer the call once more, and send what is missing.

        Raise `BrokenStreamError` if the new body is another one, or is lost, too.
        """
        # A file that the server sends would come whole, after what was sent already.
        scope, counted = recordable(scope, conditional=False), CountedSend(scope, send)
        for _ in range(_ATTEMPTS):
            if self._length and not self.within_body:
                break
            response = await self._again()
            if not isinstance(response, Response):
                break
            if hasattr(response, "go_on_for_another"):
                response.go_on_for_another(within_body=self._length > 0)
            try:
                head = self._head if self._has_head else None
                digest = self._digest or hashlib.blake2b()
                rest = _Rest(counted.send, head, self._length, digest)
                await response(scope, receive, rest)
            except LostStreamError as exc:
                cause = exc
            else:
                return
            finally:
                self.went_on_with = counted.size
        raise cause


class _Rest:
    """A `send` that drops the bytes that were sent already, and passes on the rest."""

    def __init__(
        self,
        send: Send,
        head: RunHead | None,
        length: int,
        digest: hashlib.blake2b,
    ) -> None:
        self._send = send
        self._head = head
        self._left = length
        self._expected = digest.copy().digest()
        self._digest = hashlib.blake2b()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body" and self._left:
            message = self._rest_of(message)
        elif message["type"] == "http.response.start" and self._head is not None:
            own = RunHead.of(message["status"], message.get("headers", ()))
            if not own.may_follow(self._head):
                raise BrokenStreamError("the endpoint has answered with another head")
            return
        await self._send(message)

    def _rest_of(self, message: Message) -> Message:
        body = message.get("body", b"")
        sent, rest = body[: self._left], body[self._left :]
        self._digest.update(sent)
        self._left -= len(sent)
        is_short = self._left > 0 and not message.get("more_body", False)
        is_other = self._left == 0 and self._digest.digest() != self._expected
        if is_short or is_other:
            raise BrokenStreamError("the endpoint has answered with another body")
        return {**message, "body": rest}


def resume_from(result: Any, again: Again) -> None:
    """Let the body of a response, if it is lost, go on from another answer to the call."""
    if hasattr(result, "resumption"):
        head = RunHead.of(result.status_code, result.raw_headers)
        result.resumption = Resumption(again, head)


async def resuming(
    resumption: Resumption | None, respond: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a body. If it is lost, and may go on, send the rest from another run."""
    if resumption is None:
        await respond(scope, receive, send)
        return
    send = resumption.watched(send)
    try:
        await respond(scope, receive, send)
    except LostStreamError as exc:
        await resumption.go_on(exc, scope, receive, send)
