"""The items of one call of a generator function, as its caller reads them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from stream_cached.engine.after_event import last_had
from stream_cached.engine.answer import answer
from stream_cached.engine.outcome import Call
from stream_cached.errors import BrokenStreamError, LostStreamError
from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import decode_item
from stream_cached.format.validation import UnsoundError
from stream_cached.responses.items import GeneratorExecution, ItemsResponse
from stream_cached.responses.live import EVENT_WITHIN, LiveResponse
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.stored import StoredResponse, as_error
from stream_cached.streams.generated import GeneratorSource
from stream_cached.streams.numbered import EventItems, is_event

#: How many entries of a call may turn out to be unsound before it no longer looks for one.
_MAX_UNSOUND = 2


class ItemStream(ABC):
    """Items, as an asynchronous iterator. Leave its context to say that no more will be read."""

    #: What the response that they are rendered for says of the cache.
    headers: RawHeaders = ()

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> Any:
        """Return the next item."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: object, traceback: TracebackType | None
    ) -> None:
        await self.end(is_cancelled=kind is not None and issubclass(kind, CancelledError))

    @abstractmethod
    async def end(self, *, is_cancelled: bool) -> None:
        """Note that no more items will be read."""


async def open_items(call: Call, classes: ItemClasses) -> ItemStream:
    """Answer a call of a generator function."""
    for attempt in range(_MAX_UNSOUND + 1):
        if attempt == _MAX_UNSOUND:
            call = replace(call, reads=False)
        response = await answer(call)
        if not isinstance(response, ReplayResponse):
            break
        stored = _Stored(response, call, classes)
        if await stored.begins_soundly():
            return stored
    match response:
        case ItemsResponse():
            return PassedOn(response.source.items, response.raw_headers)
        case LiveResponse():
            return _Live(response, call, classes)
        case StoredResponse():
            # There is nothing stored for a request that wants nothing else.
            raise as_error(response)
        case _:
            raise TypeError(f"a generator was answered by {type(response).__name__}")


class PassedOn(ItemStream):
    """The items of a generator that is not recorded."""

    def __init__(self, items: AsyncGenerator[Any, None], headers: RawHeaders = ()) -> None:
        self.headers = _of_cache(headers)
        self._items = items

    async def __anext__(self) -> Any:
        return await anext(self._items)

    async def end(self, *, is_cancelled: bool) -> None:
        if not getattr(self._items, "ag_running", False):
            await self._items.aclose()


class _Answered(ItemStream):
    """The items of an entry or of a run, from where its client goes on."""

    def __init__(
        self, response: ReplayResponse | LiveResponse, call: Call, classes: ItemClasses
    ) -> None:
        self.headers = _of_cache(response.raw_headers)
        self._call = call
        self._classes = classes
        self._events = _events_of(response, call)
        self._own: ItemStream | None = None
        """What the call is answered with instead."""
        self._within: float | None = None
        """Seconds that its client waits for the event."""
        self._has_begun = self._is_other = False

    @abstractmethod
    async def _item(self) -> Any:
        """Return the next item, as it was made."""

    async def __anext__(self) -> Any:
        if not self._has_begun:
            # Kept: the next wait may be cancelled, and what was read would be missing.
            self._is_other = self._is_other or not await self._begins()
            if self._is_other:
                self._own = await open_items(self._call.once_more(), self._classes)
            self._has_begun = True
        if self._own is not None:
            return await anext(self._own)
        item = await self._item()
        return item if self._events is None else self._with_id(item, self._events)

    async def _begins(self) -> bool:
        """Leave out what the client has had. Return False if this is not for it after all."""
        events, within = self._events, asyncio.timeout(self._within)
        if events is None or not events.is_behind:
            return True
        try:
            async with within:
                while events.is_behind:
                    events.add(await self._item())
        except StopAsyncIteration:
            return False
        except TimeoutError:
            if not within.expired():
                raise
            return False
        return True

    def _with_id(self, item: Any, events: EventItems) -> Any:
        if not is_event(item):
            self._call.service.reporter.warn(
                'resume="event-id" gives ids to items that are a ServerSentEvent: yield '
                "ServerSentEvent(data=...), or put the endpoint on a router with "
                "route_class=streams.Route"
            )
        return events.with_id(item)

    async def end(self, *, is_cancelled: bool) -> None:
        try:
            await self._end(is_cancelled)
        finally:
            if self._own is not None:
                await self._own.end(is_cancelled=is_cancelled)

    @abstractmethod
    async def _end(self, is_cancelled: bool) -> None:
        """Report what was read."""


class _Stored(_Answered):
    """The items of an entry."""

    def __init__(self, response: ReplayResponse, call: Call, classes: ItemClasses) -> None:
        super().__init__(response, call, classes)
        self._response = response
        self._replay = response.replay
        self._first: deque[Any] = deque()
        self._size = 0

    async def begins_soundly(self) -> bool:
        """
        Decode what is at hand. Return False, and delete the record, if that is not sound.

        Of a body in segments that is the first item. What is wrong further on breaks the stream.
        """
        first: deque[Any] = deque()
        try:
            while not first or not self._replay.entry.segments:
                first.append(await self._item())
        except StopAsyncIteration:
            pass
        except LostStreamError:
            return False
        self._first = first
        return True

    async def _item(self) -> Any:
        if self._first:
            return self._first.popleft()
        chunk = await anext(self._replay)
        self._size += len(chunk)
        try:
            return decode_item(chunk, self._classes)
        except UnsoundError as exc:
            await self._replay.discard()
            raise LostStreamError(f"a stored item can't be read: {exc}") from exc

    async def _end(self, is_cancelled: bool) -> None:
        await self._response.end_read(self._size)


class _Live(_Answered):
    """The items of a run: of the call that leads it, and of one that has joined it."""

    def __init__(self, response: LiveResponse, call: Call, classes: ItemClasses) -> None:
        super().__init__(response, call, classes)
        self._response = response
        self._reader = response.reader
        self._within = EVENT_WITHIN
        # The call that leads is given the items themselves.
        self._source: GeneratorSource | None = None
        if not response.is_joined and isinstance(call.execution, GeneratorExecution):
            self._source = call.execution.source
        self._number = self._size = 0

    async def _begins(self) -> bool:
        return await self._response.is_for_call() and await super()._begins()

    async def _item(self) -> Any:
        chunk = await self._next_chunk()
        self._size += len(chunk)
        number, self._number = self._number, self._number + 1
        if self._source is not None:
            is_kept, item = self._source.take(number)
            if is_kept:
                return item
        try:
            return decode_item(chunk, self._classes)
        except UnsoundError as exc:
            raise BrokenStreamError(f"an item can't be read: {exc}") from exc

    async def _next_chunk(self) -> bytes:
        try:
            return await anext(self._reader)
        except BrokenStreamError as exc:
            # What a response hides from its server is what the generator has raised.
            if self._source is not None and isinstance(exc.__cause__, OSError):
                raise exc.__cause__ from None
            raise

    async def _end(self, is_cancelled: bool) -> None:
        if self._source is not None:
            self._source.leader_left()
        await self._response.end_read(self._size, is_cancelled)


def _of_cache(headers: RawHeaders) -> RawHeaders:
    return [each for each in headers if each[0].lower() == b"cache-status"]


def _events_of(response: ReplayResponse | LiveResponse, call: Call) -> EventItems | None:
    """Return what gives the items of an answer their ids; None if they get none."""
    generation, execution = response.generation, call.execution
    gives_ids = isinstance(execution, GeneratorExecution) and execution.gives_ids
    if not gives_ids or generation is None:
        return None
    return EventItems(generation, last_had(call, response))
