"""An event stream whose events get ids: as bytes, which are stored, or as the items of FastAPI."""

from __future__ import annotations

import sys
from typing import Any, cast

from stream_cached.http.event_ids import EventIds, name_of_run
from stream_cached.streams.protocols import Source
from stream_cached.streams.stream import Stream


class NumberedEvents:
    """
    A source of server-sent events.

    Args:
        source: The source of the events as the endpoint sends them.
        generation: The generation that their ids name.
    """

    def __init__(self, source: Source, generation: bytes) -> None:
        self._source = source
        self._ids = EventIds(generation)

    @property
    def last(self) -> int:
        """The number of the last event so far."""
        return self._ids.count

    async def drain(self, stream: Stream) -> None:
        await self._source.drain(cast("Stream", _Numbering(stream, self._ids)))

    @property
    def is_exhausted(self) -> bool:
        return self._source.is_exhausted

    async def close(self) -> None:
        await self._source.close()


class _Numbering:
    """A stream whose chunks get ids before they are fed."""

    def __init__(self, stream: Stream, ids: EventIds) -> None:
        self._stream = stream
        self._ids = ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def feed(self, chunk: bytes) -> bool:
        return self._stream.feed(self._ids.add(chunk))

    def put(self, chunk: bytes) -> bool:
        return self._stream.put(self._ids.add(chunk))


def is_event(item: object) -> bool:
    """Whether an item is a `ServerSentEvent` of FastAPI."""
    sse = sys.modules.get("fastapi.sse")
    # An instance of a subclass is not stored as one.
    return sse is not None and type(item) is sse.ServerSentEvent


class EventCount:
    """Counts the events of a run that get an id, as `EventIds` counts their bytes."""

    def __init__(self) -> None:
        self.number = 0
        """The number of the last event so far."""

    def add(self, item: Any) -> bool:
        """Count an item. Return whether it gets an id."""
        if not is_event(item):
            return False
        has_data = item.data is not None or item.raw_data is not None
        # An empty id resets that of the client.
        is_numbered = has_data if item.id is None else item.id != ""
        self.number += is_numbered
        return is_numbered


class EventItems(EventCount):
    """
    Gives the events of a run their ids, for one client.

    Args:
        generation: The generation that they name.
        after: The number of the event that the client has had last; 0 for none.
    """

    def __init__(self, generation: bytes, after: int) -> None:
        super().__init__()
        self._run = name_of_run(generation).decode()
        self._after = after

    @property
    def is_behind(self) -> bool:
        """Whether the client has had the next event already."""
        return self.number < self._after

    def with_id(self, item: Any) -> Any:
        """Return an item as it is sent. It is changed for nobody else."""
        if not self.add(item):
            return item
        name = f"{self._run}.{self.number}"
        own = name if item.id is None else f"{name}:{item.id}"
        return item.model_copy(update={"id": own})
