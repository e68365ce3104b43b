"""The body of a request, read before the endpoint reads it."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from stream_cached.http.reasons import BypassError, Finding, NotCached

#: Bytes of a request's body up to which its digest becomes part of the key.
MAX_REQUEST_BODY = 1024 * 1024


async def peek(request: Request) -> bytes:
    """Read the body, to be read once more; raise `BypassError` if it is too large."""
    messages: list[Message] = []
    receive, size, more = request._receive, 0, True
    while more and size <= MAX_REQUEST_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        messages.append(message)
        size += len(message.get("body", b""))
        more = message.get("more_body", False)

    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    request._receive = replay
    if size > MAX_REQUEST_BODY:
        raise BypassError(Finding(NotCached.UPLOAD))
    return b"".join(message.get("body", b"") for message in messages)
