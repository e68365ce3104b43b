"""Where an instance of a class keeps what it holds."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import struct
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: `Py_TPFLAGS_HEAPTYPE`: a class that is not built into the interpreter.
_HEAP_TYPE = 1 << 9

_POINTER = struct.calcsize("P")

#: Descriptors that keep nothing themselves.
_USUAL = (
    *(functools.cached_property, property, types.GetSetDescriptorType),
    types.MemberDescriptorType,
)


def fields_of(cls: type) -> dict[str, bool]:
    """
    Return the fields of a dataclass, a model of pydantic or a class of attrs.

    To each name: whether the `repr` that they are given shows the field.
    """
    if dataclasses.is_dataclass(cls):
        return {field.name: field.repr for field in dataclasses.fields(cls)}
    models: Mapping[str, Any] = getattr(cls, "__pydantic_fields__", None) or {}
    attributes = getattr(cls, "__attrs_attrs__", ())
    # One of attrs may have a function for that.
    shown = {field.name: field.repr is not False for field in attributes}
    return shown | {name: field.repr for name, field in models.items()}


def slot_names(classes: Iterable[type]) -> list[str]:
    """Return the names of the slots that these classes themselves define."""
    names: list[str] = []
    for cls in classes:
        slots = vars(cls).get("__slots__", ())
        own = [slots] if isinstance(slots, str) else slots
        names += [_mangled(cls, name) for name in own if name not in ("__dict__", "__weakref__")]
    return names


def _mangled(cls: type, name: str) -> str:
    """Return the name of the attribute for a name in the body of a class."""
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if is_private else name


def _find_hidden(cls: type) -> bool:
    if not all(base is object or base.__flags__ & _HEAP_TYPE for base in cls.__mro__):
        return True
    # Offsets before the object itself are negative.
    pointers = (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0) + len(slot_names(cls.__mro__))
    return cls.__basicsize__ > object.__basicsize__ + _POINTER * pointers


#: Whether instances of a class hold more than attributes and slots, as those of one in C may.
hides_content: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_find_hidden)


def _find_descriptors(cls: type) -> tuple[str, ...]:
    names = {name for base in cls.__mro__[:-1] for name in vars(base) if name[:2] != "__"}
    return tuple(sorted(name for name in names if _is_kept_by_descriptor(cls, name)))


def _is_kept_by_descriptor(cls: type, name: str) -> bool:
    found = inspect.getattr_static(cls, name)
    return (
        not isinstance(found, _USUAL)
        and hasattr(type(found), "__get__")
        and hasattr(type(found), "__set__")
    )


#: The attributes of a class that descriptors of one's own keep, perhaps not in the instance.
descriptors_of: Callable[[type], tuple[str, ...]] = functools.lru_cache(maxsize=1024)(
    _find_descriptors
)
