"""Where an argument comes from: whether the dependency that makes it may look at who asks."""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection
from starlette.responses import Response

from stream_cached.plumbing import is_shared_plumbing
from stream_cached.signatures import (
    annotation_of,
    class_names,
    dependency_of,
    header_names,
    may_be,
    signature_of,
)

#: By which a function gets at its variables without naming them.
_ESCAPES = frozenset({"eval", "exec", "locals", "vars"})


@dataclass
class Origin:
    """What the dependency of a parameter, and those that it depends on, take."""

    of_client: list[str] = field(default_factory=list)
    """What may be another one for each client."""
    state: list[str] = field(default_factory=list)
    """Names in `request.state`: a pool that the lifespan put there, or somebody's tenant."""

    def looks_at_client(self, state: Mapping[str, Any]) -> str:
        """Return what it takes that may be another one for each client; "" if nothing is."""
        private = (name for name in self.state if not is_shared_plumbing(type(state.get(name))))
        return ", ".join(
            dict.fromkeys([*self.of_client, *(f"request.state.{name}" for name in private)])
        )


def origin_of(parameter: inspect.Parameter, *, by_request: bool) -> Origin | None:
    """
    Look at the dependencies behind a parameter; None where there are none.

    Args:
        parameter: A parameter of an endpoint.
        by_request: Whether path, query and body of the request are part of the key anyhow.
    """
    dependency = dependency_of(parameter)
    if dependency is None:
        return None
    origin = Origin()
    for call in _called(dependency, []):
        _look_at(call, origin, by_request)
    return origin


def _called(call: Callable[..., Any], seen: list[object]) -> Iterator[Callable[..., Any]]:
    """Give a dependency, and all that it depends on."""
    if any(call is other for other in seen):
        return
    seen.append(call)
    yield call
    for parameter in _parameters(call) or ():
        dependency = dependency_of(parameter)
        if dependency is not None:
            yield from _called(dependency, seen)


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(signature_of(call).parameters.values())
    except (TypeError, ValueError):
        return None


def _look_at(call: Callable[..., Any], origin: Origin, by_request: bool) -> None:
    if "fastapi.security.base.SecurityBase" in class_names(call):
        origin.of_client.append(f"the security scheme {type(call).__name__}")
        return
    parameters = _parameters(call)
    if parameters is None:
        origin.of_client.append(f"{_name(call)}, which has no signature")
        return
    for parameter in parameters:
        annotation = annotation_of(parameter)
        if dependency_of(parameter) is not None:
            continue
        if names := header_names(parameter):
            kind = "cookie" if names == ["Cookie"] else "header"
            origin.of_client.append(f"the {kind} {parameter.name}")
        elif may_be(annotation, HTTPConnection):
            names_in_state = _names_in_state(_code_of(call), parameter.name)
            if names_in_state is None:
                origin.of_client.append(f"the request, in {_name(call)}")
            else:
                origin.state.extend(names_in_state)
        elif isinstance(annotation, str) or not (by_request or _is_given(annotation)):
            origin.of_client.append(f"{parameter.name} of {_name(call)}")


def _is_given(annotation: Any) -> bool:
    """Whether FastAPI gives a dependency something of its own, rather than of the request."""
    return may_be(annotation, Response) or may_be(annotation, BackgroundTask)


def _name(call: Any) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    return str(getattr(call, "__qualname__", type(call).__qualname__))


def _code_of(call: Any) -> CodeType | None:
    """Return what runs when a dependency is called; None where that can't be said."""
    while isinstance(call, functools.partial):
        call = call.func
    while hasattr(call, "__wrapped__"):
        # Another decorator might look at the request itself.
        if getattr(call, "__globals__", {}).get("__name__") != contextlib.__name__:
            return None
        call = call.__wrapped__
    if inspect.isclass(call):
        if call.__new__ is not object.__new__:
            return None
        call = call.__init__
    elif not inspect.isroutine(call):
        call = type(call).__call__
    code = getattr(call, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _names_in_state(code: CodeType | None, name: str) -> list[str] | None:
    """
    Return which names in its state a function reads of a request; None if it may do more with it.

    `request.app` is the same for every client. So `request.app.state.sessions()` and
    `request.state.pool` are understood, and nothing else.
    """
    if code is None or name not in inspect.getargs(code).args or _ESCAPES & {*code.co_names}:
        return None
    names = []
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opcode not in dis.haslocal and instruction.opcode not in dis.hasfree:
            continue
        # Some instructions are two at once.
        value = instruction.argval
        variables = value if isinstance(value, tuple) else (value,)
        if name not in variables:
            continue
        following = itertools.takewhile(_reads_attribute, instructions[index + 1 : index + 3])
        reads = [following_one.argval for following_one in following]
        if not _loads(instruction) or variables.count(name) > 1 or variables[-1] != name:
            return None
        match reads:
            case ["app", *_]:
                continue
            case ["state", str(attribute)]:
                names.append(attribute)
            case _:
                return None
    return names


def _loads(instruction: dis.Instruction) -> bool:
    last = instruction.opname.rpartition("LOAD_FAST")
    return last[1] != "" and last[2] in ("", "_BORROW", "_CHECK")


def _reads_attribute(instruction: dis.Instruction) -> bool:
    return instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
