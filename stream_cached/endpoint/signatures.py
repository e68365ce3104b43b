"""A function's signature, and FastAPI's markers in it.

FastAPI may not be installed, so its classes are recognised by their qualified names.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin

#: How many functions may be around another one.
_MAX_WRAPPED = 64


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature with evaluated annotations, as far as possible."""
    try:
        signature = inspect.signature(function, eval_str=True)
    # A name may exist for type checkers only; then each annotation is evaluated separately.
    except Exception:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.FORWARDREF)
        signature = inspect.signature(function)
    # An annotation quoted in spite of `from __future__ import annotations` is a string twice.
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    resolved = [
        parameter.replace(annotation=_resolved(parameter.annotation, scope))
        for parameter in signature.parameters.values()
    ]
    returned = _resolved(signature.return_annotation, scope)
    return signature.replace(parameters=resolved, return_annotation=returned)


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        # The annotation is the application's own code; inspect and FastAPI evaluate it, too.
        return eval(annotation, scope)
    except Exception:
        return annotation


def annotation_of(parameter: inspect.Parameter) -> Any:
    return _type_and_metadata(parameter.annotation)[0]


def markers_of(parameter: inspect.Parameter) -> list[Any]:
    return [parameter.default, *_type_and_metadata(parameter.annotation)[1]]


def taking_request(function: Callable[..., Any] | None) -> inspect.Signature | None:
    """Return the signature of a function that has a parameter `request`; None for any other one."""
    if function is None:
        return None
    # A function in C may have no signature.
    with contextlib.suppress(TypeError, ValueError):
        signature = inspect.signature(function)
        parameter = signature.parameters.get("request")
        if parameter is not None and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            return signature
    return None


def _type_and_metadata(annotation: Any) -> tuple[Any, list[Any]]:
    """Resolve type aliases, and separate the metadata of `Annotated`."""
    added: list[Any] = []
    while True:
        if type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            added[:0] = more
        else:
            return annotation, added


def without_partials(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def bare_function(function: Any) -> Any:
    """Return what partials and bound methods call."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            return function


def with_wrapped(function: Any) -> Iterator[Any]:
    """Yield a function, and those that it wraps."""
    for _ in range(_MAX_WRAPPED):
        if function is None:
            return
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            function = getattr(function, "__wrapped__", None)


def class_names(cls: type) -> set[str]:
    return {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}


def may_be(annotation: Any, cls: type) -> bool:
    """Whether a type, or a member of a union, is a subclass of `cls`."""
    if inspect.isclass(annotation):
        return issubclass(annotation, cls)
    return any(may_be(part, cls) for part in get_args(annotation))


def dependency_of(parameter: inspect.Parameter) -> Callable[..., Any] | None:
    """Return the function that FastAPI calls for a parameter's value."""
    # FastAPI uses the last marker.
    for marker in reversed(markers_of(parameter)):
        if "fastapi.params.Depends" in class_names(type(marker)):
            dependency: Callable[..., Any] = marker.dependency or annotation_of(parameter)
            return dependency
    return None


def header_names(parameter: inspect.Parameter) -> list[str]:
    """Return the names of the request headers that FastAPI passes as this parameter."""
    return ["Cookie"] if cookie_names(parameter) else _fields(parameter, "Header", _dashed)


def cookie_names(parameter: inspect.Parameter) -> list[str]:
    """Return the names of the cookies that FastAPI passes as this parameter."""
    return _fields(parameter, "Cookie", lambda name, _: name)


def _fields(
    parameter: inspect.Parameter, kind: str, default: Callable[[str, Any], str]
) -> list[str]:
    """Return the names that a parameter, or the fields of its model, have in the request."""
    for marker in reversed(markers_of(parameter)):
        kinds = class_names(type(marker))
        if f"fastapi.params.{kind}" in kinds:
            fields = getattr(annotation_of(parameter), "model_fields", None)
            named = {parameter.name: marker} if fields is None else fields
            return [_alias(field) or default(name, marker) for name, field in named.items()]
        if kinds & {"fastapi.params.Cookie", "fastapi.params.Header"}:
            return []
    return []


def takes_all(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a model that accepts headers or cookies that it does not name."""
    model = annotation_of(parameter)
    extra = (
        getattr(model, "model_config", {}).get("extra") if hasattr(model, "model_fields") else ""
    )
    return extra == "allow" and bool(header_names(parameter))


def _alias(field: Any) -> str | None:
    """Return the header name that replaces the parameter's name, if one is set."""
    alias = getattr(field, "validation_alias", None)
    return alias if isinstance(alias, str) else field.alias


def _dashed(name: str, marker: Any) -> str:
    return name.replace("_", "-") if getattr(marker, "convert_underscores", True) else name
