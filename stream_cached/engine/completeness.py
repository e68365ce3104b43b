"""Has a stream that ended cleanly come to its end? Its user may know by the last of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stream_cached.engine.outcome import Call
from stream_cached.format.items import decode_item
from stream_cached.http.event_ids import without_ids
from stream_cached.responses.items import GeneratorExecution
from stream_cached.responses.rendered_items import ItemsRendering
from stream_cached.streams.stream import Stream

#: How many of the last items of a generator are looked at.
ITEMS = 16

#: Bytes of the end of a body that are looked at.
_BYTES = 64 * 1024


def completeness(call: Call, generation: bytes) -> Callable[[Stream], bool] | None:
    """Return what says whether a stream of a run is complete; None if each one is."""
    complete_when = call.service.options.complete_when
    if complete_when is None:
        return None

    def is_complete(stream: Stream) -> bool:
        try:
            return bool(complete_when(_end_of(stream, call, generation)))
        # A user's function that fails must not fail the stream.
        except Exception as exc:
            call.service.reporter.function_failed(exc)
            return False

    return is_complete


def _end_of(stream: Stream, call: Call, generation: bytes) -> Any:
    """Return the last items of a generator, or the last bytes of a body."""
    execution = call.execution
    if isinstance(execution, GeneratorExecution):
        last = stream.newest(ITEMS, stream.made)
        return [decode_item(chunk, execution.classes) for chunk in last]
    if isinstance(call.rendering, ItemsRendering):
        return list(call.rendering.last)
    # As the endpoint has sent it.
    end = without_ids(b"".join(stream.newest(stream.made, _BYTES)), generation)
    return end[-_BYTES:]
