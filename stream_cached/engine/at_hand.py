"""The short way of a look-up: this process keeps the entry, with its body, and has found it before.

The same values are read as by the whole look-up. Where all of them are what they were, it would
find the same. Anything else goes the whole way, with the values that were read. Of a store in this
process nothing is read: it tells whether it holds the same still.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from stream_cached.backends.binding import Backend, Binding
from stream_cached.connections.deadline import Deadline, is_bounded
from stream_cached.engine.ready import Ready, make_ready
from stream_cached.engine.service import Service
from stream_cached.entries.found import Hit
from stream_cached.entries.local import Kept, Sight
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.events import HIT, Answered, Outcome, logs_answers
from stream_cached.request.incoming import DECIDING
from stream_cached.request.known_calls import Seen
from stream_cached.responses.rendering import Rendering
from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.stored import StoredResponse, stored_response
from stream_cached.runs.registry import registry_of
from stream_cached.sending import Ending, sending_of
from stream_cached.stores.protocol import get_many_and_compare

#: The values that a look-up reads, by key.
Values = Mapping[str, bytes | None]


class Plain(Protocol):
    """A request that says nothing of how it is to be answered."""

    @property
    def accepts_coding(self) -> bool:
        """Whether it accepts another content coding than identity."""
        ...


@dataclass(slots=True)
class FirstLook:
    """What a look at what is at hand has come to."""

    backend: Backend
    deadline: Deadline | None
    """What bounds its read; None where the time-out of the store is all that does."""
    ended: int
    """How many runs had ended before: one that ends meanwhile may have stored what is lacking."""
    started: float
    """When it began."""
    hit: Hit | None = None
    """The entry with its body, if it is at hand."""
    values: Values | None = None
    """What was read, where that is another entry, or none."""
    error: StoreError | None = None
    """Why nothing could be read."""
    spent: float = 0.0
    """Seconds that the read took, by the clock of the event loop."""

    @property
    def rest(self) -> Deadline:
        """What bounds all that is read afterwards."""
        if self.deadline is not None:
            return self.deadline
        timeout = self.backend.timeout
        return Deadline(None if timeout is None else max(0.0, timeout - self.spent))


async def answer_at_hand(
    service: Service,
    request: Plain,
    key: str,
    versions: tuple[str, ...],
    rendering: Rendering | None,
) -> ReplayResponse | StoredResponse | FirstLook | None:
    """
    Answer a plain request with an entry that is at hand, and fresh.

    Args:
        service: The function.
        request: The request. Nothing in it says how it is to be answered.
        key: Its key.
        versions: The keys of the versions of its tags.
        rendering: How FastAPI renders what the function returns; None if it is a response.

    Returns:
        The response; or what was looked at, for the whole look-up; None if that was nothing.
    """
    started = time.monotonic()
    binding = service.hooks.binding()
    backend = binding.at_once
    if backend is None:
        return None
    begun = None if backend.server is None else _begun(backend)
    seen = request if isinstance(request, Seen) else None
    ready: Ready | None = None if seen is None or seen.known is None else seen.known.ready()
    at_hand = None
    # Each second, what is kept is looked for where it is kept, and so is used.
    if seen and ready and ready.response_for(seen, binding, time.time()):
        at_hand = ready.at_hand()
    at_hand = at_hand or _kept(service, binding, backend, key, (service.version, *versions))
    if at_hand is None:
        return begun or _begun(backend)
    found = _find_at_once(at_hand) or await _find(backend, at_hand, begun or _begun(backend))
    if isinstance(found, FirstLook):
        return found
    if service.reporter.failing:
        service.reporter.store_works("reading")
    now = time.time()
    opens = functools.partial(service.resource_of, backend, found.key)
    prepared = ready.response_for(seen, binding, now) if seen and ready else None
    if ready and prepared and found is ready.hit:
        event = ready.event
        sending = _sending(service, key, found, event, started, is_remote=begun is not None)
        return prepared.response(sending, opens)
    headers, event = _headers(found, request, rendering, now), HIT
    if headers is None:
        return _with_hit(begun or _begun(backend), found)
    if service.hooks.by_response:
        event = fresh_event(service, seconds_left(found, now))
    headers.append(event.header)
    sending = _sending(service, key, found, event, started, is_remote=begun is not None)
    response = _response(found, opens, headers, sending)
    if seen is not None:
        make_ready(seen, binding, at_hand, response, event, now)
    return response


def _response(
    hit: Hit, opens: Callable[[], Resource], headers: list[tuple[bytes, bytes]], sending: Ending
) -> ReplayResponse | StoredResponse:
    """Return the response of an entry with its body."""
    if hit.entry.streamed:
        return ReplayResponse.at_hand(hit, opens, headers, sending)
    return stored_response(hit.entry, headers, hit.whole_body, sending)


def answer_ready(service: Service, seen: Seen) -> ReplayResponse | StoredResponse | None:
    """
    Answer a plain request as one was answered before it; None if that has to be looked up.

    Args:
        service: The function.
        seen: The request. Nothing in it says how it is to be answered.
    """
    known = seen.known
    ready: Ready | None = None if known is None else known.ready()
    if known is None or ready is None or (held := ready.held) is None:
        return None
    if not DECIDING.isdisjoint(seen.lines):
        return None
    binding = service.hooks.binding()
    prepared = ready.response_for(seen, binding, time.time())
    if prepared is not None and held.are_there():
        # Not by `_sending` unless more is told: each hit comes here.
        reporter = service.reporter
        sending: Ending = reporter.counters
        if reporter.hook is not None or logs_answers():
            began = time.monotonic()
            sending = _sending(service, known.key, ready.hit, ready.event, began, is_remote=False)
        return prepared.response(sending, functools.partial(_resource, service, binding, ready.hit))
    return None


def _resource(service: Service, binding: Binding, hit: Hit) -> Resource:
    """Return the resource of an entry in the running loop."""
    return service.resource_of(binding.primary, hit.key)


def _headers(
    hit: Hit, request: Plain, rendering: Rendering | None, now: float
) -> list[tuple[bytes, bytes]] | None:
    """Return the headers of an entry; None if it does not answer the request as it is."""
    entry, head = hit.entry, hit.head
    is_fresh = entry.fresh_until is None or entry.fresh_until > now
    if not is_fresh or not hit.is_whole_response:
        return None
    age, is_compressed = head.age(entry.stored_at, now), head.is_open and request.accepts_coding
    headers = head.headers(age, has_ranges=True, is_compressed=is_compressed)
    if entry.replaces is None:
        return headers
    if rendering is None or entry.streamed:
        return None
    return [*rendering.merged(headers, entry.replaces)]


@dataclass(slots=True)
class _Told:
    """What is told of a call that is answered from what is at hand."""

    service: Service
    shown_key: str
    look_up: float | None
    saved: float | None
    run: int | None = None

    @property
    def endpoint(self) -> str:
        return self.service.reporter.name

    @property
    def store(self) -> str:
        return self.service.store


def _sending(
    service: Service,
    key: str,
    hit: Hit,
    event: Answered,
    started: float,
    *,
    is_remote: bool,
) -> Ending:
    """Return what reports an answer with an entry."""
    reporter = service.reporter
    if reporter.hook is None and not logs_answers():
        return reporter.counters
    look_up = time.monotonic() - started if is_remote else None
    told = _Told(service, key, look_up, hit.entry.took)
    return sending_of(reporter, event, started, told, reporter)


async def look_at_hand(
    service: Service, backend: Backend, key: str, needs: tuple[str, ...], deadline: Deadline
) -> FirstLook:
    """
    Look whether an entry is at hand.

    Args:
        service: The function.
        backend: The cache.
        key: The key of the entry.
        needs: The keys of the versions that it depends on.
        deadline: What bounds the reads.
    """
    kept = _kept(service, service.hooks.binding(), backend, key, needs)
    looked = _begun(backend, deadline)
    if kept is None:
        return looked
    found = _find_at_once(kept) or await _find(backend, kept, looked)
    return found if isinstance(found, FirstLook) else _with_hit(looked, found)


def _kept(
    service: Service, binding: Binding, backend: Backend, key: str, needs: tuple[str, ...]
) -> tuple[Kept, Sight] | None:
    """Return what is kept of an entry with its body, and what its last look-up has found."""
    kept = backend.local.kept(key) if service.options.limits.local else None
    if kept is None or (sight := kept.sight) is None or sight.needs != needs:
        return None
    # Plugins are told what the whole look-up has found.
    return None if service.hooks.prepares or binding.cache.plugins else (kept, sight)


def _find_at_once(at_hand: tuple[Kept, Sight]) -> Hit | None:
    """Return an entry that is at hand, if a store in this process still has all that was read."""
    _, sight = at_hand
    return sight.hit if sight.held is not None and sight.held.are_there() else None


async def _find(
    backend: Backend, at_hand: tuple[Kept, Sight], looked: FirstLook
) -> Hit | FirstLook:
    """Return an entry that is at hand, or what there was to see."""
    kept, sight = at_hand
    reading = get_many_and_compare(backend.store, sight.keys, sight.starts)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        if looked.deadline is None:
            values, is_same = await reading
        else:
            with looked.deadline:
                values, is_same = await reading
    except StoreError as exc:
        looked.error, looked.spent = exc, loop.time() - began
        return looked
    versions = values
    if len(values) > len(sight.versions):
        value, *versions = values
        is_same = is_same and value is not None and kept.is_of(value)
    if is_same and versions == sight.versions:
        return sight.hit
    looked.values = dict(zip(sight.keys, values, strict=True))
    looked.spent = loop.time() - began
    return looked


def _begun(backend: Backend, deadline: Deadline | None = None) -> FirstLook:
    if deadline is None and is_bounded():
        deadline = Deadline(backend.timeout)
    return FirstLook(backend, deadline, registry_of(backend.scope).ended, time.monotonic())


def _with_hit(looked: FirstLook, hit: Hit) -> FirstLook:
    looked.hit = hit
    return looked


def seconds_left(hit: Hit, now: float) -> float:
    """Return the seconds for which an entry is fresh; negative for one that no longer is."""
    until = hit.entry.fresh_until
    left = math.inf if until is None else until - now
    return left if hit.stale_since is None else min(left, hit.stale_since - now)


def fresh_event(service: Service, left: float, detail: str = "") -> Answered:
    """Return the event of an answer with an entry that is fresh for so many seconds."""
    shown = int(left) if service.hooks.by_response and left < math.inf else None
    return HIT if shown is None and not detail else Answered(Outcome.HIT, ttl=shown, detail=detail)
