"""The index of a resource whose responses vary (RFC 9111, section 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stream_cached.entries.ids import new_id
from stream_cached.entries.records import Records
from stream_cached.format.envelope import key_digest
from stream_cached.format.records import Entry, Index, Record
from stream_cached.keys.variants import Select

#: How many sets of names are kept that responses of one resource had in their Vary.
MAX_SETS = 8


def names_of(index: Index) -> tuple[str, ...]:
    """Return all the headers that select among the variants of an index."""
    sets = index.names[:MAX_SETS]
    return sets[0] if len(sets) == 1 else tuple(sorted({name for names in sets for name in names}))


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

    async def matching(
        self, index: Index, seen: dict[str, bytes | None]
    ) -> list[tuple[str, Record | None]]:
        """
        Read the records that the request matches, the one that was published last first.

        Each response selects by the names in its own Vary. What is read is added to `seen`.
        """
        records, keys = self._records, self._matching_keys(index)
        values = dict(zip(keys, await records.read(keys[0], keys), strict=True))
        seen.update(values)
        return [
            (key, records.known(key, value) or await records.decode(key, value))
            for key, value in values.items()
        ]

    def _matching_keys(self, index: Index) -> Sequence[str]:
        sets = index.names[:MAX_SETS]
        if len(sets) == 1:
            return [self.key(index)]
        digests = {*map(self._select, sets)}
        published = [each for each in reversed(index.variants) if each in digests]
        found = [self._records.variant_key(index, variant) for variant in published]
        return list(dict.fromkeys((*found, self.mark_key(index))))

    def key(self, index: Index) -> str:
        """Return the key of a response with the names that the index was given last."""
        return self._records.variant_key(index, self._select(index.names[0]))

    def mark_key(self, index: Index) -> str:
        """Return the key of a mark, which is for requests that have all of the values."""
        return self._records.variant_key(index, self._select(names_of(index)))

    def with_names(self, index: Index | None, names: frozenset[str]) -> Index:
        """Return the index, or a new one, for a response that has these names in its Vary."""
        own = tuple(sorted(names))
        if index is not None:
            others = [each for each in index.names if each != own]
            return dataclasses.replace(index, names=(own, *others)[:MAX_SETS])
        return Index(
            key=key_digest(self._records.key),
            versions=self._records.versions,
            names=(own,),
            variants=(),
            generation=new_id(),
        )

    async def publish(self, entry: Entry, index: Index, expected: bytes | None) -> bool:
        """Write an entry as a variant. Return False if the index was not `expected` any more."""
        records = self._records
        variant = self._select(index.names[0])
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
