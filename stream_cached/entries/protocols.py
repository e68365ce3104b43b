"""What a recorder works with: its owner, and the channel to its followers."""

from __future__ import annotations

from typing import Protocol

from stream_cached.format.records import Entry
from stream_cached.http.reasons import NotCached


class Channel(Protocol):
    """How followers in other processes learn of a run's progress."""

    async def tell(self, segments: int, chunks: tuple[int, ...], tail: bytes) -> None:
        """Say how many segments are written, and which chunks follow them."""
        ...

    def complete(self, entry: Entry, *, stored: bool) -> None:
        """Keep the whole body's head for the end; say whether the entry is served."""
        ...

    async def is_followed(self) -> bool:
        """Whether a process follows the run."""
        ...


class Owner(Protocol):
    """What owns a recorder: a run."""

    @property
    def has_slow_readers(self) -> bool:
        """Whether a reader still needs what was written."""
        ...

    def objection(self) -> NotCached | None:
        """Return why the body must not be stored, if there is a reason."""
        ...

    def recorder_moved(self) -> None:
        """Note that segments were written."""
        ...

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        """Note, once, that there will be no entry."""
        ...

    def visible(self) -> None:
        """Note that the entry is visible."""
        ...

    async def stored(self) -> None:
        """Tell plugins of the entry; they may take their time."""
        ...
