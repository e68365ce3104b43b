"""Invalidations during an outage: they are kept and carried out when the store is back."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from stream_cached.errors import StoreUnavailableError

#: The number of keys that are kept for all endpoints of a store.
MAX_KEYS = 10_000

#: The number of concurrent invalidations.
_CONCURRENCY = 32

#: A key before or after the cache's `build_key`.
Key = str | bytes


class Invalidator(Protocol):
    """The owner of pending invalidations."""

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        """Invalidate a key, or all keys; if the store is `away`, through its probe."""

    def refuse_older(self) -> None:
        """Never again serve a stored value that `carry_out(None)` does not invalidate."""


class PendingInvalidations:
    """The pending invalidations of one store.

    Beyond `max_keys`, the invalidator with the most keys invalidates everything that it owns."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._keys: dict[Invalidator, dict[Key | None, int]] = {}
        self._tickets = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def add(self, invalidator: Invalidator, key: Key | None) -> int:
        """Add an invalidation of one key, or with None of everything; return its ticket."""
        keys = self._keys.setdefault(invalidator, {})
        keys[key] = ticket = next(self._tickets)
        if len(self) > self._max_keys:
            largest = max(self._keys, key=lambda each: len(self._keys[each]))
            largest.refuse_older()
            self._keys[largest] = {None: next(self._tickets)}
        return ticket

    def holds(self, invalidator: Invalidator, key: Key) -> bool:
        return key in self._keys.get(invalidator, ())

    def discard(self, invalidator: Invalidator, key: Key) -> None:
        keys = self._keys.get(invalidator, {})
        self.carried_out(invalidator, key, keys.get(key, -1))

    def carried_out(self, invalidator: Invalidator, key: Key | None, ticket: int) -> None:
        """Remove an invalidation, unless the key was added again since its ticket was issued."""
        keys = self._keys.get(invalidator, {})
        if keys.get(key) == ticket:
            del keys[key]
            if not keys:
                del self._keys[invalidator]

    async def settle(self) -> None:
        """Carry out all invalidations; a StoreUnavailableError keeps the rest."""
        while self._keys:
            invalidator, keys = next(iter(self._keys.items()))
            batch = list(keys.items())[:_CONCURRENCY]
            done = await asyncio.gather(
                *(invalidator.carry_out(key, away=True) for key, _ in batch), return_exceptions=True
            )
            for (key, ticket), result in zip(batch, done, strict=True):
                # A store that refuses the key as such can't hold a value under that key.
                if not isinstance(result, StoreUnavailableError):
                    self.carried_out(invalidator, key, ticket)
            for result in done:
                if isinstance(result, StoreUnavailableError):
                    raise result


class InvalidatedBefore:
    """Refuses stored values without versions that may be older than an invalidation.

    Only values that this process has set since are known to be newer."""

    def __init__(self, clock: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._since: float | None = None
        self._set_since: OrderedDict[Key, None] = OrderedDict()

    def begin(self) -> None:
        """Refuse all values that are stored now."""
        self._since = self._clock()
        self._set_since.clear()

    def refuses(self, key: Key, ttl: float | None) -> bool:
        """Whether a value may be invalidated; no old value lives longer than `ttl`."""
        if self._since is None:
            return False
        if ttl is not None and self._clock() - self._since > ttl:
            self._since = None
            return False
        return key not in self._set_since

    def was_set(self, key: Key) -> None:
        if self._since is not None:
            self._set_since[key] = None
            self._set_since.move_to_end(key)
            if len(self._set_since) > self._max_keys:
                self._set_since.popitem(last=False)
