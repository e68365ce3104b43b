"""The classes of a generator's items: those that its annotation names.

An item of such a class is stored by the class's name and its fields. It is made again of them
without the class's own `__init__`, and only by a class that the annotation names: a name in the
store imports nothing, and selects nothing else.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from stream_cached.format.validation import UnsoundError, typed
from stream_cached.keys.digest import digest

#: The annotations of what generator functions return.
_STREAMS = (
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.Generator,
    collections.abc.Iterable,
    collections.abc.Iterator,
)

#: The events of frameworks, which an annotation need not name.
_EVENTS = frozenset(
    {
        "fastapi.sse.ServerSentEvent",
        "sse_starlette.event.JSONServerSentEvent",
        "sse_starlette.event.ServerSentEvent",
        "sse_starlette.sse.JSONServerSentEvent",
        "sse_starlette.sse.ServerSentEvent",
    }
)

#: The attributes of an event of sse-starlette.
_OF_EVENT = ("_sep", "comment", "data", "event", "id", "retry")

#: Grows with each change of what items are encoded to.
_ENCODING = 1


@dataclass(frozen=True, slots=True)
class ItemClass:
    """A class whose instances are stored by their fields."""

    name: str
    cls: type
    fields: tuple[tuple[str, str], ...]
    """The names and the types of its fields, as text."""
    take: Callable[[Any], Any]
    """Returns the fields of an instance, as plain values and containers."""
    make: Callable[[Any], Any]
    """Returns an instance of what `take` has returned. Raises `UnsoundError`, or what `MALFORMED`
    lists, if it is no such thing."""


class ItemClasses:
    """The classes that may be among the items of a generator with this return annotation."""

    def __init__(self, returned: Any) -> None:
        self._returned = returned

    @property
    def is_annotated(self) -> bool:
        """Whether the annotation says what the items are."""
        return get_origin(_bare(self._returned)) in _STREAMS

    @functools.cached_property
    def _by_name(self) -> dict[str, ItemClass]:
        # At the first call: an annotation may name what is defined later.
        found: dict[type, None] = {}
        _collect(_item_type(self._returned), found)
        by_name: dict[str, ItemClass] = {}
        twice = set()
        for cls in found:
            known = _item_class(cls)
            if known is not None:
                twice.update({known.name} & by_name.keys())
                by_name[known.name] = known
        return {name: known for name, known in by_name.items() if name not in twice}

    @functools.cached_property
    def schema(self) -> str:
        """A digest of the annotation and its classes. With another one, the items are others."""
        classes = sorted((name, known.fields) for name, known in self._by_name.items())
        return digest([_ENCODING, _text(_item_type(self._returned)), classes])

    def of(self, cls: type) -> ItemClass | None:
        """Return how the instances of a class are stored; None if they can't be."""
        name = class_path(cls)
        known = self._by_name.get(name) or (_item_class(cls) if name in _EVENTS else None)
        return known if known is not None and known.cls is cls else None

    def named(self, name: str) -> ItemClass:
        """Return the class with that name; raise `UnsoundError` if no item can be of it."""
        known = self._by_name.get(name)
        if known is None and name in _EVENTS:
            module, _, attribute = name.rpartition(".")
            cls = getattr(sys.modules.get(module), attribute, None)
            known = _item_class(cls) if isinstance(cls, type) else None
        if known is None or known.name != name:
            raise UnsoundError("an item of a class that the annotation does not name")
        return known


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# -- what an annotation names -------------------------------------------------------------------


def _item_type(returned: Any) -> Any:
    returned = _bare(returned)
    args = get_args(returned)
    return args[0] if args and get_origin(returned) in _STREAMS else None


def _bare(annotation: Any) -> Any:
    """Look through type aliases, `NewType` and `Annotated`."""
    while True:
        if type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        else:
            return annotation


def _collect(annotation: Any, found: dict[type, None]) -> None:
    annotation = _bare(annotation)
    if isinstance(annotation, type) and not get_args(annotation):
        if annotation in found:
            return
        found[annotation] = None
        for inner in _annotated(annotation).values():
            _collect(inner, found)
    elif (origin := get_origin(annotation)) is not None:
        if isinstance(origin, type):
            _collect(origin, found)
        for each in get_args(annotation):
            _collect(each, found)


def _annotated(cls: type) -> dict[str, Any]:
    """The annotations of a class's fields by their names."""
    if _is_model(cls):
        fields: dict[str, Any] = cls.model_fields  # type: ignore[attr-defined]
        return {name: info.annotation for name, info in fields.items()}
    is_dataclass, is_tuple = dataclasses.is_dataclass(cls), _is_named_tuple(cls)
    if not is_dataclass and not is_tuple and not typing.is_typeddict(cls):
        return {}
    try:
        hints = typing.get_type_hints(cls)
    # A name may exist for type checkers only.
    except Exception:
        hints = {}
    if is_dataclass:
        return {field.name: hints.get(field.name, field.type) for field in dataclasses.fields(cls)}
    if is_tuple:
        return {name: hints.get(name) for name in cls._fields}  # type: ignore[attr-defined]
    return hints


def _text(annotation: Any) -> str:
    """A text for an annotation that is the same in each process."""
    annotation = _bare(annotation)
    if isinstance(annotation, str):
        return annotation
    if args := get_args(annotation):
        origin = get_origin(annotation)
        name = class_path(origin) if isinstance(origin, type) else str(origin)
        return f"{name}[{', '.join(map(_text, args))}]"
    return class_path(annotation if isinstance(annotation, type) else type(annotation))


# -- how a class is taken apart -----------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _item_class(cls: type) -> ItemClass | None:
    name, fields = class_path(cls), tuple((n, _text(each)) for n, each in _annotated(cls).items())
    names = tuple(field for field, _ in fields)
    if issubclass(cls, enum.Enum):
        members = tuple((member, "") for member in cls.__members__)
        return ItemClass(name, cls, members, _member_name, functools.partial(_member, cls))
    if _is_named_tuple(cls):
        make = functools.partial(_named_tuple, cls)
        return ItemClass(name, cls, fields, list, make)
    if cls.__new__ is not object.__new__:
        return None
    if _is_model(cls):
        make = functools.partial(_model, cls, frozenset(names))
        return ItemClass(name, cls, fields, functools.partial(_of_model, names), make)
    if dataclasses.is_dataclass(cls):
        make = functools.partial(_instance, cls, frozenset(names))
        return ItemClass(name, cls, fields, functools.partial(_of_dataclass, names), make)
    if name in _EVENTS:
        make = functools.partial(_instance, cls, frozenset(_OF_EVENT))
        return ItemClass(name, cls, (), functools.partial(_of_dataclass, _OF_EVENT), make)
    return None


def _is_model(cls: type) -> bool:
    return any(class_path(base) == "pydantic.main.BaseModel" for base in cls.__mro__[1:])


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _member_name(member: enum.Enum) -> str:
    if type(member).__members__.get(member.name) is not member:
        raise ValueError("a combination of flags")
    return member.name


def _member(cls: type[enum.Enum], name: Any) -> enum.Enum:
    return cls.__members__[typed(str, name)]


def _named_tuple(cls: Any, values: Any) -> Any:
    if len(typed(list, values)) != len(cls._fields):
        raise UnsoundError("another number of fields")
    return tuple.__new__(cls, values)


def _of_dataclass(names: tuple[str, ...], item: Any) -> dict[str, Any]:
    fields = {name: getattr(item, name) for name in names}
    for name, value in getattr(item, "__dict__", {}).items():
        # What is computed once is computed again.
        if not isinstance(getattr(type(item), name, None), functools.cached_property):
            fields[name] = value
    return fields


def _instance(cls: type, names: frozenset[str], fields: Any) -> Any:
    given: dict[Any, Any] = typed(dict, fields)
    if not names <= given.keys() or not all(type(name) is str for name in given):
        raise UnsoundError("other fields")
    item: Any = object.__new__(cls)
    for name, value in given.items():
        if name.startswith("__"):
            raise UnsoundError("other fields")
        object.__setattr__(item, name, value)
    return item


def _of_model(names: tuple[str, ...], item: Any) -> list[Any]:
    fields = {name: item.__dict__[name] for name in names}
    is_set = sorted(item.__pydantic_fields_set__)
    return [fields, is_set, item.__pydantic_extra__, item.__pydantic_private__]


def _model(cls: Any, names: frozenset[str], parts: Any) -> Any:
    fields, is_set, extra, private = typed(list, parts)
    if typed(dict, fields).keys() != names or not all(type(name) is str for name in is_set):
        raise UnsoundError("other fields")
    if private is not None and not typed(dict, private).keys() <= cls.__private_attributes__.keys():
        raise UnsoundError("other private attributes")
    if (extra is not None) is not (cls.model_config.get("extra") == "allow"):
        raise UnsoundError("other fields")
    item: Any = object.__new__(cls)
    for name, value in _state(fields, is_set, extra, private).items():
        object.__setattr__(item, name, value)
    return item


def _state(fields: Any, is_set: Any, extra: Any, private: Any) -> Mapping[str, Any]:
    return {
        "__dict__": fields,
        "__pydantic_fields_set__": set(is_set),
        "__pydantic_extra__": None if extra is None else typed(dict, extra),
        "__pydantic_private__": private,
    }
