"""What a stream works with: its source, its recorder, its owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stream_cached.streams.reader import Seat
    from stream_cached.streams.stream import Stream


class Source(Protocol):
    """What is drained into a stream."""

    async def drain(self, stream: Stream) -> None:
        """
        Feed every chunk to the stream, and close the source in this same task.

        Return once the source is complete. Raise if it is not.
        """
        ...

    async def close(self) -> None:
        """Release the resources of a source that will never be drained."""
        ...


class Archive(Protocol):
    """What keeps the chunks that memory drops."""

    async def read(self, number: int) -> list[bytes]:
        """Return chunks from a number on, at least one. Raise `BrokenStreamError` if lost."""
        ...


class Recording(Archive, Protocol):
    """What records the chunks of a stream."""

    @property
    def is_failed(self) -> bool:
        """Whether nothing more is recorded."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether a source without readers may go on."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether the store needs time to catch up."""
        ...

    def feed(self, chunk: bytes) -> None:
        """Record a chunk; never wait."""
        ...

    async def catch_up(self, timeout: float) -> None:
        """Wait until the recorder is no longer behind, for `timeout` seconds at most."""
        ...

    def release(self) -> None:
        """Delete what a failed recording kept for slow readers."""
        ...


class Owner(Protocol):
    """What owns a stream: a run."""

    @property
    def is_for_one(self) -> bool:
        """Whether a reader that has no chunk yet should run the endpoint itself."""
        ...

    @property
    def is_aborting(self) -> bool:
        """Whether the source has to stop."""
        ...

    @property
    def is_followed(self) -> bool:
        """Whether readers in other processes read what is recorded."""
        ...

    def start(self) -> None:
        """Begin to drain the source."""
        ...

    def reader_left(self, seat: Seat | None) -> None:
        """Note that a reader has left, or (None) that readers were cut."""
        ...

    def finish_body(self) -> None:
        """Note that the body is complete, though the source itself goes on."""
        ...

    def mark_incomplete(self) -> None:
        """Note that the body must not be stored, however it ends."""
        ...
