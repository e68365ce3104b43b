"""Responses that stream whatever their content is, and whatever calls for it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from typing import Any, cast

from asgiref.sync import _restore_context, sync_to_async
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from starlette.types import Receive, Scope, Send

from stream_cached.django.asyncs import ThreadOfRun
from stream_cached.django.entry import loop_here
from stream_cached.django.loops import run_in
from stream_cached.django.outgoing import Outgoing
from stream_cached.django.threads import ThreadItems, in_transaction, inbox_here

_END = object()


class StreamsEverywhere(StreamingHttpResponse):
    """
    A response that hands each item on as it is made.

    Django takes an asynchronous iterator under WSGI, and a synchronous one under ASGI, for a list,
    and sends nothing before its end.
    """

    def __iter__(self) -> Iterator[Any]:
        if not self.is_async:
            return iter(cast(Iterator[Any], self.streaming_content))
        return _stepped_in_loop(cast(AsyncIterator[bytes], self.streaming_content))

    async def __aiter__(self) -> AsyncIterator[Any]:
        if self.is_async:
            content = cast(AsyncIterator[bytes], self.streaming_content)
            async for part in content:
                yield part
            return
        if await sync_to_async(in_transaction)():
            iterator = iter(cast(Iterator[bytes], self.streaming_content))
            step = sync_to_async(lambda: next(iterator, _END))
            while (item := await step()) is not _END:
                yield item
            return
        closers = closers_of(self)
        items = ThreadItems(
            lambda: iter(cast(Iterator[bytes], self.streaming_content)),
            lambda: run_closers(closers),
            contextvars.copy_context(),
            for_server=True,
        )
        try:
            async for part in items:
                yield part
        finally:
            items.leave()
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """Let a thread that waits for what is streamed go on, because nobody wants it any more."""


def closers_of(response: Any) -> list[Callable[[], object]]:
    """Take over what a response closes at its end."""
    closers: list[Callable[[], object]] = response._resource_closers
    response._resource_closers = []
    return closers


def run_closers(closers: list[Callable[[], object]]) -> None:
    """Do what Django does at the end of a response."""
    for close in closers:
        with contextlib.suppress(Exception):
            close()
    closers.clear()


def _stepped_in_loop(content: AsyncIterator[bytes]) -> Iterator[bytes]:
    """Yield the items of an asynchronous iterator, which a loop in another thread steps."""
    inbox = inbox_here() if in_transaction() else None
    thread = ThreadOfRun(inbox)

    async def send_all(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for part in content:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            aclose = getattr(content, "aclose", None)
            if aclose is not None:
                await aclose()
            thread.leave()

    loop, context = loop_here(), contextvars.copy_context()
    outgoing = Outgoing(send_all, {}, inbox, loop)

    async def begin() -> None:
        _restore_context(context)
        thread.enter()
        with contextlib.suppress(Exception):
            await outgoing.head()

    run_in(loop, begin(), context)
    try:
        yield from outgoing
    finally:
        outgoing.give_up(wait=True)


@lru_cache(maxsize=256)
def _streaming_class(cls: type[StreamingHttpResponse]) -> type[StreamingHttpResponse]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (StreamsEverywhere, cls), names)


def stream_everywhere(response: HttpResponseBase) -> HttpResponseBase:
    """Let a response of the view itself stream everywhere."""
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, StreamsEverywhere):
        response.__class__ = _streaming_class(type(response))
    return response
