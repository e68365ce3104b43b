"""What the application says of an argument: which part of it tells its callers apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from stream_cached.checks import require
from stream_cached.endpoint.declarations import declarations
from stream_cached.endpoint.signatures import markers_of

T = TypeVar("T")

#: Returns the part of an argument that belongs into the key.
PartOf = Callable[[Any], Any]

_declared: WeakKeyDictionary[type, PartOf] = WeakKeyDictionary()


class InKey:
    """
    Puts one part of a parameter's value into the key.

    `Annotated[User, Depends(current_user), InKey(lambda user: user.id)]` has one entry for each
    user. If every dependency of the route that takes credentials is behind such a parameter, a
    request with `Authorization` is cached, too, and a database session that the login check has
    used is left out of the key.

    Args:
        function: Returns the part of the value: a str, a number, or another value that can be part
            of a key. It is not called for None, which is a value of its own.

    Raises:
        ConfigurationError: `function` can't be called.
    """

    def __init__(self, function: PartOf) -> None:
        require(callable(function), f"InKey({function!r}): pass a function, as {_EXAMPLE}")
        self.function = function


def in_key(cls: type[T], function: Callable[[T], Any]) -> None:
    """
    Put one part of each argument of a class into the key, for all endpoints.

    Call it once per application, for the class of its users. It counts as `InKey` on a parameter
    whose dependency takes the credentials of the request, and nothing of its path, query or body.

    Args:
        cls: A class of the application. Its subclasses count, too.
        function: Returns the part of an instance: a str, a number, or another value that can be
            part of a key.

    Raises:
        ConfigurationError: `cls` is no class, or a built-in one, or `function` can't be called.
    """
    require(isinstance(cls, type), f"in_key({cls!r}, ...): pass a class, as in_key(User, ...)")
    name = cls.__name__
    require(
        cls.__module__ != "builtins",
        f"in_key({name}, ...): many arguments are of a built-in class; pass the class of the "
        f"users, or declare one parameter Annotated[{name}, Depends(...), {_EXAMPLE}]",
    )
    require(
        callable(function),
        f"in_key({name}, {function!r}): pass a function, as lambda user: user.id",
    )
    _declared[cls] = function
    declarations.note()


def part_of_class(cls: type) -> PartOf | None:
    """Return the function that `in_key` has declared for a class or a base class."""
    if not _declared:
        return None
    return next((_declared[base] for base in cls.__mro__ if base in _declared), None)


def part_of_parameter(parameter: inspect.Parameter) -> PartOf | None:
    """Return the function of the parameter's `InKey`."""
    markers = (marker for marker in markers_of(parameter) if isinstance(marker, InKey))
    return next((marker.function for marker in markers), None)


_EXAMPLE = "InKey(lambda user: user.id)"
