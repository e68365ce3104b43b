"""A request of Django that reports what is read of it.

The class of the request object itself is replaced for a while: the view, `self.request`, and the
request that Django REST Framework wraps all are that object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from django.http import HttpRequest

from stream_cached.django.observed_parts import (
    ObservedHeaders,
    ObservedMeta,
    host_read,
    observed_messages,
)
from stream_cached.django.observed_query import ObservedQuery
from stream_cached.django.users import finding_user, is_finding_user, observed_user

#: Where a request has those that observe it.
_WATCHES = "_stream_cached_watches"


class Watcher(Protocol):
    """Receives the reads of a request."""

    def note(self, name: str) -> None: ...

    def attribute(self, name: str, request: Any) -> None: ...
    def lacks(self, name: str) -> None: ...

    @property
    def is_outside(self) -> bool: ...

    @property
    def watches_query(self) -> bool: ...


#: What a read of an attribute is called; see the words of `unguarded=`.
_READS = {
    **dict.fromkeys(("auser", "successful_authenticator", "user"), "user"),
    **dict.fromkeys(("_acached_user", "_authenticator", "_cached_user", "_user"), "user"),
    **dict.fromkeys(("_auth", "auth"), "auth"),
    "get_port": "host",
    "method": "method",
    "session": "session",
    **dict.fromkeys(("COOKIES", "get_signed_cookie"), "cookies"),
    **dict.fromkeys(("build_absolute_uri", "get_host"), "host"),
    **dict.fromkeys(("_current_scheme_host", "_get_raw_host"), "host"),
    **dict.fromkeys(("FILES", "POST", "body", "data", "stream"), "body"),
    **dict.fromkeys(("read", "readline", "readlines", "_body", "_files", "_post"), "body"),
    **dict.fromkeys(("_stream", "_data", "_full_data"), "body"),
    **dict.fromkeys(("get_full_path", "get_full_path_info"), "query"),
    **dict.fromkeys(("__dict__", "environ", "scope"), "headers"),
    **dict.fromkeys(("accepted_type", "accepted_types", "accepts"), "header.accept"),
    **dict.fromkeys(("accepted_types_by_precedence", "get_preferred_type"), "header.accept"),
    **dict.fromkeys(("content_params", "content_type"), "header.content-type"),
    # Part of the key: what it is made of is not read by the view.
    **dict.fromkeys(("_get_scheme", "is_secure", "scheme"), ""),
}

#: Methods that share entries.
_SHARING = ("GET", "HEAD")

#: Attributes of which only a part may be read.
_MAPPINGS = frozenset({"GET", "META", "_messages", "headers", "query_params"})

#: Attributes that are part of the key by value, whatever has set them, and what reports itself.
_FREE = frozenset({"encoding", "path", "upload_handlers"})


class ObservedRequest:
    """The base class that observes; it precedes the request's own class."""

    def __getattribute__(self, name: str) -> Any:
        if name in _FREE or (name[:2] == "__" and name != "__dict__"):
            return super().__getattribute__(name)
        own = super().__getattribute__("__dict__")
        watches = [each for each in own.get(_WATCHES, ()) if not each.is_outside]
        if not watches or is_finding_user():
            return super().__getattribute__(name)
        if name in _MAPPINGS and (name != "_messages" or name in own):
            return _part(plain_request(self), name, watches)
        read = _READS.get(name)
        if read is not None:
            return _read_of(plain_request(self), name, read, watches)
        if name in own:
            for each in watches:
                each.attribute(name, self)
        try:
            return super().__getattribute__(name)
        except AttributeError:
            # Middleware may set it for others.
            for each in watches if isinstance(self, HttpRequest) else ():
                each.lacks(name)
            raise


def _read_of(plain: Any, name: str, read: str, watches: list[Watcher]) -> Any:
    value = getattr(plain, name)
    if name == "user" and isinstance(plain, HttpRequest):
        return observed_user(value, lambda: _note(watches, read))
    if name == "build_absolute_uri":
        _note(watches, "query")
    if name == "get_port":
        read = host_read(plain, "SERVER_PORT")
    if name != "method" or value in _SHARING:
        _note(watches, read)
    return finding_user(value) if name == "auser" else value


def _note(watches: list[Watcher], name: str) -> None:
    for each in watches if name else ():
        each.note(name)


def _part(plain: Any, name: str, watches: list[Watcher]) -> Any:
    note = functools.partial(_note, watches)
    if name == "headers":
        return ObservedHeaders(plain, note)
    if name == "META":
        return ObservedMeta(plain, note)
    if name == "_messages":
        return observed_messages(plain._messages, note)
    query = getattr(plain, name)
    if not any(each.watches_query for each in watches):
        return query
    return ObservedQuery(query, note)


@functools.lru_cache(maxsize=64)
def _observed_class(cls: Any) -> Any:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (ObservedRequest, cls), names)


@functools.lru_cache(maxsize=64)
def _plain_class(cls: Any) -> Any:
    return next(each for each in cls.__mro__[1:] if not issubclass(each, ObservedRequest))


def _class_for(request: Any, convert: Callable[[Any], Any]) -> Any:
    return convert(type(request))


def plain_request(request: Any) -> Any:
    """Return the same request as an object that reports nothing."""
    cls: Any = type(request)
    if not issubclass(cls, ObservedRequest):
        return request
    plain = object.__new__(_plain_class(cls))
    object.__setattr__(plain, "__dict__", own_attributes(request))
    return plain


def own_attributes(value: object) -> dict[str, Any]:
    """Return what `vars` does, unnoticed."""
    try:
        own: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return own


def _parts(request: Any) -> list[Any]:
    """Return the request, and the one that it wraps."""
    inner = own_attributes(request).get("_request")
    return [request] if inner is None else [request, *_parts(inner)]


def attributes_of(request: Any) -> Mapping[str, Any]:
    """Return what is set on a request, and on the one that it wraps."""
    found: dict[str, Any] = {}
    for each in _parts(request):
        found |= own_attributes(each)
    return found


def watches_of(request: Any) -> tuple[Watcher, ...]:
    """Return those that observe a request now."""
    watches: tuple[Watcher, ...] = attributes_of(request).get(_WATCHES, ())
    return watches


def observe(request: Any, watcher: Watcher) -> None:
    """Report the reads of a request, until `release`."""
    for each in _parts(request):
        own = own_attributes(each)
        own[_WATCHES] = (*own.get(_WATCHES, ()), watcher)
        if not isinstance(each, ObservedRequest):
            each.__class__ = _class_for(each, _observed_class)


def release(request: Any, watcher: Watcher) -> None:
    """Report no reads any more."""
    for each in _parts(request):
        own = own_attributes(each)
        left = tuple(other for other in own.get(_WATCHES, ()) if other is not watcher)
        own[_WATCHES] = left
        if not left:
            del own[_WATCHES]
            if isinstance(each, ObservedRequest):
                each.__class__ = _class_for(each, _plain_class)


def note_user(request: Any) -> None:
    """Tell the views around this one that its answer depends on the user."""
    for watch in watches_of(request):
        watch.note("user")
