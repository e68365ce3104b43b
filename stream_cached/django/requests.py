"""A request of Django, as the cache looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, QueryDict
from django.http.request import RawPostDataException
from starlette.requests import Request
from starlette.types import Message, Scope

from stream_cached.django.observed import own_attributes, plain_request, watches_of
from stream_cached.request.incoming import Incoming, Normalisers
from stream_cached.request.peek import MAX_REQUEST_BODY

#: Stands for the method among the names of headers that select a response.
METHOD = "request-method"

#: Headers that have names of their own in META.
_UNPREFIXED = {"CONTENT_TYPE": b"content-type", "CONTENT_LENGTH": b"content-length"}


def find_request(args: tuple[Any, ...]) -> int | None:
    """Return the place of the request among arguments: the first one, or that after `self`."""
    for place, value in enumerate(args[:2]):
        if isinstance(value, HttpRequest) or is_wrapped(value):
            return place
    return None


def is_wrapped(request: object) -> bool:
    """Whether it is a request of Django REST Framework."""
    return isinstance(own_attributes(request).get("_request"), HttpRequest)


def inner_request(request: Any) -> HttpRequest:
    """Return Django's own request, without what observes it."""
    plain = plain_request(request)
    inner: HttpRequest = plain_request(plain._request) if is_wrapped(plain) else plain
    return inner


def are_same(one: Any, other: Any) -> bool:
    """Whether two mappings or sequences have the very same values."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(one[name] is other[name] for name in one)
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def changed_query(request: Any) -> dict[str, Any]:
    """Return the parameters of the query, where they are not those of the URL any more."""
    inner = inner_request(request)
    found = vars(inner).get("GET")
    if found is None:
        return {}
    given = QueryDict(inner.META.get("QUERY_STRING", ""), encoding=found.encoding)
    lists = [[name, values] for name, values in found.lists()]
    return {} if lists == [[name, values] for name, values in given.lists()] else {"GET": lists}


def is_of_server_loop(request: HttpRequest) -> bool:
    """Whether an ASGI server has made it."""
    return isinstance(request, ASGIRequest)


class DjangoConnection(Request):
    """A request of Django, as one of Starlette."""

    def __init__(self, scope: Scope, request: Any) -> None:
        super().__init__(scope, self._next_message)
        self.django = request
        self.place: Any = None
        """Where its view runs."""
        self.failed_body = False
        """Whether the body can't be part of the key: it is read already, or too large."""
        self.body_at_hand = b""

    async def _next_message(self) -> Message:
        # Of a body that is too large, nothing more than that is of interest.
        body = b"\0" * (MAX_REQUEST_BODY + 1) if self.failed_body else self.body_at_hand
        return {"type": "http.request", "body": body, "more_body": False}

    def read_body(self) -> None:
        """Read the body, in the thread of the request, as the view would."""
        request = inner_request(self.django)
        try:
            is_large = int(request.META.get("CONTENT_LENGTH") or 0) > MAX_REQUEST_BODY
        except ValueError:
            is_large = True
        if is_large:
            self.failed_body = True
            return
        try:
            self.body_at_hand = request.body
        except RawPostDataException:
            self.failed_body = True


def connection_of(request: Any) -> DjangoConnection:
    """Return a request of Django, as one of Starlette."""
    return DjangoConnection(scope_of(inner_request(request)), request)


def scope_of(request: HttpRequest) -> Scope:
    """Return a request as an ASGI scope, with the headers that middleware has left."""
    meta = request.META
    server = getattr(request, "scope", {})
    version = meta.get("SERVER_PROTOCOL", "").removeprefix("HTTP/")
    return {
        "type": "http",
        # From this version on, `send` would have to raise where the client has left.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": server.get("http_version") or version or "1.1",
        "method": request.method or "GET",
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": b"",
        "root_path": meta.get("SCRIPT_NAME", ""),
        "query_string": meta.get("QUERY_STRING", "").encode("utf-8", "surrogateescape"),
        "headers": list(_headers(request, meta)),
        "client": None,
        "server": (meta.get("SERVER_NAME", ""), meta.get("SERVER_PORT", "")),
    }


def _headers(request: HttpRequest, meta: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    headers = []
    for name, value in meta.items():
        if name.startswith("HTTP_"):
            if name == "HTTP_HOST":
                continue
            key = name[5:].replace("_", "-").lower().encode("latin-1", "replace")
        elif name in _UNPREFIXED and value:
            key = _UNPREFIXED[name]
        else:
            continue
        headers.append((key, str(value).encode("latin-1", "replace")))
    if "SERVER_NAME" in meta or "HTTP_HOST" in meta:
        # A proxy may have said the host.
        headers.append((b"host", cast(Any, request)._get_raw_host().encode("latin-1", "replace")))
    return headers


class DjangoIncoming(Incoming):
    """A request of Django that reached the decorator, which may select by its method, too."""

    is_inner = False

    @property
    def is_of_another_call(self) -> bool:
        """Whether the view around this one is cached, whose answer is made of this one."""
        return self.is_inner

    def _value(self, name: str) -> bytes | list[bytes] | str | None:
        return str(self.scope["method"]) if name == METHOD else super()._value(name)


def incoming_of(
    connection: DjangoConnection, normalisers: Normalisers, *, refresh: Any, ignored: Any
) -> Incoming:
    """Return the request, as the cache looks at it. Views around this one depend on what it is."""
    incoming = DjangoIncoming(connection, normalisers, refresh, ignored)
    watches = watches_of(connection.django)
    incoming.is_inner = bool(watches)
    for watch in watches:
        for name in normalisers:
            watch.note(f"header.{name.decode('latin-1')}")
        watch.note("host")
    return incoming
