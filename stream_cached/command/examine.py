"""What doctor says of one endpoint, and of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stream_cached.command.routes import FoundRoute, name_of, streams
from stream_cached.command.said import Said
from stream_cached.command.settings import Store, store_of, ttl_of
from stream_cached.command.warned import Warned
from stream_cached.decorated.function import Decorated
from stream_cached.decorated.outline import FunctionOutline, outline_of
from stream_cached.decorated.wrapping import decorated_of
from stream_cached.endpoint.function import place_of
from stream_cached.endpoint.known import reporter_of
from stream_cached.endpoint.signatures import bare_function
from stream_cached.errors import ConfigurationError
from stream_cached.http.reasons import Finding
from stream_cached.lifespan import PASSED_OVER

#: The words of doctor's own findings, beside those of Cache-Status.
ABOVE, CONFIGURATION, WARNING = "above-route", "configuration", "warning"

#: Those of its own notes.
LATER, UNSEEN = "store-later", "unseen"

_LATER = (
    "its cache is set up when the application starts, so that its store can't be seen here",
    "set the cache up where its module is imported, to have it looked at",
)


@dataclass(frozen=True)
class Endpoint:
    """A decorated endpoint."""

    path: str
    methods: tuple[str, ...]
    name: str
    place: str
    store: Store | None = None
    ttl: str = ""
    key: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Said, ...] = ()
    """What is wrong."""
    notes: tuple[Said, ...] = ()
    """What depends on the request."""


@dataclass(frozen=True)
class Undecorated:
    """An endpoint without the decorator that returns a stream."""

    path: str
    methods: tuple[str, ...]
    name: str
    place: str


@dataclass(frozen=True)
class Pinged:
    """A store that was asked whether it answers."""

    address: str
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Examined:
    """All that doctor says."""

    endpoints: tuple[Endpoint, ...]
    undecorated: tuple[Undecorated, ...]
    routes: int
    settings: tuple[Said, ...] = ()
    notes: tuple[Said, ...] = ()
    stores: tuple[Pinged, ...] = ()
    """The stores that were asked whether they answer."""

    @property
    def has_findings(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.settings) or any(each.findings for each in self.endpoints)


def examined(found: Iterable[FoundRoute], warned: Warned) -> Examined:
    """Return what is to be said of the routes of an application."""
    endpoints: list[Endpoint] = []
    undecorated: list[Undecorated] = []
    routes = list(found)
    for route in routes:
        function = function_of(route.endpoint)
        if function is not None:
            endpoints.append(_endpoint(route, function, warned))
        elif reporter_of(bare_function(route.endpoint)) is not None:
            endpoints.append(_passed_over(route))
        elif streams(route):
            undecorated.append(Undecorated(*_where(route)))
    return Examined((*endpoints,), (*undecorated,), len(routes))


def function_of(endpoint: Any) -> Decorated | None:
    """Return the decorated function that an endpoint is, or calls by way of other decorators."""
    return decorated_of(endpoint) or decorated_of(bare_function(endpoint))


def _where(route: FoundRoute) -> tuple[str, tuple[str, ...], str, str]:
    endpoint = bare_function(route.endpoint)
    return route.path, route.methods, name_of(endpoint), place_of(endpoint)


def _endpoint(route: FoundRoute, function: Decorated, warned: Warned) -> Endpoint:
    own = function.endpoint
    where = (route.path, route.methods, own.name, own.place)
    told = [Said.warned(text, WARNING) for text in warned.of(own.name, own.place)]
    try:
        store = store_of(function.hooks, function.decorator)
        ttl = ttl_of(function.hooks, function.decorator, store)
        outline = outline_of(
            function,
            route.scope,
            route.methods,
            instance=getattr(route.endpoint, "__self__", None),
            is_bound=store is not None,
        )
    except ConfigurationError as exc:
        wrong = Said.warned(str(exc), CONFIGURATION)
        return Endpoint(*where, findings=(*told, wrong))
    # What is found here comes from the application, which may raise anything.
    except Exception as exc:
        unseen = Said(UNSEEN, f"it could not be looked at ({type(exc).__name__})", "")
        return Endpoint(*where, findings=(*told,), notes=(unseen,))
    return described(where, store, ttl, outline, told)


def described(
    where: tuple[str, tuple[str, ...], str, str],
    store: Store | None,
    ttl: str,
    outline: FunctionOutline,
    told: Iterable[Said] = (),
) -> Endpoint:
    """Return what is to be said of a decorated function or view."""
    later = () if store is not None else (Said(LATER, *_LATER),)
    return Endpoint(
        *where,
        store=store,
        ttl=ttl,
        key=outline.key,
        arguments={name: way.value for name, way in outline.arguments.items()},
        findings=(*told, *_once(outline.certain)),
        notes=(*later, *_once(outline.possible)),
    )


def _once(findings: Iterable[Finding]) -> Iterator[Said]:
    return iter(dict.fromkeys(map(Said.of, findings)))


def _passed_over(route: FoundRoute) -> Endpoint:
    return Endpoint(*_where(route), findings=(Said(ABOVE, *PASSED_OVER),))
