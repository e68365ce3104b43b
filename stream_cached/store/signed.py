"""The store that signs what it writes, for a cache that others can write to.

Each value is followed by an HMAC-SHA256 over the namespace, the key and the value, which is checked
before anything looks into it. Nothing that is not signed gets through, not even as bytes. What a
signature can't tell is when a value was written: whoever can write to the cache can put back what
stood under the same key before, keep it beyond its ttl, or delete it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from stream_cached.entry import MAGIC, is_ours
from stream_cached.store import FOREIGN, Store, Wakeup, add_and_get_many, set_and_wake, wakeup

#: Stands for a record or a segment that is not signed: for whoever reads it, one that is cut.
UNSOUND = MAGIC[:4]

_SIZE = 32

# No other use of the same secret signs what begins like this.
_LABEL = b"stream_cached: signed value, version 1\n"


class SignedStore:
    """
    A store whose values can't be made up, altered, or moved to another key or namespace.

    A value that is not signed, or not for its key, comes out as `UNSOUND` where it claims to be of
    this library's format, and as `FOREIGN` otherwise.

    Args:
        store: Where the values are, with their signatures.
        secrets: The first one signs, all of them verify.
        context: The namespace of the keys.
    """

    def __init__(self, store: Store, secrets: Sequence[bytes], context: str) -> None:
        self._store = store
        common = _LABEL + _delimited(context)
        self._signers = [hmac.new(secret, common, "sha256") for secret in secrets]

    @property
    def capacity(self) -> int | None:
        return self._store.capacity

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._all_verified(keys, await self._store.get_many(keys))

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        await self._store.set_many([(key, self._signed(key, value)) for key, value in items], ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return await self._store.add(key, self._signed(key, value), ttl)

    async def set_and_wake(
        self, items: Sequence[tuple[str, bytes]], ttl: float | None, channel: str
    ) -> None:
        """Do what `set_many` does, and wake those who wait for a channel, where the store can."""
        signed = [(key, self._signed(key, value)) for key, value in items]
        await set_and_wake(self._store, signed, ttl, channel)

    def wakeup(self, channel: str) -> Wakeup:
        """Return something to wait with for a channel."""
        return wakeup(self._store, channel)

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]:
        """Do what `add` does, then what `get_many` does, in one round trip where the store can."""
        done, values = await add_and_get_many(self._store, key, self._signed(key, value), ttl, keys)
        return done, self._all_verified(keys, values)

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        # Which of the secrets signed it, if any did, only what is there can tell.
        (stored,) = await self._store.get_many([key])
        if stored is None or self._verified(key, stored) != expected:
            return False
        return await self._store.compare_and_set(key, stored, self._signed(key, value), ttl)

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        return await self._store.touch_many(keys, ttl)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._store.delete_many(keys)

    async def ping(self) -> None:
        await self._store.ping()

    def _signed(self, key: str, value: bytes) -> bytes:
        return value + self._signature(self._signers[0], _delimited(key), value)

    def _all_verified(
        self, keys: Sequence[str], values: Sequence[bytes | None]
    ) -> list[bytes | None]:
        return [self._verified(key, value) for key, value in zip(keys, values, strict=True)]

    def _verified(self, key: str, stored: bytes | None) -> bytes | None:
        """Return a value without its signature, or what stands for one that is not signed."""
        if stored is None:
            return None
        if len(stored) >= _SIZE:
            prefix, whole = _delimited(key), memoryview(stored)
            value, found = whole[:-_SIZE], whole[-_SIZE:]
            for signer in self._signers:
                if hmac.compare_digest(self._signature(signer, prefix, value), found):
                    return bytes(value)
        return UNSOUND if is_ours(stored) else FOREIGN

    @staticmethod
    def _signature(signer: hmac.HMAC, prefix: bytes, value: bytes | memoryview) -> bytes:
        signing = signer.copy()
        signing.update(prefix)
        signing.update(value)
        return signing.digest()


def _delimited(text: str) -> bytes:
    """Return a text with its length, so that it can't run into what follows."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "big") + encoded
