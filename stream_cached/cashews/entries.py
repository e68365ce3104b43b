"""The entries of streams that cashews' own decorators store, in the backend of cashews' values."""

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
from stream_cached.http.policy import NEVER_STORED
from stream_cached.options import Options
from stream_cached.stores.transformed import CompressedStore

#: The options of streams under cashews' own decorators, which accept no options of this library. As
#: in cashews, any status is stored, and a `condition` decides; but a part is no whole response.
OPTIONS = Options(statuses=frozenset(range(200, 600)) - NEVER_STORED)

#: The attribute of a backend that holds its `CashewsEntries`. They refer to the backend, so a weak
#: dictionary would free neither.
_ATTRIBUTE = "_stream_cached_entries"

#: How often the ttl of a pointer is set if other processes replace the pointer meanwhile.
_ATTEMPTS = 5


@lru_cache(maxsize=1000)
def service_of(function: str) -> Service:
    """Return the engine's service for the function of this name."""
    return Service(
        version="",
        options=OPTIONS,
        headers=HeaderRules(OPTIONS, frozenset(), frozenset()),
        reporter=reporter_of(function),
        hooks=Hooks(),
        invalidated_before=InvalidatedBefore(time.monotonic),
    )


@lru_cache(maxsize=1000)
def reporter_of(function: str) -> Reporter:
    """Return the reporter that logs why responses of the function are not stored."""
    return Reporter(function)


class CashewsEntries:
    """The entries in one backend; their keys are the backend's keys, behind all middlewares."""

    def __init__(self, backend: CashewsBackend) -> None:
        serializer: Any = backend.serializer
        compressor = serializer._compressor
        self._binding = Binding(raw_view_of(backend), secrets=secrets_of(backend))
        self._serializer = serializer
        self._compressor = None if type(compressor) is Compressor else compressor

    @classmethod
    def of(cls, backend: CashewsBackend) -> CashewsEntries:
        """Return the entries of a backend; a backend that can't hold streams raises."""
        entries = getattr(backend, _ATTRIBUTE, None)
        if not isinstance(entries, CashewsEntries):
            entries = cls(backend)
            setattr(backend, _ATTRIBUTE, entries)
        return entries

    @property
    def backend(self) -> Backend:
        """The engine's backend, which may be down."""
        return self._with_compressor(self._binding.primary)

    async def connect(self) -> Backend:
        """Return the engine's backend; a backend that is down raises `StoreUnavailableError`."""
        return self._with_compressor(await self._connect())

    async def read(self, key: str) -> tuple[bytes | None, bytes]:
        """Return a cashews value as stored, and without signature and compression."""
        try:
            backend = await self._connect()
            # The server's own store returns the bytes unchanged; `backend.store` may expect our
            # signature.
            (raw,) = await (backend.server or backend.store).get_many([key])
        except StoreError:
            return None, b""
        if raw is None:
            return None, b""
        try:
            value: bytes = self._serializer._signer.check_sign(key, raw)
        # A damaged value makes cashews raise errors of many kinds.
        except Exception:
            return raw, b""
        with suppress(Exception):
            value = self._serializer._compressor.decompress(value)
        return raw, value

    async def set_ttl(self, key: str, raw: bytes, ttl: float | None) -> bool:
        """Give a key a new ttl if its value still is `raw`; return whether it is."""
        backend = await self._connect()
        if backend.server is None:
            # In memory, the value can't change between the read and this call. A value that is set
            # here would be wrapped, and cashews could not read it.
            return await backend.store.touch_many([key], ttl) > 0
        return await backend.server.compare_and_set(key, raw, raw, ttl)

    async def _connect(self) -> Backend:
        """Return the same as `connect`, without compression."""
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
    """A reference to the entry of one run, as pointers contain it."""

    entries: CashewsEntries
    key: str
    """The key of the pointer."""
    generation: bytes
    """The id of the run."""
    expire: float | None
    """Seconds that the entry lives; None for ever."""

    @classmethod
    def new(cls, entries: CashewsEntries, key: str, expire: float | None) -> EntryRef:
        """Return the reference for a new run."""
        # cashews stores a value with 0 for ever, too.
        return cls(entries, key, new_id(), expire or None)

    def resource(self, backend: Backend) -> Resource:
        """Return the engine's resource, whose only entry is this one."""
        return Resource(
            backend.store,
            f"{self.key}:{self.generation.hex()}",
            needs=(),
            lifetimes=Lifetimes(self.expire, OPTIONS.longest_run),
            select=None,
            max_variants=1,
        )

    async def has_entry(self) -> bool:
        """Whether the entry exists."""
        try:
            return isinstance(await self._look_up(), Hit)
        except StoreError:
            return False

    async def response(self, call: Call) -> Response | None:
        """Return a response of the entry; None if the entry is missing or incomplete."""
        try:
            backend = await self.entries.connect()
            resource = self.resource(backend)
            found = await find_entry(dataclasses.replace(call, key=resource.key), resource)
        except StoreError:
            return None
        return found.response if isinstance(found, Fresh) else None

    async def extend_pointer(self) -> bool:
        """Restart the ttl of the pointer; return whether the pointer still names this entry."""
        for _ in range(_ATTEMPTS):
            raw, pointer = await self.entries.read(self.key)
            if raw is None or self.generation not in pointer:
                # The key was deleted or holds another value.
                return False
            if await self.entries.set_ttl(self.key, raw, self.expire):
                return True
        return True

    async def retire(self) -> None:
        """Give an entry without a ttl one, because a newer entry has replaced it."""
        if self.expire is not None:
            return
        found = await self._look_up()
        if isinstance(found, Hit):
            backend = await self.entries.connect()
            await self.resource(backend).expire(found.entry)

    async def _look_up(self) -> Found:
        return await self.resource(await self.entries.connect()).look_up()
