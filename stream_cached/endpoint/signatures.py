"""What a function's signature says, with FastAPI's markers in it.

They are known by their names, since FastAPI need not be installed.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """
    Return a function's signature with its annotations evaluated, as far as they can be.

    Raises:
        ValueError: It has none.
    """
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


def annotation_of(parameter: inspect.Parameter) -> Any:
    """Return a parameter's type, without what `Annotated` adds."""
    return _taken_apart(parameter.annotation)[0]


def markers_of(parameter: inspect.Parameter) -> list[Any]:
    """Return a parameter's default, and what `Annotated` says of it."""
    return [parameter.default, *_taken_apart(parameter.annotation)[1]]


def _taken_apart(annotation: Any) -> tuple[Any, list[Any]]:
    """Return a type and what `Annotated` adds to it, behind any names of `type` statements."""
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
    """Return the function that partials lead to."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def class_names(cls: type) -> set[str]:
    """Return the qualified names of a class, and of those that it inherits from."""
    return {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}


def may_be(annotation: Any, cls: type) -> bool:
    """Whether a type has room for instances of a class."""
    if inspect.isclass(annotation):
        return issubclass(annotation, cls)
    return any(may_be(part, cls) for part in get_args(annotation))


def dependency_of(parameter: inspect.Parameter) -> Callable[..., Any] | None:
    """Return the function that FastAPI calls for a parameter's value."""
    # The last one is the one that counts.
    for marker in reversed(markers_of(parameter)):
        if "fastapi.params.Depends" in class_names(type(marker)):
            dependency: Callable[..., Any] = marker.dependency or annotation_of(parameter)
            return dependency
    return None


def header_names(parameter: inspect.Parameter) -> list[str]:
    """Return the names of the request headers that FastAPI takes a parameter from."""
    for marker in reversed(markers_of(parameter)):
        kinds = class_names(type(marker))
        if "fastapi.params.Cookie" in kinds:
            return ["Cookie"]
        if "fastapi.params.Header" in kinds:
            fields = getattr(annotation_of(parameter), "model_fields", None)
            if fields is None:
                return [_alias(marker) or _dashed(parameter.name, marker)]
            return [_alias(field) or _dashed(name, marker) for name, field in fields.items()]
    return []


def _alias(field: Any) -> str | None:
    """Return the name that a value is looked for by, where that is not the parameter's."""
    alias = getattr(field, "validation_alias", None)
    return alias if isinstance(alias, str) else field.alias


def _dashed(name: str, marker: Any) -> str:
    return name.replace("_", "-") if getattr(marker, "convert_underscores", True) else name
