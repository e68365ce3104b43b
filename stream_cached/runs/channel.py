"""The progress of one run, for processes that follow it: told under a key that holds its token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from stream_cached.errors import StoreError
from stream_cached.format.progress import Head, Progress, encode_progress
from stream_cached.format.records import Entry
from stream_cached.keys.names import followed_key, progress_key
from stream_cached.stores.protocol import Store, Wakeup, set_and_wake, wakeup

#: Seconds that progress can be read unless it is told again.
PROGRESS_TTL = 60.0

#: Seconds that followers have to learn how a run ended.
LAST_WORD_TTL = 3.0

#: What followers set again and again, and for how many seconds.
FOLLOWED = b"1"
FOLLOWED_TTL = 3.0


class ProgressChannel:
    """
    The channel of one run.

    Args:
        store: The store that the run is recorded in.
        key: The key of the resource.
        token: The token of the run's lease.
    """

    def __init__(self, store: Store, key: str, token: bytes) -> None:
        self.progress_key = progress_key(key, token)
        self.followed_key = followed_key(key, token)
        self._store = store
        self._token = token
        self._head: Head | None = None
        self._last_word: Progress | None = None
        self._is_told = False
        self._is_closed = False
        self._telling = asyncio.Lock()

    # -- the run's side ---------------------------------------------------------------------

    @property
    def is_told(self) -> bool:
        """Whether there is anything that a process could follow."""
        return self._is_told

    def open(self, head: Head) -> None:
        self._head = head

    async def tell(self, segments: int, chunks: Sequence[int], tail: bytes, first: int = 0) -> None:
        """Say how many segments are written, which is the first there, and which chunks follow."""
        assert self._head is not None
        async with self._telling:
            if not self._is_closed:
                self._is_told = True
                progress = Progress(self._head, segments, tuple(chunks), tail, first=first)
                await self._tell(progress, PROGRESS_TTL)

    def complete(self, entry: Entry, *, stored: bool) -> None:
        """Keep what a complete run has come to, for followers that are there at its end."""
        assert self._head is not None
        self._last_word = Progress.of(entry, self._head, stored=stored)

    async def _tell(self, progress: Progress, ttl: float) -> None:
        value = encode_progress(progress, self._token)
        await set_and_wake(self._store, [(self.progress_key, value)], ttl, self.progress_key)

    async def is_followed(self) -> bool:
        """Whether a process follows the run; False if the store fails."""
        with contextlib.suppress(StoreError):
            return await self.read_followed()
        return False

    async def read_followed(self) -> bool:
        (found,) = await self._store.get_many([self.followed_key])
        return found == FOLLOWED

    def stop(self) -> None:
        """Tell nothing more, but for the last word."""
        self._is_closed = True

    async def tell_last_word(self) -> bool:
        """Tell followers how a complete run ended. Return whether there was anything to tell."""
        last_word, self._last_word = self._last_word, None
        if not self._is_told or last_word is None or not await self.is_followed():
            return False
        # The entry that they would look up need not be this run's.
        with contextlib.suppress(StoreError):
            await self._tell(last_word, LAST_WORD_TTL)
        return True

    async def close(self, *, keep_progress: bool) -> None:
        """Delete the channel, and wake the followers."""
        if not self._is_told:
            return
        gone = [self.followed_key] if keep_progress else [self.followed_key, self.progress_key]
        with contextlib.suppress(StoreError):
            async with self._telling:
                await self._store.delete_many(gone)
            await set_and_wake(self._store, [], None, self.progress_key)

    # -- the followers' side ----------------------------------------------------------------

    async def mark_followed(self) -> None:
        """Let the run know that this process follows it."""
        with contextlib.suppress(StoreError):
            await self._store.set_many([(self.followed_key, FOLLOWED)], FOLLOWED_TTL)

    def wakeup(self) -> Wakeup:
        return wakeup(self._store, self.progress_key)
