"""What entries work with: the owner of a recorder, the channel to its followers, sets of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from stream_cached.format.records import Entry
from stream_cached.http.reasons import NotCached
from stream_cached.stores.protocol import Release

if TYPE_CHECKING:
    from stream_cached.entries.resource import Resource


class Channel(Protocol):
    """How followers in other processes learn of a run's progress."""

    async def tell(
        self, segments: int, chunks: Sequence[int], tail: bytes, first: int = 0
    ) -> None: ...

    def complete(self, entry: Entry, *, stored: bool) -> None: ...

    async def is_followed(self) -> bool: ...


class Held(Protocol):
    """What keeps other processes from a run, and what a commit may release: a lease."""

    def offer(self) -> Release | None: ...

    def answer_offer(self, released: bool) -> None: ...


class Owner(Protocol):
    """What owns a recorder: a run."""

    declared: int | None
    """Bytes of the body, if the head declares them."""

    @property
    def has_slow_readers(self) -> bool: ...

    @property
    def lease(self) -> Held | None: ...

    @property
    def took(self) -> float | None: ...

    async def has_lost_lease(self) -> bool: ...

    def objection(self) -> NotCached | None: ...

    def recorder_moved(self) -> None: ...

    def unstored(self, reason: NotCached, cause: Exception | None) -> None: ...

    def visible(self) -> None: ...

    async def stored(self, entry: Entry, digest: str) -> None: ...


class KeySets(Protocol):
    """Sets of keys that a cache keeps by tag."""

    async def enlist(self, resource: Resource, keys: Sequence[str]) -> None: ...
