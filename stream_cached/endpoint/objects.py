"""Arguments without a canonical form: what stands for them in the key.

There are three kinds. An object that the application holds is keyed by the path that leads to it.
An object that was made for this request, by a dependency that takes nothing of who asks, is left
out. A plain object is keyed by its attributes. Of any other object, the origin is unknown.
"""

from __future__ import annotations

import abc
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stream_cached.endpoint.held import is_proxy, path_of
from stream_cached.endpoint.infrastructure import is_infrastructure, is_shared_infrastructure
from stream_cached.endpoint.signatures import class_names
from stream_cached.keys.canonical import (
    PLAIN,
    NoCanonicalFormError,
    canonical,
    state_of,
)
from stream_cached.keys.digest import class_name
from stream_cached.keys.layout import hides_content
from stream_cached.keys.made_classes import plain_attributes

#: How deeply plain objects may be nested: a service that has a repository that has a session.
_MAX_DEPTH = 8

#: How many plain objects, and how many items of a container, one argument may hold. Each hit looks
#: at all of them.
_MAX_OBJECTS = 100
_MAX_ITEMS = 1000

_CONTAINERS = (dict, frozenset, list, set, tuple)

_SESSIONS = frozenset(
    {
        "sqlalchemy.ext.asyncio.session.AsyncSession",
        "sqlalchemy.orm.session.Session",
    }
)

_CONNECTIONS = frozenset(
    {"sqlalchemy.engine.base.Connection", "sqlalchemy.ext.asyncio.engine.AsyncConnection"}
)

_MONGO = ("pymongo.", "motor.")

#: Classes of what only orders the calls of a service, and holds nothing.
_LOCKS = frozenset(
    {
        *("_thread.RLock", "_thread.lock", "anyio.Lock", "asyncio.locks.BoundedSemaphore"),
        *("asyncio.locks.Lock", "asyncio.locks.Semaphore", "threading.BoundedSemaphore"),
        "threading.Semaphore",
    }
)

#: Modules of base classes that add nothing to an instance.
_ABSTRACT = frozenset({"abc", "collections.abc", "typing"})

_METACLASSES = (type, abc.ABCMeta, type(Protocol))


class UnknownOriginError(Exception):
    """An object of which nothing says whether it is one client's own; the text says which."""


class UnknownEngineError(UnknownOriginError):
    """A session or a connection of an engine that no module and no application holds."""


@dataclass(frozen=True)
class Finder:
    """What is known of an argument."""

    scope: Mapping[str, Any]
    asker: str
    """The argument, with its function."""
    is_given: bool
    """Whether FastAPI has passed it, as the value of a dependency."""
    is_made: bool
    """Whether a `yield` dependency has made it for this request."""
    holds_made: bool
    """Whether it may hold what a `yield` dependency has made."""
    plain: list[object] = field(default_factory=list)
    """The plain objects that it has been found to hold."""
    held: list[object] = field(default_factory=list)
    """What it has been found to hold of the application."""

    def path(self, value: object) -> str | None:
        path = path_of(value, self.scope, (self.asker, type(value).__qualname__))
        if path is not None:
            self.held.append(value)
        return path


def form_of(value: object, finder: Finder) -> Any:
    """
    Return what stands for an object in the key; None if it is left out.

    Raises:
        UnknownOriginError: Nothing says whether the object is one client's own.
    """
    named = _named(value, finder)
    if named is not None:
        return named
    if finder.is_made:
        return _made(value, finder)
    is_tool = is_infrastructure(type(value))
    # The search takes its time.
    path = finder.path(value) if is_tool or not finder.is_given else None
    if is_tool and path is not None:
        return ["held", path]
    if path is None and not finder.is_given:
        raise UnknownOriginError(class_name(value))
    return _plain(value, finder, 0)


def _named(value: object, finder: Finder) -> Any:
    """Return the name of an object that has one: a logger, a database, a collection."""
    if class_name(value) in _LOCKS:
        return ["lock", class_name(value)]
    if isinstance(value, logging.Logger):
        if value is logging.root or logging.Logger.manager.loggerDict.get(value.name) is value:
            return ["logger", value.name]
        return None
    cls = type(value)
    if not cls.__module__.startswith(_MONGO) or is_proxy(value):
        return None
    database = getattr(value, "database", value) if "Collection" in cls.__name__ else value
    client = getattr(database, "client", None)
    if "Database" not in type(database).__name__ or client is None:
        return None
    path = finder.path(client)
    if path is None:
        raise UnknownOriginError(f"{class_name(value)}, of a client that no module holds")
    name = getattr(value, "full_name", None) or getattr(database, "name", "")
    return ["mongo", path, cls.__qualname__, str(name)]


def _made(value: object, finder: Finder) -> Any:
    """Return the engine that an object made for this request is bound to; None without one."""
    bound = []
    for engine in _engines(value):
        path = finder.path(engine)
        if path is None:
            raise UnknownEngineError(
                f"{class_name(value)}, which is bound to an engine that no module and no "
                "application holds"
            )
        bound.append(path)
    return ["bound", *sorted(bound)] if bound else None


def _engines(value: Any) -> list[object]:
    """Return what a session or a connection of SQLAlchemy is bound to."""
    names = class_names(type(value))
    if not names.isdisjoint(_CONNECTIONS):
        return [value.engine]
    if names.isdisjoint(_SESSIONS):
        return []
    session = getattr(value, "sync_session", value)
    binds = [getattr(value, "bind", None)]
    if binds == [None]:
        binds = [session.bind, *getattr(session, "_Session__binds", {}).values()]
    if binds == [None]:
        binds = [_bind_of(session)]
    return [_engine_of(each) for each in binds if each is not None]


def _bind_of(session: Any) -> object:
    try:
        return session.get_bind()
    # It has none, or wants to know what for. A session without one has no rows either.
    except Exception:
        return None


def _engine_of(bind: Any) -> object:
    is_connection = not class_names(type(bind)).isdisjoint(_CONNECTIONS)
    return bind.engine if is_connection else bind


def _plain(value: object, finder: Finder, depth: int) -> Any:
    """Return the attributes of an instance of a plain class."""
    if depth > _MAX_DEPTH or not is_plain(type(value)):
        raise UnknownOriginError(class_name(value))
    finder.plain.append(value)
    if len(finder.plain) > _MAX_OBJECTS:
        raise UnknownOriginError(f"{class_name(value)}, among too many objects")
    # What was set on the class, each instance has.
    of_class = plain_attributes(type(value), PLAIN)
    return [class_name(value), of_class, sorted(_attributes(value, finder, depth))]


def _attributes(value: object, finder: Finder, depth: int) -> list[list[Any]]:
    forms = []
    for name, item in state_of(value).items():
        if isinstance(item, _CONTAINERS) and len(item) > _MAX_ITEMS:
            raise UnknownOriginError(f"{class_name(item)} with too many items")
        try:
            form = canonical(item)
        except NoCanonicalFormError:
            form = _inner(item, finder, depth)
        forms.append([name, form])
    return forms


def _inner(item: object, finder: Finder, depth: int) -> Any:
    """Return what stands for an attribute without a canonical form."""
    named = _named(item, finder)
    if named is not None:
        return named
    cls = type(item)
    # One that exists for the request is looked for in vain.
    may_be_held = is_shared_infrastructure(cls) or not finder.holds_made
    if is_infrastructure(cls) and may_be_held and (path := finder.path(item)) is not None:
        return ["held", path]
    if is_plain(cls):
        return _plain(item, finder, depth + 1)
    if not finder.holds_made:
        raise UnknownOriginError(class_name(item))
    return ["made", class_name(item), _made(item, finder)]


def _find_plain(cls: type) -> bool:
    """Whether all that an instance of a class is can be seen in its attributes."""
    if cls is object or type(cls) not in _METACLASSES or is_infrastructure(cls):
        return False
    bases = [base for base in cls.__mro__ if base.__module__ not in _ABSTRACT]
    return not hides_content(cls) and all(map(_is_plain_base, bases))


def _is_plain_base(cls: type) -> bool:
    own = vars(cls)
    is_dynamic = "__getattr__" in own or "__getattribute__" in own
    return cls is object or not is_dynamic


is_plain: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_find_plain)
