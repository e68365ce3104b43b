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
from typing import Protocol

from stream_cached.entries.body import Body
from stream_cached.entries.found import Foreign, Found, Hit, Miss, StoredValue, Unstorable
from stream_cached.entries.ids import as_id, new_id, stale_since, version_of
from stream_cached.entries.lifetimes import MARGIN, Lifetimes
from stream_cached.entries.local import LocalEntries
from stream_cached.entries.records import Records
from stream_cached.entries.variant_index import VariantIndex
from stream_cached.errors import StoreError
from stream_cached.format.envelope import is_ours
from stream_cached.format.records import Entry, Index, Marker, Record, Value
from stream_cached.http.reasons import NotCached
from stream_cached.keys.names import revocation_key
from stream_cached.keys.variants import Select
from stream_cached.stores.protocol import Store

#: How often to look for a version that another process seems to have added.
_ATTEMPTS = 5

#: How often to try to add a variant to an index. Many variants may be published at once, and each
#: one changes the index.
_SWAPS = 64


class KeySets(Protocol):
    """Sets of keys that a cache keeps by tag."""

    async def enlist(self, resource: Resource, keys: Sequence[str]) -> None: ...


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
    ) -> None:
        self.store = store
        self.key = key
        self.select = select
        self.names: tuple[str, ...] = ()
        """The headers that are known to select among its responses."""
        self.seen: Mapping[str, bytes | None] = {}
        """The values that the last look-up read, by key."""
        self.local = local
        self._records = Records(store, key, lifetimes, local)
        self._variants = VariantIndex(self._records, select, max_variants) if select else None
        self._needs = tuple(needs)
        self._revocation = revocation_key(key)
        self._versions: dict[str, bytes] = {}
        self._begun = 0.0
        self._key_sets = key_sets

    @property
    def lifetimes(self) -> Lifetimes:
        return self._records.lifetimes

    def set_ttl(self, ttl: float | None) -> None:
        """Let an entry live for another time than was said at first."""
        self._records.set_ttl(ttl)

    @property
    def versions(self) -> Mapping[str, bytes]:
        """The versions that what is recorded now depends on."""
        return self._versions

    @property
    def place(self) -> str:
        """The key of the request's variant, as far as the variant is known."""
        if not self.names or self.select is None:
            return self.key
        return f"{self.key}:{self.select(self.names)}"

    def body(self, generation: bytes) -> Body:
        return self._records.body(generation)

    # -- look-up ----------------------------------------------------------------------------

    async def look_up(self) -> Found:
        """Find what can be served. The versions are read in the same round trip."""
        keys, records = self._keys, self._records
        value, *versions = values = await records.read(self.key, keys)
        seen = self.seen = dict(zip(keys, values, strict=True))
        self._set_versions(self._as_versions(versions))
        if value and not is_ours(value):
            return Foreign()
        record = records.known(self.key, value) or await records.decode(self.key, value)
        if isinstance(record, Index):
            if self._current_until(record) < 0:
                return Miss()
            self.names = record.names
            if self._variants is None:
                return Miss(varied=True)
            key = self._variants.key(record)
            (value,) = await records.read(key, [key])
            seen[key] = value
            record = records.known(key, value) or await records.decode(key, value)
            return self._found(key, record) or Miss(varied=True)
        return self._found(self.key, record) or Miss()

    def _found(self, key: str, record: Record | None) -> Found | None:
        if record is None:
            return None
        until = self._current_until(record)
        if until < 0 or (until < math.inf and not isinstance(record, Entry)):
            return None
        match record:
            case Entry():
                since = until if until < math.inf else None
                return Hit(key, record, since, self._records.at_hand(record))
            case Marker():
                return Unstorable(record.detail)
            case Value():
                return StoredValue(record.payload, record.text)
            case Index():
                return None

    async def _sound(self, key: str, value: bytes | None) -> Record | None:
        """Decode a record of this key, of the current versions or of softly replaced ones."""
        record = await self._records.decode(key, value)
        if record is None or self._current_until(record) < 0:
            return None
        return record

    def _is_current(self, record: Record) -> bool:
        return self._current_until(record) == math.inf

    def _current_until(self, record: Record) -> float:
        """Return infinity for a current record, the time of a soft invalidation, or less than 0."""
        until, versions = math.inf, self._versions
        # A missing version is a miss: an evicted version must not bring old entries back.
        for key in self._needs:
            version, own = versions.get(key), record.versions.get(key)
            if version is None:
                return -math.inf
            if own != version:
                since = stale_since(self.seen.get(key), own)
                until = min(until, -math.inf if since is None else since)
        revoked = versions.get(self._revocation)
        is_revoked = revoked is not None and record.versions.get(self._revocation) != revoked
        return -math.inf if is_revoked else until

    async def _current(self) -> list[bytes | None]:
        return await self.store.get_many(self._keys)

    @property
    def _keys(self) -> list[str]:
        return [self.key, *self._needs, self._revocation]

    # -- versions ---------------------------------------------------------------------------

    def _set_versions(self, versions: dict[str, bytes]) -> None:
        self._versions = versions
        self._records.set_versions(versions)

    def _as_versions(self, values: Sequence[bytes | None]) -> dict[str, bytes]:
        *found, revocation = values
        pairs = zip(self._needs, found, strict=True)
        versions = {key: version for key, value in pairs if (version := version_of(value))}
        if revocation is not None:
            # A damaged revocation counts, too: what was revoked must not be served.
            versions[self._revocation] = as_id(revocation)
        return versions

    async def begin(self) -> None:
        """Make sure that there are versions to record under."""
        self._begun = asyncio.get_running_loop().time()
        added = {key: await self._added(key) for key in self._needs if key not in self._versions}
        self.seen = {**self.seen, **added}
        self._set_versions({**self._versions, **added})
        await self._enlist(self._needs)

    async def _added(self, key: str) -> bytes:
        """Return the version under a key, a new one if there is none."""
        ttl = self.lifetimes.versions
        for _ in range(_ATTEMPTS):
            version = new_id()
            if await self.store.add(key, version, ttl):
                return version
            (found,) = await self.store.get_many([key])
            if existing := version_of(found):
                return existing
            if found is not None:
                # The version is damaged, so that no record of that version is served any more.
                await self.store.compare_and_set(key, found, version, ttl)
        raise StoreError("a version that was added is not there")

    async def is_current(self) -> bool:
        _, *versions = await self._current()
        return self._as_versions(versions) == self._versions

    async def was_replaced(self) -> bool:
        """Whether another run has been stored since the look-up."""
        value, *_ = await self._current()
        return value != self.seen.get(self.key)

    # -- publish ----------------------------------------------------------------------------

    async def publish(self, entry: Entry, varies_on: frozenset[str]) -> NotCached | None:
        """
        Make a recorded response the one that is served from now on.

        `varies_on` has the names in its Vary that are not part of the resource's key. Return why
        the entry was not published, None if it was. After a `StoreError` it may be published.
        """
        if self._is_late():
            return NotCached.OVERTAKEN
        body, segments = self.body(entry.generation), range(len(entry.segments))
        values, found, _ = await asyncio.gather(
            self._current(),
            body.renew(segments, self.lifetimes.segments),
            self.store.touch_many(self._needs, self.lifetimes.versions),
        )
        await self._enlist([self.key, *self._needs, *body.keys(segments)])
        if found != len(entry.segments):
            raise StoreError("segments are missing that were written")
        return await self._replace(entry, varies_on, values)

    async def _replace(
        self, entry: Entry, varies_on: frozenset[str], values: list[bytes | None]
    ) -> NotCached | None:
        written = ""
        for _ in range(_SWAPS):
            value, *versions = values
            if self._as_versions(versions) != self._versions:
                break
            replaced = await self._records.decode(self.key, value)
            index = replaced if isinstance(replaced, Index) else None
            current = index if index is not None and self._is_current(index) else None
            if not varies_on and current is None:
                await self._records.put(self.key, entry)
                await self._records.retire(replaced)
                await self._delete_unless("", written)
                return None
            if self._variants is None:
                return NotCached.NO_REQUEST
            grown = self._variants.with_names(current, varies_on)
            before, written = written, self._variants.key(grown)
            await self._delete_unless(written, before)
            if await self._variants.publish(entry, grown, value):
                if index is None or index.generation != grown.generation:
                    await self._records.retire(replaced)
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
        (value, *versions), _ = await asyncio.gather(
            self._current(),
            self.store.touch_many(self._needs, self.lifetimes.versions),
        )
        if self._as_versions(versions) != self._versions:
            return NotCached.OVERTAKEN
        replaced = await self._records.decode(self.key, value)
        await self._records.put(self.key, Value(key=b"", versions={}, payload=payload, text=text))
        await self._records.retire(replaced)
        return None

    def _is_late(self) -> bool:
        """Whether a revocation since the run began may have expired already."""
        return asyncio.get_running_loop().time() - self._begun > self.lifetimes.longest_run

    async def _enlist(self, keys: Sequence[str]) -> None:
        if self._key_sets is not None:
            await self._key_sets.enlist(self, keys)

    # -- mark, revoke, retire ---------------------------------------------------------------

    async def mark_unstorable(self, reason: NotCached, varies_on: frozenset[str]) -> None:
        """Remember for a while that this variant can't be stored (hit-for-miss)."""
        (value,) = await self.store.get_many([self.key])
        if value and not is_ours(value):
            return
        current, key = await self._sound(self.key, value), self.key
        if current is not None and not self._is_current(current):
            current = None
        if isinstance(current, Entry | Value):
            # Another run was stored meanwhile.
            return
        if varies_on or isinstance(current, Index):
            if self._variants is None:
                return
            index = current if isinstance(current, Index) else None
            grown = self._variants.with_names(index, varies_on)
            if grown is not current and (
                index is not None or not await self._records.swap(value, grown)
            ):
                # The other variants are worth more than the mark.
                return
            key = self._variants.key(grown)
        await self._records.put(key, Marker(key=b"", versions={}, detail=reason.word))

    async def revoke(self) -> None:
        """Invalidate this resource with all of its variants, also for runs that go on."""
        ttl = self.lifetimes.longest_run + MARGIN
        await self.store.set_many([(self._revocation, new_id())], ttl)
        if self.lifetimes.ttl is None:
            (value,) = await self.store.get_many([self.key])
            await self._records.retire(await self._records.decode(self.key, value))
        await self.store.delete_many([self.key])

    async def delete(self, hit: Hit) -> None:
        """Delete a record whose body is not whole."""
        await self.store.delete_many([hit.key])
        await self._records.retire(hit.entry)

    async def expire(self, entry: Entry) -> None:
        """Let an entry that never expires live for one more longest run."""
        if self.lifetimes.ttl is None:
            await self._records.retire(entry)
            await self.store.touch_many([self.key], self.lifetimes.longest_run)
