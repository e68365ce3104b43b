"""Records a stream under cashews' own decorators while it is sent to its first caller."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached.cashews.entries import OPTIONS, EntryRef
from stream_cached.cashews.shared import (
    Body,
    HeadSnapshot,
    SharedStream,
    already_read,
    already_sent,
    copy_of,
    is_wrapped,
    share,
    type_of,
)
from stream_cached.cashews.shield import RecordingShield, shield_task
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.join import join
from stream_cached.engine.outcome import Absent, Call, View
from stream_cached.engine.record import record
from stream_cached.engine.request_view import RequestView
from stream_cached.engine.service import Hooks, Service
from stream_cached.engine.values import Use
from stream_cached.errors import StoreError
from stream_cached.keys.variants import ANY
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.execution import ReturnedExecution
from stream_cached.request.incoming import Incoming
from stream_cached.responses.live import LiveResponse
from stream_cached.runs.registry import registry_of
from stream_cached.runs.run import Run
from stream_cached.streams.sources import sends_by_itself
from stream_cached.tasks import spawn

#: Seconds within which a new stream has to be sent. Later requests no longer wait for it.
_SEND_TIMEOUT = 0.5

#: The part of its ttl after which the pointer to a running run is extended.
_EXTEND_AFTER = 0.3

#: The scope of a run without a client.
_NO_CLIENT: dict[str, Any] = {
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

#: The recordings of this process by the generation of each of their entries.
_recordings: WeakValueDictionary[bytes, Recording] = WeakValueDictionary()


def recording_of(ref: EntryRef) -> Recording | None:
    """Return the recording that stores an entry, if it is one of this process."""
    return _recordings.get(ref.generation)


class Recording:
    """
    The sender of a stream that is stored.

    It records the stream for its first caller, and lets all others join that run.
    """

    def __init__(self, response: Response, service: Service) -> None:
        self._type = type_of(response)
        self._service = service
        self._head = HeadSnapshot(response)
        self._loop = asyncio.get_running_loop()
        self._created = time.monotonic()
        self._entries: list[tuple[EntryRef, Sequence[EntryRef]]] = []
        """Where the stream is stored, and the older entries that it replaces there."""
        self._run: Run | None = None
        self._last: tuple[Call, View] | None = None
        """The call that fills the last entry; other callers join its run."""
        self._is_sent = False
        # A copy that does not refer to this object, so that a stream that no caller sends is freed
        # with the callers' responses.
        self._original = self._plain(response)
        # The bytes that such a response sends may differ from what its `body_iterator` yields.
        self._sends_by_itself = sends_by_itself(self._original)
        share(response, self)
        if hasattr(self._original, "body_iterator"):
            Body(self).attach(response)

    def is_unchanged(self, response: Response) -> bool:
        """Whether a caller's response still has the head and the body that are recorded."""
        return not is_wrapped(response) and self._head.matches(response)

    def add(self, ref: EntryRef, previous: Sequence[EntryRef]) -> None:
        """Store the stream in one more entry, which replaces `previous`."""
        _recordings[ref.generation] = self
        if self._is_sent:
            # The run has begun: requests that find this pointer can still join it.
            return
        self._entries.append((ref, previous))
        if self._run is None:
            # All entries are filled by one run, so that requests for each of them wait for it.
            self._run = Run(None, ref.resource(ref.entries.backend).key, ANY)

    # -- a caller ---------------------------------------------------------------------------

    async def send(
        self, response: SharedStream, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the stream to one caller, with the changes made on the caller's response."""
        changed, body = cast(Response, response), response.stream_cached_body
        if scope["type"] != "http" or (is_wrapped(response) and self._sends_by_itself):
            # This response reads its `body_iterator`, and thereby the recording.
            sent = self._plain(changed)
        else:
            if body is None or not (body.is_read or is_wrapped(response)):
                sent = await self._start_or_join(scope, changed)
            else:
                sent = await self._through_wrapper(changed, body, scope)
            self._head.apply_changes(changed, sent)
        await sent(scope, receive, send)

    async def response_to_read(self) -> Response:
        """Return the response whose `body_iterator` a caller reads instead of sending it."""
        if not self._sends_by_itself:
            return await self._start_or_join(dict(_NO_CLIENT))
        if self._is_sent:
            raise already_sent()
        # The chunks that the caller reads are not the bytes to store.
        self._is_sent = True
        if self._run is not None:
            self._run.withdraw()
        return self._original

    async def run_unsent(self) -> None:
        """Record the stream without a client."""
        if not self._is_sent:
            live = await self._start(dict(_NO_CLIENT))
            if isinstance(live, LiveResponse):
                await live.run_unsent()

    async def join(self) -> Response | None:
        """Return a response for one more request; None if the stream can't be joined."""
        if asyncio.get_running_loop() is not self._loop:
            return None
        if self._is_sent:
            return await self._join(OPTIONS.limits.longest_wait)
        # The time counts from the stream's creation, so that a stream that no caller sends delays
        # only the first requests.
        left = self._created + _SEND_TIMEOUT - time.monotonic()
        return await self._join(left) if left > 0 else None

    async def _start_or_join(self, scope: Scope, changed: Response | None = None) -> Response:
        if not self._is_sent:
            return await self._start(scope)
        response = await self._join(OPTIONS.limits.max_duration)
        if response is None and changed is not None and issubclass(self._type, FileResponse):
            # A file can be sent any number of times.
            return self._plain(changed)
        if response is None:
            raise already_sent()
        return response

    async def _through_wrapper(self, changed: Response, body: Body, scope: Scope) -> Response:
        """Return a response whose body passes through the caller's own `body_iterator`."""
        wrapper = cast(StreamingResponse, changed).body_iterator
        if wrapper is body or body.is_sent:
            raise already_read()
        body.is_sent = True
        if body.response is None:
            body.read_from(await self._start_or_join(scope))
        sent = cast(StreamingResponse, body.response)
        sent.body_iterator = wrapper
        return sent

    def _plain(self, changed: Response) -> Response:
        """Return a copy of a caller's response without the mix-in."""
        plain = copy_of(changed)
        plain.__class__ = self._type
        return plain

    # -- the run ----------------------------------------------------------------------------

    async def _start(self, scope: Scope) -> Response:
        self._is_sent = True
        assert self._run is not None
        try:
            return await self._record(self._original, scope)
        except BaseException:
            self._run.fail()
            raise

    async def _record(self, response: Response, scope: Scope) -> Response:
        shield = RecordingShield()
        shield.cover(scope)
        # A run that a HEAD request starts records the body, too.
        incoming = Incoming(Request({**scope, "method": "GET"}), {})
        for ref, previous in self._entries:
            view = await self._view(ref)
            service = dataclasses.replace(self._service, hooks=_EntryHooks(previous))
            call = Call(
                service,
                _ResponseExecution(response, incoming, shield),
                key=view.resource.key,
                # Others are given what is recorded, whatever this request asks for.
                request=RequestView(incoming, is_conditional=False),
                waits=False,
            )
            is_last = ref is self._entries[-1][0]
            if is_last:
                self._last = call, view
            else:
                # The response is only the source of the next one.
                call, _ = call.withholding()
            with shield_task(shield):
                # The response of one entry's run is what the next entry's run records.
                response = await record(call, view, self._run if is_last else None)
            if isinstance(response, LiveResponse):
                if is_last:
                    spawn(self._stay())
                if ref.expire is not None:
                    spawn(_extend_pointer(ref, ref.expire, response))
        return response

    async def _stay(self) -> None:
        """Let other requests find the recording until its run is over, also without a caller."""
        assert self._run is not None
        await self._run.over()

    async def _view(self, ref: EntryRef) -> View:
        backend = ref.entries.backend
        resource = ref.resource(backend)
        await resource.begin()
        service = self._service
        use = Use(
            backend, Deadline(None), backend.cache, service.invalidated_before, service.reporter
        )
        registry = registry_of(backend.scope)
        return View(use, registry, resource, Absent(), True, False, registry.ended)

    async def _join(self, seconds: float) -> Response | None:
        run, since = self._run, time.monotonic()
        if run is None or not await run.answered(seconds):
            return None
        try:
            joined = await run.join(max(seconds, OPTIONS.limits.longest_wait), since, at_once=False)
        except TimeoutError:
            return None
        if joined is not None and self._last is not None:
            return cast(Response, join(*self._last, joined))
        call = lookup_call(self._service)
        for ref, _ in reversed(self._entries):
            response = await ref.response(call)
            if response is not None:
                return response
        return None


async def _extend_pointer(ref: EntryRef, expire: float, live: LiveResponse) -> None:
    """Extend the pointer until the run has ended, because an expired one would hide the entry."""
    end = spawn(live.run_is_over())
    has_ended = False
    while not has_ended:
        done, _ = await asyncio.wait({end}, timeout=expire * _EXTEND_AFTER)
        has_ended = bool(done)
        with suppress(StoreError):
            if not await ref.extend_pointer():
                # The pointer was deleted or replaced.
                break


class _EntryHooks(Hooks):
    """Retires the older entries when the new one is visible."""

    def __init__(self, previous: Sequence[EntryRef]) -> None:
        self._previous = previous

    async def stored(self, view: View) -> None:
        """Retire the older entries."""
        for ref in self._previous:
            with suppress(StoreError):
                await ref.retire()


class _ResponseExecution(ReturnedExecution):
    """The execution of a function that has already returned its response."""

    def __init__(
        self, response: Response | None, incoming: Incoming | None, shield: DisconnectShield
    ) -> None:
        super().__init__(incoming, shield)
        self._response = response

    async def run(self) -> Any:
        """Return the response. The application is responsible for its key."""
        return self._response


def lookup_call(service: Service) -> Call:
    """Return a call that only looks an entry up."""
    return Call(service, _ResponseExecution(None, None, DisconnectShield()))
