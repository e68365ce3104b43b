"""The route of a request, as FastAPI and Starlette leave it in the scope."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stream_cached.endpoint.signatures import bare_function

#: What FastAPI answers the requests of a route with.
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Handlers:
    """Handlers that are made of routes. Each lives as long as its route."""

    def __init__(self, make: Callable[[Any], Handler]) -> None:
        self._make = make
        # By address: the context of an included route has no hash.
        self._known: dict[int, tuple[weakref.ref[Any], Handler]] = {}

    def of(self, route: Any) -> Handler:
        """Return the handler that is made of a route."""
        known = self._known.get(id(route))
        if known is not None and known[0]() is route:
            return known[1]
        place, handlers = id(route), self._known

        def forget(reference: weakref.ref[Any]) -> None:
            # A new route may have the address by now.
            if place in handlers and handlers[place][0] is reference:
                del handlers[place]

        handler = self._make(route)
        handlers[place] = weakref.ref(route, forget), handler
        return handler


def effective_route(scope: Mapping[str, Any]) -> Any:
    """
    Return the route of a request, with what the including routers add; None without a route.

    FastAPI 0.165 copies no route into the routers that include it: `scope["route"]` is the one that
    was declared, and a context beside it has the rest.
    """
    route, context = scope.get("route"), scope.get("fastapi")
    effective = context.get("effective_route_context") if isinstance(context, dict) else None
    # The context of a mount stays in the scope of the application that is mounted there.
    is_of_route = getattr(effective, "original_route", None) is route
    return effective if is_of_route and effective is not None else route


def dependencies_of(dependant: Any) -> Iterator[Any]:
    """Yield the functions that FastAPI calls for a route and the parameters of its endpoint."""
    for each in getattr(dependant, "dependencies", ()):
        if stands_for(each.call):
            yield from dependencies_of(each)
        elif each.call:
            yield each.call


def stands_for(call: object) -> Any:
    """Return the generator function whose parameters a dependency of our own has, if it is one."""
    # Not by `getattr`: a mock has all attributes.
    return getattr(call, "__dict__", {}).get("_stands_for")


def is_endpoint(function: object, route: Any) -> bool:
    """Whether a FastAPI route calls this function, with nothing in between."""
    if not hasattr(route, "response_model_by_alias"):
        return False
    called = getattr(route.dependant, "call", None)
    return any(bare_function(each) is function for each in (route.endpoint, called))
