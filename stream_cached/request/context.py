"""The context variables of a call: an endpoint may read them, and nothing shows whether it does.

What is set can be seen. A variable that a middleware or a dependency has set for this request (a
locale, a tenant) is part of the key where `key_context=` lists it, and is told otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any

from stream_cached.endpoint.contexts import (
    MOST_PLACES,
    place_of,
    read_by_endpoint,
    variables_listed,
)
from stream_cached.endpoint.signatures import class_names
from stream_cached.events import Reporter
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.canonical import NoCanonicalFormError, canonical

#: Variables, and functions without arguments that return what an answer depends on.
KeyContext = Sequence[ContextVar[Any] | Callable[[], object]]

#: Packages whose variables decide answers: a locale, a tenant, the whole request.
_DECIDING = frozenset({"babel", "fastapi_babel", "starlette_babel", "starlette_context"})

#: Classes of what has all that a client has sent, whatever a variable with it is called.
_REQUESTS = frozenset(
    {
        *("django.http.request.HttpRequest", "starlette.datastructures.Headers"),
        "starlette.requests.HTTPConnection",
    }
)

_UNSET = object()


class ContextWatch:
    """
    The context variables of the calls of one function.

    Args:
        listed: What `key_context=` lists; None if it was not given.
        reporter: The log of the function.
        baseline: What is the same for all requests; by default what is set now.
        function: The function.
    """

    def __init__(
        self,
        listed: KeyContext | None,
        reporter: Reporter,
        baseline: Context | None = None,
        *,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self._function = function
        self._listed = listed
        self._reporter = reporter
        self._baseline = copy_context() if baseline is None else baseline
        self._known: set[ContextVar[Any]] = set()
        """Those that are in the key, harmless, or told already."""
        self._known.update(variables_listed(listed or ()))
        self.has_told = False
        """Whether a variable was set that is not in the key, and may decide answers."""

    @functools.cached_property
    def _read_by_function(self) -> frozenset[ContextVar[Any]]:
        return read_by_endpoint(self._function)

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
            # The search for its place takes its time.
            place = place_of(variable)
            if place is not None and (
                place.partition(".")[0] in _DECIDING
                or _is_request(value)
                or variable in self._read_by_function
            ):
                raise BypassError(Finding(NotCached.CONTEXT, place))
            if len(self._known) < MOST_PLACES:
                self._known.add(variable)
            if place is not None:
                self._tell(place)

    def _tell(self, place: str) -> None:
        self.has_told = True
        name = place.rpartition(".")[2]
        self._reporter.warn(
            f"the context variable {place} is set when it is called, and is no part of the key: "
            f"pass key_context=({name},) if the answer depends on it, or key_context=() if it "
            "depends on no context variable"
        )


def _is_request(value: Any) -> bool:
    """Whether a value is a request, its headers, or the scope of ASGI that both are made of."""
    cls = type(value)
    if cls is dict:
        return "headers" in value and "type" in value
    return not _REQUESTS.isdisjoint(class_names(cls))
