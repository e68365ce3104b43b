"""What followers in other processes are told of a recording before it is segments in the store."""

from __future__ import annotations

import contextlib

from stream_cached.entries.chunks import ChunkPacker
from stream_cached.entries.protocols import Channel
from stream_cached.errors import StoreError
from stream_cached.format.records import Segment

#: Bytes of chunks that followers are told again and again, until the chunks are a segment.
_MAX_TOLD = 64 * 1024


class Telling:
    """
    Tells followers how far a recording is.

    More chunks than are told would have to be a segment of their own. They are one if the run is
    followed, or if it pauses: who follows it later is told at once what there is.
    """

    def __init__(self, channel: Channel, packer: ChunkPacker) -> None:
        self._channel = channel
        self._packer = packer
        self._told = -1
        self._withheld = -1

    @property
    def _is_long(self) -> bool:
        return self._packer.filled >= _MAX_TOLD

    async def needs_segment(self, length: int) -> bool:
        """Whether the open chunks of a body that has this length so far have to be a segment."""
        if not self._is_long:
            return False
        pauses, self._withheld = self._withheld == length, length
        # The segment may have been closed meanwhile.
        return pauses or (await self._channel.is_followed() and self._is_long)

    async def tell(self, written: int, first: int = 0, *, is_next: bool) -> bool:
        """
        Tell how many segments are written, which is the first that is still there, and the open
        chunks, if they are next.

        Return False if they are too long, and have to be looked at again.
        """
        is_long = self._is_long
        if is_long and self._told == written:
            # What was told before is more.
            return False
        self._told = written
        # Chunks are told only once everything before them is written.
        rest = self._packer.open if is_next and not is_long else Segment((), False, b"")
        # The writes of the segments show whether the store still works.
        with contextlib.suppress(StoreError):
            await self._channel.tell(written, rest.chunks, rest.payload, first)
        return not is_long
