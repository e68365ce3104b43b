"""The ASGI messages of a response, and the client's disconnect."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

RawHeaders = Sequence[tuple[bytes, bytes]]

#: Bytes from which on a chunk is sent by itself.
_LARGE = 32 * 1024


def set_head(
    response: Response, status: int, headers: RawHeaders, media_type: str | None, charset: str
) -> None:
    """Do what `Response.__init__` does, with headers that are complete already."""
    response.status_code = status
    response.raw_headers = list(headers)
    response.media_type = media_type
    response.charset = charset
    response.background = None


def start_message(status: int, headers: list[tuple[bytes, bytes]]) -> dict[str, object]:
    """Return the message of a head. Middleware may change the list of headers."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def body_message(part: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": part, "more_body": more}


def merged(chunks: Sequence[bytes]) -> Iterable[bytes]:
    """Join chunks that are small. A large one is sent as it is: a copy costs more than a send."""
    if len(chunks) == 1:
        return chunks
    sizes = list(map(len, chunks))
    if min(sizes) >= _LARGE:
        return chunks
    return _merged(chunks) if max(sizes) >= _LARGE else (b"".join(chunks),)


def _merged(chunks: Sequence[bytes]) -> Iterator[bytes]:
    begin = 0
    for number, chunk in enumerate(chunks):
        if len(chunk) >= _LARGE:
            if begin < number:
                yield b"".join(chunks[begin:number])
            yield chunk
            begin = number + 1
    if begin < len(chunks):
        yield b"".join(chunks[begin:])


class CountedSend:
    """
    The `send` of one answer. It counts the bytes of the body.

    Args:
        scope: The request's scope.
        send: The server's `send`.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self.size = 0
        self._send = send
        self._is_head = scope.get("method") == "HEAD"

    @property
    def send(self) -> Send:
        # To a HEAD request, the server sends no body.
        return self._send if self._is_head else self._counted

    async def _counted(self, message: Message) -> None:
        # Now: a middleware that compresses changes the message.
        size = len(message.get("body", b""))
        await self._send(message)
        self.size += size


class WatchedClient:
    """Calls `left` when the client goes away. From ASGI 2.4 on, `send` raises instead."""

    # No generator: there is one for each miss.

    __slots__ = ("_left", "_listener", "_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive, left: Callable[[], object]) -> None:
        self._scope = scope
        self._receive = receive
        self._left = left
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        if not _raises(self._scope.get("asgi", {}).get("spec_version", "2.0")):
            self._listener = asyncio.create_task(_listen(self._receive, self._left))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._listener is not None:
            self._listener.cancel()
        elif isinstance(error, OSError):
            raise ClientDisconnect from None


@functools.lru_cache(maxsize=16)
def _raises(spec_version: str) -> bool:
    """Whether a server of this version of ASGI lets `send` raise once the client has left."""
    return tuple(map(int, spec_version.split("."))) >= (2, 4)


async def _listen(receive: Receive, left: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left()
