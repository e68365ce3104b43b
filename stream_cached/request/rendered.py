"""How the route of a request renders what its endpoint returns, where a function has several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from starlette.types import Scope

from stream_cached.endpoint.route import effective_route, is_endpoint
from stream_cached.keys.canonical import NoCanonicalFormError, canonical

#: What of a route of FastAPI decides how it renders a value.
OF_ROUTE = (
    "response_model",
    "status_code",
    "response_class",
    "response_model_include",
    "response_model_exclude",
    "response_model_by_alias",
    "response_model_exclude_unset",
    "response_model_exclude_defaults",
    "response_model_exclude_none",
)

#: In the scope of a request: the generator function that answers it with a response.
AS_RESPONSE = "stream_cached.as_response"

#: Routers within routers.
_MAX_DEPTH = 16


def is_of_fastapi(scope: Scope) -> bool:
    """Whether a request may have come by a route of FastAPI."""
    # Older versions put no word of their own into the scope.
    return "fastapi" in scope or hasattr(scope.get("route"), "response_model_by_alias")


class Rendered:
    """The routes of one function in each application."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self._routes: WeakKeyDictionary[Any, tuple[int, list[int]]] = WeakKeyDictionary()

    def form(self, scope: Scope) -> list[Any]:
        """Return how the route renders; nothing where the function has no other route."""
        if not is_of_fastapi(scope):
            return []
        app, route = scope.get("app"), effective_route(scope)
        if not hasattr(app, "router") or not is_endpoint(self._wrapper, route):
            return []
        routes = self._routes_of(app)
        if len(routes) < 2:
            return []
        forms = [[name, _shown(getattr(route, name, None))] for name in OF_ROUTE]
        # Its endpoint may read the name of its route, its tags, and all else that was put there.
        own = id(scope["route"])
        forms.append(["route", routes.index(own) if own in routes else -1])
        # Of a generator, one route has the items in its entries, and another one the responses.
        return [*forms, AS_RESPONSE] if AS_RESPONSE in scope else forms

    def is_single(self, app: Any) -> bool:
        """Whether an application has no two routes for it, so that `form` is always empty."""
        try:
            return len(self._routes_of(app)) < 2
        # It is one of another framework.
        except (AttributeError, TypeError):
            return False

    def _routes_of(self, app: Any) -> list[int]:
        """Return the addresses of the routes, in their order, which all processes have."""
        size = len(app.routes)
        known = self._routes.get(app)
        if known is None or known[0] != size:
            routes = [id(each) for each in _routes(app, 0) if is_endpoint(self._wrapper, each)]
            known = self._routes[app] = size, routes
        return known[1]


def _routes(router: Any, depth: int) -> Iterator[Any]:
    for route in tuple(getattr(router, "routes", None) or ()):
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        elif depth < _MAX_DEPTH:
            yield from _routes(inner, depth + 1)


def _shown(value: Any) -> Any:
    # FastAPI keeps a default apart from what was given.
    if type(value).__module__.startswith("fastapi."):
        value = getattr(value, "value", value)
    try:
        return canonical(value)
    except NoCanonicalFormError:
        fields = getattr(value, "model_fields", {})
        return [repr(value), [f"{name}: {field!r}" for name, field in fields.items()]]
