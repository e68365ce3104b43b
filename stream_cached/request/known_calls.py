"""The keys of calls that were made before, by all that they are made of.

A key is made of a request, of arguments, of what the function holds, and of the application. Where
all of these are what they were, so is the key, and it need not be made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from operator import itemgetter
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.declarations import declarations
from stream_cached.endpoint.function import Endpoint
from stream_cached.endpoint.startup import own_names
from stream_cached.http.qvalues import accepts_coding
from stream_cached.keys.canonical import EXACT
from stream_cached.keys.references import Reference, reference_to
from stream_cached.request.context import ContextWatch
from stream_cached.request.incoming import DECIDING, Normalisers, Selected, selected_by
from stream_cached.request.kept import FRESH, replaced_parts
from stream_cached.request.key_parts import Cache, KeyParts


def _nothing() -> None:
    return None


#: What of the scope is part of the key of a plain request as it is, and whether it may have a body.
_OF_SCOPE = ("method", "scheme", "raw_path", "path", "root_path", "query_string", "http_version")
_all_of_scope: Callable[[Scope], tuple[object, ...]] = itemgetter(*_OF_SCOPE)

_make = tuple.__new__

_NONE: Selected = {}
_NO_VALUES: tuple[object, ...] = ()

#: How many keys of one function are remembered, and how many kinds of calls.
MOST_KEYS = 1000
_MOST_KINDS = 100

_TEXTS = frozenset({str, bytes})

#: How long all texts may be that a key is made of, for it to be remembered.
MOST_CHARACTERS = 16_000


@dataclass(slots=True)
class _Kind:
    """Calls whose arguments have the same names and classes."""

    request: int
    """Which of the values is the request; -1 if a call needs a closer look."""
    injected: int | None = None
    """Which one is the Response that FastAPI has passed."""
    cls: type = object
    """The class of the first positional argument."""
    in_key: Callable[[tuple[Any, ...]], tuple[object, ...]] | None = None
    """Returns those that are part of the key."""


_UNUSUAL = _Kind(-1)


@dataclass(slots=True)
class _Around:
    """Where a plain request came in, and what that adds to a key."""

    # A reference to what is gone returns None.
    app: Callable[[], Any]
    router: Reference
    cls: type
    parts: tuple[object, ...]
    routes: int = 0
    """How many routes its application had: another one may render otherwise."""
    holds: Callable[[], bool] | None = None
    """Whether its application is still what it was; None for a cache of this process."""

    def is_that_of(self, cls: type, scope: Scope) -> bool:
        """Whether another plain request came in at the same place."""
        app: Any = scope.get("app")
        return (
            app is not None
            and self.app() is app
            and self.router() is scope.get("router")
            and self.cls is cls
            and len(app.routes) == self.routes
            and not getattr(app, "dependency_overrides", None)
            and (self.holds is None or self.holds())
        )


@dataclass(slots=True)
class Known:
    """A call whose key is known."""

    key: str
    is_get: bool
    """Whether it is a GET, and has no body unless its headers say so."""
    ready: Callable[[], Any] = _nothing
    """Returns what is ready to answer it."""


class Seen(NamedTuple):
    """A call that a look at its request and its arguments is enough for."""

    request: Request
    lines: Mapping[bytes, bytes]
    """Its headers."""
    injected: Response | None
    """The Response that FastAPI has passed."""
    selected: Selected
    """The headers in its key."""
    place: tuple[tuple[object, ...], ...]
    """All that its key is made of."""
    known: Known | None
    """What is known of it."""

    def plain_key(self) -> str:
        """Return its key if it says nothing of how it is to be answered; empty if it does."""
        known = self.known
        return known.key if known and known.is_get and DECIDING.isdisjoint(self.lines) else ""

    @property
    def accepts_coding(self) -> bool:
        """Whether it accepts another content coding than identity."""
        line = self.lines.get(b"accept-encoding")
        return line is not None and accepts_coding([line])


class KnownCalls:
    """
    The calls of one function whose keys are remembered.

    Args:
        endpoint: The function.
        arguments: Its arguments.
        context: Its context variables.
        parts: What its keys have beside the request.
        host: Whether the host is part of its keys.
    """

    keeps_place = True
    """Whether what a place adds to a key is remembered: it depends on the kind of the cache."""

    def __init__(
        self,
        endpoint: Endpoint,
        arguments: Arguments,
        context: ContextWatch,
        parts: KeyParts,
        *,
        host: bool,
    ) -> None:
        self._endpoint = endpoint
        self._arguments = arguments
        self._context = context
        self._parts = parts
        self._held = parts.identity.fingerprint if parts.identity.holds_anything else None
        self._host = host
        self._are_plain = not (endpoint.injects or context.is_in_key)
        self.keys: dict[tuple[tuple[object, ...], ...], Known] = {}
        """The keys, by all that they are made of."""
        self._around: _Around | None = None
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._declared = 0
        """How many declarations there were when the kinds were noted."""

    def look(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], vary: Normalisers, cache: Cache
    ) -> Seen | None:
        """
        Look at a call. Return None for one that needs a closer look.

        Args:
            args: Its positional arguments.
            kwargs: Its keyword arguments, with those that the decorator has added.
            vary: The headers in the key, and what normalises their values.
            cache: Where its entry is.

        Raises:
            BypassError: It is not for the cache.
        """
        values = (*args, *kwargs.values()) if kwargs else args
        shape = (len(args), *kwargs, *map(type, values)) if kwargs else tuple(map(type, args))
        if self._declared != declarations.count:
            self._kinds, self._declared = {}, declarations.count
        kind = self._kinds.get(shape) or self._note_kind(shape, args, kwargs)
        if kind.request < 0:
            return None
        request: Request = values[kind.request]
        scope = request.scope
        if type(scope) is not dict or own_names(scope):
            return None
        headers, injected = scope["headers"], None
        # Hardly any request has two lines of one header. ASGI wants lower-cased names, but not
        # every middleware complies. An iterator, which can be read once, has no length.
        if len(headers) != len(lines := dict(headers)) or not b"".join(lines).islower():
            return None
        is_fresh = FRESH.issuperset(kept := request.__dict__) and not kept.get("_form")
        if not is_fresh and replaced_parts(request, scope, has_body=False):
            return None
        if kind.injected is not None and (injected := values[kind.injected]).status_code:
            # A status that a dependency has set may be part of the key.
            return None
        around = self._around
        if around is None or not self.keeps_place or not around.is_that_of(kind.cls, scope):
            around = self._look_around(kind.cls, scope, cache)
        held = _NO_VALUES if self._held is None else self._held()
        host = lines.get(b"host") if self._host else b""
        if host is None or held is None or around is None:
            return None
        selected = selected_by(vary, partial(_values, lines)) if vary else _NONE
        parameters = scope.get("path_params") or _NONE
        place = (
            _of_scope(scope),
            (host, scope.get("app_root_path")),
            (*parameters, *parameters.values(), *map(type, parameters.values())),
            kind.in_key(values) if kind.in_key else _NO_VALUES,
            (*map(_hashable, selected.values()),) if selected else _NO_VALUES,
            shape,
            around.parts,
            held,
        )
        if (known := self.keys.get(place)) is not None:
            self._context.look()
        # Not by its constructor: each hit comes here.
        return _make(Seen, (request, lines, injected, selected, place, known))

    def note(self, seen: Seen, key: str) -> None:
        """Remember the key of a call."""
        # Another thread may have changed what the function holds before the key was made.
        if self._held is not None and self._held() != seen.place[-1]:
            return
        scope = seen.request.scope
        length = _length([*chain.from_iterable(seen.place)])
        length += sum(map(_length, seen.selected.values()))
        if length > MOST_CHARACTERS or not EXACT.issuperset(
            map(type, scope.get("path_params", _NONE).values())
        ):
            return
        if len(self.keys) >= MOST_KEYS:
            # Another thread may make room at the same time.
            with contextlib.suppress(KeyError, RuntimeError, StopIteration):
                del self.keys[next(iter(self.keys))]
        # In HTTP/2, a body need not be announced.
        is_announced = scope.get("http_version", "1.1").startswith("1.")
        self.keys[seen.place] = Known(key, scope["method"] == "GET" and is_announced)

    def _note_kind(
        self, shape: tuple[object, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Kind:
        """Look at the names and the classes of the arguments of a call."""
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        kind = self._kinds[shape] = self._kind(args, kwargs) if self._are_plain else _UNUSUAL
        return kind

    def _kind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Kind:
        request, own = self._endpoint.take_request(args, kwargs)
        injected, own = self._endpoint.take_response(own)
        values = (*args, *kwargs.values())
        in_key = self._arguments.in_key_as_they_are(args, own)
        has_one = type(request) is Request and [*map(type, values)].count(Request) == 1
        if in_key is None or not has_one:
            return _UNUSUAL
        addresses = [*map(id, values)]
        # The decorator's own arguments are not among those of the function.
        given, of_function = [*range(len(args)), *kwargs], [*range(len(args)), *own]
        return _Kind(
            addresses.index(id(request)),
            None if injected is None else addresses.index(id(injected)),
            type(args[0]) if args else object,
            _picking([given.index(of_function[index]) for index in in_key]),
        )

    def _look_around(self, cls: type, scope: Scope, cache: Cache) -> _Around | None:
        """Look at the place where a request came in; None for what is rare."""
        rare, application = self._parts.around(cls, scope, cache)
        if rare:
            return None
        app: Any = scope.get("app")
        router, parts = scope.get("router"), (*application.items(),)
        is_lasting = (
            router is not None
            and app is not None
            and self.keeps_place
            and not getattr(app, "dependency_overrides", None)
            and self._parts.is_alike(app)
        )
        if not is_lasting:
            return _Around(_nothing, _nothing, cls, parts)
        holds = self._parts.holding(scope, cache)
        around = self._around = _Around(
            reference_to(app), reference_to(router), cls, parts, len(app.routes), holds
        )
        return around


def _of_scope(scope: Scope) -> tuple[object, ...]:
    try:
        return _all_of_scope(scope)
    # Not every server or test sends all of them.
    except KeyError:
        return tuple(map(scope.get, _OF_SCOPE))


def _picking(places: list[int]) -> Callable[[tuple[Any, ...]], tuple[object, ...]] | None:
    """Return what picks the values at some places; None for no place."""
    if len(places) == 1:
        return lambda values: (values[places[0]],)
    return itemgetter(*places) if places else None


def _values(lines: Mapping[bytes, bytes], name: bytes) -> list[bytes]:
    return [lines[name]] if name in lines else []


def _hashable(selected: bytes | list[bytes]) -> bytes | tuple[bytes, ...]:
    return selected if isinstance(selected, bytes) else tuple(selected)


def _length(values: Sequence[Any]) -> int:
    """Return the length of all texts among some values, without a loop in Python."""
    are_texts = map(_TEXTS.__contains__, map(type, values))
    return sum(map(len, compress(values, are_texts)))
