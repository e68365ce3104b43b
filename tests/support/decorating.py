"""The type of what makes decorators, for applications that are built with the decorator or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Decorate(Protocol):
    """Makes a decorator, or one that does nothing."""

    def __call__(self, **settings: Any) -> Callable[[F], F]: ...


def as_it_is(**settings: Any) -> Callable[[F], F]:
    """Make a decorator that does nothing."""
    return lambda function: function
