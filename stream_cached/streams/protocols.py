"""What a stream works with: its source, its recorder, its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from stream_cached.http.reasons import NotCached

if TYPE_CHECKING:
    from stream_cached.streams.reader import Seat
    from stream_cached.streams.stream import Stream


class Source(Protocol):
    """What is drained into a stream."""

    @property
    def is_exhausted(self) -> bool:
        """Whether it has nothing to clean up any more."""
        ...

    async def drain(self, stream: Stream) -> None:
        """
        Feed every chunk to the stream.

        Return once the source is complete. Raise if it is not.
        """
        ...

    async def close(self) -> None:
        """Clean up, in the task that drains the source. What this raises is no end of the body."""
        ...


class Archive(Protocol):
    """What keeps the chunks that memory drops."""

    @property
    def holds_begin(self) -> bool:
        """Whether the first chunk can be read now."""

    async def read(self, number: int) -> list[bytes]: ...


class Recording(Archive, Protocol):
    """What records the chunks of a stream."""

    turn_after: int
    """Bytes after which a source that does not suspend lets the store have a turn."""

    @property
    def is_failed(self) -> bool: ...

    @property
    def has_room(self) -> bool:
        """Whether a source without readers may go on."""

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be written that the store needs time to catch up."""

    def feed(self, chunks: Sequence[bytes]) -> None: ...

    async def catch_up(self, timeout: float) -> None: ...

    def release(self) -> None: ...


class Owner(Protocol):
    """What owns a stream: a run."""

    @property
    def is_for_one(self) -> bool: ...

    @property
    def is_aborting(self) -> bool: ...

    @property
    def goes_ahead(self) -> bool:
        """Whether the source does not go at the pace of the readers in this process."""

    def start(self) -> None: ...

    def reader_left(self, seat: Seat | None) -> None: ...

    def finish_body(self) -> None: ...

    def mark_unstorable(self, reason: NotCached, cause: Exception | None = None) -> None: ...
