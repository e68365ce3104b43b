"""Streams that cashews hands out: each is one object, which several callers may be given."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol, TypeGuard, TypeVar, cast
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached.cashews.entries import OPTIONS, EntryRef
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.outcome import Absent, Call, RequestView, View
from stream_cached.engine.record import join, record
from stream_cached.engine.service import Hooks, Service
from stream_cached.engine.values import Use
from stream_cached.errors import BrokenStreamError, StoreError
from stream_cached.http.reasons import BypassError
from stream_cached.keys.variants import ANY
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.execution import Executed
from stream_cached.request.incoming import Incoming
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.messages import RawHeaders
from stream_cached.runs.registry import registry_of
from stream_cached.runs.run import Run
from stream_cached.streams.sources import sends_by_itself
from stream_cached.tasks import spawn

R = TypeVar("R", bound=Response)

#: Where a scope says that its request must not learn that its client has left.
_SHIELD = "stream_cached.shield"

#: The same for whatever request is asked in a run, whose scope need not be known.
_shield: ContextVar[_Shield | None] = ContextVar("stream_cached_shield", default=None)

#: Seconds that others wait until a stream that was just made is sent to whoever was given it.
_SENT_WITHIN = 0.5

#: The part of its life after which the pointer to a run that goes on is renewed.
_KEEP_EVERY = 0.3

#: The scope of a run that nobody is sent.
_NOBODYS: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [],
    "client": None,
    "server": None,
}

#: Recordings, by the generation of each place that they are for.
_running: WeakValueDictionary[bytes, Recording] = WeakValueDictionary()


def is_stream(value: object) -> TypeGuard[Response]:
    """Whether a value is a response whose body is not at hand."""
    if not isinstance(value, Response):
        return False
    return isinstance(value, StreamingResponse) or sends_by_itself(value)


class Sending(Protocol):
    """What sends a stream for each of those who were given it."""

    async def send(self, response: Shared, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it to one of them."""
        ...


class Shared:
    """What is mixed into the class of a stream: any number of callers may send it."""

    stream_cached_sending: Sending
    stream_cached_body: Body | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Do without what a class asks of those that are derived from it: this one is the same."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_cached_sending.send(self, scope, receive, send)


@lru_cache(maxsize=1000)
def _shared_type(cls: Any) -> type[Response]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (Shared, cls), names)


def sending_of(value: object) -> Sending | None:
    """Return what sends a stream that any number of callers may send; None for anything else."""
    return value.stream_cached_sending if isinstance(value, Shared) else None


def is_for_one(response: Response) -> bool:
    """Whether only one caller can send a stream."""
    if isinstance(response, Shared):
        return isinstance(response.stream_cached_sending, Once) or _is_wrapped(response)
    return not isinstance(response, FileResponse)


def _is_wrapped(response: Shared) -> bool:
    """Whether somebody has put another body in front of the one that was made."""
    body = response.stream_cached_body
    return body is not None and getattr(response, "body_iterator", None) is not body


def type_of(response: Response) -> type[Response]:
    """Return the class of a response, as it was made."""
    cls = type(response)
    return cast(type[Response], cls.__mro__[2]) if isinstance(response, Shared) else cls


def share(response: Response, sending: Sending) -> None:
    """
    Let any number of callers send a stream.

    Raises:
        TypeError: Its class does not allow that.
    """
    response.__class__ = _shared_type(cast(Any, type_of(response)))
    response.stream_cached_sending = sending  # type: ignore[attr-defined]


class Head:
    """What whoever is given a stream may change of it, but for its body, as it was at some time."""

    def __init__(self, response: Response) -> None:
        self.status = response.status_code
        self.headers = list(response.raw_headers)
        self.background = response.background

    def is_of(self, response: Response) -> bool:
        """Whether the head of a response is still the same."""
        return (response.status_code, response.raw_headers) == (self.status, self.headers)

    def carry_over(self, changed: Response, response: Response) -> None:
        """Change a response as another one was changed since."""
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


def own(response: R) -> R:
    """Return a response of its own for one of several callers; they share no more than the body."""
    copied = copy.copy(response)
    _set_headers(copied, response.raw_headers)
    if isinstance(copied, Shared) and copied.stream_cached_body and not _is_wrapped(copied):
        copied.stream_cached_body.recording.give_body(copied)
    return copied


def _set_headers(response: Response, headers: RawHeaders) -> None:
    response.__dict__.pop("_headers", None)
    response.raw_headers = list(headers)


def _gone() -> BrokenStreamError:
    return BrokenStreamError("another caller was sent this stream, and it is not stored")


def _read() -> BrokenStreamError:
    return BrokenStreamError("the body of this stream has been read")


class Body:
    """
    The body of a stream that is recorded, for one of those who were given it.

    Args:
        recording: The stream.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.response: Response | None = None
        """What it is the body of; None until that is sent, or the body is read by hand."""
        self.is_taken = False
        """Whether somebody reads it by hand."""
        self.is_sent = False
        """Whether it is sent through what somebody has put in front of it."""
        self._source: Any = None
        self._chunks: AsyncGenerator[Any] | None = None

    def read_from(self, response: Response) -> None:
        """Be the body of this response from now on."""
        self.response = response
        self._source = cast(StreamingResponse, response).body_iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        if self.is_taken:
            raise _read()
        self.is_taken = True
        self._chunks = self._read()
        return self._chunks

    async def _read(self) -> AsyncGenerator[Any]:
        if self.response is None:
            self.read_from(await self.recording.taken_by_hand())
        async for chunk in self._source:
            yield chunk

    async def aclose(self) -> None:
        """Close it, as an asynchronous generator is closed."""
        self.is_taken = True
        if self._chunks is not None:
            await self._chunks.aclose()


class _Shield(DisconnectShield):
    """Says of a run's request that its client has not left, as long as the run is recorded."""

    hides = True

    def reveal(self) -> None:
        self.hides = False
        super().reveal()


def is_shielded(request: Request) -> bool:
    """Whether a request must not learn that its client has left: its body would end there."""
    shields = request.scope.get(_SHIELD), _shield.get()
    return any(shield is not None and shield.hides for shield in shields)


@contextmanager
def shielded(shield: _Shield | None = None) -> Iterator[None]:
    """Let no request that is asked in here, or in what is begun here, learn of its client."""
    token = _shield.set(shield or _Shield())
    try:
        yield
    finally:
        _shield.reset(token)


class Recording:
    """
    A stream that is recorded when it is sent for the first time; others join that run.

    Args:
        response: The stream.
        service: The function that returned it.
    """

    def __init__(self, response: Response, service: Service) -> None:
        self._type = type_of(response)
        self._service = service
        self._head = Head(response)
        self._loop = asyncio.get_running_loop()
        self._made = time.monotonic()
        self._places: list[tuple[EntryRef, Callable[[], Awaitable[None]]]] = []
        self._run: Run | None = None
        self._answered: tuple[Call, View] | None = None
        self._is_sent = False
        # Nothing but those who were given it keeps a recording that is never sent.
        self._original = self._plain(response)
        #: Whether what it yields need not be what is sent.
        self._sends_by_itself = sends_by_itself(self._original)
        share(response, self)
        self.give_body(response)

    def give_body(self, response: Response) -> None:
        """Let a caller's response have a body of its own."""
        if hasattr(self._original, "body_iterator"):
            body = Body(self)
            response.body_iterator = response.stream_cached_body = body  # type: ignore[attr-defined]

    def is_of(self, response: Shared) -> bool:
        """Whether a response still is what is recorded."""
        return not _is_wrapped(response) and self._head.is_of(cast(Response, response))

    def add(self, place: EntryRef, on_stored: Callable[[], Awaitable[None]]) -> None:
        """Record it in one more place; once it is sent, it can only be joined by that."""
        _running[place.generation] = self
        if self._is_sent:
            return
        self._places.append((place, on_stored))
        if self._run is None:
            # One run for all places: those who join wait for it.
            self._run = Run(None, place.resource(place.shelf.backend).key, ANY)

    async def send(self, response: Shared, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it to one of those who were given it."""
        changed, body = cast(Response, response), response.stream_cached_body
        if scope["type"] != "http" or (_is_wrapped(response) and self._sends_by_itself):
            # Its body is read by hand.
            sent = self._plain(changed)
        else:
            if body is None or not (body.is_taken or _is_wrapped(response)):
                sent = await self._begun(scope, changed)
            else:
                sent = await self._through(changed, body, scope)
            self._head.carry_over(changed, sent)
        await sent(scope, receive, send)

    async def taken_by_hand(self) -> Response:
        """
        Return the response whose body is read by one who does not send the stream as it is.

        Raises:
            BrokenStreamError: Another one has taken it, and it is not stored.
        """
        if not self._sends_by_itself:
            return await self._begun(dict(_NOBODYS))
        if self._is_sent:
            raise _gone()
        # What it yields is not what would be stored.
        self._is_sent = True
        if self._run is not None:
            self._run.withdraw()
        return self._original

    async def run_unsent(self) -> None:
        """Record it though nobody is sent anything."""
        if not self._is_sent:
            live = await self._first(dict(_NOBODYS))
            if isinstance(live, LiveResponse):
                await live.run_unsent()

    async def joined(self) -> Response | None:
        """Return a response for one who asks while it may run; None where it does not."""
        if asyncio.get_running_loop() is not self._loop:
            return None
        if self._is_sent:
            return await self._joined(OPTIONS.limits.wait_timeout)
        # Once for all: what was never sent holds up nobody who comes later.
        left = self._made + _SENT_WITHIN - time.monotonic()
        return await self._joined(left) if left > 0 else None

    async def _begun(self, scope: Scope, changed: Response | None = None) -> Response:
        if not self._is_sent:
            return await self._first(scope)
        response = await self._joined(OPTIONS.limits.max_duration)
        if response is None and changed is not None and issubclass(self._type, FileResponse):
            # It is no less there for having been sent.
            return self._plain(changed)
        if response is None:
            raise _gone()
        return response

    async def _through(self, changed: Response, body: Body, scope: Scope) -> Response:
        """Return the response whose body goes through what somebody has put in front of it."""
        wrapper = cast(StreamingResponse, changed).body_iterator
        if wrapper is body or body.is_sent:
            raise _read()
        body.is_sent = True
        if body.response is None:
            body.read_from(await self._begun(scope))
        sent = cast(StreamingResponse, body.response)
        sent.body_iterator = wrapper
        return sent

    async def _first(self, scope: Scope) -> Response:
        self._is_sent = True
        assert self._run is not None
        try:
            return await self._record(self._original, scope)
        except BaseException:
            self._run.fail(alone=False)
            raise

    async def _record(self, response: Response, scope: Scope) -> Response:
        shield = _Shield()
        scope[_SHIELD] = shield
        # A HEAD request is one for the same body.
        incoming = Incoming(Request({**scope, "method": "GET"}), {})
        for place, on_stored in self._places:
            view = await self._view(place)
            service = dataclasses.replace(self._service, hooks=_PlaceHooks(on_stored))
            call = Call(
                service,
                _Returned(response, incoming, shield),
                key=view.resource.key,
                request=RequestView.of(incoming),
                waits=False,
            )
            is_last = place is self._places[-1][0]
            if is_last:
                self._answered = call, view
            else:
                # Its response is only the source of the next one.
                call, _ = call.withholding()
            with shielded(shield):
                response = await record(call, view, self._run if is_last else None)
            if isinstance(response, LiveResponse) and place.expire is not None:
                spawn(_keep_pointer(place, place.expire, response))
        return response

    async def _view(self, place: EntryRef) -> View:
        backend = place.shelf.backend
        resource = place.resource(backend)
        await resource.begin()
        service = self._service
        use = Use(
            backend, Deadline(None), backend.cache, service.invalidated_before, service.reporter
        )
        registry = registry_of(backend.scope)
        return View(use, registry, resource, Absent(), True, False, registry.ended)

    def _plain(self, changed: Response) -> Response:
        """Return the stream as it is now, but for one who sends it alone."""
        plain = own(changed)
        plain.__class__ = self._type
        return plain

    async def _joined(self, seconds: float) -> Response | None:
        run, since = self._run, time.monotonic()
        if run is None or not await run.answered(seconds):
            return None
        try:
            joined = await run.join(max(seconds, OPTIONS.limits.wait_timeout), since)
        except BypassError:
            return None
        if joined is not None and self._answered is not None:
            return cast(Response, join(*self._answered, joined))
        call = call_of(self._service)
        for place, _ in reversed(self._places):
            response = await place.response(call)
            if response is not None:
                return response
        return None


class _PlaceHooks(Hooks):
    """What follows once an entry is visible in a place."""

    def __init__(self, on_stored: Callable[[], Awaitable[None]]) -> None:
        self._on_stored = on_stored

    async def stored(self, view: View) -> None:
        """Let older entries expire."""
        await self._on_stored()


class _Returned:
    """The execution of a function that has returned its response already."""

    def __init__(
        self, response: Response | None, incoming: Incoming | None, shield: DisconnectShield
    ) -> None:
        self._response = response
        self._shield = shield
        self.incoming = incoming
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def function(self) -> Any:
        """Return the response."""
        return self._response

    @contextmanager
    def shielded(self, seconds: float) -> Iterator[DisconnectShield]:
        """Keep the client's disconnect from the stream."""
        yield self._shield

    async def run(self) -> Any:
        """Return the response."""
        return self._response

    async def run_watched(self, *, release: bool = False) -> Executed:
        """Return the response. Nothing watches: the key is the application's affair."""
        return Executed(self._response, None, False)

    def can_outlive_request(self) -> bool:
        """Whether the stream may outlive its request."""
        return True

    def outlive_request(self) -> None:
        """There is nothing to prepare."""


def call_of(service: Service) -> Call:
    """Return a call that only looks an entry up."""
    return Call(service, _Returned(None, None, DisconnectShield()))


async def _keep_pointer(place: EntryRef, expire: float, live: LiveResponse) -> None:
    """Keep the pointer to a run from expiring before it is over; nobody would find its entry."""
    over = spawn(live.run_is_over())
    is_over = False
    while not is_over:
        done, _ = await asyncio.wait({over}, timeout=expire * _KEEP_EVERY)
        is_over = bool(done)
        with suppress(StoreError):
            if not await place.keep_pointer():
                # It was deleted: what is made now is not asked for any more.
                break


class Found:
    """
    A stream that was found: whoever sends it after another one is found it anew.

    Args:
        response: What was found.
        find: Finds it again; returns None where it is gone.
    """

    def __init__(self, response: Response, find: Callable[[], Awaitable[Response | None]]) -> None:
        self._type = type(response)
        self._head = Head(response)
        self._find = find
        self._is_taken = self._is_sent = False

    @classmethod
    def shared(cls, response: Response, find: Callable[[], Awaitable[Response | None]]) -> Response:
        """Return a response that was found, for any number of callers if it is a stream."""
        if is_stream(response):
            share(response, cls(response, find))
        return response

    async def take(self, response: Response) -> Response | None:
        """Return the response to the first who asks; to others one of their own, if it is there."""
        if not self._is_taken:
            self._is_taken = True
            return response
        again = await self._find()
        return None if again is None else self.shared(again, self._find)

    async def send(self, response: Shared, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it to one of those who were given it."""
        changed = cast(Response, response)
        if not self._is_sent:
            self._is_sent = True
            await self._type.__call__(changed, scope, receive, send)
            return
        again = await self._find()
        if again is None:
            raise BrokenStreamError("another caller was sent this stream, and it is gone")
        self._head.carry_over(changed, again)
        await again(scope, receive, send)


class Once:
    """
    A stream that is not stored: whoever sends it after another one finds it broken, and not empty.

    Args:
        response: The stream.
    """

    def __init__(self, response: Response) -> None:
        self._type = type_of(response)
        self._is_sent = False

    async def send(self, response: Shared, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it to the first of those who were given it."""
        if self._is_sent:
            raise _gone()
        self._is_sent = True
        await self._type.__call__(cast(Response, response), scope, receive, send)


async def find(places: Sequence[EntryRef], service: Service) -> Response | None:
    """
    Return a response out of the first of several places that has one.

    Where none has, it is that of one that will have one; None where no run is on its way here.

    Args:
        places: Those that a pointer names.
        service: The function.
    """
    # First, and kept: a run that ends during the look at its entry is then still known.
    running = [_running.get(place.generation) for place in places]
    call = call_of(service)
    for place in places if len(places) == 1 else await those_with_entries(places):
        response = await place.response(call)
        if response is not None:
            return response
    for recording in running:
        response = None if recording is None else await recording.joined()
        if response is not None:
            return response
    return None


async def those_with_entries(places: Sequence[EntryRef]) -> list[EntryRef]:
    """Return the places that have an entry."""
    there = await asyncio.gather(*[place.is_there() for place in places])
    return [place for place, has_entry in zip(places, there, strict=True) if has_entry]
