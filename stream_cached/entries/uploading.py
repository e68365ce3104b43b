"""The upload of one body, which goes on at its own pace.

The segments that it has not come to yet are in the store of the records. A few of them are in
memory, too; the others are read back when it is their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from stream_cached.bodies.watched import WatchedUpload
from stream_cached.entries.body import WINDOW, PackedSegment
from stream_cached.errors import StoreError
from stream_cached.tasks import spawn


class PacedUpload:
    """
    A task that uploads segments in their order.

    Args:
        upload: The object.
        header: What the object begins with.
        read: Reads segments back from the store.
        seal: Makes of a segment what the object holds of it.
        max_held: Bytes of segments that wait in memory though they can be read back.
    """

    def __init__(
        self,
        upload: WatchedUpload,
        header: bytes,
        *,
        read: Callable[[range], Awaitable[list[bytes]]],
        seal: Callable[[int, bytes], bytes],
        max_held: int,
    ) -> None:
        self.sizes: list[int] = []
        """Those of the header and of the segments that are uploaded."""
        self.sent = 0
        """How many segments the upload has taken."""
        self.is_whole = False
        self._upload = upload
        self._header = header
        self._read = read
        self._seal = seal
        self._max_held = max_held
        self._held: dict[int, PackedSegment] = {}
        self._held_size = 0
        self._count = 0
        self._is_complete = False
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._has_moved = asyncio.Event()
        self._task = spawn(self._run())

    # -- for who writes the body ------------------------------------------------------------

    @property
    def is_up_to_date(self) -> bool:
        return self.sent == self._count

    def put(self, segments: Sequence[PackedSegment], *, is_stored: bool) -> None:
        """Take the next segments; never wait. `is_stored` if they can be read back."""
        for segment in segments:
            size = len(segment.value)
            if not is_stored or self._held_size + size <= self._max_held:
                self._held[segment.index] = segment
                self._held_size += size
        self._count += len(segments)
        self._news.set()

    def forget(self) -> None:
        """Hold nothing in memory that can be read back."""
        self._held.clear()
        self._held_size = 0

    def complete(self) -> None:
        """Note that no more segments come."""
        self._is_complete = True
        self._news.set()

    async def moved(self, since: int, seconds: float) -> None:
        """Wait until more segments are sent than then, or the upload is over; but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.sent == since and not self.is_whole and self._failure is None:
                    self._has_moved.clear()
                    await self._has_moved.wait()

    def check(self) -> None:
        """Raise what the upload has failed with."""
        if self._failure is not None:
            raise self._failure

    async def abort(self) -> None:
        """Leave nothing of the object, even if it is whole."""
        self._fail(StoreError("the upload was given up"))
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._upload.abort()

    # -- the task ---------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._send()
        except BaseException as exc:
            is_error = isinstance(exc, Exception)
            self._fail(exc if isinstance(exc, Exception) else StoreError("it was cancelled"))
            # Nobody else may be there to do it: the run may wait for its source.
            await self._upload.abort()
            if not is_error:
                raise

    def _fail(self, exc: Exception) -> None:
        self._failure = self._failure or exc
        self.forget()
        self._has_moved.set()

    async def _send(self) -> None:
        await self._append(self._header)
        while not (self._is_complete and self.is_up_to_date):
            if self.is_up_to_date:
                self._news.clear()
                await self._news.wait()
                continue
            for value in await self._following():
                await self._append(self._seal(self.sent, value))
                self.sent += 1
                self._has_moved.set()
        await self._upload.finish()
        self.is_whole = True
        self._has_moved.set()

    async def _following(self) -> list[bytes]:
        """Return the next segments: one from memory, or some from the store."""
        segment = self._held.pop(self.sent, None)
        if segment is not None:
            self._held_size -= len(segment.value)
            return [segment.value]
        stop = self.sent + 1
        while stop < min(self._count, self.sent + WINDOW) and stop not in self._held:
            stop += 1
        return await self._read(range(self.sent, stop))

    async def _append(self, part: bytes) -> None:
        await self._upload.write(part)
        self.sizes.append(len(part))
