"""The entries of streams in one backend of cashews, as they stand beside its own values."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

from cashews.backends.interface import Backend as CashewsBackend
from cashews.compresors import Compressor
from starlette.responses import Response

from stream_cached.backends.binding import Backend, Binding
from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.cashews.views import raw_view_of, secrets_of
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.header_rules import HeaderRules
from stream_cached.engine.lookup import find_entry
from stream_cached.engine.outcome import Call, Fresh
from stream_cached.engine.service import Hooks, Service
from stream_cached.entries.found import Found, Hit
from stream_cached.entries.ids import new_id
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.events import Reporter
from stream_cached.options import Options
from stream_cached.stores.transformed import CompressedStore

#: The options for cashews' own decorators, which take none of ours: the defaults.
OPTIONS = Options()

_ATTRIBUTE = "_stream_cached_shelf"

_ATTEMPTS = 5


@lru_cache(maxsize=1000)
def service_of(name: str) -> Service:
    """Return what the engine knows of a function, which the log calls by this name."""
    return Service(
        version="",
        options=OPTIONS,
        headers=HeaderRules(OPTIONS, frozenset(), frozenset()),
        reporter=reporter_of(name),
        hooks=Hooks(),
        invalidated_before=InvalidatedBefore(time.monotonic),
    )


@lru_cache(maxsize=1000)
def reporter_of(name: str) -> Reporter:
    """Return where to say what is not stored."""
    return Reporter(name)


class CashewsEntries:
    """
    The entries in one backend.

    Args:
        backend: What was set up, past all middlewares: keys are those that it is given itself.

    Raises:
        ConfigurationError: It can't hold streams.
    """

    def __init__(self, backend: CashewsBackend) -> None:
        serializer: Any = backend.serializer
        compressor = serializer._compressor
        self._binding = Binding(raw_view_of(backend), secrets=secrets_of(backend))
        self._serializer = serializer
        self._compressor = None if type(compressor) is Compressor else compressor

    @classmethod
    def of(cls, backend: CashewsBackend) -> CashewsEntries:
        """Return that of a backend; see `Shelf`."""
        shelf = getattr(backend, _ATTRIBUTE, None)
        if not isinstance(shelf, CashewsEntries):
            shelf = cls(backend)
            setattr(backend, _ATTRIBUTE, shelf)
        return shelf

    @property
    def backend(self) -> Backend:
        """What the engine uses."""
        return self._with_compressor(self._binding.primary)

    async def present(self) -> Backend:
        """
        Return the same for a look-up.

        Raises:
            StoreUnavailableError: It is away.
        """
        return self._with_compressor(await self._bare())

    async def value(self, key: str) -> tuple[bytes | None, bytes]:
        """
        Return what stands under a key of cashews, as it is, and what cashews has made that of.

        Nothing where that can't be said.
        """
        try:
            backend = await self._bare()
            # As it is: neither signed nor compressed by us.
            (raw,) = await (backend.server or backend.store).get_many([key])
        except StoreError:
            return None, b""
        if raw is None:
            return None, b""
        try:
            value: bytes = self._serializer._signer.check_sign(key, raw)
        # Damaged, or of another secret: cashews does not expect all that is raised then.
        except Exception:
            return raw, b""
        with suppress(Exception):
            value = self._serializer._compressor.decompress(value)
        return raw, value

    async def keep(self, key: str, raw: bytes, ttl: float | None) -> bool:
        """
        Give a key of cashews another ttl if it still holds what was read; return whether it does.

        Raises:
            StoreError: The store failed.
        """
        backend = await self._bare()
        if backend.server is None:
            # In memory nothing happens between the two, and cashews can't read what we set.
            return await backend.store.touch_many([key], ttl) > 0
        return await backend.server.compare_and_set(key, raw, raw, ttl)

    async def _bare(self) -> Backend:
        """Return the same as `present`, without compression."""
        return await self._binding.backend(Deadline(self._binding.timeout))

    def _with_compressor(self, backend: Backend) -> Backend:
        if self._compressor is None:
            return backend
        compress, decompress = self._compressor.compress, self._compressor.decompress
        return dataclasses.replace(
            backend, store=CompressedStore(backend.store, compress, decompress)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class EntryRef:
    """
    Where one run is recorded: an entry of its own, which nothing but its pointer leads to.

    Args:
        shelf: The entries that it stands among.
        key: That of the pointer.
        generation: Which run it is.
        expire: Seconds that the entry lives, None for ever.
    """

    shelf: CashewsEntries
    key: str
    generation: bytes
    expire: float | None

    @classmethod
    def new(cls, shelf: CashewsEntries, key: str, expire: float | None) -> EntryRef:
        """Return one for a run that begins."""
        # cashews takes 0 for no bound, too.
        return cls(shelf, key, new_id(), expire or None)

    def resource(self, backend: Backend) -> Resource:
        """Return the view of it."""
        return Resource(
            backend.store,
            f"{self.key}:{self.generation.hex()}",
            needs=(),
            lifetimes=Lifetimes(self.expire, OPTIONS.longest_run),
            select=None,
            max_variants=1,
        )

    async def is_there(self) -> bool:
        """Whether there is an entry."""
        try:
            return isinstance(await self._look_up(), Hit)
        except StoreError:
            return False

    async def response(self, call: Call) -> Response | None:
        """Return a response for a call of its own; None if there is no whole entry."""
        try:
            backend = await self.shelf.present()
            resource = self.resource(backend)
            found = await find_entry(dataclasses.replace(call, key=resource.key), resource)
        except StoreError:
            return None
        return found.response if isinstance(found, Fresh) else None

    async def keep_pointer(self) -> bool:
        """
        Let the pointer live for as long as the entry will, from now on; return whether it is there.

        Raises:
            StoreError: The store failed.
        """
        for _ in range(_ATTEMPTS):
            raw, pointer = await self.shelf.value(self.key)
            if raw is None or self.generation not in pointer:
                # Another value stands there by now.
                return False
            if await self.shelf.keep(self.key, raw, self.expire):
                return True
        return True

    async def retire(self) -> None:
        """
        Let an entry that another one replaces expire, where it would otherwise never do so.

        Raises:
            StoreError: The store failed.
        """
        if self.expire is not None:
            return
        found = await self._look_up()
        if isinstance(found, Hit):
            backend = await self.shelf.present()
            await self.resource(backend).expire(found.entry)

    async def _look_up(self) -> Found:
        return await self.resource(await self.shelf.present()).look_up()
