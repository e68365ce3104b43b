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
        try:
            return await self._body.read(window)
        except UnsoundError:
            if not self._misses_object:
                raise
        self._is_late = True
        return []

    async def segment(self, index: int) -> Segment:
        """Return a segment that was read before."""
        try:
            (segment,) = await self._body.read(range(index, index + 1))
        except UnsoundError:
            if not self._misses_object:
                raise
            await self._over()
            (segment,) = await self._body.read(range(index, index + 1))
        return segment

    @property
    def _misses_object(self) -> bool:
        return self.may_go and not self._has_object

    async def renew_if_due(self, indexes: range, ttl: float | None) -> None:
        await self._body.renew_if_due(indexes, ttl)

    def close(self) -> None:
        self._body.close()
