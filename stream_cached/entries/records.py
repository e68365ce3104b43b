"""The records of one resource: read, written under the current versions, and retired."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence

from stream_cached.entries.body import Body
from stream_cached.entries.found import Hit
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.local import Kept, LocalBody, LocalEntries, Sight
from stream_cached.entries.object_body import KeptBodies, ObjectBody
from stream_cached.format.codec import decode_record, encode_record
from stream_cached.format.envelope import (
    ForeignVersionError,
    is_ours,
    key_digest,
    read_prefix,
)
from stream_cached.format.records import Entry, Index, Marker, Record, Segment, Value
from stream_cached.format.validation import UnsoundError
from stream_cached.keys.names import variant_key
from stream_cached.stores.protocol import (
    Store,
    compare_and_delete,
    get_many_and_compare,
    held,
    may_compare,
)

#: What reads values.
Read = Callable[[Sequence[str]], Awaitable[list[bytes | None]]]

#: Bytes of a record from which on only its head is read again, where the store can do that. To
#: transfer less than this takes no longer than one more command does.
_LONG = 32 * 1024


class Records:
    """The records under the key of one resource and under those of its variants."""

    def __init__(
        self,
        store: Store,
        key: str,
        lifetimes: Lifetimes,
        local: LocalEntries | None = None,
        bodies: KeptBodies | None = None,
    ) -> None:
        self.bodies = bodies
        self.local = local
        self._at_hand: LocalBody | None = None
        self._kept: tuple[str, Kept | None] = "", None
        self._taken: Mapping[str, bytes | None] | None = None
        self._reads: Read | None = None
        self.store = store
        self.key = key
        self.lifetimes = lifetimes
        self.versions: Mapping[str, bytes] = {}
        """The versions that new records depend on."""

    def set_ttl(self, ttl: float | None, stale: float | None) -> None:
        """Let new records live for another time."""
        stale = self.lifetimes.stale if stale is None else stale
        self.lifetimes = dataclasses.replace(self.lifetimes, ttl=ttl, stale=stale)

    def set_versions(self, versions: Mapping[str, bytes]) -> None:
        """Let new records depend on these versions."""
        self.versions = versions

    def take(self, known: Mapping[str, bytes | None] | None) -> None:
        """Let the next `read` take values that were read just now."""
        self._taken = known

    def read_by(self, read: Read) -> None:
        """Let this read the values at the next `read`."""
        self._reads = read

    async def read(self, key: str, keys: Sequence[str]) -> list[bytes | None]:
        """Read values, and whether the body of a record that is kept here is still in the store."""
        kept = None if self.local is None else self.local.kept(key)
        self._kept = key, kept
        taken, self._taken = self._taken, None
        if taken is not None and taken.keys() >= {*keys}:
            return [taken[each] for each in keys]
        reads, self._reads = self._reads, None
        if reads is not None:
            self._at_hand = None
            return await reads(keys)
        body = None if kept is None else kept.body
        starts = {} if body is None else body.starts
        values, is_there = await get_many_and_compare(self.store, keys, starts)
        self._at_hand = body if is_there else None
        return values

    def hit(
        self,
        key: str,
        entry: Entry,
        since: float | None,
        needs: Sequence[str],
        seen: Mapping[str, bytes | None],
    ) -> Hit:
        """
        Return an entry that a look-up has found, with its body if that is at hand.

        Args:
            key: The key of its record.
            entry: The entry.
            since: Since when it is stale; None if it is current.
            needs: The keys of the versions that every record of the resource depends on.
            seen: All that the look-up has read.
        """
        body: Sequence[Segment] | None = None
        if not entry.segments:
            body = (Segment(entry.chunks, False, entry.body),)
        elif self._at_hand is not None and self._at_hand.entry is entry:
            body = self._at_hand.parts
        hit, kept = Hit(key, entry, since, body), self._kept[1]
        # The record of a variant is read after that of the index.
        is_first = key == self.key and kept is not None and kept.record is entry
        if kept is not None and is_first and since is None and body is not None:
            # The segments of a body have to be there, too.
            beside = self._at_hand if entry.segments else None
            starts = {} if beside is None else beside.starts
            as_it_is = held(self.store, seen, starts)
            keys, (_, *versions) = list(seen), seen.values()
            if kept.length > _LONG and may_compare(self.store):
                keys, starts = keys[1:], {key: kept.head, **starts}
            kept.sight = Sight(needs, keys, starts, versions, hit, as_it_is)
        return hit

    def known(self, key: str, value: bytes | None) -> Record | None:
        """Return what a value was decoded to, where this process keeps it."""
        if not value or self.local is None:
            return None
        place, kept = self._kept
        if place != key:
            kept = self.local.kept(key)
        return kept.record if kept is not None and kept.is_of(value) else None

    async def decode(self, key: str, value: bytes | None) -> Record | None:
        """Decode a record of this key, whatever its versions. Delete an unsound one."""
        if not value or not is_ours(value):
            return None
        if (known := self.known(key, value)) is not None:
            return known
        try:
            record = decode_record(value)
        except ForeignVersionError:
            return None
        except UnsoundError:
            await compare_and_delete(self.store, key, value)
            return None
        if record.key != key_digest(key):
            return None
        if self.local is not None:
            self.local.keep(key, value, record)
        return record

    async def delete(self, key: str, entry: Entry) -> None:
        """Delete the record of an entry, and its object; leave the record of another run alone."""
        (value,) = await self.store.get_many([key])
        if value and _generation(value) == entry.generation:
            await compare_and_delete(self.store, key, value)
        await self.retire(entry)

    async def put(self, key: str, record: Entry | Marker | Value) -> None:
        """Write a record under a key, bound to that key and to the current versions, too."""
        packed, ttl = self.packed(key, record)
        await self.store.set_many([(key, packed)], ttl)

    def packed(self, key: str, record: Entry | Marker | Value) -> tuple[bytes, float | None]:
        """Return what `put` writes, and for how long."""
        match record:
            case Entry():
                ttl = self.lifetimes.entry
            case Marker():
                ttl = self.lifetimes.unstorable
            case Value():
                ttl = self.lifetimes.ttl
        versions = {**record.versions, **self.versions}
        return encode_record(record, key_digest(key), versions), ttl

    async def swap(self, expected: bytes | None, index: Index) -> bool:
        """Write an index if the key still holds `expected`. Return whether it did."""
        packed, ttl = encode_record(index), self.lifetimes.segments
        if expected is None:
            return await self.store.add(self.key, packed, ttl)
        return await self.store.compare_and_set(self.key, expected, packed, ttl)

    @property
    def capacity(self) -> int | None:
        """The size of what holds a large body, in bytes; None if it is unbounded or unknown."""
        return self.store.capacity if self.bodies is None else self.bodies.store.capacity

    def body(self, generation: bytes) -> Body:
        """Return the body of a run that goes on."""
        if self.bodies is None:
            return Body(self.store, self.key, generation)
        return ObjectBody(self.store, self.key, generation, self.bodies)

    def body_of(self, entry: Entry, stop: int | None = None) -> Body:
        """Return the body of an entry, of which the segments before `stop` are read."""
        if self.bodies is None or not entry.sizes:
            return Body(self.store, self.key, entry.generation)
        known = self.store, self.key, entry.generation, self.bodies
        return ObjectBody(*known, entry.sizes, stop)

    def variant_key(self, index: Index, variant: str) -> str:
        return variant_key(self.key, index.generation, variant)

    async def hold(self, body: Body, indexes: range, key: str, entry: Entry) -> int:
        """Let segments of an entry live for as long as its record, which is under `key`, and a bit
        longer. Return how many of them exist."""
        ttl = self.lifetimes.segments_of(entry)
        found = await body.renew(indexes, ttl)
        if ttl is None and not body.is_object and not await self._is_there(key, entry):
            # What replaced it, or deleted it, has given them a ttl that they have lost by now.
            await self.retire_body(entry)
        return found

    async def keep_for_ever(self, key: str, entry: Entry) -> None:
        """Let segments of an entry that never expires not do so either, now that there is its
        record."""
        if self.lifetimes.ttl is None and entry.segments:
            await self.hold(self.body_of(entry), range(len(entry.segments)), key, entry)

    async def _is_there(self, key: str, entry: Entry) -> bool:
        """Whether a request can still be served an entry."""
        values = await self.store.get_many([*dict.fromkeys((self.key, key))])
        if not values[-1] or _generation(values[-1]) != entry.generation:
            return False
        if key == self.key:
            return True
        index = await self.decode(self.key, values[0])
        if not isinstance(index, Index):
            return False
        return key in [self.variant_key(index, variant) for variant in index.variants]

    # What never expires would be left behind when its record is replaced. It expires after the
    # longest run, and not at once, because a reader may still need it.

    async def retire(self, replaced: Record | None, by: Entry | None = None) -> None:
        """Let what only a replaced record leads to expire, unless it was written twice."""
        if by and replaced and by.generation == _id(replaced):
            return
        if isinstance(replaced, Index):
            await self.retire_variants(replaced, replaced.variants, by=by)
        elif isinstance(replaced, Entry) and replaced.sizes:
            if self.bodies is not None:
                self.bodies.retire(self.key, replaced.generation)
        elif isinstance(replaced, Entry) and self.lifetimes.is_endless(replaced):
            await self.retire_body(replaced)

    async def retire_body(self, entry: Entry) -> None:
        """Let the segments of an entry expire."""
        segments = range(len(entry.segments))
        await self.body_of(entry).renew(segments, self.lifetimes.longest_run)

    async def retire_variants(
        self, index: Index, variants: Sequence[str], by: Entry | None = None
    ) -> None:
        """Let variants of an index expire, with their segments."""
        if not variants or not self.leaves_bodies:
            return
        keys = [self.variant_key(index, variant) for variant in variants]
        for key, value in zip(keys, await self.store.get_many(keys), strict=True):
            await self.retire(await self.decode(key, value), by=by)
        if self.lifetimes.ttl is None:
            await self.store.touch_many(keys, self.lifetimes.longest_run)

    @property
    def leaves_bodies(self) -> bool:
        """Whether a record that is replaced leaves a body that does not expire with it."""
        return self.lifetimes.ttl is None or self.bodies is not None


def _generation(value: bytes) -> bytes | None:
    try:
        return read_prefix(value).generation
    except UnsoundError:
        return None


def _id(record: Record) -> bytes | None:
    return record.generation if isinstance(record, Entry) else None
