"""The deadline that bounds how long a store may delay one request's first byte."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token

#: The least time-out of an operation in seconds. A blocked event loop may have used up the
#: deadline, and a healthy store answers in less time.
LEAST = 0.01

#: The time at which the operations of this context time out, by the clock of its loop.
_deadline: ContextVar[float | None] = ContextVar("stream_cached_deadline", default=None)


class Deadline:
    """A context manager with one time-out for all operations inside it, taken together.

    It can be entered repeatedly, each time for the remaining seconds. None lifts an outer deadline,
    also for tasks that are created inside."""

    __slots__ = ("_started", "_token", "left")

    def __init__(self, seconds: float | None) -> None:
        self.left = seconds
        self._started = 0.0
        self._token: Token[float | None] | None = None

    def __enter__(self) -> None:
        if self.left is None:
            self._token = _deadline.set(None)
        else:
            self._started = asyncio.get_running_loop().time()
            self._token = _deadline.set(self._started + self.left)

    def __exit__(self, *exc_info: object) -> None:
        assert self._token is not None
        _deadline.reset(self._token)
        if self.left is not None:
            spent = asyncio.get_running_loop().time() - self._started
            self.left = max(0.0, self.left - spent)


def is_bounded() -> bool:
    """Whether a deadline bounds the operations of this context."""
    return _deadline.get() is not None


def rest_of(timeout: float | None, began: float) -> AbstractContextManager[None]:
    """
    Return what bounds further operations, so that a time-out bounds all of them taken together.

    Args:
        timeout: Seconds; None for no bound.
        began: The monotonic time at which the first one began.
    """
    if timeout is None or is_bounded():
        return contextlib.nullcontext()
    return Deadline(max(0.0, timeout - (time.monotonic() - began)))


def allowed(timeout: float | None) -> float | None:
    """Return the time-out, shortened to the seconds until the context's deadline."""
    deadline = _deadline.get()
    if deadline is None:
        return timeout
    left = max(LEAST, deadline - asyncio.get_running_loop().time())
    return left if timeout is None else min(timeout, left)
