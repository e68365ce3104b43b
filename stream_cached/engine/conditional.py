"""The answer to a request with preconditions, or for a range, from a complete entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from stream_cached.engine.outcome import Call
from stream_cached.entries.found import Hit
from stream_cached.entries.part import PartReplay
from stream_cached.entries.resource import Resource
from stream_cached.events import Answered
from stream_cached.http.conditions import Failed, NotModified, evaluate, not_modified
from stream_cached.http.headers import without
from stream_cached.http.ranges import Part, Unsatisfiable
from stream_cached.responses.part import PartResponse
from stream_cached.responses.stored import bare_response

#: What describes the body of an entry, or would let an answer without one be stored.
_OF_ENTRY = frozenset(
    {
        *(b"age", b"cache-control", b"content-encoding", b"content-language", b"content-length"),
        *(b"content-range", b"content-type", b"etag", b"expires", b"last-modified"),
    }
)


def conditional(
    call: Call,
    resource: Resource,
    hit: Hit,
    headers: Sequence[tuple[bytes, bytes]],
    event: Answered,
) -> Any:
    """
    Return what a request is sent instead of a whole entry; None if that is what it is sent.

    A part has to be opened yet.
    """
    entry, request = hit.entry, call.request
    if request is None:
        return None
    asked = call.service.hooks.heeded(request.headers, headers)
    decided = evaluate(request.method, asked, entry.status, headers, entry.length, entry.stored_at)
    match decided:
        case None:
            return None
        case NotModified():
            return bare_response(304, not_modified(headers), call.sending(event))
        case Failed():
            return bare_response(412, without(headers, _OF_ENTRY), call.sending(event))
        case Unsatisfiable():
            whole = b"bytes */%d" % entry.length
            kept = [*without(headers, _OF_ENTRY), (b"content-range", whole)]
            return bare_response(416, kept, call.sending(event))
        case Part():
            replay = PartReplay(resource, hit, decided.start, decided.stop)
            kept = without(headers, {b"content-length", b"content-range"})
            kept.append((b"content-range", decided.content_range(entry.length)))
            return PartResponse(replay, kept, call.sending(event))
        case never:
            assert_never(never)
