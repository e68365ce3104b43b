"""
What this library raises.

    StreamCachedError
      ConfigurationError    a mistake in how the decorator is used
      StoreError            a store can't do what it was asked for; a request is answered
                            without it, only `invalidate` lets it through
        StoreUnavailableError   it can't be reached, did not answer in time, or refuses
      BrokenStreamError     a body can't be completed: the connection has to break
        LostStreamError       its run, or a part of it that was stored, is lost
"""

from __future__ import annotations


class StreamCachedError(Exception):
    """Base of all that this library raises."""


class ConfigurationError(StreamCachedError, ValueError):
    """The decorator is used in a way that can't work; the message says what to write instead."""


class StoreError(StreamCachedError):
    """An operation of a store failed; the cause is chained."""


class StoreUnavailableError(StoreError):
    """
    A store can't be reached, did not answer in time, or refuses what any store does.

    Args:
        message: What happened.
        answered: Whether it was reached, and refused.
    """

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class BrokenStreamError(StreamCachedError):
    """A body can't be completed after its first byte went out, so it must not end cleanly."""


class LostStreamError(BrokenStreamError):
    """The process that ran it is gone, or a part of it that was stored: another run may go on."""
