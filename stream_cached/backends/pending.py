"""Invalidations that a store was away for: kept, and carried out before it is used again."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from stream_cached.errors import StoreUnavailableError

#: How many keys are remembered, over all endpoints of a store.
MAX_KEYS = 10_000

#: How many are invalidated side by side.
_AT_ONCE = 32


#: A key of the engine, or one of a backend.
Key = str | bytes


class Invalidator(Protocol):
    """Whose invalidations are kept."""

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        """
        Invalidate what the store holds.

        Args:
            key: What is held under this key, None for everything of this creditor.
            away: Whether the store is not used yet, so that only its probe reaches it.

        Raises:
            StoreError: The store failed.
        """
        ...

    def refuse_older(self) -> None:
        """Take nothing from the store any more that `carry_out(None)` does not reach."""
        ...


class PendingInvalidations:
    """
    What is owed to one store.

    Args:
        max_keys: How many keys are remembered. Of whoever has most of them, everything that is
            older is then refused.
    """

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._keys: dict[Invalidator, dict[Key | None, int]] = {}
        self._tickets = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def add(self, invalidator: Invalidator, key: Key | None) -> int:
        """Keep an invalidation, of one key or (None) of everything; return its ticket."""
        keys = self._keys.setdefault(invalidator, {})
        keys[key] = ticket = next(self._tickets)
        if len(self) > self._max_keys:
            largest = max(self._keys, key=lambda each: len(self._keys[each]))
            largest.refuse_older()
            self._keys[largest] = {None: next(self._tickets)}
        return ticket

    def holds(self, invalidator: Invalidator, key: Key) -> bool:
        """Whether a key of a creditor is to be invalidated."""
        return key in self._keys.get(invalidator, ())

    def discard(self, invalidator: Invalidator, key: Key) -> None:
        """Forget what needs to be done no more."""
        keys = self._keys.get(invalidator, {})
        self.carried_out(invalidator, key, keys.get(key, -1))

    def carried_out(self, invalidator: Invalidator, key: Key | None, ticket: int) -> None:
        """Forget what was carried out, unless the same is owed anew."""
        keys = self._keys.get(invalidator, {})
        if keys.get(key) == ticket:
            del keys[key]
            if not keys:
                del self._keys[invalidator]

    async def settle(self) -> None:
        """
        Carry out all of them; what the store is not there for is kept.

        Raises:
            StoreUnavailableError: It is away again.
        """
        while self._keys:
            invalidator, keys = next(iter(self._keys.items()))
            batch = list(keys.items())[:_AT_ONCE]
            done = await asyncio.gather(
                *(invalidator.carry_out(key, away=True) for key, _ in batch), return_exceptions=True
            )
            for (key, ticket), result in zip(batch, done, strict=True):
                # What the store does not take, it does not hold.
                if not isinstance(result, StoreUnavailableError):
                    self.carried_out(invalidator, key, ticket)
            for result in done:
                if isinstance(result, StoreUnavailableError):
                    raise result


class InvalidatedBefore:
    """
    Values in a store that have no versions, and of which some were invalidated: it is not known
    which. Those that this process has set since are known to be newer.

    Args:
        max_keys: How many of those are remembered.
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._since: float | None = None
        self._set_since: OrderedDict[Key, None] = OrderedDict()

    def begin(self) -> None:
        """Trust nothing that is there by now."""
        self._since = self._clock()
        self._set_since.clear()

    def refuses(self, key: Key, ttl: float | None) -> bool:
        """
        Say whether a value may be one that was invalidated.

        Args:
            key: Its key.
            ttl: Seconds after which whatever was set before has expired; None for never.
        """
        if self._since is None:
            return False
        if ttl is not None and self._clock() - self._since > ttl:
            self._since = None
            return False
        return key not in self._set_since

    def was_set(self, key: Key) -> None:
        """Note that this process has set a value."""
        if self._since is not None:
            self._set_since[key] = None
            self._set_since.move_to_end(key)
            if len(self._set_since) > self._max_keys:
                self._set_since.popitem(last=False)
