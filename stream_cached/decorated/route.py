"""The route class of FastAPI for generator functions: the hits of their endpoints are responses.

FastAPI's own handler calls the dependencies and validates the request. Then, instead of rendering
what the endpoint yields, it calls a function that answers with a response. This module imports
FastAPI, and is imported where the class is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi.datastructures import Default
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stream_cached.decorated.generator import (
    HIDDEN_ITEMS,
    DecoratedGenerator,
    decorated_generator,
)
from stream_cached.endpoint.route import Handler, Handlers, effective_route
from stream_cached.request.rendered import AS_RESPONSE

#: How a handler is told that what its endpoint returns is all that there is to send.
_NO_RENDERING = {
    "response_class": Default(JSONResponse),
    "response_field": None,
    "stream_item_field": None,
    "is_json_stream": False,
    "is_sse_stream": False,
}


class Route(APIRoute):
    """A route that answers what its endpoint yields with a response, if `stream_cached` does."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()
        function = decorated_generator(self.endpoint)
        if function is None:
            return handler
        answering = Handlers(_Answering(self, function, handler).handler)

        async def handle(request: Request) -> Response:
            return await answering.of(effective_route(request.scope))(request)

        return handle


class _Answering:
    """
    The handlers of a route, and of those that include it.

    Args:
        own: The route.
        function: Its endpoint.
        plain: The handler of a route that something else than FastAPI has made of it.
    """

    def __init__(self, own: APIRoute, function: DecoratedGenerator, plain: Handler) -> None:
        self._own = own
        self._function = function
        self._plain = plain

    def handler(self, route: Any) -> Handler:
        """Return what answers the requests of a route as it is where it is included."""
        own, function = self._own, self._function
        is_own = route is own or getattr(route, "original_route", None) is own
        if not is_own or not function.resolver.is_asked_by(route):
            return self._plain

        async def endpoint(**given: Any) -> Response:
            return await function.respond(given[HIDDEN_ITEMS])

        endpoint.__name__ = own.name
        front = copy.copy(own)
        state = vars(front)
        state.update({name: getattr(route, name) for name in state if hasattr(route, name)})
        state.update(_NO_RENDERING)
        # The same dependencies: all that FastAPI, or anyone else, has put there.
        front.dependant = replace(route.dependant, call=endpoint)
        answer: Handler = APIRoute.get_route_handler(front)

        async def handle(request: Request) -> Response:
            request.scope[AS_RESPONSE] = function
            return await answer(request)

        return handle
