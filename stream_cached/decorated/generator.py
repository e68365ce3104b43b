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

from stream_cached.checks import require
from stream_cached.decorated.function import Decorated
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.endpoint.function import unlink, with_parameter
from stream_cached.endpoint.route import effective_route
from stream_cached.engine.item_stream import ItemStream, PassedOn, open_items
from stream_cached.engine.outcome import Call
from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import media_type
from stream_cached.request.observed import plain_scope
from stream_cached.responses.items import GeneratorExecution

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator

#: The name of the parameter that FastAPI passes what the resolver returns as.
HIDDEN_ITEMS = "_stream_cached_items"

#: The name of the one that the resolver is passed what closes them as.
_CLOSER = "_stream_cached_closer"


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

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], **switches: bool) -> Call:
        injected, _ = self.endpoint.take_response(kwargs)
        call = await super().call(args, kwargs, **switches)
        execution = GeneratorExecution(
            **vars(call.execution),
            classes=self._classes,
            max_kept=2 * self.service.options.limits.max_ahead,
            injected=injected,
        )
        return replace(call, execution=execution, rendering=None, items=media_type(self._classes))

    async def open(self, call: Call) -> ItemStream:
        return await open_items(call, self._classes)

    async def run_uncached(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ItemStream:
        return PassedOn(await super().run_uncached(args, kwargs))

    def wrapped(self, answer: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, None]]:
        """
        Return the function as its callers see it.

        Args:
            answer: Answers a call with an `ItemStream`.
        """
        function = self.endpoint.function

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
        resolver = _Resolver(self, answer)
        vars(wrapper)["__signature__"] = _Signature.of(self, resolver)
        return wrapper


class _Resolver:
    """The dependency that answers a call of a generator endpoint, before its head is built."""

    def __init__(self, function: DecoratedGenerator, answer: Callable[..., Any]) -> None:
        self._endpoint = endpoint = function.endpoint
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

    async def __call__(self, **kwargs: Any) -> ItemStream:
        opened: _Opened = kwargs.pop(_CLOSER)
        request, _ = self._endpoint.take_request((), kwargs)
        route = None if request is None else effective_route(plain_scope(request.scope))
        require(
            _is_asked_by_endpoint(self, route),
            f"{self._endpoint.name} is a dependency with yield, of which nothing can be cached: "
            "leave the decorator off",
        )
        injected, _ = self._endpoint.take_response(kwargs)
        items: ItemStream = await self._answer(**kwargs)
        opened.items = items
        if injected is not None:
            injected.raw_headers.extend(items.headers)
        return items


@dataclass
class _Opened:
    """What a resolver has opened for one request."""

    items: ItemStream | None = None


async def closing_items() -> AsyncIterator[_Opened]:
    """A dependency that closes the items of an endpoint once the response is sent."""
    opened = _Opened()
    async with AsyncExitStack() as stack:
        stack.push_async_exit(functools.partial(_close, opened))
        yield opened


async def _close(opened: _Opened, *raised: Any) -> None:
    if opened.items is not None:
        await opened.items.__aexit__(*raised)


# It has no parameters, and the requests of the endpoint need nothing of it.
vars(closing_items)["_stands_for"] = closing_items


def _hidden(name: str, dependency: Callable[..., Any]) -> inspect.Parameter:
    depends = importlib.import_module("fastapi").Depends(dependency)
    annotation = Annotated[Any, depends]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _is_asked_by_endpoint(resolver: _Resolver, route: Any) -> bool:
    """Whether it is the endpoint of a route whose parameters the resolver takes over."""
    # Not by the function: other decorators may be around it.
    dependencies = getattr(getattr(route, "dependant", None), "dependencies", ())
    return any(each.call is resolver for each in dependencies)


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
