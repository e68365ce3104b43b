"""The store that compresses what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream_cached.store import Store

Transform = Callable[[bytes], bytes]


class CompressedStore:
    """
    A store whose values are compressed; one that is not comes out as it is.

    Args:
        store: Where the values are.
        compress: Compresses a value.
        decompress: Does the reverse, and raises where it can't.
    """

    def __init__(self, store: Store, compress: Transform, decompress: Transform) -> None:
        self._store = store
        self._compress = compress
        self._decompress = decompress

    @property
    def capacity(self) -> int | None:
        return self._store.capacity

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._plain(value) for value in await self._store.get_many(keys)]

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        await self._store.set_many([(key, self._compress(value)) for key, value in items], ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return await self._store.add(key, self._compress(value), ttl)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        # Equal values need not be compressed to equal ones.
        (stored,) = await self._store.get_many([key])
        if stored is None or self._plain(stored) != expected:
            return False
        return await self._store.compare_and_set(key, stored, self._compress(value), ttl)

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return await self._store.touch_many(keys, ttl)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._store.delete_many(keys)

    async def ping(self) -> None:
        await self._store.ping()

    def _plain(self, value: bytes | None) -> bytes | None:
        if value is None:
            return None
        try:
            return self._decompress(value)
        # Whatever a compressor raises over what it did not write: whoever reads it finds that out.
        except Exception:
            return value
