"""The class of an `HTTPEndpoint` that a factory has made: another one may have its name."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

from starlette.endpoints import HTTPEndpoint

from stream_cached.endpoint.cells import is_at_its_name
from stream_cached.endpoint.value_forms import ValueForms
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.numbers import number_of

#: How many classes of one name were alive after the garbage was collected.
_collected: dict[tuple[str, str], int] = {}


def class_form(cls: type[HTTPEndpoint], *, in_memory: bool) -> list[Any]:
    """
    Return what the key has of a class of endpoints beside its name.

    Raises:
        BypassError: An attribute has no form, and there is another class of that name.
    """
    if is_at_its_name(cls):
        return []
    forms = ValueForms(lambda _: None)
    found = [
        [each.__qualname__, [[name, forms.form(name, value)] for name, value in _attributes(each)]]
        for each in cls.__mro__
        if issubclass(each, HTTPEndpoint) and each is not HTTPEndpoint and not is_at_its_name(each)
    ]
    if not forms.unknown or not _has_namesake(cls):
        return found
    if in_memory:
        return [*found, number_of(cls)]
    names = ", ".join(dict.fromkeys(name for name, _ in forms.unknown))
    raise BypassError(Finding(NotCached.CLOSURE, f"{names} of {cls.__qualname__}"))


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if name.startswith("__") or hasattr(value, "cache_key"):
            continue
        beneath = getattr(value, "__func__", None) or getattr(value, "fget", None)
        yield name, value if beneath is None else beneath


def _has_namesake(cls: type) -> bool:
    name = _name(cls)
    alive = sum(_name(each) == name for each in _subclasses(HTTPEndpoint))
    if alive > max(1, _collected.get(name, 0)):
        # Classes are in cycles with themselves.
        gc.collect()
        alive = sum(_name(each) == name for each in _subclasses(HTTPEndpoint))
        _collected[name] = alive
    return alive > 1


def _name(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for each in subclasses:
        yield each
        yield from _subclasses(each)
