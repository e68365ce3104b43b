"""Classes that no module has under their names: what two of one name may have otherwise.

A function that makes a class may put into its methods, or on the class, what it was called with.
"""

from __future__ import annotations

import collections
import dis
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Callable
from typing import Any

#: Returns the form of a value, or raises an exception.
FormOf = Callable[[object], Any]

#: Modules whose functions are the same in all classes that they help to make.
_MAKERS = frozenset({"abc", "attr", "collections", "dataclasses", "enum", "functools", "typing"})

#: Packages to whose classes no request adds anything.
_UNCHANGED = frozenset(
    {
        *("_decimal", "abc", "attr", "builtins", "collections", "datetime", "decimal", "enum"),
        *("ipaddress", "pathlib", "pydantic", "pydantic_core", "starlette", "typing", "uuid"),
        "zoneinfo",
    }
)

_Pair = collections.namedtuple("_Pair", "first")

#: What a class has of the interpreter: slots, and methods in C.
_BUILT_IN = (
    *(types.BuiltinFunctionType, types.GetSetDescriptorType, types.MemberDescriptorType),
    *(types.ClassMethodDescriptorType, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(type(types.FunctionType.__get__), type(vars(_Pair)["first"])),
)

_METHODS = (types.FunctionType, classmethod, functools.cached_property, property, staticmethod)

#: How deep functions within functions are looked into.
_MAX_DEPTH = 16


def found_by_name(value: Any) -> Any:
    """Return what a module has under the name of a function or a class."""
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found


def plain_attributes(value: Any, plain: frozenset[type]) -> list[list[Any]]:
    """Return the attributes of a function or a class that are plain values, but for counters."""
    found: dict[str, Any] = {}
    # Those that come first count.
    for each in reversed(changing_bases(value)) if isinstance(value, type) else (value,):
        own = each.__dict__
        if found:
            for name in found.keys() & own.keys():
                del found[name]
        for name, item in own.items():
            if type(item) in plain and not name.startswith("__"):
                found[name] = item
    if not found:
        return []
    counters = _counters(value) if isinstance(value, type) else ()
    return sorted(
        [name, item]
        for name, item in found.items()
        # A name such as `_value_` is an enum's own.
        if name not in counters and not (name[0] == "_" == name[-1])
    )


@functools.lru_cache(maxsize=1024)
def changing_bases(cls: type) -> tuple[type, ...]:
    """Return a class and its bases, but for those of packages whose classes stay as they are."""
    return tuple(
        each for each in cls.__mro__ if each.__module__.partition(".")[0] not in _UNCHANGED
    )


@functools.lru_cache(maxsize=1024)
def _counters(cls: type) -> frozenset[str]:
    """Return the attributes that the methods of a class add to: how many instances there are."""
    functions = [
        each
        for base in cls.__mro__
        for value in vars(base).values()
        if isinstance(each := getattr(value, "__func__", value), types.FunctionType)
    ]
    steps = [[*dis.get_instructions(function)] for function in functions]
    return frozenset(
        str(step.argval)
        for code in steps
        for number, step in enumerate(code)
        if step.opname == "STORE_ATTR"
        if any(each.argrepr == "+=" for each in code[max(number - 4, 0) : number])
    )


def parts_of_class(cls: type, form_of: FormOf) -> list[Any]:
    """
    Return what a class has of its own that its name and its module do not tell.

    Args:
        cls: The class.
        form_of: Returns the form of a value, or raises what the caller gets.
    """
    return _Parts(form_of).of(cls)


class _Parts:
    def __init__(self, form_of: FormOf) -> None:
        self._form_of = form_of
        self._seen: list[object] = []

    def of(self, cls: type) -> list[Any]:
        self._seen.append(cls)
        bases = [each for each in cls.__mro__ if found_by_name(each) is not each]
        return [
            [name, self._form(item)]
            for each in bases
            for name, item in sorted(vars(each).items())
            if not _is_of_maker(name, item) and type(item) not in each.__mro__[:1]
        ] + [self._members(each) for each in bases if issubclass(each, enum.Enum)]

    def _members(self, cls: type[enum.Enum]) -> list[list[Any]]:
        # One member leads to the others.
        return [[name, self._form(member.value)] for name, member in cls.__members__.items()]

    def _form(self, value: Any) -> Any:
        if any(value is each for each in self._seen) or isinstance(value, _BUILT_IN):
            return None
        match value:
            case types.FunctionType():
                return self._function(value)
            case classmethod() | staticmethod():
                return self._form(value.__func__)
            case functools.cached_property():
                return self._form(value.func)
            case property():
                return [self._form(each) for each in (value.fget, value.fset, value.fdel)]
            case type() if found_by_name(value) is not value:
                return self.of(value)
        return self._form_of(value)

    def _function(self, function: types.FunctionType) -> Any:
        module = str(function.__module__).partition(".")[0]
        if module in _MAKERS or module == "pydantic" or len(self._seen) > _MAX_DEPTH:
            return None
        self._seen.append(function)
        code = function.__code__
        found: list[object] = []
        # What dataclasses and attrs write has the types of the fields, and their defaults.
        if not code.co_filename.startswith("<"):
            found += function.__defaults__ or ()
            found += (function.__kwdefaults__ or {}).values()
            found += (each for cell in function.__closure__ or () for each in _contents(cell))
        return [code.co_firstlineno, _digest(code), [self._form(each) for each in found]]


def _contents(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _is_of_maker(name: str, item: object) -> bool:
    """Whether an attribute follows from the fields of a class, or says what it is like."""
    is_named_so = name.startswith("_") and name.endswith(("_", "_impl"))
    return is_named_so and not isinstance(item, (*_METHODS, bytes, float, int, str))


@functools.lru_cache(maxsize=1024)
def _digest(code: types.CodeType) -> bytes:
    constants = [each for each in code.co_consts if type(each) in (bool, bytes, float, int, str)]
    text = repr((code.co_names, constants)).encode()
    return hashlib.blake2b(code.co_code + text, digest_size=16).digest()
