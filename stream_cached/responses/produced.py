"""What an endpoint returned, as a run takes it over."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from stream_cached.events import Reporter
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.request.guard import Guard, Observation
from stream_cached.request.incoming import Incoming
from stream_cached.request.observed import plain_scope
from stream_cached.responses.app import as_response
from stream_cached.responses.items import ItemsResponse
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.messages import RawHeaders
from stream_cached.runs.producer import CLEAN_UP_MAX
from stream_cached.streams.asides import LeadersAsides
from stream_cached.streams.items import WatchedItems, is_event_stream
from stream_cached.streams.protocols import Source
from stream_cached.streams.sources import (
    AppSource,
    IteratorSource,
    close_iterable,
    recordable,
    sends_by_itself,
    sends_what_it_is_given,
)
from stream_cached.tasks import spawn


@dataclass(slots=True)
class Produced:
    """A response: its head, and where its body comes from."""

    # Not frozen: to set its fields would cost three times as much. Nothing changes it all the same.

    response: Response
    status: int
    headers: RawHeaders
    media_type: str | None
    charset: str
    body: bytes | None
    """The body, if it is at hand."""
    source: Source | None = None
    """What makes the body; None if the body at hand is all that is sent."""
    background: Callable[[], Awaitable[None]] | None = None
    sends_by_itself: bool = False
    """Whether it sends in its own way: its source and its head are known by `produce_messages`."""
    replaces: tuple[str, ...] | None = None
    """For a value that FastAPI has rendered: see `Entry.replaces`."""
    beside: RawHeaders = ()
    """The headers by dependencies that are sent with it and not stored, but for cookies."""
    asides: LeadersAsides | None = None
    """What it sends beside its body."""
    findings: tuple[Finding, ...] = ()
    """Why it can't be stored, beside its status and its headers."""

    is_declared: bool = False
    """Whether its status is the one of success that its route declares."""

    @property
    def all_headers(self) -> RawHeaders:
        """The headers that say whether it may be stored, and for which requests."""
        return [*self.headers, *self.beside] if self.beside else self.headers

    def with_headers(self, headers: RawHeaders) -> Response:
        """Return a copy with other headers: the endpoint may return one object again and again."""
        clone = copy.copy(self.response)
        clone.__dict__.pop("_headers", None)
        clone.raw_headers = list(headers)
        return clone


def produced(result: Any) -> Produced | None:
    """Return what an endpoint produced; None if it is no response."""
    result = as_response(result)
    if result is None:
        return None
    by_itself = sends_by_itself(result)
    source: Source | None = None
    background: Callable[[], Awaitable[None]] | None = None
    beside: RawHeaders = ()
    if isinstance(result, ItemsResponse):
        source, beside = result.source, result.beside
    elif not by_itself and isinstance(result, StreamingResponse):
        source = IteratorSource(result.body_iterator, result.charset)
        background = result.background
    body = getattr(result, "body", None)
    return Produced(
        response=result,
        status=result.status_code,
        headers=result.raw_headers,
        media_type=result.media_type,
        charset=result.charset,
        body=None if body is None or source is not None else bytes(body),
        source=source,
        background=background,
        sends_by_itself=by_itself,
        beside=beside,
    )


async def produce_messages(
    made: Produced, incoming: Incoming, guard: Observation | None, *, whole: bool
) -> Produced:
    """
    Start a response that sends in its own way, and return its real head and its source.

    Unless its `whole` body is wanted, it may send what the request's own conditions ask for.
    """
    request = incoming.request
    scope = recordable(plain_scope(request.scope), conditional=not whole)
    if isinstance(guard, Guard) and not sends_what_it_is_given(made.response):
        scope = guard.observed_scope(scope)
    source = AppSource(made.response, scope, getattr(request, "_body", b""), _watched_items(made))
    await source.begin()
    unstorable = source.unstorable
    return replace(
        made,
        status=source.status,
        headers=source.headers,
        source=source,
        sends_by_itself=False,
        asides=source.asides,
        findings=(Finding(NotCached.MESSAGE, unstorable),) if unstorable else (),
    )


def _watched_items(made: Produced) -> WatchedItems | None:
    """Watch the items of an event stream, to know which comments are of its response class."""
    response: Any = made.response
    items: Any = getattr(response, "body_iterator", None)
    # A run tells its comments from its body itself.
    is_run = isinstance(response, LiveResponse)
    if is_run or not is_event_stream(made.headers) or not hasattr(items, "__aiter__"):
        return None
    watched = WatchedItems(items.plain if isinstance(items, WatchedItems) else items)
    try:
        # Not in a copy: the class, or its user, may hold on to the response.
        response.body_iterator = watched
    except AttributeError:
        # It is a property that can't be set.
        return None
    return watched


def error_headers(exc: BaseException) -> RawHeaders:
    """Return the headers of an exception that is an answer."""
    headers = getattr(exc, "headers", None)
    if not isinstance(exc, HTTPException) or not headers:
        return []
    return [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]


def is_disconnect(exc: BaseException) -> bool:
    """Whether an exception says that the client of its request has left."""
    return isinstance(exc, ClientDisconnect)


def error_status(exc: BaseException) -> int | None:
    """Return the status of an exception that is an answer, None for any other exception."""
    return exc.status_code if isinstance(exc, HTTPException) else None


async def finish(result: Any, reporter: Reporter) -> None:
    """Let a response come to its end without a client."""
    if isinstance(result, LiveResponse):
        await result.run_unsent()
    else:
        await discard(result, reporter)
    if isinstance(result, Response) and result.background is not None:
        await result.background()


async def discard(result: Any, reporter: Reporter) -> None:
    """Close a response that is not sent; nothing waits for a body that was never iterated over."""
    if isinstance(result, LiveResponse):
        await result.discard()
    elif isinstance(result, StreamingResponse):
        spawn(_close(result.body_iterator, reporter))


async def _close(body: Any, reporter: Reporter) -> None:
    try:
        async with asyncio.timeout(CLEAN_UP_MAX):
            await close_iterable(body)
    except Exception as exc:
        reporter.clean_up_failed(exc)
