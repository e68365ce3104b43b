"""An event stream whose events get ids, as a source: what is stored is what is sent."""

from __future__ import annotations

from typing import Any, cast

from stream_cached.http.event_ids import EventIds
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
