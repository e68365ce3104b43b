"""What the store knows about one resource: look it up, publish it, mark it, revoke it.

A record depends on versions (of its endpoint, and of its key where that was ever invalidated).
Invalidation replaces a version; a record made under another one is a miss. So a run that began
before an invalidation can't bring the old response back, however late it publishes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from stream_cached.errors import StoreError
from stream_cached.format.codec import UnsoundError, decode_record, encode_record
from stream_cached.format.envelope import ForeignVersionError, is_ours, key_digest
from stream_cached.format.records import Entry, Index, Marker, Record, Value
from stream_cached.http.reasons import NotCached
from stream_cached.keys.names import revocation_key, segment_key, variant_key
from stream_cached.stores.protocol import Store

#: Seconds by which segments, indexes and versions outlive the record that depends on them.
MARGIN = 60.0

#: Seconds for which a key is remembered as one whose response can't be stored.
UNSTORABLE_TTL = 120.0

#: Bytes of a version.
ID_SIZE = 16

_ATTEMPTS = 5

#: How often to try to put a variant into an index: each time another one was, so many may end at
#: once.
_SWAPS = 64


@dataclass(frozen=True, slots=True)
class Hit:
    """A complete and sound record."""

    key: str
    """The key that it stands under: the resource's, or its variant's."""
    entry: Entry


@dataclass(frozen=True, slots=True)
class Miss:
    """Nothing that can be served."""

    varied: bool = False
    """Whether there is an index, but not this variant."""


@dataclass(frozen=True, slots=True)
class Unstorable:
    """Not worth recording: the last response could not be stored."""

    detail: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """A value that this library did not write: one for the serializer."""


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A plain value that was published by `Resource.publish_value`."""

    payload: bytes
    """What the cache's serializer made of it."""
    text: bool
    """Whether that was text, now encoded."""


Found = Hit | Miss | Unstorable | Foreign | StoredValue


#: Seconds that a version lives at least where the ttls of what depends on it differ: one of a short
#: life must not end that of the others.
LONGEST_DIFFERENT = 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """
    How long things live in the store, in seconds.

    Args:
        ttl: Of an entry; None for ever.
        longest_run: Bound of one run.
        stale: How long an entry is kept once its ttl is over.
        differ: Whether the ttls of what depends on one version differ.
    """

    ttl: float | None
    longest_run: float
    stale: float = 0.0
    differ: bool = False

    @property
    def entry(self) -> float | None:
        """Of an entry, fresh and stale."""
        return None if self.ttl is None else self.ttl + self.stale

    @property
    def segments(self) -> float | None:
        """Of the segments of a committed entry, and of an index."""
        return None if self.entry is None else self.entry + MARGIN

    @property
    def versions(self) -> float | None:
        """Of a version: it outlives every record that a run may still make under it."""
        if self.differ:
            # What lives for longer is missed after that.
            return max(self.entry or 0.0, LONGEST_DIFFERENT) + self.longest_run + MARGIN
        return None if self.entry is None else self.entry + self.longest_run + MARGIN


class Resource:
    """
    One request's view of one resource in the store.

    Args:
        store: Where it is.
        key: Its key.
        needs: The keys of the versions that it depends on: its endpoint's, its tags'.
        lifetimes: How long what is written lives.
        select: Returns the digest of the request's values for the named headers; None where there
            is no request to take them from.
        new_id: Returns 16 random bytes.
        max_variants: How many variants are kept.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        needs: Sequence[str],
        lifetimes: Lifetimes,
        select: Callable[[Sequence[str]], str] | None,
        new_id: Callable[[], bytes],
        max_variants: int,
    ) -> None:
        self.store = store
        self.key = key
        self.lifetimes = lifetimes
        self._needs = tuple(needs)
        self._revocation = revocation_key(key)
        self._select = select
        self._new_id = new_id
        self._max_variants = max_variants
        self._versions: dict[str, bytes] = {}
        self._begun = 0.0
        self._seen: dict[str, bytes | None] = {}
        self.enlist: Callable[[Sequence[str]], Awaitable[None]] | None = None
        """Called with all keys of what is made before anything depends on them."""
        self.names: tuple[str, ...] = ()
        """The headers that are known to select among its responses."""

    async def look_up(self) -> Found:
        """
        Find what can be served; read the versions in the same round trip.

        Raises:
            StoreError: The store failed.
        """
        value, *versions = values = await self._current()
        self._seen = dict(zip(self._keys, values, strict=True))
        self._versions = self._as_versions(versions)
        if value and not is_ours(value):
            return Foreign()
        record = await self._sound(self.key, value)
        if isinstance(record, Index):
            self.names = record.names
            if self._select is None:
                return Miss(varied=True)
            key = variant_key(self.key, record.generation, self._select(record.names))
            (value,) = await self.store.get_many([key])
            self._seen[key] = value
            return self._found(key, await self._sound(key, value)) or Miss(varied=True)
        return self._found(self.key, record) or Miss()

    @staticmethod
    def _found(key: str, record: Record | None) -> Found | None:
        match record:
            case Entry():
                return Hit(key, record)
            case Marker():
                return Unstorable(record.detail)
            case Value():
                return StoredValue(record.payload, record.text)
            case Index() | None:
                return None

    async def _sound(self, key: str, value: bytes | None) -> Record | None:
        """Decode a record of this key and these versions; delete what is unsound."""
        record = await self._decode(key, value)
        return record if record is not None and self._is_current(record) else None

    async def _decode(self, key: str, value: bytes | None) -> Record | None:
        """Decode a record of this key, whatever its versions; delete what is unsound."""
        if not value or not is_ours(value):
            return None
        try:
            record = decode_record(value)
        except ForeignVersionError:
            return None
        except UnsoundError:
            await self.store.delete_many([key])
            return None
        return record if record.key == key_digest(key) else None

    def _is_current(self, record: Record) -> bool:
        # A missing version is a miss: an evicted one must not bring old entries back to life.
        for key in self._needs:
            version = self._versions.get(key)
            if version is None or record.versions.get(key) != version:
                return False
        revoked = self._versions.get(self._revocation)
        return revoked is None or record.versions.get(self._revocation) == revoked

    def _as_versions(self, values: Sequence[bytes | None]) -> dict[str, bytes]:
        *found, revocation = values
        pairs = zip(self._needs, found, strict=True)
        versions = {key: value for key, value in pairs if value and len(value) == ID_SIZE}
        if revocation is not None:
            # Also a damaged one: what was revoked must not come back to life.
            versions[self._revocation] = _as_id(revocation)
        return versions

    async def begin(self) -> None:
        """
        Make sure that there is a version to record under.

        Raises:
            StoreError: The store failed.
        """
        self._begun = asyncio.get_running_loop().time()
        for key in self._needs:
            if key not in self._versions:
                self._seen[key] = self._versions[key] = await self._added(key)
        if self.enlist is not None:
            await self.enlist(self._needs)

    async def _added(self, key: str) -> bytes:
        """Return the version under a key, a new one where there is none."""
        ttl = self.lifetimes.versions
        for _ in range(_ATTEMPTS):
            version = self._new_id()
            if await self.store.add(key, version, ttl):
                return version
            (found,) = await self.store.get_many([key])
            if found is not None and len(found) == ID_SIZE:
                return found
            if found is not None:
                # It is damaged, so that nothing that was made under it is served any more.
                await self.store.compare_and_set(key, found, version, ttl)
        raise StoreError("a version that was added is not there")

    @property
    def versions(self) -> Mapping[str, bytes]:
        """Those that what is recorded now depends on."""
        return self._versions

    @property
    def select(self) -> Callable[[Sequence[str]], str] | None:
        """Returns the digest of the request's values for some headers."""
        return self._select

    @property
    def place(self) -> str:
        """What tells this variant from the resource's others, as far as that is known."""
        if not self.names or self._select is None:
            return self.key
        return f"{self.key}:{self._select(self.names)}"

    async def is_current(self) -> bool:
        """
        Say whether nothing was invalidated since the look-up.

        Raises:
            StoreError: The store failed.
        """
        _, *versions = await self._current()
        return self._as_versions(versions) == self._versions

    async def publish(self, entry: Entry, varies_on: frozenset[str]) -> NotCached | None:
        """
        Make a recorded response the one that is served from now on.

        Args:
            entry: The response; its segments are stored already.
            varies_on: The names in its Vary that are not part of the resource's key.

        Returns:
            Why it was not published, None if it was.

        Raises:
            StoreError: The store failed; it may have been published all the same.
        """
        if self._is_late():
            return NotCached.OVERTAKEN
        values, segments, _ = await asyncio.gather(
            self._current(),
            self.store.touch_many(self._segments(entry), self.lifetimes.segments),
            self.store.touch_many(self._needs, self.lifetimes.versions),
        )
        if self.enlist is not None:
            await self.enlist([self.key, *self._needs, *self._segments(entry)])
        if segments != len(entry.segments):
            raise StoreError("segments are missing that were written")
        written = ""
        for _ in range(_SWAPS):
            value, *versions = values
            if self._as_versions(versions) != self._versions:
                break
            replaced = await self._decode(self.key, value)
            current = replaced if replaced and self._is_current(replaced) else None
            if not varies_on and not isinstance(current, Index):
                await self._put(self.key, entry)
                await self._retire(replaced)
                await self._delete_unless("", written)
                return None
            if self._select is None:
                return NotCached.NO_REQUEST
            index = self._grown(current if isinstance(current, Index) else None, varies_on)
            before = written
            written = variant_key(self.key, index.generation, self._select(index.names))
            await self._delete_unless(written, before)
            if await self._publish_variant(entry, index, value):
                if not isinstance(replaced, Index) or replaced.generation != index.generation:
                    await self._retire(replaced)
                return None
            values = await self._current()
        await self._delete_unless("", written)
        return NotCached.OVERTAKEN

    async def _delete_unless(self, key: str, written: str) -> None:
        """Delete what no index leads to, unless it is written anew."""
        if written not in ("", key):
            await self.store.delete_many([written])

    async def publish_value(self, payload: bytes, *, text: bool) -> NotCached | None:
        """
        Make a plain value the one that is served from now on.

        Args:
            payload: What the cache's serializer made of it.
            text: Whether that was text, now encoded.

        Returns:
            Why it was not published, None if it was.

        Raises:
            StoreError: The store failed; it may have been published all the same.
        """
        if self._is_late():
            return NotCached.OVERTAKEN
        (value, *versions), _ = await asyncio.gather(
            self._current(),
            self.store.touch_many(self._needs, self.lifetimes.versions),
        )
        if self._as_versions(versions) != self._versions:
            return NotCached.OVERTAKEN
        replaced = await self._decode(self.key, value)
        await self._put(self.key, Value(key=b"", versions={}, payload=payload, text=text))
        await self._retire(replaced)
        return None

    def _is_late(self) -> bool:
        """Whether a revocation since the run began may have expired already."""
        return asyncio.get_running_loop().time() - self._begun > self.lifetimes.longest_run

    async def _current(self) -> list[bytes | None]:
        """Read what stands under the key, and the versions."""
        return await self.store.get_many(self._keys)

    @property
    def _keys(self) -> list[str]:
        return [self.key, *self._needs, self._revocation]

    @property
    def seen(self) -> Mapping[str, bytes | None]:
        """What stood under the keys that the look-up has read."""
        return self._seen

    def _segments(self, entry: Entry) -> list[str]:
        count = len(entry.segments)
        return [segment_key(self.key, entry.generation, index) for index in range(count)]

    def _grown(self, index: Index | None, names: frozenset[str]) -> Index:
        """Return the index with these names; with other names than before it is a new one."""
        known = frozenset(index.names) if index else frozenset()
        if index is not None and names <= known:
            return index
        return Index(
            key=key_digest(self.key),
            versions=self._versions,
            names=tuple(sorted(known | names)),
            variants=(),
            generation=self._new_id(),
        )

    async def _publish_variant(self, entry: Entry, index: Index, expected: bytes | None) -> bool:
        assert self._select is not None
        variant = self._select(index.names)
        others = [other for other in index.variants if other != variant]
        kept = others[max(0, len(others) + 1 - self._max_variants) :]
        dropped = [other for other in others if other not in kept]
        await self._retire_variants(index, (*dropped, variant))
        await self._put(variant_key(self.key, index.generation, variant), entry)
        done = await self._swap(expected, dataclasses.replace(index, variants=(*kept, variant)))
        if done and dropped:
            keys = [variant_key(self.key, index.generation, other) for other in dropped]
            await self.store.delete_many(keys)
        return done

    async def _swap(self, expected: bytes | None, index: Index) -> bool:
        """Put an index in the place of what stood under the key, if it still does."""
        packed, ttl = encode_record(index), self.lifetimes.segments
        if expected is None:
            return await self.store.add(self.key, packed, ttl)
        return await self.store.compare_and_set(self.key, expected, packed, ttl)

    async def _put(self, key: str, record: Entry | Marker | Value) -> None:
        bound = dataclasses.replace(record, key=key_digest(key), versions=self._versions)
        ttl = self.lifetimes.entry if isinstance(bound, Entry) else self.lifetimes.ttl
        if isinstance(bound, Marker):
            ttl = UNSTORABLE_TTL if ttl is None else min(UNSTORABLE_TTL, ttl)
        await self.store.set_many([(key, encode_record(bound))], ttl)

    async def _retire(self, replaced: Record | None) -> None:
        """Let what only a replaced record leads to expire, where it would otherwise never do so."""
        if self.lifetimes.ttl is not None:
            return
        if isinstance(replaced, Entry):
            # Not at once: somebody may be reading them.
            await self.store.touch_many(self._segments(replaced), self.lifetimes.longest_run)
        elif isinstance(replaced, Index):
            await self._retire_variants(replaced, replaced.variants)

    async def _retire_variants(self, index: Index, variants: Sequence[str]) -> None:
        if self.lifetimes.ttl is not None or not variants:
            return
        keys = [variant_key(self.key, index.generation, variant) for variant in variants]
        for key, value in zip(keys, await self.store.get_many(keys), strict=True):
            await self._retire(await self._decode(key, value))
        await self.store.touch_many(keys, self.lifetimes.longest_run)

    async def mark_unstorable(self, reason: NotCached, varies_on: frozenset[str]) -> None:
        """
        Remember for a while that this response can't be stored (hit-for-miss).

        Args:
            reason: Why it can't.
            varies_on: As for `publish`; other variants are not marked.

        Raises:
            StoreError: The store failed.
        """
        (value,) = await self.store.get_many([self.key])
        if value and not is_ours(value):
            return
        current, key = await self._sound(self.key, value), self.key
        if isinstance(current, Entry | Value):
            # Another run was stored meanwhile.
            return
        if varies_on or isinstance(current, Index):
            index = self._grown(current if isinstance(current, Index) else None, varies_on)
            if self._select is None:
                return
            if index is not current and (
                isinstance(current, Index) or not await self._swap(value, index)
            ):
                # Other variants are worth more.
                return
            key = variant_key(self.key, index.generation, self._select(index.names))
        await self._put(key, Marker(key=b"", versions={}, detail=reason.word))

    async def revoke(self) -> None:
        """
        Invalidate this resource with all of its variants, also for runs that are on their way.

        Raises:
            StoreError: The store failed.
        """
        ttl = self.lifetimes.longest_run + MARGIN
        await self.store.set_many([(self._revocation, self._new_id())], ttl)
        if self.lifetimes.ttl is None:
            (value,) = await self.store.get_many([self.key])
            await self._retire(await self._decode(self.key, value))
        await self.store.delete_many([self.key])


def _as_id(value: bytes) -> bytes:
    """Return an id as it is, and for anything else one that stands for it."""
    if len(value) == ID_SIZE:
        return value
    return hashlib.blake2b(value, digest_size=ID_SIZE).digest()


async def renew_version(store: Store, version: str, new: bytes, lifetimes: Lifetimes) -> None:
    """
    Invalidate every entry that depends on a version.

    Raises:
        StoreError: The store failed.
    """
    await store.set_many([(version, new)], lifetimes.versions)
