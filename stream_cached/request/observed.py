"""A request, its headers and its scope that report their reads to an observer.

The class of an observed request is a subclass of the original's class, and both share one
`__dict__`: a new Request would wait forever for a body that was already read.
"""

from __future__ import annotations

import functools
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, cast

from starlette.datastructures import URL, Headers, MutableHeaders, State
from starlette.requests import HTTPConnection
from starlette.types import Scope

from stream_cached.keys.layout import slot_names
from stream_cached.request.kept import CACHED_ATTRIBUTES, INPUT_ATTRIBUTES, OWN_ATTRIBUTES

#: The value of a name that does not exist.
ABSENT = object()


class Observer(Protocol):
    """Receives the reads of a request. `request` is plain, the other properties are observed."""

    @property
    def request(self) -> HTTPConnection: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def state(self) -> State: ...
    @property
    def replaced(self) -> Sequence[str]: ...
    def take_scope(self, scope: Scope) -> None: ...
    def note(self, name: str) -> None: ...
    def note_header(self, name: str) -> None: ...
    def state_item(self, name: str, value: Any) -> Any: ...
    def lacks(self, name: str) -> None: ...
    def attribute(self, name: str, value: Any) -> None: ...


class ObservedMapping(MutableMapping[str, Any]):
    """A mapping that reports its reads."""

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
        return dict(self)

    def __repr__(self) -> str:
        return repr(self.copy())


class ObservedHeaders(Headers):
    """Headers that report which headers are read."""

    def __init__(self, request: HTTPConnection, observer: Observer) -> None:
        super().__init__(raw=plain_scope(request.scope)["headers"])
        self._plain = request.headers
        self._observer = observer

    def _whole(self) -> Headers:
        self._observer.note("headers")
        return self._plain

    def _one(self, name: object) -> Headers:
        self._observer.note_header(str(name).lower())
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


class ObservedParts(ABC):
    """
    The observed parts of the request of an observer.

    They are made when they are read. With them, the observer is in cycles, which only a garbage
    collection finds.
    """

    request: HTTPConnection

    @abstractmethod
    def observed_scope(self, scope: Scope) -> Scope: ...

    @functools.cached_property
    def scope(self) -> Scope:
        return self.observed_scope(self.request.scope)

    def take_scope(self, scope: Scope) -> None:
        self.__dict__["scope"] = scope

    @functools.cached_property
    def headers(self) -> ObservedHeaders:
        return ObservedHeaders(self.request, cast(Observer, self))

    @functools.cached_property
    def state(self) -> State:
        return State(cast("dict[str, Any]", self.scope["state"]))

    def let_go(self) -> None:
        """Forget them. They are made once more if they are read."""
        for name in ("scope", "headers", "state"):
            self.__dict__.pop(name, None)


#: Those whose reads say nothing of the request, and the observer itself.
_UNTOLD = (OWN_ATTRIBUTES | {"_observer"}) - CACHED_ATTRIBUTES.keys() - INPUT_ATTRIBUTES.keys()


def _of_client(name: str) -> Any:
    """Return a property that may differ between clients, and reports its reads."""

    def read(request: ObservedRequest) -> Any:
        request._observer.note(name)
        return getattr(request._observer.request, name)

    return property(read)


class ObservedRequest:
    """The base class that observes; it precedes the request's own class in the bases."""

    __slots__ = ()
    _observer: Observer

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name in _UNTOLD:
            return value
        observer = object.__getattribute__(self, "_observer")
        if name in CACHED_ATTRIBUTES:
            observer.note(CACHED_ATTRIBUTES[name])
        if name in INPUT_ATTRIBUTES:
            observer.note(INPUT_ATTRIBUTES[name])
            _tell_replaced(observer, name)
        if name == "__dict__":
            for each in (value.keys() - OWN_ATTRIBUTES) | (INPUT_ATTRIBUTES.keys() & value.keys()):
                getattr(self, each)
            return ObservedMapping(value, functools.partial(_attribute, observer))
        if name not in OWN_ATTRIBUTES and _is_set(self, name):
            observer.attribute(name, value)
        return value

    def __getattr__(self, name: str) -> Any:
        if name == "_observer" or name.startswith("__"):
            raise AttributeError(name)
        if name not in OWN_ATTRIBUTES:
            # A missing attribute counts as read, because it may exist for another client.
            self._observer.lacks(name)
        return getattr(self._observer.request, name)

    def __bool__(self) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(self._observer.request)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ObservedRequest):
            return self._observer.request is other._observer.request
        if self._observer.request is other:
            # A dependency has kept something of this very request, by the request.
            self._observer.note("request.__eq__")
        return self._observer.request is other

    def __copy__(self) -> Any:
        copied = observed_request(self._observer.request, self._observer)
        object.__setattr__(copied, "__dict__", dict(self._observer.request.__dict__))
        return copied

    @property
    def scope(self) -> Scope:
        return self._observer.scope

    @scope.setter
    def scope(self, scope: Scope) -> None:
        # The new scope is built from the observed scope, which has reported the reads.
        self._observer.request.scope = scope
        self._observer.take_scope(scope)

    @property
    def headers(self) -> Headers:
        _tell_replaced(self._observer, "_headers")
        return self._observer.headers

    @property
    def state(self) -> State:
        return self._observer.state

    cookies = _of_client("cookies")
    client = _of_client("client")
    session = _of_client("session")
    auth = _of_client("auth")
    user = _of_client("user")

    @property
    def url(self) -> URL:
        self._observer.note("query")
        return cast(URL, self._host_attribute("url"))

    @property
    def base_url(self) -> URL:
        return cast(URL, self._host_attribute("base_url"))

    def url_for(self, name: str, /, **path_params: Any) -> URL:
        return cast(URL, self._host_attribute("url_for")(name, **path_params))

    def _host_attribute(self, name: str) -> Any:
        self._observer.note("host")
        _tell_replaced(self._observer, "_url" if name == "url" else "_base_url")
        request = self._observer.request
        if getattr(type(request), name) is getattr(HTTPConnection, name):
            # Starlette's implementation reads all headers, and would report that.
            return getattr(request, name)
        return getattr(super(), name)


def _tell_replaced(observer: Observer, name: str) -> None:
    """Note that a part is read, where a dependency has put something else in its place."""
    if name in observer.replaced:
        observer.note(f"request.{name[1:]}")


def _attribute(observer: Observer, name: str, value: Any) -> Any:
    """Return an attribute that is read by the dict of a request."""
    if name in CACHED_ATTRIBUTES:
        observer.note(CACHED_ATTRIBUTES[name])
    return observer.scope if name == "scope" else value


def _is_set(request: ObservedRequest, name: str) -> bool:
    """Whether a name is an attribute of this one request, and not of its class."""
    observer: Observer = object.__getattribute__(request, "_observer")
    own = object.__getattribute__(request, "__dict__")
    return name in own or name in _slots(type(observer.request))


def attributes_of(request: HTTPConnection) -> dict[str, Any]:
    """Return the attributes of a plain request, also those in slots."""
    slots = {n: getattr(request, n) for n in _slots(type(request)) if hasattr(request, n)}
    return {**slots, **request.__dict__}


@functools.lru_cache(maxsize=64)
def _observed_class(cls: type[HTTPConnection]) -> type[HTTPConnection]:
    namespace = {"__slots__": ("_observer",), "__module__": cls.__module__}
    bases = ObservedRequest, cls
    return types.new_class(cls.__name__, bases, exec_body=lambda ns: ns.update(namespace))


def observed_request(request: HTTPConnection, observer: Observer) -> HTTPConnection:
    if isinstance(request, ObservedRequest):
        request = request._observer.request
    observed = object.__new__(_observed_class(type(request)))
    object.__setattr__(observed, "__dict__", request.__dict__)
    for name in _slots(type(request)):
        if hasattr(request, name):
            object.__setattr__(observed, name, getattr(request, name))
    object.__setattr__(observed, "_observer", observer)
    return observed


@functools.lru_cache(maxsize=64)
def _slots(cls: type[HTTPConnection]) -> list[str]:
    return slot_names(cls.__mro__)


def plain_scope(scope: Scope) -> Scope:
    # The exact type first: `isinstance` is slow for an abstract class.
    if type(scope) is not dict and isinstance(scope, ObservedMapping):
        return scope.plain
    return scope


def observer_of(request: HTTPConnection) -> Observer | None:
    return request._observer if isinstance(request, ObservedRequest) else None
