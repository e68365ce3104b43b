"""The dependencies of a route, as FastAPI calls them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from stream_cached.endpoint.reads import is_generator, touched_by
from stream_cached.endpoint.route import dependencies_of, effective_route, stands_for
from stream_cached.endpoint.signatures import dependency_of, signature_of

Call = Callable[..., Any]

_NONE: Mapping[Call, Call] = {}

#: Where the modules of other libraries begin whose functions store what they are given, for all.
_CACHES = ("aiocache.decorators", "cashews.decorators.cache.", "fastapi_cache.decorator")


def overrides_of(scope: Mapping[str, Any]) -> Mapping[Call, Call]:
    """Return what replaces dependencies of the application, as tests do."""
    return getattr(scope.get("app"), "dependency_overrides", None) or _NONE


def dependant_of(scope: Mapping[str, Any]) -> Any:
    """Return FastAPI's tree of the dependencies of the route and its routers."""
    return getattr(effective_route(scope), "dependant", None)


def tree_of(call: Call, overrides: Mapping[Call, Call]) -> list[Call]:
    """Return a dependency, or its override, and all that it depends on."""
    return list(_called(call, overrides, []))


def among(call: object, calls: Iterable[object]) -> bool:
    """Whether FastAPI takes a call for one of these: two bound methods may be equal."""
    return any(call is each or call == each for each in calls)


def needs_request(scope: Mapping[str, Any]) -> bool:
    """Whether FastAPI closes a dependency of the route at the end of the request."""
    if (dependant := dependant_of(scope)) is None:
        return False
    overrides, seen = overrides_of(scope), list[object]()
    return any(
        is_generator(call)
        for each in dependencies_of(dependant)
        for call in _called(each, overrides, seen)
    )


def closes_before_response(scope: Mapping[str, Any]) -> bool:
    """Whether FastAPI may close a dependency of the route before the response is sent."""
    if not needs_request(scope):
        return False
    # What an override has is not looked up.
    return bool(overrides_of(scope) or _ends_with_function(dependant_of(scope)))


def _ends_with_function(dependant: Any) -> bool:
    return any(
        each.scope == "function" or _ends_with_function(each) for each in dependant.dependencies
    )


def given_by_fastapi(
    dependant: Any, function: Callable[..., Any], overrides: Mapping[Call, Call]
) -> dict[str, Call]:
    """Return the dependencies whose values FastAPI passes to a function, by parameter."""
    found: dict[str, Call] = {}
    for each in _dependants(dependant):
        if runs(each.call, function):
            found.update({d.name: d.call for d in each.dependencies if d.name and d.call})
    return {name: tree_of(call, overrides)[0] for name, call in found.items()}


def touched_above(dependant: Any, function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the arguments that decorators above may change; None if these may be all."""
    touched: set[str] = set()
    for each in _dependants(dependant):
        for wrapper in _wrappers(each.call, function):
            names = touched_by(wrapper)
            if names is None:
                return None
            touched |= names
    return frozenset(touched)


def _wrappers(call: Any, function: Callable[..., Any]) -> Iterator[Any]:
    """Yield the functions around a cached function, but for those of this package."""
    if not runs(call, function):
        return
    while call is not function:
        if hasattr(call, "__wrapped__") and not _module(call).startswith("stream_cached."):
            yield call
        call = _beneath(call)


def runs(call: Any, function: Callable[..., Any]) -> bool:
    """Whether a call is a function, or a method, a partial or a wrapper of it."""
    return any(each is function for each in _layers(call))


def _layers(call: Any) -> Iterator[Any]:
    """Yield a call, and then all that it is around."""
    seen: list[object] = []
    while call is not None and not any(call is each for each in seen):
        yield call
        seen.append(call)
        call = _beneath(call)


def is_beside(function: Callable[..., Any], scope: Mapping[str, Any]) -> bool:
    """
    Whether what a cached function returns becomes a part of something that all may be given.

    So it is where a dependency of another cached endpoint calls it, and where a cache of another
    library does, over the function itself or over any other one that calls it.
    """
    endpoint = scope.get("endpoint")
    is_another = hasattr(endpoint, "cache_key") and not runs(endpoint, function)
    return is_another or _is_in_cache()


def _is_in_cache() -> bool:
    """Whether a cache of another library waits for what runs now, in the same task."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_CACHES):
            return True
        frame = frame.f_back
    return False


def _module(call: Any) -> str:
    return str(getattr(call, "__globals__", {}).get("__name__"))


def _beneath(call: Any) -> Any:
    if isinstance(call, functools.partial):
        return call.func
    inner = [getattr(call, name, None) for name in ("__wrapped__", "__func__")]
    return inner[0] or inner[1] or stands_for(call)


def _dependants(dependant: Any) -> Iterator[Any]:
    if dependant is not None:
        yield dependant
        for each in dependant.dependencies:
            yield from _dependants(each)


def _called(call: Call, overrides: Mapping[Call, Call], seen: list[object]) -> Iterator[Call]:
    if overrides:
        call = overrides.get(call, call)
    if among(call, seen):
        return
    seen.append(call)
    yield call
    for parameter in parameters_of(call) or ():
        dependency = dependency_of(parameter)
        if dependency is not None:
            yield from _called(dependency, overrides, seen)


def parameters_of(call: Call) -> list[inspect.Parameter] | None:
    try:
        return list(signature_of(call).parameters.values())
    except (TypeError, ValueError):
        return None
