"""What can be said of a decorated view before there is a request for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.http import HttpRequest

from stream_cached.decorated.outline import FunctionOutline
from stream_cached.django.decorators import _invalidate, _known, cache_stream
from stream_cached.django.guard import ViewGuard
from stream_cached.django.hooks import for_view
from stream_cached.django.observed import _FREE, _MAPPINGS, _READS
from stream_cached.django.views import View
from stream_cached.endpoint.outline import Way
from stream_cached.endpoint.reads import code_of, reads_beside
from stream_cached.http.reasons import Finding, NotCached

#: The attributes of a request that are known by name.
_ATTRIBUTES = frozenset({*_READS, *_MAPPINGS, *_FREE})

#: Those that may be one client's own.
_OF_CLIENT = ("auser", "auth", "COOKIES", "headers", "session", "user")

_ASIDE = frozenset({"HEAD", "OPTIONS", "TRACE"})


def decorated_view(view: object) -> tuple[View, Callable[..., Any]] | None:
    """
    Return what is the same for all calls of a decorated view, and the view without its decorator.

    Raises:
        ConfigurationError: The settings have no such cache, or no valid one.
    """
    found = getattr(view, "invalidate", None)
    if not isinstance(found, functools.partial) or found.func is not _invalidate:
        return None
    decorator, plain = found.args
    if not isinstance(decorator, cache_stream):
        return None
    return _known(decorator, plain), plain


def outline_of_view(
    state: View, view: Callable[..., Any], methods: Iterable[str]
) -> FunctionOutline:
    """Return what can be said of a view: `view` has no decorator."""
    certain: list[Finding] = []
    possible: list[Finding] = []
    options = state.options
    refused = [m for m in sorted({*methods} - _ASIDE) if m not in options.methods]
    every = [Finding(NotCached.METHOD, method) for method in refused]
    is_none = len(refused) == len({*methods} - _ASIDE)
    (certain if is_none else possible).extend(every)
    keyed = state.service.headers.identifying(keyed=True)
    if "authorization" not in keyed and not state.is_per_user:
        possible.append(Finding(NotCached.AUTHORIZATION))
    certain += _reads(state, view)
    return FunctionOutline(
        tuple(_key(state)),
        dict(_arguments(state)),
        tuple(map(for_view, certain)),
        tuple(map(for_view, possible)),
    )


def _reads(state: View, view: Callable[..., Any]) -> list[Finding]:
    """Return what the code of a view reads of its request beside the key."""
    code, name = code_of(view), state.request_name
    if not name or reads_beside(code, name, [(each,) for each in _ATTRIBUTES]):
        # It is handed on.
        return []
    terms = state.service.headers.terms
    guard = ViewGuard(HttpRequest(), terms, state.query, frozenset(), None, with_body=True)
    try:
        for word in _OF_CLIENT:
            others = [(each,) for each in _ATTRIBUTES if each != word]
            for read in reads_beside(code, name, others):
                is_header = read.kind == "header"
                guard.note(f"header.{read.name}" if is_header else _READS.get(word, word))
        return guard.findings(frozenset())
    finally:
        guard.end()


def _arguments(state: View) -> Iterator[tuple[str, Way]]:
    for name in state.arguments:
        if name in state.options.key_ignore:
            yield name, Way.KEY_IGNORE
        elif name in state.options.key_args:
            yield name, Way.KEY_ARGS
        else:
            yield name, Way.WHOLE


def _key(state: View) -> Iterator[str]:
    yield from ("method", "scheme")
    if state.options.key_host:
        yield "host"
    yield "path"
    yield "query" if state.query is None else f"query ({', '.join(sorted(state.query))})"
    if state.options.methods - {"GET"}:
        yield "body"
    for name in sorted(each.decode("latin-1") for each in state.service.headers.normalisers):
        yield f"header {name}"
    yield from ("language", "time zone")
    if state.is_per_user:
        yield "user"
