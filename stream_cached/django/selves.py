"""The instance of a class whose method is a view: what it was given before its method is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

from stream_cached.django.forms import Forms, initial_values
from stream_cached.django.observed import own_attributes
from stream_cached.django.requests import are_same, find_request, inner_request
from stream_cached.endpoint.signatures import without_partials
from stream_cached.keys.canonical import NoCanonicalFormError
from stream_cached.keys.digest import class_name


def owner_of(view: Callable[..., Any], request: Any, args: tuple[Any, ...]) -> Any:
    """Return the instance; None for a function."""
    if args[0] is not request:
        return args[0]
    view = without_partials(view)
    return getattr(view, "__self__", None) if isinstance(view, MethodType) else None


def attributes_of(owner: Any, request: Any, forms: Forms) -> Iterator[tuple[str, Any]]:
    """
    Yield what the answer may depend on, in canonical form.

    Raises:
        NoCanonicalFormError: An attribute has none; the message names it.
    """
    own = own_attributes(owner)
    if "request" not in own:
        # It is made once, perhaps, and not for each request. Who checks `forms` knows.
        yield "", forms.of_instance("self", owner)
        return
    given = initial_values(request)
    for name, value in own.items():
        if _is_in_key(name, value, owner, request):
            continue
        before = len(forms.unknown)
        form = _method_form(value, owner) or forms.form(f"self.{name}", value)
        if len(forms.unknown) == before:
            yield name, form
            continue
        unknown = forms.unknown[before:]
        del forms.unknown[before:]
        # Those of `as_view()` are the same for all requests.
        if given.get(name) is not value:
            place, found = unknown[0]
            raise NoCanonicalFormError(f"{place}: {class_name(found)}")


def _is_in_key(name: str, value: Any, owner: Any, request: Any) -> bool:
    if name == "request":
        is_request = find_request((value,)) is not None
        return is_request and inner_request(value) is inner_request(request)
    if name == "_negotiator":
        # What REST Framework makes of a class of the view.
        is_own = type(value) is getattr(type(owner), "content_negotiation_class", None)
        return is_own and not own_attributes(value)
    # See `changed_arguments`.
    return (name == "kwargs" and type(value) is dict) or (name == "args" and type(value) is tuple)


def _method_form(value: Any, owner: Any) -> list[str] | None:
    """Return the name of a method of the instance itself, whose class is part of the key."""
    if type(value) is not MethodType or value.__self__ is not owner:
        return None
    name = value.__func__.__name__
    is_own = getattr(type(owner), name, None) is value.__func__
    return ["method", name] if is_own else None


def changed_arguments(owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments on the instance, where they are not those of the call."""
    own = own_attributes(owner)
    changed: dict[str, Any] = {}
    if type(own.get("kwargs")) is dict and not are_same(own["kwargs"], kwargs):
        changed["self.kwargs"] = own["kwargs"]
    if type(own.get("args")) is tuple and not are_same(own["args"], args):
        changed["self.args"] = list(own["args"])
    return changed
