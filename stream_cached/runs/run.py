"""One execution of an endpoint, from its claim until nothing of it is left.

A run owns its stream, its recorder, its lease and its place in the registry, and it is the only one
that ends them. `advance` looks an event up in the table of `states`. It carries out at once what
needs no I/O, and queues the rest for one task, which works through the queue in order. Feeding a
chunk, waking readers and reading do not pass through `advance`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stream_cached.entries.recorder import Recorder
from stream_cached.format.progress import Head
from stream_cached.http.headers import content_length
from stream_cached.http.reasons import BypassError, Finding, NotCached, Scope
from stream_cached.keys.variants import Select, Variant, is_for
from stream_cached.limits import Limits
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.runs.answer import Answer, Joined, Recording, Remote, Storage
from stream_cached.runs.audience import Audience
from stream_cached.runs.producer import Producer
from stream_cached.runs.states import JOINABLE, TRANSITIONS, Effect, Event, RunState
from stream_cached.streams.ends import Aborted, Complete, End, Failed
from stream_cached.streams.reader import Reader, Seat
from stream_cached.streams.stream import Archive, Source, Stream
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.runs.lease import Lease
    from stream_cached.runs.registry import RunRegistry

#: Seconds within which the request that leads a run has to ask for the first chunk. Requests that
#: wait for the run are then sent away.
START_WITHIN = 1.0


class Run:
    """
    One run.

    Args:
        registry: Where other requests find it; None for a run that no request waits for.
        key: The key of the resource.
        variant: The variant that the request is for, as far as it is known.
    """

    def __init__(self, registry: RunRegistry | None, key: str, variant: Variant) -> None:
        self.key = key
        self.variant = variant
        self.identity = object()
        """Stands for the run where the run itself must not be kept alive."""
        self.versions: Mapping[str, bytes] = {}
        self.state = RunState.CLAIMED
        self.lease: Lease | None = None
        """What makes it the only run among processes; None if it need not be."""
        self.background_error: Exception | None = None
        self.brought_value = False
        """Whether the endpoint has answered with a plain value."""
        self.stream: Stream | None = None
        self._registry = registry
        self._is_listed = True
        self._answer: Answer | None = None
        self._generation: bytes | None = None
        self._remote: Remote | None = None
        self._recorder: Recorder | None = None
        self._storage: Storage | None = None
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self._alone = False
        self._cut_because = ""
        self._abort_because = ""
        self._end: End = Aborted("cancelled")
        self._producer: Producer | None = None
        self._audience: Audience | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._effects: deque[Effect] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        readers = 0 if self.stream is None else len(self.stream.seats)
        return f"<Run {self.state.name} {self.key!r}, {readers} readers>"

    # -- states -----------------------------------------------------------------------------

    def advance(self, event: Event) -> bool:
        """Take note of an event. Return False if it changes nothing in this state."""
        transition = TRANSITIONS[self.state].get(event)
        if transition is None:
            return False
        self.state, effects = transition
        for effect in effects:
            self._carry_out(effect)
        return True

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Effect.UNLIST:
                self._unlist()
            case Effect.WAKE:
                self._answered.set()
            case Effect.CUT if self._cut_because and self.stream is not None:
                self.stream.cut_joined(self._cut_because)
            case Effect.BACK_OFF if isinstance(self._end, Failed) and self._answer is not None:
                if self._answer.stale_place is not None and self._registry is not None:
                    self._registry.back_off(self._answer.stale_place)
            case Effect.STOP_SOURCE:
                assert self._producer is not None
                self._producer.stop()
            case Effect.END | Effect.COMMIT | Effect.DISCARD:
                self._effects.append(effect)
                if self._worker is None or self._worker.done():
                    self._worker = spawn(self._work())

    async def _work(self) -> None:
        """Carry out the queued effects, in order."""
        while self._effects:
            effect = self._effects.popleft()
            if effect is Effect.COMMIT:
                await self._commit()
            elif effect is Effect.END:
                self._close_stream(self._end)
            elif self._recorder is not None:
                await self._recorder.discard()

    async def _worked(self) -> None:
        """Wait until the queued effects are carried out, also if this task is cancelled."""
        cancellation: asyncio.CancelledError | None = None
        while self._worker is not None and not self._worker.done():
            try:
                await asyncio.wait({self._worker})
            except asyncio.CancelledError as exc:
                # A commit that has begun is not cut short.
                cancellation = exc
        if cancellation is not None:
            raise cancellation
        if self._worker is not None:
            await self._worker

    async def _commit(self) -> None:
        """Let the readers reach the end once the entry is visible, or that takes too long."""
        if self._recorder is None:
            self._close_stream(Complete())
            return
        assert self._answer is not None
        timer = self._loop.call_later(self._answer.commit_wait, self._close_stream, Complete())
        try:
            await self._recorder.commit()
        finally:
            timer.cancel()
            self._unlist()
            self._close_stream(Complete())
        await self._recorder.settled()

    def _close_stream(self, end: End) -> None:
        if self.stream is not None:
            self.stream.close(end)

    # -- the claim --------------------------------------------------------------------------

    def is_for(self, select: Select | None) -> bool:
        """Whether a request may be for the variant of this run, as far as it is known."""
        return is_for(self.variant, select)

    @property
    def token(self) -> bytes | None:
        """What other processes know the run by; None if they know nothing of it."""
        return None if self.lease is None else self.lease.token

    async def answered(self, seconds: float) -> bool:
        """Wait until the run can be joined, or has ended. Return whether that was in time."""
        if self._answered.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True

    def hold(self, lease: Lease) -> None:
        """Take over the lease of this run."""
        self.lease = lease

    def give_up_lease(self) -> None:
        """Release the lease, because the run of another process comes first."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    def retire(self) -> None:
        """Let no other request of this process join, though the run may go on."""
        self._is_listed = False
        if self._registry is not None:
            self._registry.remove(self, alone=False)
        self._answered.set()

    def withdraw(self) -> None:
        """Give the claim back."""
        self.advance(Event.CLOSE)

    def bring_value(self, versions: Mapping[str, bytes]) -> None:
        """Note that the endpoint has answered with a plain value."""
        self.brought_value, self.versions = True, versions
        self.advance(Event.VALUE)

    def refuse(self, variant: Variant, *, alone: bool) -> None:
        """Note that the answer is not stored; `alone` if no response of it can be shared."""
        self.variant, self._alone = variant, alone
        self.advance(Event.REFUSE)

    def fail(self, *, alone: bool) -> None:
        """Note that the endpoint has raised; `alone` if the exception is an answer."""
        self._alone = self._alone or alone
        self.advance(Event.RAISE)

    def _unlist(self) -> None:
        self._is_listed = False
        if self._registry is not None:
            self._registry.remove(self, alone=self._alone)
        self._answered.set()
        if self.lease is not None:
            self.lease.release(alone=self.variant if self._alone else None)

    async def released(self) -> None:
        """Wait until other processes know of the end."""
        if self.lease is not None:
            await self.lease.released()

    async def close(self) -> None:
        """End a run without a stream, and wait until other processes know."""
        self.advance(Event.CLOSE)
        await self.released()

    # -- the answer -------------------------------------------------------------------------

    def begin(self, source: Source | None, answer: Answer, recording: Recording | None) -> None:
        """
        Take over the answer of the endpoint.

        Args:
            source: What makes the body; None for a body at hand.
            answer: The answer.
            recording: How it is recorded; None for an answer that is not stored.
        """
        self._answer = answer
        if recording is not None:
            self._record(answer, recording)
        if source is not None:
            answer.shield.in_flight = True
            self._stream_from(source, answer, archive=None)
        if recording is None:
            self._unlist()
            self._reveal()
            return
        self.versions = dict(recording.resource.versions)
        self.advance(Event.ANSWER)
        if self.lease is not None and source is not None:
            self._expect_start()

    def _stream_from(self, source: Source, answer: Answer, archive: Archive | None) -> None:
        self.stream = Stream(
            self,
            max_ahead=answer.limits.max_ahead,
            spool_max=answer.limits.spool_max,
            commit_wait=answer.commit_wait,
            recorder=self._recorder,
            archive=archive,
        )
        self._producer = Producer(self, source, self.stream)
        self._audience = Audience(self, self.stream, answer.finish_timeout)
        _streaming.add(self)

    def _record(self, answer: Answer, recording: Recording) -> None:
        self.variant = answer.head.names, answer.head.variant
        channel = None if self.lease is None else self.lease.channel
        if channel is not None:
            channel.open(answer.head)
        self._storage = recording.storage
        self._generation = recording.entry.generation
        self._recorder = Recorder(
            self,
            recording.resource,
            recording.entry,
            varies_on=recording.varies_on,
            limits=answer.limits,
            channel=channel,
        )

    def store_body(self) -> asyncio.Task[None]:
        """Store the body at hand. Return the task that does so."""
        assert self._answer is not None
        assert self._recorder is not None
        self._recorder.feed(self._answer.body or b"")
        self.advance(Event.COMPLETE)
        return spawn(self._close_stored())

    async def _close_stored(self) -> None:
        await self._worked()
        await self.close()
        self._over.set()

    def follow(
        self, remote: Remote, head: Head, limits: Limits, versions: Mapping[str, bytes]
    ) -> None:
        """Read a run of another process, for the requests of this one."""
        self._answer = Answer(head, limits, DisconnectShield(), finish_timeout=0)
        self._remote = remote
        self._stream_from(remote, self._answer, archive=remote)
        self.variant, self.versions = (head.names, head.variant), versions
        self.advance(Event.ANSWER)
        self.start()

    # -- joining ----------------------------------------------------------------------------

    @property
    def is_recorded(self) -> bool:
        """Whether there may be an entry."""
        return self._recorder is not None and not self._recorder.is_failed

    @property
    def can_be_joined(self) -> bool:
        """Whether one more request may have the answer from its beginning."""
        if self.state not in JOINABLE or self._answer is None or not self._is_listed:
            return False
        return self.stream is None or self.stream.is_kept

    async def join(self, seconds: float, since: float) -> Joined | None:
        """
        Return the answer for one more request; None if there is none for it.

        Args:
            seconds: How long to wait for the first chunk.
            since: When the request began, by the monotonic clock.

        Raises:
            BypassError: There is no chunk by then.
        """
        if not self._is_listed:
            return None
        # The run of a process that was killed looks as if it went on.
        if self._remote is not None and not await self._remote.shows_life(since, seconds):
            return None
        if not self.can_be_joined:
            return None
        assert self._answer is not None
        head = self._answer.head
        if self.stream is None:
            return Joined(self, head, None, self._answer.body, self._generation)
        reader = self.stream.read(content_length(head.headers), joins=True)
        self._kept_by_reader()
        joined = Joined(self, head, reader, self._answer.body, self._generation)
        if reader.is_at_hand:
            return joined
        begins = False
        try:
            # Until there is a chunk, the stream may turn out to be for its own client only.
            async with asyncio.timeout(seconds):
                begins = await reader.begun()
        except TimeoutError as exc:
            raise BypassError(Finding(NotCached.WAITED)) from exc
        finally:
            if not begins:
                reader.close()
        return joined if begins else None

    def _kept_by_reader(self) -> None:
        assert self._audience is not None
        self._audience.keep()
        self._expect_start()

    def read(self) -> Reader:
        """Return the reader of the request that leads the run."""
        assert self.stream is not None
        assert self._answer is not None
        return self.stream.read(content_length(self._answer.head.headers))

    @property
    def is_for_one(self) -> bool:
        """Whether a reader that has no chunk yet should run the endpoint itself."""
        assert self.stream is not None
        if isinstance(self.stream.end, Failed | Aborted):
            return True
        failure = None if self._recorder is None else self._recorder.failure
        return failure is not None and failure.scope is not Scope.STORE

    # -- the source -------------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether the source is drained, or was."""
        return self._producer is not None and self._producer.is_started

    @property
    def is_aborting(self) -> bool:
        """Whether the source has to stop."""
        return self.state is RunState.ABORTED

    def start(self) -> None:
        """Begin to drain the source."""
        if self._producer is not None and not self._producer.is_started:
            self._producer.start()
            if self._start_timer is not None:
                self._start_timer.cancel()
            if self._recorder is not None:
                self._recorder.start()

    def _expect_start(self) -> None:
        """Send waiting requests away unless the run is started in time."""
        if not self.is_started and self._start_timer is None:
            self._start_timer = self._loop.call_later(START_WITHIN, self._abandon)

    def _abandon(self) -> None:
        if not self.is_started:
            self._cut_because = "no request began to read it"
            self.advance(Event.ABANDON)

    def abort(self, reason: str) -> None:
        """Give the run up: nothing is stored, and readers end broken."""
        self._abort_because = self._abort_because or reason
        self.advance(Event.ABORT)

    def finish_body(self) -> None:
        """Note that the body is complete, though the source itself goes on."""
        self.advance(Event.COMPLETE)

    def mark_incomplete(self) -> None:
        """Note that the body must not be stored, however it ends."""
        if self._recorder is not None:
            self._recorder.fail(NotCached.INCOMPLETE)

    async def wind_up(self, end: End) -> None:
        """End the run, now that its source is closed."""
        try:
            if self.is_aborting:
                end = Aborted(self._abort_because)
            self._end = end
            ends = self.advance(Event.COMPLETE if isinstance(end, Complete) else Event.BREAK)
            if not ends and isinstance(end, Failed):
                # The body was complete before: the source raised after it.
                self.background_error = end.cause
            await self._worked()
            await self._run_background()
        finally:
            await self._finish()

    async def _run_background(self) -> None:
        background = None if self._answer is None else self._answer.background
        if background is not None and self.stream and isinstance(self.stream.end, Complete):
            try:
                await background()
            except Exception as exc:
                self.background_error = exc

    async def _finish(self) -> None:
        self._close_stream(Aborted("cancelled"))
        if self._audience is not None:
            self._audience.keep()
        self.advance(Event.CLOSE)
        self._reveal()
        if self.stream is not None:
            self.stream.forget_spooled()
        try:
            await self.released()
        finally:
            self._over.set()

    async def over(self) -> None:
        """Wait until nothing is left: source closed, entry visible or discarded."""
        await self._over.wait()

    # -- the readers ------------------------------------------------------------------------

    @property
    def is_followed(self) -> bool:
        """Whether another process follows the run."""
        return self._audience is not None and self._audience.is_followed

    def set_followed(self, followed: bool) -> None:
        """Note whether another process follows the run."""
        if self._audience is not None:
            self._audience.set_followed(followed)

    @property
    def has_slow_readers(self) -> bool:
        """Whether a reader still needs what was written."""
        return self.stream is not None and self.stream.has_slow_readers

    def reader_left(self, seat: Seat | None) -> None:
        """Note that a reader has left, or (None) that readers were cut."""
        assert self.stream is not None
        assert self._audience is not None
        if seat is not None:
            self._reveal_unless_joined()
            self.stream.forget_spooled()
            if not self.is_started and not self.is_aborting and not seat.joins:
                # Only this reader could start the run: requests that wait find another one.
                self._abandon()
                self.abort("no request read it")
                return
        self._audience.check()

    def _reveal(self) -> None:
        """Let the endpoint see again whether its client has left."""
        if self._answer is not None:
            self._answer.shield.reveal()

    def _reveal_unless_joined(self) -> None:
        if self.stream is None or self._recorder is None or not self._recorder.is_failed:
            return
        if not self.stream.is_joined:
            self._reveal()

    # -- the recorder -----------------------------------------------------------------------

    def objection(self) -> NotCached | None:
        """Return why the body must not be stored, if there is a reason."""
        return None if self._storage is None else self._storage.objection()

    def recorder_moved(self) -> None:
        """Note that segments were written."""
        if self.stream is not None:
            self.stream.wake_source()

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        """Note that there will be no entry."""
        if self._storage is not None:
            self._storage.unstored(reason, cause)
        self._alone = reason.is_lasting
        if self._audience is not None:
            # What is not recorded can't be followed.
            self._audience.lose_followers()
        self._cut_because = (
            "it turned out to be one client's own" if reason.scope is Scope.PRIVATE else ""
        )
        self.advance(Event.UNSTORE)
        if self.stream is None or self._audience is None:
            return
        self._reveal_unless_joined()
        if not self.stream.seats and self.is_started:
            self.abort("its client left, and it is not stored")
        # Readers that have no chunk yet may run the endpoint themselves.
        self.stream.wake_readers()
        self.stream.wake_source()

    def visible(self) -> None:
        """Note that the entry is visible."""
        self.advance(Event.SHOW)

    async def stored(self) -> None:
        """Tell plugins of the entry."""
        if self._storage is not None:
            await self._storage.stored()


_streaming: weakref.WeakSet[Run] = weakref.WeakSet()


def runs_here() -> list[Run]:
    """Return the streaming runs of the running event loop."""
    loop = asyncio.get_running_loop()
    return [run for run in tuple(_streaming) if run._loop is loop]
