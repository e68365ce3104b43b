"""From a call to a response of Django."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from starlette.responses import Response

from stream_cached.django.execution import NoResponse, Place
from stream_cached.django.frozen import thaw_coding
from stream_cached.django.original import Original, OriginalStream, from_parts, native
from stream_cached.django.outgoing import Outgoing
from stream_cached.django.responses import CachedResponse, CachedStreamingHttpResponse, Stream
from stream_cached.engine.answer import answer
from stream_cached.engine.lookup import look_up
from stream_cached.engine.outcome import Call, Fresh
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.stored import Carrying, StoredResponse

#: The scope of a request of which only the body of the answer is wanted.
PLAIN_SCOPE = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}}

#: Headers that tell of one answer, or of its coding: no part of what is stored.
_OF_ONE = frozenset({b"age", b"cache-status", b"content-encoding", b"set-cookie"})


async def respond(call: Call, place: Place) -> Any:
    """
    Answer a call with a response of Django.

    Args:
        call: The call.
        place: Where its view runs.
    """
    try:
        result = await answer(call)
    finally:
        # From now on, nobody serves the inbox but who iterates.
        place.is_open = False
    if isinstance(result, Original | OriginalStream):
        return native(result)
    if isinstance(result, NoResponse):
        return result.value
    return await _converted(call, place, result)


async def _converted(call: Call, place: Place, result: Response) -> HttpResponseBase:
    incoming = call.execution.incoming
    scope = PLAIN_SCOPE if incoming is None else incoming.scope
    if isinstance(result, StoredResponse) and result.refresh is None:
        if result.sending is not None:
            result.sending.sent(0 if call.is_head else len(result.body))
        return _whole(result.status_code, result.raw_headers, bytes(result.body))
    inbox = place.holding if place.is_held else None
    outgoing = Outgoing(result, scope, inbox, asyncio.get_running_loop())
    status, headers = await _head(outgoing, result, is_held=place.is_held)
    if isinstance(result, StoredResponse):
        return _whole(status, headers, await outgoing.whole())
    stream = Stream(
        outgoing,
        result,
        lambda: stored_copy(call),
        place.context,
        is_held=place.is_held,
        from_cache=isinstance(result, Carrying),
    )
    return CachedStreamingHttpResponse.over(stream, status, headers, is_async=place.for_server)


async def _head(
    outgoing: Outgoing, result: Response, *, is_held: bool
) -> tuple[int, Sequence[tuple[bytes, bytes]]]:
    if is_held and isinstance(result, LiveResponse):
        # As in Django itself, nothing is stepped before the thread has left the view: until then
        # the transaction of the request is open, and a stream may use transactions of its own.
        outgoing.hold()
        return result.status_code, result.raw_headers
    head = await outgoing.head()
    return head["status"], head["headers"]


def _whole(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> HttpResponse:
    names = {name for name, _ in headers}
    if b"content-length" not in names and status not in (204, 304):
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    return from_parts(CachedResponse, status, headers, body)


async def stored_copy(call: Call) -> HttpResponse:
    """
    Return what is stored for a call as a plain response, without coding and cookies.

    Raises:
        ValueError: Nothing is stored any more.
    """
    request = call.request and call.request.unconditional("GET")
    again = replace(call.for_the_rest(), request=request, reads=True, writes=False)
    view = await look_up(again)
    if not isinstance(view.found, Fresh):
        raise ValueError("the response is not stored any more")
    outgoing = Outgoing(view.found.response, PLAIN_SCOPE, None, asyncio.get_running_loop())
    head = await outgoing.head()
    headers = [each for each in head["headers"] if each[0] not in _OF_ONE]
    response = from_parts(HttpResponse, head["status"], headers, await outgoing.whole())
    thaw_coding(response)
    return response
