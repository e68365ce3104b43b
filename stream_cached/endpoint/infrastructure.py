"""What an endpoint works with, rather than answers about: no part of a key.

Classes are known by their qualified names, so that no library has to be imported for it; one that
inherits from a known one is known, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from stream_cached.endpoint.infrastructure_names import KNOWN, SESSIONS
from stream_cached.endpoint.signatures import class_names
from stream_cached.errors import ConfigurationError

#: What is made for one request.
_PER_REQUEST = SESSIONS | {
    "starlette.background.BackgroundTask",
    "starlette.requests.HTTPConnection",
    "starlette.responses.Response",
}

#: What is shared by all requests, as a rule: pools, engines, clients, loggers.
_SHARED = KNOWN - _PER_REQUEST

C = TypeVar("C", bound=type)

_declared: WeakSet[type] = WeakSet()


class NotInKey:
    """
    Marks a parameter whose values don't change what the endpoint answers.

    `Annotated[ReportService, Depends(get_service), NotInKey]` leaves it out of the key.
    """


def not_in_key(cls: C, *classes: type) -> C:
    """
    Leave instances of these classes out of the keys of every endpoint.

    It is for what endpoints work with (services, repositories, settings), once for a whole
    application. What a dependency makes for one client in particular stays in the key all the
    same.

    Args:
        cls: A class; those that inherit from it are left out, too.
        classes: More of them.

    Returns:
        The first class, so that it can be used as a decorator.

    Raises:
        ConfigurationError: One of them is no class, or one that every value is an instance of.
    """
    for each in (cls, *classes):
        if not isinstance(each, type):
            raise ConfigurationError(f"not_in_key({each!r}): pass a class")
        if each.__module__ == "builtins":
            raise ConfigurationError(
                f"not_in_key({each.__name__}): its values are what endpoints answer about; pass a "
                "class of your own, or key_ignore= to one endpoint"
            )
    _declared.update((cls, *classes))
    _cached.cache_clear()
    return cls


def _is_known(cls: type) -> bool:
    return not (_declared.isdisjoint(cls.__mro__) and KNOWN.isdisjoint(class_names(cls)))


def is_shared_plumbing(cls: type) -> bool:
    """
    Whether instances of a class are no part of a key wherever they were found.

    A session or a connection that somebody put into the request's state may be one client's.
    """
    return is_plumbing(cls) and _PER_REQUEST.isdisjoint(class_names(cls))


def _can_be_switched(cls: type) -> bool:
    return _SHARED.isdisjoint(class_names(cls))


_cached = functools.lru_cache(maxsize=1024)(_is_known)

#: Whether instances of a class are no part of a key.
is_plumbing: Callable[[type], bool] = _cached

#: Whether a dependency can make an instance of a class one client's own, for one request.
can_be_switched: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_can_be_switched)
