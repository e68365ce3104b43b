"""
The exceptions of this library.

    StreamCachedError
      ConfigurationError    the decorator is used wrongly
      StoreError            an operation of a store failed; requests are answered without the
                            store, and only `invalidate` raises the error to its caller
        StoreUnavailableError   the store is unreachable, too slow, or refuses basic commands
      BrokenStreamError     a body can't be completed: the connection has to break
        LostStreamError       the followed run, or a stored segment of it, is lost
"""

from __future__ import annotations

from typing import Self


class StreamCachedError(Exception):
    """Base class of this library's exceptions."""


class ConfigurationError(StreamCachedError, ValueError):
    """The decorator is used in a way that can't work; the message contains the fix."""


class StoreError(StreamCachedError):
    """An operation of a store failed; the cause is chained."""

    is_reported = False
    """Whether it is in the log already."""

    fix = ""
    """What to change, where the store will fail again until somebody changes a setting."""

    def with_fix(self, fix: str) -> Self:
        """Return the error itself, now that it is known what to change."""
        self.fix = fix
        return self


class StoreUnavailableError(StoreError):
    """
    A store can't be reached, did not answer in time, or refuses a basic command.

    Args:
        message: What happened.
        answered: Whether the store was reached and refused the command.
    """

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class BrokenStreamError(StreamCachedError):
    """A body can't be completed after its first byte was sent, so it must not end cleanly."""


class LostStreamError(BrokenStreamError):
    """A followed run ended without its end, or a stored segment is missing; another may run."""
