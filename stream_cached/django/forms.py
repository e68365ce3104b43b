"""What tells a view from others of its name: what a function, a method or an object holds.

One path may have several views of one name: closures made for each user, partials, instances. What
they hold is part of the key. What can't be is left out where the route itself leads to the view, so
that it is the same for all who ask; otherwise the answer is not cached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType, MemberDescriptorType, MethodType
from typing import Any

from django.http import HttpRequest
from django.urls import ResolverMatch

from stream_cached.django.observed import own_attributes
from stream_cached.django.requests import inner_request, is_wrapped
from stream_cached.endpoint.cells import is_at_its_name
from stream_cached.endpoint.held import is_proxy, path_of
from stream_cached.endpoint.infrastructure import is_infrastructure
from stream_cached.endpoint.objects import is_plain
from stream_cached.endpoint.signatures import bare_function, with_wrapped
from stream_cached.endpoint.value_forms import ValueForms, first_forms, is_lazy
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.keys.canonical import state_of

_FIX = (
    "put what it holds into the arguments of the view, or into a global of a module; or give the "
    "view to the route itself"
)

#: What a class has that says nothing of its instances.
_OF_CLASS = frozenset(
    {
        *("__annotations__", "__dict__", "__doc__", "__firstlineno__", "__module__"),
        *("__qualname__", "__static_attributes__", "__weakref__", "_abc_impl"),
    }
)


class Forms(ValueForms):
    """
    The forms of some values of one request.

    Args:
        request: The request: what a view has of it is observed, and no part of the key.
        name: The view, for which held objects are looked for.
    """

    def __init__(self, request: Any, name: str) -> None:
        super().__init__(self._held)
        self._inner = inner_request(request)
        self._name = name

    def _held(self, value: object) -> str | None:
        if not is_infrastructure(type(value)):
            return None
        return path_of(value, {}, (self._name, type(value).__qualname__))

    def _form(self, name: str, value: Any) -> Any:
        if isinstance(value, HttpRequest) or is_wrapped(value):
            if inner_request(value) is self._inner:
                return ["request"]
        elif isinstance(value, type):
            return self._class(name, value)
        elif is_cached_view(value):
            return ["cached", self.form(name, value.__wrapped__)]
        elif type(value).__module__ == _DECORATORS:
            return ["decorator"]
        elif isinstance(value, list | tuple) and type(value) in (list, tuple):
            return [type(value).__name__, [self.form(name, each) for each in value]]
        else:
            return super()._form(name, value)
        self.unknown.append((name, value))
        return None

    def of_instance(self, name: str, value: Any) -> Any:
        """Return the form of an object that is a view, or has one as a method: its attributes."""
        if not is_plain(type(value)) or is_proxy(value):
            return self.form(name, value)
        own = sorted(state_of(value).items())
        attributes = [[each, self.form(f"{name}.{each}", item)] for each, item in own]
        return ["object", self.form(name, type(value)), attributes]

    def _class(self, name: str, cls: type) -> Any:
        """Return the name of a class, and what it holds where no module has it by that name."""
        named = ["class", cls.__module__, cls.__qualname__]
        if is_at_its_name(cls) or cls.__module__ == "builtins":
            return named
        bases = [self.form(name, base) for base in cls.__bases__]
        attributes = [
            [each, self.form(f"{name}.{each}", _beneath(item))]
            for each, item in sorted(vars(cls).items())
            if each not in _OF_CLASS and not isinstance(item, MemberDescriptorType)
        ]
        return [*named, bases, attributes]


def _beneath(value: Any) -> Any:
    """Return what a descriptor calls."""
    if is_lazy(type(value)):
        return value
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    return value.func if isinstance(value, functools.cached_property) else value


def is_cached_view(value: object) -> bool:
    """Whether a function is what the decorator makes of a view."""
    return isinstance(value, FunctionType) and value.__globals__.get("__name__") == _DECORATORS


#: Where the decorator is.
_DECORATORS = "stream_cached.django.decorators"


class Known:
    """
    What is known of one decorated view.

    Args:
        view: The view.
    """

    __slots__ = ("function", "view")

    def __init__(self, view: Callable[..., Any]) -> None:
        self.view = view
        # The function that is called in the end; the view itself if it is another object.
        self.function: Any = view if type(view) is FunctionType else bare_function(view)
        # `method_decorator` comes here for each request.
        if getattr(self.function, "__closure__", None):
            first_forms(self.function)

    def form(self, forms: Forms) -> Any:
        """Return what the key has of the view beside its name; None if the name says all."""
        form, view = [], self.view
        while isinstance(view, functools.partial):
            form += [forms.form("an argument", each) for each in view.args]
            form += [[n, forms.form(n, v)] for n, v in view.keywords.items()]
            view = view.func
        function = self.function
        if not isinstance(function, FunctionType):
            form.append(forms.of_instance("the view", function))
        elif not is_at_its_name(function):
            form.append(forms.form("the view", function))
        return form or None


def refusal(forms: Forms) -> Finding:
    """Return why a view is not cached that holds what can't be part of a key."""
    return Finding(NotCached.CLOSURE, ", ".join(dict.fromkeys(n for n, _ in forms.unknown)), _FIX)


def is_of_route(request: Any, view: Any, owner: Any) -> bool:
    """Whether the route of a request leads to a view, with this instance, for every client."""
    match = getattr(inner_request(request), "resolver_match", None)
    if type(match) is not ResolverMatch:
        return False
    function = bare_function(view)
    for each in with_wrapped(match.func):
        if isinstance(each, MethodType):
            if each.__self__ is owner:
                return True
        elif owner is None:
            if each is view or each is function:
                return True
        else:
            cls = getattr(each, "view_class", None) or getattr(each, "cls", None)
            if cls is type(owner):
                return True
    return False


def note_page_cache(incoming: Any, request: Any, view: Any, owner: Any) -> None:
    """Note that another view passes a request on whose answer `cache_page` stores for everybody."""
    is_stored = own_attributes(inner_request(request)).get("_cache_update_cache")
    if is_stored and not is_of_route(request, view, owner):
        incoming.is_inner = True


def initial_values(request: Any) -> Mapping[str, Any]:
    """Return what `as_view()` was given by the route."""
    match = getattr(inner_request(request), "resolver_match", None)
    for each in with_wrapped(getattr(match, "func", None)):
        given = getattr(each, "view_initkwargs", None) or getattr(each, "initkwargs", None)
        if isinstance(given, dict):
            return given
    return {}
