"""The decorated function: its kind, its signature, its request parameter."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from stream_cached.endpoint.signatures import (
    annotation_of,
    dependency_of,
    header_names,
    may_be,
    signature_of,
    without_partials,
)
from stream_cached.endpoint.threads import in_threads
from stream_cached.errors import ConfigurationError

#: The name of the parameter that the decorator adds to a function without a request parameter.
HIDDEN = "_stream_cached_request"

#: The name of the one that it adds for the Response that dependencies put headers on.
HIDDEN_RESPONSE = "_stream_cached_response"


class Endpoint:
    """A decorated function: a coroutine function, or a plain function for the thread pool.

    With `takes_request`, a function that declares no request parameter gets a hidden one; with
    `takes_response` likewise, unless all that it returns are responses."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        takes_request: bool = True,
        takes_response: bool = False,
    ) -> None:
        _refuse(function)
        self.function = function
        self.generates = is_generator(function)
        """Whether a call gives what it yields, as an async generator."""
        self.name = name_of(function)
        self.place = place_of(function)
        self.is_async = _is_async(function)
        self.wraps_generator = is_generator(inspect.unwrap(function))
        """Whether FastAPI takes it for a generator, because that is what it wraps."""
        self.declared = signature_of(function)
        if self.wraps_generator and self.is_async:
            # What the generator returns is nothing that the function returns.
            self.declared = self.declared.replace(return_annotation=inspect.Signature.empty)
        parameters = self.declared.parameters.values()
        self.parameters = frozenset(self.declared.parameters)
        self._requests = [p.name for p in parameters if may_be(annotation_of(p), HTTPConnection)]
        self._takes_request = takes_request
        self.hides_request = takes_request and not self._requests
        # Of several, FastAPI passes the last one.
        self._response = next((p.name for p in reversed([*parameters]) if may_be_injected(p)), None)
        self.signature = self.declared
        if inspect.signature(function).return_annotation == "None":
            # What FastAPI makes of the text depends on its version.
            self.signature = self.declared.replace(return_annotation="None")
        if self.hides_request:
            self.signature = _with_hidden(self.signature, HIDDEN, Request)
        if takes_response or self.generates:
            self.ask_for_response()
        self.injects = any(map(_is_shared_by_dependencies, parameters))
        """Whether it takes an object of FastAPI's on which dependencies may leave something."""
        self.headers = {p.name: names for p in parameters if (names := header_names(p))}
        """The names of the request headers of each parameter, by the parameter's name."""

    def ask_for_response(self) -> None:
        """Take a hidden Response, unless it has one, or all that it returns are responses."""
        if self._response is None and not self._returns_responses():
            self._response = HIDDEN_RESPONSE
            self.signature = _with_hidden(self.signature, HIDDEN_RESPONSE, Response)

    @property
    def declares_request(self) -> bool:
        return bool(self._requests)

    @property
    def needs_request(self) -> bool:
        """Whether it can't be called without a request."""
        empty = inspect.Parameter.empty
        parameters = (self.declared.parameters[name] for name in self._requests)
        return self._takes_request and any(each.default is empty for each in parameters)

    def _returns_responses(self) -> bool:
        returned = self.declared.return_annotation
        return inspect.isclass(returned) and issubclass(returned, Response)

    async def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self.is_async:
            return await self.function(*args, **kwargs)
        if self.generates:
            generator = self.function(*args, **kwargs)
            return generator if isinstance(generator, AsyncGenerator) else in_threads(generator)
        result = await run_in_threadpool(self.function, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    def take_request(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[HTTPConnection | None, dict[str, Any]]:
        if not self._takes_request:
            return None, kwargs
        if not kwargs and len(args) == 1 and type(args[0]) is Request:
            # How Starlette calls a function.
            return args[0], kwargs
        if self.hides_request and HIDDEN in kwargs:
            kwargs = dict(kwargs)
            return kwargs.pop(HIDDEN), kwargs
        for name in self._requests:
            # The common case: FastAPI passes the request as a keyword.
            if type(value := kwargs.get(name)) is Request:
                return value, kwargs
        for value in (*args, *kwargs.values()):
            # The exact type first: `isinstance` is slow for an abstract class, a Mapping here.
            if type(value) is Request or isinstance(value, HTTPConnection):
                return value, kwargs
        if args and isinstance(args[0], HTTPEndpoint):
            return HTTPConnection(args[0].scope), kwargs
        return None, kwargs

    def take_response(self, kwargs: dict[str, Any]) -> tuple[Response | None, dict[str, Any]]:
        """Return the Response that FastAPI has passed, and the arguments of the function."""
        if HIDDEN_RESPONSE in kwargs:
            kwargs = dict(kwargs)
            return kwargs.pop(HIDDEN_RESPONSE), kwargs
        own = kwargs.get(self._response) if self._response else None
        return (own if isinstance(own, Response) else None), kwargs


def response_heads(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    return [
        (value.status_code, list(value.raw_headers))
        for value in (*args, *kwargs.values())
        if isinstance(value, Response)
    ]


#: Where `classmethod`, `property`, `cached_property` and `partialmethod` keep their function.
_BENEATH = ("__func__", "fget", "func")


def _refuse(function: object) -> None:
    hint = None
    if isinstance(function, BaseRoute):
        hint = "put the decorator below the route decorator, directly over the function"
    elif inspect.isclass(function):
        hint = "decorate its methods (get, post), not the class"
    elif not callable(function) and hasattr(function, "__get__"):
        other = type(function).__name__
        hint = f"write @{other} above @stream_cached, which has to be directly over the function"
        function = next(filter(callable, (getattr(function, n, None) for n in _BENEATH)), function)
    elif not callable(function):
        hint = "write @stream_cached(ttl=60), with parentheses, directly over a function"
    if hint:
        what = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(f"stream_cached can't decorate {what}: {hint}")


def is_generator(function: object) -> bool:
    call = _call_of(without_partials(function))
    return any(inspect.isgeneratorfunction(c) or inspect.isasyncgenfunction(c) for c in call)


def _is_async(function: object) -> bool:
    return any(map(inspect.iscoroutinefunction, _call_of(function)))


def _call_of(function: object) -> tuple[object, object]:
    return function, inspect.getattr_static(type(function), "__call__", None)


def name_of(function: Any) -> str:
    function = without_partials(function)
    qualname = getattr(function, "__qualname__", type(function).__qualname__)
    # A method of a class that is written in C has no module.
    return f"{getattr(function, '__module__', None)}.{qualname}"


def unlink(wrapper: Any) -> None:
    """Let a framework see a wrapper as it is, and not what it wraps; `place_of` still does."""
    state = vars(wrapper)
    state["_wrapped"] = state.pop("__wrapped__")


def place_of(function: Any) -> str:
    function = without_partials(function)
    function = getattr(function, "__dict__", {}).get("_wrapped", function)
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def may_be_injected(parameter: inspect.Parameter) -> bool:
    """Whether FastAPI passes its Response as this parameter."""
    annotation = annotation_of(parameter)
    is_response = inspect.isclass(annotation) and issubclass(annotation, Response)
    return is_response and dependency_of(parameter) is None


def _is_shared_by_dependencies(parameter: inspect.Parameter) -> bool:
    annotation = annotation_of(parameter)
    is_shared = any(may_be(annotation, cls) for cls in (Response, BackgroundTask))
    return is_shared and dependency_of(parameter) is None


def _with_hidden(signature: inspect.Signature, name: str, cls: type) -> inspect.Signature:
    hidden = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=cls)
    return signature.replace(parameters=with_parameter(signature, hidden))


def with_parameter(
    signature: inspect.Signature, parameter: inspect.Parameter
) -> list[inspect.Parameter]:
    """Return the parameters of a signature with one more that is passed by its name."""
    parameters = list(signature.parameters.values())
    before = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        before -= 1
    parameters.insert(before, parameter)
    return parameters
