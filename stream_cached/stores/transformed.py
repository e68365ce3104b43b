"""Stores over another store that transform the values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from stream_cached.stores.protocol import (
    Commit,
    Items,
    NewLease,
    Store,
    Wakeup,
    add_and_get_many,
    commit_at_once,
    compare_and_delete,
    look_and_claim,
    may_claim,
    may_commit,
    set_and_wake,
    wakeup,
)

Transform = Callable[[bytes], bytes]


class TransformedStore(ABC):
    """A store that keeps its values in another form in the store below."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @abstractmethod
    def _to_store(self, key: str, value: bytes) -> bytes:
        """Return the form in which the store below keeps a value."""

    @abstractmethod
    def _from_store(self, key: str, stored: bytes) -> bytes:
        """Return the value for the form in the store below."""

    @property
    def capacity(self) -> int | None:
        return self._store.capacity

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._all_from_store(keys, await self._store.get_many(keys))

    async def set_many(self, items: Items, ttl: float | None) -> None:
        await self._store.set_many(self._all_to_store(items), ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return await self._store.add(key, self._to_store(key, value), ttl)

    async def set_and_wake(self, items: Items, ttl: float | None, channel: str) -> None:
        await set_and_wake(self._store, self._all_to_store(items), ttl, channel)

    def wakeup(self, channel: str) -> Wakeup:
        return wakeup(self._store, channel)

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]:
        written = self._to_store(key, value)
        done, values = await add_and_get_many(self._store, key, written, ttl, keys)
        return done, self._all_from_store(keys, values)

    @property
    def may_claim(self) -> bool:
        return may_claim(self._store)

    async def look_and_claim(
        self, lease: NewLease, keys: Sequence[str], expected: Sequence[bytes | None]
    ) -> tuple[bool, list[bytes | None]]:
        (key, value, ttl), versions = lease, zip(keys[1:], expected, strict=True)
        # What is stored in another form than it would be written in now counts as changed.
        stored = [None if each is None else self._to_store(name, each) for name, each in versions]
        written = key, self._to_store(key, value), ttl
        is_taken, values = await look_and_claim(self._store, written, keys, stored)
        return is_taken, self._all_from_store(keys, values)

    @property
    def may_commit(self) -> bool:
        return may_commit(self._store)

    async def commit(self, commit: Commit) -> tuple[bool, bool]:
        # What is stored in another form than it would be written in now counts as changed.
        expected = {
            key: None if value is None else self._to_store(key, value)
            for key, value in commit.expected.items()
        }
        lease = commit.lease
        if lease is not None:
            lease = replace(lease, value=self._to_store(lease.key, lease.value))
        value, last = self._to_store(commit.key, commit.value), self._all_to_store(commit.last)
        changed = replace(commit, value=value, expected=expected, last=last, lease=lease)
        return await commit_at_once(self._store, changed)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        # The expected value may be stored in several forms (signed with another secret, say), so
        # the stored form has to be read first.
        (stored,) = await self._store.get_many([key])
        if stored is None or self._from_store(key, stored) != expected:
            return False
        return await self._store.compare_and_set(key, stored, self._to_store(key, value), ttl)

    async def compare_and_delete(self, key: str, expected: bytes) -> bool:
        (stored,) = await self._store.get_many([key])
        if stored is None or self._from_store(key, stored) != expected:
            return False
        return await compare_and_delete(self._store, key, stored)

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return await self._store.touch_many(keys, ttl)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._store.delete_many(keys)

    async def ping(self) -> None:
        await self._store.ping()

    def _all_to_store(self, items: Items) -> list[tuple[str, bytes]]:
        return [(key, self._to_store(key, value)) for key, value in items]

    def _all_from_store(
        self, keys: Sequence[str], values: Sequence[bytes | None]
    ) -> list[bytes | None]:
        return [
            None if stored is None else self._from_store(key, stored)
            for key, stored in zip(keys, values, strict=True)
        ]


class CompressedStore(TransformedStore):
    """A store that compresses its values; it also returns values that are not compressed."""

    def __init__(self, store: Store, compress: Transform, decompress: Transform) -> None:
        super().__init__(store)
        self._compress = compress
        self._decompress = decompress

    def _to_store(self, key: str, value: bytes) -> bytes:
        return self._compress(value)

    def _from_store(self, key: str, stored: bytes) -> bytes:
        try:
            return self._decompress(stored)
        # A compressor may raise anything for bytes that it did not write. The decoder of the
        # record reports such bytes as unsound.
        except Exception:
            return stored
