"""The index of a resource whose responses vary (RFC 9111, section 4.1)."""

from __future__ import annotations

import dataclasses

from stream_cached.entries.ids import new_id
from stream_cached.entries.records import Records
from stream_cached.format.envelope import key_digest
from stream_cached.format.records import Entry, Index
from stream_cached.keys.variants import Select


class VariantIndex:
    """
    Where the variants of one resource are.

    Args:
        records: The records of the resource.
        select: Returns the digest of the request's values for some headers.
        max_variants: How many variants are kept.
    """

    def __init__(self, records: Records, select: Select, max_variants: int) -> None:
        self._records = records
        self._select = select
        self._max_variants = max_variants

    def key(self, index: Index) -> str:
        return self._records.variant_key(index, self._select(index.names))

    def with_names(self, index: Index | None, names: frozenset[str]) -> Index:
        """Return the index if it has these names, otherwise a new and empty one that has."""
        known = frozenset(index.names) if index else frozenset()
        if index is not None and names <= known:
            return index
        return Index(
            key=key_digest(self._records.key),
            versions=self._records.versions,
            names=tuple(sorted(known | names)),
            variants=(),
            generation=new_id(),
        )

    async def publish(self, entry: Entry, index: Index, expected: bytes | None) -> bool:
        """Write an entry as a variant. Return False if the index was not `expected` any more."""
        records = self._records
        variant = self._select(index.names)
        others = [other for other in index.variants if other != variant]
        kept = others[max(0, len(others) + 1 - self._max_variants) :]
        dropped = [other for other in others if other not in kept]
        await records.retire_variants(index, (*dropped, variant), by=entry)
        await records.put(self.key(index), entry)
        grown = dataclasses.replace(index, variants=(*kept, variant))
        done = await records.swap(expected, grown)
        if done and dropped:
            await records.store.delete_many([records.variant_key(index, d) for d in dropped])
        return done
