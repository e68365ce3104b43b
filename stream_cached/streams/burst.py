"""The chunks that a source makes without suspending: they are handed on together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from stream_cached.streams.backlog import LINK_SIZE

#: Bytes that are handed on together, with what each chunk costs beside its bytes.
BURST_MAX = 1024 * 1024


class Receiver(Protocol):
    """What the chunks are handed on to: a stream."""

    def begin_burst(self) -> tuple[int, float]:
        """Return at how many bytes, and when by the monotonic clock, it wants what there is."""

    def wake_waiting(self) -> bool:
        """Wake those who wait for chunks: they call `suspended` first. Return whether one does."""

    def feed_all(self, chunks: list[bytes], size: int) -> None:
        """Take chunks."""

    def has_to_pace(self) -> bool:
        """Return whether the source now has to pace itself."""


class _NoReceiver:
    """What takes chunks that nobody will read."""

    def begin_burst(self) -> tuple[int, float]:
        return 0, 0.0

    def wake_waiting(self) -> bool:
        return False

    def feed_all(self, chunks: list[bytes], size: int) -> None:
        pass

    def has_to_pace(self) -> bool:
        return False


class Burst:
    """
    What a source has made since it suspended last.

    Nothing waits here while others could run: as soon as the source suspends, it is handed on by
    the first reader that wakes, or by the event loop, before the source goes on.
    """

    _size = _limit = 0
    _until = 0.0
    _is_scheduled = False
    _error: Exception | None = None

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._call_soon: Callable[..., object] = asyncio.get_running_loop().call_soon
        self._chunks: list[bytes] = []

    def put(self, chunk: bytes) -> bool:
        """Take one chunk. Return whether the source now has to pace itself."""
        chunks = self._chunks
        if not chunks:
            self._limit, self._until = self._receiver.begin_burst()
        chunks.append(chunk)
        self._size += len(chunk) + LINK_SIZE
        if self._size >= self._limit or time.monotonic() >= self._until:
            return self.flush()
        if not self._is_scheduled:
            self._is_scheduled = True
            if not self._receiver.wake_waiting():
                self._call_soon(self.suspended)
        return False

    def flush(self) -> bool:
        """Hand on what there is. Return whether the source now has to pace itself."""
        return self.hand_on() and self._receiver.has_to_pace()

    def hand_on(self) -> bool:
        """Hand on what there is, now. Return whether there was anything."""
        if self._error is not None:
            raise self._error
        chunks, size = self._chunks, self._size
        if not chunks:
            return False
        self._chunks, self._size = [], 0
        self._receiver.feed_all(chunks, size)
        return True

    def suspended(self) -> None:
        """Hand on what there is, now that the source has suspended."""
        self._is_scheduled = False
        if self._chunks and self._error is None:
            try:
                self.hand_on()
            except Exception as exc:
                # The source learns of it: what it made is lost, and its end must not look clean.
                self._error = exc

    def forget_receiver(self) -> None:
        """Hand nothing more on: the run is over, and nobody reads it."""
        self._receiver = _NoReceiver()
