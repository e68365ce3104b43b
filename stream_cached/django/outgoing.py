"""What the cache sends for one request, on its way to a response of Django."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from stream_cached.django.loops import running_loop
from stream_cached.django.threads import Inbox, inbox_here
from stream_cached.errors import BrokenStreamError
from stream_cached.tasks import spawn

#: Bytes that may wait for the one who iterates.
_MAX_WAITING = 64 * 1024


class Outgoing:
    """
    The messages of one response, which come in an event loop, and are read anywhere.

    They come from the first look at `head` on; after `hold`, from the first read on.

    Args:
        response: The response, which is called like an ASGI application.
        scope: The scope of its request.
        inbox: What the thread that reads them serves while it waits; None for that of any thread.
        loop: Where they come.
    """

    def __init__(
        self,
        response: ASGIApp,
        scope: Scope,
        inbox: Inbox | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.response = response
        self.is_complete = False
        """Whether the whole body was sent."""
        self.is_over = False
        """Whether its reader has read all of it, or has left."""
        self._scope = scope
        self._inbox = inbox
        self.loop = loop
        self._head: asyncio.Future[Message] = loop.create_future()
        self._lock = threading.Lock()
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._room = asyncio.Event()
        self._gone = asyncio.Event()
        self._end: BaseException | None = None
        self._has_ended = self._is_read = self._is_unread = False
        self._wake: Callable[[], object] | None = None
        self._task: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()

    # -- in the loop ------------------------------------------------------------------------

    async def head(self) -> Message:
        """Begin to send the response, and return its first message."""
        # It goes on where this is called from.
        self._context = contextvars.copy_context()
        self._begin()
        return await asyncio.shield(self._head)

    def hold(self) -> None:
        """Begin no sooner than the thread reads this stream, or another one that may join it."""
        self._is_unread = True
        if self._inbox is not None:
            self._inbox.unread.add(self)

    def begin(self) -> None:
        """Begin now. Any thread may call it."""
        self._is_unread = False
        self.call(self._begin)

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = self.loop.create_task(self._run(), context=self._context)
        return self._task

    async def whole(self) -> bytes:
        """Return the body of a response that is no stream."""
        body = bytearray()
        async for part in self:
            body += part
        return bytes(body)

    async def _run(self) -> None:
        error: BaseException | None = None
        try:
            await self.response(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            error = BrokenStreamError("the stream was given up")
        except Exception as exc:
            error = exc
        finally:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        if error is None and not self.is_complete:
            error = BrokenStreamError("the body is not complete")
        if not self._head.done():
            self._head.set_exception(error or BrokenStreamError("nothing was sent"))
            # It is of no interest where nobody waits for it any more.
            self._head.exception()
        with self._lock:
            if not self._has_ended:
                self._has_ended, self._end = True, error
                self._notify()

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self._head.done():
                self._head.set_result(message)
        elif message["type"] == "http.response.body":
            part = bytes(message.get("body", b""))
            with self._lock:
                if part:
                    self._parts.append(part)
                    self._size += len(part)
                if not message.get("more_body", False):
                    self.is_complete = self._has_ended = True
                self._notify()
            # The one who iterates may wait for nothing else.
            while self._size > _MAX_WAITING and not self._gone.is_set() and not self.is_complete:
                self._room.clear()
                await self._room.wait()

    def _notify(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    # -- for the one who iterates -------------------------------------------------------------

    def _taken(self, wake: Callable[[], object]) -> bytes | None:
        """Return the next part; None at the end. Where there is none yet, `wake` is called once
        there is one, and `BlockingIOError` is raised."""
        if self._is_unread:
            self.begin()
        with self._lock:
            if self._parts:
                part = self._parts.popleft()
                was_full = self._size > _MAX_WAITING
                self._size -= len(part)
                if was_full and self._size <= _MAX_WAITING:
                    self.call(self._room.set)
                return part
            if self._has_ended:
                if self._end is not None:
                    raise self._end
                self.is_over = True
                return None
            self._wake = wake
        raise BlockingIOError

    def call(self, function: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(function)

    def __iter__(self) -> Outgoing:
        return self

    def __next__(self) -> bytes:
        inbox = self._inbox or inbox_here()
        while inbox.unread:
            inbox.unread.pop().begin()
        found: list[bytes | None] = []

        def has_part() -> bool:
            with contextlib.suppress(BlockingIOError):
                found.append(self._taken(inbox.wake))
            if not found and running_loop() is self.loop:
                raise RuntimeError("its loop runs in this thread: iterate by `async for`")
            return bool(found)

        inbox.wait_until(has_part)
        if found[0] is None:
            raise StopIteration
        return found[0]

    def __aiter__(self) -> Outgoing:
        return self

    async def __anext__(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            has_news: asyncio.Future[None] = loop.create_future()

            def tell(future: asyncio.Future[None] = has_news) -> None:
                if not future.done():
                    future.set_result(None)

            def wake(tell: Callable[[], None] = tell) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(tell)

            try:
                part = self._taken(wake if loop is not self.loop else tell)
            except BlockingIOError:
                await has_news
                continue
            if part is None:
                raise StopAsyncIteration
            return part

    # -- the end ----------------------------------------------------------------------------

    def leave(self) -> None:
        """Tell the response that its client has left. Any thread may call it."""
        self.is_over = True
        self.call(self._leave)

    def _leave(self) -> None:
        self._gone.set()
        self._room.set()
        # Others may read a run whose own client has never begun to.
        self._begin()
        with self._lock:
            if not self._has_ended:
                self._has_ended, self._end = True, BrokenStreamError("its reader has left")
                self._notify()

    def give_up(self, *, wait: bool) -> None:
        """End the run, too, which needs what ends with the request."""
        self.is_over = True
        is_over = threading.Event()

        async def cancel() -> None:
            task = self._begin()
            if not self.is_complete:
                # One that never ran would leave its run as it is.
                for _ in range(2):
                    await asyncio.sleep(0)
                self._leave()
                task.cancel()
            await asyncio.wait({task})
            is_over.set()
            if self._inbox is not None:
                self._inbox.wake()

        self.call(lambda: spawn(cancel()))
        if not wait or self._inbox is None:
            return
        if running_loop() is None and self.loop.is_running():
            self._inbox.wait_until(is_over.is_set)
