"""Which messages of an event stream answer an item of its iterator, and which ones none.

A response class (such as sse-starlette's) may send comments by itself, to keep a connection alive
while its source is silent. They are no part of the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, cast

from stream_cached.http.headers import content_length, field_names, header_values

#: The fields with which no bytes may be added to a body.
_FIXING = frozenset({b"content-encoding", b"content-length"})


def is_event_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    types = header_values(headers, b"content-type")
    return any(value.strip().lower().startswith(b"text/event-stream") for value in types)


def takes_comments(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether comments may be added to an event stream."""
    if _FIXING.isdisjoint(field_names(headers)):
        # Nearly all streams.
        return True
    return content_length(headers) is None and not header_values(headers, b"content-encoding")


def _is_comment(body: bytes) -> bool:
    """Whether some bytes are nothing but comments, each on lines of its own."""
    lines = body.splitlines()
    return body[-1:] in (b"\n", b"\r") and all(line[:1] in (b"", b":") for line in lines)


class WatchedItems:
    """
    The `body_iterator` of a response that sends by itself. It is watched, and otherwise the same.

    Whether a message answers an item is seen only where the response sends one message or more for
    each item before it asks for the next one. Else every message counts as a part of the body.
    """

    def __init__(self, plain: AsyncIterable[Any]) -> None:
        self.plain = plain
        self._direct: _Iterator | None = None
        self._iterators = 0
        self._is_asked = False
        self._has_unanswered = False
        self._is_sure = True
        self._sender: asyncio.Task[Any] | None = None
        """The task that has answered the last item."""
        self._is_at_line = True

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # For `isinstance`: a class may close its iterator if that is a generator.
        return type(self.plain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    async def __aenter__(self) -> Any:
        return await cast("Any", self.plain).__aenter__()

    async def __aexit__(self, *raised: Any) -> Any:
        return await cast("Any", self.plain).__aexit__(*raised)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._watch(aiter(self.plain))

    async def __anext__(self) -> Any:
        if self._direct is None:
            self._direct = self._watch(self.plain)
        return await anext(self._direct)

    def _watch(self, iterator: Any) -> _Iterator:
        self._iterators += 1
        if self._iterators > 1:
            self._is_sure = False
        return _Iterator(self, iterator)

    async def next_of(self, iterator: AsyncIterator[Any]) -> Any:
        """Hand the next item of an iterator to the response."""
        if self._has_unanswered:
            # It collects items, or leaves one out, or another task sends them later.
            self._is_sure = False
        self._is_asked = True
        try:
            item = await anext(iterator)
        finally:
            self._is_asked = False
        self._has_unanswered = True
        return item

    def is_comment(self, body: bytes, *, more: bool) -> bool:
        """
        Whether the next message of the body is a comment of the response itself.

        Args:
            body: What it adds to the body.
            more: Whether it is not the last one.
        """
        if more and self._answers_none and self._is_at_line and _is_comment(body):
            return True
        if self._has_unanswered:
            self._has_unanswered = False
            self._sender = asyncio.current_task()
        if body:
            self._is_at_line = body[-1:] in (b"\n", b"\r")
        return False

    @property
    def _answers_none(self) -> bool:
        """Whether what is sent now answers no item."""
        if self._has_unanswered or not self._is_sure:
            return False
        # The task that has answered an item may send more for it.
        others = self._sender is not None and self._sender is not asyncio.current_task()
        return self._is_asked or others


class _Iterator:
    """One iterator over watched items. It has all that the plain one has."""

    def __init__(self, items: WatchedItems, plain: AsyncIterator[Any]) -> None:
        self._items = items
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._items.next_of(self._plain)
