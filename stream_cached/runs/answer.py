"""The answer of an endpoint: how a run takes it over, and hands it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stream_cached.entries.coding import Coder
from stream_cached.entries.protocols import Channel, Owner
from stream_cached.entries.recorder import Recorder
from stream_cached.entries.resource import Resource
from stream_cached.events import Reporter
from stream_cached.format.progress import Head
from stream_cached.format.records import Entry
from stream_cached.http.reasons import NotCached
from stream_cached.limits import Limits
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.runs.producer import Background
from stream_cached.streams.protocols import Archive, Source
from stream_cached.streams.reader import Reader
from stream_cached.streams.stream import COMMIT_WAIT

if TYPE_CHECKING:
    from stream_cached.runs.run import Run
    from stream_cached.streams.stream import Stream


class Storage(Protocol):
    """Whether a body may be stored, and what to tell of that."""

    def objection(self) -> NotCached | None:
        """Return why the body must not be stored, by what is known now. Asked at each chunk."""

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        """Report that there will be no entry."""

    async def stored(self, entry: Entry, digest: str) -> None:
        """Report that an entry is visible; `digest` is that of its body, if it is asked for."""


class Remote(Source, Archive, Protocol):
    """A run of another process."""

    token: bytes
    reads_ahead: bool
    """Whether it is read at its own pace, and not at that of the readers here."""

    async def shows_life(self, since: float, seconds: float) -> bool:
        """
        Wait for a sign of life after `since`. Return False if the run has ended.

        Raises:
            TimeoutError: There was none for so many seconds.
        """
        ...

    def followed_by(self, run: Run) -> None:
        """Let no other request join the run of this process once the remote one is over."""


# What is made for each run, or for each request that joins one, is not frozen: to set a field would
# cost three times as much. Nothing changes it all the same.


@dataclass(slots=True)
class Answer:
    """The answer of an endpoint, as its run records it or hands it on."""

    head: Head
    limits: Limits
    shield: DisconnectShield
    finish_timeout: float | None
    """Seconds that a run without readers goes on while it is stored; None without a bound."""
    commit_wait: float = COMMIT_WAIT
    background: Background | None = None
    reporter: Reporter | None = None
    """The log of the endpoint; None for a run of another process."""
    body: bytes | None = None
    """The body, if it is at hand."""
    generation: bytes | None = None
    """The random id of the run; None for a body at hand that is handed on."""
    last_event: Callable[[], int] | None = None
    """Returns the number of the last event so far, where the events of a run have ids."""
    is_complete: Callable[[Stream], bool] | None = None
    """Whether a body that ended cleanly is complete; None if each one is."""
    stale_place: str | None = None
    """The place of a stale entry that is left as it is for a while if the run fails."""


@dataclass(slots=True)
class Recording:
    """Where and how an answer is recorded."""

    resource: Resource
    entry: Entry
    varies_on: frozenset[str]
    storage: Storage
    hashes: bool = False
    """Whether the digest of the body is asked for."""
    coder: Coder | None = None
    """What compresses the body; None where it is stored as it is."""

    def recorder(self, run: Owner, limits: Limits, channel: Channel | None) -> Recorder:
        return Recorder(
            run,
            self.resource,
            self.entry,
            varies_on=self.varies_on,
            hashes=self.hashes,
            limits=limits,
            channel=channel,
            coder=self.coder,
        )


@dataclass(slots=True)
class Joined:
    """The answer of a run, for one more request."""

    run: Run
    answer: Answer
    reader: Reader | None
    """The reader of the stream; None for a body at hand."""
    until: float = 0.0
    """How long the reader may wait for the first chunk, by the clock of the event loop."""
