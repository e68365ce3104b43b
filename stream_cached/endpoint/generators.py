"""Functions that FastAPI takes for generators, because it looks through `functools.wraps`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette._utils import is_async_callable

from stream_cached.endpoint.function import HIDDEN, Endpoint, unlink


def as_framework_calls_it(
    wrapper: Callable[..., Awaitable[Any]],
    endpoint: Endpoint,
    generate: Callable[[tuple[Any, ...], dict[str, Any]], Any],
) -> Callable[..., Any]:
    """
    Return the wrapper of a function, so that FastAPI gets from it what it expects.

    Args:
        wrapper: Answers a call from the cache, as a coroutine function.
        endpoint: The decorated function.
        generate: Calls the decorated function past the cache, with these arguments.
    """
    if not endpoint.wraps_generator:
        return wrapper
    if endpoint.is_async:
        return _unlinked(wrapper)

    @functools.wraps(wrapper)
    def either(*args: Any, **kwargs: Any) -> Any:
        request, _ = endpoint.take_request(args, kwargs)
        scope = {} if request is None else request.scope
        is_iterated = _is_iterated(kwargs, scope, either)
        return generate(args, kwargs) if is_iterated else wrapper(*args, **kwargs)

    _mark_as_coroutine_function(either)
    # An older Starlette, under Python 3.11, looks at the code only. FastAPI is as old there, and
    # does not iterate over what an endpoint returns.
    return either if is_async_callable(either) else _unlinked(wrapper)


def _unlinked(wrapper: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Let FastAPI see a coroutine function, and not the generator that it wraps."""
    unlink(wrapper)
    return wrapper


def _is_iterated(
    kwargs: Mapping[str, Any], scope: Mapping[str, Any], function: Callable[..., Any]
) -> bool:
    """Whether FastAPI iterates over what this call of a function returns, and awaits nothing."""
    is_endpoint = scope.get("endpoint") is function
    if HIDDEN not in kwargs and not is_endpoint:
        return False
    # A dependency is iterated over by each version of FastAPI, an endpoint by those with this.
    return not is_endpoint or hasattr(scope.get("route"), "is_json_stream")


def _mark_as_coroutine_function(function: Callable[..., Any]) -> None:
    """Let `iscoroutinefunction` say yes, so that Starlette awaits what a call returns."""
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is None:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    else:
        mark(function)
