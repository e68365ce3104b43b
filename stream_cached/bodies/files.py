"""Bodies as files of one directory, which the processes of one machine share.

A file has a temporary name until it is whole. Its writer locks it, so that the file of a killed
writer can be told from one that is still written. Files are not forced to the disk: what a crash of
the machine leaves of them does not fit its record, and counts as missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

from stream_cached.bodies.cleaning import Cleaner, lock
from stream_cached.bodies.protocol import MissingBodyError, StoredBody
from stream_cached.bodies.threads import in_thread, submit
from stream_cached.errors import ConfigurationError, StoreError

T = TypeVar("T")

#: Bytes that are written or read by one call in a thread.
_BLOCK = 1024 * 1024

#: Seconds by which the time of the last use may be out of date.
_USED_AGAIN = 60.0

_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f-]+")

#: What no later attempt can put right.
_SETTINGS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT})


class FileBodies:
    """
    A directory of bodies.

    Args:
        path: The directory. It is created when it is missing.
        max_bytes: Bytes of all files. Beyond that, the least recently used are deleted. None for
            no bound.

    Raises:
        ConfigurationError: The path is not absolute, or the system can't lock files.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        self.root = Path(path)
        if not self.root.is_absolute():
            raise ConfigurationError(f"{path}: pass an absolute path")
        if lock is None:
            raise ConfigurationError("file:// needs flock, which this system does not have")
        self.name = f"file://{self.root}"
        self.capacity = max_bytes
        self.cleaner = Cleaner(self.root, max_bytes)

    def upload(self, name: str) -> FileUpload:
        return FileUpload(self, self.path_of(name))

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> FileReading:
        path = self.path_of(name)
        # The header alone is no hit: a sweep reads it of all files.
        is_hit = start > 0 or stop is None

        def opened() -> tuple[int, int]:
            found = _opened(path)
            if is_hit:
                _note_use(found[0])
            return found

        opening = submit(opened)
        try:
            descriptor, size = await asyncio.wrap_future(opening)
        except OSError as exc:
            raise self.failure("open", exc) from exc
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unless_failed)
            raise
        return FileReading(self, descriptor, start, size if stop is None else min(stop, size))

    async def delete(self, names: Sequence[str]) -> None:
        paths = [self.path_of(name) for name in names]

        def unlink() -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        await self.call("delete", unlink)

    async def listed(self) -> AsyncIterator[StoredBody]:
        directories = await self.call("list", self.cleaner.directories)
        for directory in directories:
            found = await self.call("list", partial(self.cleaner.files, directory))
            for name, size, modified in found:
                yield StoredBody(f"{directory}/{name}", size, modified)

    async def ping(self) -> None:
        def probe() -> None:
            descriptor, path = self.created()
            os.close(descriptor)
            path.unlink(missing_ok=True)
            self.cleaner.clean()

        await self.call("ping", probe)

    async def close(self) -> None:
        return

    # -- for uploads and readings -----------------------------------------------------------

    def path_of(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self.root / name

    def created(self) -> tuple[int, Path]:
        """Create and lock a file with a temporary name. To be called in a thread."""
        self.cleaner.at_start()
        directory = self.cleaner.unfinished
        while True:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = directory / secrets.token_hex(16)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # The cleaner may have found it before it was locked.
                if lock is not None and lock(descriptor) and os.fstat(descriptor).st_nlink:
                    return descriptor, path
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
            os.close(descriptor)

    async def call(self, what: str, function: Callable[[], T]) -> T:
        """Call a function in a thread; what it raises is a `StoreError`."""
        try:
            return await in_thread(function)
        except OSError as exc:
            raise self.failure(what, exc) from exc

    def failure(self, what: str, exc: OSError) -> StoreError:
        text = f"{what}: {exc.strerror or exc}"
        if what == "open" and isinstance(exc, FileNotFoundError):
            return MissingBodyError(text)
        if exc.errno in _SETTINGS:
            fix = f"let this process create and write files in {self.root}"
            return StoreError(text).with_fix(fix)
        return StoreError(text)


class FileUpload:
    """A file that is being written, one block behind what it is given."""

    def __init__(self, bodies: FileBodies, path: Path) -> None:
        self._bodies = bodies
        self._path = path
        self._buffer = bytearray()
        self._given = 0
        self._writing: Future[None] | None = None
        # What follows is used only in threads, one at a time.
        self._lock = Lock()
        self._descriptor: int | None = None
        self._temporary: Path | None = None
        self._is_over = self._is_visible = False
        self._size = 0

    async def write(self, data: bytes) -> None:
        self._buffer += data
        self._given += len(data)
        if len(self._buffer) >= _BLOCK:
            await self._written()
            block, self._buffer = bytes(self._buffer), bytearray()
            self._writing = submit(lambda: self._append(block))

    async def finish(self) -> None:
        await self._written()
        rest, self._buffer = bytes(self._buffer), bytearray()
        await self._bodies.call("write", lambda: self._publish(rest))
        self._bodies.cleaner.added(self._size)

    async def abort(self) -> None:
        self._buffer.clear()
        removing = submit(self._remove)
        try:
            with contextlib.suppress(OSError):
                await asyncio.wrap_future(removing)
        except asyncio.CancelledError:
            # No thread had come to it yet. It is removed all the same, and nobody waits for that.
            if removing.cancelled():
                submit(self._remove)
            raise

    async def _written(self) -> None:
        """Wait until the last block is written."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            await asyncio.wrap_future(writing)
        except OSError as exc:
            raise self._bodies.failure("write", exc) from exc

    # -- in a thread ------------------------------------------------------------------------

    def _append(self, block: bytes) -> None:
        with self._lock:
            if self._is_over:
                raise OSError(errno.ECANCELED, "the upload was given up")
            if self._descriptor is None:
                self._descriptor, self._temporary = self._bodies.created()
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._size += len(block)

    def _publish(self, rest: bytes) -> None:
        self._append(rest)
        with self._lock:
            # A write that was cancelled may be missing.
            if self._is_over or self._temporary is None or self._size != self._given:
                raise OSError(errno.ECANCELED, "the upload was given up")
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._temporary.rename(self._path)
            self._is_visible = self._is_over = True
            self._close()

    def _remove(self) -> None:
        with self._lock:
            self._is_over = True
            path = self._path if self._is_visible else self._temporary
            self._is_visible, self._temporary = False, None
            if path is not None:
                path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class FileReading:
    """An open file, which is read one block ahead."""

    def __init__(self, bodies: FileBodies, descriptor: int, start: int, stop: int) -> None:
        self._bodies = bodies
        self._descriptor: int | None = descriptor
        self._lock = Lock()
        self._next, self._stop = start, stop
        self._block = memoryview(b"")
        self._ahead: Future[bytes] | None = None

    def __del__(self) -> None:
        # A response that was never sent does not close what it would have read.
        self._close()

    async def read(self, size: int) -> bytes:
        pieces = []
        while size and (self._block or await self._fill(size)):
            piece = self._block[:size]
            self._block = self._block[size:]
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    async def _fill(self, size: int) -> bool:
        """Take the next block. Return False at the end."""
        ahead, self._ahead = self._ahead or self._begin(size), None
        if ahead is None:
            return False
        try:
            block = await asyncio.wrap_future(ahead)
        except OSError as exc:
            raise self._bodies.failure("read", exc) from exc
        self._block = memoryview(block)
        self._ahead = self._begin(_BLOCK)
        return True

    def _begin(self, size: int) -> Future[bytes] | None:
        start, self._next = self._next, min(self._next + max(size, _BLOCK), self._stop)
        stop = self._next
        return submit(lambda: self._read(start, stop)) if start < stop else None

    async def close(self) -> None:
        await asyncio.wrap_future(submit(self._close))

    # -- in a thread ------------------------------------------------------------------------

    def _read(self, start: int, stop: int) -> bytes:
        with self._lock:
            if self._descriptor is None:
                raise OSError(errno.ECANCELED, "the file is closed")
            data = os.pread(self._descriptor, stop - start, start)
        if len(data) < stop - start:
            raise OSError(errno.EIO, "the file is shorter than it was")
        return data

    def _close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def _opened(path: Path) -> tuple[int, int]:
    """Open a file. Return its descriptor and its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return descriptor, os.fstat(descriptor).st_size
    except BaseException:
        os.close(descriptor)
        raise


def _note_use(descriptor: int) -> None:
    """Note that a file is used. If that fails, it only goes a little too early."""
    with contextlib.suppress(OSError):
        if time.time() - os.fstat(descriptor).st_mtime > _USED_AGAIN:
            os.utime(descriptor)


def _close_unless_failed(opening: Future[tuple[int, int]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])
