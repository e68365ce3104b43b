"""Which process runs an endpoint, among all processes that share a store.

The process that runs the endpoint holds a lease: a random token under a key of its own, with a
short ttl that is renewed while the run goes on. The lease of a killed process lapses. Only the
holder renews and releases the lease, with compare-and-set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from stream_cached.connections.deadline import Deadline
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.format.envelope import ForeignVersionError, is_ours
from stream_cached.format.progress import LeaseRecord, LeaseState, decode_lease, encode_lease
from stream_cached.format.validation import UnsoundError
from stream_cached.keys.variants import ANY, Select, Variant, is_for
from stream_cached.runs.channel import ProgressChannel
from stream_cached.stores.protocol import Release, Store, add_and_get_many, look_and_claim
from stream_cached.tasks import spawn

T = TypeVar("T")

#: Seconds that a lease lives unless it is renewed: a killed process holds others up for so long.
LEASE_TTL = 2.5

#: Seconds after which it is renewed, so that others see that its holder is alive.
BEAT = 0.5

#: Seconds for which other processes learn at most that a response could not be shared. A process
#: that has run the endpoint itself may remember it for longer.
ALONE_FOR = 10.0

#: Seconds that a released lease still exists. Not every store can delete with compare-and-set.
_GONE_AFTER = 0.001

_ATTEMPTS = 5

#: The tokens of leases that have no holder any more, and until when they may exist.
_abandoned: dict[bytes, float] = {}


class Holder(Protocol):
    """What holds a lease: a run."""

    def set_followed(self, followed: bool) -> None: ...


class Lease:
    """
    The right to run an endpoint.

    Args:
        store: The store that processes share.
        key: The key of the resource.
        lease_key: The key of the lease.
        token: A random id of this run alone.
        longest: Seconds after which the lease is no longer renewed.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        lease_key: str,
        token: bytes,
        *,
        longest: float,
    ) -> None:
        self.token = token
        self.channel = ProgressChannel(store, key, token)
        self._holder: Holder | None = None
        self._store = store
        self._key = lease_key
        self._beat = 0
        self._value = self._encoded(LeaseState.HELD)
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + longest
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._is_released = self._is_offered = False
        self._renewed_at = self._loop.time()
        self._was_lost = False

    def report_to(self, holder: Holder) -> None:
        """Tell a run, at each renewal, whether another process follows it."""
        self._holder = holder

    async def claim(
        self, keys: Sequence[str], select: Select | None = None
    ) -> tuple[LeaseRecord | None, list[bytes | None]]:
        """
        Take the lease, and read in the same round trip what its last holder may have stored.

        Args:
            keys: The keys to read.
            select: What tells the request's variant; None for any.

        Returns:
            None if the lease is taken now, otherwise the record of its holder; and the values.
        """
        record, values = await self._or_release(self._claim(keys, select))
        if record is None:
            self._renew_later()
        return record, values

    async def claim_if_absent(
        self, keys: Sequence[str], expected: Sequence[bytes | None]
    ) -> tuple[bool, list[bytes | None]]:
        """
        Read values, and take the lease in the same round trip if there is nothing yet.

        Args:
            keys: The keys to read: that of the record, and those of its versions.
            expected: The versions that the lease is for.

        Returns:
            Whether the lease is taken now, and the values.
        """
        lease = self._key, self._value, LEASE_TTL
        looking = look_and_claim(self._store, lease, keys, expected)
        is_taken, values = await self._or_release(looking)
        if is_taken:
            self._renew_later()
        return is_taken, values

    async def _or_release(self, claim: Awaitable[T]) -> T:
        """Await a claim; if it is cut short, the lease may have been taken all the same."""
        try:
            return await claim
        except BaseException:
            self.release()
            raise

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
                raise StoreError("the key of a lease holds a value of another program")
            record = read_lease(found, self._key)
            if record is not None and record.token == self.token:
                # The client has sent the command twice, because a connection broke.
                return None, values
            if record is not None and not _is_free(record, select):
                return record, values
            if await self._store.compare_and_set(self._key, found, self._value, LEASE_TTL):
                return None, await self._store.get_many(keys)
        raise StoreError("a lease that existed is gone")

    # -- while it is held -------------------------------------------------------------------

    def _renew_later(self) -> None:
        # The renewal is not part of the request that runs first.
        with Deadline(None):
            self._timer = self._loop.call_later(BEAT, self._renew_now)

    def _renew_now(self) -> None:
        if self._is_offered:
            # It would bring back what is released meanwhile.
            self._renew_later()
            return
        self._work = spawn(self._renew())

    async def _renew(self) -> None:
        self._beat += 1
        value = self._encoded(LeaseState.HELD)
        try:
            is_held = await self._replace(value, LEASE_TTL)
            if is_held:
                self._renewed_at = self._loop.time()
            else:
                self._was_lost = True
                if await self._store.add(self._key, value, LEASE_TTL):
                    # It had lapsed while the process was held up, and no other holds it now.
                    self._value = value
            if self._holder is not None and self.channel.is_told:
                followed = await self.channel.read_followed()
                # The lease may have been released meanwhile.
                self._tell_holder(followed)
        except StoreUnavailableError:
            # No process can follow the run there.
            self._tell_holder(False)
        except StoreError:
            # The lease may lapse; another run costs no more than that.
            pass
        if not self._is_released and self._loop.time() < self._until:
            self._renew_later()

    async def is_held(self) -> bool:
        """Whether no other process can have taken the lease since this one took it."""
        if self._was_lost:
            return False
        if self._is_released or self._loop.time() - self._renewed_at < LEASE_TTL:
            return True
        (found,) = await self._store.get_many([self._key])
        record = read_lease(found, self._key)
        return record is not None and record.token == self.token

    def _tell_holder(self, followed: bool) -> None:
        if self._holder is not None:
            self._holder.set_followed(followed)

    async def _replace(self, value: bytes, ttl: float) -> bool:
        """Replace the value in the store, if it is this lease's."""
        expected = self._value
        if not await self._store.compare_and_set(self._key, expected, value, ttl):
            (found,) = await self._store.get_many([self._key])
            record = read_lease(found, self._key)
            if found is None or record is None or record.token != self.token:
                return False
            # A renewal that seemed to fail has taken effect.
            if not await self._store.compare_and_set(self._key, found, value, ttl):
                return False
        self._value = value
        return True

    def _encoded(self, state: LeaseState, variant: Variant = ANY) -> bytes:
        return encode_lease(LeaseRecord(self.token, state, self._beat, variant), self._key)

    # -- its end ----------------------------------------------------------------------------

    def release(self, *, alone: Variant | None = None, alone_for: float = ALONE_FOR) -> None:
        """
        Let another process run, or find what was stored.

        Args:
            alone: A variant whose response can't be shared: no request for it waits.
            alone_for: For how many seconds, 10 at most.
        """
        if self._is_released:
            return
        self._stop()
        with Deadline(None):
            seconds = min(alone_for, ALONE_FOR)
            self._work = spawn(self._release(self._work, alone, seconds))

    def offer(self) -> Release | None:
        """
        Return what releases it in another round trip; then call `answer_offer`.

        Return None if it has to be released by itself.
        """
        is_busy = self._work is not None and not self._work.done()
        if self._is_released or is_busy:
            return None
        self._is_offered = True
        channel = self.channel
        told = [channel.progress_key] if channel.is_told else []
        return Release(self._key, self._value, channel.followed_key, told)

    def answer_offer(self, released: bool) -> None:
        self._is_offered = False
        if released and not self._is_released:
            self._stop()

    def _stop(self) -> None:
        self._is_released = True
        self.channel.stop()
        # A cancelled timer keeps its context, and so the run, until it would have been due.
        self._holder = None
        if self._timer is not None:
            self._timer.cancel()

    async def _release(
        self, renewal: asyncio.Task[None] | None, alone: Variant | None, alone_for: float
    ) -> None:
        if renewal is not None:
            await asyncio.wait([renewal])
        is_told = await self.channel.tell_last_word()
        try:
            if alone is None:
                await self._replace(self._encoded(LeaseState.RELEASED), _GONE_AFTER)
            else:
                await self._replace(self._encoded(LeaseState.ALONE, alone), alone_for)
        except StoreError:
            abandon(self.token)
        await self.channel.close(keep_progress=is_told)

    async def released(self) -> None:
        if self._is_released and self._work is not None:
            await asyncio.wait([self._work])


def abandon(token: bytes) -> None:
    """Let this process take a lease that still exists, because no process holds it."""
    now = time.monotonic()
    for other in [other for other, until in tuple(_abandoned.items()) if until < now]:
        _abandoned.pop(other, None)
    _abandoned[token] = now + LEASE_TTL


def _is_free(record: LeaseRecord, select: Select | None) -> bool:
    if record.state is LeaseState.ALONE and not is_for(record.variant, select):
        # Another variant can't be shared.
        return True
    return record.state is LeaseState.RELEASED or record.token in _abandoned


def read_lease(value: bytes | None, lease_key: str) -> LeaseRecord | None:
    """Decode a lease; None for a damaged one. Raise `StoreError` for another format version."""
    if value is None:
        return None
    try:
        return decode_lease(value, lease_key)
    except ForeignVersionError as exc:
        raise StoreError("the lease is one of another version") from exc
    except UnsoundError:
        return None
