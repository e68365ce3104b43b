"""What a dependency takes of a request, beside what its own dependencies return."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import Response

from stream_cached.endpoint.contexts import place_of, variables_read
from stream_cached.endpoint.dependencies import parameters_of
from stream_cached.endpoint.reads import Read, code_of, reads_input, reads_of_request
from stream_cached.endpoint.signatures import (
    annotation_of,
    class_names,
    cookie_names,
    dependency_of,
    header_names,
    may_be,
    takes_all,
    without_partials,
)
from stream_cached.http.headers import header_values

#: Headers that say who asks.
_CREDENTIALS = frozenset({"authorization", "proxy-authorization"})

_SCHEME = "fastapi.security.base.SecurityBase"


@dataclass(frozen=True)
class Taken:
    """Something that may differ between clients."""

    source: str
    """What it is, for a warning."""
    kind: str = ""
    """`header`, `cookie`, `query`, `state` or `context`; empty for what can't be told."""
    name: str = ""
    variable: ContextVar[Any] | None = None
    """The context variable that it is."""
    is_credential: bool = False
    by_request: bool = False
    """Whether it is read from the request, where more may be read."""

    @property
    def state(self) -> str:
        return self.name if self.kind == "state" else ""

    def by(self, function: str) -> Taken:
        return dataclasses.replace(self, source=f"{self.source}, by {function}")


@dataclass(frozen=True)
class Keyed:
    """What of a request is part of the key."""

    request: bool = True
    """Its path, query and body."""
    host: bool = True
    headers: frozenset[str] = frozenset()
    """The lower-cased names of headers, as they are."""
    cookies: frozenset[str] = frozenset()
    context: frozenset[ContextVar[Any]] | None = frozenset()
    """Context variables; None if it is said that the answer depends on none."""

    def with_names(self, headers: Iterable[str], cookies: Iterable[str]) -> Keyed:
        """Return the same with more names of headers and cookies."""
        return dataclasses.replace(
            self, headers=self.headers.union(headers), cookies=self.cookies.union(cookies)
        )

    def has(self, taken: Taken) -> bool:
        if not self.request:
            return False
        if taken.kind == "query":
            return True
        if taken.kind == "cookie":
            return taken.name in self.cookies or "cookie" in self.headers
        is_host = taken.name == "host" and self.host
        return taken.kind == "header" and (taken.name in self.headers or is_host)


def what_it_takes(call: Callable[..., Any], in_key: Keyed) -> list[Taken]:
    """Return what a dependency takes of who asks, or may take."""
    if _SCHEME in class_names(type(call)):
        return list(_taken_by_scheme(call, in_key))
    parameters = parameters_of(call)
    if parameters is None:
        return [Taken(f"{name_of(call)}, which has no signature", by_request=True)]
    found = [
        each
        for parameter in parameters
        if dependency_of(parameter) is None
        for each in _taken_as(call, parameter, in_key)
    ]
    return [*found, *_taken_of_context(call, in_key)]


def part_of(scope: Mapping[str, Any], kind: str, name: str) -> list[str]:
    """Return the values that a request has of a header or a cookie."""
    header = "cookie" if kind == "cookie" else name
    headers = scope.get("headers", ())
    values = [value.decode("latin-1") for value in header_values(headers, _raw(header))]
    if kind == "header":
        return values
    return [found[name] for found in map(cookie_parser, values) if name in found]


def _raw(name: str) -> bytes:
    return name.encode("latin-1")


def takes_inputs(call: Callable[..., Any]) -> bool:
    """Whether a dependency takes a part of the path, the query or the body."""
    calls = _own_calls(call) if _SCHEME in class_names(type(call)) else [call]
    return any(_takes_input(each, p) for each in calls for p in parameters_of(each) or ())


def name_of(call: Any) -> str:
    call = without_partials(call)
    return str(getattr(call, "__qualname__", type(call).__qualname__))


def _takes_input(call: Callable[..., Any], parameter: inspect.Parameter) -> bool:
    if may_be(annotation_of(parameter), HTTPConnection):
        return reads_input(code_of(call), parameter.name)
    return _is_input(parameter)


def _is_input(parameter: inspect.Parameter) -> bool:
    if dependency_of(parameter) is not None or header_names(parameter):
        return False
    return not _is_injected(annotation_of(parameter))


def _is_injected(annotation: Any) -> bool:
    """Whether FastAPI passes an object of its own instead of data of the request."""
    if inspect.isclass(annotation) and annotation.__name__ == "SecurityScopes":
        return True
    return may_be(annotation, Response) or may_be(annotation, BackgroundTask)


def _taken_as(
    call: Callable[..., Any], parameter: inspect.Parameter, in_key: Keyed
) -> Iterator[Taken]:
    annotation = annotation_of(parameter)
    if takes_all(parameter):
        yield Taken(f"all that {parameter.name} of {name_of(call)} accepts", by_request=True)
    if cookies := cookie_names(parameter):
        yield from (Taken(f"the cookie {name}", "cookie", name) for name in cookies)
    elif headers := header_names(parameter):
        yield from map(_header, headers)
    elif may_be(annotation, HTTPConnection):
        yield from _taken_of_request(call, parameter.name, in_key)
    elif isinstance(annotation, str) or not (in_key.request or _is_injected(annotation)):
        yield Taken(f"{parameter.name} of {name_of(call)}", by_request=True)


def _header(name: str) -> Taken:
    low = name.lower()
    return Taken(f"the header {name}", "header", low, is_credential=low in _CREDENTIALS)


def _taken_of_request(
    call: Any, parameter: str, in_key: Keyed, *, passes_on: bool = False
) -> Iterator[Taken]:
    found = reads_of_request(
        code_of(call),
        parameter,
        in_key=in_key.request,
        host=in_key.request and in_key.host,
        passes_on=passes_on,
    )
    for read in found:
        match read:
            case Read("state", name):
                yield Taken(f"request.state.{name}", "state", name, by_request=True)
            case Read("header", name):
                yield dataclasses.replace(_header(name), by_request=True)
            case Read("cookie", name):
                yield Taken(f"the cookie {name}", "cookie", name, by_request=True)
            case _:
                yield Taken(f"the request, in {name_of(call)}", by_request=True)


def _taken_of_context(call: Any, in_key: Keyed) -> Iterator[Taken]:
    """Yield the context variables that a dependency reads, which a middleware may have set."""
    if in_key.context is None:
        return
    for variable in {*variables_read(call)} - in_key.context:
        if (place := place_of(variable)) is not None:
            source = f"the context variable {place}"
            yield Taken(source, "context", variable.name, variable=variable)


def _taken_by_scheme(scheme: Any, in_key: Keyed) -> Iterator[Taken]:
    """Yield what one of FastAPI's security schemes takes, or a scheme of the application."""
    cls = type(scheme)
    kinds = class_names(cls)
    name = str(getattr(getattr(scheme, "model", None), "name", ""))
    kind, of = ("header", "authorization")
    if "fastapi.security.api_key.APIKeyHeader" in kinds:
        kind, of = "header", name.lower()
    elif "fastapi.security.api_key.APIKeyCookie" in kinds:
        kind, of = "cookie", name
    elif "fastapi.security.api_key.APIKeyQuery" in kinds:
        kind, of = "query", name
    yield Taken(f"the security scheme {cls.__name__}", kind, of, is_credential=True)
    for call in _own_calls(scheme):
        for parameter in parameters_of(call) or ():
            if may_be(annotation_of(parameter), HTTPConnection):
                found = _taken_of_request(call, parameter.name, in_key, passes_on=True)
                yield from (taken for taken in found if not taken.is_credential)
            elif dependency_of(parameter) is None:
                yield from _taken_as(call, parameter, in_key)


def _own_calls(scheme: Any) -> Iterator[Any]:
    """Yield the methods of the application that a call of a security scheme runs."""
    for cls in type(scheme).__mro__:
        call = vars(cls).get("__call__")
        if call is not None and cls.__module__.startswith("fastapi.security."):
            return
        if call is not None:
            yield call.__get__(scheme)
