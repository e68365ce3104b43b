"""A property that is made when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class MadeOnce(Generic[T]):
    """
    What `functools.cached_property` is, without its lock.

    The value is in the `__dict__` of the object, and is made once more if it is deleted there.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        made: T = self._make(instance)
        instance.__dict__[self._name] = made
        return made
