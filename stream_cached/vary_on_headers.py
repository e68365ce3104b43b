"""Front door: `vary_on_headers`, which lets headers select among the answers of any cache."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar, cast

import aiocache
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from stream_cached.checks import require
from stream_cached.decorated.wrapping import decorated_of
from stream_cached.endpoint.cells import variables_of
from stream_cached.endpoint.function import may_be_injected, with_parameter
from stream_cached.endpoint.signatures import annotation_of, may_be, signature_of
from stream_cached.http.headers import with_vary
from stream_cached.option_checks import check_vary
from stream_cached.request.selecting import Selecting, request_among

F = TypeVar("F", bound=Callable[..., Any])

Normalise = Callable[[str], str]

logger = logging.getLogger("stream_cached")

#: The parameters that FastAPI passes, and the function below does not have.
_REQUEST, _RESPONSE = "_vary_on_headers_request", "_vary_on_headers_response"

#: What the keys of functions end with now, by the identity of the function.
_suffixes: ContextVar[Mapping[int, str]] = ContextVar(
    "stream_cached_varied", default=MappingProxyType({})
)


def vary_on_headers(*headers: str | Mapping[str, Normalise | None]) -> Callable[[F], F]:
    """
    Let request headers select among the answers of the cache below.

    Put it above `aiocache.cached`, `stream_cached` or cashews' `cache`, and below the route
    decorator. The key of the cache below then depends on these headers of the request, whatever its
    `key`, `key_builder` or template makes of the arguments, and they are added to the response's
    `Vary`. A function that takes no request may take a header as a parameter, by FastAPI's
    `Header()`.

    Args:
        headers: Names of headers, or mappings that give for each name a function that normalises
            the value, or None.

    Raises:
        ConfigurationError: A header is no name, or there is no such cache below.
    """
    vary: dict[str, Normalise | None] = {}
    require(headers, 'vary_on_headers(): pass names of headers, vary_on_headers("Accept")')
    for each in headers:
        vary.update(check_vary("vary", each if isinstance(each, Mapping) else (each,)))

    def decorate(function: F) -> F:
        own = decorated_of(function)
        if own is not None:
            own.vary_on(vary)
        function_below = innermost(function)
        found = [_varies(layer, function_below) for layer in _layers(function)]
        if not any(found):
            require(
                own is not None,
                f"vary_on_headers found no cache below it, over {_name(function)}: put it directly "
                "above @aiocache.cached, @stream_cached or cashews' @cache",
            )
            return function
        require(
            inspect.iscoroutinefunction(function),
            f"vary_on_headers is for coroutine functions, which {_name(function)} is not",
        )
        return cast(F, _wrapped(function, function_below, vary))

    return decorate


def _wrapped(
    function: Any, function_below: Callable[..., Any], vary: Mapping[str, Normalise | None]
) -> Any:
    signature = signature_of(function)
    selecting = Selecting(signature, vary)
    as_they_are = Selecting(signature, dict.fromkeys(vary))
    key = id(function_below)
    shown = _with_hidden(signature)
    # One that another vary_on_headers below has added is for that one.
    added = shown.parameters.keys() - signature.parameters.keys()

    def suffix(request: HTTPConnection | None, args: Any, kwargs: Any) -> str:
        try:
            return selecting.suffix(request, args, kwargs)
        # A user's function that fails must not fail the request.
        except Exception:
            logger.exception("%s: a function of vary_on_headers failed", _name(function))
            return as_they_are.suffix(request, args, kwargs)

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        hidden = {name: kwargs.pop(name, None) for name in added}
        request = hidden.get(_REQUEST) or request_among(args, kwargs)
        suffixes = _suffixes.get()
        more = suffix(request, args, kwargs)
        token = _suffixes.set({**suffixes, key: suffixes.get(key, "") + more})
        try:
            result = await function(*args, **kwargs)
        finally:
            _suffixes.reset(token)
        given = (result, hidden.get(_RESPONSE), *args, *kwargs.values())
        response = next((each for each in given if isinstance(each, Response)), None)
        if response is not None:
            response.raw_headers[:] = with_vary(response.raw_headers, vary)
        return result

    # With a reference to the function, so that its identity is not given to another one.
    vars(wrapper)["_varied"] = function_below
    vars(wrapper)["__signature__"] = shown
    return wrapper


def _with_hidden(signature: inspect.Signature) -> inspect.Signature:
    """Add what FastAPI passes to the parameters, where the function itself takes none of it."""
    parameters = signature.parameters.values()
    if not any(may_be(annotation_of(each), HTTPConnection) for each in parameters):
        signature = _with(signature, _REQUEST, Request)
    if not any(map(may_be_injected, parameters)):
        signature = _with(signature, _RESPONSE, Response)
    return signature


def _with(signature: inspect.Signature, name: str, cls: type) -> inspect.Signature:
    hidden = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=cls)
    return signature.replace(parameters=with_parameter(signature, hidden))


# -- what is below --------------------------------------------------------------------------------


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function, and what it wraps."""
    while function is not None:
        yield function
        state = getattr(function, "__dict__", {})
        function = state.get("__wrapped__") or state.get("_wrapped")


def innermost(function: Any) -> Any:
    """Return the function that all layers are around."""
    return [*_layers(function)][-1]


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))


def _varies(layer: Any, function_below: Callable[..., Any]) -> bool:
    """Whether a layer is that of another cache, whose keys then end with what is set here."""
    variables = variables_of(layer)
    module = str(getattr(layer, "__globals__", {}).get("__name__"))
    if module.startswith("cashews."):
        # Only where cashews is installed.
        varied = importlib.import_module("stream_cached.cashews.varied")
        return bool(varied.varies(layer, module, variables, function_below))
    for each in variables.values():
        require(
            not isinstance(each, aiocache.multi_cached),
            f"vary_on_headers can't be above aiocache.multi_cached, whose keys are those of the "
            f"items: {_name(function_below)}",
        )
        if isinstance(each, aiocache.cached):
            require(
                _asks_for_key(type(each)),
                f"vary_on_headers can't be above {type(each).__qualname__}, whose decorator() "
                "makes keys without get_cache_key()",
            )
            _vary(each)
            return True
    return False


def _asks_for_key(cls: type) -> bool:
    """Whether a class makes its keys as aiocache does, as far as its code shows."""
    code = getattr(inspect.getattr_static(cls, "decorator", None), "__code__", None)
    names = {*getattr(code, "co_names", ())}
    # What it overrides makes the key.
    return "get_cache_key" in names or "decorator" in names


def _vary(decorator: Any) -> None:
    """Let the keys of a decorator of aiocache end with what is set for their function."""
    original = decorator.get_cache_key
    if getattr(original, "_is_varied", False):
        return

    def get_cache_key(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        key = original(f, args, kwargs)
        suffix = suffix_of(f)
        if not suffix:
            return key
        return f"{key.value if isinstance(key, Enum) else key}{suffix}"

    vars(get_cache_key)["_is_varied"] = True
    decorator.get_cache_key = get_cache_key


def suffix_of(function: Callable[..., Any]) -> str:
    """Return what the keys of a function end with now."""
    suffixes = _suffixes.get()
    return suffixes.get(id(innermost(function)), "") if suffixes else ""
