"""An aiocache cache with a memory fallback, for `caches.set_config` and plain `@cached`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from aiocache.base import SENTINEL, BaseCache

from stream_cached.backends.binding import Backend, Binding
from stream_cached.backends.pending import InvalidatedBefore, Invalidator, Key
from stream_cached.backends.public import ANSWERS
from stream_cached.backends.resolve import (
    resolve_alias,
    resolve_cache,
    resolve_fallback,
    with_settings,
)
from stream_cached.connections.deadline import Deadline
from stream_cached.errors import ConfigurationError, StoreUnavailableError
from stream_cached.limits import RETRY_INTERVAL
from stream_cached.stores.memory import MemoryCache


class FallbackCache(BaseCache):  # type: ignore[misc]
    """
    A cache over another cache, the primary, which uses memory while the primary's server is away.

    Keys that are deleted during an outage are deleted from the primary before it is used again. For
    keys that are set during an outage, the primary's old values are not returned any more. (After
    more than 10,000 such keys, no older value of the primary is returned.)

    Args:
        serializer: Replaces the primary's serializer.
        primary: A URL, an alias of `caches.set_config`, a class, or an instance.
        fallback: A `memory://` URL, an alias, or a `MemoryCache`. Equal URLs share one memory per
            process. With False, calls raise `StoreUnavailableError` during an outage.
        retry_interval: Seconds between the first and the second ping of an outage. The interval
            doubles from ping to ping, up to 30 seconds.
        timeout: Seconds that one operation of the primary may take; None or 0 sets no bound. By
            default, the time-out of the primary, or 0.5 if it has none of its own.
        plugins: Replaces the primary's plugins.
        namespace: Replaces the primary's namespace.
        key_builder: Replaces the primary's key builder.
        ttl: Replaces the primary's ttl.
        kwargs: The options of a `primary` that is a class.

    Raises:
        ConfigurationError: An argument can't work; the message contains the fix.
    """

    NAME = "fallback"

    def __init__(
        self,
        serializer: Any = None,
        *,
        primary: Any,
        fallback: MemoryCache | str | Literal[False] = "memory://?max_bytes=64MiB",
        retry_interval: float = RETRY_INTERVAL,
        timeout: float | None = SENTINEL,
        plugins: Any = None,
        namespace: str | None = None,
        key_builder: Callable[..., Any] | None = None,
        ttl: float | None = SENTINEL,
        **kwargs: Any,
    ) -> None:
        if isinstance(primary, str) and "://" not in primary:
            self.primary = resolve_alias(primary)
        else:
            self.primary = resolve_cache(primary, options=kwargs)
        if isinstance(self.primary, FallbackCache):
            raise ConfigurationError("primary= is a FallbackCache already: use it directly")
        super().__init__(
            serializer=serializer or self.primary.serializer,
            plugins=plugins or self.primary.plugins,
            namespace=self.primary.namespace if namespace is None else namespace,
            key_builder=key_builder,
            # Each operation of the primary has its own time-out. A time-out here would also
            # cancel the fallback's operation.
            timeout=None,
            ttl=self.primary.ttl if ttl is SENTINEL else ttl,
        )
        self.fallback = resolve_fallback(fallback)
        self.retry_interval = retry_interval
        self.operation_timeout = timeout
        self._binding = self.binding()
        self._ttls = 0.0
        self._invalidated_before = InvalidatedBefore(time.monotonic)
        self._deleted = _Keys(self._binding, self._invalidated_before)
        self._overwritten = _Keys(self._binding, self._invalidated_before)
        self._cleared = _Cleared(self._binding, self._invalidated_before)

    def binding(self, timeout: float | None = SENTINEL, secrets: Sequence[bytes] = ()) -> Binding:
        names = ("namespace", "serializer", "plugins", "ttl")
        return Binding(
            with_settings(self.primary, {name: getattr(self, name) for name in names}),
            fallback=lambda: self.fallback,
            retry_interval=self.retry_interval,
            timeout=self.operation_timeout if timeout is SENTINEL else timeout,
            secrets=secrets,
        )

    def _build_key(self, key: str, namespace: str | None = None) -> Any:
        return self.primary.build_key(key, self.namespace if namespace is None else namespace)

    # -- one call ---------------------------------------------------------------------------

    async def _call(self, name: str, key: Any, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
        """Call the primary, or else the fallback; return the result, and whether the primary's."""
        backend = await self._binding.backend(Deadline(self._binding.timeout))
        if not backend.is_fallback:
            try:
                return await self._on_primary(backend, name, key, *args, **kwargs), True
            except StoreUnavailableError:
                backend = self._binding.stand_in()
        prefix = backend.cache.namespace
        return await getattr(backend.cache, name)(_prefixed(prefix, key), *args, **kwargs), False

    async def _on_primary(
        self, backend: Backend, name: str, key: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if "ttl" in kwargs:
            kwargs["ttl"] = backend.public_ttl(kwargs["ttl"])
        if backend.server is None:
            return await getattr(backend.cache, name)(key, *args, **kwargs)
        method = getattr(backend.server.cache, name)
        return await backend.server.call(name[1:], partial(method, key, *args, **kwargs), ANSWERS)

    def _refuses(self, key: Key, on_primary: bool) -> bool:
        """Whether the primary's value may be older than a change during an outage."""
        breaker = self._binding.breaker
        if not on_primary or breaker is None:
            return False
        overwritten = breaker.deferred.holds(self._overwritten, key)
        return overwritten or self._invalidated_before.refuses(key, self._longest_ttl)

    def _was_set(self, key: Key, on_primary: bool) -> None:
        breaker = self._binding.breaker
        if breaker is None:
            return
        if on_primary:
            breaker.deferred.discard(self._overwritten, key)
            self._invalidated_before.was_set(key)
        else:
            breaker.deferred.add(self._overwritten, key)

    def _record_ttl(self, ttl: float | None) -> None:
        self._ttls = max(self._ttls, ttl or math.inf)

    @property
    def _longest_ttl(self) -> float | None:
        return self._ttls if 0 < self._ttls < math.inf else None

    async def _invalidate(self, invalidator: Invalidator, name: str, key: Any) -> Any:
        """Delete through the primary, or keep the deletion as pending."""
        breaker = self._binding.breaker
        if breaker is None:
            return (await self._call(name, key))[0]
        with contextlib.suppress(StoreUnavailableError), breaker.keeping(invalidator, key):
            backend = await self._binding.backend(Deadline(self._binding.timeout))
            if backend.is_fallback:
                raise StoreUnavailableError("the store is away")
            return await self._on_primary(backend, name, key)
        if self._binding.fallback is None:
            return 0
        cache = self._binding.stand_in().cache
        return await getattr(cache, name)(_prefixed(cache.namespace, key))

    # -- the backend methods of aiocache ----------------------------------------------------

    async def _get(self, key: Key, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        value, on_primary = await self._call("_get", key, encoding=encoding)
        return None if self._refuses(key, on_primary) else value

    async def _gets(self, key: Key, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return (await self._call("_gets", key, encoding=encoding))[0]

    async def _multi_get(
        self, keys: Sequence[Key], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        values, on_primary = await self._call("_multi_get", list(keys), encoding=encoding)
        pairs = zip(keys, values, strict=True)
        return [None if self._refuses(key, on_primary) else value for key, value in pairs]

    async def _exists(self, key: Key, _conn: Any = None) -> bool:
        exists, on_primary = await self._call("_exists", key)
        return bool(exists) and not self._refuses(key, on_primary)

    async def _set(
        self,
        key: Key,
        value: Any,
        ttl: float | None = None,
        _cas_token: Any = None,
        _conn: Any = None,
    ) -> Any:
        self._record_ttl(ttl)
        done, on_primary = await self._call("_set", key, value, ttl=ttl, _cas_token=_cas_token)
        if done:
            self._was_set(key, on_primary)
        return done

    async def _multi_set(
        self, pairs: Sequence[tuple[Key, Any]], ttl: float | None = None, _conn: Any = None
    ) -> Any:
        self._record_ttl(ttl)
        done, on_primary = await self._call("_multi_set", list(pairs), ttl=ttl)
        for key, _ in pairs:
            self._was_set(key, on_primary)
        return done

    async def _add(self, key: Key, value: Any, ttl: float | None = None, _conn: Any = None) -> Any:
        self._record_ttl(ttl)
        done, on_primary = await self._call("_add", key, value, ttl=ttl)
        if on_primary:
            # During an outage, `add` may take a lock. When the primary is back, the key there may
            # be another process's lock, which must not be deleted.
            self._was_set(key, on_primary)
        return done

    async def _increment(self, key: Key, delta: int, _conn: Any = None) -> Any:
        return (await self._call("_increment", key, delta))[0]

    async def _expire(self, key: Key, ttl: float, _conn: Any = None) -> Any:
        self._record_ttl(ttl)
        done, on_primary = await self._call("_expire", key, ttl)
        if done:
            self._was_set(key, on_primary)
        return done

    async def _delete(self, key: Key, _conn: Any = None) -> Any:
        return await self._invalidate(self._deleted, "_delete", key)

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> Any:
        return await self._invalidate(self._cleared, "_clear", namespace)

    async def _raw(self, command: str, *args: Any, _conn: Any = None, **kwargs: Any) -> Any:
        backend = await self._binding.backend(Deadline(self._binding.timeout))
        if backend.is_fallback:
            raise StoreUnavailableError(f"{command}: the store is away")
        return await self._on_primary(backend, "_raw", command, *args, **kwargs)

    async def _redlock_release(self, key: Key, value: Any) -> Any:
        return (await self._call("_redlock_release", key, value))[0]

    async def _close(self, *args: Any, _conn: Any = None, **kwargs: Any) -> Any:
        return await self._binding.primary.cache._close()


class _Keys:
    """Keys that were deleted or set during an outage, and have to be deleted from the primary."""

    def __init__(self, binding: Binding, invalidated_before: InvalidatedBefore) -> None:
        self._binding = binding
        self._invalidated_before = invalidated_before

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        if key is not None:
            await self._call("_delete", key)

    async def _call(self, name: str, key: Key | None) -> None:
        server = self._binding.probe.server
        assert server is not None
        await server.call(name[1:], partial(getattr(server.cache, name), key))

    def refuse_older(self) -> None:
        self._invalidated_before.begin()


class _Cleared(_Keys):
    """Namespaces that were cleared during an outage; None stands for all namespaces."""

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        await self._call("_clear", key)


def _prefixed(prefix: str, key: Any) -> Any:
    if isinstance(key, list):
        return [_prefixed(prefix, each) for each in key]
    if isinstance(key, tuple):
        return _prefixed(prefix, key[0]), key[1]
    text = key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key or ""
    return f"{prefix}{text}"
