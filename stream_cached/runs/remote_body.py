"""The segments of a run of another process: in the store, and perhaps in an object at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from stream_cached.entries.body import Body
from stream_cached.format.progress import Progress
from stream_cached.format.records import Entry, Segment
from stream_cached.format.validation import UnsoundError


class RemoteBody:
    """
    What a process reads of the body of another one's run.

    Args:
        body: The segments.
        over: Waits until it is known how the run ended.
    """

    def __init__(self, body: Body, over: Callable[[], Awaitable[None]]) -> None:
        self.may_go = body.is_object
        """Whether segments may go before slow readers come to them."""
        self._body = body
        self._over = over
        self._is_late = self._has_object = False

    def holds_begin(self, progress: Progress | None) -> bool:
        """Whether the first chunk can be read now."""
        return self._has_object or progress is None or not progress.first

    def find_object(self, known: Entry | Progress | None) -> None:
        """Note where the whole body is, if it is an object by now."""
        if known is not None and known.sizes:
            self._body.show(known.sizes)
            self._has_object = True

    async def following(self, window: range) -> list[Segment]:
        """Return the next segments; none if they have gone, and only the object will have them."""
        if self._is_late and not self._has_object:
            return []
        segments = await self._read(window)
        self._is_late = segments is None
        return segments or []

    async def segment(self, index: int) -> Segment:
        """Return a segment that was read before."""
        only = range(index, index + 1)
        segments = await self._read(only)
        if segments is None:
            await self._over()
            segments = await self._body.read(only)
        return segments[0]

    async def _read(self, window: range) -> list[Segment] | None:
        """Return segments; None if they have gone, and there is no object yet."""
        was_object = self._has_object
        try:
            return await self._body.read(window)
        except UnsoundError:
            if was_object or not self.may_go:
                raise
        # While they were read, they may have gone because there is the object now.
        return await self._body.read(window) if self._has_object else None

    async def renew_if_due(self, indexes: range, ttl: float | None) -> None:
        await self._body.renew_if_due(indexes, ttl)

    def close(self) -> None:
        self._body.close()
