"""One reader of a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from stream_cached.errors import BrokenStreamError
from stream_cached.streams.asides import Asides
from stream_cached.streams.backlog import LINK_SIZE, Link
from stream_cached.streams.ends import Aborted, Complete, End, Failed

if TYPE_CHECKING:
    from stream_cached.streams.stream import Stream

#: Bytes that one reader is given, or reads from a file, at once.
TAKE_MAX = 256 * 1024


class Seat:
    """The position of a reader. A stream holds the seat, so as not to keep the reader alive."""

    skip = 0
    """Chunks of the next link that were read before."""
    number = 0
    """The number of the next chunk."""
    cut = ""
    """Why the reader gets nothing more."""
    future: asyncio.Future[None] | None = None
    """What `wake` ends."""

    def __init__(self, joins: bool, link: Link | None, asides: Asides) -> None:
        self.joins = joins
        self.asides = asides
        self.link = link
        """The last link that was read; None if memory no longer holds the next chunk."""

    @property
    def is_waiting(self) -> bool:
        return self.future is not None and not self.future.done()

    @property
    def has_next(self) -> bool:
        """Whether memory holds the next link."""
        return self.link is not None and self.link.next is not None

    def fall_behind(self) -> None:
        """Note that memory no longer holds the next chunk."""
        self.link = None

    def take(self) -> Link | None:
        """Return the next link, without the chunks of it that were read; None if there is none."""
        if self.link is None or (link := self.link.next) is None:
            return None
        self.link = link
        if self.skip:
            chunks, self.skip = link.chunks[self.skip :], 0
            link = Link(chunks, sum(map(len, chunks)) + LINK_SIZE * len(chunks))
        self.number += len(link.chunks)
        return link

    def stand_before(self, link: Link | None, skip: int) -> None:
        """
        Note where in memory the next chunk is; None if memory does not hold it.

        Between the link and the next chunk there are so many others.
        """
        self.link, self.skip = link, skip

    def cut_off(self, why: str) -> None:
        """Give the reader nothing more."""
        self.cut, self.link = why, None
        self.wake()

    def wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Reader:
    """
    An iterator over the chunks of a stream. A reader that is garbage has left.

    Args:
        stream: The stream.
        seat: Its position there.
        length: Bytes of the body, if they are declared: the last byte is then the end.
    """

    closed = False
    _is_started = False

    def __init__(self, stream: Stream, seat: Seat, length: int | None) -> None:
        self._stream = stream
        self._seat = seat
        self._left = length
        self._position = 0
        self._older: deque[bytes] = deque()

    def __del__(self) -> None:
        if not self.closed:
            self._stream.left_behind(self._seat)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.asides.close()
            self._seat.wake()
            self._stream.left(self._seat)

    async def aclose(self) -> None:
        self.close()

    @property
    def asides(self) -> Asides:
        return self._seat.asides

    def start(self) -> None:
        """Start the run, unless this reader has joined it."""
        self._is_started = True
        if not self._seat.joins:
            self._stream.owner.start()

    async def ended(self) -> None:
        """
        Wait until the stream has ended, for as long as it may wait for the commit.

        Raises what `take` raises: the source may fail after its last chunk, too. To a reader that
        the run is not for, `begun` says so.
        """
        self.start()
        await self._stream.ended()
        is_unread = self._seat.joins and not self._stream.has_begun
        if is_unread and self._stream.owner.is_for_one:
            return
        if self._stream.end is not None and not self.closed:
            self._end(self._stream.end)

    @property
    def is_at_hand(self) -> bool:
        """Whether memory holds a first chunk for this reader."""
        stream = self._stream
        return self._is_there and stream.has_begun and not stream.owner.is_for_one

    @property
    def has_first(self) -> bool:
        """Whether a first chunk is there for this reader, so that `begun` need not wait for it."""
        return self._stream.has_begun and not self._seat.cut and self._is_there

    async def begun(self) -> bool:
        """Wait for the first chunk, or the end. Return False if they are not for this reader."""
        stream, seat = self._stream, self._seat
        while not stream.has_begun and not stream.owner.is_for_one and not seat.cut:
            if stream.end is not None or self.closed:
                return True
            if self.asides.is_due(self._position):
                await self.asides.deliver(self._position)
            else:
                await stream.news_for(seat)
        if seat.cut or not stream.has_begun:
            return not seat.cut and not stream.owner.is_for_one
        try:
            await self._read_older()
        except BrokenStreamError:
            return False
        return True

    async def fails_at_once(self) -> bool:
        """Wait for the first chunk or the end. Return whether the run failed without a chunk."""
        self.start()
        stream = self._stream
        while not stream.has_begun and stream.end is None:
            await stream.news_for(self._seat)
        return not stream.has_begun and not isinstance(stream.end, Complete)

    async def take(self) -> list[bytes]:
        """
        Wait for chunks, and return some; none at the clean end, and none once closed.

        Raises:
            BrokenStreamError: The run was given up, its source raised an OSError, or a chunk that
                this reader needs is lost.
            Exception: The source raised it.
        """
        chunks: list[bytes] = []
        if not await self._has_next():
            return chunks
        seat, size = self._seat, 0
        if seat.asides.waiting and (place := seat.asides.waiting[0][0]) > self._position:
            return self._take_before(place)
        while self._older and size < TAKE_MAX:
            chunks.append(self._older.popleft())
            size += len(chunks[-1])
        # There may be a thousand chunks for each of a hundred readers.
        while size < TAKE_MAX and (link := seat.take()) is not None:
            chunks += link.chunks
            size += link.size - LINK_SIZE * len(link.chunks)
        self._position += size + LINK_SIZE * len(chunks)
        self._stream.advanced(self._position)
        return chunks

    def _take_before(self, place: float) -> list[bytes]:
        chunks, size = [], 0
        while self._is_there and size < TAKE_MAX and self._position < place:
            chunks.append(self._advance())
            size += len(chunks[-1])
        self._stream.advanced(self._position)
        return chunks

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        if not await self._has_next():
            raise StopAsyncIteration
        chunk = self._advance()
        self._stream.advanced(self._position)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left == 0 and chunk:
                # For the client the last byte is the end, and the end waits for the commit.
                await self.ended()
        return chunk

    @property
    def _is_there(self) -> bool:
        return bool(self._older) or self._seat.has_next

    async def _has_next(self) -> bool:
        if not self._is_started:
            self.start()
        seat, asides = self._seat, self._seat.asides
        while not self.closed:
            link = seat.link
            if asides.waiting and asides.is_due(self._position):
                await asides.deliver(self._position)
            elif self._older or (link is not None and link.next is not None):
                return True
            elif seat.cut:
                raise BrokenStreamError(f"the stream was cut for this reader: {seat.cut}")
            elif link is None:
                await self._read_older()
            elif self._stream.end is not None:
                self._end(self._stream.end)
                return False
            else:
                await self._stream.news_for(seat)
        return False

    async def _read_older(self) -> None:
        seat = self._seat
        if seat.link is None and not self._older:
            chunks = await self._stream.older(seat.number)
            self._older.extend(chunks)
            seat.number += len(chunks)
            self._stream.return_to_memory(seat)

    def _advance(self) -> bytes:
        if not self._older and (link := self._seat.take()) is not None:
            self._older.extend(link.chunks)
        chunk = self._older.popleft()
        self._position += len(chunk) + LINK_SIZE
        return chunk

    def _end(self, end: End) -> None:
        match end:
            case Complete():
                return
            case Failed(cause) if not isinstance(cause, OSError | GeneratorExit):
                raise cause
            case Failed(cause):
                # From ASGI 2.4 on, Starlette takes an OSError for the client's disconnect. A
                # GeneratorExit would close the generators that read, and not fail them.
                raise BrokenStreamError(f"the stream raised {cause!r}") from cause
            case Aborted(reason):
                raise BrokenStreamError(f"the stream was given up: {reason}")
