"""The store protocol: bytes only, with the guarantees that the library relies on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast, runtime_checkable

from stream_cached.format.envelope import Own

#: Returned for a stored value that is not bytes.
FOREIGN = b"\x00"

#: Keys, and their values.
Items = Sequence[tuple[str, bytes]]

#: The classes of nearly all stored values.
_BYTES = frozenset({bytes, Own, type(None)})


class Store(Protocol):
    """
    A key-value store with expiry.

    Guarantees, which `tests/stores/test_contract.py` checks for every store:

    - When a write has returned, every later read sees it, through this and any other client.
    - Values are returned byte for byte. A value that is not bytes (an aiocache memory cache can
      hold any object) is returned as `FOREIGN`: the key exists, and its value is not ours.
    - A missing key and an expired key both read as None.
    - `ttl` is in seconds; fractions and more than 30 days are allowed. None means no expiry.
      A store may round a ttl up to whole seconds, never down. (memcached's clock ticks once a
      second, so a key may expire up to one second early.)
    - Keys may have any length and any characters. Two keys may collide in the store (aiocache's
      memcached backend writes a space as `_`); each record contains the digest of its key.
    - Every failure, including a time-out, is a `StoreError`. It leaves each key with its old or
      its new value. A cancelled call may have taken effect.
    """

    @property
    def capacity(self) -> int | None:
        """The size of the store in bytes; None if it is unbounded or unknown."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def set_many(self, items: Items, ttl: float | None) -> None:
        """Set each key. The call is not atomic over several keys."""

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        """Set the key if it is missing; return whether it was set. Atomic."""

    async def compare_and_set(
        self, key: str, expected: bytes, value: bytes, ttl: float | None
    ) -> bool:
        """Set the key if its value equals `expected`; return whether it was set. Atomic."""

    async def touch_many(self, keys: Sequence[str], ttl: float | None) -> int:
        """Give each key a new ttl; return how many of them exist."""

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete each key; a missing key is no error."""

    async def ping(self) -> None:
        """Raise `StoreError` unless the server answers."""


def kind_of_values(store: Store) -> type[bytes]:
    """Return what a store takes long values as: bytes, unless its class says that it takes others.
    One that is derived from it may do anything with a value."""
    return cast(type[bytes], vars(type(store)).get("takes", bytes))


@runtime_checkable
class AddsAndGets(Protocol):
    """A store that can do the work of `add`, then of `get_many`, in one round trip."""

    async def add_and_get_many(
        self, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
    ) -> tuple[bool, list[bytes | None]]: ...


#: The key of a lease, its value, and its ttl in seconds.
NewLease = tuple[str, bytes, float]


@runtime_checkable
class LooksAndClaims(Protocol):
    """A store that can read values and, where there is nothing, take a lease, in one round trip."""

    @property
    def may_claim(self) -> bool:
        """False where the server forbids it, or the store behind this one can't do it."""

    async def look_and_claim(
        self, lease: NewLease, keys: Sequence[str], expected: Sequence[bytes | None]
    ) -> tuple[bool, list[bytes | None]]:
        """
        Read values; set a lease if it and the first one are missing, and the others are as
        `expected`. Atomic. Return whether it was set, or was the same already; and the values.
        """
        ...


@runtime_checkable
class ComparesAndDeletes(Protocol):
    """A store that can delete a value that was read, and no later one."""

    async def compare_and_delete(self, key: str, expected: bytes) -> bool:
        """Delete the key if its value equals `expected`; return whether it was deleted. Atomic."""


@runtime_checkable
class ComparesStarts(Protocol):
    """A store that can read whole values, and compare how others begin, in one round trip."""

    async def get_many_and_compare(
        self, keys: Sequence[str], starts: Mapping[str, bytes]
    ) -> tuple[list[bytes | None], bool]:
        """
        Read values, and compare how others begin.

        Args:
            keys: The keys of the values.
            starts: What the values of other keys are to begin with.

        Returns:
            The values, and whether all of the others begin so.
        """
        ...


class Held(Protocol):
    """Values that a store in this process had. It keeps neither them nor the store alive."""

    def are_there(self) -> bool:
        """Whether the store still has all of them; they are then used."""
        ...


@runtime_checkable
class HoldsValues(Protocol):
    """A store in this process."""

    def held(self, values: Mapping[str, bytes | None], starts: Mapping[str, bytes]) -> Held | None:
        """
        Return what tells whether keys have the values still that they have now.

        Args:
            values: What was read of keys. They have to have these very objects.
            starts: What the values of other keys begin with.

        Returns:
            None if a key has another value, or where nothing tells that without reading them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a lease, which a commit may bring about, too."""

    key: str
    value: bytes
    """What the key holds if it is still the same lease."""
    followed: str
    """A key that must not exist: if it does, somebody has to be told first."""
    dropped: Sequence[str] = ()
    """Keys that are deleted with it."""


@dataclass(slots=True)
class Commit:
    """What makes a body visible: its last items, a record, and what goes with it."""

    # Not frozen: to set its fields would cost three times as much. Nothing changes it all the same.

    key: str
    value: bytes
    ttl: float | None
    expected: Mapping[str, bytes | None]
    """Values that must be the same as before."""
    body: Sequence[str]
    """Keys that must exist, and get a new ttl if all is done."""
    body_ttl: float | None
    last: Items
    """Items of the body that are set first. If nothing else is done, they live for `last_ttl`."""
    last_ttl: float
    touched: Sequence[str]
    """Keys that get a new ttl if they exist."""
    touched_ttl: float | None
    lease: Release | None


class Commits(Store, Protocol):
    """A store that can do all of a commit, or nothing visible of it, in one round trip."""

    @property
    def may_commit(self) -> bool:
        """False where the server forbids it, or the store behind this one can't do it."""

    async def commit(self, commit: Commit) -> tuple[bool, bool]:
        """Return whether it was done, and whether the lease was released. Atomic."""


@runtime_checkable
class Seals(Protocol):
    """A store that signs its values, and can sign what is kept elsewhere, too."""

    def seal(self, key: str, value: bytes) -> bytes: ...

    def unseal(self, key: str, sealed: bytes) -> bytes:
        """Return the value; one without a valid signature decodes as unsound."""


class Wakeup(Protocol):
    """A subscription to one channel."""

    async def wait(self, seconds: float) -> None:
        """Wait for a message since the last call, at most for `seconds`."""

    def close(self) -> None: ...


@runtime_checkable
class Wakes(Protocol):
    """A store that can wake other processes, which otherwise must poll. Messages may get lost."""

    async def set_and_wake(self, items: Items, ttl: float | None, channel: str) -> None: ...

    def wakeup(self, channel: str) -> Wakeup: ...


@functools.lru_cache(maxsize=64)
def _can(store: type, ability: type) -> bool:
    return issubclass(store, ability)


def can(store: Store, ability: type) -> bool:
    """Whether a store has an ability. `isinstance` takes ten microseconds for that."""
    return _can(type(store), ability)


async def set_and_wake(store: Store, items: Items, ttl: float | None, channel: str) -> None:
    """Set keys, and wake the subscribers of the channel if the store can."""
    if can(store, Wakes):
        await cast(Wakes, store).set_and_wake(items, ttl, channel)
    else:
        await store.set_many(items, ttl)


def wakeup(store: Store, channel: str) -> Wakeup:
    """Return a subscription to the channel; a timer if the store has no channels."""
    return cast(Wakes, store).wakeup(channel) if can(store, Wakes) else _Timer()


class _Timer:
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def close(self) -> None:
        return


async def add_and_get_many(
    store: Store, key: str, value: bytes, ttl: float | None, keys: Sequence[str]
) -> tuple[bool, list[bytes | None]]:
    """Set a key if it is missing, then read others; in one round trip if the store can."""
    if can(store, AddsAndGets):
        return await cast(AddsAndGets, store).add_and_get_many(key, value, ttl, keys)
    return await store.add(key, value, ttl), await store.get_many(keys)


async def compare_and_delete(store: Store, key: str, expected: bytes) -> bool:
    """Delete a value that was read; a store that can't do that at once looks first."""
    if can(store, ComparesAndDeletes):
        return await cast(ComparesAndDeletes, store).compare_and_delete(key, expected)
    (found,) = await store.get_many([key])
    if found != expected:
        return False
    await store.delete_many([key])
    return True


async def get_many_and_compare(
    store: Store, keys: Sequence[str], starts: Mapping[str, bytes]
) -> tuple[list[bytes | None], bool]:
    """Do what `ComparesStarts` does; a store that can't reads all of the values."""
    if not starts:
        return await store.get_many(keys), True
    if can(store, ComparesStarts):
        return await cast(ComparesStarts, store).get_many_and_compare(keys, starts)
    return await read_and_compare(store, keys, starts)


async def read_and_compare(
    store: Store, keys: Sequence[str], starts: Mapping[str, bytes]
) -> tuple[list[bytes | None], bool]:
    """Do what `ComparesStarts` does by reading whole values."""
    values = await store.get_many([*keys, *starts])
    return values[: len(keys)], begin_so(values[len(keys) :], starts)


def may_compare(store: Store) -> bool:
    """Whether a store compares how values begin without reading the whole of them."""
    return can(store, ComparesStarts) and getattr(store, "may_compare", True)


def begin_so(values: Sequence[bytes | None], starts: Mapping[str, bytes]) -> bool:
    """Whether values are there, and begin with what they are to begin with."""
    pairs = zip(values, starts.values(), strict=True)
    return all(value is not None and value.startswith(start) for value, start in pairs)


def held(
    store: Store, values: Mapping[str, bytes | None], starts: Mapping[str, bytes]
) -> Held | None:
    """Return what tells whether keys of a store in this process have these values still, and others
    some that begin so; None for another store."""
    return cast(HoldsValues, store).held(values, starts) if can(store, HoldsValues) else None


def may_claim(store: Store) -> TypeGuard[LooksAndClaims]:
    return getattr(store, "may_claim", False)


async def look_and_claim(
    store: Store, lease: NewLease, keys: Sequence[str], expected: Sequence[bytes | None]
) -> tuple[bool, list[bytes | None]]:
    """Do what `LooksAndClaims` does; a store that can't reads the values only."""
    if may_claim(store):
        return await store.look_and_claim(lease, keys, expected)
    return False, await store.get_many(keys)


def may_commit(store: Store) -> TypeGuard[Commits]:
    return getattr(store, "may_commit", False)


async def commit_at_once(store: Store, commit: Commit) -> tuple[bool, bool]:
    """Return what `Commits.commit` does; nothing is done where the store can't do that."""
    return await store.commit(commit) if may_commit(store) else (False, False)


def all_as_bytes(values: Sequence[object]) -> list[bytes | None]:
    """Return stored values as the protocol requires them."""
    if _BYTES.issuperset(map(type, values)):
        return list(cast("Sequence[bytes | None]", values))
    return [each if each is None or isinstance(each, bytes) else FOREIGN for each in values]
