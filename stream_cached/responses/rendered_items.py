"""What a generator yields, as the response that FastAPI makes of it, in the task of a run.

FastAPI makes it by a twin of the route, as in `rendering`: a route whose endpoint yields the items.
It is run as an application of its own, because FastAPI leaves the tasks of an event stream on the
exit stack of a request, and a run may outlive the request.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from stream_cached.endpoint.route import Handler
from stream_cached.errors import BrokenStreamError
from stream_cached.request.observed import plain_scope
from stream_cached.responses.app import AppResponse
from stream_cached.responses.messages import RawHeaders, WatchedClient
from stream_cached.responses.produced import Produced, produced
from stream_cached.responses.rendering import (
    GIVEN,
    Given,
    Rendering,
    Twins,
    take_given,
    twin_of,
    untold,
)
from stream_cached.streams.asides import Comment
from stream_cached.streams.sources import close_iterable

#: Where FastAPI looks for the exit stacks of a request.
_STACKS = ("fastapi_middleware_astack", "fastapi_inner_astack", "fastapi_function_astack")

#: What FastAPI adds to the head of an event stream. It is for clients, and not about the items.
_OF_EVENTS = (b"cache-control", b"no-cache")


class ItemTwins(Twins):
    """The twins of the routes of a generator function."""

    def _handler(self, route: Any) -> Handler:
        twin = twin_of(route, self._give())
        # FastAPI knows it by the annotation of the function.
        twin.stream_item_field = route.stream_item_field
        handler: Handler = twin.get_route_handler()
        return handler

    def _give(self) -> Callable[..., Any]:
        from fastapi import Depends

        async def give(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for item in items:
                yield item

        # FastAPI builds the head before it calls the endpoint.
        given, kind = Depends(take_given), inspect.Parameter.KEYWORD_ONLY
        parameter = inspect.Parameter("items", kind, default=given)
        vars(give)["__signature__"] = inspect.Signature([parameter])
        function = self._endpoint.function
        give.__name__ = getattr(function, "__name__", type(function).__name__)
        return give


class _Items:
    """The items of one run, on their way through a twin."""

    def __init__(self, plain: AsyncIterator[Any], last: deque[Any]) -> None:
        self.plain = plain
        self.is_complete = False
        self._last = last

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for item in self.plain:
            self._last.append(item)
            yield item
        self.is_complete = True

    async def close(self, *raised: Any) -> None:
        plain: Any = self.plain
        if hasattr(plain, "__aexit__"):
            await plain.__aexit__(*raised)
        elif not getattr(plain, "ag_running", False):
            # A generator that runs is being cancelled.
            await plain.aclose()


class ItemsRendering(Rendering):
    """
    How FastAPI would answer one request with what its endpoint yields.

    Args:
        twins: The twins of the endpoint's routes.
        route: The route of the request.
        request: The request.
        injected: The Response that FastAPI has passed to the dependencies of the request.
        kept: How many of the last items of a run are kept.
    """

    def __init__(
        self, twins: Twins, route: Any, request: Any, injected: Response, kept: int = 0
    ) -> None:
        super().__init__(twins, route, request, injected)
        if getattr(route, "is_sse_stream", False):
            self.of_class = (_OF_EVENTS,)
        #: The last items of a run.
        self.last: deque[Any] = deque(maxlen=kept)

    async def produce(self, value: Any) -> Produced:
        made = produced(self._rendered(value))
        assert made is not None
        # A generator has not begun yet: it finds no Response of which it could take a header.
        self._kept = list(self._before)
        declared = self._route.status_code
        status = self._injected.status_code or declared or made.status
        return replace(
            made,
            status=status,
            replaces=(),
            beside=self.shared(self._kept),
            is_declared=status == declared and status < 300,
        )

    def unstored(self, items: AsyncIterator[Any], headers: RawHeaders = ()) -> Response:
        """Return the response of items that are not stored, with all headers of this request."""
        response = self._rendered(items)
        response.raw_headers = [*self.of_class, *self._injected.raw_headers, *headers]
        return response

    def _rendered(self, items: AsyncIterator[Any]) -> AppResponse:
        given = Given(_Items(items, self.last), self._injected.status_code, [])
        return AppResponse(_RenderedItems(self._twins, self._route, self._scope, given))


class _RenderedItems:
    """The application that sends what FastAPI makes of items, without the pings in its body."""

    def __init__(self, twins: Twins, route: Any, scope: Scope, given: Given) -> None:
        self._twins = twins
        self._route = route
        self._scope = scope
        self._given = given

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        items: _Items = self._given.value
        async with AsyncExitStack() as stack:
            stack.push_async_exit(items.close)
            stacks = dict.fromkeys(_STACKS, await stack.enter_async_context(AsyncExitStack()))
            request = Request({**self._scope, **stacks, GIVEN: self._given})
            with self._twins.placing():
                with untold():
                    response: Any = await self._twins.handler(self._route)(request)
                send, scope = self._sending(items, send), plain_scope(scope)
                if type(response).__call__ is StreamingResponse.__call__:
                    stack.push_async_callback(_close, response.body_iterator)
                    await _until_client_left(response.stream_response(send), scope, receive)
                else:
                    await response(scope, receive, send)

    def _sending(self, items: _Items, send: Send) -> Send:
        ping = _ping()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if _OF_EVENTS in headers and getattr(self._route, "is_sse_stream", False):
                    headers.remove(_OF_EVENTS)
                message = {**message, "headers": headers}
            elif not message.get("more_body", False) and not items.is_complete:
                # FastAPI may end an event stream cleanly before it sees that the endpoint failed.
                raise BrokenStreamError("the endpoint has failed")
            elif ping is not None and message.get("body") is ping:
                message = Comment(message)
            await send(message)

        return sending


async def _close(body: Any) -> None:
    """Close a body in the task that has read it: FastAPI 0.135 leaves tasks of its own to that."""
    try:
        await close_iterable(body)
    except BaseExceptionGroup as group:
        raised = group.split(GeneratorExit)[1]
        if raised is not None:
            raise raised from None


async def _until_client_left(
    streaming: Coroutine[Any, Any, None], scope: Scope, receive: Receive
) -> None:
    """Send a body in this task, and stop once its client has left."""
    within = asyncio.timeout(None)
    try:
        async with within, WatchedClient(scope, receive, lambda: within.reschedule(0)):
            await streaming
    except TimeoutError:
        # The task is not cancelled itself: it is one of the server's.
        if not within.expired():
            raise


def _ping() -> bytes | None:
    """Return the comment that FastAPI sends to keep a connection alive; it is this very object."""
    try:
        from fastapi.sse import KEEPALIVE_COMMENT
    except ImportError:
        return None
    return KEEPALIVE_COMMENT
