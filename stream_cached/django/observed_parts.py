"""The parts of a request of Django that report what is read of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from django.http import HttpRequest
from django.http.request import HttpHeaders

from stream_cached.request.observed import ABSENT, ObservedMapping

Note = Callable[[str], None]

#: Names of META by what they tell.
_META = {
    "HTTP_COOKIE": "cookies",
    "CONTENT_TYPE": "header.content-type",
    "CONTENT_LENGTH": "header.content-length",
    "QUERY_STRING": "query",
    **dict.fromkeys(("REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT"), "client"),
    **dict.fromkeys(("AUTH_TYPE", "REMOTE_IDENT", "REMOTE_USER"), "user"),
    **dict.fromkeys(("CSRF_COOKIE", "CSRF_COOKIE_NEEDS_UPDATE"), "csrf"),
}

#: Names of META that are part of the key, or the same for all requests.
_META_COMMON = frozenset(
    {
        *("GATEWAY_INTERFACE", "PATH_INFO", "SCRIPT_NAME", "SERVER_SOFTWARE", "wsgi.errors"),
        *("wsgi.file_wrapper", "wsgi.input_terminated", "wsgi.multiprocess", "wsgi.multithread"),
        *("wsgi.run_once", "wsgi.version"),
    }
)


def meta_read(request: Any, name: str, value: object) -> str:
    """Return what the read of one name of META is called; an empty text if it tells nothing."""
    if name in _META_COMMON:
        return ""
    if name in _META:
        return _META[name]
    if name == "HTTP_HOST" or name in ("SERVER_NAME", "SERVER_PORT"):
        return host_read(request, name)
    if name == "REQUEST_METHOD" and value == request.method:
        return "method"
    if name == "wsgi.url_scheme" and value == request.scheme:
        return ""
    if name.startswith("HTTP_"):
        return f"header.{name[5:].replace('_', '-').lower()}"
    if value is not ABSENT and os.environ.get(name) == value:
        return ""
    return f"request.META.{name}"


def host_read(request: HttpRequest, name: str) -> str:
    """Return what the read of a name of META is called from which the host may come."""
    meta = request.META
    is_host = _raw_host(request) == meta.get("HTTP_HOST")
    # Without the header, the host consists of the other two.
    is_keyed = is_host if name == "HTTP_HOST" else "HTTP_HOST" not in meta and not _is_proxied(meta)
    return "host" if is_keyed else f"request.META.{name}"


def _is_proxied(meta: Any) -> bool:
    return "HTTP_X_FORWARDED_HOST" in meta or "HTTP_X_FORWARDED_PORT" in meta


def _raw_host(request: Any) -> object:
    try:
        return request._get_raw_host()
    except KeyError:
        return None


class ObservedHeaders(HttpHeaders):
    """Headers that report which of them are read."""

    def __init__(self, request: Any, note: Note) -> None:
        self._request = request
        self._plain = request.headers
        self._note = note

    @property
    def _store(self) -> Any:  # type: ignore[override]
        self._note("headers")
        return self._plain._store

    def __getitem__(self, key: str) -> str:
        name = key.replace("_", "-").lower()
        if name == "host":
            self._note(host_read(self._request, "HTTP_HOST"))
        else:
            self._note("cookies" if name == "cookie" else f"header.{name}")
        return self._plain[key]  # type: ignore[no-any-return]

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


class ObservedMeta(ObservedMapping, dict[str, Any]):  # type: ignore[misc]
    """META that reports its reads. Nothing of it is kept in the dict itself."""

    def __init__(self, request: Any, note: Note) -> None:
        def item(key: str, value: Any) -> Any:
            if read := meta_read(request, key, value):
                note(read)
            return value

        super().__init__(request.META, item)
        self._note = note
        # The encoder of JSON takes an empty dict for what it seems to be.
        dict.__setitem__(self, "", None)

    def __setitem__(self, name: str, value: Any) -> None:
        # Who sets it hands a token out.
        if name.startswith("CSRF_COOKIE"):
            self._note("csrf")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.copy())

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)


class _ObservedMessages:
    """The base class that observes messages; it precedes the class of their storage."""

    __slots__ = ("_stream_cached_note",)
    _stream_cached_note: Note

    def __len__(self) -> int:
        self._stream_cached_note("messages")
        return super().__len__()  # type: ignore[misc,no-any-return]

    def __iter__(self) -> Iterator[Any]:
        self._stream_cached_note("messages")
        return super().__iter__()  # type: ignore[misc,no-any-return]

    def __contains__(self, item: object) -> bool:
        self._stream_cached_note("messages")
        return super().__contains__(item)  # type: ignore[misc,no-any-return]

    def __repr__(self) -> str:
        self._stream_cached_note("messages")
        return super().__repr__()

    def __getattribute__(self, name: str) -> Any:
        if name in _OF_MESSAGES:
            object.__getattribute__(self, "_stream_cached_note")("messages")
        return super().__getattribute__(name)


#: Attributes that have the messages.
_OF_MESSAGES = frozenset(
    {"__dict__", "_loaded_data", "_loaded_messages", "_queued_messages", "add", "used"}
)


@functools.lru_cache(maxsize=64)
def _messages_class(cls: Any) -> Any:
    return type(cls.__name__, (_ObservedMessages, cls), {"__module__": cls.__module__})


def observed_messages(storage: Any, note: Note) -> Any:
    """Return the messages for one client, to be reported once they are read."""
    if isinstance(storage, _ObservedMessages) or not hasattr(type(storage), "_loaded_messages"):
        note("messages")
        return storage
    kind: Any = type(storage)
    observed = object.__new__(_messages_class(kind))
    object.__setattr__(observed, "_stream_cached_note", note)
    # The storage itself, which a middleware stores later, has the same attributes.
    object.__setattr__(observed, "__dict__", vars(storage))
    return observed
