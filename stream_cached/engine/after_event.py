"""A client that has had a part of an event stream goes on after its last event.

`resume="event-id"` gives the events of a run ids that name the run. A browser sends the last one as
Last-Event-ID. Where the answer is of that run, it begins after that event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stream_cached.engine.outcome import Call
from stream_cached.http.event_ids import AfterEvent, number_of
from stream_cached.http.headers import header_values, without
from stream_cached.responses.items import GeneratorExecution
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.produced import Produced
from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.resumption import Again, Resumption, RunHead
from stream_cached.runs.answer import Answer
from stream_cached.streams.items import is_event_stream, takes_comments
from stream_cached.streams.numbered import EventCount, NumberedEvents
from stream_cached.streams.protocols import Source


def with_ids(call: Call, made: Produced, source: Source, answer: Answer) -> tuple[Source, Answer]:
    """Give the events of a run ids, if they are events, and clients may go on after them."""
    execution = call.execution
    if isinstance(execution, GeneratorExecution):
        # Items are stored as they are: each client is given its own with their ids.
        if not execution.gives_ids or execution.source is None:
            return source, answer
        events = execution.source.events = EventCount()
        return source, replace(answer, last_event=lambda: events.number)
    if call.service.options.resume != "event-id" or answer.generation is None:
        return source, answer
    # A body with a length, or that is compressed, stays as it is.
    if not is_event_stream(made.headers) or not takes_comments(made.headers):
        return source, answer
    numbered = NumberedEvents(source, answer.generation)
    return numbered, replace(answer, last_event=lambda: numbered.last)


def after_event(call: Call, answer: Any, again: Again) -> Any:
    """Let an answer begin after the event that its client has had last; `again` has it whole."""
    if call.items is not None or not isinstance(answer, ReplayResponse | LiveResponse):
        return answer
    generation, number = answer.generation, last_had(call, answer)
    if generation is not None and number:
        head = RunHead.of(answer.status_code, answer.raw_headers)
        answer.after = AfterEvent(generation, number)
        answer.resumption = Resumption(again, head, within_body=False)
        # It is no whole body, and not of these bytes.
        answer.raw_headers = without(answer.raw_headers, {b"accept-ranges", b"etag"})
    return answer


def last_had(call: Call, answer: ReplayResponse | LiveResponse) -> int:
    """Return the number of the event of an answer that its client has had last; 0 for none."""
    request, generation = call.request, answer.generation
    if call.attempt or request is None or request.is_head or generation is None:
        return 0
    asked = header_values(request.headers, b"last-event-id")
    number = number_of(asked[0], generation) if len(asked) == 1 else None
    return 0 if number is None or _is_to_come(answer, number) else number


def _is_to_come(answer: ReplayResponse | LiveResponse, number: int) -> bool:
    """Whether a run of this process has not made an event yet, which no client can have had."""
    last = answer.last_event if isinstance(answer, LiveResponse) else None
    return last is not None and number > last
