"""What a dependency changes of objects that it has not made, as its bytecode tells.

A login that gives a client of the application the token of a user makes it that user's own, until
the next one comes. What is changed where it is named can be seen: `client.headers["x"] = token`,
`client.headers.update(...)`, `settings.client.auth = auth`, `get_client().auth = auth`. So can
another name for it or its headers.
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from stream_cached.endpoint.cells import CHANGES, variables_of
from stream_cached.endpoint.dependencies import (
    Call,
    dependant_of,
    overrides_of,
    parameters_of,
    tree_of,
)
from stream_cached.endpoint.held import ABSENT, attributes_of, returned_by
from stream_cached.endpoint.infrastructure import is_infrastructure
from stream_cached.endpoint.reads import code_of, function_of, selected
from stream_cached.endpoint.route import dependencies_of
from stream_cached.endpoint.signatures import (
    annotation_of,
    dependency_of,
    may_be,
    without_partials,
)
from stream_cached.endpoint.startup import state_of_app

#: Methods that change what they are called on: also cookies and headers of clients.
_METHODS = CHANGES | {"set", "set_cookie"}

_OF_ATTRIBUTES = ("DELETE_ATTR", "STORE_ATTR")
_OF_ITEMS = ("DELETE_SUBSCR", "STORE_SUBSCR")

#: What an index consists of.
_PURE = (
    "BUILD_STRING",
    "CONVERT",
    "FORMAT",
    "LOAD_CONST",
    "LOAD_FAST",
    "LOAD_GLOBAL",
    "LOAD_SMALL",
)

#: What stands for a call without arguments among attributes.
_CALL = "()"

_NO_STEPS = ("CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL")

#: How many instructions an index may have: `headers[f"x-{name}"]`.
_MAX_INDEX = 6


@dataclass(frozen=True)
class Change:
    """One change that a function makes."""

    name: str
    """The variable that leads to what is changed."""
    attributes: tuple[str, ...]
    """Those that lead on from there."""
    is_called: bool
    """Whether a method is called, which may do something else."""


@functools.lru_cache(maxsize=1024)
def changes_in(code: types.CodeType | None) -> tuple[Change, ...]:
    """Return the changes that the code of a function makes to what its variables hold."""
    if code is None:
        return ()
    steps = [i for i in dis.get_instructions(code) if i.opname not in _NO_STEPS]
    aliases: dict[str, tuple[str, tuple[str, ...]]] = {}
    found: dict[Change, None] = {}
    for index, step in enumerate(steps):
        for variable, is_last in _loaded(step):
            names, after = _names(steps[index + 1 :] if is_last else [])
            rest = after[:_MAX_INDEX]
            name, before = aliases.get(variable, (variable, ()))
            way = (*before, *names)
            set_to = rest[1:2] if rest and rest[0].opname == "COPY" else rest[:1]
            if set_to and set_to[0].opname.startswith("STORE_FAST"):
                aliases[_first(set_to[0])] = name, way
            elif names and names[-1] in _METHODS:
                found[Change(name, way[:-1], is_called=True)] = None
            elif (_is_stored(rest) if is_last else steps[index + 1].opname in _OF_ITEMS) or steps[
                index - 1
            ].argval == "setattr":
                found[Change(name, way, is_called=False)] = None
    return tuple(found)


def _loaded(step: dis.Instruction) -> Iterator[tuple[str, bool]]:
    """Yield the variables that an instruction loads, and which of them is on top then."""
    if step.opname == "STORE_FAST_LOAD_FAST":
        yield str(step.argval[1]), True
    is_variable = step.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME"))
    if not is_variable or "AND_CLEAR" in step.opname:
        return
    names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
    for number, name in enumerate(names, 1):
        yield str(name), number == len(names)


def _names(steps: Sequence[dis.Instruction]) -> tuple[list[str], Sequence[dis.Instruction]]:
    """Return the attributes and the calls without arguments that follow, and what comes next."""
    names: list[str] = []
    for index, step in enumerate(steps):
        if names and names[-1] in _METHODS:
            return names, steps[index:]
        if _is_attribute(step):
            names.append(str(step.argval))
        elif step.opname == "CALL" and step.arg == 0:
            names.append(_CALL)
        elif step.opname != "PRECALL" or step.arg != 0:
            return names, steps[index:]
    return names, []


def _first(step: dis.Instruction) -> str:
    """Return the variable that an instruction sets, also where it loads another one then."""
    return str(step.argval[0] if isinstance(step.argval, tuple) else step.argval)


def _is_attribute(step: dis.Instruction) -> bool:
    return step.opname in ("LOAD_ATTR", "LOAD_METHOD")


def _is_stored(steps: Sequence[dis.Instruction]) -> bool:
    """Whether an attribute is set, or an item, whose index is all that stands before."""
    index = [*itertools.takewhile(lambda step: step.opname.startswith(_PURE), steps)]
    names = [step.opname for step in steps]
    if not index:
        # What is added to is copied before it is read.
        return names[:2] == ["COPY", "LOAD_ATTR"] or (bool(names) and names[0] in _OF_ATTRIBUTES)
    after = names[len(index) :]
    return after[:2] == ["COPY", "COPY"] or (bool(after) and after[0] in _OF_ITEMS)


def changes_anything(call: Call) -> bool:
    return bool(changes_in(code_of(call)))


def is_changed_on_route(value: object, scope: Mapping[str, Any]) -> bool:
    """Whether a dependency of the route of a request changes an object."""
    overrides = overrides_of(scope)
    trees = [tree_of(call, overrides) for call in dependencies_of(dependant_of(scope))]
    changing = [call for tree in trees for call in tree if changes_anything(call)]
    return any(value is each for call in changing for each in changed_by(call, overrides, scope))


def changed_by(
    call: Call, overrides: Mapping[Call, Call], scope: Mapping[str, Any]
) -> Iterator[object]:
    """Yield the objects that a dependency changes, and those that lead to them."""
    parameters = {each.name: each for each in parameters_of(call) or ()}
    for change in changes_in(code_of(call)):
        bound = call.keywords if isinstance(call, functools.partial) else {}
        if change.name in bound:
            root, names = bound[change.name], change.attributes
        elif change.name in parameters:
            root, names = _of_parameter(parameters[change.name], change, overrides, scope)
        else:
            root, names = _variable(call, change.name), change.attributes
        if root is not ABSENT:
            yield from _way(root, names, scope, is_called=change.is_called)


def _of_parameter(
    parameter: inspect.Parameter,
    change: Change,
    overrides: Mapping[Call, Call],
    scope: Mapping[str, Any],
) -> tuple[object, tuple[str, ...]]:
    """Return what a parameter leads to, and the attributes from there."""
    dependency = dependency_of(parameter)
    if dependency is not None:
        return _returned(overrides.get(dependency, dependency), scope), change.attributes
    if not may_be(annotation_of(parameter), HTTPConnection):
        return ABSENT, ()
    match change.attributes:
        case ("app", "state", name, *names):
            return state_of_app(scope.get("app")).get(name, ABSENT), tuple(names)
        case ("state", name, *names):
            return (scope.get("state") or {}).get(name, ABSENT), tuple(names)
    return ABSENT, ()


def _variable(call: Call, name: str) -> object:
    function, code = function_of(call), code_of(call)
    if code is not None and name in code.co_varnames:
        # Any other is one that the function has made.
        return _bound(call) if name == code.co_varnames[0] else ABSENT
    variables = variables_of(function)
    return variables.get(name, getattr(function, "__globals__", {}).get(name, ABSENT))


def _returned(call: Any, scope: Mapping[str, Any]) -> object:
    """Return what a function finds in a module, an application or the state, and only returns."""
    match selected(call):
        case [_, "state", name]:
            return (scope.get("state") or {}).get(name, ABSENT)
    return returned_by(call, scope)


def _way(
    root: object, names: Sequence[str], scope: Mapping[str, Any], *, is_called: bool
) -> list[object]:
    """Return an object and those on the way to what is changed; none if it is a call of a tool."""
    found = [root]
    for name in names:
        value = found[-1]
        if name == _CALL:
            found = [_returned(value, scope)]
            continue
        own = vars(value) if isinstance(value, types.ModuleType) else attributes_of(value)
        if name not in own:
            # What a property returns is a part of the object, such as the headers of a client.
            is_part = isinstance(inspect.getattr_static(type(value), name, None), property)
            return found if is_part or not is_called else []
        found.append(own[name])
    return [] if is_called and is_infrastructure(type(found[-1])) else found


def _bound(call: Any) -> object:
    """Return the object whose method a dependency is: `self`."""
    call = without_partials(call)
    if inspect.ismethod(call):
        return call.__self__
    return ABSENT if inspect.isroutine(call) or inspect.isclass(call) else call
