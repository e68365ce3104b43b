"""The guard: notices what an endpoint reads of its request that is no part of its key.

What it read may be one client's own, and then so is its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from starlette.datastructures import State
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection
from starlette.types import Scope

from stream_cached.endpoint.infrastructure import is_shared_infrastructure
from stream_cached.http.reasons import Finding, NotCached, listed
from stream_cached.request.observed import (
    ABSENT,
    WatchedHeaders,
    WatchedMapping,
    plain_scope,
    watch_of,
    watched_request,
)

#: What the scope says that is part of the key, the same for every client, or a framework's own.
_COMMON = frozenset(
    {
        "app",
        "app_root_path",
        "asgi",
        "endpoint",
        "fastapi",
        "fastapi_astack",
        "fastapi_async_cleanup_scopes",
        "fastapi_function_astack",
        "fastapi_inner_astack",
        "fastapi_middleware_astack",
        "http_version",
        "method",
        "path",
        "path_params",
        "query_string",
        "raw_path",
        "root_path",
        "route",
        "router",
        "scheme",
        "starlette.exception_handlers",
        "type",
    }
)

#: Headers that are part of the key of a request with a body, or follow from it.
_OF_BODY = frozenset({"content-type", "content-encoding", "content-length", "transfer-encoding"})

#: Headers that are another one for each request.
TRACES = frozenset(
    {
        "traceparent",
        "tracestate",
        "x-amzn-trace-id",
        "x-b3-traceid",
        "x-cloud-trace-context",
        "x-correlation-id",
        "x-request-id",
        "x-trace-id",
    }
)

#: What is read, by the word of `unguarded=`: how it is called in a warning.
_WORDS = {
    "auth": "request.auth",
    "client": "the client's address",
    "cookies": "the cookies",
    "headers": "the headers as a whole",
    "host": "the host",
    "request": "another request",
    "session": "the session",
    "user": "request.user",
}

#: Of what one thing is named with a dot.
KINDS = ("state", "scope", "request")

#: The words of `unguarded=` that are no names of headers.
READABLE = tuple(_WORDS)


def read_name(name: str) -> str:
    """Return what the guard calls a word, or the name of a header, of `unguarded=`."""
    kind, _, rest = name.partition(".")
    if kind == "scope" and rest in (*READABLE, "server"):
        return "host" if rest == "server" else rest
    if kind in KINDS:
        return name
    word = name.lower()
    word = {"cookie": "cookies", "url": "host"}.get(word, word)
    return word if word in READABLE or kind == "header" else f"header.{word}"


@dataclass(frozen=True, slots=True)
class Terms:
    """
    What an endpoint may read without its answer being one client's own.

    Args:
        headers: The headers that are part of the key, lower-cased.
        host: Whether the host is.
        unguarded: What does not show in the answer.
    """

    headers: frozenset[str]
    host: bool
    unguarded: frozenset[str]


class Guard:
    """
    Watches one run of an endpoint.

    Args:
        request: The request that the endpoint would be given.
        terms: What it may read.
        with_body: Whether the request's body is part of the key.
    """

    def __init__(self, request: HTTPConnection, terms: Terms, *, with_body: bool) -> None:
        # Another cached endpoint may have called this one; then both notice.
        self._outer = watch_of(request)
        self.request = self._outer.request if self._outer else request
        self._terms = terms
        self._keyed = terms.headers | _OF_BODY if with_body else terms.headers
        self._read: dict[str, None] = {}
        # What the endpoint puts there itself is its own affair.
        self._state = dict(self.request.scope.setdefault("state", {}))
        self._attributes = dict(self.request.__dict__)
        self.scope = self.watched(self.request.scope)
        self.headers = WatchedHeaders(self.request, self)
        self.state = State(cast("dict[str, Any]", self.scope["state"]))

    def given(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments of a call with watched requests in place of the request."""

        def given(value: Any) -> Any:
            if isinstance(value, HTTPEndpoint):
                for name, item in vars(value).items():
                    if isinstance(item, HTTPConnection):
                        setattr(value, name, given(item))
                value.scope = self.scope
            if not isinstance(value, HTTPConnection):
                return value
            if plain_scope(value.scope) is not self.request.scope:
                # Nothing of it is part of the key.
                self.note("request")
                return value
            return watched_request(value, self)

        return [given(value) for value in args], {n: given(v) for n, v in kwargs.items()}

    def release(self, args: Sequence[Any]) -> None:
        """Give an `HTTPEndpoint` its own scope back, which it sends its answer with."""
        for value in args[:1]:
            if isinstance(value, HTTPEndpoint):
                value.scope = plain_scope(value.scope)

    def watched(self, scope: Scope) -> Scope:
        """Return a scope that notices what is read of it."""
        return WatchedMapping(scope, self._scope_item)

    def note(self, name: str) -> None:
        """Notice that something was read, by its word in `unguarded=`."""
        self._read[name] = None
        if self._outer is not None:
            self._outer.note(name)

    def note_header(self, name: str) -> None:
        """Notice that one header was read, whose name is lower-cased."""
        self.note({"cookie": "cookies", "host": "host"}.get(name, f"header.{name}"))

    @property
    def reads(self) -> int:
        """How many things were read."""
        return len(self._read)

    def findings(self, known: frozenset[str]) -> list[Finding]:
        """
        Say what was read that is no part of the key.

        Args:
            known: The names of headers, lower-cased, of which that is known already; such as those
                in the response's Vary.
        """
        unkeyed = [name for name in list(self._read) if not self._is_keyed(name, known)]
        if "headers" in unkeyed:
            unkeyed = [name for name in unkeyed if not name.startswith("header.")]
        if not unkeyed:
            return []
        return [Finding(NotCached.READ, listed(map(_shown, unkeyed)), _fix(unkeyed))]

    def _is_keyed(self, name: str, known: frozenset[str]) -> bool:
        if name in self._terms.unguarded:
            return True
        if name == "host" and self._terms.host:
            return True
        header = {"cookies": "cookie", "host": "host"}.get(name, name.removeprefix("header."))
        is_header = header != name or name == "host"
        return is_header and (header in self._keyed or header in known)

    # -- what can be read -------------------------------------------------------------------

    def _scope_item(self, name: str, value: Any) -> Any:
        if name == "state":
            return WatchedMapping(value, self.state_item)
        if name == "server":
            self.note("host")
        elif name in ("auth", "client", "headers", "session", "user"):
            self.note(name)
        elif name == "extensions":
            # The certificate of the client is there (the TLS extension of ASGI).
            if isinstance(value, dict) and "tls" in value:
                self.note("scope.extensions")
        elif not (name in _COMMON or is_shared_infrastructure(type(value))):
            self.note(f"scope.{name}")
        return value

    def attribute(self, name: str, value: Any) -> None:
        """Notice that something was read that was put on the request itself."""
        # By a dependency, or by a decorator above.
        if self._attributes.get(name, ABSENT) is value and not is_shared_infrastructure(
            type(value)
        ):
            self._read[f"request.{name}"] = None
        if self._outer is not None:
            self._outer.attribute(name, value)

    def state_item(self, name: str, value: Any) -> Any:
        """Notice that something was read of the request's state."""
        # A name that is not there is read, too: it could have been.
        if self._state.get(name, ABSENT) is value and not is_shared_infrastructure(type(value)):
            self._read[f"state.{name}"] = None
        if self._outer is not None:
            self._outer.state_item(name, value)
        return value


def _shown(name: str) -> str:
    """Return what was read in the words of a warning."""
    kind, _, rest = name.partition(".")
    match kind:
        case "state":
            return f"request.state.{rest}"
        case "scope":
            return f'request.scope["{rest}"]'
        case "header":
            return f"the header {rest}"
        case "request" if rest:
            return name
    return _WORDS[name]


def _fix(unkeyed: Sequence[str]) -> str:
    """Say which lines make what was read part of the key, or leave it out of account."""
    of_decorator = [name for name in unkeyed if name.startswith("state._")]
    if of_decorator:
        return (
            f"{listed(map(_shown, of_decorator))} belongs to another decorator, such as a rate "
            "limiter's: put that one above @stream_cached, so that it sees every request"
        )
    traces = [name for name in unkeyed if name.removeprefix("header.") in TRACES]
    headers = [n for n in unkeyed if n.startswith("header.") and n not in traces]
    others = [name for name in unkeyed if not name.startswith("header.")]
    ways = []
    if headers:
        ways.append(f"pass vary={_tuple(headers)}")
    if others:
        ways.append(
            f"let a dependency read {listed(map(_shown, others))} and return what the answer "
            "depends on (a name, an id), so that the endpoint has it as an argument, which is part "
            "of the key"
        )
    if traces:
        ways.append(f"pass unguarded={_tuple(traces)} if it is only logged")
    either = f"; or pass unguarded={_tuple(unkeyed)}, if none of it shows in the answer"
    return listed(ways) + (either if headers or others else "")


def _as_unguarded(name: str) -> str:
    """Return what `unguarded=` takes for something that was read."""
    header = name.removeprefix("header.")
    return name if header in READABLE else header


def _tuple(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{_as_unguarded(name)}"' for name in names)
    return f"({quoted},)" if len(names) == 1 else f"({quoted})"
