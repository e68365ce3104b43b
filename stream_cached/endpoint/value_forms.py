"""The form of what a function brings along: also of functions, classes and bound methods."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from stream_cached.endpoint.cells import EMPTY, Part, cells_of, is_at_its_name
from stream_cached.endpoint.signatures import class_names
from stream_cached.keys.canonical import PLAIN, canonical

#: How deep functions within functions are looked into, and how many values.
_MAX_DEPTH = 16
_MAX_VALUES = 200

#: How many items a value may have whose form is taken at each call.
_MAX_ITEMS = 1000

#: Returns the path by which the application holds an object, or None.
PathOf = Callable[[object], "str | None"]


def _find_lazy(cls: type) -> bool:
    return "django.utils.functional.LazyObject" in class_names(cls)


#: Whether objects of a class make what they stand for when something is read of them.
is_lazy: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_find_lazy)


class ValueForms:
    """
    The forms of some values.

    Args:
        path_of: Returns the path by which the application holds an object, or None.
    """

    def __init__(self, path_of: PathOf) -> None:
        self._path_of = path_of
        #: The values without a form, with the names by which they are known.
        self.unknown: list[tuple[str, Any]] = []
        self._seen: list[object] = []
        self._count = 0

    def form(self, name: str, value: Any) -> Any:
        """Return the form of a value; None if it has none, which is then among the unknown."""
        if type(value) in PLAIN:
            return [value]
        if value is EMPTY:
            return ["empty"]
        for number, each in enumerate(self._seen):
            if each is value:
                return ["again", number]
        self._count += 1
        # It would be made, perhaps by the database, by a look at its class.
        if is_lazy(type(value)) or len(self._seen) >= _MAX_DEPTH or self._count > _MAX_VALUES:
            self.unknown.append((name, value))
            return None
        self._seen.append(value)
        try:
            return self._form(name, value)
        # The value's class may raise anything, also where it is asked what it is.
        except Exception:
            self.unknown.append((name, value))
            return None
        finally:
            self._seen.pop()

    def _form(self, name: str, value: Any) -> Any:
        match value:
            case FunctionType():
                return self._function(name, value)
            case MethodType():
                return ["method", self.form(name, value.__self__), self.form(name, value.__func__)]
            case functools.partial():
                given = [(None, each) for each in value.args]
                forms = [[n, self.form(name, v)] for n, v in (*given, *value.keywords.items())]
                return ["partial", self.form(name, value.func), forms]
            case ModuleType():
                return ["module", value.__name__]
            case type() if is_at_its_name(value):
                return ["class", value.__module__, value.__qualname__]
        if _fits(value, [_MAX_ITEMS]):
            try:
                return ["value", canonical(value)]
            # The value's class may raise anything.
            except Exception:
                pass
        path = self._path_of(value)
        if path is not None:
            return ["held", path]
        self.unknown.append((name, value))
        return None

    def _function(self, name: str, function: FunctionType) -> list[Any]:
        named = [function.__module__, function.__qualname__]
        if is_at_its_name(function):
            return ["function", named]
        first = first_forms(function)
        # The defaults are arguments of a function that is called by others.
        defaults = (function.__defaults__ or (), sorted((function.__kwdefaults__ or {}).items()))
        forms = [self.form(name, each) for each in defaults[0]]
        forms += [[key, self.form(name, each)] for key, each in defaults[1]]
        for part in cells_of(function):
            form = first.get(part.name) if part.is_own else None
            forms.append(form or self.form(part.name, part.get()))
        return ["function", named, code_form(function.__code__), forms]


#: The forms of what functions change themselves, from before they did.
_firsts: WeakKeyDictionary[FunctionType, dict[str, Any]] = WeakKeyDictionary()


def first_forms(function: Any) -> Mapping[str, Any]:
    """Return the forms of what a function changes itself (a counter, a log), as it was before."""
    if not (isinstance(function, FunctionType) and function.__closure__):
        return {}
    own = [part for part in cells_of(function) if part.is_own and part.get() is not EMPTY]
    if not own:
        return {}
    forms = _firsts.setdefault(function, {})
    for part in own:
        if part.name not in forms:
            # It may lead to the function again.
            forms[part.name] = None
            forms[part.name] = first_form(part)
    return forms


def first_form(part: Part) -> Any:
    """Return the form of a value that is about to change; None without one."""
    forms = ValueForms(lambda _: None)
    form = forms.form(part.name, part.get())
    return None if forms.unknown else form


@functools.lru_cache(maxsize=1024)
def code_form(code: CodeType) -> list[Any]:
    """Return what tells two functions of one name and one line apart."""
    constants = [each for each in code.co_consts if type(each) in PLAIN]
    text = repr((code.co_names, code.co_varnames, code.co_freevars, constants)).encode()
    return [code.co_firstlineno, hashlib.blake2b(code.co_code + text, digest_size=16).digest()]


def _fits(value: Any, left: list[int]) -> bool:
    """Whether a value is small enough for a form at each call."""
    # An object may say that it is of another class, and be made for that.
    cls = type(value)
    if issubclass(cls, dict):
        return _all_fit([*value.keys(), *value.values()], left) if len(value) <= left[0] else False
    if issubclass(cls, list | tuple | set | frozenset):
        return _all_fit([*value], left) if len(value) <= left[0] else False
    return not (issubclass(cls, bytearray | memoryview) and len(value) > _MAX_ITEMS)


def _all_fit(items: Sequence[object], left: list[int]) -> bool:
    left[0] -= len(items)
    return left[0] >= 0 and all(_fits(each, left) for each in items)
