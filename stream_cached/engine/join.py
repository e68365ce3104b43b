"""The response of a run that a call has joined."""

from __future__ import annotations

from typing import Any

from stream_cached.engine.lookup import detail_of
from stream_cached.engine.outcome import Call, View, event_of
from stream_cached.events import Outcome
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.resumption import Again
from stream_cached.responses.stored import stored_response
from stream_cached.runs.answer import Joined


def join(call: Call, view: View, joined: Joined, again: Again | None = None) -> Any:
    """Return the response of a run that a call has joined; `again` answers the call once more."""
    event = event_of(Outcome.JOINED, view.fwd, detail=detail_of(view.use.backend))
    call.run = joined.run.number
    answer, head, sending = joined.answer, joined.answer.head, call.sending(event)
    headers = call.headers(head.headers, event, head.replaces)
    if joined.reader is None:
        assert answer.body is not None
        return stored_response(head, headers, answer.body, sending)
    return LiveResponse(
        joined.run,
        joined.reader,
        head,
        headers,
        merge=not call.service.options.exact,
        sending=sending,
        body=answer.body,
        generation=answer.generation,
        joined=joined,
        again=again,
    )
