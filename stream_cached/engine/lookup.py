"""The look-up of one call: what the store has for it, or what stands in for the store."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from stream_cached.backends.binding import Backend
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.at_hand import Values, fresh_event, look_at_hand, seconds_left
from stream_cached.engine.claiming import claimed_run, note, probably_leads, settle
from stream_cached.engine.conditional import conditional
from stream_cached.engine.outcome import (
    NOT_FRESH,
    Absent,
    Call,
    Found,
    Fresh,
    PlainValue,
    Stale,
    View,
)
from stream_cached.engine.values import Use
from stream_cached.entries.found import Foreign, Hit, Miss, StoredValue, Unstorable
from stream_cached.entries.replay import Replay
from stream_cached.entries.resource import Resource
from stream_cached.errors import BrokenStreamError, StoreUnavailableError
from stream_cached.events import Answered, Outcome
from stream_cached.format.records import Entry
from stream_cached.http.freshness import Windows, disconnected_for, windows_of
from stream_cached.http.policy import may_be_shared, may_be_stale
from stream_cached.http.reasons import NotCached
from stream_cached.http.targeted import directives_for
from stream_cached.http.wishes import NO_WISHES
from stream_cached.responses.part import PartResponse
from stream_cached.responses.replayed import ReplayResponse
from stream_cached.responses.stored import stored_response
from stream_cached.runs.registry import Leading, RunRegistry, registry_of

T = TypeVar("T")

_NOTHING, _VARIED = Absent(), Absent(varied=True)

_VALUES = (Foreign, StoredValue)


async def look_up(call: Call) -> View:
    """
    Find what can answer a call, in the store or in the memory that stands in for it.

    Raises:
        StoreError: The store failed.
    """
    return await _in_backend(call, _look_up_in)


async def first_look(call: Call) -> View | Fresh:
    """
    Find what can answer a call that has not looked before. Most often that is at hand.

    Raises:
        StoreError: The store failed.
    """
    return await _in_backend(call, _first_look_in)


async def _in_backend(call: Call, look: Callable[[Call, Backend, Deadline], Awaitable[T]]) -> T:
    binding, looked = call.service.hooks.binding(), call.looked
    if looked is None:
        backend = binding.at_once
        deadline = Deadline(binding.timeout if backend is None else backend.timeout)
    else:
        backend, deadline = looked.backend, looked.rest
    backend = backend or await binding.backend(deadline)
    try:
        return await look(call, backend, deadline)
    except StoreUnavailableError:
        return await look(call, binding.stand_in(), deadline)


async def _first_look_in(call: Call, backend: Backend, deadline: Deadline) -> View | Fresh:
    service = call.service
    looked, call.looked = call.looked, None
    if looked is None and call.reads:
        looked = await look_at_hand(service, backend, call.key, service.needs(call), deadline)
    if looked is None:
        return await _look_up_in(call, backend, deadline)
    if looked.error is not None:
        raise looked.error
    if looked.hit is not None:
        resource = functools.partial(service.resource, call, backend)
        found = await _of_entry(call, resource, looked.hit, detail_of(backend))
        if isinstance(found, Fresh):
            service.reporter.store_works("reading")
            if backend.server is not None:
                call.look_up = time.monotonic() - looked.started
            return found
    spent = time.monotonic() - looked.started
    registry = registry_of(backend.scope)
    if looked.hit is None:
        await registry.in_line(call.key)
    if looked.values is not None:
        view = await _look_up_in(call, backend, deadline, looked.values, registry)
        view.ended = looked.ended
    else:
        claims = probably_leads(call, backend)
        view = await _look_up_in(call, backend, deadline, None, registry, claims=claims)
        note(call, view)
    if call.look_up is not None:
        call.look_up += spent
    return view


def _use_of(call: Call, backend: Backend, deadline: Deadline) -> Use:
    service = call.service
    configured = service.hooks.binding().cache
    return Use(backend, deadline, configured, service.invalidated_before, service.reporter)


async def _look_up_in(
    call: Call,
    backend: Backend,
    deadline: Deadline,
    known: Values | None = None,
    registry: RunRegistry | None = None,
    *,
    claims: bool = False,
) -> View:
    use = _use_of(call, backend, deadline)
    resource = call.service.resource(call, backend)
    registry = registry or registry_of(use.backend.scope)
    run = claimed_run(call, resource, registry) if claims else None
    if run is None:
        return await _view_of(call, use, resource, known, registry)
    async with Leading(run):
        view = await _view_of(call, use, resource, known, registry)
        settle(run, view)
        return view


async def _view_of(
    call: Call, use: Use, resource: Resource, known: Values | None, registry: RunRegistry
) -> View:
    ended = registry.ended
    if call.service.hooks.prepares:
        with use.deadline:
            await call.service.hooks.prepare(call, resource)
    found: Found
    if call.reads:
        found = await _find(call, use, resource, known)
    else:
        found = Absent()
        with use.deadline:
            await resource.look_up()
    lacks = call.writes and isinstance(found, NOT_FRESH)
    records = lacks and not call.is_head
    if records:
        with use.within():
            await resource.begin()
    return View(use, registry, resource, found, records, lacks and call.is_head, ended)


async def _find(call: Call, use: Use, resource: Resource, known: Values | None) -> Found:
    """Find what can answer a call, and call the plugins' hooks of a `get`."""
    started, detail = time.monotonic(), detail_of(use.backend)
    with use.within():
        found = await find_entry(call, resource, known, detail=detail)
    use.reporter.store_works("reading")
    hooks = call.service.hooks
    if isinstance(found, _VALUES) and not call.takes_values:
        # A value that an older version has stored, or a call without this route.
        return Absent()
    if call.is_authorized and not isinstance(found, Fresh):
        # A plain value can't say that it may answer the request of another user.
        return found if isinstance(found, Unstorable) else Absent()
    match found:
        case Absent():
            has_own = hooks.has_own_values and not call.items
            result: Found = await _plain_value(call, use, resource, found) if has_own else found
        case Foreign():
            # An unsigned value may be written by anyone.
            is_old = use.may_be_older(resource.key, hooks.ttl())
            if hooks.signs_values(use.backend) or is_old:
                return Absent()
            return await _plain_value(call, use, resource, Absent())
        case StoredValue():
            value = use.loaded(found)
            result = Absent() if value is None else _value(call, use, value)
        case _:
            result = found
    took = time.monotonic() - started
    if use.backend.server is not None:
        call.look_up = took
    if use.configured.plugins:
        await use.call_plugins("get", resource.key, took=took, ret=_handed_out(result))
    return result


def _handed_out(found: Found) -> Any:
    match found:
        case Fresh(response):
            return response
        case PlainValue(value):
            return value
        case _:
            return None


async def _plain_value(call: Call, use: Use, resource: Resource, otherwise: Absent) -> Found:
    found = await call.service.hooks.load_value(use, resource.key)
    if found is None:
        return otherwise
    call.service.plain_values.are_there = True
    return _value(call, use, found.value)


def _value(call: Call, use: Use, value: Any) -> PlainValue:
    call.sent(Answered(Outcome.HIT, detail=detail_of(use.backend)), None)
    return PlainValue(value)


async def find_entry(
    call: Call, resource: Resource, known: Values | None = None, *, detail: str = ""
) -> Fresh | Stale | Absent | Unstorable | Foreign | StoredValue:
    """Find the entry of a resource, fresh or stale, or what else there is."""
    resource.records.take(known)
    found = await resource.look_up()
    if isinstance(found, Miss):
        return _VARIED if found.varied else _NOTHING
    if isinstance(found, Unstorable) and (limit := NotCached.limit(found.detail)):
        return Absent(limit=limit)
    if not isinstance(found, Hit):
        return found
    return await _of_entry(call, lambda: resource, found, detail)


async def _of_entry(
    call: Call, resource: Callable[[], Resource], found: Hit, detail: str
) -> Fresh | Stale | Absent:
    """Return what an entry is to a call: its answer, or why not."""
    entry = found.entry
    if call.rendering is None and entry.replaces is not None:
        # Another call of the function was one of FastAPI's: this one wants the value itself.
        return Absent(fwd="miss")
    if not call.can_use(entry.media_type):
        # Another function has the same key, or the classes of the items have changed.
        return Absent(fwd="miss")
    now = time.time()
    if call.is_authorized and not _may_be_shared(call, entry, now):
        return Absent(fwd="miss")
    left = seconds_left(found, now)
    if left <= 0:
        return _stale(call, found, -left)
    wishes = call.wishes
    if wishes is not NO_WISHES and not wishes.suit(found.head.age(entry.stored_at, now), left):
        return Absent(fwd="request")
    response = await respond(call, resource, found, fresh_event(call.service, left, detail))
    return Absent() if response is None else Fresh(response)


def _may_be_shared(call: Call, entry: Entry, now: float) -> bool:
    age = None if call.service.hooks.by_response else now - entry.stored_at
    return may_be_shared(entry.headers, age, call.service.options.targets)


def _stale(call: Call, hit: Hit, late: float) -> Stale | Absent:
    """Return a stale entry, for as long as it may be served."""
    options, wishes = call.service.options, call.wishes
    directives = directives_for(hit.entry.headers, options.targets)
    windows, may_be_late = Windows(), may_be_stale(directives)
    if may_be_late:
        windows = options.windows
    if call.service.hooks.by_response:
        lifetime = (hit.entry.fresh_until or 0.0) - hit.entry.stored_at
        windows = windows_of(directives, options.windows)
        windows = replace(windows, if_raised=disconnected_for(directives, windows, lifetime))
    if may_be_late and wishes.may_be_late(late):
        windows = replace(windows, while_revalidate=max(late, windows.while_revalidate))
    elif wishes.forbid_stale(hit.head.age(hit.entry.stored_at, time.time())):
        windows = replace(windows, while_revalidate=0.0)
    may_be_served = 0 < windows.longest >= late
    return Stale(hit, late, windows) if may_be_served else Absent(fwd="stale", hit=hit)


async def respond(call: Call, resource: Callable[[], Resource], hit: Hit, event: Answered) -> Any:
    """
    Return the response of an entry, None if its body is not whole.

    `resource` returns that of the entry, where more is needed than what is at hand.
    """
    entry = hit.entry
    call.saved = entry.took
    headers = call.headers(sent_headers(call, hit), event, entry.replaces)
    if call.is_conditional and (instead := conditional(call, resource(), hit, headers, event)):
        # What can't be read in part can't be read as a whole either.
        is_open = not isinstance(instead, PartResponse) or await instead.open()
        return instead if is_open else None
    replay, exact = Replay(resource, hit), call.service.options.exact
    in_chunks = exact or call.items is not None
    # Of an object, nothing is read that is not sent.
    needs_nothing = bool(entry.sizes) and call.is_head
    is_open = needs_nothing or (replay.at_hand is not None and not in_chunks)
    if not is_open and not await replay.open(in_chunks=in_chunks):
        return None
    sending = call.sending(event)
    if entry.streamed or needs_nothing or entry.length > call.whole_max:
        return ReplayResponse(replay, headers, exact=exact, sending=sending)
    body = await _whole(replay)
    if body is None:
        return None
    return stored_response(entry, headers, body, sending)


def sent_headers(call: Call, hit: Hit) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers of an entry, with those that the cache adds to them."""
    head, request = hit.head, call.request
    return head.headers(
        head.age(hit.entry.stored_at, time.time()),
        has_ranges=request is not None and request.can_range and call.items is None,
        is_compressed=request is None or request.accepts_coding,
    )


async def _whole(replay: Replay) -> bytes | None:
    try:
        # However long the body is.
        with Deadline(None):
            return await replay.whole()
    except BrokenStreamError:
        return None


def detail_of(backend: Backend) -> str:
    """Return the detail for an answer of the memory that stands in for a store."""
    return "fallback" if backend.is_fallback else ""
