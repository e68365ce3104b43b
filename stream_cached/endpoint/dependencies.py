"""Where an argument comes from: whether the dependency that makes it may look at who asks."""

from __future__ import annotations

import contextlib
import dis
import inspect
import itertools
import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, get_args, get_origin

from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection
from starlette.responses import Response

from stream_cached.endpoint.infrastructure import can_be_switched, is_shared_plumbing
from stream_cached.endpoint.signatures import (
    annotation_of,
    class_names,
    dependency_of,
    header_names,
    may_be,
    signature_of,
    without_partials,
)
from stream_cached.http.reasons import listed

Call = Callable[..., Any]

#: What generators are annotated with.
_YIELDING = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)

#: By which a function gets at its variables without naming them.
_ESCAPES = frozenset({"eval", "exec", "locals", "vars"})


class Origins:
    """
    Where the arguments of an endpoint come from.

    Args:
        parameters: Its parameters.
        by_request: Whether path, query and body of the request are part of the key anyhow.
    """

    def __init__(self, parameters: Mapping[str, inspect.Parameter], *, by_request: bool) -> None:
        calls = {name: dependency_of(parameter) for name, parameter in parameters.items()}
        self._dependencies = {name: call for name, call in calls.items() if call is not None}
        self._yielded = {n for n, call in self._dependencies.items() if _is_generator(call)}
        self._by_request = by_request
        # With what the keys have ids of, so that these stay its own.
        self._known: dict[tuple[object, ...], tuple[_Origin, object]] = {}

    def looks_at_client(self, name: str, cls: type, scope: Mapping[str, Any]) -> str:
        """
        Return what an argument is made of that may be another one for each client.

        Args:
            name: The argument's name.
            cls: Its class.
            scope: The request's scope.

        Returns:
            It in words; "" if there is nothing.
        """
        if name not in self._dependencies:
            return ""
        overrides = getattr(scope.get("app"), "dependency_overrides", None) or {}
        dependant = _dependant(scope)
        replaced = tuple((id(call), id(other)) for call, other in overrides.items())
        switched = name in self._yielded or can_be_switched(cls)
        key = (name, switched, id(dependant), replaced)
        if key not in self._known:
            origin = self._origin(name, dependant, overrides, switched=switched)
            self._known[key] = origin, (dependant, dict(overrides))
        return self._known[key][0].looks_at_client(scope.get("state") or {})

    def _origin(
        self, name: str, dependant: Any, overrides: Mapping[Call, Call], *, switched: bool
    ) -> _Origin:
        origin, own = _Origin(self._by_request), self._dependencies[name]
        calls = list(_called(own, overrides, []))
        for call in calls:
            origin.look_at(call)
        if not switched:
            return origin
        # What is made for one request, and may be given to others as well.
        made = [call for call in calls if call is calls[0] or _is_generator(call)]
        of_route = [each.call for each in getattr(dependant, "dependencies", ()) if each.call]
        in_key = [overrides.get(call, call) for call in self._dependencies.values()]
        for other in (*self._dependencies.values(), *of_route):
            tree = list(_called(other, overrides, []))
            given = [call for call in tree if _shares(call, made, overrides)]
            if tree[0] is calls[0] or not given:
                continue
            # What it returns is an argument, perhaps. What else it does with a session is not.
            if tree[0] not in in_key or any(map(_returns_nothing, given)):
                breaker = _Origin(self._by_request)
                for call in tree:
                    breaker.look_at(call)
                origin.of_client += [f"{what}, by {_name(tree[0])}" for what in breaker.of_client]
                origin.state += breaker.state
        return origin


@dataclass
class _Origin:
    """What some dependencies take."""

    by_request: bool
    of_client: list[str] = field(default_factory=list)
    """What may be another one for each client."""
    state: list[str] = field(default_factory=list)
    """Names in `request.state`: a pool that the lifespan put there, or somebody's tenant."""

    def looks_at_client(self, state: Mapping[str, Any]) -> str:
        private = (name for name in self.state if not is_shared_plumbing(type(state.get(name))))
        return ", ".join(
            dict.fromkeys([*self.of_client, *(f"request.state.{name}" for name in private)])
        )

    def look_at(self, call: Call) -> None:
        """Add what one dependency takes, apart from others."""
        if "fastapi.security.base.SecurityBase" in class_names(type(call)):
            self.of_client.append(f"the security scheme {type(call).__name__}")
            return
        parameters = _parameters(call)
        if parameters is None:
            self.of_client.append(f"{_name(call)}, which has no signature")
            return
        for parameter in parameters:
            if dependency_of(parameter) is None:
                self._add(call, parameter)

    def _add(self, call: Call, parameter: inspect.Parameter) -> None:
        annotation = annotation_of(parameter)
        if names := header_names(parameter):
            is_cookie = names == ["Cookie"]
            taken = f"the cookie {parameter.name}" if is_cookie else f"the header {listed(names)}"
            self.of_client.append(taken)
        elif may_be(annotation, HTTPConnection):
            names_in_state = _names_in_state(_code_of(call), parameter.name)
            if names_in_state is None:
                self.of_client.append(f"the request, in {_name(call)}")
            else:
                self.state.extend(names_in_state)
        elif isinstance(annotation, str) or not (self.by_request or _is_given(annotation)):
            self.of_client.append(f"{parameter.name} of {_name(call)}")


def needs_request(scope: Mapping[str, Any]) -> bool:
    """Whether what a route's endpoint is given is closed with its request: by a `yield`."""
    overrides = getattr(scope.get("app"), "dependency_overrides", None) or {}
    dependencies = getattr(_dependant(scope), "dependencies", ())
    seen: list[object] = []
    return any(
        _is_generator(call)
        for each in dependencies
        if each.call
        for call in _called(each.call, overrides, seen)
    )


def _dependant(scope: Mapping[str, Any]) -> Any:
    """Return what FastAPI knows of a route's dependencies, its routers' and its own."""
    context = scope.get("fastapi")
    effective = context.get("effective_route_context") if isinstance(context, dict) else None
    return getattr(effective or scope.get("route"), "dependant", None)


def _called(call: Call, overrides: Mapping[Call, Call], seen: list[object]) -> Iterator[Call]:
    """Give a dependency, or what overrides it, and all that it depends on."""
    if overrides:
        call = overrides.get(call, call)
    if any(call is other for other in seen):
        return
    seen.append(call)
    yield call
    for parameter in _parameters(call) or ():
        dependency = dependency_of(parameter)
        if dependency is not None:
            yield from _called(dependency, overrides, seen)


def _shares(call: Call, made: Sequence[Call], overrides: Mapping[Call, Call]) -> bool:
    """Whether a dependency is given something that was made for one request."""
    return any(each is one for each in _called(call, overrides, []) for one in made)


def _returns_nothing(call: Call) -> bool:
    """Whether a dependency is called for what it does, as far as its annotation or code tells."""
    try:
        returns = signature_of(call).return_annotation
    except (TypeError, ValueError):
        return False
    if get_origin(returns) in _YIELDING:
        returns = get_args(returns)[0]
    if returns is not inspect.Signature.empty and returns is not Any:
        return returns in (None, types.NoneType)
    code = _code_of(call)
    if code is None:
        return False
    # In Python 3.11 an asynchronous generator wraps what it yields first.
    instructions = [i for i in dis.get_instructions(code) if i.opname != "ASYNC_GEN_WRAP"]
    pairs = itertools.pairwise(instructions)
    if _is_generator(call):
        # Not those by which a coroutine waits.
        given = [before for before, now in pairs if now.opname == "YIELD_VALUE"]
        given = [each for each in given if each.opname not in ("SEND", "GET_AWAITABLE")]
    else:
        given = [before for before, now in pairs if now.opname == "RETURN_VALUE"]
        given += [each for each in instructions if each.opname == "RETURN_CONST"]
    return all("CONST" in each.opname and each.argval is None for each in given)


def _is_generator(call: Call) -> bool:
    """Whether a dependency yields what it makes, for one request."""
    code = _code_of(call)
    return code is not None and bool(
        code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    )


def _parameters(call: Call) -> list[inspect.Parameter] | None:
    try:
        return list(signature_of(call).parameters.values())
    except (TypeError, ValueError):
        return None


def _is_given(annotation: Any) -> bool:
    """Whether FastAPI gives a dependency something of its own, rather than of the request."""
    return may_be(annotation, Response) or may_be(annotation, BackgroundTask)


def _name(call: Any) -> str:
    call = without_partials(call)
    return str(getattr(call, "__qualname__", type(call).__qualname__))


def _code_of(call: Any) -> CodeType | None:
    """Return what runs when a dependency is called; None where that can't be said."""
    call = without_partials(call)
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
        reads = [each.argval for each in following]
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
