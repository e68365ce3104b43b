"""A commit in one round trip, where the store can do that and nothing speaks against it."""

from __future__ import annotations

from collections.abc import Mapping

from stream_cached.entries.body import RUN_TTL
from stream_cached.entries.protocols import Held
from stream_cached.entries.records import Records
from stream_cached.entries.versions import Dependencies
from stream_cached.format.records import Entry, Index
from stream_cached.stores.protocol import Commit, Items, may_commit

#: Segments, and bytes of a record that is replaced, up to which there is one round trip.
_MAX_SEGMENTS = 256
_MAX_REPLACED = 64 * 1024


async def commit(
    records: Records,
    depends: Dependencies,
    seen: Mapping[str, bytes | None],
    entry: Entry,
    lease: Held | None,
    last: Items,
) -> bool:
    """
    Commit an entry, and release its lease, if all is as the look-up has `seen` it.

    `last` are the items of its body that are not written yet. Return False if nothing was done, or
    no more than to write these.
    """
    store = records.store
    if not may_commit(store):
        return False
    keys, lifetimes = [records.key, *depends.keys], records.lifetimes
    if depends.tags or not seen.keys() >= {*keys} or len(entry.segments) > _MAX_SEGMENTS:
        return False
    old = None
    if (replaced := seen[records.key]) is not None:
        # What replaces an index, or what never expires, leaves more to be done.
        if len(replaced) > _MAX_REPLACED or lifetimes.ttl is None:
            return False
        old = await records.decode(records.key, replaced)
        if isinstance(old, Index):
            return False
    value, ttl = records.packed(records.key, entry)
    offered = None if lease is None else lease.offer()
    made = Commit(
        key=records.key,
        value=value,
        ttl=ttl,
        expected={key: seen[key] for key in keys},
        body=records.body_of(entry).keys(range(len(entry.segments))) if entry.segments else (),
        body_ttl=lifetimes.segments,
        last=last,
        last_ttl=RUN_TTL,
        touched=depends.touched,
        touched_ttl=lifetimes.versions,
        lease=offered,
    )
    is_done = is_released = False
    try:
        is_done, is_released = await store.commit(made)
    finally:
        if lease is not None and offered is not None:
            lease.answer_offer(is_released)
    if is_done and old is not None:
        await records.retire(old, by=entry)
    return is_done
