"""The canonical form of a value: two forms are equal only for equal values of one type."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import ipaddress
import pathlib
import re
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from stream_cached.keys.digest import _packed, class_name
from stream_cached.keys.layout import descriptors_of, hides_content, slot_names
from stream_cached.keys.made_classes import (
    changing_bases,
    found_by_name,
    parts_of_class,
    plain_attributes,
)

#: Ends the recursion into a value that contains itself.
_MAX_DEPTH = 64

TOO_DEEP = "nested too deeply"
_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    type(functools.lru_cache(lambda: None)),
)


class NoCanonicalFormError(TypeError):
    """A value of a type whose equality is unknown, so that it can't be part of a key."""


def canonical(value: object, depth: int = 0) -> Any:
    """Return plain values that are equal only for equal values of one type."""
    # Types count: `1`, `True`, `1.0` and `"1"` differ.
    cls = type(value)
    if cls in PLAIN:
        return value
    if depth > _MAX_DEPTH:
        raise NoCanonicalFormError(TOO_DEEP)
    return _converter(cls)(value, depth + 1)


#: Returns the form of a value. Its second argument is the depth of the values inside that value.
_Converter = Callable[[Any, int], Any]


def has_form(value: object) -> bool:
    try:
        canonical(value)
    except NoCanonicalFormError:
        return False
    return True


def class_has_form(cls: type) -> bool:
    """Whether instances of a class have a form, as far as the class decides that."""
    return cls in PLAIN or _converter(cls) is not _refuse


def _find_converter(cls: type) -> _Converter:
    form = _form_of_class(cls)
    if form is _refuse or cls.__module__ in _STANDARD or issubclass(cls, type):
        return form
    if found_by_name(cls) is cls:
        return _with_attributes_of(cls, form) if changing_bases(cls) else form
    # Another class may have its name: its methods and attributes count, as they are now.
    return lambda value, deeper: [
        "made",
        parts_of_class(cls, lambda part: canonical(part, deeper)),
        form(value, deeper),
    ]


def _with_attributes_of(cls: type, form: _Converter) -> _Converter:
    """Return a converter that adds what stands on the class: a request may have put it there."""

    def converted(value: Any, deeper: int) -> Any:
        own = plain_attributes(cls, PLAIN)
        return [form(value, deeper), own] if own else form(value, deeper)

    return converted


def _form_of_class(cls: type) -> _Converter:
    for classes, form in _FORMS:
        if issubclass(cls, classes):
            return _content_only(cls, form) if issubclass(cls, _CONTENT) else form
    if dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__"):
        return _fields_over(cls, _dataclass)
    if hasattr(cls, "__pydantic_fields__"):
        return _fields_over(cls, _model)
    if cls.__module__ in ("pydantic.networks", "pydantic_core._pydantic_core") and hasattr(
        cls, "unicode_string"
    ):
        return lambda value, _: ["url", class_name(value), str(value)]
    if cls.__module__ == "pydantic.types" and hasattr(cls, "get_secret_value"):
        return lambda value, deeper: [
            class_name(value),
            canonical(value.get_secret_value(), deeper),
        ]
    for base, content in _CONTENT_OF.items():
        if issubclass(cls, base):
            return _content_only(cls, _plain_as(base, content))
    return _refuse


def _content_only(cls: type, form: _Converter) -> _Converter:
    """Return a converter that refuses values with attributes beside their content."""
    if cls.__module__ in _STANDARD:
        return form
    slots = _slots(cls)

    def checked(value: Any, deeper: int) -> Any:
        if getattr(value, "__dict__", None) or any(hasattr(value, name) for name in slots):
            raise NoCanonicalFormError(class_name(value))
        return form(value, deeper)

    return checked


def _plain_as(base: type, content: Callable[[Any], object]) -> _Converter:
    return lambda value, _: [base.__name__, class_name(value), content(value)]


def _fields_over(cls: type, form: _Converter) -> _Converter:
    """Return a converter that adds what a class with fields has of the class that it extends."""
    for base, content in _CONTENT_OF.items():
        if issubclass(cls, base):
            plain = _plain_as(base, content)
            return lambda value, deeper: [form(value, deeper), plain(value, deeper)]
    return _refuse if hides_content(cls) else form


def _slots(cls: type) -> list[str]:
    return slot_names(base for base in cls.__mro__ if base.__module__ not in _STANDARD)


def state_of(value: object) -> dict[str, object]:
    """Return the attributes and the slots of an instance."""
    cls = type(value)
    state = {name: getattr(value, name) for name in _slots(cls) if hasattr(value, name)}
    for name, item in getattr(value, "__dict__", {}).items():
        is_cached = isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)
        # A cached property follows from the other attributes, unless it was set from outside.
        if not is_cached or has_form(item):
            state[name] = item
    return state


def _refuse(value: object, deeper: int) -> NoReturn:
    raise NoCanonicalFormError(class_name(value))


def _moment(value: datetime.datetime | datetime.time, deeper: int) -> list[Any]:
    zone = _zone(value.tzinfo)
    cls = datetime.datetime if isinstance(value, datetime.datetime) else datetime.time
    return [class_name(value), cls.isoformat(value), value.tzname(), zone, value.fold]  # type: ignore[arg-type]


def _zone(zone: datetime.tzinfo | None) -> str:
    """Return the name of a time zone: two may agree at one moment, and differ at another."""
    if zone is None or type(zone) is datetime.timezone or class_name(zone) in _OFFSETS:
        return ""
    # Those of zoneinfo, and of pytz.
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if not isinstance(name, str):
        raise NoCanonicalFormError(class_name(zone))
    return f"{class_name(zone)} {name}"


def _global(value: Any, deeper: int) -> list[Any]:
    """Return the name by which a module has a function or a class, and what was set on it."""
    if found_by_name(value) is not value:
        raise NoCanonicalFormError(class_name(value))
    own = plain_attributes(value, PLAIN) if hasattr(value, "__dict__") else []
    return ["global", value.__module__, value.__qualname__, own]


def _sequence(value: Iterable[object], deeper: int) -> list[Any]:
    return [class_name(value), [canonical(item, deeper) for item in value]]


def _ordered(value: dict[object, object], deeper: int) -> list[Any]:
    form = [class_name(value), [canonical(pair, deeper) for pair in dict.items(value)]]
    if isinstance(value, collections.defaultdict):
        form.append(canonical(value.default_factory, deeper))
    return form


def _set(value: Iterable[object], deeper: int) -> list[Any]:
    return [class_name(value), sorted(_packed(canonical(item, deeper)) for item in value)]


def _dataclass(value: Any, deeper: int) -> list[Any]:
    # The instance's dict also holds attributes that were set later. `getattr` of a field would
    # make an ORM's instance load that field.
    form = ["dataclass", class_name(value), _pairs(state_of(value), deeper)]
    # Once it is known to be no instance of an ORM's.
    elsewhere = {name: getattr(value, name) for name in descriptors_of(type(value))}
    return [*form, _pairs(elsewhere, deeper)] if elsewhere else form


def _model(value: Any, deeper: int) -> list[Any]:
    # `exclude_unset` makes visible which fields were set.
    names = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
    parts = (state_of(value), *(getattr(value, name, None) for name in names))
    return ["model", class_name(value), [canonical(part, deeper) for part in parts]]


def _member(value: enum.Enum, deeper: int) -> list[Any]:
    # Beside its name and its value, a member may have attributes of its own.
    own = {n: v for n, v in value.__dict__.items() if n[:1] != "_" and has_form(v)}
    forms = sorted([name, canonical(item, deeper)] for name, item in own.items())
    return ["enum", class_name(value), value.name, canonical(value.value, deeper), forms]


_MICROSECOND = datetime.timedelta(microseconds=1)

#: The converter of each type; the first match is used.
_FORMS: tuple[tuple[type | tuple[type, ...], _Converter], ...] = (
    (enum.Enum, _member),
    ((bytearray, memoryview), lambda v, _: ["bytearray", bytes(v)]),
    ((datetime.datetime, datetime.time), _moment),
    (datetime.date, lambda v, _: [class_name(v), datetime.date.isoformat(v)]),
    (datetime.timedelta, lambda v, _: [class_name(v), v.days, v.seconds, v.microseconds]),
    (uuid.UUID, lambda v, _: ["uuid", v.bytes]),
    (decimal.Decimal, lambda v, _: [class_name(v), decimal.Decimal.__repr__(v)]),
    (complex, lambda v, _: [class_name(v), complex.__repr__(v)]),
    (pathlib.PurePath, lambda v, _: [class_name(v), pathlib.PurePath.__str__(v)]),
    (_ADDRESSES, lambda v, _: [class_name(v), str(v)]),
    (re.Pattern, lambda v, deeper: ["pattern", canonical(v.pattern, deeper), v.flags]),
    (zoneinfo.ZoneInfo, lambda v, _: ["zone", _zone(v)]),
    (datetime.timezone, lambda v, _: ["offset", v.utcoffset(None) // _MICROSECOND, v.tzname(None)]),
    ((*_FUNCTIONS, type), _global),
    # Slicing normalises the end: range(0, 3, 2) equals range(0, 4, 2).
    (range, lambda v, _: ["range", repr(v[:])]),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    # The order is part of what an endpoint may show: columns, sort keys.
    (dict, _ordered),
)

#: Time zones that are an offset, which is part of the moment's form.
_OFFSETS = frozenset({"pydantic_core._pydantic_core.TzInfo"})

#: The modules of paths: Python 3.13 has them in modules beneath.
OF_PATHS = ("pathlib", "pathlib._abc", "pathlib._local")

#: Modules of classes whose slots hold nothing beside their content.
_STANDARD = frozenset(
    {
        "builtins",
        "collections",
        "datetime",
        "decimal",
        "enum",
        "ipaddress",
        *OF_PATHS,
        "typing",
        "uuid",
    }
)

#: Return the plain content of an instance of a subclass, even if the subclass overrides `__str__`.
_CONTENT_OF: Mapping[type, Callable[[Any], object]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: b"".join((value, b"")),
}

#: Types whose values consist of their content, unless a subclass adds attributes.
_CONTENT = (
    *_ADDRESSES,
    bytearray,
    complex,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    dict,
    frozenset,
    list,
    pathlib.PurePath,
    set,
    tuple,
    uuid.UUID,
)

#: Types whose values are their own canonical form: msgpack encodes each type differently.
PLAIN = frozenset({type(None), bool, int, float, str, bytes})

#: Those of them of which two values with equal forms are equal, and the other way round: for 0.0
#: and -0.0 that is not so.
EXACT = PLAIN - {float}

_converter: Callable[[type], _Converter] = functools.lru_cache(maxsize=1024)(_find_converter)


def _pairs(value: dict[Any, object], depth: int) -> list[Any]:
    # One item without a form is found before the others are packed, which may be large.
    forms = [(canonical(name, depth), canonical(item, depth)) for name, item in dict.items(value)]
    return sorted(
        ([_packed(name), _packed(item)] for name, item in forms), key=lambda pair: pair[0]
    )
