"""Who runs an endpoint, among all processes that share a store.

Whoever runs holds a lease: a random token under a key of its own, with a short ttl that is renewed
while the run goes on, so that one whose process was killed lapses by itself. Only its holder
renews and releases it, by comparing and setting; what he has recorded so far he tells under
another key, which has the token in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from stream_cached.connections.deadline import Deadline
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.format.codec import UnsoundError
from stream_cached.format.envelope import ForeignVersionError, is_ours
from stream_cached.format.progress import (
    LeaseRecord,
    LeaseState,
    Progress,
    decode_lease,
    encode_lease,
    encode_progress,
)
from stream_cached.keys.names import followed_key, progress_key
from stream_cached.keys.variants import ANY, Select, Variant, is_for
from stream_cached.stores.protocol import Store, add_and_get_many, set_and_wake
from stream_cached.tasks import spawn

#: Seconds that a lease lives unless it is renewed: a killed process holds others up for so long.
LEASE_TTL = 5.0

#: Seconds after which it is renewed, so that others see that its holder is alive.
BEAT = 0.5

#: Seconds that what a run has come to can be read, unless it is told again.
PROGRESS_TTL = 60.0

#: Seconds that those who follow a run have to learn how it ended.
LAST_WORD_TTL = 3.0

#: Seconds for which others are told that a response could not be shared: each process remembers it.
ALONE_FOR = 10.0

#: Seconds for which a lease that was released is still there, where the store has such times.
_GONE_AFTER = 0.001

#: What followers set, again and again, and for how many seconds.
FOLLOWED = b"1"
FOLLOWED_TTL = 3.0

_ATTEMPTS = 5

#: The tokens of leases that nobody holds any more, and until when they may be there.
_abandoned: dict[bytes, float] = {}


class Lease:
    """
    The right to run an endpoint, while it is held.

    Args:
        store: Where it stands.
        key: The key of the resource.
        lease_key: Its own.
        token: Random, of this run alone.
        longest: Seconds after which it is no longer renewed, whatever becomes of the run.
    """

    def __init__(
        self, store: Store, key: str, lease_key: str, token: bytes, *, longest: float
    ) -> None:
        self.token = token
        self._store = store
        self._key = lease_key
        self._progress = progress_key(key, token)
        self._followed = followed_key(key, token)
        self.on_followed: Callable[[bool], object] | None = None
        """Called now and then with whether the run is read in other processes, too."""
        self._beat = 0
        self._value = self._encoded(LeaseState.HELD)
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + longest
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._told = False
        self._telling = asyncio.Lock()
        self.last_word: Progress | None = None
        """What a complete run has come to: for those who follow it, where there are any."""
        self._is_released = False

    async def claim(
        self, keys: Sequence[str], select: Select | None = None
    ) -> tuple[LeaseRecord | None, list[bytes | None]]:
        """
        Take the lease, and read what the last one who held it may have stored.

        Args:
            keys: Where that would be.
            select: What tells the request's variant; None for any.

        Returns:
            None if it is taken, otherwise whose it is; and the values of the keys.

        Raises:
            StoreError: The store failed, or holds something else there.
        """
        try:
            claim, values = await self._claim(keys, select)
        except BaseException:
            # It may have been taken all the same.
            self.release()
            raise
        if claim is None:
            self._renew_later()
        return claim, values

    async def _claim(
        self, keys: Sequence[str], select: Select | None
    ) -> tuple[LeaseRecord | None, list[bytes | None]]:
        for _ in range(_ATTEMPTS):
            is_taken, (found, *values) = await add_and_get_many(
                self._store, self._key, self._value, LEASE_TTL, [self._key, *keys]
            )
            if is_taken:
                return None, values
            if found is None:
                continue
            if not is_ours(found):
                raise StoreError("something else stands under the key of a lease")
            claim = read_claim(found, self._key)
            if claim is not None and claim.token == self.token:
                # The client has asked twice, since a connection broke.
                return None, values
            if claim is not None and not _is_free(claim, select):
                return claim, values
            if await self._store.compare_and_set(self._key, found, self._value, LEASE_TTL):
                return None, await self._store.get_many(keys)
        raise StoreError("a lease that was there is not")

    # -- while it is held -------------------------------------------------------------------

    def _renew_later(self) -> None:
        # It is not part of the request that runs first.
        with Deadline(None):
            self._timer = self._loop.call_later(BEAT, self._renew_now)

    def _renew_now(self) -> None:
        self._work = spawn(self._renew())

    async def _renew(self) -> None:
        self._beat += 1
        value = self._encoded(LeaseState.HELD)
        try:
            is_held = await self._replace(value, LEASE_TTL)
            if not is_held and await self._store.add(self._key, value, LEASE_TTL):
                # It had lapsed, where the process was held up, and nobody else has taken it.
                self._value = value
            if self.on_followed is not None:
                self.on_followed(await self._read_followed())
        except StoreUnavailableError:
            # Nobody can follow it there.
            if self.on_followed is not None:
                self.on_followed(False)
        except StoreError:
            # It may lapse; another run costs no more than that.
            pass
        if not self._is_released and self._loop.time() < self._until:
            self._renew_later()

    async def _replace(self, value: bytes, ttl: float) -> bool:
        """Put another value in the place of the one that is there, if that is of this lease."""
        expected = self._value
        if not await self._store.compare_and_set(self._key, expected, value, ttl):
            (found,) = await self._store.get_many([self._key])
            claim = read_claim(found, self._key)
            if found is None or claim is None or claim.token != self.token:
                return False
            # A renewal that seemed to fail has taken effect.
            if not await self._store.compare_and_set(self._key, found, value, ttl):
                return False
        self._value = value
        return True

    def _encoded(self, state: LeaseState, variant: Variant = ANY) -> bytes:
        return encode_lease(LeaseRecord(self.token, state, self._beat, variant), self._key)

    async def is_followed(self) -> bool:
        """Say whether the run is read in other processes, too."""
        with contextlib.suppress(StoreError):
            return await self._read_followed()
        return False

    async def _read_followed(self) -> bool:
        (found,) = await self._store.get_many([self._followed])
        return found == FOLLOWED

    async def tell(self, progress: Progress) -> None:
        """
        Tell others what the run has come to.

        Raises:
            StoreError: The store failed.
        """
        async with self._telling:
            if not self._is_released:
                self._told = True
                await self._tell(progress, PROGRESS_TTL)

    async def _tell(self, progress: Progress, ttl: float) -> None:
        value = encode_progress(progress, self.token)
        await set_and_wake(self._store, [(self._progress, value)], ttl, self._progress)

    # -- its end ----------------------------------------------------------------------------

    def release(self, *, alone: Variant | None = None) -> None:
        """
        Let somebody else run, or find what was stored.

        Args:
            alone: The variant whose response can't be shared: all who want it run, for a while.
        """
        if self._is_released:
            return
        self._is_released = True
        # Timers that are cancelled keep their contexts, and these the turn, until they are due.
        self.on_followed = None
        if self._timer is not None:
            self._timer.cancel()
        with Deadline(None):
            self._work = spawn(self._release(self._work, alone))

    async def _release(self, renewal: asyncio.Task[None] | None, alone: Variant | None) -> None:
        if renewal is not None:
            await asyncio.wait([renewal])
        is_followed = self._told and await self.is_followed()
        if is_followed and self.last_word is not None:
            # Theirs need not be the entry that they would find.
            with contextlib.suppress(StoreError):
                await self._tell(self.last_word, LAST_WORD_TTL)
        try:
            if alone is None:
                await self._replace(self._encoded(LeaseState.RELEASED), _GONE_AFTER)
            else:
                await self._replace(self._encoded(LeaseState.ALONE, alone), ALONE_FOR)
        except StoreError:
            abandon(self.token)
        is_kept = is_followed and self.last_word is not None
        self.last_word = None
        if not self._told:
            return
        with contextlib.suppress(StoreError):
            async with self._telling:
                gone = [self._followed] if is_kept else [self._followed, self._progress]
                await self._store.delete_many(gone)
            await set_and_wake(self._store, [], None, self._progress)

    async def released(self) -> None:
        """Wait until nothing of it is left to be done."""
        if self._is_released and self._work is not None:
            await asyncio.wait([self._work])


def abandon(token: bytes) -> None:
    """Let a lease be taken by this process though it is still there: nobody holds it any more."""
    now = time.monotonic()
    for other in [other for other, until in tuple(_abandoned.items()) if until < now]:
        _abandoned.pop(other, None)
    _abandoned[token] = now + LEASE_TTL


def _is_free(claim: LeaseRecord, select: Select | None) -> bool:
    if claim.state is LeaseState.ALONE and not is_for(claim.variant, select):
        # That of another variant.
        return True
    return claim.state is LeaseState.RELEASED or claim.token in _abandoned


def read_claim(value: bytes | None, lease_key: str) -> LeaseRecord | None:
    """
    Return what a value says of a lease; None where that is nothing.

    Raises:
        StoreError: It is one of another format version.
    """
    if value is None:
        return None
    try:
        return decode_lease(value, lease_key)
    except ForeignVersionError as exc:
        raise StoreError("the lease is one of another version") from exc
    except UnsoundError:
        return None
