"""A request of Django that reports what is read of it.

The class of the request object itself is replaced for a while: the view, `self.request`, and the
request that Django REST Framework wraps all are that object.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from django.http import HttpRequest, QueryDict
from django.http.request import HttpHeaders

from stream_cached.django.users import finding_user, is_finding_user, lazy_user
from stream_cached.request.observed import ABSENT, ObservedMapping

#: Where a request has those that observe it.
_WATCHES = "_stream_cached_watches"


class Watcher(Protocol):
    """Receives the reads of a request."""

    def note(self, name: str) -> None: ...

    def attribute(self, name: str) -> None: ...

    @property
    def is_outside(self) -> bool: ...

    @property
    def watches_query(self) -> bool: ...


#: What a read of an attribute is called; see the words of `unguarded=`.
_READS = {
    **dict.fromkeys(("auser", "successful_authenticator", "user"), "user"),
    **dict.fromkeys(("_acached_user", "_authenticator", "_cached_user", "_user"), "user"),
    **dict.fromkeys(("_auth", "auth"), "auth"),
    "session": "session",
    **dict.fromkeys(("COOKIES", "get_signed_cookie"), "cookies"),
    **dict.fromkeys(("build_absolute_uri", "get_host", "get_port"), "host"),
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

#: Attributes of which only a part may be read.
_MAPPINGS = frozenset({"GET", "META", "headers", "query_params"})

#: Attributes that are part of the key, equal for all clients, or what Django itself keeps there.
_COMMON = frozenset(
    {
        *("method", "path", "path_info", "resolver_match", "urlconf", "site", "LANGUAGE_CODE"),
        *("parsers", "authenticators", "negotiator", "parser_context", "accepted_media_type"),
        *("accepted_renderer", "version", "versioning_scheme", "encoding", "upload_handlers"),
        *("csrf_processing_done", "csrf_cookie_needs_reset", "csrf_cookie_needs_update"),
    }
)

#: Attributes that Django looks for, and that hardly any project sets.
_ABSENT = frozenset({"current_app"})

#: Names of META by what they tell.
_META = {
    "HTTP_HOST": "host",
    "HTTP_COOKIE": "cookies",
    "CONTENT_TYPE": "header.content-type",
    "CONTENT_LENGTH": "header.content-length",
    **dict.fromkeys(("QUERY_STRING", "RAW_URI", "REQUEST_URI"), "query"),
    **dict.fromkeys(("SERVER_NAME", "SERVER_PORT"), "host"),
    **dict.fromkeys(("REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT"), "client"),
    **dict.fromkeys(("AUTH_TYPE", "REMOTE_IDENT", "REMOTE_USER"), "user"),
    **dict.fromkeys(("CSRF_COOKIE", "CSRF_COOKIE_NEEDS_UPDATE"), "csrf"),
    "wsgi.input": "body",
}

#: Names of META that are part of the key, or the same for all requests.
_META_COMMON = frozenset(
    {
        *("GATEWAY_INTERFACE", "PATH_INFO", "REQUEST_METHOD", "SCRIPT_NAME", "SERVER_PROTOCOL"),
        *("SERVER_SOFTWARE", "wsgi.errors", "wsgi.file_wrapper", "wsgi.input_terminated"),
        *("wsgi.multiprocess", "wsgi.multithread", "wsgi.run_once", "wsgi.url_scheme"),
        "wsgi.version",
    }
)


def meta_read(name: str, value: object) -> str:
    """Return what the read of one name of META is called; an empty text if it tells nothing."""
    if name in _META_COMMON or (value is not ABSENT and os.environ.get(name) == value):
        return ""
    if name in _META:
        return _META[name]
    if name.startswith("HTTP_"):
        return f"header.{name[5:].replace('_', '-').lower()}"
    return f"request.META.{name}"


class ObservedHeaders(HttpHeaders):
    """Headers that report which of them are read."""

    def __init__(self, plain: HttpHeaders, note: Callable[[str], None]) -> None:
        self._store = plain._store
        self._plain = plain
        self._note = note

    def __getitem__(self, key: str) -> str:
        name = key.replace("_", "-").lower()
        self._note({"cookie": "cookies", "host": "host"}.get(name, f"header.{name}"))
        return self._plain[key]

    def __contains__(self, key: object) -> bool:
        try:
            self[str(key)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        self._note("headers")
        return iter(self._plain)

    def __len__(self) -> int:
        self._note("headers")
        return len(self._plain)

    def __repr__(self) -> str:
        self._note("headers")
        return repr(self._plain)

    def copy(self) -> ObservedHeaders:
        self._note("headers")
        return self


class ObservedRequest:
    """The base class that observes; it precedes the request's own class."""

    def __getattribute__(self, name: str) -> Any:
        is_special = name[:2] == "__" and name != "__dict__"
        if is_special or (name in _COMMON and not _is_of_project(self, name)):
            return super().__getattribute__(name)
        own = super().__getattribute__("__dict__")
        watches = [each for each in own.get(_WATCHES, ()) if not each.is_outside]
        if not watches or is_finding_user():
            return super().__getattribute__(name)
        if name in _MAPPINGS:
            return _part(plain_request(self), name, watches)
        read = _READS.get(name)
        if read is None:
            if name in own:
                for each in watches:
                    each.attribute(name)
            try:
                return super().__getattribute__(name)
            except AttributeError:
                _note_absent(self, name, watches)
                raise
        return _read_of(plain_request(self), name, read, watches)


def _note_absent(request: object, name: str, watches: list[Watcher]) -> None:
    # Middleware may set it for others.
    if isinstance(request, HttpRequest) and name not in _ABSENT and name[0] != "_":
        _note(watches, f"request.{name}")


def _read_of(plain: Any, name: str, read: str, watches: list[Watcher]) -> Any:
    value = getattr(plain, name)
    if name == "user" and isinstance(plain, HttpRequest):
        return lazy_user(value, lambda: _note(watches, read))
    if name == "build_absolute_uri":
        _note(watches, "query")
    _note(watches, read)
    return finding_user(value) if name == "auser" else value


def _is_of_project(request: object, name: str) -> bool:
    """Whether a name of REST Framework is on a request of Django, where it is middleware's own."""
    return name == "version" and isinstance(request, HttpRequest)


def _note(watches: list[Watcher], name: str) -> None:
    for each in watches if name else ():
        each.note(name)


def _part(plain: Any, name: str, watches: list[Watcher]) -> Any:
    note = functools.partial(_note, watches)
    if name == "headers":
        return ObservedHeaders(plain.headers, note)
    if name == "META":

        def item(key: str, value: Any) -> Any:
            if read := meta_read(key, value):
                note(read)
            return value

        return _ObservedMeta(plain.META, item, note)
    query = getattr(plain, name)
    if not any(each.watches_query for each in watches):
        return query
    return _ObservedQuery(query, note)


class _ObservedQuery:
    """A query that reports which names are read."""

    def __init__(self, plain: QueryDict, note: Callable[[str], None]) -> None:
        self._plain = plain
        self._note = note

    def _one(self, name: object) -> QueryDict:
        self._note(f"query.{name}")
        return self._plain

    def __getitem__(self, name: str) -> Any:
        return self._one(name)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._one(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self._one(name).get(name, default)

    def getlist(self, name: str, default: Any = None) -> Any:
        return self._one(name).getlist(name, default)

    def __iter__(self) -> Iterator[str]:
        self._note("query")
        return iter(self._plain)

    def __len__(self) -> int:
        self._note("query")
        return len(self._plain)

    def __getattr__(self, name: str) -> Any:
        self._note("query")
        return getattr(self._plain, name)


class _ObservedMeta(ObservedMapping):
    """META that reports its reads."""

    def __init__(
        self, plain: Any, item: Callable[[str, Any], Any], note: Callable[[str], None]
    ) -> None:
        super().__init__(plain, item)
        self._note = note

    def __setitem__(self, name: str, value: Any) -> None:
        # Who sets it hands a token out.
        if name.startswith("CSRF_COOKIE"):
            self._note("csrf")
        super().__setitem__(name, value)


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
