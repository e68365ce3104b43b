"""The function runs, and its answer is recorded: may it be stored, and who else gets it?"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from stream_cached.engine.after_event import with_ids
from stream_cached.engine.claiming import note_stored
from stream_cached.engine.completed import call_on_complete
from stream_cached.engine.completeness import completeness
from stream_cached.engine.confirm import own_tag, validate, with_tag
from stream_cached.engine.lookup import detail_of
from stream_cached.engine.outcome import Call, Stale, View, event_of
from stream_cached.engine.past import pass_on
from stream_cached.engine.run_events import RunEvents, run_events
from stream_cached.engine.sharing import (
    alone_for,
    are_limits,
    ending_run,
    handed_on,
    is_for_all,
    led_late,
    not_wanted,
    record_nothing,
    variant_by,
    varies_on,
    why_no_value,
)
from stream_cached.engine.storable import Verdict, stored_headers
from stream_cached.engine.values import store_value
from stream_cached.entries.coding import coder_of
from stream_cached.entries.ids import new_id
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.events import Answered, Outcome, bypassed
from stream_cached.format.items import UnstorableItemError
from stream_cached.format.progress import Head
from stream_cached.format.records import Entry
from stream_cached.http.headers import vary_names
from stream_cached.http.policy import is_failure
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.keys.variants import ANY, Variant
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.produced import Produced, produce_messages, produced
from stream_cached.runs.answer import Answer, Recording
from stream_cached.runs.run import Run
from stream_cached.streams.protocols import Source


async def record(
    call: Call, view: View, run: Run | None = None, *, is_refresh: bool = False
) -> Any:
    """
    Run the function of a call, and record its answer.

    Args:
        call: The call.
        view: What it has found.
        run: The run that other requests may join; None if none may.
        is_refresh: Whether no client is sent the answer.
    """
    execution = call.execution
    if not view.records:
        return pass_on(call, await execution.run(), _miss(call, view, stored=False))
    if call.service.validator is not None:
        await validate(call)
    asked_at = time.time()
    finish_timeout = call.service.options.effective_finish_timeout
    with run_events(call) as events, execution.shielded(finish_timeout) as shield:
        executed = await ending_run(call, view, run, shield, execution.run_watched())
        result = executed.result
        if unwanted := not_wanted(call, view, result):
            events.refused(unwanted)
            return _refuse(call, view, run, result, unwanted)
        made = produced(result)
        if made is None and call.rendering is not None:
            rendering = call.rendering.produce(result)
            made = await ending_run(call, view, run, shield, rendering)
        if made is not None:
            run = run or Run(None, view.resource.key, ANY)
            verdict = Verdict(call, view.resource, execution.guard, asked_at)
            recorder = _Record(call, view, run, shield, verdict, events, is_refresh)
            return await recorder.take(made)
        if findings := why_no_value(call, view, executed):
            events.refused(findings)
            return _refuse(call, view, run, result, findings)
        events.brought_value()
    await store_value(call, view, result, run, wait=call.waits or is_refresh)
    call.sent(_miss(call, view), None)
    return result


def _refuse(
    call: Call, view: View, run: Run | None, result: Any, findings: Sequence[Finding]
) -> Any:
    if run is not None:
        run.refuse(run.variant, alone_for=alone_for((), findings))
    call.service.reporter.not_cached(*findings)
    return pass_on(call, result, bypassed(list(findings), _fwd(call, view)))


def _miss(call: Call, view: View, *, stored: bool = True, detail: str = "") -> Answered:
    return event_of(Outcome.MISS, _fwd(call, view), stored=stored, detail=detail)


def _fwd(call: Call, view: View) -> str:
    return view.fwd if call.reads else "request"


class _Record:
    """
    The answer of one run of the function.

    It is also the run's storage: it objects to a body that turns out to be one client's own.
    """

    def __init__(
        self,
        call: Call,
        view: View,
        run: Run,
        shield: DisconnectShield,
        verdict: Verdict,
        events: RunEvents,
        is_refresh: bool,
    ) -> None:
        self._call = call
        self._view = view
        self._run = run
        self._guard = call.execution.guard
        self._shield = shield
        self._verdict = verdict
        self._events = events
        self._is_refresh = is_refresh
        # Once: it may look through all dependencies of the route.
        self._is_held = call.is_held
        self._service = call.service
        self._with_vary = call.service.headers.with_vary
        self._resource: Resource = view.resource
        self._headers: RawHeaders = ()
        self._varies_on: frozenset[str] = frozenset()
        self._reads = 0
        self._objection: NotCached | None = None

    async def take(self, made: Produced) -> Any:
        """Return what is sent instead of the endpoint's response."""
        findings = self._why_not_stored(made)
        incoming = self._call.execution.incoming
        if made.sends_by_itself and incoming is None:
            findings.append(Finding(NotCached.NO_REQUEST))
        is_stream = made.source is not None or made.sends_by_itself
        if findings and not (is_stream and are_limits(findings)):
            self._refuse(made, findings)
            self._service.reporter.not_cached(*findings)
            return pass_on(self._call, made, bypassed(findings, self._fwd))
        if made.sends_by_itself:
            assert incoming is not None
            # What other requests are given is whole.
            whole = self._is_refresh or not self._call.is_conditional
            made = await produce_messages(made, incoming, self._guard, whole=whole)
            # Its head is known only now.
            findings = self._why_not_stored(made)
        made = with_tag(self._call, made)
        if made.source is None:
            return await self._record_body(made)
        return self._record_stream(made, made.source, findings)

    # -- two kinds of responses -------------------------------------------------------------

    def _record_stream(self, made: Produced, source: Source, findings: Sequence[Finding]) -> Any:
        """Return the response of a stream that is recorded while it is sent."""
        if not findings and (late := led_late(self._call, self._view)):
            self._run = late
        self._events.hand_over(self._run)
        entry, head = self._described(made)
        is_shared = not findings or are_limits(findings)
        if not is_shared:
            self._refuse(made, findings)
            self._service.reporter.not_cached(*findings)
        limit = self._view.limit
        known = [Finding(limit)] if limit is not None else []
        refused = [*findings, *known]
        event = bypassed(refused, self._fwd) if refused else self._miss()
        answer = self._answer(entry, head, made)
        if is_shared:
            source, answer = with_ids(self._call, made, source, answer)
        self._run.begin(source, answer, self._recording(entry) if is_shared else None)
        if refused:
            record_nothing(self._run, limit, findings)
        return LiveResponse(
            self._run,
            self._run.read(made.asides),
            head,
            self._call.headers(self._with_vary(made.headers), event, made.replaces),
            merge=not self._service.options.exact,
            sending=self._call.sending(event),
            body=made.body,
            generation=entry.generation,
            failed_apart=None if self._is_held else self._call.failed_apart,
        )

    async def _record_body(self, made: Produced) -> Any:
        """Store a response whose body is at hand, and return it."""
        entry, head = self._described(made)
        headers = self._with_vary(made.headers)
        self._events.hand_over(self._run)
        self._run.begin(None, self._answer(entry, head, made), self._recording(entry))
        write = self._run.store_body()
        if self._call.waits or self._is_refresh:
            wait = self._verdict.commit_wait(self._view.use.deadline.left)
            await asyncio.wait({write}, timeout=wait)
        event = self._miss()
        self._call.sent(event, len(made.body or b""))
        return made.with_headers(self._call.headers(headers, event, made.replaces))

    @property
    def _fwd(self) -> str:
        return _fwd(self._call, self._view)

    def _miss(self) -> Answered:
        return _miss(self._call, self._view, detail=detail_of(self._view.use.backend))

    # -- what the run is told ---------------------------------------------------------------

    def _described(self, made: Produced) -> tuple[Entry, Head]:
        """Copy the head of a response now: middleware will change it later, on each hit again."""
        names, variant = self._variant_by(made.all_headers)
        entry = Entry(
            key=b"",
            versions={},
            status=made.status,
            headers=tuple(stored_headers(self._call, made.headers)),
            media_type=made.media_type,
            charset=made.charset,
            streamed=made.body is None,
            stored_at=self._verdict.asked_at,
            length=0,
            fresh_until=self._verdict.fresh_until,
            etag=own_tag(self._call, made),
            validator=self._verdict.validator(made.status),
            generation=self._run.token or new_id(),
            replaces=made.replaces,
        )
        head = Head(
            status=entry.status,
            headers=entry.headers,
            media_type=entry.media_type,
            charset=entry.charset,
            names=names,
            variant=variant,
            replaces=made.replaces,
            validated=self._verdict.validated_each_time(made.status),
        )
        return entry, head

    def _answer(self, entry: Entry, head: Head, made: Produced) -> Answer:
        finish_timeout = self._service.options.finish_timeout_of(held=self._is_held)
        is_backed = isinstance(self._view.found, Stale)
        return Answer(
            head=head,
            limits=self._verdict.limits,
            shield=self._shield,
            finish_timeout=None if self._is_refresh else finish_timeout,
            commit_wait=self._verdict.commit_wait(self._view.use.backend.timeout),
            background=made.background,
            reporter=self._service.reporter,
            body=made.body,
            generation=entry.generation,
            is_complete=completeness(self._call, entry.generation),
            stale_place=self._resource.place if is_backed else None,
        )

    def _recording(self, entry: Entry) -> Recording:
        options = self._service.options
        coder, hashes = coder_of(options.compress, entry), options.on_complete is not None
        return Recording(self._resource, entry, self._varies_on, self, hashes=hashes, coder=coder)

    # -- may it be stored? ------------------------------------------------------------------

    def _why_not_stored(self, made: Produced) -> list[Finding]:
        return self._verdict.why_not_stored(made, has_revealed=self._shield.has_revealed)

    def _refuse(self, made: Produced, findings: Sequence[Finding]) -> None:
        self._events.refused(findings)
        found = self._view.found
        is_covered = isinstance(found, Stale) and found.covers_failures
        if self._is_refresh or (is_covered and is_failure(made.status)):
            # Before the run ends: the next request finds none, and would begin another one.
            self._view.registry.back_off(self._resource.place)
        is_at_hand = made.source is None and not made.sends_by_itself
        seconds, hands_on = handed_on(made.all_headers, findings, at_hand=is_at_hand)
        if hands_on:
            entry, head = self._described(made)
            answer = dataclasses.replace(self._answer(entry, head, made), background=None)
            self._run.begin(None, answer, None)
        self._run.refuse(self._variant_by(made.all_headers), alone_for=seconds, hands_on=hands_on)

    def _variant_by(self, headers: RawHeaders) -> Variant:
        self._headers, self._varies_on = headers, varies_on(self._call, headers)
        return variant_by(self._resource, self._varies_on)

    # -- the storage of the run -------------------------------------------------------------

    def objection(self) -> NotCached | None:
        """Return why the body must not be stored: the generator may read the request, too."""
        # This is asked at each chunk.
        if self._guard is not None and (reads := self._guard.reads) != self._reads:
            self._reads = reads
            self._objection = NotCached.READ if self._read_by_guard() else None
        return self._objection

    def _read_by_guard(self) -> list[Finding]:
        if self._guard is None or is_for_all(self._call, self._headers):
            return []
        return self._guard.findings(vary_names(self._headers))

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        reporter = self._service.reporter
        if isinstance(cause, StoreError):
            reporter.store_failed(cause, "writing")
        elif reason is NotCached.READ:
            reporter.not_cached(*self._read_by_guard())
        else:
            is_item = isinstance(cause, UnstorableItemError)
            reporter.not_cached(Finding(reason, str(cause) if is_item else ""))

    async def stored(self, entry: Entry, digest: str) -> None:
        if on_complete := self._service.options.on_complete:
            call_on_complete(on_complete, self._resource, entry, digest, self._service.reporter)
        if self._guard is not None:
            self._guard.let_go()
        note_stored(self._call, self._view)
        self._view.registry.share_again(self._resource.key, self._resource.select)
        await self._service.hooks.stored(self._view)
