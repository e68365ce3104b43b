"""One execution of an endpoint, from its claim until nothing of it is left.

A run owns its stream, its recorder, its lease and its place in the registry, and it is the only one
that ends them. `advance` looks an event up in the table of `states`. It carries out at once what
needs no I/O, and queues the rest for one task, which works through the queue in order. Feeding a
chunk, waking readers and reading do not pass through `advance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stream_cached.entries.recorder import Recorder
from stream_cached.format.progress import Head
from stream_cached.format.records import Entry
from stream_cached.http.headers import content_length
from stream_cached.http.reasons import NotCached, Scope
from stream_cached.keys.variants import Variant
from stream_cached.limits import Limits
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.runs.answer import Answer, Joined, Recording, Remote, Storage
from stream_cached.runs.audience import Audience
from stream_cached.runs.claim import Claim
from stream_cached.runs.effects import EffectQueue
from stream_cached.runs.joining import join
from stream_cached.runs.line import Line
from stream_cached.runs.producer import Producer
from stream_cached.runs.states import JOINABLE, QUEUED, Effect, Event, GivenUp, RunState
from stream_cached.runs.streaming import streaming
from stream_cached.streams.asides import Asides
from stream_cached.streams.ends import CANCELLED, Aborted, Complete, End, Failed
from stream_cached.streams.protocols import Archive, Source
from stream_cached.streams.reader import Reader, Seat
from stream_cached.streams.stream import Stream

if TYPE_CHECKING:
    from stream_cached.runs.registry import RunRegistry

#: Why readers who joined are cut.
_PRIVATE = "it turned out to be one client's own"


class Run(Claim):
    """One run. `Claim` says what its parameters are."""

    stream: Stream | None = None
    answer: Answer | None = None
    remote: Remote | None = None
    recorder: Recorder | None = None
    _storage: Storage | None = None
    _cut_because = ""
    given_up: GivenUp | None = None
    end: End = CANCELLED
    _producer: Producer | None = None
    audience: Audience | None = None
    _failed_apart: Callable[[BaseException], None] | None = None

    def __init__(self, registry: RunRegistry | None, key: str, variant: Variant) -> None:
        super().__init__(registry, key, variant)
        self.loop = asyncio.get_running_loop()
        self.line_to_look, self.line_to_join = Line(), Line()
        self._effects = EffectQueue()

    def __repr__(self) -> str:
        readers = 0 if self.stream is None else len(self.stream.seats)
        return f"<Run {self.state.name} {self.key!r}, {readers} readers>"

    # -- states -----------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        if effect in QUEUED:
            self._effects.put(self, effect)
            return
        match effect:
            case Effect.UNLIST:
                self.unlist()
            case Effect.WAKE:
                self._answered.set()
            case Effect.RELEASE if self.lease is not None:
                self.lease.release()
            case Effect.CUT if self._cut_because and self.stream is not None:
                self.stream.cut_joined(self._cut_because)
            case Effect.BACK_OFF if isinstance(self.end, Failed) and self.answer is not None:
                if self.answer.stale_place is not None and self._registry is not None:
                    self._registry.back_off(self.answer.stale_place)
            case Effect.STOP_SOURCE:
                assert self._producer is not None
                self._producer.stop()

    # -- the answer -------------------------------------------------------------------------

    def begin(self, source: Source | None, answer: Answer, recording: Recording | None) -> None:
        """
        Take over the answer of the endpoint.

        A body at hand has no `source`, and an answer that is not stored has no `recording`.
        """
        self.answer, self.declared = answer, content_length(answer.head.headers)
        if recording is not None:
            self._record(answer, recording)
        if source is not None:
            answer.shield.take_over()
            self._stream_from(source, answer, archive=None)
        if recording is None:
            self.unlist()
            answer.shield.reveal()
            return
        self.versions = dict(recording.resource.versions)
        self.advance(Event.ANSWER)
        if self.lease is not None and self.audience is not None:
            self.lease.report_to(self)
            self.audience.expect_start()

    def _stream_from(self, source: Source, answer: Answer, archive: Archive | None) -> None:
        self.stream = Stream(
            self,
            max_ahead=answer.limits.max_ahead,
            spool_max=answer.limits.spool_max,
            commit_wait=answer.commit_wait,
            recorder=self.recorder,
            archive=archive,
        )
        self._producer = Producer(self, source, self.stream, answer)
        self.audience = Audience(self, self.stream, answer)
        streaming.add(self)

    def _record(self, answer: Answer, recording: Recording) -> None:
        self.variant = answer.head.names, answer.head.variant
        channel = None if self.lease is None else self.lease.channel
        if channel is not None:
            channel.open(answer.head)
        self._storage = recording.storage
        self.recorder = recording.recorder(self, answer.limits, channel)

    def store_body(self) -> asyncio.Task[None]:
        """Store the body at hand. Return the task that does so."""
        assert self.answer is not None
        assert self.recorder is not None
        self.recorder.feed([self.answer.body or b""])
        self.advance(Event.COMPLETE)
        return self._effects.end_with(self, self.finish)

    def follow(
        self, remote: Remote, head: Head, limits: Limits, versions: Mapping[str, bytes]
    ) -> None:
        """Read a run of another process, for the requests of this one."""
        self.answer = Answer(head, limits, DisconnectShield(), 0, generation=remote.token)
        self.remote, self.declared = remote, content_length(head.headers)
        self._stream_from(remote, self.answer, archive=remote)
        self.variant, self.versions = (head.names, head.variant), versions
        self.advance(Event.ANSWER)
        # The remote run may end long before its slow readers here do.
        remote.followed_by(self)
        self.start()

    # -- joining ----------------------------------------------------------------------------

    @property
    def is_recorded(self) -> bool:
        return self.recorder is not None and not self.recorder.is_failed

    @property
    def is_unstored(self) -> bool:
        """Whether the run was recorded in vain."""
        return self.recorder is not None and self.recorder.is_failed

    @property
    def can_be_joined(self) -> bool:
        """Whether one more request may have the answer from its beginning."""
        if self.state not in JOINABLE or self.answer is None or not self.is_listed:
            return False
        if self.stream is None or (self.stream.is_kept and self.stream.holds_begin):
            return True
        # An endpoint that knows of its client's disconnect may cut its body short.
        return self.stream.is_whole and not self.answer.shield.has_revealed

    async def join(self, seconds: float, since: float, *, at_once: bool) -> Joined | None:
        return await join(self, seconds, since, at_once=at_once)

    def read(self, asides: Asides | None = None) -> Reader:
        assert self.stream is not None
        return self.stream.read(self.declared, asides=asides)

    @property
    def is_for_one(self) -> bool:
        """Whether a reader that has no chunk yet should run the endpoint itself."""
        # Without a stream it has ended well, and its last reader has left.
        match None if self.stream is None else self.stream.end:
            case Aborted():
                return True
            case Failed():
                return not self._shares_failure()
        failure = None if self.recorder is None else self.recorder.failure
        return failure is not None and failure.scope not in (Scope.STORE, Scope.LIMIT)

    def _shares_failure(self) -> bool:
        """Whether readers that have no chunk are given what the source has raised."""
        is_backed = self.answer is not None and self.answer.stale_place is not None
        return self.remote is None and not is_backed and self.objection() is None

    # -- the source -------------------------------------------------------------------------

    @property
    def background_error(self) -> BaseException | None:
        """What was raised after the body was complete."""
        return None if self._producer is None else self._producer.error

    @property
    def is_started(self) -> bool:
        return self._producer is not None and self._producer.is_started

    @property
    def is_aborting(self) -> bool:
        return self.state is RunState.ABORTED

    def start(self) -> None:
        if self._producer is not None and self._producer.start():
            if self.audience is not None:
                self.audience.started()
            if self.recorder is not None and not self.recorder.is_failed:
                self.recorder.start()

    def abandon(self) -> None:
        """Send waiting requests away, because no request began to read."""
        self._cut_because = "no request began to read it"
        self.advance(Event.ABANDON)

    def abort(self, reason: GivenUp) -> None:
        """Give the run up: nothing is stored, and readers end broken."""
        self.given_up = self.given_up or reason
        self.advance(Event.ABORT)

    def finish_body(self) -> None:
        """Note that the body is complete, though the source itself goes on."""
        self.advance(Event.COMPLETE)

    def mark_unstorable(self, reason: NotCached, cause: Exception | None = None) -> None:
        """Note that the body must not be stored, however it ends."""
        if self.recorder is not None:
            self.recorder.fail(reason, cause)

    def source_ended(self, end: End) -> bool:
        """Note how the source ended. Return False if the body was complete before."""
        self.end = Aborted(self.given_up or "") if self.is_aborting else end
        return self.advance(Event.COMPLETE if isinstance(self.end, Complete) else Event.BREAK)

    async def settled(self) -> None:
        await self._effects.done()

    def finish_once_settled(self) -> None:
        self._effects.end_with(self, self.finish)

    async def finish(self) -> None:
        """End the run, now that its source is closed and its effects are carried out."""
        if self.stream is not None:
            self.stream.close(CANCELLED)
        self.advance(Event.CLOSE)
        if self.audience is not None:
            self.audience.end()
        try:
            await self.released()
        finally:
            self._over.set()
            self._report_apart()
            self._forget_parts()

    def _forget_parts(self) -> None:
        """Let go of what refers to the run: else it is there until a garbage collection."""
        is_over = self._over.is_set() and self.is_visible and self.background_error is None
        if is_over and not (self.stream is not None and self.stream.seats):
            if self.stream is not None:
                self.stream.forget_source()
            self.stream = self.recorder = self.audience = self._producer = self._storage = None

    @property
    def has_ended(self) -> bool:
        """Whether the readers can reach the end."""
        return self.stream is None or self.stream.end is not None

    def go_on_alone(self, failed_apart: Callable[[BaseException], None]) -> None:
        """Let the run outlive the call that leads it, and report what it raises."""
        self._failed_apart = failed_apart

    def _report_apart(self) -> None:
        if self._failed_apart is not None:
            error = self.end.cause if isinstance(self.end, Failed) else self.background_error
            if error is not None:
                self._failed_apart(error)

    # -- the readers ------------------------------------------------------------------------

    @property
    def goes_ahead(self) -> bool:
        return self.audience is not None and self.audience.goes_ahead

    @property
    def has_slow_readers(self) -> bool:
        return self.stream is not None and self.stream.has_slow_readers

    def set_followed(self, followed: bool) -> None:
        if self.audience is not None:
            self.audience.set_followed(followed)

    def reader_left(self, seat: Seat | None) -> None:
        if self.audience is not None:
            self.audience.left(seat)
            self._forget_parts()

    # -- the recorder -----------------------------------------------------------------------

    def objection(self) -> NotCached | None:
        reason = None if self._storage is None else self._storage.objection()
        if reason is not None and self.is_unstored and self.stream is not None:
            self._alone_for = reason.alone_for
            self.advance(Event.UNSTORE)
            # Where that is no event, readers have joined before the entry was given up.
            self.stream.cut_joined(_PRIVATE)
        return reason

    def recorder_moved(self) -> None:
        if self.stream is not None:
            self.stream.wake_source()

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        """Note that there will be no entry."""
        if self._storage is not None:
            self._storage.unstored(reason, cause)
        self._alone_for = reason.alone_for
        self._cut_because = _PRIVATE if reason.scope is Scope.PRIVATE else ""
        self.advance(Event.OUTGROW if reason.scope is Scope.LIMIT else Event.UNSTORE)
        if self.audience is not None:
            self.audience.lost_entry()

    def visible(self) -> None:
        self.is_visible = self.advance(Event.SHOW)

    async def stored(self, entry: Entry, digest: str) -> None:
        if self._storage is not None:
            await self._storage.stored(entry, digest)
