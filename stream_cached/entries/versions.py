"""Versions: what every entry of a function, an argument or a tag depends on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from stream_cached.entries.ids import as_id, new_id, softened, stale_since, version_of
from stream_cached.errors import StoreError
from stream_cached.format.records import Record
from stream_cached.stores.protocol import Store

#: How often to look for a version, or to soften one, that others replace at the same time.
_ATTEMPTS = 5


class Dependencies:
    """
    The versions that the records of one resource depend on.

    Args:
        needs: The keys of the versions of all of its records: its endpoint's, its tags'.
        revocation: The key of the version that there is once the resource was revoked.
        witness: For entries whose tags are known only once they are made: the key of a version that
            each invalidation of a tag replaces. Nothing is published once that has happened.
    """

    def __init__(self, needs: Sequence[str], revocation: str, witness: str | None) -> None:
        self.needs = tuple(needs)
        self.read = self.needs if witness is None else (*self.needs, witness)
        """The keys of the versions that have to be there before a run."""
        self.tags: tuple[str, ...] = ()
        """The keys of the versions of the tags that an entry turned out to have."""
        self._witness = witness
        self._revocation = revocation

    @property
    def keys(self) -> list[str]:
        return [*self.read, self._revocation]

    @property
    def touched(self) -> list[str]:
        """The keys of the versions that have to outlive an entry."""
        return [*self.read, *self.tags]

    def as_versions(self, values: Sequence[bytes | None]) -> dict[str, bytes]:
        """Return the versions in the values of `keys`."""
        *found, revocation = values
        pairs = zip(self.read, found, strict=True)
        versions = {key: version for key, value in pairs if (version := version_of(value))}
        if revocation is not None:
            # A damaged revocation counts, too: what was revoked must not be served.
            versions[self._revocation] = as_id(revocation)
        return versions

    def seen(self, values: Mapping[str, bytes | None]) -> dict[str, bytes]:
        """Return those of some values that have to be there before a run, as far as they are."""
        return {key: value for key in self.read if (value := values.get(key)) is not None}

    def expected(self, known: Mapping[str, bytes]) -> list[bytes | None] | None:
        """Return what `keys` hold if nothing has changed since; None if not all that is known."""
        if not known.keys() >= {*self.read}:
            return None
        return [*(known[key] for key in self.read), None]

    def recorded(self, versions: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Return what a record depends on: not on what happens to the tags of others."""
        if self._witness is None:
            return versions
        return {key: version for key, version in versions.items() if key != self._witness}

    def current_until(
        self, record: Record, versions: Mapping[str, bytes], seen: Mapping[str, bytes | None]
    ) -> float:
        """
        Return infinity for a current record, the time of a soft invalidation, or less than 0.

        Args:
            record: The record.
            versions: The current versions.
            seen: The values that they stand in.
        """
        until = math.inf
        # A missing version is a miss: an evicted version must not bring old entries back.
        for key in self.needs:
            if key not in versions:
                return -math.inf
            until = min(until, _until(seen.get(key), versions[key], record.versions.get(key)))
        revoked = versions.get(self._revocation)
        is_revoked = revoked is not None and record.versions.get(self._revocation) != revoked
        return -math.inf if is_revoked else until

    def tags_of(self, record: Record) -> list[str]:
        """Return the keys of the versions of the tags that a record names itself."""
        if self._witness is None:
            return []
        return sorted(record.versions.keys() - {*self.keys})

    @staticmethod
    def tags_until(record: Record, values: Mapping[str, bytes | None]) -> float:
        """Return what `current_until` does, with regard to the values of those versions."""
        return min(
            _until(value, version_of(value), record.versions[key]) for key, value in values.items()
        )


def _until(value: bytes | None, version: bytes | None, own: bytes | None) -> float:
    if version is None:
        return -math.inf
    if version == own:
        return math.inf
    since = stale_since(value, own)
    return -math.inf if since is None else since


async def current_versions(
    store: Store, keys: Sequence[str], ttl: float | None
) -> dict[str, bytes]:
    """Return the versions under keys, a new one where there is none; most of them are there."""
    values = await store.get_many(keys) if keys else []
    found = {k: id_ for k, value in zip(keys, values, strict=True) if (id_ := version_of(value))}
    return found | await added_versions(store, [key for key in keys if key not in found], ttl)


async def added_versions(store: Store, keys: Sequence[str], ttl: float | None) -> dict[str, bytes]:
    """Return the versions under keys, a new one where there is none; few of them are there."""
    if len(keys) == 1:
        # Without a task of its own: that of the endpoint is missing in most cold calls.
        return {keys[0]: await _added_version(store, keys[0], ttl)}
    added = await asyncio.gather(*(_added_version(store, key, ttl) for key in keys))
    return dict(zip(keys, added, strict=True))


async def _added_version(store: Store, key: str, ttl: float | None) -> bytes:
    """Return the version under a key, a new one if there is none."""
    for _ in range(_ATTEMPTS):
        version = new_id()
        if await store.add(key, version, ttl):
            return version
        (found,) = await store.get_many([key])
        if existing := version_of(found):
            return existing
        if found is not None:
            # The version is damaged, so that no record of that version is served any more.
            await store.compare_and_set(key, found, version, ttl)
    raise StoreError("a version that was added is not there")


async def renew_version(store: Store, version: str, ttl: float | None) -> None:
    """Invalidate every entry that depends on a version."""
    await store.set_many([(version, new_id())], ttl)


async def soften_version(store: Store, version: str, ttl: float | None, now: float) -> None:
    """Make every entry that depends on a version stale, as of `now` in seconds since the epoch."""
    for _ in range(_ATTEMPTS):
        (value,) = await store.get_many([version])
        if value is None or version_of(value) is None:
            break
        if await store.compare_and_set(version, value, softened(value, now), ttl):
            return
    await renew_version(store, version, ttl)
