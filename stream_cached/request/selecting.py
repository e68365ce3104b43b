"""The values of headers that select among the answers of a function, however its keys are made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection

from stream_cached.endpoint.signatures import header_names
from stream_cached.errors import ConfigurationError
from stream_cached.http.headers import header_values
from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.digest import digest
from stream_cached.request.observed import observer_of, plain_scope


class Selecting:
    """
    Headers that select among the answers of a function.

    Args:
        signature: The signature of the function.
        vary: For each header the function that normalises its value, or None.
    """

    def __init__(
        self, signature: inspect.Signature, vary: Mapping[str, Callable[[str], str] | None]
    ) -> None:
        self._signature = signature
        self._vary = {name.lower(): function for name, function in vary.items()}
        self._parameters = {
            header.lower(): parameter
            for parameter in signature.parameters.values()
            for header in header_names(parameter)
        }

    def suffix(
        self, request: HTTPConnection | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str:
        """Return what a key has to end with; without a request, by what stands for its headers."""
        if request is None:
            values = [self._of_argument(name, args, kwargs) for name in sorted(self._vary)]
        else:
            values = [self._of_request(name, request) for name in sorted(self._vary)]
        return f":vary:{digest([sorted(self._vary), values])}"

    def _of_request(self, name: str, request: HTTPConnection) -> Any:
        observer = observer_of(request)
        if observer is not None:
            observer.note_header(name)
        lines = header_values(plain_scope(request.scope).get("headers", ()), name.encode("latin-1"))
        function = self._vary[name]
        if function is None:
            return lines
        return _normalised(name, function, b", ".join(lines).decode("latin-1"))

    def _of_argument(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        parameter = self._parameters.get(name)
        if parameter is None:
            return None
        given = self._signature.bind_partial(*args, **kwargs).arguments
        value = given.get(parameter.name, getattr(parameter.default, "default", parameter.default))
        function = self._vary[name]
        if function is not None and isinstance(value, str | None):
            return _normalised(name, function, value or "")
        try:
            return canonical(value)
        except NoCanonicalFormError as exc:
            raise ConfigurationError(
                f"{parameter.name}, which stands for the header {name}, is of type {exc}: declare "
                "it as str"
            ) from exc


def _normalised(name: str, function: Callable[[str], str], value: str) -> str:
    normalised = function(value)
    if not isinstance(normalised, str):
        kind = type(normalised).__name__
        raise ConfigurationError(f"the function for the header {name} returned {kind}, and no str")
    return normalised


def request_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> HTTPConnection | None:
    """Return the request that is among the arguments of a call."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, HTTPConnection):
            return value
    is_endpoint = args and isinstance(args[0], HTTPEndpoint)
    return HTTPConnection(args[0].scope) if is_endpoint else None
