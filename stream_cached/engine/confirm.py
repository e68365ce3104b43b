"""An entry that is no longer fresh, and the validator that says whether anything has changed."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stream_cached.connections.deadline import Deadline
from stream_cached.engine.lookup import detail_of, respond
from stream_cached.engine.outcome import Call, View
from stream_cached.engine.storable import keep, lifetime_for
from stream_cached.entries.found import Hit
from stream_cached.errors import StoreError
from stream_cached.events import Answered, Outcome
from stream_cached.format.records import Entry
from stream_cached.http.freshness import Lifetime
from stream_cached.http.headers import header_values, vary_names, without
from stream_cached.http.validators import weak_tag
from stream_cached.responses.produced import Produced

#: The digits that tell variants apart in an ETag.
_DIGITS = 8


async def validate(call: Call) -> None:
    """Ask the validator of a call, once. What it raises counts as a change."""
    service, execution = call.service, call.execution
    if service.validator is None or execution.has_validated:
        return
    request = None if execution.incoming is None else execution.incoming.request
    execution.has_validated = True
    try:
        # It is no operation of the store.
        with Deadline(None):
            execution.validated = await service.validator.value(
                execution.args, execution.kwargs, request
            )
    # A user's function that fails must not fail the request.
    except Exception as exc:
        service.reporter.function_failed(exc)
        service.reporter.warn(
            f"validator= raised {type(exc).__name__}, which counts as a change: the endpoint runs"
        )


async def confirmed(call: Call, view: View) -> Any:
    """Return the response of an entry for which the validator still says the same, or None."""
    hit = view.expired
    if hit is None or (entry := await confirm(call, view)) is None:
        return None
    left = max(0, int((entry.fresh_until or 0.0) - time.time()))
    detail = detail_of(view.use.backend) or "validated"
    event = Answered(Outcome.HIT, ttl=left, detail=detail)
    with Deadline(view.use.backend.timeout):
        return await respond(
            call, lambda: view.resource, Hit(hit.key, entry, None, hit.body), event
        )


async def confirm(call: Call, view: View) -> Entry | None:
    """Return the entry that a look-up has found, as it is fresh again; None if it has changed."""
    hit = view.expired
    if hit is None or call.service.validator is None:
        return None
    now = time.time()
    lifetime = _lifetime(call, hit.entry, now)
    headers = without(hit.entry.headers, {b"age", b"date"})
    again = replace(
        hit.entry, stored_at=now, fresh_until=lifetime.fresh_until, headers=tuple(headers)
    )
    work = functools.partial(_confirm, call, view, hit, again, lifetime)
    if lifetime.fresh_until <= now:
        # It is validated for each request: what another one was told may be too old for this one.
        return (await work())[1]
    execution = call.execution
    value, entry = await call.service.flights.one(view.resource.place, work)
    execution.has_validated, execution.validated = True, value
    return entry if entry is not None and entry.generation == hit.entry.generation else None


def _lifetime(call: Call, entry: Entry, now: float) -> Lifetime:
    """Return for how long an entry is fresh that has not changed."""
    if call.service.hooks.by_response:
        headers = without(entry.headers, {b"age", b"date"})
        found = lifetime_for(call, entry.status, headers, now, is_validated=True)
        if isinstance(found, Lifetime):
            return found
    seconds = entry.validator[1] if entry.validator and not call.service.hooks.by_response else 0.0
    return Lifetime(now + seconds, call.service.options.windows)


async def _confirm(
    call: Call, view: View, hit: Hit, again: Entry, lifetime: Lifetime
) -> tuple[str | None, Entry | None]:
    """Ask the validator. Return what it says, and the entry if it says the same as before."""
    await validate(call)
    value = call.execution.validated
    if value is None or again.validator is None or value != again.validator[0]:
        return value, None
    if call.writes and lifetime.fresh_until > again.stored_at:
        try:
            with Deadline(view.use.backend.timeout):
                keep(call, view.resource, again.headers, lifetime)
                await view.resource.freshen(hit, again)
        except StoreError as exc:
            call.service.reporter.store_failed(exc, "writing")
    return value, again


# -- what it says to clients, and of what is stored ---------------------------------------------


def with_tag(call: Call, made: Produced) -> Produced:
    """Give a response the weak ETag that its validator makes, unless it has one of its own."""
    value, options = call.execution.validated, call.service.options
    is_wanted = value is not None and options.etag and call.items is None
    if not is_wanted or made.status not in (200, 203) or header_values(made.headers, b"etag"):
        return made
    assert value is not None
    names = vary_names(call.service.headers.with_vary(made.all_headers)) - {"*"}
    variant = _variant(call, sorted(names))
    return replace(made, headers=[*made.headers, (b"etag", weak_tag(value, variant))])


def _variant(call: Call, names: Sequence[str]) -> str:
    if not names or call.request is None:
        return ""
    return call.request.select(names)[:_DIGITS]


def own_tag(call: Call, made: Produced) -> str | None:
    """Return what is before the quotes of the ETag that is made of a body; None if none is."""
    etag = call.service.options.etag
    if not etag or made.status not in (200, 203) or header_values(made.headers, b"etag"):
        return None
    if made.body is not None and call.service.hooks.has_own_tags:
        return None
    return "W/" if etag == "weak" else ""
