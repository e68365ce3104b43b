"""The responses of a decorated view that come from the cache, or go through it."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from starlette.responses import Response

from stream_cached.django.entry import run_here
from stream_cached.django.loops import own_loop, running_loop
from stream_cached.django.original import set_headers
from stream_cached.django.outgoing import Outgoing
from stream_cached.django.streaming import StreamsEverywhere
from stream_cached.django.threads import call_alone
from stream_cached.responses.live import LiveResponse
from stream_cached.tasks import spawn

logger = logging.getLogger("stream_cached")


class CachedResponse(HttpResponse):
    """A stored response that was no stream."""

    @property
    def data(self) -> Any:
        """The data of a response of Django REST Framework, as far as JSON has it."""
        try:
            return json.loads(self.content)
        except ValueError:
            raise AttributeError("the response is no JSON, and has no data") from None

    @property
    def url(self) -> str:
        """Where a redirection leads to, as a test client asks."""
        if not (300 <= self.status_code < 400 and self.has_header("Location")):
            raise AttributeError("the response is no redirection, and has no url")
        return self["Location"]


class Stream:
    """
    The content of one response, and what is known of how it is stored.

    Args:
        outgoing: The messages of the response.
        response: The response of the engine.
        copy: Returns what is stored.
        context: The context of the request.
        is_held: Whether a run needs the thread of the request.
        from_cache: Whether all of it was stored before the request.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        response: Response,
        copy: Callable[[], Coroutine[Any, Any, HttpResponse]],
        context: contextvars.Context,
        *,
        is_held: bool,
        from_cache: bool,
    ) -> None:
        self.outgoing = outgoing
        self.from_cache = from_cache
        self._response = response
        self._copy = copy
        self._context = context
        self._is_held = is_held

    @property
    def is_stored(self) -> bool:
        """Whether the whole body is in the cache, and nobody reads it here any more."""
        if isinstance(self._response, LiveResponse):
            return self.outgoing.is_over and self._response.is_stored
        return self.from_cache

    def close(self) -> None:
        """Note that nobody reads it any more."""
        if self._is_held:
            self.outgoing.give_up(wait=True)
        else:
            self.outgoing.leave()

    def drop(self) -> None:
        """Note the same where nothing can be waited for."""
        if self._is_held:
            self.outgoing.give_up(wait=False)
        else:
            self.outgoing.leave()

    def when_over(self, function: Callable[[], None]) -> None:
        """Call a function in a thread of its own, once the run is over."""

        async def watch() -> None:
            if isinstance(self._response, LiveResponse):
                await self._response.run_is_over()
            await call_alone(self._context.copy(), function)

        self.outgoing.call(lambda: spawn(watch()))

    def copy(self) -> HttpResponse:
        """Return what is stored, in any thread."""
        loop = self.outgoing.loop
        if loop.is_closed() or not loop.is_running() or running_loop() is loop:
            loop = own_loop()
        return run_here(self._copy(), loop)


class CachedStreamingHttpResponse(StreamsEverywhere):
    """
    A streaming response that is stored while it is sent, or comes from the cache.

    A decorated view answers with one. A view may also make one itself: if the cache has a body
    under the key, that is sent, and nothing of the content is read.

    Args:
        streaming_content: An iterator of what the view streams, synchronous or not.
        key: The key of the body. What may not be given to every client has to be in it.
        ttl: How long the body is fresh; see `cache_stream`.
        cache: The name of the cache in the settings.
        tags: The tags of the body, by which it can be invalidated.
        args: Those of Django's `StreamingHttpResponse`.
        kwargs: Those of Django's `StreamingHttpResponse`.

    Raises:
        ConfigurationError: A parameter has no valid value; the message says what to write.
    """

    #: Django's own, which its stubs do not have.
    _iterator: Any
    _content: Content
    _resource_closers: list[Callable[[], object]]

    def __init__(
        self,
        streaming_content: Iterable[Any] | AsyncIterator[Any] = (),
        *args: Any,
        key: str,
        ttl: Any,
        cache: str = "default",
        tags: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        from stream_cached.django.direct import direct_stream

        self._begin_cached()
        super().__init__(streaming_content, *args, **kwargs)
        given = self._iterator
        opening = direct_stream(
            self, self._resource_closers, key=key, ttl=ttl, alias=cache, tags=tags
        )
        self._resource_closers = []
        self._content = self._iterator = Content(self, None, opening)
        self.is_async = hasattr(given, "__anext__")
        self._resource_closers.append(self._iterator.close)

    @classmethod
    def over(
        cls,
        stream: Stream,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        is_async: bool,
    ) -> CachedStreamingHttpResponse:
        """Return the response of a decorated view."""
        response = cls.__new__(cls)
        StreamsEverywhere.__init__(response, (), status=status)
        response._begin_cached()
        del response.headers["Content-Type"]
        set_headers(response, headers)
        response._content = response._iterator = content = Content(response, stream)
        response.is_async = is_async
        response._resource_closers.append(content.close)
        return response

    def _begin_cached(self) -> None:
        self._callbacks: list[Callable[[CachedStreamingHttpResponse], object]] = []
        self._calling = threading.RLock()

    def __iter__(self) -> Iterator[Any]:
        # Its own content can be read either way.
        return self._iterator if isinstance(self._iterator, Content) else super().__iter__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterator if isinstance(self._iterator, Content) else super().__aiter__()

    def stop_waiting(self) -> None:
        """Let a thread that waits for what is streamed go on, because nobody wants it any more."""
        self._content.close()

    @property
    def streaming_content(self) -> Any:
        """What is streamed: an iterator that is both synchronous and asynchronous, at first."""
        return self._iterator if isinstance(self._iterator, Content) else super().streaming_content

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        cast(Any, self)._set_streaming_content(value)

    @property
    def from_cache(self) -> bool:
        """Whether the whole body was in the cache before the request."""
        return self._stream is not None and self._stream.from_cache

    @property
    def completed(self) -> bool:
        """Whether the body was in the cache, or has been read to its end and is there now."""
        return self._stream is not None and self._stream.is_stored

    def add_post_render_callback(
        self, callback: Callable[[CachedStreamingHttpResponse], object]
    ) -> None:
        """
        Call a function with the response once its body is stored; at once where it is.

        Args:
            callback: The function. What it returns is ignored, and what it raises is logged.
        """
        with self._calling:
            self._callbacks.append(callback)
        self.call_back()

    def construct_cacheable_response(self) -> HttpResponse:
        """
        Return a plain response of the stored body, without Content-Encoding and cookies.

        Raises:
            ValueError: The body is not in the cache, or not yet.
        """
        if self._stream is None or not self.completed:
            raise ValueError("the stream has not completed, so that nothing of it is stored yet")
        return self._stream.copy()

    def call_back(self) -> None:
        """Call the functions that wait for the end, if the body is stored."""
        while self.completed:
            with self._calling:
                if not self._callbacks:
                    return
                callback = self._callbacks.pop(0)
                try:
                    callback(self)
                # A function that fails must not fail the response.
                except Exception:
                    logger.exception("a post-render callback has failed")

    @property
    def _stream(self) -> Stream | None:
        return self._content.stream

    @property
    def is_waited_for(self) -> bool:
        """Whether functions wait for the end."""
        return bool(self._callbacks)


class Content:
    """
    What a response streams, for either kind of caller.

    Args:
        response: The response.
        stream: The content; None if it is looked for when the first part is read.
        opening: What looks for it then.
    """

    def __init__(
        self, response: CachedStreamingHttpResponse, stream: Stream | None, opening: Any = None
    ) -> None:
        # Middleware may keep one of the two.
        self._response = weakref.ref(response)
        self._opening = opening
        self._is_closed = False
        self._finalizer: weakref.finalize[Any, Content] | None = None
        self.stream: Stream | None = None
        if stream is not None:
            self._take(stream)

    def _take(self, stream: Stream) -> None:
        self.stream = stream
        # A response that nobody sends, and nobody closes, must not hold up its run.
        self._finalizer = weakref.finalize(self, stream.drop)
        self._finalizer.atexit = False

    def __iter__(self) -> Content:
        return self

    def __next__(self) -> bytes:
        if self.stream is None:
            self._take(self._opening.open_here())
        assert self.stream is not None
        try:
            return next(self.stream.outgoing)
        except StopIteration:
            if (response := self._waiting()) is not None:
                response.call_back()
            raise

    def __aiter__(self) -> Content:
        return self

    async def __anext__(self) -> bytes:
        if self.stream is None:
            self._take(await self._opening.open())
        assert self.stream is not None
        try:
            return await anext(self.stream.outgoing)
        except StopAsyncIteration:
            if (response := self._waiting()) is not None:
                await sync_to_async(response.call_back)()
            raise

    def _waiting(self) -> CachedStreamingHttpResponse | None:
        """Return the response if functions wait for its end."""
        response = self._response()
        return response if response is not None and response.is_waited_for else None

    async def aclose(self) -> None:
        """Read no more."""
        self.close()

    def close(self) -> None:
        """Read no more. Any thread may call it."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.stream is None:
            if self._opening is not None:
                self._opening.close()
            return
        if self._finalizer is not None:
            self._finalizer.detach()
        self.stream.close()
        response = self._waiting()
        if response is not None and not response.completed:
            self.stream.when_over(response.call_back)
