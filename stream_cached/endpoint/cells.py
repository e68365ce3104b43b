"""What a function brings along beside its code: cells, defaults, bound arguments, dependencies."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from stream_cached.endpoint.signatures import class_names, dependency_of
from stream_cached.keys.canonical import PLAIN

#: The value of a cell that is not set yet.
EMPTY = object()

#: Methods that change a list, a dict, a set or a queue.
CHANGES = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "move_to_end"),
        *("pop", "popitem", "popleft", "put", "put_nowait", "remove", "reverse", "setdefault"),
        *("sort", "update"),
    }
)


#: Methods that are called when an object is made.
_MAKING = frozenset({"__init__", "__post_init__", "__new__", "__setstate__"})


@dataclass(frozen=True, slots=True)
class Part:
    """One value that a function brings along."""

    name: str
    get: Callable[[], Any]
    is_own: bool = False
    """Whether the function itself changes it (a counter), so that it is no input."""
    cell: CellType | None = None
    """Where the value is, if the function may be given another one."""


def parts_of(function: Any, parameters: Mapping[str, inspect.Parameter]) -> list[Part]:
    """Return what a decorated function brings along that two of its kind may have otherwise."""
    return [*_parts(function), *_dependencies(parameters)]


def _parts(function: Any) -> Iterator[Part]:
    while isinstance(function, functools.partial):
        for number, value in enumerate(function.args):
            yield _constant(f"argument {number}", value)
        for name, value in function.keywords.items():
            yield _constant(f"argument {name}", value)
        function = function.func
    if isinstance(function, MethodType):
        yield _constant("self", function.__self__)
        function = function.__func__
    if isinstance(function, FunctionType):
        yield from cells_of(function)
        yield from _defaults(function)
    else:
        yield _constant("self", function)


def _constant(name: str, value: object) -> Part:
    return Part(name, lambda: value, changes_itself(type(value)))


def cells_of(function: FunctionType) -> Iterator[Part]:
    code = function.__code__
    changed = changed_by(code) if function.__closure__ else frozenset()
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        is_own = name in changed or changes_itself(type(_content(cell)))
        yield Part(name, functools.partial(_content, cell), is_own, cell)


def variables_of(function: Any) -> dict[str, Any]:
    """Return the variables of the functions around a function, as far as they are set."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {name: _content(cell) for name, cell in zip(names, cells, strict=False)}
    return {name: value for name, value in found.items() if value is not EMPTY}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def _defaults(function: FunctionType) -> Iterator[Part]:
    """Yield the defaults that are in no key as arguments: those without a form."""
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        is_marker = any(name.startswith("fastapi.params.") for name in class_names(type(value)))
        if type(value) not in PLAIN and not is_marker:
            yield _constant("default", value)


def _dependencies(parameters: Mapping[str, inspect.Parameter]) -> Iterator[Part]:
    for name, parameter in parameters.items():
        dependency = dependency_of(parameter)
        if dependency is not None and not is_at_its_name(dependency):
            yield _constant(f"dependency {name}", dependency)


def _find_changes(cls: type) -> bool:
    return any(
        isinstance(value, FunctionType) and name not in _MAKING and _changes_first(value.__code__)
        for each in cls.__mro__
        if not each.__module__.startswith("pydantic.")
        for name, value in vars(each).items()
    )


#: Whether methods of a class change the object that they are called with (a counter).
changes_itself: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_find_changes)


def _changes_first(code: CodeType) -> bool:
    first = code.co_varnames[:1]
    is_loaded = False
    for instruction in dis.get_instructions(code):
        if instruction.starts_line:
            is_loaded = False
        value = instruction.argval
        is_loaded = is_loaded or value in first or (isinstance(value, tuple) and first[0] in value)
        is_change = instruction.opname in ("STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR")
        if is_loaded and (is_change or (_is_attribute(instruction) and value in CHANGES)):
            return True
    return False


def is_at_its_name(value: Any) -> bool:
    """Whether a module has a function or a class under its own name, also behind decorators."""
    found = at_name(value)
    while found is not value and hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found is value


def at_name(value: Any) -> Any:
    """Return what a module has under the name of a function or a class."""
    from sys import modules

    name = getattr(value, "__qualname__", None)
    module = modules.get(getattr(value, "__module__", None) or "")
    if not isinstance(name, str) or module is None or "<locals>" in name:
        return None
    found: Any = module
    for each in name.split("."):
        found = inspect.getattr_static(found, each, None)
    return found


@functools.lru_cache(maxsize=1024)
def changed_by(code: CodeType) -> frozenset[str]:
    """Return the variables of outer functions that a function changes, as far as it shows."""
    changed: set[str] = set()
    loaded: list[str] = []
    instructions = list(dis.get_instructions(code))
    for number, instruction in enumerate(instructions):
        if instruction.starts_line:
            loaded.clear()
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF"):
            changed.add(instruction.argval)
        elif instruction.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
            loaded.append(instruction.argval)
            following = instructions[number + 1 : number + 2]
            if any(each.argval in CHANGES for each in following if _is_attribute(each)):
                changed.add(instruction.argval)
        elif instruction.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            # What stands on the same line.
            changed.update(loaded)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            changed |= changed_by(constant)
    return frozenset(changed & {*code.co_freevars})


def _is_attribute(instruction: dis.Instruction) -> bool:
    return instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
