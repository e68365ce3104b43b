"""What was decorated: its kind, its signature, its arguments, its request."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from stream_cached.exceptions import ConfigurationError
from stream_cached.keys import NoCanonicalFormError, canonical, digest
from stream_cached.policy import BypassError, NotCached

HIDDEN = "_stream_cached_request"

#: What an endpoint is given to work with, rather than to answer about.
_PLUMBING = (HTTPConnection, Response, BackgroundTask)


class Endpoint:
    """
    A decorated function.

    Args:
        function: A coroutine function, or a plain one, which is run in the thread pool.
        noself: Whether its first argument is left out of keys.

    Raises:
        ConfigurationError: It is none that can be decorated; the message guesses the mistake.
    """

    def __init__(self, function: Callable[..., Any], *, noself: bool) -> None:
        _refuse(function)
        self.function = function
        self.name = _name(function)
        self._noself = noself
        self._is_async = _is_async(function)
        declared = _signature(function)
        self.parameters = frozenset(declared.parameters)
        self._positional = [
            parameter.name
            for parameter in declared.parameters.values()
            if parameter.kind
            in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        ]
        self._keywords = frozenset(
            parameter.name
            for parameter in declared.parameters.values()
            if parameter.kind
            in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        )
        self.bound = _bound(function)
        self._hides_request = not any(
            _may_be(annotation, HTTPConnection)
            for annotation in map(_annotation, declared.parameters.values())
        )
        self.signature = _with_hidden(declared) if self._hides_request else declared
        self.header_names = frozenset(
            name for parameter in declared.parameters.values() for name in _header_names(parameter)
        )

    async def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function."""
        if self._is_async:
            return await self.function(*args, **kwargs)
        result = await run_in_threadpool(self.function, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    def take_request(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[HTTPConnection | None, dict[str, Any]]:
        """Return the call's request, and the keyword arguments without a hidden one."""
        if self._hides_request and HIDDEN in kwargs:
            kwargs = dict(kwargs)
            return kwargs.pop(HIDDEN), kwargs
        for value in (*args, *kwargs.values()):
            if isinstance(value, HTTPConnection):
                return value, kwargs
        if args and isinstance(args[0], HTTPEndpoint):
            return HTTPConnection(args[0].scope), kwargs
        return None, kwargs

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return the arguments in canonical form by name, without plumbing.

        Raises:
            BypassError: One has no canonical form.
        """
        named = dict(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            # What goes into **kwargs may be called as a positional-only parameter is.
            named[name if name in self._keywords else f"**{name}"] = value
        for index, value in enumerate(args[len(self._positional) :]):
            named[f"*{index}"] = value
        if self._noself and args:
            named.pop(self._positional[0] if self._positional else "*0", None)
        forms: dict[str, Any] = {"": self.bound} if self.bound else {}
        for name, value in named.items():
            if isinstance(value, HTTPEndpoint):
                # A method may be inherited by several.
                forms[name] = f"{type(value).__module__}.{type(value).__qualname__}"
                continue
            if isinstance(value, _PLUMBING):
                continue
            try:
                forms[name] = canonical(value)
            except (NoCanonicalFormError, RecursionError) as exc:
                raise self._unkeyed(name, value, exc) from None
        return forms

    def _unkeyed(self, name: str, value: object, exc: Exception) -> BypassError:
        values = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(item, UploadFile) for item in values):
            return BypassError(NotCached.UPLOAD, name)
        if self._positional[:1] == [name] and name in ("self", "cls"):
            return BypassError(NotCached.SELF, f"{name}: {exc}")
        return BypassError(NotCached.ARGUMENT, f"{name}: {exc}")


def _bound(function: Any) -> dict[str, Any]:
    """Return, in canonical form, what partials pass to a function in each of its calls."""
    bound: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        for name, value in (*enumerate(function.args), *function.keywords.items()):
            # What it works with (a client, a service) is one and the same in every call.
            with contextlib.suppress(NoCanonicalFormError):
                bound[f"{len(bound)} {name}"] = canonical(value)
        function = function.func
    return bound


def closure_digest(function: Callable[..., Any]) -> str:
    """
    Return what stands for the values that a function was made over, as far as that is known.

    It is for comparing the functions of one process, and never part of a key.
    """
    forms: list[Any] = []
    for cell in getattr(inspect.unwrap(function), "__closure__", None) or ():
        # An empty cell, or a value of no known form, tells nothing.
        with contextlib.suppress(ValueError, NoCanonicalFormError):
            forms.append(canonical(cell.cell_contents))
    if inspect.ismethod(function):
        forms.append(id(function.__self__))
    elif not inspect.isfunction(function):
        forms.append(id(function))
    return digest(list(map(str, forms)))


def response_heads(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return status and headers of each Response that a function is given to write on."""
    return [
        (value.status_code, list(value.raw_headers))
        for value in (*args, *kwargs.values())
        if isinstance(value, Response)
    ]


def _refuse(function: object) -> None:
    hint = None
    if isinstance(function, BaseRoute):
        hint = "put the decorator below the route decorator, directly over the function"
    elif inspect.isclass(function):
        hint = "decorate its methods (get, post), not the class"
    elif not callable(function):
        hint = "write @stream_cached(ttl=60), with parentheses, directly over a function"
    elif _is_generator(function):
        hint = "let it return a StreamingResponse over the generator"
    if hint:
        what = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(f"stream_cached can't decorate {what}: {hint}")


def _is_generator(function: object) -> bool:
    call = _call_of(function)
    return any(inspect.isgeneratorfunction(c) or inspect.isasyncgenfunction(c) for c in call)


def _is_async(function: object) -> bool:
    return any(map(inspect.iscoroutinefunction, _call_of(function)))


def _call_of(function: object) -> tuple[object, object]:
    """Return the function, and what calling it runs where it is an instance with `__call__`."""
    return function, inspect.getattr_static(type(function), "__call__", None)


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    qualname = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{qualname}"


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        signature = inspect.signature(function, eval_str=True)
    # A name that only a type checker can see; the others are then resolved one by one.
    except Exception:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.FORWARDREF)
        signature = inspect.signature(function)
    # Also those that are a string in a string: quoted in spite of `from __future__`.
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    resolved = [
        parameter.replace(annotation=_resolved(parameter.annotation, scope))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=resolved)


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        # The function's own annotation, as inspect and FastAPI evaluate it.
        return eval(annotation, scope)
    except Exception:
        return annotation


def _annotation(parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _may_be(annotation: Any, cls: type) -> bool:
    if inspect.isclass(annotation):
        return issubclass(annotation, cls)
    return any(_may_be(part, cls) for part in get_args(annotation))


def _with_hidden(signature: inspect.Signature) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    hidden = inspect.Parameter(HIDDEN, inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    before = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        before -= 1
    parameters.insert(before, hidden)
    return signature.replace(parameters=parameters)


def _header_names(parameter: inspect.Parameter) -> list[str]:
    """Return the names of the request headers that FastAPI takes a parameter from."""
    markers = [parameter.default]
    if get_origin(parameter.annotation) is Annotated:
        markers.extend(get_args(parameter.annotation)[1:])
    for marker in markers:
        # By name, since FastAPI need not be installed.
        kinds = {f"{cls.__module__}.{cls.__name__}" for cls in type(marker).__mro__}
        if "fastapi.params.Cookie" in kinds:
            return ["Cookie"]
        if "fastapi.params.Header" in kinds:
            fields = getattr(_annotation(parameter), "model_fields", None)
            if fields is None:
                return [marker.alias or _dashed(parameter.name, marker)]
            return [field.alias or _dashed(name, marker) for name, field in fields.items()]
    return []


def _dashed(name: str, marker: Any) -> str:
    return name.replace("_", "-") if getattr(marker, "convert_underscores", True) else name
