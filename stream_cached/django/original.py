"""What a view has returned, as a response that the engine takes, and the way back."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from http.cookies import SimpleCookie
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from starlette.responses import Response, StreamingResponse

from stream_cached.django.asyncs import ThreadOfRun
from stream_cached.django.beside import BESIDE, set_beside, told_beside
from stream_cached.django.frozen import MARK, freeze_again, frozen_in, marked
from stream_cached.django.streaming import closers_of, run_closers, stream_everywhere
from stream_cached.django.threads import HeldItems, Inbox, ThreadItems, call_in
from stream_cached.responses.messages import RawHeaders, set_head

#: Names that are not written as their words begin.
_SPELLINGS = {"Etag": "ETag", "Www-Authenticate": "WWW-Authenticate", "Te": "TE", "Dnt": "DNT"}

#: Statuses of responses that have no body, and no length.
_BODILESS = frozenset({204, 304})


def raw_headers(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response, with its cookies."""
    headers = [
        (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()
    ]
    for cookie in response.cookies.values():
        headers.append((b"set-cookie", cookie.output(header="").strip().encode("latin-1")))
    if not response.streaming and response.status_code not in _BODILESS:
        length = str(len(cast(HttpResponse, response).content)).encode()
        if not response.has_header("Content-Length"):
            headers.append((b"content-length", length))
    return [*headers, *marked(response), *told_beside(response)]


def spelled(name: bytes) -> str:
    """Return the name of a header as it is usually written."""
    title = name.decode("latin-1").title()
    return _SPELLINGS.get(title, title)


def set_headers(response: HttpResponseBase, headers: RawHeaders) -> None:
    """Give a response these headers; those that it has keep their spelling."""
    joined: dict[bytes, list[str]] = {}
    mark, frozen = b"", frozen_in(response)
    for name, value in headers:
        if name == b"set-cookie":
            response.cookies.update(SimpleCookie(value.decode("latin-1")))
        elif name == MARK:
            mark = value
        elif name == BESIDE:
            set_beside(response, value)
        else:
            joined.setdefault(name, []).append(value.decode("latin-1"))
    for name, values in joined.items():
        text, joint = spelled(name), ", ".join(values)
        if text.lower() not in frozen and response.headers.get(text) != joint:
            response.headers[text] = joint
    if mark and not frozen:
        freeze_again(response, mark)


class Original(Response):
    """A response without a stream that a view has returned."""

    def __init__(self, django: HttpResponse) -> None:
        set_head(self, django.status_code, raw_headers(django), None, django.charset)
        self.body = django.content
        self.django: HttpResponseBase = django


class OriginalStream(StreamingResponse):
    """A stream that a view has returned. Nothing of it is read before someone reads the body."""

    def __init__(self, django: StreamingHttpResponse, items: AsyncIterator[bytes]) -> None:
        set_head(self, django.status_code, raw_headers(django), None, django.charset)
        self.body_iterator = items
        self.django: HttpResponseBase = django


def native(response: Original | OriginalStream) -> HttpResponseBase:
    """Return what the view has returned itself, with the headers that the cache has added."""
    django = response.django
    cookies = django.cookies
    headers = [each for each in response.raw_headers if each[0] != b"set-cookie"]
    set_headers(django, headers)
    django.cookies = cookies
    return stream_everywhere(django)


class Ending:
    """
    What is done once, when a run has read what a view has returned.

    Args:
        response: What the view has returned; its closers become the run's.
        done: Called at the end.
    """

    def __init__(self, response: StreamingHttpResponse, done: Callable[[], None]) -> None:
        self._response = response
        self._done = done

    @property
    def is_quick(self) -> bool:
        """Whether nothing is to be closed that might wait for something."""
        return not cast(Any, self._response)._resource_closers

    def __call__(self) -> None:
        """Close what the response closes. Django's signal is sent for the response that is sent."""
        if not self._response.closed:
            run_closers(closers_of(self._response))
            self._response.closed = True
        self._done()


class AsyncItems:
    """The items of an asynchronous iterator, in the context of its run."""

    def __init__(self, response: Any, thread: ThreadOfRun, ending: Ending) -> None:
        self._response = response
        self._thread = thread
        self._ending = ending
        self._items: AsyncIterator[bytes] | None = None
        self._is_closed = False

    def __aiter__(self) -> AsyncItems:
        return self

    async def __anext__(self) -> bytes:
        if self._items is None:
            self._items = aiter(cast(AsyncIterator[bytes], self._response.streaming_content))
        return await anext(self._items)

    async def aclose(self) -> None:
        """Close the iterator, and what the response closes."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            for each in (self._items, self._response._iterator):
                aclose = getattr(each, "aclose", None)
                if aclose is not None:
                    await aclose()
        finally:
            if self._ending.is_quick:
                self._ending()
            else:
                await sync_to_async(self._ending)()
            self._thread.leave()


def is_begun(response: Any) -> bool:
    """Whether the view has read the first item of its generator itself, in its own thread."""
    iterator = response._iterator
    return inspect.isgenerator(iterator) and inspect.getgeneratorstate(iterator) != "GEN_CREATED"


def stream_of(
    response: StreamingHttpResponse,
    context: contextvars.Context,
    *,
    held_by: Inbox | None,
    is_held: bool,
    for_server: bool,
    thread: ThreadOfRun,
    done: Callable[[], None],
    merge: bool = True,
) -> OriginalStream:
    """
    Return a stream that a view has returned.

    Args:
        response: What the view has returned.
        context: The context that the view has left.
        held_by: What has the thread of the request, if a server without a loop has called it.
        is_held: Whether the thread of the request steps the stream.
        for_server: Whether an ASGI server has called the view.
        thread: Where an asynchronous stream calls what is synchronous.
        done: Called when the run has read it.
        merge: Whether chunks that are made already may be taken as one.
    """
    ending = Ending(response, done)
    if response.is_async:
        return OriginalStream(response, AsyncItems(response, thread, ending))

    def items() -> Iterator[bytes]:
        return iter(cast(Iterator[bytes], response.streaming_content))

    if not is_held:
        made: Any = ThreadItems(items, ending, context, for_server=for_server, merge=merge)
    elif held_by is not None:
        inbox = held_by
        made = HeldItems(items, ending, lambda work: call_in(inbox, lambda: context.run(work)))
    else:
        made = HeldItems(items, ending, lambda work: sync_to_async(work)())
    return OriginalStream(response, made)


def from_parts(
    cls: type[HttpResponse], status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> HttpResponse:
    """Return a response of Django."""
    response = cls(body, status=status)
    del response.headers["Content-Type"]
    set_headers(response, headers)
    return response
