"""The cache of the decorator, as aiocache configures it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiocache.base import SENTINEL

from stream_cached.backends.binding import Binding
from stream_cached.backends.resolve import (
    OWN_MEMORY,
    LateCache,
    resolve_alias,
    resolve_cache,
    resolve_fallback,
)
from stream_cached.checks import is_0, require_ttl
from stream_cached.engine.outcome import Call, PlainValue
from stream_cached.engine.service import Hooks
from stream_cached.engine.storable import told_by_answers
from stream_cached.engine.values import Use, using
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.errors import ConfigurationError
from stream_cached.events import Reporter
from stream_cached.fallback_cache import FallbackCache
from stream_cached.option_checks import NOT_GIVEN
from stream_cached.stores.aiocache import switched_off
from stream_cached.stores.clients import is_mock

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator


class AiocacheHooks(Hooks):
    """The cache of the decorator, as aiocache configures it."""

    def __init__(self, decorator: Decorator, settings: dict[str, Any]) -> None:
        self._decorator = decorator
        self._settings = settings
        self._binding: Binding | None = None

    @property
    def has_own_memory(self) -> bool:
        """Whether no other function has the same keys."""
        is_default = self._settings.get("cache") is OWN_MEMORY
        return is_default and self._decorator.alias is None

    @property
    def is_in_process(self) -> bool:
        """Whether no other process has the same entries."""
        return self.binding().breaker is None

    @property
    def namespace(self) -> str | None:
        """By what the user says which functions have keys in common; None if nothing is said."""
        return None if self._decorator.alias else self._settings.get("namespace")

    def for_function(self, function: Callable[..., Any]) -> AiocacheHooks:
        """Return the hooks of one more function of the decorator."""
        if self._binding is None or not self.has_own_memory:
            return self
        return AiocacheHooks(self._decorator, self._settings)

    @property
    def keys_by_request(self) -> bool:
        decorator = self._decorator
        return not (decorator.key or decorator.key_builder or decorator.has_own_keys)

    @property
    def by_response(self) -> bool:
        return self._decorator.by_response

    @property
    def has_own_values(self) -> bool:
        is_bound = self._binding is not None
        overrides = self._decorator.overrides("get_from_cache")
        return overrides or (is_bound and is_mock(self.binding().cache))

    def is_switched_off(self) -> bool:
        return switched_off()

    def is_invalidation_off(self) -> bool:
        return switched_off()

    def bind_early(self, reporter: Reporter) -> None:
        alias = self._decorator.alias
        if self._binding is not None or self.is_late:
            return
        if alias is None:
            self.bind(resolve_cache(**self._settings))
            return
        own = ("serializer", "namespace", "plugins")
        given = [n for n, value in self._settings.items() if n in own and value is not None]
        for name in (*given, *self._settings["options"]):
            reporter.warn(f"alias={alias!r} has settings of its own; {name}= is ignored")
        # An alias that is configured later is looked for again at the first use.
        with contextlib.suppress(ConfigurationError):
            self.bind(resolve_alias(alias))

    def bind(self, cache: Any) -> Binding:
        decorator, options = self._decorator, self._decorator.options
        decorator.cache = cache
        timeout = SENTINEL if options.timeout is NOT_GIVEN else options.timeout
        if isinstance(cache, FallbackCache):
            self._binding = cache.binding(timeout, self.secrets())
        else:
            self._binding = Binding(
                cache,
                fallback=functools.partial(resolve_fallback, decorator.fallback),
                retry_interval=options.limits.retry_interval,
                timeout=timeout,
                secrets=self.secrets(),
            )
        if options.on_event is not None and self._binding.breaker is not None:
            self._binding.breaker.hooks.add(options.on_event)
        return self._binding

    def secrets(self) -> tuple[bytes, ...]:
        return self._decorator.options.secrets

    def binding(self) -> Binding:
        if self._binding is not None:
            return self._binding
        if self.is_late:
            return self.bind(resolve_cache(**self._settings))
        return self.bind(resolve_alias(self._decorator.alias))

    @property
    def is_late(self) -> bool:
        """Whether the cache is that of a `StreamCache`, which is resolved at its first use."""
        return isinstance(self._settings.get("cache"), LateCache)

    @property
    def deciding(self) -> str:
        """What the user has to say whether a result is to be stored."""
        return "ttl= or skip_cache_func" if self._decorator.ttl_of else "skip_cache_func"

    def ttl(self) -> float | None:
        ttl: Any = self._decorator.ttl
        if self._decorator.ttl_of is not None or self.by_response:
            return None
        return self.binding().cache.ttl or None if ttl is SENTINEL else ttl

    def adapt_lifetimes(self, call: Call, lifetimes: Lifetimes) -> Lifetimes:
        if self._decorator.ttl_of is not None or self.by_response:
            return told_by_answers(call.service, lifetimes)
        return super().adapt_lifetimes(call, lifetimes)

    def keeps_objects(self, use: Use) -> bool:
        return use.keeps_objects and not self._decorator.overrides("set_in_cache")

    def accepts(self, call: Call, resource: Any, result: Any) -> bool:
        if (ttl_of := self._decorator.ttl_of) is not None:
            ttl = ttl_of(result)
            if is_0(ttl):
                return False
            try:
                resource.set_ttl(require_ttl(ttl))
            except ConfigurationError as exc:
                call.service.reporter.warn(f"a response is not stored: {exc}")
                return False
        return not self._decorator.skip_cache_func(result)

    async def load_value(self, use: Use, key: str) -> PlainValue | None:
        with using(use):
            value = await self._decorator.get_from_cache(key)
        return None if value is None else PlainValue(value)

    async def save_value(self, use: Use, key: str, value: Any) -> None:
        with using(use):
            await self._decorator.set_in_cache(key, value)
