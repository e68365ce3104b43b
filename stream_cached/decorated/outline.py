"""What can be said of a decorated function on one route before there is a request for it.

The rules are those of a call: the same objects are asked, about a request that nobody has sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection, Request

from stream_cached.decorated.function import Decorated
from stream_cached.endpoint.dependencies import dependant_of
from stream_cached.endpoint.outline import Outline, Way
from stream_cached.endpoint.reads import Read, code_of, reads_beside
from stream_cached.endpoint.signatures import annotation_of, may_be
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.request.guard import Guard
from stream_cached.request.incoming import Incoming

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator

#: The attributes of a request.
_ATTRIBUTES = (
    *("app", "auth", "base_url", "body", "client", "cookies", "form", "headers"),
    *("is_disconnected", "json", "method", "path_params", "query_params", "scope", "session"),
    *("state", "stream", "url", "url_for", "user"),
)

#: Those that may be one client's own, by which the guard knows them.
_OF_CLIENT = ("auth", "client", "cookies", "headers", "session", "user")

#: Methods that no endpoint is decorated for.
_ASIDE = frozenset({"HEAD", "OPTIONS", "TRACE"})

_HANDED_ON = "what is read of the request where it is handed on"
_STATE = "it belongs to one client unless the lifespan has put it there"


@dataclass(frozen=True)
class FunctionOutline:
    """A decorated function on one route."""

    key: tuple[str, ...]
    """What its keys are made of."""
    arguments: Mapping[str, Way]
    certain: tuple[Finding, ...]
    """Why nothing is cached, or nothing of some requests that the route is for."""
    possible: tuple[Finding, ...]
    """Why a request may not be cached."""


def outline_of(
    function: Decorated,
    scope: Mapping[str, Any],
    methods: Iterable[str],
    *,
    instance: object = None,
    is_bound: bool = True,
) -> FunctionOutline:
    """
    Return what can be said of a function.

    Args:
        function: The function.
        scope: The scope of a request for its route, with no headers.
        methods: The methods of the route.
        instance: What it belongs to, if it is a bound method.
        is_bound: Whether its cache is known.
    """
    by_request = function.hooks.keys_by_request
    requests = _requests(function, scope)
    arguments = function.arguments.outline(scope, requests, instance)
    certain: list[Finding] = []
    possible: list[Finding] = []
    _of_methods(function, scope, sorted(set(methods) - _ASIDE), certain, possible)
    _of_authorization(function, scope, arguments, certain, possible)
    if by_request:
        certain += _of_route(function, scope) if is_bound else ()
        certain += arguments.certain
        possible += arguments.possible
        for name in sorted(requests):
            _of_reads(function, scope, name, certain, possible)
    shown = {n: way for n, way in arguments.ways.items() if n not in ("self", "cls")}
    return FunctionOutline(
        tuple(_key(function)), shown if by_request else {}, (*certain,), (*possible,)
    )


def _requests(function: Decorated, scope: Mapping[str, Any]) -> frozenset[str]:
    """Return the parameters that are the request."""
    parameters = function.endpoint.declared.parameters
    names = {n for n, p in parameters.items() if may_be(annotation_of(p), HTTPConnection)}
    if dependant_of(scope) is None and not function.endpoint.generates:
        # Starlette passes it as the only argument.
        names |= {*[name for name in parameters if name not in ("self", "cls")][:1]}
    return frozenset(names)


def _incoming(function: Decorated, scope: Mapping[str, Any], **own: Any) -> Incoming:
    """Return a request that the decorator takes; raise `BypassError` for any other one."""
    headers = function.service.headers
    incoming = Incoming(Request({**scope, **own}), headers.normalisers)
    keyed = function.hooks.keys_by_request
    incoming.check(function.service.options.methods, headers.identifying(keyed=keyed))
    return incoming


def _of_methods(
    function: Decorated,
    scope: Mapping[str, Any],
    methods: list[str],
    certain: list[Finding],
    possible: list[Finding],
) -> None:
    found: list[Finding] = []
    refused = 0
    for method in methods:
        try:
            _incoming(function, scope, method=method)
        except BypassError as exc:
            refused += 1
            found += exc.findings
    (certain if refused == len(methods) else possible).extend(found)


def _of_authorization(
    function: Decorated,
    scope: Mapping[str, Any],
    arguments: Outline,
    certain: list[Finding],
    possible: list[Finding],
) -> None:
    options = function.service.options
    method = min(options.methods, key=lambda name: (name != "GET", name))
    try:
        incoming = _incoming(
            function, scope, method=method, headers=[(b"authorization", b"Basic Og==")]
        )
    except BypassError:
        # It was said of the methods.
        return
    is_named = arguments.names_user and function.hooks.keys_by_request
    if not options.request_key or not incoming.is_authorized or is_named:
        return
    taken = [t.source for t in arguments.taken if t.is_credential and t.name == "authorization"]
    subject = ", ".join(dict.fromkeys(taken))
    (certain if taken else possible).append(Finding(NotCached.AUTHORIZATION, subject))


def _of_route(function: Decorated, scope: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield why no call on a route has a key."""
    try:
        function.check(dict(scope))
    except BypassError as exc:
        yield from exc.findings


# -- what the function reads of its request -------------------------------------------------------


def _of_reads(
    function: Decorated,
    scope: Mapping[str, Any],
    name: str,
    certain: list[Finding],
    possible: list[Finding],
) -> None:
    """Add what the code of a function reads of its request beside the key."""
    code = code_of(function.endpoint.function)
    if reads_beside(code, name, [(each,) for each in _ATTRIBUTES]):
        possible.append(Finding(NotCached.READ, _HANDED_ON))
        return
    guard = Guard(Request({**scope, "state": {}}), function.service.headers.terms, with_body=False)
    for word in _OF_CLIENT:
        others = [(each,) for each in _ATTRIBUTES if each != word]
        for read in reads_beside(code, name, others):
            _note(guard, word, read)
    certain += guard.findings(frozenset())
    others = [(each,) for each in _ATTRIBUTES if each != "state"]
    state = [read.name for read in reads_beside(code, name, others) if read.kind == "state"]
    possible += [Finding(NotCached.READ, f"request.state.{each}, {_STATE}") for each in state]


def _note(guard: Guard, word: str, read: Read) -> None:
    match read.kind:
        case "header":
            guard.note_header(read.name)
        case "cookie":
            guard.note("cookies")
        case _:
            guard.note(word)


# -- the key --------------------------------------------------------------------------------------


def _key(function: Decorated) -> Iterator[str]:
    """Yield what a key consists of, beside the arguments."""
    decorator, options = function.decorator, function.service.options
    if not function.hooks.keys_by_request:
        yield _own_key(function, decorator)
        return
    if not options.request_key:
        return
    yield from ("method", "scheme")
    if options.key_host:
        yield "host"
    yield "path"
    yield "query" if options.query == "all" else "query (what is declared of it)"
    if options.methods - {"GET"}:
        yield "body"
    for name in sorted(each.decode("latin-1") for each in function.service.headers.normalisers):
        yield f"header {name}"


def _own_key(function: Decorated, decorator: Decorator) -> str:
    """Return what a key is made of that is not made from the request."""
    if decorator.key is not None or getattr(function.hooks, "key_template", None):
        return "the text of key="
    return "what key_builder returns" if decorator.key_builder else "what get_cache_key returns"
