"""A store over another one, which changes the values on their way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from stream_cached.stores.protocol import Store, Wakeup, add_and_get_many, set_and_wake, wakeup


class TransformedStore(ABC):
    """
    A store whose values stand in another form in the one below.

    Args:
        store: Where the values are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @abstractmethod
    def _to_store(self, key: str, value: bytes) -> bytes:
        """Return what is written for a value."""

    @abstractmethod
    def _from_store(self, key: str, stored: bytes) -> bytes:
        """Return what a value that is there comes out as."""

    @property
    def capacity(self) -> int | None:
        return self._store.capacity

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._all_from_store(keys, await self._store.get_many(keys))

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        await self._store.set_many(self._all_to_store(items), ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return await self._store.add(key, self._to_store(key, value), ttl)

    async def set_and_wake(
        self, items: Sequence[tuple[str, bytes]], ttl: float | None, channel: str
    ) -> None:
        """Do what `set_many` does, and wake those who wait for a channel, where the store can."""
        await set_and_wake(self._store, self._all_to_store(items), ttl, channel)

    def wakeup(self, channel: str) -> Wakeup:
        """Return something to wait with for a channel."""
        return wakeup(self._store, channel)

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]:
        """Do what `add` does, then what `get_many` does, in one round trip where the store can."""
        written = self._to_store(key, value)
        done, values = await add_and_get_many(self._store, key, written, ttl, keys)
        return done, self._all_from_store(keys, values)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        # In which form it is there (by which secret, say), only what is there can tell.
        (stored,) = await self._store.get_many([key])
        if stored is None or self._from_store(key, stored) != expected:
            return False
        return await self._store.compare_and_set(key, stored, self._to_store(key, value), ttl)

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return await self._store.touch_many(keys, ttl)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._store.delete_many(keys)

    async def ping(self) -> None:
        await self._store.ping()

    def _all_to_store(self, items: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [(key, self._to_store(key, value)) for key, value in items]

    def _all_from_store(
        self, keys: Sequence[str], values: Sequence[bytes | None]
    ) -> list[bytes | None]:
        return [
            None if stored is None else self._from_store(key, stored)
            for key, stored in zip(keys, values, strict=True)
        ]
