"""One object that is being uploaded: by one request if it is small, else in parts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

import obstore

from stream_cached.bodies.futures import begun
from stream_cached.errors import StoreError
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obstore.store import AzureStore, GCSStore, S3Store

logger = logging.getLogger("stream_cached")

#: Bytes of a part. A smaller object is sent by one request. S3 takes no smaller parts.
_PART = 5 * 1024 * 1024

#: Parts of one upload that are sent at the same time.
_PARTS_AT_ONCE = 2


class _Owner(Protocol):
    name: str

    @property
    def longest(self) -> float: ...

    def failure(self, what: str, exc: Exception) -> StoreError: ...

    async def delete(self, names: Sequence[str]) -> None: ...


class ObjectUpload:
    """An object that nobody sees before it is whole."""

    def __init__(self, owner: _Owner, bucket: S3Store | GCSStore | AzureStore, name: str) -> None:
        self._owner = owner
        self._name = name
        self._writer = obstore.open_writer_async(
            bucket, name, buffer_size=_PART, max_concurrency=_PARTS_AT_ONCE
        )
        self._pieces: list[bytes] = []
        self._size = 0
        """Bytes of these pieces, which are less than a part."""
        self._given = self._taken = 0
        """Bytes that came from the caller, and those that obstore has taken."""
        self._sending: asyncio.Future[int] | None = None
        self._is_first = True
        """Whether what is being sent begins an upload in parts."""
        self._ending: asyncio.Future[None] | None = None
        self._aborting: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._given += len(data)
        if self._size >= _PART:
            await self._send(_PART)

    async def finish(self) -> None:
        await self._send(1)
        await self._taken_up()
        self._check()
        if self._taken < self._given:
            raise StoreError("write: a part of the upload is missing")
        self._ending = begun(self._writer.close())
        # It goes on where the caller is cancelled: an abort waits for it.
        await self._over(self._ending)

    async def abort(self) -> None:
        if self._aborting is None:
            self._aborting = spawn(self._abort())
        await asyncio.wait((self._aborting,))

    async def _send(self, least: int) -> None:
        """Give parts of at least so many bytes to obstore, one behind what comes meanwhile."""
        data = memoryview(b"".join(self._pieces))
        self._pieces, self._size = [], 0
        while len(data) >= least:
            await self._taken_up()
            self._check()
            part, data = data[:_PART], data[_PART:]
            self._sending = begun(self._writer.write(part))
        if data:
            self._pieces, self._size = [bytes(data)], len(data)

    async def _taken_up(self) -> None:
        """Wait until obstore has taken the last part: while two others are sent, it takes none."""
        if self._sending is not None:
            self._taken += await self._over(self._sending)
            self._sending, self._is_first = None, False

    def _check(self) -> None:
        if self._aborting is not None:
            raise StoreError("write: the upload was given up")

    async def _over(self, future: asyncio.Future[Any]) -> Any:
        """Wait for what obstore does; return or raise what became of it."""
        await asyncio.wait((future,), timeout=self._owner.longest)
        if not future.done():
            raise StoreError("write: obstore does not come back")
        if future.cancelled():
            raise StoreError("write: the upload was given up")
        try:
            return future.result()
        except Exception as exc:
            raise self._owner.failure("write", exc) from exc

    async def _abort(self) -> None:
        self._pieces.clear()
        longest = self._owner.longest
        if self._sending is not None:
            # Cancelled while it begins an upload, it would leave one of an unknown number.
            if not self._is_first:
                self._sending.cancel()
            await asyncio.wait((self._sending,), timeout=longest)
        try:
            if self._ending is None:
                aborting = begun(self._writer.__aexit__(StoreError, None, None))
                await asyncio.wait((aborting,), timeout=longest)
                if aborting.done():
                    aborting.result()
            else:
                # obstore aborts what does not end well. But an answer may have been lost.
                await asyncio.wait((self._ending,), timeout=longest)
                await self._owner.delete([self._name])
        except Exception as exc:
            failure = self._owner.failure("abort", exc)
            logger.warning(
                "%s: parts of an upload may be left there (%s)", self._owner.name, failure
            )
