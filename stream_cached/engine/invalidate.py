"""The invalidation of one endpoint's entries: in the store, in what stands in for it, and later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from stream_cached.backends.binding import Binding
from stream_cached.backends.breaker import CircuitBreaker
from stream_cached.backends.pending import Key
from stream_cached.connections.deadline import Deadline
from stream_cached.endpoint.tags import ANY, NAMESPACE, tag_key_of
from stream_cached.engine.service import Service
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.versions import renew_version, soften_version
from stream_cached.errors import ConfigurationError, StoreUnavailableError
from stream_cached.stores.protocol import Store


class Version(str):
    """The key of a version, where another key is that of an entry."""

    __slots__ = ()


async def _note(store: Store, ttl: float | None) -> None:
    """Tell runs that do not know yet which tags their answers have, before a tag is invalidated."""
    await renew_version(store, tag_key_of(ANY), ttl)


class TagInvalidation:
    """
    Invalidates the entries that have a tag, of all functions of a cache.

    Args:
        binding: Returns the cache.
        longest_run: Seconds that a run may take.
    """

    def __init__(self, binding: Callable[[], Binding], longest_run: float) -> None:
        self._binding = binding
        self._ttl = Lifetimes(None, longest_run, differ=True).versions

    async def __call__(self, tags: Iterable[str], *, soft: bool) -> bool:
        """Let no entry with one of the tags be served as fresh; return whether it is done."""
        done = [await self._invalidate(Version(tag_key_of(tag)), soft=soft) for tag in tags]
        return all(done)

    async def _invalidate(self, key: Version, *, soft: bool) -> bool:
        binding = self._binding()
        if binding.breaker is None:
            await self._replace(binding.primary.store, key, soft=soft)
            return True
        used = await binding.is_used(Deadline(binding.timeout))
        if soft and used:
            try:
                await self._replace(binding.primary.store, key, soft=True)
            except StoreUnavailableError:
                # Once the store is back, nothing of it is served.
                used = False
            else:
                return True
        done = await binding.breaker.invalidate(self, key, used=used)
        if not done and binding.fallback is not None:
            await self._replace(binding.fallback.store, key, soft=soft)
        return done

    async def _replace(self, store: Store, key: Version, *, soft: bool) -> None:
        await _note(store, self._ttl)
        if soft:
            await soften_version(store, key, self._ttl, time.time())
        else:
            await renew_version(store, key, self._ttl)

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        """Invalidate in the store itself; everything if it is not known any more what."""
        binding = self._binding()
        assert not isinstance(key, bytes)
        store = (binding.probe if away else binding.primary).store
        await self._replace(store, Version(key or tag_key_of(NAMESPACE)), soft=False)

    def refuse_older(self) -> None:
        """Entries go by their versions alone."""


class Invalidation:
    """
    Invalidates the entries of one function.

    Args:
        service: The function.
        key: The key of everything that it returns, if it has one key.
    """

    def __init__(self, service: Service, key: str | None) -> None:
        self._service = service
        self._key = key

    async def __call__(self, key: str | None) -> bool:
        """
        Let nothing be served any more that was made before.

        Args:
            key: What is stored under it, or depends on it; None for everything.

        Returns:
            Whether it is done; otherwise it will be, before the store is used again.

        Raises:
            StoreError: The store does not take it.
            ConfigurationError: There are values without versions, which go on to be served.
        """
        binding = self._service.hooks.binding()
        breaker = binding.breaker
        names_all = key is None and self._key is None
        has_unversioned = names_all and self._service.plain_values.are_there
        if breaker is None:
            await self._revoke(binding.primary.store, key)
            if has_unversioned:
                # No other process has this memory.
                self.refuse_older()
            return True
        done = await self._invalidate(binding, breaker, key)
        if has_unversioned:
            raise ConfigurationError(
                "the function has returned values that are no responses. On a server they have no "
                "versions, and stay there: invalidate each by its key, invalidate(key=...), or "
                "pass key= to the decorator, or let the function return a Response"
            )
        return done

    async def _invalidate(self, binding: Binding, breaker: CircuitBreaker, key: str | None) -> bool:
        used = await binding.is_used(Deadline(binding.timeout))
        done = await breaker.invalidate(self, key, used=used)
        if not done and binding.fallback is not None:
            await self._revoke(binding.fallback.store, key)
        return done

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        """Invalidate what the store itself holds."""
        assert not isinstance(key, bytes)
        binding = self._service.hooks.binding()
        await self._revoke((binding.probe if away else binding.primary).store, key)

    def refuse_older(self) -> None:
        """Take no plain value that was there before; entries go by the endpoint's version."""
        self._service.invalidated_before.begin()

    async def _revoke(self, store: Store, key: str | None) -> None:
        service = self._service
        if isinstance(key, Version):
            # Other functions may depend on it, whose entries live longer.
            ttl = replace(service.lifetimes(), differ=True).versions
            await _note(store, ttl)
            await renew_version(store, key, ttl)
            return
        if key is None:
            await renew_version(store, service.version, service.lifetimes().versions)
            key = self._key
        if key is not None:
            await service.resource_at(store, key).revoke()
