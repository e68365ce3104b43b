"""The look-up of one call: what the store has for it, or what stands in for the store."""

from __future__ import annotations

import time
from typing import Any

from stream_cached.connections.deadline import Deadline
from stream_cached.engine.outcome import (
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
from stream_cached.events import HIT, Answered, Outcome
from stream_cached.http.headers import aged, answers_ranges
from stream_cached.http.policy import may_be_shared, may_be_stale
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.responses.stored import ReplayResponse, stored_response
from stream_cached.runs.registry import registry_of


async def look_up(call: Call) -> View:
    """
    Find what can answer a call, in the store or in the memory that stands in for it.

    Raises:
        BypassError: Nothing can answer a request for a range.
        StoreError: The store failed.
    """
    binding = call.service.hooks.binding()
    backend = binding.at_once
    deadline = Deadline(binding.timeout if backend is None else backend.timeout)
    try:
        backend = backend or await binding.backend(deadline)
        return await _look_up_in(call, use_of(call, backend, deadline))
    except StoreUnavailableError:
        return await _look_up_in(call, use_of(call, binding.stand_in(), deadline))


def use_of(call: Call, backend: Any, deadline: Deadline) -> Use:
    service = call.service
    configured = service.hooks.binding().cache
    return Use(backend, deadline, configured, service.invalidated_before, service.reporter)


async def _look_up_in(call: Call, use: Use) -> View:
    resource = call.service.resource(call, use.backend)
    registry = registry_of(use.backend.scope)
    ended = registry.ended
    if call.service.hooks.prepares:
        with use.deadline:
            await call.service.hooks.prepare(call, resource)
    found: Found
    if call.reads:
        found = await _find(call, use, resource)
    else:
        found = Absent()
        with use.deadline:
            await resource.look_up()
    if call.has_range and isinstance(found, Absent):
        raise BypassError(Finding(NotCached.RANGE))
    lacks = call.writes and not call.has_range and isinstance(found, Absent | Stale)
    records = lacks and not call.is_head
    if records:
        with use.deadline:
            await resource.begin()
    return View(use, registry, resource, found, records, lacks and call.is_head, ended)


async def _find(call: Call, use: Use, resource: Resource) -> Found:
    """Find what can answer a call, and call the plugins' hooks of a `get`."""
    started = time.monotonic()
    if use.backend.server is None:
        # A memory needs no time.
        found = await find_entry(call, resource, detail=detail_of(use))
    else:
        with use.deadline:
            found = await find_entry(call, resource, detail=detail_of(use))
    use.reporter.store_works("reading")
    hooks = call.service.hooks
    if not call.takes_values and isinstance(found, Foreign | StoredValue):
        # A value that an older version has stored, or a call without this route.
        return Absent()
    if call.is_authorized and not isinstance(found, Fresh):
        # A plain value can't say that it may answer the request of another user.
        return found if isinstance(found, Unstorable) else Absent()
    match found:
        case Foreign():
            # An unsigned value may be written by anyone.
            is_old = use.may_be_older(resource.key, hooks.ttl())
            if hooks.signs_values(use.backend) or is_old:
                return Absent()
            return await _plain_value(call, use, resource, Absent())
        case StoredValue():
            value = use.loaded(found)
            result: Found = Absent() if value is None else _value(call, use, value)
        case Absent() if hooks.has_own_values and not call.items:
            result = await _plain_value(call, use, resource, found)
        case _:
            result = found
    took = time.monotonic() - started
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
    value = await call.service.hooks.load_value(use, resource.key)
    if value is None:
        return otherwise
    call.service.plain_values.are_there = True
    return _value(call, use, value)


def _value(call: Call, use: Use, value: Any) -> PlainValue:
    call.sent(Answered(Outcome.HIT, detail=detail_of(use)), None)
    return PlainValue(value)


async def find_entry(
    call: Call, resource: Resource, *, detail: str = ""
) -> Fresh | Stale | Absent | Unstorable | Foreign | StoredValue:
    """Find the entry of a resource, fresh or stale, or what else there is."""
    found = await resource.look_up()
    if isinstance(found, Miss):
        return Absent(found.varied)
    if isinstance(found, Unstorable) and (limit := NotCached.limit(found.detail)):
        return Absent(limit=limit)
    if not isinstance(found, Hit):
        return found
    now = time.time()
    entry = found.entry
    if call.rendering is None and entry.replaces is not None:
        # Another call of the function was one of FastAPI's: this one wants the value itself.
        return Absent()
    if not call.can_use(entry.media_type):
        # Another function has the same key, or the classes of the items have changed.
        return Absent()
    if call.has_range and answers_ranges(entry.headers):
        # The endpoint answers ranges of it, and the cache does not.
        return Absent()
    if call.is_authorized and not may_be_shared(entry.headers, now - entry.stored_at):
        return Absent()
    ends = [each for each in (entry.fresh_until, found.stale_since) if each is not None]
    if ends and min(ends) <= now:
        late = now - min(ends)
        is_kept = late <= call.service.options.stale and may_be_stale(entry.headers)
        return Stale(found, late) if is_kept else Absent()
    response = await respond(
        call, resource, found, Answered(Outcome.HIT, detail=detail) if detail else HIT
    )
    return Absent() if response is None else Fresh(response)


async def respond(call: Call, resource: Resource, hit: Hit, event: Answered) -> Any:
    """Return the response of an entry, None if its body is not whole."""
    replay = Replay(resource, hit)
    in_chunks = call.service.options.exact or call.items is not None
    is_open = replay.at_hand is not None and not in_chunks
    if not is_open and not await replay.open(in_chunks=in_chunks):
        return None
    stored = aged(hit.entry.headers, time.time() - hit.entry.stored_at)
    headers = call.headers(stored, event, hit.entry.replaces)
    sending = call.sending(event)
    if hit.entry.streamed:
        return ReplayResponse(replay, headers, exact=call.service.options.exact, sending=sending)
    body = await _whole(replay)
    if body is None:
        return None
    return stored_response(hit.entry, headers, body, sending)


async def _whole(replay: Replay) -> bytes | None:
    try:
        # However long the body is.
        with Deadline(None):
            return await replay.whole()
    except BrokenStreamError:
        return None


def detail_of(use: Use) -> str:
    """Return the detail for an answer of the memory that stands in for a store."""
    return "fallback" if use.backend.is_fallback else ""
