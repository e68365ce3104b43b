"""Bodies as objects of S3, Google Cloud Storage or Azure Blob Storage, through obstore.

obstore works in threads of its own, so that one store serves several event loops. What it begins is
a future, and what it had begun is dropped where that future is cancelled: an upload that is dropped
is not aborted. So only what can leave nothing behind is ever cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from stream_cached.bodies.object_errors import is_beyond_end, store_error
from stream_cached.bodies.object_reading import ObjectReading
from stream_cached.bodies.object_upload import ObjectUpload
from stream_cached.bodies.protocol import MissingBodyError, Patience, StoredBody
from stream_cached.errors import StoreError

T = TypeVar("T")

Bucket = S3Store | GCSStore | AzureStore

#: Bytes that are read by one call into obstore, and one such piece is read ahead.
_PIECE = 256 * 1024

_PAGE = 1000

#: Seconds before something is repeated.
_PAUSE = 0.1

_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f-]+")

#: What a ping writes and deletes. It is no name of a body.
_PING = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a store may take, in seconds, and how often it is asked."""

    connect_timeout: float = 1.0
    timeout: float = 5.0
    """From a request to its answer, and between two pieces of an object."""
    upload_timeout: float = 30.0
    """For one attempt at sending a part of an upload."""
    retries: int = 3
    retry_timeout: float = 10.0
    """From the first attempt to the last one."""


class _Process:
    """The process that has begun to use obstore: its threads do not survive a fork."""

    pid: int | None = None

    @classmethod
    def check(cls) -> None:
        cls.pid = cls.pid or os.getpid()
        if cls.pid != os.getpid():
            raise StoreError("this process was forked from one that had used the store").with_fix(
                "use the store only after the fork: not while a preloaded application is imported"
            )


class ObjectBodies:
    """
    A bucket, or a container, or what is under one prefix of it.

    Args:
        name: What it is called: its URL, without secrets.
        reads: The bucket for reading, whose time-out begins again with each piece.
        writes: The bucket for the rest.
        timing: How long it may take.
    """

    capacity = None

    def __init__(self, name: str, reads: Bucket, writes: Bucket, timing: Timing) -> None:
        self.name = name
        self.patience = Patience(timing.timeout, timing.upload_timeout)
        self._reads = reads
        self._writes = writes
        self._timing = timing

    def upload(self, name: str) -> ObjectUpload:
        _Process.check()
        return ObjectUpload(self, self._writes, name)

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> ObjectReading:
        if stop is not None and stop <= start:
            # No store knows an empty range.
            await self.call("open", lambda: obstore.head_async(self._reads, name))
            return ObjectReading(None, 0, self._timing.timeout, self.failure)
        options: obstore.GetOptions = {}
        if stop is not None:
            options = {"range": (start, stop)}
        elif start:
            options = {"range": {"offset": start}}
        try:
            found = await self.call(
                "open", lambda: obstore.get_async(self._reads, name, options=options)
            )
        except StoreError as exc:
            if is_beyond_end(exc.__cause__):
                return ObjectReading(None, 0, self._timing.timeout, self.failure)
            raise
        first, end = found.range
        stream = found.stream(min_chunk_size=_PIECE)
        return ObjectReading(stream, end - first, self._timing.timeout, self.failure)

    async def delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _PAGE):
            page = list(names[start : start + _PAGE])
            try:
                await self._delete(page)
            except MissingBodyError:
                # Not every store passes over a missing one, and it may have left out the others.
                for name in page if len(page) > 1 else ():
                    with contextlib.suppress(MissingBodyError):
                        await self._delete([name])

    async def _delete(self, names: list[str]) -> None:
        # obstore does not repeat it where its connection breaks, though that does no harm.
        now = asyncio.get_running_loop().time
        end, left = now() + self._timing.timeout, self._timing.retries
        while True:
            try:
                return await self.call("delete", lambda: obstore.delete_async(self._writes, names))
            except StoreError as exc:
                if exc.fix or isinstance(exc, MissingBodyError) or not left or now() >= end:
                    raise
            left -= 1
            await asyncio.sleep(_PAUSE)

    async def listed(self) -> AsyncIterator[StoredBody]:
        _Process.check()
        pages = aiter(obstore.list(self._reads, chunk_size=_PAGE))
        while (page := await self.call("list", lambda: anext(pages, None))) is not None:
            for found in page:
                # What else is there was not written by us.
                if _NAME.fullmatch(found["path"]):
                    modified = found["last_modified"].timestamp()
                    yield StoredBody(found["path"], found["size"], modified)

    async def ping(self) -> None:
        await self.call("ping", lambda: obstore.put_async(self._writes, _PING, b"ping"))
        # Another process may have deleted it meanwhile.
        await self.delete([_PING])

    async def close(self) -> None:
        # obstore closes the connections that nobody uses.
        return

    # -- for uploads ------------------------------------------------------------------------

    @property
    def longest(self) -> float:
        """Seconds after which obstore should have given up whatever it does for an upload."""
        return self._timing.retry_timeout + 3 * self._timing.upload_timeout

    async def call(self, what: str, begin: Callable[[], Awaitable[T]]) -> T:
        """Await what leaves nothing behind when it is cut short. What it raises is a StoreError."""
        _Process.check()
        try:
            async with asyncio.timeout(self._timing.timeout):
                return await begin()
        except Exception as exc:
            raise self.failure(what, exc) from exc

    def failure(self, what: str, exc: Exception) -> StoreError:
        if isinstance(exc, StoreError):
            return exc
        if isinstance(exc, TimeoutError) and not exc.args:
            return StoreError(f"{what}: no answer in {self._timing.timeout:g} s")
        return store_error(what, exc)
