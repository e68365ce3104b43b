"""One generator function under the decorator, and how FastAPI sees it.

FastAPI iterates over what such an endpoint yields, and builds the head of the response before that.
So a dependency answers the call: the resolver. It takes over all the parameters of the function,
and the function itself shows one parameter, which is what the resolver returns.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from starlette.responses import Response

from stream_cached.checks import require
from stream_cached.decorated.function import Decorated
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.endpoint.function import Endpoint, unlink, with_parameter
from stream_cached.endpoint.route import effective_route
from stream_cached.engine.answer import answer as answer_call
from stream_cached.engine.completeness import ITEMS
from stream_cached.engine.item_stream import ItemStream, PassedOn, open_items
from stream_cached.engine.outcome import Call
from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import media_type
from stream_cached.request.observed import plain_scope
from stream_cached.request.rendered import AS_RESPONSE
from stream_cached.responses.items import GeneratorExecution
from stream_cached.responses.rendered_items import ItemsRendering, ItemTwins
from stream_cached.responses.rendering import name_place

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator

#: The name of the parameter that FastAPI passes what the resolver returns as.
HIDDEN_ITEMS = "_stream_cached_items"

#: The name of the one that the resolver is passed what closes them as.
_CLOSER = "_stream_cached_closer"

#: The keyword argument of a call whose answer is to be a response.
_RESPONDS = "_stream_cached_responds"

#: The attribute of a wrapper that holds its function.
_OWNER = "_stream_cached_function"


class DecoratedGenerator(Decorated):
    """A decorated generator function."""

    def __init__(
        self, function: Callable[..., Any], decorator: Decorator, hooks: AiocacheHooks
    ) -> None:
        super().__init__(function, decorator, hooks)
        require(
            decorator.options.request_key,
            "request_key=False is for what FastAPI calls as a dependency, and of "
            f"{self.endpoint.name}, a dependency with yield, nothing can be cached: leave it out",
        )
        self._classes = ItemClasses(self.endpoint.declared.return_annotation)
        self._twins = ItemTwins(self.endpoint)
        self._answer: Callable[..., Any] | None = None

    def _renders_values(self) -> bool:
        return self._decorator.hooks.keys_by_request

    def _rendering_on(self, route: Any, request: Any, injected: Any) -> ItemsRendering:
        kept = ITEMS if self._decorator.options.complete_when else 0
        return ItemsRendering(self._twins, route, request, injected, kept)

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], **switches: bool) -> Call:
        as_response, kwargs = _taken(kwargs)
        injected, _ = self.endpoint.take_response(kwargs)
        call = await super().call(args, kwargs, **switches)
        if as_response and call.rendering is not None:
            return call
        request, _ = self.endpoint.take_request(args, kwargs)
        resumes = call.service.options.resume == "event-id" and request is not None
        gives_ids = resumes and self._sends_events(request)
        if resumes and not gives_ids:
            self.reporter.warn(
                'resume="event-id" needs the events of an endpoint with response_class='
                "EventSourceResponse, or their bytes: put it on a router with "
                "route_class=streams.Route"
            )
        execution = GeneratorExecution(
            **vars(call.execution),
            classes=self._classes,
            max_kept=2 * self.service.options.limits.max_ahead,
            injected=injected,
            gives_ids=gives_ids,
        )
        return replace(call, execution=execution, rendering=None, items=media_type(self._classes))

    def _sends_events(self, request: Any) -> bool:
        """Whether FastAPI makes events of the items for a request."""
        route = effective_route(plain_scope(request.scope))
        return self.resolver.is_asked_by(route) and bool(getattr(route, "is_sse_stream", False))

    async def perform(self, call: Call) -> Any:
        """Answer a call: with an `ItemStream`, or with a response if FastAPI is to render it."""
        if call.items is None:
            return await answer_call(call)
        return await open_items(call, self._classes)

    async def run_uncached(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ItemStream:
        _, kwargs = _taken(kwargs)
        return PassedOn(await super().run_uncached(args, kwargs))

    async def respond(self, kwargs: dict[str, Any]) -> Response:
        """Answer a request of a FastAPI route with a response."""
        request, own = self.endpoint.take_request((), kwargs)
        injected, _ = self.endpoint.take_response(own)
        assert self._answer is not None
        assert request is not None
        assert injected is not None
        result = await self._answer(**kwargs, **{_RESPONDS: True})
        if isinstance(result, Response):
            return result
        # It is not stored; or as items, because its key is not made of the request.
        route = effective_route(plain_scope(request.scope))
        rendering = ItemsRendering(self._twins, route, request, injected)
        return rendering.unstored(result, getattr(result, "headers", ()))

    def wrapped(self, answer: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, None]]:
        """
        Return the function as its callers see it.

        Args:
            answer: Answers a call with an `ItemStream`.
        """
        function = self.endpoint.function
        self._answer = answer

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            if HIDDEN_ITEMS in kwargs:
                # The resolver has opened them, and closes them after the response.
                async for item in kwargs[HIDDEN_ITEMS]:
                    yield item
                return
            async with await answer(*args, **kwargs) as items:
                async for item in items:
                    yield item

        if not inspect.isasyncgenfunction(function):
            # FastAPI would look through it, and see a plain generator.
            unlink(wrapper)
        resolver = self.resolver = _Resolver(self, answer)
        vars(wrapper)[_OWNER] = self
        vars(wrapper)["__signature__"] = _Signature.of(self, resolver)
        return wrapper


class _Resolver:
    """The dependency that answers a call of a generator endpoint, before its head is built."""

    def __init__(self, function: DecoratedGenerator, answer: Callable[..., Any]) -> None:
        self._endpoint = endpoint = function.endpoint
        self._function = function
        # What looks through the dependencies of a route looks through this one.
        self._stands_for = endpoint.function
        self._answer = answer
        self.__name__ = getattr(endpoint.function, "__name__", type(endpoint.function).__name__)
        # Where FastAPI looks up a name in an annotation that could not be evaluated before.
        self.__globals__ = getattr(inspect.unwrap(endpoint.function), "__globals__", {})

    @property
    def __signature__(self) -> inspect.Signature:
        require(
            _streams_generators(),
            f"this version of FastAPI does not stream what {self._endpoint.name} yields: let it "
            "return a StreamingResponse over the generator, or use FastAPI 0.134 or later",
        )
        signature = self._endpoint.signature
        # The last one: it is closed before all that the endpoint needs.
        hidden = _hidden(_CLOSER, closing_items)
        return signature.replace(
            parameters=with_parameter(signature, hidden), return_annotation=inspect.Signature.empty
        )

    async def __call__(self, **kwargs: Any) -> Any:
        """Return the items, or the arguments of the call where it is answered by a response."""
        opened: _Opened = kwargs.pop(_CLOSER)
        request, _ = self._endpoint.take_request((), kwargs)
        scope = {} if request is None else plain_scope(request.scope)
        if scope.get(AS_RESPONSE) is self._function:
            return kwargs
        require(
            self.is_asked_by(effective_route(scope)),
            f"{self._endpoint.name} is a dependency with yield, of which nothing can be cached: "
            "leave the decorator off",
        )
        injected, _ = self._endpoint.take_response(kwargs)
        items: ItemStream = await self._answer(**kwargs)
        opened.items, opened.endpoint = items, self._endpoint
        if injected is not None:
            injected.raw_headers.extend(items.headers)
        return items

    def is_asked_by(self, route: Any) -> bool:
        """Whether it takes over the parameters of the endpoint of a route."""
        # Not by the function: other decorators may be around it.
        dependencies = getattr(getattr(route, "dependant", None), "dependencies", ())
        return any(each.call is self for each in dependencies)


@dataclass
class _Opened:
    """What a resolver has opened for one request."""

    items: ItemStream | None = None
    endpoint: Endpoint | None = None


async def closing_items() -> AsyncIterator[_Opened]:
    """A dependency that closes the items of an endpoint once the response is sent."""
    opened = _Opened()
    async with AsyncExitStack() as stack:
        stack.push_async_exit(functools.partial(_close, opened))
        yield opened


async def _close(opened: _Opened, *raised: Any) -> None:
    if opened.endpoint is not None:
        # What FastAPI can't render of the items.
        name_place(raised[1], opened.endpoint)
    if opened.items is not None:
        await opened.items.__aexit__(*raised)


# It has no parameters, and the requests of the endpoint need nothing of it.
vars(closing_items)["_stands_for"] = closing_items


def _hidden(name: str, dependency: Callable[..., Any]) -> inspect.Parameter:
    depends = importlib.import_module("fastapi").Depends(dependency)
    annotation = Annotated[Any, depends]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _taken(kwargs: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Return whether a call is to be answered by a response, and its other arguments."""
    if _RESPONDS not in kwargs:
        return False, kwargs
    return True, {name: value for name, value in kwargs.items() if name != _RESPONDS}


class _Signature(inspect.Signature):
    """The signature of a generator function; once FastAPI is imported, the one for FastAPI."""

    _for_fastapi: Mapping[str, inspect.Parameter] | None = None
    _resolver: _Resolver | None = None

    @classmethod
    def of(cls, function: DecoratedGenerator, resolver: _Resolver) -> inspect.Signature:
        endpoint = function.endpoint
        first = next(iter(endpoint.declared.parameters), "")
        if first in ("self", "cls"):
            # No one knows the instance but the call itself, which is answered by its request.
            return endpoint.signature
        declared = endpoint.declared
        signature = cls(
            list(declared.parameters.values()), return_annotation=declared.return_annotation
        )
        signature._resolver = resolver
        return signature

    @property
    def parameters(self) -> MappingProxyType[str, inspect.Parameter]:
        if self._resolver is None or "fastapi" not in sys.modules:
            return super().parameters
        if self._for_fastapi is None:
            self._for_fastapi = {HIDDEN_ITEMS: _hidden(HIDDEN_ITEMS, self._resolver)}
        return MappingProxyType(dict(self._for_fastapi))


def _streams_generators() -> bool:
    """Whether FastAPI iterates over what an endpoint yields."""
    routing = importlib.import_module("fastapi.routing")
    return "is_json_stream" in inspect.signature(routing.get_request_handler).parameters


def decorated_generator(endpoint: Any) -> DecoratedGenerator | None:
    """Return the function whose wrapper an endpoint is, and not one around it."""
    # Decorators around it have its attributes, too.
    function = getattr(endpoint, "__dict__", {}).get(_OWNER)
    return function if function is not None and function.wrapper is endpoint else None
