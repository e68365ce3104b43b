"""The context variables of a call: an endpoint may read them, and nothing shows whether it does.

What is set can be seen. A variable that a middleware or a dependency has set for this request (a
locale, a tenant) is part of the key where `key_context=` lists it, and is told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any

from stream_cached.events import Reporter
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.modules import namespaces

#: Variables, and functions without arguments that return what an answer depends on.
KeyContext = Sequence[ContextVar[Any] | Callable[[], object]]

#: Packages whose variables decide answers: a locale, a tenant, the whole request.
_DECIDING = frozenset({"babel", "fastapi_babel", "starlette_babel", "starlette_context"})

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

_UNSET = object()

#: Where each variable that was seen is defined, with its name there.
_places: dict[ContextVar[Any], str] = {}

#: How many variables are remembered: some programs make them at run time.
_MAX_PLACES = 1000


class ContextWatch:
    """
    The context variables of the calls of one function.

    Args:
        listed: What `key_context=` lists; None if it was not given.
        reporter: The log of the function.
        baseline: What is the same for all requests; by default what is set now.
    """

    def __init__(
        self, listed: KeyContext | None, reporter: Reporter, baseline: Context | None = None
    ) -> None:
        self._listed = listed
        self._reporter = reporter
        self._baseline = copy_context() if baseline is None else baseline
        self._known: set[ContextVar[Any]] = set()
        """Those that are in the key, harmless, or told already."""
        self._known.update(each for each in listed or () if isinstance(each, ContextVar))
        self.has_told = False
        """Whether a variable was set that is not in the key, and may decide answers."""

    @property
    def is_in_key(self) -> bool:
        """Whether `forms` has anything."""
        return bool(self._listed)

    def forms(self) -> dict[str, Any]:
        """
        Return what the key has of the context.

        Raises:
            BypassError: A value has no form, a function raised, or a variable that is not listed
                decides answers.
        """
        self.look()
        if not self._listed:
            return {}
        return {f"(context {n})": self._form(each) for n, each in enumerate(self._listed)}

    def _form(self, listed: ContextVar[Any] | Callable[[], object]) -> list[Any]:
        name = getattr(listed, "name", None) or getattr(listed, "__qualname__", repr(listed))
        if isinstance(listed, ContextVar):
            try:
                value = listed.get()
            except LookupError:
                return []
        else:
            try:
                value = listed()
            # A user's function that fails must not fail the request.
            except Exception as exc:
                subject = f"{name} of key_context= raised {type(exc).__name__}"
                raise BypassError(Finding(NotCached.FUNCTION, subject)) from exc
        try:
            return [canonical(value)]
        except NoCanonicalFormError as exc:
            fix = "list a function in key_context= that returns what the answer depends on"
            raise BypassError(Finding(NotCached.CONTEXT, f"{name}: {exc}", fix)) from exc

    def look(self) -> None:
        """Look at what is set. Raise `BypassError` if a variable decides that is not listed."""
        if self._listed is not None and not self._listed:
            # `key_context=()` says that none matters.
            return
        for variable, value in copy_context().items():
            if variable in self._known or self._baseline.get(variable, _UNSET) is value:
                continue
            # Where a cache of cashews is switched off, a variable has its address for a name.
            is_harmless = variable.name.startswith(_HARMLESS_NAMES) or variable.name.isdigit()
            # The search for its place takes its time.
            place = variable.name if is_harmless else _place_of(variable)
            package = place.partition(".")[0]
            if package in _DECIDING:
                raise BypassError(Finding(NotCached.CONTEXT, place))
            if len(self._known) < _MAX_PLACES:
                self._known.add(variable)
            if package not in _HARMLESS and not is_harmless:
                self._tell(place)

    def _tell(self, place: str) -> None:
        self.has_told = True
        name = place.rpartition(".")[2]
        self._reporter.warn(
            f"the context variable {place} is set when it is called, and is no part of the key: "
            f"pass key_context=({name},) if the answer depends on it, or key_context=() if it "
            "depends on no context variable"
        )


def _place_of(variable: ContextVar[Any]) -> str:
    """Return the module and the name of a variable, or its own name if no module has it."""
    place = _places.get(variable)
    if place is None:
        if len(_places) >= _MAX_PLACES:
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
