"""Answers that are ready: what many requests are answered by, each for a second at the most."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from stream_cached.backends.binding import Binding
from stream_cached.entries.found import Hit
from stream_cached.entries.local import Kept, Sight
from stream_cached.events import Answered
from stream_cached.keys.references import Reference, reference_to
from stream_cached.request.known_calls import Seen
from stream_cached.responses.prepared import Prepared
from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.stored import StoredResponse
from stream_cached.stores.protocol import Held

#: For how many values of Accept-Encoding an answer is ready, and how long they may be.
_MOST_CODINGS = 8
_LONGEST_CODING = 100


@dataclass(slots=True, weakref_slot=True, eq=False)
class Ready:
    """
    Answers with one entry that is at hand, which are the same to all plain requests as long as its
    age is, and what is told of its freshness: for a second at the most. They keep no cache alive.
    """

    binding: weakref.ref[Binding]
    kept: weakref.ref[Kept]
    hit: Hit
    event: Answered
    held: Held | None
    since: float
    until: float
    is_open: bool
    """Whether Accept-Encoding matters."""
    is_rendered: bool
    """Whether FastAPI adds to it what the dependencies of a request have put on its Response."""
    route: Reference
    """The route on which FastAPI is given it as it is. Others may call the function themselves."""
    responses: dict[bytes | None, Prepared]
    """By the Accept-Encoding of the requests."""
    forms: dict[bool, Prepared]
    """The same, by whether what comes later may compress the body."""

    def at_hand(self) -> tuple[Kept, Sight] | None:
        """Return what it was made of, if that is still kept."""
        kept = self.kept()
        sight = None if kept is None else kept.sight
        return None if kept is None or sight is None or sight.hit is not self.hit else (kept, sight)

    def response_for(self, seen: Seen, binding: Binding, now: float) -> Prepared | None:
        """Return the answer to a request; None if it is another one, or others have to be told."""
        if (
            not self.since <= now < self.until
            or self.binding() is not binding
            or binding.cache.plugins
            or (
                self.is_rendered
                and (adds_headers(seen) or self.route() is not seen.request.scope.get("route"))
            )
        ):
            return None
        return self.responses.get(seen.lines.get(b"accept-encoding") if self.is_open else None)


def adds_headers(seen: Seen) -> bool:
    """Whether dependencies have put anything on the Response of a request."""
    return seen.injected is None or bool(seen.injected.raw_headers)


def make_ready(
    seen: Seen,
    binding: Binding,
    at_hand: tuple[Kept, Sight],
    response: ReplayResponse | StoredResponse,
    event: Answered,
    now: float,
) -> None:
    """Let the next request of this kind be answered by what this one is answered by."""
    (kept, sight), known = at_hand, seen.known
    hit, entry, head = sight.hit, sight.hit.entry, sight.hit.head
    is_rendered = entry.replaces is not None
    # What a dependency says is another header each time.
    if known is None or (is_rendered and adds_headers(seen)):
        return
    # A body of several parts was copied into one piece, and the copy counts nowhere.
    if not entry.streamed and len(hit.body or ()) != 1:
        return
    ready = sight.ready
    if (
        not isinstance(ready, Ready)
        or not ready.since <= now < ready.until
        or ready.binding() is not binding
        or ready.event != event
        or (is_rendered and ready.route() is not seen.request.scope.get("route"))
    ):
        until = now + 1 - head.exact_age(entry.stored_at, now) % 1
        if entry.fresh_until is not None:
            left = entry.fresh_until - now
            until = min(until, now + (left if event.ttl is None else left % 1))
        of_cache = weakref.ref(binding), weakref.ref(kept)
        # It goes with what is kept of the entry.
        route = reference_to(seen.request.scope.get("route"))
        sight.ready = ready = Ready(
            *of_cache, hit, event, sight.held, now, until, head.is_open, is_rendered, route, {}, {}
        )
    # Calls that differ may have one key, as those of HTTP/1.0 and of HTTP/1.1.
    known.ready = weakref.ref(ready)
    coding = seen.lines.get(b"accept-encoding") if ready.is_open else None
    # A client may send long values, and many of them.
    if len(ready.responses) < _MOST_CODINGS and len(coding or b"") <= _LONGEST_CODING:
        form = ready.is_open and seen.accepts_coding
        ready.responses[coding] = ready.forms.get(form) or Prepared(response)
        ready.forms[form] = ready.responses[coding]
