"""How the user of a request is found, which is no read of anything but the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.utils.functional import LazyObject, SimpleLazyObject

_is_finding: ContextVar[bool] = ContextVar("stream_cached_finding_user", default=False)


def is_finding_user() -> bool:
    """Whether what finds the user of a request reads it now: its session, perhaps."""
    return _is_finding.get()


@contextmanager
def _finding() -> Iterator[None]:
    token = _is_finding.set(True)
    try:
        yield
    finally:
        _is_finding.reset(token)


def observed_user(value: Any, note: Callable[[], None]) -> Any:
    """Report the user: a lazy one once something is read of it, which a template may not do."""
    if not isinstance(value, LazyObject):
        note()
        return value

    def used() -> Any:
        note()
        with _finding():
            bool(value)
        # A lazy object of a lazy object would keep its own class.
        return value

    return SimpleLazyObject(used)


def finding_user(auser: Any) -> Any:
    """Return what finds the user, as `request.auser`."""

    async def found() -> Any:
        with _finding():
            return await auser()

    return found
