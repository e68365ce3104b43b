"""An entry that is fresh again, because nothing has changed since it was made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from stream_cached.entries.found import Hit
from stream_cached.entries.records import Records
from stream_cached.entries.versions import Dependencies
from stream_cached.format.records import Entry


async def freshened(
    records: Records,
    depends: Dependencies,
    seen: Mapping[str, bytes | None],
    hit: Hit,
    entry: Entry,
) -> None:
    """
    Write an entry with new times over the one that the look-up has `seen`.

    Where another one is there by now, or a part of the body is lost, nothing is written.
    """
    store, lifetimes, segments = records.store, records.lifetimes, range(len(entry.segments))
    found, _ = await asyncio.gather(
        records.body_of(entry).renew(segments, lifetimes.segments),
        store.touch_many([*depends.touched, *depends.tags_of(entry)], lifetimes.versions),
    )
    if found != len(segments):
        return
    if hit.key != records.key:
        # The index of its variants.
        await store.touch_many([records.key], lifetimes.segments)
    value, ttl = records.packed(hit.key, entry)
    if (expected := seen.get(hit.key)) is not None:
        await store.compare_and_set(hit.key, expected, value, ttl)
