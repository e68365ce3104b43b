"""The size of a value in memory, which bounds go by."""

from __future__ import annotations

import copyreg
import datetime
import decimal
import io
import pickle
import sys
from collections import deque
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from stream_cached.format.envelope import size_of_value
from stream_cached.keys.layout import slot_names

#: Classes whose instances hold no other object, or none that counts.
_LEAVES = frozenset(
    {
        *(str, bytes, int, bool, float, complex, type(None)),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal),
    }
)

#: What a value refers to and does not hold.
_REFERRED_TO = (type, FunctionType, BuiltinFunctionType, ModuleType)

_CONTAINERS = (list, tuple, set, frozenset, deque)


def size_of(value: object) -> int:
    """Return the bytes that a value takes, with all that it holds."""
    if isinstance(value, bytes):
        return size_of_value(value)
    counter = _Counter()
    try:
        counter.dump(value)
    # Too deep, or with parts of any class, whose code may raise anything.
    except Exception:
        return max(counter.size, _size_by_attributes(value))
    return counter.size


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


class _Counter(pickle.Pickler):
    """Counts what pickling a value reaches, in slots and in C, too. The pickle goes nowhere."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), pickle.HIGHEST_PROTOCOL, buffer_callback=self._count_buffer)
        self.size = 0
        # By address; the objects stay alive, so that no other one gets their addresses.
        self._seen: dict[int, object] = {}
        self._made: dict[int, object] = {}
        """What is made for the pickle, and is no part of the value."""

    def persistent_id(self, obj: Any) -> Any:
        """Count an object. Only what may hold others is pickled."""
        if id(obj) in self._seen:
            return 0
        if id(obj) not in self._made:
            self._seen[id(obj)] = obj
            if isinstance(obj, _REFERRED_TO):
                return 0
            self.size += sys.getsizeof(obj)
        return 0 if type(obj) in _LEAVES else None

    def reducer_override(self, obj: Any) -> Any:
        """Return what an object is pickled as: what it holds."""
        reduce = copyreg.dispatch_table.get(type(obj))
        try:
            reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if reduce is None else reduce(obj)
        # Locks, files and the like can't be pickled.
        except Exception:
            reduced = tuple, (_held_by(obj),)
        if isinstance(reduced, str):
            return tuple, ()
        arguments, state = (*reduced[1:3], None)[:2]
        # The state of an object with slots is a pair, whose second part is made of the slots.
        made = (arguments, state, *(state[1:] if isinstance(state, tuple) else ()))
        own = getattr(obj, "__dict__", None)
        self._made |= {id(p): p for p in made if isinstance(p, tuple | dict) and p is not own}
        return reduced

    def _count_buffer(self, buffer: pickle.PickleBuffer) -> None:
        self.size += buffer.raw().nbytes


def _size_by_attributes(value: object) -> int:
    size, seen, pending = 0, dict[int, object](), [value]
    while pending:
        item = pending.pop()
        if id(item) not in seen and not isinstance(item, _REFERRED_TO):
            seen[id(item)] = item
            size += sys.getsizeof(item)
            pending.extend(_held_by(item))
    return size


def _held_by(item: object) -> list[object]:
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, _CONTAINERS):
        return list(item)
    held: Iterable[object] = getattr(item, "__dict__", {}).values()
    slots = [n for n in slot_names(type(item).__mro__) if hasattr(item, n)]
    return [*held, *(getattr(item, name) for name in slots)]
