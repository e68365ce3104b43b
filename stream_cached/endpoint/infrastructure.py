"""Infrastructure: objects that an endpoint works with and that are not part of a key.

The classes are listed by qualified name in infrastructure_names.txt, so that no library has to be
imported. Subclasses of a listed class count, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from typing import TypeVar
from weakref import WeakSet

from stream_cached.endpoint.declarations import declarations
from stream_cached.endpoint.signatures import class_names
from stream_cached.errors import ConfigurationError


def _read_names() -> dict[str, frozenset[str]]:
    """Return the class names of each [section] of infrastructure_names.txt."""
    text = resources.files(__package__).joinpath("infrastructure_names.txt").read_text("utf-8")
    sections: dict[str, set[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            section.add(line)
    return {name: frozenset(names) for name, names in sections.items()}


_NAMES = _read_names()

#: Classes whose instances usually exist for one request.
_PER_REQUEST = _NAMES["per request"]

_KNOWN = _PER_REQUEST | _NAMES["shared"]

C = TypeVar("C", bound=type)

_declared: WeakSet[type] = WeakSet()


class NotInKey:
    """
    Marks a parameter on which the answer of the endpoint does not depend.

    `Annotated[ReportService, Depends(get_service), NotInKey]` leaves the parameter out of the key.
    """


def not_in_key(cls: C, *classes: type) -> C:
    """
    Leave instances of these classes out of the keys of all endpoints.

    Call it once per application for infrastructure such as services, repositories and settings.
    An instance that a dependency makes for one client is not left out.

    Args:
        cls: A class. Its subclasses are left out, too.
        classes: Further classes.

    Returns:
        The first class, so that the function can be used as a decorator.

    Raises:
        ConfigurationError: An argument is no class, or a built-in class.
    """
    for each in (cls, *classes):
        if not isinstance(each, type):
            raise ConfigurationError(f"not_in_key({each!r}): pass a class")
        if each.__module__ == "builtins":
            raise ConfigurationError(
                f"not_in_key({each.__name__}): answers depend on values of built-in classes; pass "
                "a class of your own, or key_ignore= to one endpoint"
            )
    _declared.update((cls, *classes))
    declarations.note()
    _cached.cache_clear()
    return cls


def _is_known(cls: type) -> bool:
    return not (_declared.isdisjoint(cls.__mro__) and _KNOWN.isdisjoint(class_names(cls)))


def is_shared_infrastructure(cls: type) -> bool:
    """Whether instances of a class are shared by all clients even in `request.state`."""
    return is_infrastructure(cls) and not is_per_request(cls)


def is_per_request(cls: type) -> bool:
    """Whether instances of a class usually exist for one request."""
    return not _PER_REQUEST.isdisjoint(class_names(cls))


def is_declared(cls: type) -> bool:
    """Whether `not_in_key` has named a class or a base class."""
    return not _declared.isdisjoint(cls.__mro__)


#: Classes of what FastAPI itself passes to an endpoint.
_INJECTED = frozenset(
    {
        "fastapi.security.oauth2.SecurityScopes",
        "starlette.background.BackgroundTask",
        "starlette.requests.HTTPConnection",
        "starlette.responses.Response",
    }
)


def _is_injected(cls: type) -> bool:
    return not _INJECTED.isdisjoint(class_names(cls))


_cached = functools.lru_cache(maxsize=1024)(_is_known)

#: Whether instances of a class are what endpoints work with.
is_infrastructure: Callable[[type], bool] = _cached

#: Whether FastAPI itself passes instances of a class to endpoints.
is_injected: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_is_injected)
