"""How long a store may still hold up one request's first byte."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, Token
from types import TracebackType

#: Seconds that an operation is given in any case: the time may have gone where the event loop was
#: held up, and a store that is well answers in less.
LEAST = 0.01

#: When the operations of this context have to be over, by the clock of its loop.
_deadline: ContextVar[float | None] = ContextVar("stream_cached_deadline", default=None)


class Deadline:
    """
    One time-out for all operations that begin within it, taken together: a context manager.

    It can be entered again, one time after the other, for what is left.

    Args:
        seconds: What there is of it. With None, each operation has its own time-out again, also in
            tasks that are created within.
    """

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._token is not None
        _deadline.reset(self._token)
        if self.left is not None:
            spent = asyncio.get_running_loop().time() - self._started
            self.left = max(0.0, self.left - spent)


def allowed(timeout: float | None) -> float | None:
    """Return the seconds that an operation with this time-out may take in this context."""
    deadline = _deadline.get()
    if deadline is None:
        return timeout
    left = max(LEAST, deadline - asyncio.get_running_loop().time())
    return left if timeout is None else min(timeout, left)
