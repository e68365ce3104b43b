"""The protocol that the engine speaks to, bytes only, and what it may rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

#: Stands for a value that is not bytes.
FOREIGN = b"\x00"


class Store(Protocol):
    """
    A key-value store with expiry.

    Guarantees, which `tests/stores/test_contract.py` holds every store to:

    - A write is visible to every later read of this and any other client once its call returned.
    - Values come back byte for byte. A value that is not bytes (a memory cache of aiocache holds
      any object) is given as `FOREIGN`: there is something, and it is not ours.
    - A missing and an expired key are the same: None.
    - `ttl` is in seconds, also fractions and more than 30 days; None means that it never expires.
      A store may round it up to whole seconds, never down. (memcached's clock ticks once a second,
      and may be that much early.)
    - Keys may have any length and any characters. Distinct keys may share a place in the store
      (aiocache's memcached backend writes a space as `_`); records say which key they are for.
    - Any failure, a time-out too, is a `StoreError`, and leaves each key either as it was or as it
      should have become. A cancelled call may have taken effect.
    """

    @property
    def capacity(self) -> int | None:
        """Bytes that the store can hold, None if unbounded or unknown."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, in one round trip where the store can."""
        ...

    async def set_many(self, items: Sequence[tuple[str, bytes]], ttl: float | None) -> None:
        """Set each key, whatever it held; not atomic over several keys."""
        ...

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        """Set the key if it is missing; return whether it was."""
        ...

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        """Set the key if it holds `expected`; return whether it did. Atomic."""
        ...

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        """Give each key a new ttl; return how many of them exist."""
        ...

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete each key; a missing one is no error."""
        ...

    async def ping(self) -> None:
        """Ask for a sign of life; raise `StoreError` without one."""
        ...


@runtime_checkable
class AddsAndGets(Protocol):
    """A store that can do two things in one round trip."""

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]:
        """Do what `add` does, then what `get_many` does."""
        ...


class Wakeup(Protocol):
    """What one waits with for a channel."""

    async def wait(self, seconds: float) -> None:
        """Wait until something is new since the last time, but no longer than that."""
        ...

    def close(self) -> None:
        """Wait no more."""
        ...


@runtime_checkable
class Wakes(Protocol):
    """A store that can wake others, which would otherwise have to look again and again."""

    async def set_and_wake(
        self, items: Sequence[tuple[str, bytes]], ttl: float | None, channel: str
    ) -> None:
        """Do what `set_many` does, and wake those who wait for a channel."""
        ...

    def wakeup(self, channel: str) -> Wakeup:
        """Return something to wait with for a channel; it may be that nothing ever comes."""
        ...


async def set_and_wake(
    store: Store, items: Sequence[tuple[str, bytes]], ttl: float | None, channel: str
) -> None:
    """
    Set keys, and wake those who wait for a channel, where the store can.

    Raises:
        StoreError: The store failed.
    """
    if isinstance(store, Wakes):
        await store.set_and_wake(items, ttl, channel)
    else:
        await store.set_many(items, ttl)


def wakeup(store: Store, channel: str) -> Wakeup:
    """Return something to wait with for a channel; where the store can't wake anybody, a timer."""
    return store.wakeup(channel) if isinstance(store, Wakes) else _Timer()


class _Timer:
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def close(self) -> None:
        return


async def add_and_get_many(
    store: Store, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
) -> tuple[bool, list[bytes | None]]:
    """
    Set a key if it is missing, then read others; in one round trip where the store can.

    Raises:
        StoreError: The store failed.
    """
    if isinstance(store, AddsAndGets):
        return await store.add_and_get_many(key, value, ttl, keys)
    return await store.add(key, value, ttl), await store.get_many(keys)


def as_bytes(value: object) -> bytes | None:
    """Return what a store holds as the protocol gives it: `FOREIGN` for what is not bytes."""
    if value is None or isinstance(value, bytes):
        return value
    return FOREIGN
