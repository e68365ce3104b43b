"""The instance of a class whose method is a view: what it was given before its method is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stream_cached.keys.canonical import NoCanonicalFormError, canonical

#: What Django and REST Framework set on each instance, and what is part of the key anyway.
_COMMON = frozenset(
    {
        *("action_map", "args", "format_kwarg", "head", "headers", "kwargs", "request", "response"),
        *("_negotiator", "authentication_classes", "permission_classes", "renderer_classes"),
    }
)


def owner_of(view: Callable[..., Any], request: Any, args: tuple[Any, ...]) -> Any:
    """Return the instance; None for a function."""
    owner = args[0] if args[0] is not request else None
    if owner is None and isinstance(view, functools.partial):
        owner = getattr(view.func, "__self__", None)
    return owner


def attributes_of(owner: Any, request: Any) -> Iterator[tuple[str, Any]]:
    """
    Yield what the answer may depend on, in canonical form.

    Raises:
        NoCanonicalFormError: An attribute has none; the message names it.
    """
    own = getattr(owner, "__dict__", {})
    # Others are made once, and not for each request.
    for name, value in own.items() if "request" in own else ():
        if name in _COMMON or (inspect.ismethod(value) and value.__self__ is owner):
            continue
        try:
            yield name, _form(value)
        except NoCanonicalFormError as exc:
            # Those of `as_view()` are the same for all requests.
            if not _is_of_route(name, value, request):
                raise NoCanonicalFormError(f"self.{name}: {exc}") from None


def changed_arguments(owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments on the instance, where they are not those of the call."""
    own = getattr(owner, "__dict__", {})
    changed: dict[str, Any] = {}
    if isinstance(own.get("kwargs"), dict) and own["kwargs"] != kwargs:
        changed["self.kwargs"] = own["kwargs"]
    if isinstance(own.get("args"), tuple) and own["args"] != tuple(args):
        changed["self.args"] = list(own["args"])
    return changed


def _form(value: Any) -> Any:
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return canonical(value)


def _is_of_route(name: str, value: Any, request: Any) -> bool:
    function = getattr(getattr(request, "resolver_match", None), "func", None)
    given = getattr(function, "view_initkwargs", None) or getattr(function, "initkwargs", None)
    return given is not None and given.get(name) is value
