"""A store of bodies as this process uses it: with time-outs, and with regard to its failures."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar
from weakref import WeakSet

from stream_cached.bodies.protocol import (
    BodyStore,
    MissingBodyError,
    Patience,
    Reading,
    StoredBody,
    Upload,
)
from stream_cached.errors import StoreError
from stream_cached.event_hook import EventHook, StoreAway, StoreBack, tell_all
from stream_cached.limits import RETRY_INTERVAL
from stream_cached.tasks import spawn

T = TypeVar("T")

logger = logging.getLogger("stream_cached")

#: Seconds that each step may take, or more where the settings of the store say so.
OPEN_TIMEOUT = 2.0
READ_TIMEOUT = 10.0
WRITE_TIMEOUT = 10.0
FINISH_TIMEOUT = 60.0
ABORT_TIMEOUT = 10.0
DELETE_TIMEOUT = 10.0

_NONE = Patience()

#: The attribute of a store that holds its `WatchedBodies`.
_ATTRIBUTE = "_stream_cached_watched"

#: The longest time between two attempts to reach a store that is away.
_MAX_INTERVAL = 30.0


class TooManyUploadsError(StoreError):
    """This process writes as many objects as it may."""

    is_reported = True


class Side:
    """
    Reading from a store, or writing to it: whether that works.

    Args:
        store: The name of the store.
        doing: What it is called in the log.
        hooks: What is told that it does not work, or works again.
    """

    def __init__(self, store: str, doing: str, hooks: WeakSet[EventHook]) -> None:
        self._store = store
        self._hooks = hooks
        self._doing = doing
        self.cause: str | None = None
        """Why it does not work; None if it does."""
        self.since = time.monotonic()
        self.was_used = False
        self.requests = 0
        """How often it was not tried since it has failed."""
        self._interval = RETRY_INTERVAL
        self._next = self._failed_at = 0.0

    async def run(
        self, what: str, step: Awaitable[T], seconds: float, *, is_proof: bool = True
    ) -> T:
        """
        Wait for one step. Raise `StoreError` if it fails, or takes too long.

        Without `is_proof`, its success does not show that a store works that has failed.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                result = await step
        except MissingBodyError:
            self._works()
            raise
        except StoreError as exc:
            raise self._failed(exc, began) from exc.__cause__
        except TimeoutError as exc:
            error = StoreError(f"{what}: no answer within {seconds:g} s")
            raise self._failed(error, began) from exc
        if is_proof or self.cause is None:
            self._works()
        return result

    def check(self) -> None:
        """Raise `StoreError` if it has failed, and it is too early to try it again."""
        now = time.monotonic()
        if self.cause is None:
            return
        if now < self._next:
            self.requests += 1
            error = StoreError(f"{self._doing} {self._store} fails: {self.cause}")
            error.is_reported = True
            raise error
        # One attempt; the others go on without it.
        self._next = now + self._interval

    def _failed(self, exc: StoreError, began: float) -> StoreError:
        now, self.was_used = time.monotonic(), True
        if self.cause is None:
            self.since, self.requests, self._interval = now, 0, RETRY_INTERVAL
            if exc.fix:
                logger.error(
                    "%s %s fails (%s), and will not recover by itself: %s. Large bodies are not "
                    "cached",
                    *(self._doing, self._store, exc, exc.fix),
                )
            else:
                logger.warning(
                    "%s %s fails (%s): large bodies are not cached", self._doing, self._store, exc
                )
            tell_all(self._hooks, StoreAway(self._store, "bodies"))
        elif began >= self._failed_at:
            self._interval = min(_MAX_INTERVAL, 2 * self._interval)
        self._failed_at = now
        self.cause, self._next = str(exc), now + self._interval
        exc.is_reported = True
        return exc

    def _works(self) -> None:
        self.was_used = True
        if self.cause is not None:
            seconds = time.monotonic() - self.since
            self.cause, self.since = None, time.monotonic()
            logger.info("%s %s works again", self._doing, self._store)
            tell_all(self._hooks, StoreBack(self._store, "bodies", seconds))


class WatchedBodies:
    """
    A store of bodies, with bounds: of time for each step, and of uploads at once.

    After a failure it is left alone for a second, then for two, and so on up to half a minute, so
    that a store that hangs does not hold each request up.
    """

    def __init__(self, bodies: BodyStore) -> None:
        self.name = bodies.name
        self.capacity = bodies.capacity
        self.patience: Patience = getattr(bodies, "patience", _NONE)
        self.hooks: WeakSet[EventHook] = WeakSet()
        self.reads = Side(self.name, "reading from", self.hooks)
        self.writes = Side(self.name, "writing to", self.hooks)
        self.window = 0
        """Bytes of the runs of this process that are in the store of the records, too."""
        self.uploads = 0
        self._has_warned = False
        self._bodies = bodies
        _all.add(self)
        self._condemned: list[tuple[float, str]] = []
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    @classmethod
    def of(cls, bodies: BodyStore | WatchedBodies) -> WatchedBodies:
        """Return the same object for the same store."""
        if isinstance(bodies, WatchedBodies):
            return bodies
        watched = getattr(bodies, _ATTRIBUTE, None)
        if not isinstance(watched, WatchedBodies):
            watched = cls(bodies)
            setattr(bodies, _ATTRIBUTE, watched)
        return watched

    def upload(self, name: str, max_uploads: int) -> WatchedUpload:
        """Begin an object. Raise `StoreError` if that can't be."""
        if self.uploads >= max_uploads:
            raise TooManyUploadsError(f"{max_uploads} objects are being written already")
        self.writes.check()
        upload = self._bodies.upload(name)
        self.uploads += 1
        return WatchedUpload(self, upload)

    async def open(self, name: str, start: int, stop: int) -> WatchedReading:
        self.reads.check()
        opening = self._bodies.open(name, start, stop)
        seconds = max(OPEN_TIMEOUT, self.patience.answer)
        # Some stores open what they can't read.
        reading = await self.reads.run("open", opening, seconds, is_proof=False)
        return WatchedReading(self, reading)

    async def delete(self, names: Sequence[str]) -> None:
        seconds = max(DELETE_TIMEOUT, 2 * self.patience.answer)
        # It works on a disk that is full.
        await self.writes.run("delete", self._bodies.delete(names), seconds, is_proof=False)

    def listed(self) -> AsyncIterator[StoredBody]:
        return self._bodies.listed()

    async def ping(self) -> None:
        # It writes something, and deletes it.
        seconds = max(WRITE_TIMEOUT, 3 * self.patience.answer)
        await self.writes.run("ping", self._bodies.ping(), seconds)

    async def try_out(self) -> None:
        """Ping it once. What fails is in the log."""
        with contextlib.suppress(StoreError):
            await self.ping()

    async def close(self) -> None:
        await self._bodies.close()

    def warn_unless_shared(self, *, is_shared: bool) -> None:
        """Warn once if each process has records of its own, so that none finds another's bodies."""
        if not is_shared and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s holds the bodies of records in the memory of this process, and shares nothing "
                "with other processes: pass the URL of a Redis if there are several",
                self.name,
            )

    # -- its state --------------------------------------------------------------------------

    @property
    def failing(self) -> Side | None:
        """What does not work."""
        return next((side for side in (self.reads, self.writes) if side.cause is not None), None)

    @property
    def was_used(self) -> bool:
        return self.reads.was_used or self.writes.was_used

    @property
    def seconds(self) -> float:
        """Seconds since its state last changed."""
        return time.monotonic() - max(self.reads.since, self.writes.since)

    # -- objects that no record leads to any more -------------------------------------------

    def delete_later(self, name: str, seconds: float) -> None:
        """Delete an object once nobody reads it any more. A process that ends forgets that."""
        heapq.heappush(self._condemned, (time.monotonic() + seconds, name))
        self._look_later()

    def _look_later(self) -> None:
        loop, seconds = asyncio.get_running_loop(), self._condemned[0][0] - time.monotonic()
        if self._timer is not None and self._timer[0] is loop:
            self._timer[1].cancel()
        self._timer = loop, loop.call_later(seconds, self._delete_due)

    def _delete_due(self) -> None:
        now, due = time.monotonic(), []
        while self._condemned and self._condemned[0][0] <= now:
            due.append(heapq.heappop(self._condemned)[1])
        if self._condemned:
            self._look_later()
        if due:
            spawn(self._delete_quietly(due))

    async def _delete_quietly(self, names: Sequence[str]) -> None:
        # What is left is for `sweep`.
        with contextlib.suppress(StoreError):
            await self.delete(names)


#: All that this process uses.
_all: WeakSet[WatchedBodies] = WeakSet()


def all_watched() -> list[WatchedBodies]:
    return list(_all)


class WatchedUpload:
    """An upload that counts among those of this process until it ends."""

    def __init__(self, bodies: WatchedBodies, upload: Upload) -> None:
        self._bodies = bodies
        self._upload = upload
        self._is_over = False

    async def write(self, data: bytes) -> None:
        seconds = max(WRITE_TIMEOUT, self._bodies.patience.upload)
        # It may only have been put into a buffer.
        writing = self._upload.write(data)
        await self._bodies.writes.run("write", writing, seconds, is_proof=False)

    async def finish(self) -> None:
        # Of three parts that are on their way, two are sent at once; then it is closed.
        seconds = max(FINISH_TIMEOUT, 3 * self._bodies.patience.upload)
        await self._bodies.writes.run("finish", self._upload.finish(), seconds)
        self._end()

    async def abort(self) -> None:
        self._end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_TIMEOUT):
                await self._upload.abort()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._bodies.uploads -= 1


class WatchedReading:
    """An object that is read."""

    def __init__(self, bodies: WatchedBodies, reading: Reading) -> None:
        self._bodies = bodies
        self._reading: Reading | None = reading

    async def read(self, size: int) -> bytes:
        if self._reading is None:
            raise StoreError("the object is closed")
        seconds = max(READ_TIMEOUT, self._bodies.patience.answer)
        return await self._bodies.reads.run("read", self._reading.read(size), seconds)

    def close(self) -> None:
        """Close it, soon."""
        reading, self._reading = self._reading, None
        if reading is not None:
            spawn(_closed(reading))


async def _closed(reading: Reading) -> None:
    with contextlib.suppress(StoreError):
        await reading.close()
