"""What a decorator makes of a function: a wrapper with the methods of a cached function."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from stream_cached.decorated.function import Decorated
from stream_cached.decorated.generator import DecoratedGenerator
from stream_cached.endpoint.generators import as_framework_calls_it
from stream_cached.events import EndpointStats


def wrapped(
    function: Decorated, cache: Any, answer: Callable[..., Awaitable[Any]] | None = None
) -> Any:
    """
    Return the wrapper of a function.

    Args:
        function: The decorated function.
        cache: The aiocache cache; None as long as it is not known.
        answer: Answers one call, where a subclass of the decorator or an option does that itself.
    """

    @functools.wraps(function.endpoint.function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if decorated.cache is None:
            decorated.cache = function.hooks.binding().cache
        if answer is not None:
            return await answer(*args, **kwargs)
        # Not by a coroutine of its own: each hit comes here.
        seen, ready = function.look(args, kwargs)
        return await function.answer(args, kwargs, seen) if ready is None else ready

    async def invalidate(*, key: str | None = None, **arguments: Any) -> bool:
        return await function.invalidate(key, arguments)

    async def cache_key(*args: Any, **kwargs: Any) -> str:
        return await function.cache_key(args, kwargs)

    def stats() -> EndpointStats:
        return function.reporter.stats

    decorated: Any
    if isinstance(function, DecoratedGenerator):
        decorated = function.wrapped(wrapper)
    else:
        decorated = as_framework_calls_it(wrapper, function.endpoint, function.generate)
        decorated.__signature__ = function.endpoint.signature
    decorated.cache = cache
    decorated.invalidate = invalidate
    decorated.cache_key = cache_key
    decorated.stats = stats
    # Decorators above that use `functools.wraps` have it, too.
    decorated._stream_cached = function
    function.has_made(decorated)
    return decorated


def decorated_of(wrapper: object) -> Decorated | None:
    """Return the decorated function of a wrapper, or of one that decorators above have made."""
    found = getattr(wrapper, "__dict__", {}).get("_stream_cached")
    return found if isinstance(found, Decorated) else None
