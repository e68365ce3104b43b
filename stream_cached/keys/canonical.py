"""The canonical form of a value: equal for equal values of one type, and for no others."""

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
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from stream_cached.keys.digest import _packed, class_name

_MAX_DEPTH = 64

#: Said of a value that is no cycle, perhaps, but might be.
TOO_DEEP = "nested too deeply"
_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


class NoCanonicalFormError(TypeError):
    """A value that can't be put into a key, because nothing says when two of them are equal."""


def canonical(value: object, depth: int = 0) -> Any:
    """
    Return a structure of plain values, equal for equal values of one type and for no others.

    Numbers, strings, bytes, enums, dates, UUIDs, paths, IP addresses, lists, tuples, sets, dicts,
    dataclasses and pydantic models have one. The types count: `1`, `True`, `1.0` and `"1"` differ.

    Raises:
        NoCanonicalFormError: For anything else; `repr` with its address of an object is not one.
    """
    cls = type(value)
    if cls in PLAIN:
        return value
    if depth > _MAX_DEPTH:
        raise NoCanonicalFormError(TOO_DEEP)
    return _former(cls)(value, depth + 1)


#: Returns the form of a value; gets the depth at which those in it are.
_Former = Callable[[Any, int], Any]


def _former_of(cls: type) -> _Former:
    for classes, form in _FORMS:
        if issubclass(cls, classes):
            return _of_content(cls, form) if issubclass(cls, _CONTENT) else form
    if dataclasses.is_dataclass(cls):
        return _dataclass
    if hasattr(cls, "__pydantic_fields__"):
        return _model
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
            return _of_content(cls, _plain_as(base, content))
    return _formless


def _of_content(cls: type, form: _Former) -> _Former:
    """Refuse a value with a state of its own: its content is not all that there is."""
    if cls.__module__ in _STANDARD:
        return form
    slots = _slots(cls)

    def checked(value: Any, deeper: int) -> Any:
        if getattr(value, "__dict__", None) or any(hasattr(value, name) for name in slots):
            raise NoCanonicalFormError(class_name(value))
        return form(value, deeper)

    return checked


def _plain_as(base: type, content: Callable[[Any], object]) -> _Former:
    return lambda value, _: [base.__name__, class_name(value), content(value)]


def slot_names(classes: Iterable[type]) -> list[str]:
    """Return the names of what classes, apart from those that they inherit from, keep in slots."""
    slots = (vars(cls).get("__slots__", ()) for cls in classes)
    names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    return [name for name in names if not name.startswith("__")]


def _slots(cls: type) -> list[str]:
    return slot_names(base for base in cls.__mro__ if base.__module__ not in _STANDARD)


def _state(value: object) -> dict[str, object]:
    """Return what an object consists of."""
    cls = type(value)
    state = {name: getattr(value, name) for name in _slots(cls) if hasattr(value, name)}
    for name, item in getattr(value, "__dict__", {}).items():
        # It follows from the rest, and is there only once somebody has asked for it.
        if not isinstance(inspect.getattr_static(cls, name, None), functools.cached_property):
            state[name] = item
    return state


def _formless(value: object, deeper: int) -> NoReturn:
    raise NoCanonicalFormError(class_name(value))


def _moment(value: datetime.datetime | datetime.time, deeper: int) -> list[Any]:
    # Two time zones may agree at one moment, and be called alike then.
    zone = str(getattr(value.tzinfo, "key", ""))
    cls = datetime.datetime if isinstance(value, datetime.datetime) else datetime.time
    return [class_name(value), cls.isoformat(value), value.tzname(), zone, value.fold]  # type: ignore[arg-type]


def _sequence(value: Iterable[object], deeper: int) -> list[Any]:
    return [class_name(value), [canonical(item, deeper) for item in value]]


def _ordered(value: dict[object, object], deeper: int) -> list[Any]:
    return [class_name(value), [canonical(pair, deeper) for pair in dict.items(value)]]


def _set(value: Iterable[object], deeper: int) -> list[Any]:
    return [class_name(value), sorted(_packed(canonical(item, deeper)) for item in value)]


def _dataclass(value: Any, deeper: int) -> list[Any]:
    # Also what was set on it later, which an endpoint sees as well; but nothing is asked of it: a
    # class of an ORM would load it.
    return ["dataclass", class_name(value), _pairs(_state(value), deeper)]


def _model(value: Any, deeper: int) -> list[Any]:
    # Which fields were set shows in what `exclude_unset` leaves out.
    parts = (
        _state(value),
        getattr(value, "__pydantic_extra__", None),
        getattr(value, "__pydantic_private__", None),
        getattr(value, "__pydantic_fields_set__", None),
    )
    return ["model", class_name(value), [canonical(part, deeper) for part in parts]]


#: What gives values of some types their form; the first that fits.
_FORMS: tuple[tuple[type | tuple[type, ...], _Former], ...] = (
    (enum.Enum, lambda v, deeper: ["enum", class_name(v), v.name, canonical(v.value, deeper)]),
    ((bytearray, memoryview), lambda v, _: ["bytearray", bytes(v)]),
    ((datetime.datetime, datetime.time), _moment),
    (datetime.date, lambda v, _: [class_name(v), datetime.date.isoformat(v)]),
    (datetime.timedelta, lambda v, _: [class_name(v), v.days, v.seconds, v.microseconds]),
    (uuid.UUID, lambda v, _: ["uuid", v.bytes]),
    (decimal.Decimal, lambda v, _: [class_name(v), decimal.Decimal.__repr__(v)]),
    (complex, lambda v, _: [class_name(v), complex.__repr__(v)]),
    (pathlib.PurePath, lambda v, _: [class_name(v), pathlib.PurePath.__str__(v)]),
    (_ADDRESSES, lambda v, _: [class_name(v), str(v)]),
    # A slice has its end where the last step leads to.
    (range, lambda v, _: ["range", repr(v[:])]),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (collections.OrderedDict, _ordered),
    (dict, lambda v, deeper: [class_name(v), _pairs(v, deeper)]),
)

#: Where classes come from whose slots are their content.
_STANDARD = frozenset(
    {
        "builtins",
        "collections",
        "datetime",
        "decimal",
        "enum",
        "ipaddress",
        "pathlib",
        "pathlib._local",
        "typing",
        "uuid",
    }
)

#: What values of subclasses of the plain types are, whatever else they say that they are.
_CONTENT_OF: Mapping[type, Callable[[Any], object]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: b"".join((value, b"")),
}

#: Types whose values are their content, unless a subclass adds to it.
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

#: Types whose values are their own form: msgpack has them, and tells them apart.
PLAIN = frozenset({type(None), bool, int, float, str, bytes})


#: Returns what gives the instances of a class their form.
_former: Callable[[type], _Former] = functools.lru_cache(maxsize=1024)(_former_of)


def _pairs(value: dict[Any, object], depth: int) -> list[Any]:
    return sorted(
        (
            [_packed(canonical(name, depth)), _packed(canonical(item, depth))]
            for name, item in dict.items(value)
        ),
        key=lambda pair: pair[0],
    )
