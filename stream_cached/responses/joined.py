"""The body of a run that a call has joined, for what iterates over it instead of sending it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from stream_cached.errors import BrokenStreamError, LostStreamError
from stream_cached.responses.resumption import Again, RunHead
from stream_cached.runs.answer import Joined
from stream_cached.runs.joining import begins
from stream_cached.streams.reader import Reader
from stream_cached.streams.sources import as_bytes, close_iterable


async def is_for_call(joined: Joined) -> bool:
    """Wait for the first chunk. Return whether it is for the call that has joined."""
    try:
        return await begins(joined)
    except TimeoutError:
        joined.run.retire()
        return False


class JoinedBody:
    """
    A `body_iterator` that goes on with the call's own answer if the run is not for the call.

    A decorator around the endpoint, or a function that calls it, may iterate over the body.
    """

    def __init__(self, joined: Joined, reader: Reader, head: RunHead, again: Again) -> None:
        self.own: Response | None = None
        """The call's own answer, if the run was not for it."""
        self._joined = joined
        self._reader = reader
        self._head = head
        self._again = again
        self._is_lost = False
        self._chunks: AsyncIterator[Any] | None = None

    def __aiter__(self) -> JoinedBody:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            # Kept: the next wait may be cancelled, and a closed reader would end the body short.
            if not self._is_lost and not self._reader.closed:
                self._is_lost = not await is_for_call(self._joined)
            self._chunks = aiter(await self._own_body()) if self._is_lost else self._reader
        chunk = await anext(self._chunks)
        return chunk if self.own is None else as_bytes(chunk, self.own.charset)

    async def _own_body(self) -> Any:
        own = await self._again()
        if not isinstance(own, Response):
            raise LostStreamError("the run that was joined is not for this request")
        self.own = own
        if not RunHead.of(own.status_code, own.raw_headers).may_follow(self._head):
            raise BrokenStreamError("the endpoint has answered with another head")
        if isinstance(own, StreamingResponse):
            return own.body_iterator
        if not hasattr(own, "body"):
            raise LostStreamError("the endpoint has answered with what only a server can be sent")
        return _one(bytes(own.body))

    async def aclose(self) -> None:
        self._reader.close()
        if self.own is not None:
            await close_iterable(self._chunks)


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body
