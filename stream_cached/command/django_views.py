"""Walks the URLs of a Django project for views under `cache_stream`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from stream_cached.command.examine import (
    CONFIGURATION,
    Endpoint,
    Examined,
    Undecorated,
    described,
)
from stream_cached.command.routes import FoundRoute, name_of, streams
from stream_cached.command.said import Said
from stream_cached.command.settings import store_of, ttl_of
from stream_cached.endpoint.function import place_of
from stream_cached.endpoint.signatures import bare_function
from stream_cached.errors import ConfigurationError

_METHODS = ("get", "post", "put", "patch", "delete")


def examined_project() -> Examined:
    """Return what is to be said of the views of the project that is set up."""
    from django.urls import get_resolver

    from stream_cached.django.outline import decorated_view

    endpoints: list[Endpoint] = []
    undecorated: list[Undecorated] = []
    count = 0
    for path, callback in _views(get_resolver(), "/"):
        for methods, view in _functions(callback):
            count += 1
            where = (path, methods, name_of(view), place_of(bare_function(view)))
            try:
                found = decorated_view(view)
            except ConfigurationError as exc:
                wrong = Said.warned(str(exc), CONFIGURATION)
                endpoints.append(Endpoint(*where, findings=(wrong,)))
                continue
            if found is not None:
                endpoints.append(_endpoint(where, *found))
            elif streams(FoundRoute(path, methods, view, {})):
                undecorated.append(Undecorated(*where))
    return Examined((*endpoints,), (*undecorated,), count)


def _endpoint(where: tuple[str, tuple[str, ...], str, str], state: Any, view: Any) -> Endpoint:
    from stream_cached.django.outline import outline_of_view

    try:
        store = store_of(state.service.hooks, state.decorator)
    except ConfigurationError as exc:
        return Endpoint(*where, findings=(Said.warned(str(exc), CONFIGURATION),))
    outline = outline_of_view(state, view, where[1])
    return described(where, store, ttl_of(state.service.hooks, state.decorator, store), outline)


def _views(resolver: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the callback of each URL."""
    for pattern in resolver.url_patterns:
        path = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$")
        if hasattr(pattern, "url_patterns"):
            yield from _views(pattern, path)
        else:
            yield path, pattern.callback


def _functions(callback: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what a callback calls: a function, or the methods of a class."""
    cls = getattr(callback, "view_class", None) or getattr(callback, "cls", None)
    if not inspect.isclass(cls):
        yield ("GET",), callback
        return
    actions = getattr(callback, "actions", None) or {name: name for name in _METHODS}
    for method, name in actions.items():
        if (function := getattr(cls, name, None)) is not None:
            yield (method.upper(),), function
