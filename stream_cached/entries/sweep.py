"""Delete the objects that no record leads to, because an entry has expired or a process has ended.

An object tells in its header which record may lead to it. A record that can't be read may lead to
any object. One that can't tell it any more, because its begin is damaged, is deleted as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from stream_cached.bodies.protocol import MissingBodyError, StoredBody
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.entries.owners import Owner, read_owner
from stream_cached.format.codec import decode_record
from stream_cached.format.envelope import PREFIX_SIZE, State, is_ours, read_prefix
from stream_cached.format.records import Index
from stream_cached.format.validation import UnsoundError
from stream_cached.keys.names import variant_key
from stream_cached.stores.protocol import Store

#: Objects that are looked at at once.
_BATCH = 16


async def sweep(bodies: WatchedBodies, stores: Mapping[str, Store], age: float) -> int:
    """
    Delete objects, and return how many.

    Args:
        bodies: The store of the objects.
        stores: The stores of the records, as the servers hold them, by the namespace of the keys.
        age: Seconds since its last change after which an object may be deleted.

    Raises:
        StoreError: One of the stores failed.
    """
    before, count, batch = time.time() - age, 0, list[StoredBody]()
    async for found in bodies.listed():
        if found.modified < before:
            batch.append(found)
        if len(batch) == _BATCH:
            count += await _sweep(bodies, stores, batch)
            batch = []
    return count + await _sweep(bodies, stores, batch)


async def _sweep(
    bodies: WatchedBodies, stores: Mapping[str, Store], batch: Sequence[StoredBody]
) -> int:
    are_left = await asyncio.gather(*(_is_left(bodies, stores, found) for found in batch))
    left = [found.name for found, is_left in zip(batch, are_left, strict=True) if is_left]
    if left:
        await bodies.delete(left)
    return len(left)


async def _is_left(bodies: WatchedBodies, stores: Mapping[str, Store], found: StoredBody) -> bool:
    try:
        owner = await read_owner(bodies, found)
    except MissingBodyError:
        return False
    except UnsoundError:
        return True
    store = None if owner is None else stores.get(owner.namespace)
    if owner is None or store is None:
        # It is another application's.
        return False
    (value,) = await store.get_many([owner.key])
    if value is None:
        return True
    return not await _may_lead(store, owner, value)


async def _may_lead(store: Store, owner: Owner, value: bytes) -> bool:
    if not is_ours(value):
        return False
    try:
        prefix = read_prefix(value)
        if prefix.state is not State.INDEX:
            return prefix.generation == owner.generation
        # A signature may follow.
        size = PREFIX_SIZE + prefix.head_length + prefix.body_length
        index = decode_record(value[:size])
        assert isinstance(index, Index)
        keys = [variant_key(owner.key, index.generation, each) for each in index.variants]
        found = [each for each in await store.get_many(keys) if each is not None]
        return any(
            is_ours(each) and read_prefix(each).generation == owner.generation for each in found
        )
    except UnsoundError:
        return True
