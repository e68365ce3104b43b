"""The short way of a look-up: this process keeps the entry, with its body, and has found it before.

The same values are read as by the whole look-up. Where all of them are what they were, it would
find the same. Anything else goes the whole way, with the values that were read.
"""

from __future__ import annotations

from collections.abc import Mapping

from stream_cached.backends.binding import Backend
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.outcome import Call
from stream_cached.entries.found import Hit
from stream_cached.entries.records import read_beside

#: The values that a look-up reads, by key.
Values = Mapping[str, bytes | None]


async def at_hand(
    call: Call, backend: Backend, deadline: Deadline
) -> tuple[Hit | None, Values | None]:
    """Return the entry of a call with its body, if it is at hand; and what was read for that."""
    service = call.service
    hooks, limits = service.hooks, service.options.limits
    # Plugins are told what the whole look-up has found.
    if not call.reads or hooks.prepares or not limits.local or hooks.binding().cache.plugins:
        return None, None
    kept = backend.local.kept(call.key)
    if kept is None or (sight := kept.sight) is None or sight.needs != service.needs(call):
        return None, None
    store, body = backend.store, kept.body
    if backend.server is None:
        # A memory needs no time.
        values, is_there = await read_beside(store, sight.keys, body)
    else:
        with deadline:
            values, is_there = await read_beside(store, sight.keys, body)
    value, *versions = values
    is_same = value and kept.is_of(value) and versions == sight.versions
    if is_same and (is_there or not sight.hit.entry.segments):
        return sight.hit, None
    return None, dict(zip(sight.keys, values, strict=True))
