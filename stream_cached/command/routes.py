"""Walks the routes of an application: those of its routers, mounts and sub-applications, too."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_origin

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute

from stream_cached.endpoint.signatures import bare_function, signature_of

#: How deeply applications may be mounted within each other.
_DEEPEST = 16

_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")

_ITERATORS = (AsyncIterator, Iterator, Generator)


@dataclass(frozen=True)
class FoundRoute:
    """A function that a framework calls for a path."""

    path: str
    methods: tuple[str, ...]
    endpoint: Any
    scope: Mapping[str, Any]
    """The scope of a request for it, without headers."""
    response_class: Any = None


def routes_of(app: Any) -> Iterator[FoundRoute]:
    """Yield the routes of an application, in their order."""
    holder = _with_routes(app)
    if holder is not None:
        yield from _routes_in(holder, holder, "", 0)


def _routes_in(holder: Any, app: Any, prefix: str, depth: int) -> Iterator[FoundRoute]:
    """Yield the routes of an application, or of a router within one."""
    if depth <= _DEEPEST:
        for route in holder.routes:
            yield from _of_route(route, app, prefix, depth)


def is_application(app: Any) -> bool:
    """Whether it has routes, or is middleware around what has some."""
    return _with_routes(app) is not None


def _with_routes(app: Any) -> Any:
    """Return the application that middleware is around."""
    for _ in range(_DEEPEST):
        if isinstance(getattr(app, "routes", None), list | tuple):
            return app
        app = getattr(app, "__dict__", {}).get("app")
    return None


def _of_route(route: Any, app: Any, prefix: str, depth: int) -> Iterator[FoundRoute]:
    contexts = getattr(route, "effective_route_contexts", None)
    if callable(contexts):
        # FastAPI 0.165 copies no route into the routers that include it.
        for context in contexts():
            plain = getattr(context, "starlette_route", None)
            if plain is not None:
                yield from _of_route(plain, app, prefix, depth)
            elif context.endpoint is not None:
                yield from _of_endpoint(context, context.original_route, app, prefix)
    elif getattr(route, "endpoint", None) is not None:
        if not _is_websocket(route):
            yield from _of_endpoint(route, route, app, prefix)
    elif hasattr(route, "app") and depth <= _DEEPEST:
        yield from _of_mount(route, app, prefix + str(getattr(route, "path", "")), depth + 1)


def _of_mount(route: Any, app: Any, prefix: str, depth: int) -> Iterator[FoundRoute]:
    own = _with_routes(route.app)
    if isinstance(own, BaseRoute):
        yield from _of_route(own, app, prefix, depth)
    elif own is not None:
        # A router has no state of its own, and is no application.
        yield from _routes_in(own, own if _is_app(own) else app, prefix, depth)


def _is_app(holder: Any) -> bool:
    return isinstance(holder, Starlette)


def _is_websocket(route: Any) -> bool:
    return "WebSocket" in type(route).__name__


def _of_endpoint(route: Any, declared: Any, app: Any, prefix: str) -> Iterator[FoundRoute]:
    endpoint = route.endpoint
    given = getattr(route, "response_class", None)
    for methods, function in _functions_of(endpoint, route.methods):
        yield FoundRoute(
            path=prefix + route.path,
            methods=methods,
            endpoint=function,
            scope=_scope(route, declared, app, prefix + route.path),
            response_class=getattr(given, "value", given),
        )


def _functions_of(
    endpoint: Any, methods: Iterable[str] | None
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what is called for a route: a function, or the methods of an `HTTPEndpoint`."""
    if inspect.isclass(endpoint) and issubclass(endpoint, HTTPEndpoint):
        allowed = {name.upper() for name in methods or map(str.upper, _METHODS)}
        for name in _METHODS:
            if name.upper() in allowed and (function := getattr(endpoint, name, None)):
                yield (name.upper(),), function
    else:
        yield tuple(sorted(methods or ("GET",))), endpoint


def _scope(route: Any, declared: Any, app: Any, path: str) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "path_params": {},
        "app": app,
        "endpoint": route.endpoint,
        "route": declared,
        "state": {},
    }
    router = getattr(app, "router", None)
    if router is not None:
        scope["router"] = router
    if route is not declared:
        scope["fastapi"] = {"effective_route_context": route}
    return scope


def name_of(endpoint: Any) -> str:
    """Return the module and the qualified name of an endpoint."""
    function = bare_function(endpoint)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def streams(found: FoundRoute) -> bool:
    """Whether an endpoint returns a stream, as far as its declaration says."""
    function = bare_function(found.endpoint)
    if _is_generator(function) or _is_stream(found.response_class):
        return True
    try:
        returned = signature_of(function).return_annotation
    except (TypeError, ValueError):
        return False
    origin = get_origin(returned) or returned
    return _is_stream(origin) or origin in _ITERATORS


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _is_stream(cls: object) -> bool:
    names = {base.__name__ for base in cls.__mro__} if inspect.isclass(cls) else set()
    is_own = inspect.isclass(cls) and issubclass(cls, StreamingResponse)
    return is_own or not names.isdisjoint({"EventSourceResponse", "StreamingHttpResponse"})
