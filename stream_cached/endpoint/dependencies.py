"""The origin of an argument: whether the dependency that returns it may depend on the client."""

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

from stream_cached.endpoint.infrastructure import may_be_per_request
from stream_cached.endpoint.route import dependencies_of, effective_route
from stream_cached.endpoint.signatures import (
    annotation_of,
    class_names,
    dependency_of,
    header_names,
    may_be,
    signature_of,
    without_partials,
)
from stream_cached.endpoint.startup import is_of_lifespan
from stream_cached.http.reasons import listed

Call = Callable[..., Any]

#: The types that annotate the return value of generator functions.
_YIELDING = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)

#: Functions that can read variables without naming them.
_ESCAPES = frozenset({"eval", "exec", "locals", "vars"})


class Origins:
    """The origins of an endpoint's arguments.

    `by_request` says that path, query and body of the request are part of the key."""

    def __init__(self, parameters: Mapping[str, inspect.Parameter], *, by_request: bool) -> None:
        calls = {name: dependency_of(parameter) for name, parameter in parameters.items()}
        self._dependencies = {name: call for name, call in calls.items() if call is not None}
        self._yielded = {n for n, call in self._dependencies.items() if _is_generator(call)}
        self._by_request = by_request
        # The values keep a reference to the objects whose ids are in the keys, so that the ids
        # are not reused.
        self._known: dict[tuple[object, ...], tuple[_Origin, object]] = {}

    def client_source(self, name: str, cls: type, scope: Mapping[str, Any]) -> str:
        """Return the input that makes an argument depend on the client, or ""."""
        if name not in self._dependencies:
            return ""
        overrides = getattr(scope.get("app"), "dependency_overrides", None) or {}
        dependant = _dependant(scope)
        replaced = tuple((id(call), id(other)) for call, other in overrides.items())
        per_request = name in self._yielded or may_be_per_request(cls)
        key = (name, per_request, id(dependant), replaced)
        if key not in self._known:
            origin = self._origin(name, dependant, overrides, per_request=per_request)
            self._known[key] = origin, (dependant, dict(overrides))
        return self._known[key][0].client_source(scope)

    def _origin(
        self, name: str, dependant: Any, overrides: Mapping[Call, Call], *, per_request: bool
    ) -> _Origin:
        origin, own = _Origin(self._by_request), self._dependencies[name]
        calls = list(_called(own, overrides, []))
        for call in calls:
            origin.add(call)
        if not per_request:
            return origin
        # Objects that exist for one request, and that FastAPI may pass to other dependencies.
        made = [call for call in calls if call is calls[0] or _is_generator(call)]
        of_route = dependencies_of(dependant)
        in_key = [overrides.get(call, call) for call in self._dependencies.values()]
        for other in (*self._dependencies.values(), *of_route):
            tree = list(_called(other, overrides, []))
            given = [call for call in tree if _shares(call, made, overrides)]
            if tree[0] is calls[0] or not given:
                continue
            # Another dependency may change the object (a session's tenant, say). If it only
            # returns a value that is an argument, that value is in the key.
            if tree[0] not in in_key or any(map(_returns_nothing, given)):
                other_origin = _Origin(self._by_request)
                for call in tree:
                    other_origin.add(call)
                function = _name(tree[0])
                origin.sources += [f"{source}, by {function}" for source in other_origin.sources]
                origin.state += other_origin.state
        return origin


@dataclass
class _Origin:
    """The inputs of some dependencies."""

    by_request: bool
    sources: list[str] = field(default_factory=list)
    """Inputs that may differ between clients."""
    state: list[str] = field(default_factory=list)
    """Names in `request.state`, for example a pool of the lifespan, or a client's tenant."""

    def client_source(self, scope: Mapping[str, Any]) -> str:
        state = scope.get("state") or {}
        private = [name for name in self.state if not is_of_lifespan(scope, name, state.get(name))]
        sources = [*self.sources, *(f"request.state.{name}" for name in private)]
        return ", ".join(dict.fromkeys(sources))

    def add(self, call: Call) -> None:
        """Add the inputs of one dependency, without those of its own dependencies."""
        if "fastapi.security.base.SecurityBase" in class_names(type(call)):
            self.sources.append(f"the security scheme {type(call).__name__}")
            return
        parameters = _parameters(call)
        if parameters is None:
            self.sources.append(f"{_name(call)}, which has no signature")
            return
        for parameter in parameters:
            if dependency_of(parameter) is None:
                self._add_parameter(call, parameter)

    def _add_parameter(self, call: Call, parameter: inspect.Parameter) -> None:
        annotation = annotation_of(parameter)
        if names := header_names(parameter):
            is_cookie = names == ["Cookie"]
            source = f"the cookie {parameter.name}" if is_cookie else f"the header {listed(names)}"
            self.sources.append(source)
        elif may_be(annotation, HTTPConnection):
            names_in_state = _names_in_state(_code_of(call), parameter.name)
            if names_in_state is None:
                self.sources.append(f"the request, in {_name(call)}")
            else:
                self.state.extend(names_in_state)
        elif isinstance(annotation, str) or not (self.by_request or _is_injected(annotation)):
            self.sources.append(f"{parameter.name} of {_name(call)}")


def needs_request(scope: Mapping[str, Any]) -> bool:
    """Whether FastAPI closes a dependency of the route at the end of the request."""
    overrides = getattr(scope.get("app"), "dependency_overrides", None) or {}
    seen: list[object] = []
    return any(
        _is_generator(call)
        for each in dependencies_of(_dependant(scope))
        for call in _called(each, overrides, seen)
    )


def closes_before_response(scope: Mapping[str, Any]) -> bool:
    """Whether FastAPI may close a dependency of the route before the response is sent."""
    if not needs_request(scope):
        return False
    overrides = getattr(scope.get("app"), "dependency_overrides", None)
    # Before 0.118, FastAPI closes all of them then. What an override has is not looked up.
    return bool(
        overrides or "fastapi_inner_astack" not in scope or _ends_with_function(_dependant(scope))
    )


def _ends_with_function(dependant: Any) -> bool:
    return any(
        getattr(each, "scope", None) == "function" or _ends_with_function(each)
        for each in dependant.dependencies
    )


def _dependant(scope: Mapping[str, Any]) -> Any:
    """Return FastAPI's tree of the dependencies of the route and its routers."""
    return getattr(effective_route(scope), "dependant", None)


def _called(call: Call, overrides: Mapping[Call, Call], seen: list[object]) -> Iterator[Call]:
    """Yield a dependency, or its override, and all its own dependencies."""
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
    return any(each is one for each in _called(call, overrides, []) for one in made)


def _returns_nothing(call: Call) -> bool:
    """Whether a dependency only has side effects, judging by its annotation or code."""
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
    # In Python 3.11 an asynchronous generator wraps a value before it yields the value.
    instructions = [i for i in dis.get_instructions(code) if i.opname != "ASYNC_GEN_WRAP"]
    pairs = itertools.pairwise(instructions)
    if _is_generator(call):
        # `await` compiles to yields as well.
        sources = [before for before, now in pairs if now.opname == "YIELD_VALUE"]
        sources = [each for each in sources if each.opname not in ("SEND", "GET_AWAITABLE")]
    else:
        sources = [before for before, now in pairs if now.opname == "RETURN_VALUE"]
        sources += [each for each in instructions if each.opname == "RETURN_CONST"]
    return all("CONST" in each.opname and each.argval is None for each in sources)


def _is_generator(call: Call) -> bool:
    code = _code_of(call)
    flags = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
    return code is not None and bool(code.co_flags & flags)


def _parameters(call: Call) -> list[inspect.Parameter] | None:
    try:
        return list(signature_of(call).parameters.values())
    except (TypeError, ValueError):
        return None


def _is_injected(annotation: Any) -> bool:
    """Whether FastAPI passes an object of its own instead of data of the request."""
    return may_be(annotation, Response) or may_be(annotation, BackgroundTask)


def _name(call: Any) -> str:
    call = without_partials(call)
    return str(getattr(call, "__qualname__", type(call).__qualname__))


def _code_of(call: Any) -> CodeType | None:
    """Return the code that a dependency's call runs; None if it is unknown."""
    call = without_partials(call)
    while hasattr(call, "__wrapped__"):
        # A decorator other than contextlib's may read the request itself.
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
    """Return the names that a function reads in the state; None if it reads more."""
    # Only `request.state.NAME` and `request.app`, which is the same for every client, are
    # recognised.
    if code is None or name not in inspect.getargs(code).args or _ESCAPES & {*code.co_names}:
        return None
    names = []
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opcode not in dis.haslocal and instruction.opcode not in dis.hasfree:
            continue
        # Some instructions load two variables.
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
