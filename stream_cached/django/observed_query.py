"""A query of Django that reports reads: only some of its names are part of the key."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dis import opname
from typing import Any

from django.http import QueryDict


class _Listed(str):
    """A name for which all its values are wanted, as where a dict is made of the query."""

    def __reduce__(self) -> Any:
        return str, (str(self),)


def _is_called_as_method() -> bool:
    """Whether the code that runs calls `query.keys()`, and does not have `dict(query)` call it."""
    frame = sys._getframe(2)
    code, at = frame.f_code.co_code, frame.f_lasti
    name = opname[code[at]]
    # Until Python 3.12, a call from Python to Python stands behind its instruction.
    return name == "CACHE" or (name in ("CALL", "PRECALL") and code[at + 1] == 0)


def _itself(query: QueryDict) -> QueryDict:
    return query


class ObservedQuery(QueryDict):
    """
    A query that reports what is read of it: single names, or all.

    Nothing of it is kept in the dict itself, which C code may read past these methods.

    Args:
        plain: The query.
        note: Called with what each read is called.
    """

    def __init__(self, plain: QueryDict, note: Callable[[str], None]) -> None:
        own = self.__dict__
        own["_plain"], own["_note"] = plain, note
        if plain:
            # The encoder of JSON takes an empty dict for what it seems to be.
            dict[Any, Any].__setitem__(self, "", [])

    def _one(self, name: object) -> Any:
        self._note(f"query.{name}")
        return self._plain

    def _whole(self) -> Any:
        self._note("query")
        return self._plain

    def __getitem__(self, name: Any) -> Any:
        plain = self._one(name)
        return plain.getlist(name) if type(name) is _Listed else plain[name]

    def __contains__(self, name: object) -> bool:
        return name in self._one(name)

    def get(self, name: Any, default: Any = None) -> Any:
        return self._one(name).get(name, default)

    def getlist(self, name: Any, default: Any = None) -> Any:
        return self._one(name).getlist(name, default)

    def _getlist(self, name: Any, default: Any = None, force_list: bool = False) -> Any:
        return self._one(name)._getlist(name, default, force_list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._whole())

    def keys(self) -> Any:
        names = self._whole().keys()
        return names if _is_called_as_method() else [*map(_Listed, names)]

    def __eq__(self, other: object) -> bool:
        other = other._whole() if isinstance(other, ObservedQuery) else other
        return bool(self._whole() == other)

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Any:
        return self._whole().__copy__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _itself, (self._whole(),)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        plain = self._whole()
        plain |= other
        return self

    def __getattribute__(self, name: str) -> Any:
        if name in ("_mutable", "encoding", "_encoding"):
            return getattr(object.__getattribute__(self, "__dict__")["_plain"], name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._plain, name, value)


def _forwarded(name: str) -> Callable[..., Any]:
    """Return a method that reads the query as a whole."""

    def method(self: ObservedQuery, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._whole(), name)(*args, **kwargs)

    method.__name__ = name
    return method


#: What a class has that is no method of its instances, or has nothing of the query.
_OF_CLASS = frozenset({"fromkeys", "__new__", "_assert_mutable"})


def _forward() -> None:
    inherited = {n: v for base in QueryDict.__mro__[-2::-1] for n, v in vars(base).items()}
    for name, value in inherited.items():
        is_free = name in _OF_CLASS or name in vars(ObservedQuery) or not callable(value)
        if not is_free and name not in vars(object) | {"__class_getitem__": None}:
            setattr(ObservedQuery, name, _forwarded(name))
    for name in ("__format__", "__ne__", "__repr__", "__str__"):
        setattr(ObservedQuery, name, _forwarded(name))


_forward()
