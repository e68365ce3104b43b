"""The guard: it detects what an endpoint reads of its request that is not part of the key.

Such a part of the request may be private to one client, and then the answer may be, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from stream_cached.endpoint.changed import is_changed_on_route
from stream_cached.endpoint.infrastructure import is_shared_infrastructure
from stream_cached.endpoint.inputs import OF_BODY
from stream_cached.endpoint.startup import is_of_lifespan
from stream_cached.http.reasons import Finding, NotCached, listed, told_once
from stream_cached.request.injected import observed_injected
from stream_cached.request.kept import FRESH, all_replaced_parts
from stream_cached.request.observed import (
    ABSENT,
    ObservedMapping,
    ObservedParts,
    attributes_of,
    observed_request,
    observer_of,
    plain_scope,
)

#: The item of a scope, and of its copies, while an endpoint runs with it.
RUNS = "stream_cached.runs"

#: Items of the scope that are part of the key, equal for all clients, or internal to a framework.
_COMMON = frozenset(
    {
        "app",
        "app_root_path",
        "endpoint",
        "fastapi",
        "fastapi_astack",
        "fastapi_async_cleanup_scopes",
        "fastapi_function_astack",
        "fastapi_inner_astack",
        "fastapi_middleware_astack",
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
        RUNS,
    }
)

#: Headers that differ in each request.
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

#: The words of `unguarded=`, and the texts for them in a warning.
_WORDS = {
    "auth": "request.auth",
    "client": "the client's address",
    "cookies": "the cookies",
    "headers": "the headers as a whole",
    "host": "the host",
    "request": "another request",
    "session": "the session",
    "tasks": "the tasks of dependencies",
    "user": "request.user",
}

#: What is part of the key as a whole, unless FastAPI has parsed it into arguments.
INPUTS = {"body": "the body as it is", "query": "the query as it is"}

#: Prefixes of dotted names, for example `state.tenant`.
KINDS = ("state", "scope", "request", "response")

#: The words of `unguarded=` that are not header names.
READABLE = tuple(_WORDS)


def read_name(name: str) -> str:
    """Return the guard's name for a word or a header name of `unguarded=`."""
    kind, _, rest = name.partition(".")
    if kind == "scope" and rest in READABLE:
        return rest
    if kind in KINDS:
        return name
    word = name.lower()
    word = {"cookie": "cookies", "url": "host"}.get(word, word)
    return word if word in READABLE or kind == "header" else f"header.{word}"


@dataclass(frozen=True, slots=True)
class Terms:
    """The parts of a request that an endpoint may read without making its answer private."""

    headers: frozenset[str]
    """The headers that are part of the key, lower-cased."""
    host: bool
    unguarded: frozenset[str]


class Observation(Protocol):
    """What a run has read of its request."""

    @property
    def reads(self) -> int:
        """How many parts were read: it grows with each one."""

    def findings(self, known: frozenset[str]) -> list[Finding]:
        """Return the reads outside the key; `known` are lower-cased exempt headers."""

    def let_go(self) -> None:
        """Note that the run has ended: what follows changes nothing of its answer."""


class Guard(ObservedParts):
    """
    Observes the request of one run.

    Args:
        request: The request.
        terms: What may be read of it.
        with_body: Whether the bytes of its body are part of the key.
        left_out: Of the words of `INPUTS`, those of which only arguments are part of the key.
    """

    def __init__(
        self,
        request: HTTPConnection,
        terms: Terms,
        *,
        with_body: bool,
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        # If another cached endpoint called this one, its guard is informed, too.
        self._outer = observer_of(request)
        self.request = self._outer.request if self._outer else request
        self._terms = terms
        self._keyed = terms.headers | OF_BODY if with_body else terms.headers
        self._left_out = left_out
        self._read: dict[str, None] = {}
        self._lacked: set[str] = set()
        # Only items that existed before the run count. The endpoint may read back its own items.
        self._state = dict(self.request.scope.setdefault("state", {}))
        self._attributes = attributes_of(self.request)
        is_fresh = FRESH.issuperset(self._attributes) and not self._attributes.get("_form")
        has_body = with_body or "body" in left_out
        self.replaced = () if is_fresh else all_replaced_parts(self.request, has_body=has_body)

    def given(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments of a call with observed requests instead of the request."""
        return [*map(self._given, args)], {n: self._given(v) for n, v in kwargs.items()}

    def _given(self, value: Any) -> Any:
        if isinstance(value, HTTPEndpoint):
            for name, item in vars(value).items():
                if isinstance(item, HTTPConnection):
                    setattr(value, name, self._given(item))
            value.scope = self.scope
        # The exact type first: `isinstance` is slow for an abstract class.
        if type(value) is not Request and not isinstance(value, HTTPConnection):
            return observed_injected(value, self)
        if plain_scope(value.scope) is not self.request.scope:
            # No part of another request is part of the key.
            self.note("request")
            return value
        return observed_request(value, self)

    def release(self, args: Sequence[Any]) -> None:
        """Restore the plain scope of an `HTTPEndpoint`, which sends its answer with it."""
        for value in args[:1]:
            if isinstance(value, HTTPEndpoint):
                value.scope = plain_scope(value.scope)

    def observed_scope(self, scope: Scope) -> Scope:
        return ObservedMapping(scope, self._scope_item)

    def note(self, name: str) -> None:
        """Record a read, by its word in `unguarded=`."""
        self._read[name] = None
        if self._outer is not None:
            self._outer.note(name)

    def note_header(self, name: str) -> None:
        """Record the read of one header by its lower-cased name."""
        self.note({"cookie": "cookies", "host": "host"}.get(name, f"header.{name}"))

    @property
    def reads(self) -> int:
        return len(self._read) + len(self._lacked)

    def findings(self, known: frozenset[str]) -> list[Finding]:
        """Return the reads outside the key; `known` are lower-cased exempt headers."""
        if not self._read and not self._lacked:
            return []
        # What the endpoint has set itself, it has not read: a property that memoises its value.
        lacked = self._lacked - attributes_of(self.request).keys()
        names = [*self._read, *(f"request.{name}" for name in sorted(lacked))]
        unkeyed = told_once(name for name in names if not self._is_keyed(name, known))
        if not unkeyed:
            return []
        return [Finding(NotCached.READ, listed(map(_shown, unkeyed)), _fix(unkeyed))]

    def _is_keyed(self, name: str, known: frozenset[str]) -> bool:
        if name in INPUTS:
            return name not in self._left_out
        unguarded = self._terms.unguarded
        if name in unguarded or (name == "host" and self._terms.host):
            return True
        if "headers" in unguarded and (name == "host" or name.startswith("header.")):
            # All of them, but for cookies: those have a word of their own.
            return True
        header = {"cookies": "cookie", "host": "host"}.get(name, name.removeprefix("header."))
        is_header = header != name or name == "host"
        return is_header and (header in self._keyed or header in known)

    # -- reads ------------------------------------------------------------------------------

    def _scope_item(self, name: str, value: Any) -> Any:
        if name == "state":
            return ObservedMapping(value, self.state_item)
        if name in ("query_string", "raw_path"):
            self.note("query")
        if name == "server":
            # The key has the Host header, if there is one: a client may send any.
            self.note("scope.server" if "host" in self.request.headers else "host")
        elif name in ("auth", "client", "headers", "session", "user"):
            self.note(name)
        elif name == "extensions":
            if isinstance(value, dict):
                return ObservedMapping(value, self._extension)
        elif name == "asgi":
            if isinstance(value, dict) and value.keys() - {"spec_version", "version"}:
                self.note("scope.asgi")
        elif not (name in _COMMON or is_shared_infrastructure(type(value))):
            self.note(f"scope.{name}")
        return value

    def _extension(self, name: str, value: Any) -> Any:
        # ASGI's TLS extension contains the client's certificate. Others tell what a server can do.
        is_ability = name.startswith(("http.response.", "websocket."))
        # Such a one has no content, unless a middleware has put something there.
        if not is_ability or value not in (ABSENT, {}, None):
            self.note("scope.extensions")
        return value

    def lacks(self, name: str) -> None:
        self._lacked.add(name)
        if self._outer is not None:
            self._outer.lacks(name)

    def attribute(self, name: str, value: Any) -> None:
        # A dependency or an outer decorator may have set it.
        if self._attributes.get(name, ABSENT) is value:
            self._read[f"request.{name}"] = None
        if self._outer is not None:
            self._outer.attribute(name, value)

    def state_item(self, name: str, value: Any) -> Any:
        # The key has the names in the state, so that a missing one is missing for all.
        is_given = value is not ABSENT and self._state.get(name, ABSENT) is value
        scope = self.request.scope
        is_own = is_given and not is_of_lifespan(scope, name, value)
        if is_own or (is_given and is_changed_on_route(value, scope)):
            self._read[f"state.{name}"] = None
        if self._outer is not None:
            self._outer.state_item(name, value)
        return value


def _shown(name: str) -> str:
    kind, _, rest = name.partition(".")
    match kind:
        case "state":
            return f"request.state.{rest}"
        case "scope":
            return f'request.scope["{rest}"]'
        case "response":
            return "the headers of the Response" if rest == "headers" else f"response.{rest}"
        case "header":
            return f"the header {rest}"
        case "request" if rest:
            return name
    return _WORDS.get(name) or INPUTS[name]


def _fix(unkeyed: Sequence[str]) -> str:
    """Return the code that adds the reads to the key, or that exempts them."""
    private = [name for name in unkeyed if name.startswith("state._")]
    if private:
        return (
            f"{listed(map(_shown, private))} belongs to another decorator, such as a rate limiter: "
            "put that decorator above @stream_cached, so that it sees every request"
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
    header = name.removeprefix("header.")
    return name if header in READABLE else header


def _tuple(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{_as_unguarded(name)}"' for name in names)
    return f"({quoted},)" if len(names) == 1 else f"({quoted})"
