"""Context variables: where each is defined, and which of them the code of a function reads."""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import chain
from typing import Any

from stream_cached.endpoint.cells import variables_of
from stream_cached.endpoint.reads import function_of
from stream_cached.endpoint.signatures import with_wrapped
from stream_cached.keys.modules import namespaces

#: Packages whose variables tell requests apart, trace them, or say where code runs.
_HARMLESS = frozenset(
    {
        *("_pytest", "aiocache", "aiohttp", "anyio", "asgi_correlation_id", "asgiref", "asyncio"),
        *("asyncpg", "cashews", "celery", "concurrent", "ddtrace", "decimal", "_pydecimal"),
        *("django", "elasticapm", "fastapi", "grpc", "greenlet", "h11", "httpcore", "httpx"),
        *("hypercorn", "hypothesis"),
        *("langsmith", "limits", "logfire", "loguru", "motor", "newrelic", "numpy", "openai"),
        *("opentelemetry", "prometheus_client", "psycopg", "pydantic", "pymongo", "pytest"),
        *("redis", "rollbar", "scout_apm", "sentry_sdk", "slowapi", "sniffio", "sqlalchemy"),
        *("stamina", "starlette", "stream_cached", "structlog", "tenacity", "trio", "uvicorn"),
    }
)

#: Names of such variables that no module has: attributes of objects, and entries of dicts.
_HARMLESS_NAMES = (
    *("asgiref.local", "async_single_thread_context", "current_context", "deadlock_context"),
    *("decimal_context", "sniffio ", "structlog_", "thread_sensitive_context"),
)

#: Where each variable that was seen is defined, with its name there.
_places: dict[ContextVar[Any], str] = {}

#: How many variables are remembered: some programs make them at run time.
MOST_PLACES = 1000


def place_of(variable: ContextVar[Any]) -> str | None:
    """
    Return the module and the name of a variable, or its own name if no module has it.

    None for one that traces a request, or says where code runs: it decides no answer.
    """
    # Where a cache of cashews is switched off, a variable has its address for a name.
    if variable.name.startswith(_HARMLESS_NAMES) or variable.name.isdigit():
        return None
    place = _found_place(variable)
    return None if place.partition(".")[0] in _HARMLESS else place


def _found_place(variable: ContextVar[Any]) -> str:
    place = _places.get(variable)
    if place is None:
        if len(_places) >= MOST_PLACES:
            _places.clear()
        for name, variables in namespaces():
            for attribute, value in tuple(variables.items()):
                # isinstance() would ask a proxy for its class, and so make it load what it stands
                # for. The first module to have a variable is not always the one that defines it.
                if type(value) is ContextVar and (
                    value not in _places or _defines(attribute, value)
                ):
                    _places[value] = f"{name}.{attribute}"
        place = _places.setdefault(variable, variable.name)
    return place


def _defines(attribute: str, variable: ContextVar[Any]) -> bool:
    return attribute == variable.name and _places[variable].rpartition(".")[2] != attribute


def variables_listed(listed: Iterable[Any]) -> set[ContextVar[Any]]:
    """Return the variables of `key_context=`, and those that its functions read."""
    each = ([one] if isinstance(one, ContextVar) else variables_read(one) for one in listed)
    return {*chain.from_iterable(each)}


def variables_read(call: Any) -> Iterator[ContextVar[Any]]:
    """Yield the variables that a function reads by `get`, or a function that it names does."""
    return _read_by(function_of(call), depth=1)


def read_by_endpoint(function: Callable[..., Any] | None) -> frozenset[ContextVar[Any]]:
    """Return the variables that an endpoint and its decorators read, as far as their code shows."""
    read = (_read_by(each, depth=2) for each in with_wrapped(function))
    return frozenset(chain.from_iterable(read))


def _read_by(function: Any, *, depth: int) -> Iterator[ContextVar[Any]]:
    if not isinstance(function, types.FunctionType):
        return
    variables = {**function.__globals__, **variables_of(function)}
    value: object = None
    for step in _steps(function.__code__):
        if step.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF")):
            value = variables.get(str(step.argval))
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if type(value) is ContextVar and step.argval == "get":
                yield value
            value = vars(value).get(step.argval) if type(value) is types.ModuleType else None
        else:
            continue
        if depth and type(value) is types.FunctionType:
            yield from _read_by(value, depth=depth - 1)


def _steps(code: types.CodeType) -> Iterator[dis.Instruction]:
    """Yield the steps of a function, and of those that are defined within it."""
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _steps(constant)
