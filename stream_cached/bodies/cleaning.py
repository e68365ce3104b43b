"""What keeps a directory of bodies clean: leftovers of killed writers, and its bound."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock

from stream_cached.bodies.threads import submit

lock: Callable[[int], bool] | None
"""Locks an open file; returns False if another process or descriptor has locked it."""

try:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    lock = _lock
except ImportError:
    lock = None

#: The part of the bound that is left in use when the least recently used files are deleted.
_KEPT = 0.9

#: The part of the bound that this process writes before it looks again.
_LOOK_AFTER = 0.05

_DIRECTORY = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f-]+")


class Cleaner:
    """
    Cleans a directory up, in one process at a time. All methods but `added` belong in threads.

    Args:
        root: The directory.
        max_bytes: Bytes of all files; None for no bound.
    """

    def __init__(self, root: Path, max_bytes: int | None) -> None:
        self.unfinished = root / "unfinished"
        self._root = root
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._cleaned_by: int | None = None
        self._added = 0

    def at_start(self) -> None:
        """Clean up, if this process has not done so yet."""
        with self._lock:
            is_first, self._cleaned_by = self._cleaned_by != os.getpid(), os.getpid()
        if is_first:
            self.clean()

    def added(self, size: int) -> None:
        """Note that this process has added a file. From time to time, the bound is looked at."""
        if self._max_bytes is None:
            return
        with self._lock:
            self._added += size
            is_due = self._added >= self._max_bytes * _LOOK_AFTER
            self._added = 0 if is_due else self._added
        if is_due:
            submit(self.clean)

    def clean(self) -> None:
        """Delete what killed writers have left, and what is too much; not if another does so."""
        # Whatever can't be deleted now can be deleted later.
        with contextlib.suppress(OSError):
            self.unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self._root / "lock", "ab") as file:
                if lock is not None and lock(file.fileno()):
                    self._delete_unfinished()
                    self._delete_least_recent()

    def _delete_unfinished(self) -> None:
        for path in self.unfinished.iterdir():
            with contextlib.suppress(OSError), open(path, "rb") as file:
                # Its writer holds the lock for as long as it lives.
                if lock is not None and lock(file.fileno()):
                    path.unlink()

    def _delete_least_recent(self) -> None:
        if self._max_bytes is None:
            return
        found = [
            (modified, size, f"{directory}/{name}")
            for directory in self.directories()
            for name, size, modified in self.files(directory)
        ]
        used = sum(size for _, size, _ in found)
        if used <= self._max_bytes:
            return
        for _, size, name in sorted(found):
            if used <= self._max_bytes * _KEPT:
                break
            (self._root / name).unlink(missing_ok=True)
            used -= size

    def directories(self) -> list[str]:
        """Return the names of the directories that hold files."""
        try:
            return sorted(filter(_DIRECTORY.fullmatch, os.listdir(self._root)))
        except FileNotFoundError:
            return []

    def files(self, directory: str) -> list[tuple[str, int, float]]:
        """Return the name, the size and the time of the last use of each file of a directory."""
        return list(self._files(directory))

    def _files(self, directory: str) -> Iterator[tuple[str, int, float]]:
        try:
            entries = os.scandir(self._root / directory)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                # It may be deleted meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if _FILE.fullmatch(entry.name):
                        found = entry.stat(follow_symlinks=False)
                        yield entry.name, found.st_size, found.st_mtime
