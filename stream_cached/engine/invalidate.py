"""The invalidation of one endpoint's entries: in the store, in what stands in for it, and later."""

from __future__ import annotations

import time
from collections.abc import Callable

from stream_cached.backends.binding import Binding
from stream_cached.backends.pending import InvalidatedBefore, Key
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.record import Engine, new_id
from stream_cached.entries.resource import renew_version
from stream_cached.stores.protocol import Store


class Invalidation:
    """
    What invalidates the entries of one endpoint.

    Args:
        engine: The endpoint's.
        key: The key of everything that it returns, where it has one.
        binding: Returns its cache.
        ttl: Returns the seconds that its entries live, None for ever.
    """

    def __init__(
        self,
        engine: Engine,
        key: str | None,
        binding: Callable[[], Binding],
        ttl: Callable[[], float | None],
    ) -> None:
        self.invalidated_before = InvalidatedBefore(time.monotonic)
        self._engine = engine
        self._key = key
        self._binding = binding
        self._ttl = ttl

    async def __call__(self, key: str | None) -> bool:
        """
        Let nothing be served any more that was made before.

        Args:
            key: What is stored under it, None for everything.

        Returns:
            Whether it is done; otherwise it will be, before the store is used again.

        Raises:
            StoreError: The store does not take it.
        """
        binding = self._binding()
        breaker = binding.breaker
        if breaker is None:
            await self._revoke(binding.primary.store, key)
            return True
        used = await binding.is_used(Deadline(binding.timeout))
        done = await breaker.invalidate(self, key, used=used)
        if not done and binding.fallback is not None:
            await self._revoke(binding.fallback.store, key)
        return done

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        """Invalidate what the store itself holds."""
        assert not isinstance(key, bytes)
        binding = self._binding()
        await self._revoke((binding.probe if away else binding.primary).store, key)

    def refuse_older(self) -> None:
        """Take no plain value that was there before; entries go by the endpoint's version."""
        self.invalidated_before.begin()

    async def _revoke(self, store: Store, key: str | None) -> None:
        ttl = self._ttl()
        if key is None:
            lifetimes = self._engine.lifetimes(ttl)
            await renew_version(store, self._engine.version, new_id(), lifetimes)
            key = self._key
        if key is not None:
            await self._engine.resource(store, key, None, ttl).revoke()
