"""The items of a generator as a source: each one is encoded, and is one chunk of the stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import NO_ITEM, UnstorableItemError, encode_item
from stream_cached.http.reasons import NotCached
from stream_cached.streams.backlog import LINK_SIZE
from stream_cached.streams.ends import is_exhausted
from stream_cached.streams.numbered import EventCount
from stream_cached.streams.stream import Stream

#: Returns an item that is rendered like one that can't be stored; None if there is no such item.
StandIn = Callable[[Any], Any]


class GeneratorSource:
    """
    A generator that is drained into a stream.

    The caller that leads the run is given the items themselves, as long as memory has room for
    them; all others are given what they decode. An item is encoded before anyone has it, so that
    nobody can change what is stored.

    Args:
        items: The generator.
        classes: The classes that its items may be of.
        max_kept: Bytes, as encoded, of items that wait for the caller that leads the run. Each item
            counts as much more as its link does: tiny items are bounded, too.
        stand_in: What is stored instead of an item that can't be stored, if anything.
    """

    def __init__(
        self,
        items: AsyncGenerator[Any, None],
        classes: ItemClasses,
        *,
        max_kept: int,
        stand_in: StandIn | None = None,
    ) -> None:
        self.items = items
        self._classes = classes
        self._max_kept = max_kept
        self._stand_in = stand_in
        self.events: EventCount | None = None
        """Counts its events, where these are sent with ids."""
        self._is_refused = False
        self._number = 0
        self._kept: deque[tuple[int, int, Any]] = deque()
        self._kept_size = 0
        self._has_leader = True
        self._taken = asyncio.Event()

    async def drain(self, stream: Stream) -> None:
        async for item in self.items:
            chunk = self._encoded(item, stream)
            self._keep(item, len(chunk) + LINK_SIZE)
            if self.events is not None:
                self.events.add(item)
            if stream.put(chunk):
                await stream.pace()
            while self._is_refused and self._kept and self._has_leader:
                # Nobody knows how large such an item is: there is one at a time.
                self._taken.clear()
                await self._taken.wait()

    @property
    def is_exhausted(self) -> bool:
        return is_exhausted(self.items)

    async def close(self) -> None:
        await self.items.aclose()

    def _encoded(self, item: Any, stream: Stream) -> bytes:
        if self._is_refused:
            return NO_ITEM
        try:
            return self._encoded_or_stood_in(item)
        except UnstorableItemError as exc:
            self._is_refused = True
            stream.cut_joined(f"it has an item that can't be stored: {exc}")
            stream.owner.mark_unstorable(NotCached.ITEM, exc)
            return NO_ITEM

    def _encoded_or_stood_in(self, item: Any) -> bytes:
        try:
            return encode_item(item, self._classes)
        except UnstorableItemError:
            stand_in = None if self._stand_in is None else self._stand_in(item)
            if stand_in is None:
                raise
            return encode_item(stand_in, self._classes)

    # -- for the caller that leads the run --------------------------------------------------

    def _keep(self, item: Any, size: int) -> None:
        if self._has_leader:
            self._kept.append((self._number, size, item))
            self._kept_size += size
            while self._kept_size > self._max_kept and len(self._kept) > 1 and not self._is_refused:
                self._kept_size -= self._kept.popleft()[1]
        self._number += 1

    def take(self, number: int) -> tuple[bool, Any]:
        """Return whether the item with that number is still there, and the item."""
        while self._kept and self._kept[0][0] <= number:
            at, size, item = self._kept.popleft()
            self._kept_size -= size
            if not self._kept:
                self._taken.set()
            if at == number:
                return True, item
        return False, None

    def leader_left(self) -> None:
        self._has_leader = False
        self._kept.clear()
        self._taken.set()
