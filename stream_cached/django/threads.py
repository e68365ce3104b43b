"""Threads: the one of a request, which waits and does what others ask, and those of runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from asgiref.sync import SyncToAsync, _restore_context
from django.db import connections

from stream_cached.runs.registry import part_of_runs, runs_of_this_code

T = TypeVar("T")

#: How far the thread of a run may be ahead of what reads it.
_MAX_AHEAD = 64 * 1024
_MAX_ITEMS = 512


class InterruptedRequestError(RuntimeError):
    """What has interrupted the thread of a request was no error of its view."""


class Beginning(Protocol):
    """What waits for its reader."""

    def begin(self) -> None: ...


class Inbox:
    """What other threads ask of one thread while it waits for something."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.unread: WeakSet[Beginning] = WeakSet()
        """Streams that need the thread, and begin once it reads one of them."""

    def put(self, work: Callable[[], None]) -> None:
        self._asked.put(work)

    def wake(self) -> None:
        """Let the thread look again whether it has what it waits for."""
        self._asked.put(_nothing)

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self._asked.get()()


def _nothing() -> None:
    pass


_inboxes = threading.local()


def inbox_here() -> Inbox:
    """Return the inbox of this thread."""
    inbox = getattr(_inboxes, "inbox", None)
    if inbox is None:
        inbox = _inboxes.inbox = Inbox()
    return inbox


async def call_in(inbox: Inbox, function: Callable[[], T]) -> T:
    """Let the thread of an inbox call a function, and return what that returns."""
    loop, runs = asyncio.get_running_loop(), runs_of_this_code()
    future: asyncio.Future[tuple[T | None, Exception | None]] = loop.create_future()

    def tell(value: T | None, error: Exception | None) -> None:
        def resolve() -> None:
            if not future.done():
                future.set_result((value, error))

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(resolve)

    def work() -> None:
        try:
            with part_of_runs(runs):
                value = function()
        except Exception as exc:
            tell(None, exc)
        except BaseException:
            # It ends the thread, and must not end the loop.
            tell(None, InterruptedRequestError("the thread of the request was interrupted"))
            raise
        else:
            tell(value, None)

    inbox.put(work)
    result, error = await future
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def in_thread(context: contextvars.Context, name: str, work: Callable[[], None]) -> None:
    """Call a function in a new thread, with a context of another one."""

    def run() -> None:
        # What asgiref keeps for a thread (the language, the time zone) counts in this one, too.
        _restore_context(context)
        work()

    threading.Thread(target=context.run, args=(run,), name=name, daemon=True).start()


async def call_alone(context: contextvars.Context, function: Callable[[], T]) -> T:
    """Call a function in a new thread, which closes its connections at the end."""
    inbox, is_over = Inbox(), threading.Event()

    def work() -> None:
        try:
            inbox.wait_until(is_over.is_set)
        finally:
            connections.close_all()

    in_thread(context, "stream_cached view", work)
    try:
        return await call_in(inbox, function)
    finally:
        is_over.set()
        inbox.wake()


def in_transaction() -> bool:
    """Whether this thread has an open transaction, of which other threads see nothing."""
    return any(each.in_atomic_block for each in connections.all(initialized_only=True))


class ThreadItems:
    """
    The items of an iterator, which a thread of its own steps from the first one to the last.

    Args:
        make_iterator: Called in the thread.
        close: Called there at the end, or when nobody wants more.
        context: The context of the thread.
        for_server: Whether an ASGI server is waiting: then `async_to_sync` uses its loop.
        merge: Whether what is made already may be taken as one item.
    """

    def __init__(
        self,
        make_iterator: Callable[[], Iterator[bytes]],
        close: Callable[[], None],
        context: contextvars.Context,
        *,
        for_server: bool,
        merge: bool = True,
    ) -> None:
        self._merge = merge
        self._make_iterator = make_iterator
        self._close = close
        self._context = context
        self._for_server = for_server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition()
        self._items: deque[bytes] = deque()
        self._size = 0
        self._end: BaseException | None = None
        self._is_unwanted = self._is_closed = False
        self._waiting: asyncio.Future[None] | None = None
        self._is_started = False

    def __aiter__(self) -> ThreadItems:
        return self

    async def __anext__(self) -> bytes:
        self._start()
        while True:
            with self._changed:
                if self._items:
                    return self._taken()
                if self._end is not None:
                    raise self._end
                future = self._will_wait()
            await future

    def _taken(self) -> bytes:
        if self._merge and len(self._items) > 1:
            item = b"".join(self._items)
            self._items.clear()
        else:
            item = self._items.popleft()
        self._size -= len(item)
        self._changed.notify_all()
        return item

    async def aclose(self) -> None:
        """Take no more, and wait until the thread has closed the iterator."""
        self.leave()
        while True:
            with self._changed:
                if self._is_closed:
                    return
                future = self._will_wait()
            await future

    def leave(self) -> None:
        """Take no more. Any thread may call it."""
        self._start()
        with self._changed:
            self._is_unwanted = True
            self._changed.notify_all()

    def _start(self) -> None:
        with self._changed:
            if self._is_started:
                return
            self._is_started = True
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        in_thread(self._context, "stream_cached stream", self._work)

    def _will_wait(self) -> asyncio.Future[None]:
        loop = self._loop = asyncio.get_running_loop()
        waiting = self._waiting
        if waiting is None or waiting.done() or waiting.get_loop() is not loop:
            waiting = self._waiting = loop.create_future()
        return waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                waiting.get_loop().call_soon_threadsafe(_resolve, waiting)

    # -- in the thread ----------------------------------------------------------------------

    def _work(self) -> None:
        if self._for_server and self._loop is not None:
            SyncToAsync.threadlocal.main_event_loop = self._loop
            SyncToAsync.threadlocal.main_event_loop_pid = os.getpid()
        try:
            end = self._step()
            with self._changed:
                self._end = end
                self._wake()
        finally:
            try:
                self._close()
            finally:
                connections.close_all()
                with self._changed:
                    self._is_closed = True
                    self._wake()

    def _step(self) -> BaseException:
        if self._is_unwanted:
            return StopAsyncIteration()
        try:
            for item in self._make_iterator():
                with self._changed:
                    self._items.append(item)
                    self._size += len(item)
                    self._wake()
                    while not self._is_unwanted and self._is_far_ahead:
                        self._changed.wait()
                if self._is_unwanted:
                    break
        except Exception as exc:
            return exc
        except BaseException:
            return InterruptedRequestError("the thread of the stream was interrupted")
        return StopAsyncIteration()

    @property
    def _is_far_ahead(self) -> bool:
        return self._size >= _MAX_AHEAD or len(self._items) >= _MAX_ITEMS


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class HeldItems:
    """
    The items of an iterator, which the thread of the request steps.

    Args:
        make_iterator: Called in the thread.
        close: Called there at the end.
        call: Calls a function in the thread.
    """

    def __init__(
        self,
        make_iterator: Callable[[], Iterator[bytes]],
        close: Callable[[], None],
        call: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._make_iterator = make_iterator
        self._close = close
        self._call = call
        self._iterator: Iterator[bytes] | None = None
        self._is_closed = False

    def __aiter__(self) -> HeldItems:
        return self

    async def __anext__(self) -> bytes:
        item = await self._call(self._next)
        if item is None:
            raise StopAsyncIteration
        assert isinstance(item, bytes)
        return item

    def _next(self) -> bytes | None:
        if self._iterator is None:
            self._iterator = self._make_iterator()
        return next(self._iterator, None)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._call(self._close)
