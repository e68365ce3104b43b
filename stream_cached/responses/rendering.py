"""What the endpoint of a FastAPI route returns, as the response that FastAPI makes of it.

FastAPI makes it by a *twin* of the route: a route with the same response model, response class and
status, whose endpoint gives back what the real endpoint has returned. FastAPI is imported only for
a request that came by one of its routes. `rendered_items` has the twin of a generator's route.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stream_cached.endpoint.function import Endpoint
from stream_cached.endpoint.route import Handler, Handlers
from stream_cached.http.headers import without
from stream_cached.request.observed import plain_scope
from stream_cached.request.rendered import OF_ROUTE
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.produced import Produced, produced
from stream_cached.responses.told import is_kept_out

#: The item of a twin's scope that holds what its endpoint gives back.
GIVEN = "stream_cached.given"

#: The directory of the library.
_PACKAGE = str(Path(__file__).parents[1])

#: The headers that a response class sets first.
_OF_BODY = (b"content-length", b"content-type")


@dataclass(frozen=True, slots=True)
class Given:
    """What an endpoint has returned, and what it has put on the Response that it was given."""

    value: Any
    status: int | None
    headers: RawHeaders


class Twins:
    """The twins of the routes of one endpoint. Each lives as long as its route."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._handlers = Handlers(self._handler)

    def handler(self, route: Any) -> Handler:
        """Return the request handler of a route's twin."""
        return self._handlers.of(route)

    def _handler(self, route: Any) -> Handler:
        handler: Handler = twin_of(route, self._give()).get_route_handler()
        return handler

    def _give(self) -> Callable[..., Any]:
        """Return the endpoint of a twin."""
        give = _give_at_once if self._endpoint.is_async else _give
        function = self._endpoint.function
        return give(getattr(function, "__name__", type(function).__name__))

    async def render(self, route: Any, scope: Any, given: Given) -> Response:
        """Return what FastAPI makes of a value, or raise what FastAPI raises."""
        with self.placing(), _told_as_serialization(self._endpoint.function):
            return await self.handler(route)(Request({**scope, GIVEN: given}))

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Let the errors of FastAPI within name the place of the endpoint."""
        from fastapi.exceptions import ResponseValidationError

        try:
            yield
        except ResponseValidationError as exc:
            name_place(exc, self._endpoint)
            raise


def name_place(error: Any, endpoint: Endpoint) -> None:
    """Let an error of FastAPI name the place of an endpoint, and not of a wrapper or twin."""
    # It may be the error of another endpoint that this one has called.
    if not (getattr(error, "endpoint_file", None) or "").startswith(_PACKAGE):
        return
    function = inspect.unwrap(endpoint.function)
    try:
        file, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return
    error.endpoint_file, error.endpoint_line = file, line
    error.endpoint_ctx = {**(error.endpoint_ctx or {}), "file": file, "line": line}


@functools.cache
def _telemetry() -> Any:
    """Return the module of FastAPI's telemetry; None for a version without one."""
    try:
        from fastapi.telemetry import _api
    except ImportError:
        return None
    is_known = hasattr(_api, "_operation") and hasattr(_api, "_REQUEST_TELEMETRY_KEY")
    return _api if is_known else None


@contextmanager
def _told_as_serialization(function: Any) -> Iterator[None]:
    """Let FastAPI's telemetry see what a twin does as the serialization by its route."""
    telemetry = _telemetry()
    if telemetry is None:
        yield
        return
    with telemetry._operation(name="serialization", function=function), untold():
        yield


@contextmanager
def untold() -> Iterator[None]:
    """Let FastAPI's telemetry see nothing of the request of a twin."""
    telemetry = _telemetry()
    if telemetry is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(context.set_value(telemetry._REQUEST_TELEMETRY_KEY, None))
    try:
        yield
    finally:
        context.detach(token)


def twin_of(route: Any, give: Callable[..., Any]) -> Any:
    """Return a route that renders as another one does what an endpoint gives it."""
    from fastapi.routing import APIRoute

    return APIRoute(
        route.path,
        give,
        # It is in no schema, and a function for ids may not know such a route.
        generate_unique_id_function=lambda twin: str(twin.name),
        **{each: getattr(route, each) for each in OF_ROUTE},
    )


def _give(name: str) -> Callable[[Request, Response], Any]:
    def give(request: Request, response: Response) -> Any:
        return take_given(request, response)

    give.__name__ = name
    return give


def _give_at_once(name: str) -> Callable[[Request, Response], Any]:
    # FastAPI validates what a coroutine function returns without a thread.
    async def give(request: Request, response: Response) -> Any:
        return take_given(request, response)

    give.__name__ = name
    return give


def take_given(request: Request, response: Response) -> Any:
    """Take over what an endpoint has put on its Response, and return what it has returned."""
    given: Given = request.scope[GIVEN]
    if given.status is not None:
        response.status_code = given.status
    response.headers.raw.extend(given.headers)
    return given.value


class Rendering:
    """
    How FastAPI would answer one request with what its endpoint returns.

    Args:
        twins: The twins of the endpoint's routes.
        route: The route of the request.
        request: The request.
        injected: The Response that FastAPI has passed to the dependencies of the request, and will
            pass to the endpoint.
    """

    #: Headers that each answer is sent, and that are not stored.
    of_class: RawHeaders = ()

    def __init__(self, twins: Twins, route: Any, request: Any, injected: Response) -> None:
        self._twins = twins
        self._route = route
        self._scope = plain_scope(request.scope)
        self._injected = injected
        #: The status that the dependencies have set, if they have.
        self.status: int | None = injected.status_code
        self._before = tuple(injected.raw_headers)
        # What the endpoint has left of them, if it ran for this request.
        self._kept: list[tuple[bytes, bytes]] | None = None

    @property
    def is_kept_out(self) -> bool:
        """Whether the endpoint keeps its answer out of the cache."""
        return is_kept_out(self._injected)

    async def produce(self, value: Any) -> Produced:
        """Return the response that FastAPI makes of what the endpoint has returned."""
        after = self._injected.raw_headers
        added = _without(after, self._before)
        self._kept = _without(after, added)
        given = Given(value, self._injected.status_code, added)
        made = produced(await self._twins.render(self._route, self._scope, given))
        assert made is not None
        gone = _without(self._before, self._kept)
        return replace(
            made,
            replaces=tuple(dict.fromkeys(_name(name) for name, _ in gone)),
            beside=self.shared(self._kept),
            is_declared=made.status == self._route.status_code and made.status < 300,
        )

    @staticmethod
    def shared(headers: RawHeaders) -> RawHeaders:
        """Leave out the cookies: each client is sent its own."""
        return without(headers, {b"set-cookie"})

    def merged(self, headers: RawHeaders, replaces: Sequence[str]) -> RawHeaders:
        """Add what the dependencies of this request have put on its Response."""
        own = self._kept
        if own is None:
            own = [field for field in self._before if _name(field[0]) not in replaces]
        own = [*self.of_class, *own]
        if not own:
            return headers
        # FastAPI sends them after those of the body, and before those that the endpoint has added.
        of_body = itertools.takewhile(lambda field: field[0].lower() in _OF_BODY, headers)
        at = len(list(of_body))
        return [*headers[:at], *own, *headers[at:]]

    def add(self, header: tuple[bytes, bytes]) -> None:
        """Let FastAPI send a header with a value that it renders itself."""
        self._injected.raw_headers.append(header)


def _name(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _without(
    fields: Sequence[tuple[bytes, bytes]], others: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Return the fields that are not among the others, each of which counts once."""
    left, kept = list(others), []
    for field in fields:
        if field in left:
            left.remove(field)
        else:
            kept.append(field)
    return kept
