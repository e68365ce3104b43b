"""The items of one call of a generator function, as its caller reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from stream_cached.engine.answer import answer
from stream_cached.engine.outcome import Call
from stream_cached.errors import BrokenStreamError, LostStreamError
from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import decode_item
from stream_cached.format.validation import UnsoundError
from stream_cached.responses.items import GeneratorExecution, ItemsResponse
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.stored import ReplayResponse, StoredResponse, as_error
from stream_cached.streams.generated import GeneratorSource

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
        stored = _Stored(response, classes)
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


class _Stored(ItemStream):
    """The items of an entry."""

    def __init__(self, response: ReplayResponse, classes: ItemClasses) -> None:
        self.headers = _of_cache(response.raw_headers)
        self._response = response
        self._replay = response.replay
        self._classes = classes
        self._first: deque[Any] = deque()
        self._size = 0

    async def begins_soundly(self) -> bool:
        """
        Decode what is at hand. Return False, and delete the record, if that is not sound.

        Of a body in segments that is the first item. What is wrong further on breaks the stream.
        """
        try:
            while True:
                self._first.append(await self._next())
                if self._replay.entry.segments:
                    return True
        except StopAsyncIteration:
            return True
        except LostStreamError:
            return False

    async def __anext__(self) -> Any:
        return self._first.popleft() if self._first else await self._next()

    async def _next(self) -> Any:
        chunk = await anext(self._replay)
        self._size += len(chunk)
        try:
            return decode_item(chunk, self._classes)
        except UnsoundError as exc:
            await self._replay.discard()
            raise LostStreamError(f"a stored item can't be read: {exc}") from exc

    async def end(self, *, is_cancelled: bool) -> None:
        await self._response.end_read(self._size)


class _Live(ItemStream):
    """The items of a run: of the call that leads it, and of one that has joined it."""

    def __init__(self, response: LiveResponse, call: Call, classes: ItemClasses) -> None:
        self.headers = _of_cache(response.raw_headers)
        self._response = response
        self._reader = response.reader
        self._call = call
        self._classes = classes
        # The call that leads is given the items themselves.
        self._source: GeneratorSource | None = None
        if not response.is_joined and isinstance(call.execution, GeneratorExecution):
            self._source = call.execution.source
        self._own: ItemStream | None = None
        self._has_begun = self._is_lost = False
        self._number = self._size = 0

    async def __anext__(self) -> Any:
        if not self._has_begun:
            # Kept: the next wait may be cancelled, and a closed reader would end too early.
            if not self._is_lost:
                self._is_lost = not await self._response.is_for_call()
            if self._is_lost:
                self._own = await open_items(self._call.once_more(), self._classes)
            self._has_begun = True
        if self._own is not None:
            return await anext(self._own)
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

    async def end(self, *, is_cancelled: bool) -> None:
        if self._source is not None:
            self._source.leader_left()
        try:
            await self._response.end_read(self._size, is_cancelled)
        finally:
            if self._own is not None:
                await self._own.end(is_cancelled=is_cancelled)


def _of_cache(headers: RawHeaders) -> RawHeaders:
    return [each for each in headers if each[0].lower() == b"cache-status"]
