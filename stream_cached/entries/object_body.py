"""The body of one run as an object of a store of bodies, which is written while the run streams.

The object is a header and the segments, each encoded as it would be under a key of its own: so each
part of it tells of what run it is, where it belongs, and whether it is whole. The record holds the
sizes of these parts. The header stands there twice, for a sweep that finds the first one damaged.
While the run goes on, nobody can read the object. Until then its newest segments are in the store
of the records, too: the window. It also holds what the upload has not come to.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stream_cached.bodies.watched import WatchedBodies, WatchedReading
from stream_cached.entries.body import RENEW_EVERY, RUN_TTL, Body, PackedSegment, Seal
from stream_cached.entries.uploading import PacedUpload
from stream_cached.errors import StoreError
from stream_cached.format.envelope import State, pack
from stream_cached.format.records import Segment
from stream_cached.format.validation import UnsoundError
from stream_cached.limits import Limits
from stream_cached.stores.protocol import Seals, Store

#: How many windows of single runs all runs of a process may have together.
_WINDOWS = 4

#: Segments that are asked for at once where readers are at several places.
_APART = 16


@dataclass(frozen=True, slots=True)
class KeptBodies:
    """The store of the bodies of one endpoint, and how it is used."""

    store: WatchedBodies
    namespace: str
    """The namespace of the keys of the records that lead to its objects."""
    limits: Limits

    def retire(self, key: str, generation: bytes) -> None:
        """Delete an object that no record leads to any more, once nobody can read it."""
        self.store.delete_later(object_name(key, generation), self.limits.kept_for)


class ObjectBody(Body):
    """
    The segments of one run, as an object.

    Args:
        store: The store of the records.
        key: The key of the resource.
        generation: The random id of the run.
        kept: The store of the object.
        sizes: See `Entry.sizes`; empty as long as the object is not whole.
        stop: The number of segments that are read at most.
    """

    is_object = True

    def __init__(
        self,
        store: Store,
        key: str,
        generation: bytes,
        kept: KeptBodies,
        sizes: Sequence[int] = (),
        stop: int | None = None,
    ) -> None:
        super().__init__(store, key, generation)
        # The checksums have to be those of the bytes, whatever the store of the records is.
        self._kind = bytes
        self._kept = kept
        self._name = object_name(key, generation)
        self._seals = store if isinstance(store, Seals) else None
        self._sizes = sizes
        self._stop = stop
        self._upload: PacedUpload | None = None
        self._segment_seals: list[Seal] = []
        self._window: deque[int] = deque()
        self._oldest = self._in_window = 0
        capacity = store.capacity
        longest = kept.limits.live_window
        self._max_window = longest if capacity is None else min(longest, capacity // 4)
        self._is_over = asyncio.Event()
        self._reading: WatchedReading | None = None
        self._next = self._limit = 0
        self._turn = asyncio.Lock()

    @property
    def first(self) -> int:
        """The number of the first segment that can be read now."""
        return 0 if self._sizes else self._oldest

    def show(self, sizes: Sequence[int]) -> None:
        """Note that the object is whole."""
        self._sizes = sizes
        self._is_over.set()

    # -- writing ----------------------------------------------------------------------------

    async def write(self, segments: Sequence[PackedSegment]) -> None:
        """Write to the window. Wait for the upload only where that is too far behind."""
        if self._is_over.is_set():
            raise StoreError("the body was given up")
        if self._upload is None:
            self._upload = self._begun()
        upload = self._upload
        if self._max_window:
            await super().write(segments)
            sizes = [len(segment.value) for segment in segments]
            self._window.extend(sizes)
            self._take_room(sum(sizes))
        else:
            self._oldest += len(segments)
        self._segment_seals.extend(segment.seal for segment in segments)
        upload.put(segments, is_stored=self._max_window > 0)
        while not await self._has_room(upload, sent := upload.sent):
            if self._max_window:
                upload.forget()
            await self._wait(upload, sent)

    def _begun(self) -> PacedUpload:
        limits = self._kept.limits
        head = {"namespace": self._kept.namespace, "key": self._key}
        return PacedUpload(
            self._kept.store.upload(self._name, limits.max_uploads),
            pack(State.OBJECT, self._generation, 0, head, b"") * 2,
            read=self._read_back,
            seal=self._sealed,
            max_held=limits.pending_share,
        )

    async def _read_back(self, indexes: range) -> list[bytes]:
        """Return segments of the window as they were written."""
        values = await self._store.get_many(super().keys(indexes))
        try:
            await self._unpacked(indexes, values, self._segment_seals)
        except UnsoundError as exc:
            raise StoreError(f"the window of an object: {exc}") from exc
        return [value for value in values if value]

    def _sealed(self, index: int, value: bytes) -> bytes:
        return value if self._seals is None else self._seals.seal(self._key_of(index), value)

    async def _has_room(self, upload: PacedUpload, sent: int) -> bool:
        """Make the window as small as it has to be. Return False if the upload needs it yet."""
        upload.check()
        if not self._max_window:
            return upload.is_up_to_date
        await self._trim(sent)
        return not self._is_too_large

    async def _wait(self, upload: PacedUpload, sent: int) -> None:
        """Wait for the upload to go on, and keep what it comes to later from expiring."""
        await upload.moved(sent, RENEW_EVERY / 2)
        await self.renew_if_due(self._held, RUN_TTL)

    def _take_room(self, size: int) -> None:
        self._in_window += size
        self._kept.store.window += size

    @property
    def _is_too_large(self) -> bool:
        return bool(self._window) and (
            self._in_window > self._max_window
            or self._kept.store.window > self._max_window * _WINDOWS
        )

    async def _trim(self, sent: int) -> None:
        """Delete the oldest segments of the window, if there are too many: of those sent."""
        start = self._oldest
        while self._oldest < sent and self._is_too_large:
            self._take_room(-self._window.popleft())
            self._oldest += 1
        if self._oldest > start:
            await super().drop(range(start, self._oldest))

    async def finish(self) -> tuple[int, ...]:
        upload = self._upload
        if upload is None:
            # There is no byte in it.
            return ()
        upload.complete()
        try:
            while not upload.is_whole:
                upload.check()
                await self._wait(upload, upload.sent)
        except asyncio.CancelledError:
            await self.abort()
            raise
        sizes = tuple(upload.sizes)
        self.show(sizes)
        return sizes

    async def shown(self) -> None:
        await self._is_over.wait()
        if not self._sizes:
            raise StoreError("the body was given up")

    async def recorded(self) -> None:
        self._upload = None
        await self._drop_window()

    async def drop(self, indexes: range) -> None:
        await self.abort()
        await self._drop_window()

    async def leave(self, indexes: range) -> None:
        self._upload = None
        self._kept.retire(self._key, self._generation)
        await self._drop_window()

    async def _drop_window(self) -> None:
        held = self._held
        self._take_room(-sum(self._window))
        self._oldest = held.stop
        self._window.clear()
        await super().drop(held)

    @property
    def _held(self) -> range:
        """The numbers of the segments in the window."""
        return range(self._oldest, self._oldest + len(self._window))

    async def abort(self) -> None:
        upload, self._upload = self._upload, None
        self._is_over.set()
        if upload is not None:
            self._sizes = ()
            await upload.abort()

    # -- reading ----------------------------------------------------------------------------

    async def read(self, indexes: range, seals: Sequence[Seal] | None = None) -> list[Segment]:
        if not self._sizes:
            return await super().read(indexes, seals)
        async with self._turn:
            return await self._read(indexes, seals)

    async def _read(self, indexes: range, seals: Sequence[Seal] | None) -> list[Segment]:
        try:
            reading = await self._opened_at(indexes.start)
            values = [await reading.read(self._sizes[1 + index]) for index in indexes]
            self._next = indexes.stop
            if self._next == self._limit:
                self.close()
            unsealed = list(map(self._unsealed, indexes, values))
            return await self._unpacked(indexes, unsealed, seals)
        except BaseException:
            # Nothing is known of where it stands now, and perhaps nobody reads on.
            self.close()
            raise

    @property
    def _end(self) -> int:
        return len(self._sizes) - 1 if self._stop is None else self._stop

    async def _opened_at(self, index: int) -> WatchedReading:
        if self._reading is None or self._next != index:
            self.close()
            # A reader that jumps is not given the whole rest each time.
            is_in_order = not self._limit or index == self._limit
            self._limit = self._end if is_in_order else min(self._end, index + _APART)
            start = sum(self._sizes[: 1 + index])
            stop = start + sum(self._sizes[1 + index : 1 + self._limit])
            self._reading = await self._kept.store.open(self._name, start, stop)
        return self._reading

    def _unsealed(self, index: int, value: bytes) -> bytes:
        return value if self._seals is None else self._seals.unseal(self._key_of(index), value)

    def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()

    # -- lifetimes: an object has none ------------------------------------------------------

    async def renew(self, indexes: range, ttl: float | None) -> int:
        if not self._sizes and self._window:
            # The entry needs none of them.
            await super().renew(self._held, ttl)
        return len(indexes)

    def keys(self, indexes: range) -> list[str]:
        return [] if self._sizes else super().keys(indexes)


def object_name(key: str, generation: bytes) -> str:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{digest[:2]}/{digest}-{generation.hex()}"
