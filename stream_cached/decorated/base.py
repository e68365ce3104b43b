"""What the decorator does: it answers the calls of its functions, and makes their keys."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from aiocache import cached

from stream_cached.connections.deadline import Deadline
from stream_cached.decorated.function import Decorated
from stream_cached.decorated.generator import DecoratedGenerator
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.decorated.keys import current_call
from stream_cached.decorated.wrapping import wrapped
from stream_cached.endpoint.function import is_generator
from stream_cached.engine.values import Use, current_use
from stream_cached.events import EndpointStats
from stream_cached.options import Options
from stream_cached.responses.resumption import resume_from
from stream_cached.stores.memory import MemoryCache

#: The methods that a subclass may override.
_METHODS = ("get_cache_key", "get_from_cache", "set_in_cache")


class Decorator(cached):  # type: ignore[misc]
    """What `stream_cached` does; its parameters, with their types, are declared there."""

    #: The options, checked.
    options: Options
    #: The function of the response that `ttl` is, if it is one.
    ttl_of: Any
    #: Whether each response says itself for how long it is fresh.
    by_response: bool
    fallback: MemoryCache | str | Literal[False]
    hooks: AiocacheHooks

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = frozenset(
            n for n in _METHODS if getattr(type(self), n) is not vars(Decorator)[n]
        )
        self.has_own_keys = self.overrides("get_cache_key")
        """Whether a subclass makes the keys."""
        # By identity: a callable instance need not be hashable.
        self._functions: dict[int, Decorated] = {}

    def decorate(self, f: Callable[..., Any]) -> Any:
        """Return the wrapper of a function."""
        hooks = self.hooks.for_function(f)
        kind = DecoratedGenerator if is_generator(f) else Decorated
        function = self._functions[id(f)] = kind(f, self, hooks)
        hooks.bind_early(function.reporter)
        if self.options.bodies is not None and self.options.on_event is not None:
            self.options.bodies.hooks.add(self.options.on_event)
        if self.options.bodies is not None and not hooks.is_late and self.alias is None:
            self.options.bodies.warn_unless_shared(is_shared=not hooks.is_in_process)
        is_own = getattr(self.decorator, "__func__", None) is not Decorator.decorator
        if not is_own and self.options.resume is not True:
            return wrapped(function, self.cache)
        return wrapped(
            function, self.cache, lambda *args, **kwargs: self.decorator(f, *args, **kwargs)
        )

    async def decorator(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer one call of `f`: from the cache, or by running it and recording its answer."""
        function = self._functions[id(f)]
        seen, result = function.look(args, kwargs)
        if result is None:
            result = await function.answer(args, kwargs, seen)
        if self.options.resume is True:
            # The response that goes on from it reports all that was sent.
            again = functools.partial(function.answer_whole_way, args, kwargs, is_reported=False)
            resume_from(result, again)
        return result

    async def clear(self) -> bool:
        """
        Invalidate the entries of all functions that this decorator has decorated.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
        """
        return all([await each.invalidate(None, {}) for each in self._functions.values()])

    def stats(self) -> Mapping[str, EndpointStats]:
        """Return what this process has answered for each function, by its name."""
        return {each.endpoint.name: each.reporter.stats for each in self._functions.values()}

    # -- what a subclass may override -------------------------------------------------------

    def overrides(self, name: str) -> bool:
        """Whether a subclass has a method of its own."""
        return name in self._own

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """
        Return the key of a call; override it for keys of your own.

        Args:
            f: The decorated function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        current = current_call.get()
        if self.key_builder and current is not None:
            kwargs = current[0].for_key_builder(args, kwargs, current[1])
        if self.key or self.key_builder or current is None:
            return cast(str, super().get_cache_key(f, args, kwargs))
        keys, incoming = current
        if incoming is None:
            args, kwargs, lacking = keys.for_aiocache(args, kwargs)
            return f"{super().get_cache_key(f, args, kwargs)}{lacking}"
        return keys.of_request(incoming, args, kwargs)

    def _key_from_args(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        if hasattr(func, "__name__"):
            return cast(str, super()._key_from_args(func, args, kwargs))
        # aiocache has no key for a partial, nor for an instance that can be called.
        function = self._functions[id(func)]
        positional = args[1:] if self.noself else args
        return f"{function.endpoint.name}{positional}{sorted(kwargs.items())}"

    async def get_from_cache(self, key: str) -> Any:
        """Return a plain value by the cache's public `get`; None if there is none."""
        use = current_use() or await self._use()
        return await use.get(key)

    async def set_in_cache(self, key: str, value: Any) -> None:
        """Store a plain value by the cache's public `set`."""
        use = current_use() or await self._use()
        await use.set(key, value, self.hooks.ttl())

    async def _use(self) -> Use:
        """Return what a call uses of the cache, for a call from outside."""
        binding = self.hooks.binding()
        deadline = Deadline(binding.timeout)
        service = next(iter(self._functions.values())).service
        backend = await binding.backend(deadline)
        return Use(backend, deadline, binding.cache, service.invalidated_before, service.reporter)
