"""What a store holds for one resource: look it up, publish it, mark it, revoke it.

A record depends on versions: on that of its endpoint, on those of its tags, and on that of its key
once the key was invalidated. Invalidation replaces a version, and a record that was made under
another version is a miss. So a run that began before an invalidation can't bring the old response
back, however late it publishes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stream_cached.entries import at_once
from stream_cached.entries.body import RUN_TTL
from stream_cached.entries.found import Foreign, Found, Hit, Miss, StoredValue, Unstorable
from stream_cached.entries.freshened import freshened
from stream_cached.entries.ids import new_id
from stream_cached.entries.lifetimes import MARGIN, Lifetimes
from stream_cached.entries.local import LocalEntries
from stream_cached.entries.object_body import KeptBodies
from stream_cached.entries.protocols import Held
from stream_cached.entries.protocols import KeySets as KeySets
from stream_cached.entries.records import Records
from stream_cached.entries.variant_index import VariantIndex, names_of
from stream_cached.entries.versions import Dependencies, added_versions, current_versions
from stream_cached.errors import StoreError
from stream_cached.format.envelope import is_ours
from stream_cached.format.records import Entry, Index, Marker, Record, Value
from stream_cached.http.reasons import NotCached
from stream_cached.keys.names import revocation_key
from stream_cached.keys.variants import Select
from stream_cached.stores.protocol import Items, Store

#: How often to try to add a variant to an index. Many variants may be published at once, and each
#: one changes the index.
_SWAPS = 64


class Resource:
    """
    One request's view of one resource in the store.

    Args:
        store: The store.
        key: The key of the resource.
        needs: The keys of the versions that its records depend on: its endpoint's, its tags'.
        lifetimes: How long records, segments and versions live.
        select: Returns the digest of the request's values for some headers; None without a request.
        max_variants: How many variants are kept.
        key_sets: Sets that the keys of the resource are added to.
        local: What this process keeps decoded of the entries in the store.
        bodies: Where bodies are kept that do not fit into a record; None for the store itself.
        witness: See `Dependencies`; None if no entry names tags itself.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        needs: Sequence[str],
        lifetimes: Lifetimes,
        select: Select | None,
        max_variants: int,
        key_sets: KeySets | None = None,
        local: LocalEntries | None = None,
        bodies: KeptBodies | None = None,
        witness: str | None = None,
    ) -> None:
        self.store = store
        self.key = key
        self.select = select
        self.names: tuple[str, ...] = ()
        """The headers that are known to select among its responses."""
        self.seen: Mapping[str, bytes | None] = {}
        """The values that the last look-up read, by key."""
        self.local = local
        self.records = Records(store, key, lifetimes, local, bodies)
        self._variants = VariantIndex(self.records, select, max_variants) if select else None
        self._revocation = revocation_key(key)
        self.depends = Dependencies(needs, self._revocation, witness)
        self._versions: dict[str, bytes] = {}
        self._begun = 0.0
        self._key_sets = key_sets

    @property
    def lifetimes(self) -> Lifetimes:
        return self.records.lifetimes

    def set_ttl(self, ttl: float | None, stale: float | None = None) -> None:
        """Let an entry live, and be kept when it is stale, for another time than at first."""
        self.records.set_ttl(ttl, stale)

    def set_tags(self, keys: Sequence[str]) -> None:
        """Let what is published depend on more versions, too: those of tags that it has itself."""
        self.depends.tags = tuple(keys)

    @property
    def versions(self) -> Mapping[str, bytes]:
        """The versions that what is recorded now depends on."""
        return self._versions

    @property
    def versions_size(self) -> int:
        """Bytes, at the most, of the versions in a record."""
        return 1024 + 128 * len(self.depends.tags)

    @property
    def place(self) -> str:
        """The key of the request's variant, as far as the variant is known."""
        if not self.names or self.select is None:
            return self.key
        return f"{self.key}:{self.select(self.names)}"

    # -- look-up ----------------------------------------------------------------------------

    async def look_up(self) -> Found:
        """Find what can be served. The versions are read in the same round trip."""
        keys, records = self._keys, self.records
        value, *versions = values = await records.read(self.key, keys)
        seen = self.seen = dict(zip(keys, values, strict=True))
        self._set_versions(self.depends.as_versions(versions))
        if value is None or not is_ours(value):  # a plain value may be empty
            return Miss() if value is None else Foreign()
        record = records.known(self.key, value) or await records.decode(self.key, value)
        if isinstance(record, Index):
            if self._current_until(record) < 0:
                return Miss()
            self.names = names_of(record)
            variants = await self._variants.matching(record, seen) if self._variants else ()
            for key, variant in variants:
                if (found := await self._found(key, variant)) is not None:
                    return found
            return Miss(varied=True)
        return await self._found(self.key, record) or Miss()

    async def _found(self, key: str, record: Record | None) -> Found | None:
        if record is None:
            return None
        until = await self._until(record)
        if until < 0 or (until < math.inf and not isinstance(record, Entry)):
            return None
        match record:
            case Entry() if record.sizes and self.records.bodies is None:
                # Of a process that keeps bodies elsewhere.
                return None
            case Entry():
                since = until if until < math.inf else None
                return self.records.hit(key, record, since, self.depends.needs, self.seen)
            case Marker():
                return Unstorable(record.detail)
            case Value():
                return StoredValue(record.payload, record.text)
            case Index():
                return None

    def _current_until(self, record: Record) -> float:
        return self.depends.current_until(record, self._versions, self.seen)

    async def _until(self, record: Record) -> float:
        """Return until when a record is current, with regard to the tags that it names itself."""
        until, tags = self._current_until(record), self.depends.tags_of(record)
        if not tags or until < 0:
            return until
        values = dict(zip(tags, await self.store.get_many(tags), strict=True))
        self.seen = {**self.seen, **values}
        return min(until, self.depends.tags_until(record, values))

    async def _current(self) -> list[bytes | None]:
        return await self.store.get_many(self._keys)

    @property
    def _keys(self) -> list[str]:
        return [self.key, *self.depends.keys]

    # -- versions ---------------------------------------------------------------------------

    def _set_versions(self, versions: dict[str, bytes]) -> None:
        self._versions = versions
        self.records.set_versions(self.depends.recorded(versions))

    async def begin(self) -> None:
        """Make sure that there are versions to record under."""
        self._begun = asyncio.get_running_loop().time()
        missing = [key for key in self.depends.read if key not in self._versions]
        if missing:
            added = await added_versions(self.store, missing, self.lifetimes.versions)
            self.seen = {**self.seen, **added}
            self._set_versions({**self._versions, **added})
        if self._key_sets is not None:
            await self._key_sets.enlist(self, self.depends.needs)

    async def _tag_versions(self) -> dict[str, bytes]:
        """
        Return the versions of the tags, which were not known before the run.

        They are read before it is looked at whether any tag was invalidated since the run began: an
        invalidation replaces first what tells that, and then the version of its tag.
        """
        return await current_versions(self.store, self.depends.tags, self.lifetimes.versions)

    async def is_current(self) -> bool:
        _, *versions = await self._current()
        return self.depends.as_versions(versions) == self._versions

    async def was_replaced(self) -> bool:
        """Whether another run has been stored since the look-up."""
        return (await self._current())[0] != self.seen.get(self.key)

    # -- publish ----------------------------------------------------------------------------

    async def publish(
        self, entry: Entry, varies_on: frozenset[str], lease: Held | None = None, last: Items = ()
    ) -> NotCached | None:
        """
        Make a recorded response the one that is served from now on.

        `varies_on` has the names in its Vary that are not part of the resource's key, `last` what
        is still to be written of its body. Return why the entry was not published, None if it was.
        After a `StoreError` it may be published.
        """
        if self._is_late():
            return NotCached.OVERTAKEN
        segments = range(len(entry.segments))
        if self._key_sets is not None:
            of_body = self.records.body_of(entry).keys(segments)
            await self._key_sets.enlist(self, [self.key, *self.depends.needs, *of_body])
        known = self.records, self.depends, self.seen
        if not varies_on and await at_once.commit(*known, entry, lease, last):
            return None
        if last:
            await self.store.set_many(last, RUN_TTL)
        entry = replace(entry, versions=await self._tag_versions())
        # What never expires is made so when there is a record that leads to it.
        values, found, _ = await asyncio.gather(
            self._current(),
            self.records.body_of(entry).renew(segments, self.lifetimes.segments or RUN_TTL),
            self.store.touch_many(self.depends.touched, self.lifetimes.versions),
        )
        if found != len(entry.segments):
            raise StoreError("segments are missing that were written")
        return await self._replace(entry, varies_on, values)

    async def freshen(self, hit: Hit, entry: Entry) -> None:
        """Write an entry that the look-up has found, with new times."""
        await freshened(self.records, self.depends, self.seen, hit, entry)

    async def _replace(
        self, entry: Entry, varies_on: frozenset[str], values: list[bytes | None]
    ) -> NotCached | None:
        written = ""
        for _ in range(_SWAPS):
            value, *versions = values
            if self.depends.as_versions(versions) != self._versions:
                break
            replaced = await self.records.decode(self.key, value)
            index = replaced if isinstance(replaced, Index) else None
            current = index if index and self._current_until(index) == math.inf else None
            if not varies_on and current is None:
                await self.records.put(self.key, entry)
                await self.records.retire(replaced, by=entry)
                await self.records.keep_for_ever(self.key, entry)
                await self._delete_unless("", written)
                return None
            if self._variants is None:
                return NotCached.NO_REQUEST
            grown = self._variants.with_names(current, varies_on)
            before, written = written, self._variants.key(grown)
            await self._delete_unless(written, before)
            if await self._variants.publish(entry, grown, value):
                if index is None or index.generation != grown.generation:
                    await self.records.retire(replaced)
                await self.records.keep_for_ever(written, entry)
                return None
            values = await self._current()
        await self._delete_unless("", written)
        return NotCached.OVERTAKEN

    async def _delete_unless(self, key: str, written: str) -> None:
        """Delete the variant that the previous attempt wrote, unless this one has the same key."""
        if written not in ("", key):
            await self.store.delete_many([written])

    async def publish_value(self, payload: bytes, *, text: bool) -> NotCached | None:
        """Make a plain value the one that is served. Return why it was not published, or None."""
        if self._is_late():
            return NotCached.OVERTAKEN
        tags = await self._tag_versions()
        (value, *versions), _ = await asyncio.gather(
            self._current(),
            self.store.touch_many(self.depends.touched, self.lifetimes.versions),
        )
        if self.depends.as_versions(versions) != self._versions:
            return NotCached.OVERTAKEN
        replaced = await self.records.decode(self.key, value)
        await self.records.put(self.key, Value(key=b"", versions=tags, payload=payload, text=text))
        await self.records.retire(replaced)
        return None

    def _is_late(self) -> bool:
        """Whether a revocation since the run began may have expired already."""
        return asyncio.get_running_loop().time() - self._begun > self.lifetimes.longest_run

    # -- mark, revoke, retire ---------------------------------------------------------------

    async def mark_unstorable(self, reason: NotCached, varies_on: frozenset[str]) -> None:
        """Remember for a while that this variant can't be stored (hit-for-miss)."""
        (value,) = await self.store.get_many([self.key])
        if value and not is_ours(value):
            return
        current, key = await self.records.decode(self.key, value), self.key
        if current is not None and await self._until(current) < math.inf:
            current = None
        if isinstance(current, Entry | Value):
            # Another run was stored meanwhile.
            return
        if varies_on or isinstance(current, Index):
            if self._variants is None:
                return
            if not isinstance(current, Index):
                current = self._variants.with_names(None, varies_on)
                if not await self.records.swap(value, current):
                    return
            elif not varies_on <= {*names_of(current)}:
                # The mark would be found by requests that differ in what is not known yet.
                return
            key = self._variants.mark_key(current)
        await self.records.put(key, Marker(key=b"", versions={}, detail=reason.word))

    async def revoke(self) -> None:
        """Invalidate this resource with all of its variants, also for runs that go on."""
        ttl = self.lifetimes.longest_run + MARGIN
        await self.store.set_many([(self._revocation, new_id())], ttl)
        if self.records.leaves_bodies:
            (value,) = await self.store.get_many([self.key])
            await self.records.retire(await self.records.decode(self.key, value))
        await self.store.delete_many([self.key])

    async def delete(self, hit: Hit) -> None:
        """Delete a record whose body is not whole."""
        await self.records.delete(hit.key, hit.entry)

    async def expire(self, entry: Entry) -> None:
        """Let an entry that never expires live for one more longest run."""
        if self.lifetimes.ttl is None:
            await self.records.retire(entry)
            await self.store.touch_many([self.key], self.lifetimes.longest_run)
