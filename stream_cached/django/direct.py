"""A stream that a view itself caches under a key of its own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse

from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.checks import require
from stream_cached.django.answering import PLAIN_SCOPE, stored_copy
from stream_cached.django.asyncs import ThreadOfRun
from stream_cached.django.conf import Cache, caches
from stream_cached.django.entry import loop_for, run_here
from stream_cached.django.hooks import DjangoHooks, ViewReporter
from stream_cached.django.loops import is_own, server_loop
from stream_cached.django.original import OriginalStream, is_begun, stream_of
from stream_cached.django.outgoing import Outgoing
from stream_cached.django.responses import Stream
from stream_cached.django.streaming import run_closers
from stream_cached.django.threads import Inbox, in_transaction, inbox_here
from stream_cached.endpoint.tags import NAMESPACE, tag_key_of
from stream_cached.engine.answer import answer
from stream_cached.engine.header_rules import HeaderRules
from stream_cached.engine.outcome import Call
from stream_cached.engine.service import Service
from stream_cached.keys.names import version_key
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.execution import ReturnedExecution
from stream_cached.responses.stored import Carrying

_NAME = "stream_cached.django.CachedStreamingHttpResponse"


@functools.lru_cache(maxsize=64)
def _service(cache: Cache, ttl: Any) -> Service:
    decorator = cache.streams.cached(ttl)
    options = decorator.options
    return Service(
        version=version_key(_NAME),
        options=options,
        headers=HeaderRules(options, frozenset(), frozenset()),
        reporter=ViewReporter(_NAME, hook=options.on_event),
        hooks=DjangoHooks(decorator.hooks),
        invalidated_before=InvalidatedBefore(time.monotonic),
    )


class _ContentExecution(ReturnedExecution):
    """The run of a view that has already returned its content."""

    def __init__(self, stream: Callable[[], OriginalStream]) -> None:
        super().__init__(None, DisconnectShield())
        self._stream = stream
        self.has_run = False
        self.is_held = False

    async def run(self) -> Any:
        """Return the content. Its key tells for which clients it is."""
        self.has_run = True
        return self._stream()

    def can_outlive_request(self) -> bool:
        """Whether the content needs nothing of the thread of the request."""
        return not self.is_held

    def can_run_later(self) -> bool:
        """Whether the content can be made once a response has begun."""
        return not self.has_run


class Opening:
    """
    What looks for a body under a key, and stores the content there if there is none.

    Args:
        content: The content, as a response of Django.
        service: What is the same for all such responses with the same ttl.
        key: The key.
        tags: The tags of the body.
    """

    def __init__(self, content: Any, service: Service, key: str, tags: Sequence[str]) -> None:
        self._content = content
        self._service = service
        self._key = key
        self._tags = tags
        self._context = contextvars.copy_context()

    def open_here(self) -> Stream:
        """Open it in a thread without a loop."""
        inbox = inbox_here()
        is_held = in_transaction() or is_begun(self._content)
        opened = self._opened(inbox, is_held, for_server=server_loop() is not None)
        return run_here(opened, loop_for(for_server=True), inbox)

    async def open(self) -> Stream:
        """Open it in a loop."""
        is_held = await sync_to_async(in_transaction)() or is_begun(self._content)
        for_server = not is_own(asyncio.get_running_loop())
        return await self._opened(None, is_held, for_server=for_server)

    def close(self) -> None:
        """Close the content, of which nothing was read."""
        run_closers(self._content._resource_closers)

    async def _opened(self, inbox: Inbox | None, is_held: bool, *, for_server: bool) -> Stream:
        thread = ThreadOfRun(inbox if is_held else None)

        def stream() -> OriginalStream:
            if self._content.is_async and not (is_held and inbox is None):
                thread.enter()
            return stream_of(
                self._content,
                self._context,
                held_by=inbox,
                is_held=is_held,
                for_server=for_server,
                thread=thread,
                done=lambda: None,
            )

        execution = _ContentExecution(stream)
        execution.is_held = is_held
        tags = (NAMESPACE, *self._tags)
        call = Call(self._service, execution, self._key, versions=tuple(map(tag_key_of, tags)))
        result = await answer(call)
        if not execution.has_run:
            await sync_to_async(self.close)()
        outgoing = Outgoing(
            result, PLAIN_SCOPE, inbox if is_held else None, asyncio.get_running_loop()
        )
        await outgoing.head()
        return Stream(
            outgoing,
            result,
            lambda: stored_copy(call),
            self._context,
            is_held=is_held,
            from_cache=isinstance(result, Carrying),
        )


def direct_stream(
    response: Any,
    closers: list[Callable[[], object]],
    *,
    key: Any,
    ttl: Any,
    alias: Any,
    tags: Any,
) -> Opening:
    """
    Return what opens the content of a response that a view has made itself.

    Raises:
        ConfigurationError: A parameter has no valid value; the message says what to write.
    """
    require(isinstance(key, str) and key, f"key={key!r}: pass a text that names the body")
    require(
        isinstance(tags, list | tuple) and all(isinstance(each, str) and each for each in tags),
        f'tags={tags!r}: pass a tuple of texts, ("report:2024",)',
    )
    require(isinstance(alias, str), f"cache={alias!r}: pass the name of a cache in the settings")
    content: Any = StreamingHttpResponse(
        (), headers=dict(response.headers), status=response.status_code
    )
    content._iterator, content.is_async = response._iterator, response.is_async
    content._resource_closers = closers
    service = _service(caches[alias], ttl)
    return Opening(content, service, f"{_NAME}:{key}", tags)
