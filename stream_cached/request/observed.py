"""A request, its headers and its scope that say what is read of them.

A watched request is of a subclass of the original's class, over the same `__dict__`: a new Request
would wait for ever for a body that has been read.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol, cast

from starlette.datastructures import URL, Headers, MutableHeaders, State
from starlette.requests import HTTPConnection
from starlette.types import Scope

from stream_cached.keys.canonical import slot_names

#: What stands for a name that is not there.
ABSENT = object()


class Watch(Protocol):
    """Who is told."""

    @property
    def request(self) -> HTTPConnection:
        """The request itself."""
        ...

    scope: Scope
    """Its scope, watched."""

    @property
    def headers(self) -> Headers:
        """Its headers, watched."""
        ...

    @property
    def state(self) -> State:
        """Its state, watched."""
        ...

    def note(self, name: str) -> None:
        """Notice that something was read: "cookies", "client", "headers" as a whole."""
        ...

    def state_item(self, name: str, value: Any) -> Any:
        """Notice that something was read of the request's state."""
        ...

    def attribute(self, name: str, value: Any) -> None:
        """Notice that something was read that was put on the request itself."""
        ...

    def note_header(self, name: str) -> None:
        """Notice that one header was read, whose name is lower-cased."""
        ...


class WatchedMapping(MutableMapping[str, Any]):
    """A mapping that says what is read of it."""

    def __init__(self, plain: MutableMapping[str, Any], item: Callable[[str, Any], Any]) -> None:
        self.plain = plain
        self._item = item

    def __getitem__(self, name: str) -> Any:
        value = self._item(name, self.plain.get(name, ABSENT))
        if value is ABSENT:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str):
            self._item(name, self.plain.get(name, ABSENT))
        return name in self.plain

    def __setitem__(self, name: str, value: Any) -> None:
        self.plain[name] = value

    def __delitem__(self, name: str) -> None:
        del self.plain[name]

    def __iter__(self) -> Iterator[str]:
        for name in list(self.plain):
            self._item(name, self.plain[name])
            yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}

    def copy(self) -> dict[str, Any]:
        """Return what `dict.copy` would."""
        return dict(self)


class WatchedHeaders(Headers):
    """Headers that say which of them are read."""

    def __init__(self, request: HTTPConnection, watch: Watch) -> None:
        super().__init__(raw=plain_scope(request.scope)["headers"])
        self._plain = request.headers
        self._watch = watch

    def _whole(self) -> Headers:
        self._watch.note("headers")
        return self._plain

    def _one(self, name: object) -> Headers:
        self._watch.note_header(str(name).lower())
        return self._plain

    def __getitem__(self, key: str) -> str:
        return self._one(key)[key]

    def __contains__(self, key: object) -> bool:
        return key in self._one(key)

    def getlist(self, key: str) -> list[str]:
        return self._one(key).getlist(key)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return self._whole().raw

    def keys(self) -> list[str]:  # type: ignore[override]
        return self._whole().keys()

    def values(self) -> list[str]:  # type: ignore[override]
        return self._whole().values()

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        return self._whole().items()

    def mutablecopy(self) -> MutableHeaders:
        return self._whole().mutablecopy()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def __eq__(self, other: object) -> bool:
        return self._whole() == other

    def __repr__(self) -> str:
        return repr(self._whole())


#: Where Starlette's Request keeps what it has read.
_KEPT = {"_headers": "headers", "_cookies": "cookies"}


class WatchedRequest:
    """What a watched request has before the class of the original."""

    __slots__ = ()
    _watch: Watch

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name[:1] != "_":
            if name != "scope" and name in object.__getattribute__(self, "__dict__"):
                object.__getattribute__(self, "_watch").attribute(name, value)
        elif name in _KEPT:
            object.__getattribute__(self, "_watch").note(_KEPT[name])
        return value

    def __getattr__(self, name: str) -> Any:
        if name == "_watch" or name.startswith("__"):
            raise AttributeError(name)
        if name[:1] != "_":
            # What is not there could have been.
            self._watch.note(f"request.{name}")
        return getattr(self._watch.request, name)

    def __bool__(self) -> bool:
        return True

    @property
    def scope(self) -> Scope:
        return self._watch.scope

    @scope.setter
    def scope(self, scope: Scope) -> None:
        # What it is made of was read of the watched one.
        self._watch.request.scope = scope
        self._watch.scope = scope

    @property
    def headers(self) -> Headers:
        return self._watch.headers

    @property
    def state(self) -> State:
        return self._watch.state

    @property
    def cookies(self) -> dict[str, str]:
        return cast("dict[str, str]", self._of_client("cookies"))

    @property
    def client(self) -> Any:
        return self._of_client("client")

    @property
    def session(self) -> Any:
        return self._of_client("session")

    @property
    def auth(self) -> Any:
        return self._of_client("auth")

    @property
    def user(self) -> Any:
        return self._of_client("user")

    @property
    def url(self) -> URL:
        return cast(URL, self._of_host("url"))

    @property
    def base_url(self) -> URL:
        return cast(URL, self._of_host("base_url"))

    def url_for(self, name: str, /, **path_params: Any) -> URL:
        return cast(URL, self._of_host("url_for")(name, **path_params))

    def _of_host(self, name: str) -> Any:
        self._watch.note("host")
        request = self._watch.request
        if getattr(type(request), name) is getattr(HTTPConnection, name):
            # Starlette's own reads the headers as a whole for it.
            return getattr(request, name)
        return getattr(super(), name)

    def _of_client(self, name: str) -> Any:
        self._watch.note(name)
        return getattr(self._watch.request, name)


@functools.lru_cache(maxsize=64)
def _watched_class(cls: type[HTTPConnection]) -> type[HTTPConnection]:
    namespace = {"__slots__": ("_watch",), "__module__": cls.__module__}
    return types.new_class(
        cls.__name__, (WatchedRequest, cls), exec_body=lambda ns: ns.update(namespace)
    )


def watched_request(request: HTTPConnection, watch: Watch) -> HTTPConnection:
    """Return a request that is the given one, and tells a watch what is read of it."""
    if isinstance(request, WatchedRequest):
        request = request._watch.request
    watched = object.__new__(_watched_class(type(request)))
    object.__setattr__(watched, "__dict__", request.__dict__)
    for name in _slots(type(request)):
        if hasattr(request, name):
            object.__setattr__(watched, name, getattr(request, name))
    object.__setattr__(watched, "_watch", watch)
    return watched


@functools.lru_cache(maxsize=64)
def _slots(cls: type[HTTPConnection]) -> list[str]:
    return slot_names(cls.__mro__)


def plain_scope(scope: Scope) -> Scope:
    """Return the scope that a server gave, where an endpoint hands on a watched one."""
    return scope.plain if isinstance(scope, WatchedMapping) else scope


def watch_of(request: HTTPConnection) -> Watch | None:
    """Return who is told what is read of a request, if anybody is."""
    return request._watch if isinstance(request, WatchedRequest) else None
