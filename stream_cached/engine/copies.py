"""Copies of values that a store keeps as they are: each caller is given one of its own.

Only what is known to be data is copied: values of plain types, and objects that consist of nothing
else. A live object (a row in a database session, an iterator, a file, an application) would be of
use to one caller only, or would change under the others.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import types
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

_MISSING = object()

#: Values of these types never change.
_IMMUTABLE = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    decimal.Decimal,
    enum.Enum,
    fractions.Fraction,
    pathlib.PurePath,
    range,
    re.Pattern,
    type,
    types.EllipsisType,
    uuid.UUID,
    zoneinfo.ZoneInfo,
)

#: An object with one of these methods is used, and is no data.
_OF_LIVE_OBJECTS = (
    "__aenter__",
    "__anext__",
    "__await__",
    "__call__",
    "__del__",
    "__enter__",
    "__next__",
)

#: A class that was made by a class statement, or by what works alike (`Py_TPFLAGS_HEAPTYPE`).
_HEAP_TYPE = 1 << 9

_Memo = dict[int, Any]


class NotCopyableError(TypeError):
    """A value is not known to be data; the message names its type."""


def copied(value: Any) -> Any:
    """Return a copy of a value; raise `NotCopyableError` if it is not known to be data."""
    # The memo keeps what an id stands for alive, and ends cycles.
    try:
        return _copied(value, {})
    except RecursionError:
        raise NotCopyableError(_name(value)) from None


def why_not_copied(value: Any) -> str:
    """Return the name of the type that can't be copied, "" if the value can be."""
    try:
        copied(value)
    except NotCopyableError as exc:
        name = _name(value)
        return name if str(exc) == name else f"{name}, which holds {exc}"
    return ""


def _copied(value: Any, memo: _Memo) -> Any:
    cls = type(value)
    if isinstance(value, _IMMUTABLE) and not getattr(value, "__dict__", None):
        return value
    if isinstance(value, type | enum.Enum):
        return value
    if id(value) in memo:
        return memo[id(value)][1]
    if cls in _COPIERS:
        return _COPIERS[cls](value, memo)
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return tuple.__new__(cls, [_copied(item, memo) for item in value])
    try:
        return _object(value, memo)
    except NotCopyableError:
        raise NotCopyableError(_name(value)) from None


def _object(value: Any, memo: _Memo) -> Any:
    cls = type(value)
    # Not by `hasattr`: a class can always be called.
    if any(name in vars(base) for base in cls.__mro__ for name in _OF_LIVE_OBJECTS):
        raise NotCopyableError
    if hasattr(cls, "__deepcopy__") and not hasattr(cls, "__pydantic_fields_set__"):
        # The class says how. That of pydantic's models would also copy what a session keeps in one.
        try:
            return copy.deepcopy(value)
        # A user's class may raise anything.
        except Exception:
            raise NotCopyableError from None
    if any(not base.__flags__ & _HEAP_TYPE for base in cls.__mro__[:-1]):
        raise NotCopyableError
    try:
        new = object.__new__(cls)
    except TypeError:
        # It has a state of its own in C.
        raise NotCopyableError from None
    memo[id(value)] = value, new
    for name, item in _slots(value):
        object.__setattr__(new, name, _copied(item, memo))
    for name, item in getattr(value, "__dict__", {}).items():
        new.__dict__[name] = _copied(item, memo)
    return new


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType):
                item = getattr(value, member.__name__, _MISSING)
                if item is not _MISSING:
                    yield name, item


def _list(value: Any, memo: _Memo) -> Any:
    new: list[Any] = []
    memo[id(value)] = value, new
    new.extend([_copied(item, memo) for item in value])
    return new


def _deque(value: Any, memo: _Memo) -> Any:
    new: deque[Any] = deque(maxlen=value.maxlen)
    memo[id(value)] = value, new
    new.extend([_copied(item, memo) for item in value])
    return new


def _dict(value: Any, memo: _Memo) -> Any:
    if type(value) is defaultdict:
        new: Any = defaultdict(value.default_factory)
    else:
        new = type(value)()
    memo[id(value)] = value, new
    for key, item in value.items():
        new[_copied(key, memo)] = _copied(item, memo)
    return new


def _items(value: Any, memo: _Memo) -> Any:
    return type(value)([_copied(item, memo) for item in value])


_COPIERS: dict[type, Callable[[Any, _Memo], Any]] = {
    Counter: _dict,
    OrderedDict: _dict,
    bytearray: lambda value, memo: bytearray(value),
    defaultdict: _dict,
    deque: _deque,
    dict: _dict,
    frozenset: _items,
    list: _list,
    set: _items,
    tuple: _items,
}


def _name(value: Any) -> str:
    return type(value).__qualname__
