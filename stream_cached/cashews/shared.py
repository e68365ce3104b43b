"""Streams that cashews hands to several callers as one object."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar, cast

from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached.errors import BrokenStreamError
from stream_cached.responses.messages import RawHeaders
from stream_cached.streams.sources import sends_by_itself

if TYPE_CHECKING:
    from stream_cached.cashews.recording import Recording

R = TypeVar("R", bound=Response)

#: The attribute of a stream for one caller that has been handed out.
_HANDED_OUT = "_stream_cached_is_handed_out"


def is_stream(value: object) -> TypeGuard[Response]:
    """Whether a value is a response whose body is not in memory."""
    if not isinstance(value, Response):
        return False
    return isinstance(value, StreamingResponse) or sends_by_itself(value)


class Sender(Protocol):
    """Sends one stream to each of its callers."""

    async def send(
        self, response: SharedStream, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the stream to one caller, with the changes made on the caller's response."""
        ...


class SharedStream:
    """The mix-in for the class of a stream that any number of callers may send."""

    stream_cached_sender: Sender
    stream_cached_body: Body | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Skip the hooks of the stream's class: the class with the mix-in stands for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_cached_sender.send(self, scope, receive, send)


@lru_cache(maxsize=1000)
def _shared_type(cls: Any) -> type[Response]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (SharedStream, cls), names)


def share(response: Response, sender: Sender) -> None:
    """Let any number of callers send a stream through `sender`."""
    response.__class__ = _shared_type(cast(Any, type_of(response)))
    response.stream_cached_sender = sender  # type: ignore[attr-defined]


def sender_of(value: object) -> Sender | None:
    """Return the sender of a shared stream; None for any other value."""
    return value.stream_cached_sender if isinstance(value, SharedStream) else None


def type_of(response: Response) -> type[Response]:
    """Return the class of a response without the mix-in."""
    cls = type(response)
    return cast(type[Response], cls.__mro__[2]) if isinstance(response, SharedStream) else cls


def is_for_one(response: Response) -> bool:
    """Whether only one caller can send a stream."""
    if isinstance(response, SharedStream):
        return isinstance(response.stream_cached_sender, UnstoredStream) or is_wrapped(response)
    return not isinstance(response, FileResponse)


def hand_out(response: Response) -> bool:
    """Mark a stream for one caller as handed out; return False if it was already."""
    if _HANDED_OUT in response.__dict__:
        return False
    response.__dict__[_HANDED_OUT] = True
    return True


# -- the head -----------------------------------------------------------------------------------


class HeadSnapshot:
    """The head and the background task of a response at one time, to detect later changes."""

    def __init__(self, response: Response) -> None:
        self.status = response.status_code
        self.headers = list(response.raw_headers)
        self.background = response.background

    def matches(self, response: Response) -> bool:
        """Whether the response still has this head."""
        return (response.status_code, response.raw_headers) == (self.status, self.headers)

    def apply_changes(self, changed: Response, response: Response) -> None:
        """Apply to `response` what was changed on `changed` since the snapshot."""
        if changed.status_code != self.status:
            response.status_code = changed.status_code
        if changed.background is not self.background:
            response.background = changed.background
        before, after = self.headers, changed.raw_headers
        if before == after:
            return
        headers = list(response.raw_headers)
        for header in before:
            if header not in after and header in headers:
                headers.remove(header)
        headers.extend(header for header in after if header not in before)
        _set_headers(response, headers)


def copy_of(response: R) -> R:
    """Return a copy for one caller. All copies share the body, but no header."""
    copied = copy.copy(response)
    _set_headers(copied, response.raw_headers)
    if isinstance(copied, SharedStream) and copied.stream_cached_body and not is_wrapped(copied):
        Body(copied.stream_cached_body.recording).attach(copied)
    return copied


def _set_headers(response: Response, headers: RawHeaders) -> None:
    response.__dict__.pop("_headers", None)
    response.raw_headers = list(headers)


# -- the body -----------------------------------------------------------------------------------


class Body:
    """The `body_iterator` of one caller's copy of a recorded stream."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.response: Response | None = None
        """The response whose body this is; None until the body is sent or read."""
        self.is_read = False
        """Whether the caller reads the body itself."""
        self.is_sent = False
        """Whether the body is sent through a caller's wrapper."""
        self._source: Any = None
        self._chunks: AsyncGenerator[Any] | None = None

    def attach(self, response: Response) -> None:
        """Replace the `body_iterator` of a caller's copy."""
        response.body_iterator = response.stream_cached_body = self  # type: ignore[attr-defined]

    def read_from(self, response: Response) -> None:
        """Yield the body of `response` from now on."""
        self.response = response
        self._source = cast(StreamingResponse, response).body_iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        if self.is_read:
            raise already_read()
        self.is_read = True
        self._chunks = self._read()
        return self._chunks

    async def _read(self) -> AsyncGenerator[Any]:
        if self.response is None:
            self.read_from(await self.recording.response_to_read())
        async for chunk in self._source:
            yield chunk

    async def aclose(self) -> None:
        """Close the body, as an asynchronous generator is closed."""
        self.is_read = True
        if self._chunks is not None:
            await self._chunks.aclose()


def is_wrapped(response: Response | SharedStream) -> bool:
    """Whether a caller has replaced the `body_iterator` of a recorded stream."""
    body = response.stream_cached_body if isinstance(response, SharedStream) else None
    return body is not None and getattr(response, "body_iterator", None) is not body


def already_sent() -> BrokenStreamError:
    """Return the error of a stream that only one caller could be sent."""
    return BrokenStreamError("this stream was sent to another caller, and it is not stored")


def already_read() -> BrokenStreamError:
    """Return the error of a body that is read twice."""
    return BrokenStreamError("the body of this stream was read before")


class UnstoredStream:
    """The sender of a stream that is not stored: later callers get an error, not an empty body."""

    def __init__(self, response: Response) -> None:
        self._type = type_of(response)
        self._is_sent = False

    async def send(
        self, response: SharedStream, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the stream to its first caller."""
        if self._is_sent:
            raise already_sent()
        self._is_sent = True
        await self._type.__call__(cast(Response, response), scope, receive, send)
