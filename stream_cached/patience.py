"""How long a store may still hold up one request's first byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Patience:
    """
    One time-out, for all that a request asks of its store before its first byte.

    Args:
        seconds: What is left of it, None for no bound.
    """

    def __init__(self, seconds: float | None) -> None:
        self.left = seconds

    @contextmanager
    def spent(self) -> Iterator[float | None]:
        """Count what is done within; gives the seconds that it may take."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            yield self.left
        finally:
            if self.left is not None:
                self.left = max(0.0, self.left - (clock() - started))
