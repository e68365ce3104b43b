"""How a view is run for one call: where, in which context, and what of its request it reads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.utils import translation

from stream_cached.django.asyncs import ThreadOfRun, changes
from stream_cached.django.beside import note_language
from stream_cached.django.guard import ViewGuard
from stream_cached.django.original import Original, OriginalStream, is_begun, stream_of
from stream_cached.django.rendering import rendered
from stream_cached.django.threads import Inbox, call_alone, call_in, in_transaction
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.execution import Executed, Execution
from stream_cached.request.guard import Terms
from stream_cached.request.incoming import Incoming

#: Bytes that are read of a file at once: Django's 4096 are for servers that send them themselves.
_BLOCK = 64 * 1024


class Place:
    """
    Where the view of one request runs.

    Args:
        inbox: What has the thread of the request; None if the request is answered in a loop.
        context: The context of the request.
        for_server: Whether an ASGI server has called the view.
    """

    def __init__(
        self, inbox: Inbox | None, context: contextvars.Context, *, for_server: bool
    ) -> None:
        self.inbox = inbox
        self.context = context
        self.for_server = for_server
        self.call_identity = object()
        """Stands for the call where the call itself must not be kept alive."""
        self.is_open = True
        """Whether the thread of the request waits for the answer."""
        self.is_held = False
        """Whether what the view has returned needs the thread of the request."""
        self.changed = contextvars.Context()
        """What an asynchronous view has set of its context: middleware may read it."""

    @property
    def holding(self) -> Inbox | None:
        """What has the thread of the request once the view has returned: it iterates there.

        Behind an ASGI server that thread does not wait, and asgiref knows how to reach it."""
        return None if self.for_server else self.inbox

    async def call(self, function: Callable[[], Any]) -> Any:
        """Call what is synchronous in the thread of the request, or else in one of its own."""
        if not self.is_open:
            return await call_alone(self.context.copy(), function)
        if self.inbox is None:
            return await sync_to_async(function)()
        return await call_in(self.inbox, function)


class ViewExecution(Execution):
    """One call of a view."""

    def __init__(
        self,
        view: Callable[..., Any],
        request: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        incoming: Incoming | None,
        terms: Terms | None,
        place: Place,
        query: frozenset[str] | None,
        *,
        in_key: frozenset[str],
        merge: bool,
    ) -> None:
        self._view = view
        self._request = request
        self._place = place
        self._query = query
        self._in_key = in_key
        self._merge = merge
        self.args = args
        self.kwargs = kwargs
        self.incoming = incoming
        self.terms = terms
        self.guard: ViewGuard | None = None

    @property
    def function(self) -> Callable[..., Any]:
        """The view."""
        return self._view

    @contextmanager
    def shielded(self, seconds: float) -> Iterator[DisconnectShield]:
        """Return a shield for nothing: a view of Django is not told that its client has left."""
        yield DisconnectShield()

    def can_outlive_request(self) -> bool:
        """Whether what the view has returned needs nothing of the thread of the request."""
        return not self._place.is_held

    def can_run_later(self) -> bool:
        """Whether the view can run once the response has begun: it is no part of the answer."""
        return True

    def outlive_request(self) -> None:
        """Do nothing: a request of Django is whole."""

    async def run(self) -> Any:
        """Run the view. Nobody watches what it reads, and its response is its own."""
        return await self._run(None)

    async def run_watched(self, *, release: bool = False) -> Executed:
        """Run the view, and note what it reads."""
        guard = None
        if self.terms is not None and self.incoming is not None:
            place = self._place.call_identity
            guard = ViewGuard(
                *(self._request, self.terms, self._query, self._in_key, place),
                with_body=self.incoming.has_body,
            )
        self.guard = guard
        try:
            result = await self._run(guard)
        except BaseException:
            if guard is not None:
                guard.end()
            raise
        if guard is not None and not isinstance(result, OriginalStream):
            guard.end()
        if guard is not None:
            self.selecting = guard.selecting()
        return Executed(result, False)

    async def _run(self, guard: ViewGuard | None) -> Any:
        if iscoroutinefunction(self._view):
            return await self._run_async(guard)
        thread = ThreadOfRun()

        def run() -> tuple[Any, contextvars.Context, bool]:
            language = translation.get_language()
            response = rendered(self._view(*self.args, **self.kwargs), self._request, self.args)
            note_language(response, language)
            return response, contextvars.copy_context(), self._is_held(response)

        response, context, is_held = await self._place.call(run)
        if getattr(response, "is_async", False):
            thread = self._entered(is_held)
        return self._taken(response, context, thread, guard, is_held=is_held)

    def _is_held(self, response: Any) -> bool:
        if not self._place.is_open:
            return False
        is_stream = isinstance(response, StreamingHttpResponse)
        return in_transaction() or (is_stream and is_begun(response))

    def _entered(self, is_held: bool) -> ThreadOfRun:
        """Let asynchronous code call what is synchronous in a thread of its run."""
        thread = ThreadOfRun(self._place.holding if is_held else None)
        if not is_held or self._place.holding is not None:
            thread.enter()
        return thread

    async def _run_async(self, guard: ViewGuard | None) -> Any:
        is_held = self._place.is_open and await self._place.call(in_transaction)
        thread = self._entered(is_held)
        is_stream = False
        before, language = contextvars.copy_context(), translation.get_language()
        try:
            response = await self._view(*self.args, **self.kwargs)
            self._place.changed = changes(before, contextvars.copy_context())
            note_language(response, language)
            response = await sync_to_async(rendered)(response, self._request, self.args)
            is_stream = isinstance(response, StreamingHttpResponse)
            return self._taken(response, contextvars.copy_context(), thread, guard, is_held=is_held)
        except asyncio.CancelledError:
            # What is left of the view may still read the body, which Django closes then.
            await thread.finish()
            raise
        finally:
            if not is_stream:
                thread.leave()

    def _taken(
        self,
        response: Any,
        context: contextvars.Context,
        thread: ThreadOfRun,
        guard: ViewGuard | None,
        *,
        is_held: bool,
    ) -> Any:
        """Return what the view has returned as a response that the engine takes."""
        if isinstance(response, StreamingHttpResponse):
            self._place.is_held = is_held
            if isinstance(response, FileResponse):
                response.block_size = max(response.block_size, _BLOCK)
            return stream_of(
                response,
                context,
                held_by=self._place.holding,
                is_held=is_held,
                for_server=self._place.for_server,
                thread=thread,
                done=(lambda: None) if guard is None else guard.end,
                merge=self._merge,
            )
        if isinstance(response, HttpResponse) and getattr(response, "is_rendered", True):
            return Original(response)
        return NoResponse(response)


class NoResponse:
    """What a view has returned that is no response: Django says what is wrong with it."""

    def __init__(self, value: object) -> None:
        self.value = value
