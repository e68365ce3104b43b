"""The protocol of a store of bodies, with the guarantees that the library relies on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_cached.errors import StoreError


class MissingBodyError(StoreError):
    """There is no such object."""


class Upload(Protocol):
    """One object that is being written. Nobody sees it until `finish` has returned."""

    async def write(self, data: bytes) -> None:
        """
        Append bytes, however many. Wait only while as many are under way as may be.

        Raises:
            StoreError: The store failed; what remains is to abort.
        """

    async def finish(self) -> None:
        """
        Make the object visible, whole.

        Raises:
            StoreError: It is not visible, or the answer was lost and it may be.
        """

    async def abort(self) -> None:
        """
        Leave nothing behind.

        It can be called at any moment and more than once, also while a write or the end was
        cancelled. It never raises.
        """


class Reading(Protocol):
    """One opened object, which is read in order, and a bounded part of it ahead."""

    async def read(self, size: int) -> bytes:
        """
        Return exactly `size` bytes; fewer only at the end of what was asked for.

        Raises:
            StoreError: The store failed, or the object is shorter than when it was opened.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store waits by its own settings, in seconds; 0 where they say nothing."""

    answer: float = 0.0
    """For the answer to a request, and between two pieces of an object."""
    upload: float = 0.0
    """For one attempt at sending a part of an object."""


@dataclass(frozen=True, slots=True)
class StoredBody:
    """An object, as a listing shows it."""

    name: str
    size: int
    modified: float
    """Seconds since the epoch, by the clock of the store."""


class BodyStore(Protocol):
    """
    A store of whole objects, which never change. One that waits for others has a `patience`, too.

    Guarantees, which `tests/bodies/test_contract.py` checks for every store:

    - An object is visible, to this and any other client, when `Upload.finish` has returned, and not
      before. An upload that is aborted, or whose process is killed, never becomes one.
    - Objects are returned byte for byte.
    - Every failure is a `StoreError`. It has a `fix` if the store will fail again until somebody
      changes a setting.
    - Names consist of digits, the letters from a to f, `/` and `-`.
    """

    @property
    def name(self) -> str:
        """What it is called in the log and by `health()`: its URL, without secrets."""

    @property
    def capacity(self) -> int | None:
        """The size of the store in bytes; None if it is unbounded or unknown."""

    def upload(self, name: str) -> Upload:
        """Begin an object. This reaches no server yet."""

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> Reading:
        """
        Open an object, or the part of it from `start` up to `stop`.

        Raises:
            MissingBodyError: There is no such object.
        """

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects; a missing one is no error. Who reads one may read it to its end."""

    def listed(self) -> AsyncIterator[StoredBody]:
        """Yield all objects, in any order."""

    async def ping(self) -> None:
        """Raise `StoreError` unless the store can be reached, and written to."""

    async def close(self) -> None:
        """Close connections. The store can be used again afterwards."""
