"""One request's way: key, look-up, then a hit or a run that is recorded."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from starlette.requests import HTTPConnection
from starlette.responses import Response, StreamingResponse

from stream_cached.backends.binding import Backend
from stream_cached.connections.deadline import Deadline
from stream_cached.entries.recorder import Limits, Recorder
from stream_cached.entries.replay import Replay
from stream_cached.entries.resource import ID_SIZE, Found, Hit, Lifetimes, Miss, Resource
from stream_cached.errors import BrokenStreamError, StoreError
from stream_cached.events import Reporter
from stream_cached.format.progress import Head, Progress
from stream_cached.format.records import Entry
from stream_cached.http.cache_status import cache_status
from stream_cached.http.headers import content_length, header_values, vary_names
from stream_cached.http.policy import is_failure, may_be_shared, may_be_stale, why_not_stored
from stream_cached.http.reasons import BypassError, Finding, NotCached, words
from stream_cached.keys.variants import ANY, Variant, variant_of
from stream_cached.options import Rules
from stream_cached.request.guard import Guard, Terms
from stream_cached.request.incoming import DisconnectShield, Incoming
from stream_cached.request.observed import plain_scope
from stream_cached.responses.live import (
    LiveResponse,
    RawHeaders,
    ReplayResponse,
    StaleResponse,
    stale_response,
    stored_response,
)
from stream_cached.runs.follow import RemoteRun
from stream_cached.runs.lease import Lease
from stream_cached.runs.registry import Join, Turn
from stream_cached.stores.protocol import Store
from stream_cached.streams.sources import (
    AppSource,
    IteratorSource,
    sends_by_itself,
    sends_what_it_is_given,
)
from stream_cached.streams.stream import COMMIT_WAIT, End, Failed, Flight, Reader, Source
from stream_cached.tasks import spawn


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the endpoint answers, and where it is recorded."""

    resource: Resource
    backend: Backend
    deadline: Deadline
    """How long the store may still hold up the first byte."""
    incoming: Incoming | None
    keyed: bool
    """Whether the headers of `vary` are part of the resource's key."""
    fwd: str
    """Why the cache did not answer (RFC 9211, section 2.2)."""
    wait: bool
    """Whether a response whose body is at hand waits until it is stored."""
    shield: DisconnectShield
    guard: Guard | None
    on_stored: Callable[[], Awaitable[None]]
    turn: Turn | None
    """What others wait for, or join; None where nobody does."""
    is_refresh: bool = False
    """Whether nobody is sent what it answers."""
    is_backed: bool = False
    """Whether there is something stale, which is left as it is for a while where this fails."""


@dataclass(frozen=True, slots=True)
class Stale:
    """An entry whose ttl is over, and that is kept for a while."""

    hit: Hit
    seconds: float
    """For how long that has been so."""


class Engine:
    """
    The engine of one endpoint.

    Args:
        version: The key of the endpoint's version.
        headers: The headers that arguments in the key are taken from, and those of them that the
            arguments are taken from as they are.
        rules: What the decorator was told.
        notices: Where it says what it does not cache.
    """

    def __init__(
        self,
        *,
        version: str,
        headers: tuple[frozenset[str], frozenset[str]],
        rules: Rules,
        reporter: Reporter,
    ) -> None:
        self.version = version
        self._rules = rules
        self._reporter = reporter
        taken, as_they_are = headers
        # An argument may be one line of its header, converted: the lines are in the key, too. But a
        # Cookie() parameter puts one cookie into it, not the header.
        vary = {**dict.fromkeys(as_they_are - {"Cookie"}), **rules.vary}
        self._normalisers = {n.lower().encode("latin-1"): f for n, f in vary.items()}
        self._declared = frozenset(map(str.lower, rules.vary))
        self._adds_to_vary = tuple(sorted({*rules.vary, *taken}, key=str.lower))
        self._parameters = frozenset(map(str.lower, taken))
        self._keyed = frozenset(map(str.lower, vary))
        # What tells the users apart, or need not.
        excused = {"authorization"} if rules.authorized in ("keyed", "share") else set()
        self._identifying = {True: self._keyed | excused, False: self._declared | excused}
        # What a function makes of a language is what the endpoint is after; what it makes of
        # cookies or credentials is not all that they say.
        normalised = {name.lower() for name, function in rules.vary.items() if function}
        readable = self._keyed - (normalised & {"cookie", "authorization"})
        self._terms = Terms(readable, rules.key_host, rules.unguarded)

    # -- the request ------------------------------------------------------------------------

    def incoming(self, request: HTTPConnection | None, *, keyed: bool) -> Incoming | None:
        """
        Return the request as the cache sees it.

        Args:
            request: The request.
            keyed: Whether its arguments and headers will be part of the key.

        Raises:
            BypassError: It is not for the cache.
        """
        if request is None:
            return None
        incoming = Incoming(request, self._normalisers)
        incoming.check(self._rules.methods, self._identifying[keyed])
        return incoming

    def guard(self, incoming: Incoming) -> Guard:
        """Return what watches over a run that answers a request."""
        return Guard(incoming.request, self._terms, with_body=incoming.has_body)

    def resource(
        self,
        store: Store,
        key: str,
        incoming: Incoming | None,
        ttl: float | None,
        tags: Sequence[str] = (),
    ) -> Resource:
        """Return a request's view of the resource at a key."""
        return Resource(
            store,
            key,
            needs=(self.version, *tags),
            lifetimes=self.lifetimes(ttl),
            select=None if incoming is None else incoming.select,
            new_id=new_id,
            max_variants=self._rules.max_variants,
        )

    def lifetimes(self, ttl: float | None) -> Lifetimes:
        """Return how long things live under a ttl."""
        longest_run = self._rules.max_duration + self._rules.finish_timeout
        return Lifetimes(ttl, longest_run, self._rules.stale)

    # -- a hit ------------------------------------------------------------------------------

    async def look_up(
        self, resource: Resource, incoming: Incoming | None, *, is_fallback: bool
    ) -> Found | Stale | Response:
        """
        Find what stands under the key; a fresh hit comes as the response to be sent.

        Args:
            resource: What is asked for.
            incoming: The request.
            is_fallback: Whether the store stands in for another one, which the response then says.

        Raises:
            StoreError: The store failed.
        """
        found = await resource.look_up()
        if not isinstance(found, Hit):
            return found
        now = time.time()
        age, is_authorized = now - found.entry.stored_at, incoming and incoming.is_authorized
        if is_authorized and not may_be_shared(found.entry.headers, age):
            return Miss()
        fresh_until = found.entry.fresh_until
        if fresh_until is not None and fresh_until <= now:
            late = now - fresh_until
            is_kept = late <= self._rules.stale and may_be_stale(found.entry.headers)
            return Stale(found, late) if is_kept else Miss()
        cache_status = _cache_status(hit=True, detail=_detail(is_fallback))
        headers = [*found.entry.headers, cache_status]
        replay = Replay(resource, found.key, found.entry)
        if not await replay.open():
            return Miss()
        if found.entry.streamed:
            return ReplayResponse(replay, headers=headers, exact=self._rules.exact)
        body = await _whole(replay)
        return Miss() if body is None else stored_response(found.entry, headers, body)

    async def stale(
        self,
        resource: Resource,
        stale: Stale,
        *,
        is_fallback: bool,
        failed: bool = False,
        status: int | None = None,
    ) -> ReplayResponse | StaleResponse | None:
        """
        Return the response of a stale entry; None where that is not whole.

        Args:
            resource: What it is a response of.
            stale: The entry.
            is_fallback: As for `look_up`.
            failed: Whether it stands in for an endpoint that has failed.
            status: What that has answered.

        Raises:
            StoreError: The store failed.
        """
        if failed:
            cache_status = _cache_status(fwd="stale", fwd_status=status, detail="stale-if-error")
        else:
            ttl = -math.ceil(stale.seconds)
            cache_status = _cache_status(hit=True, ttl=ttl, detail=_detail(is_fallback))
        entry = stale.hit.entry
        headers = [*entry.headers, cache_status]
        replay = Replay(resource, stale.hit.key, entry)
        if not await replay.open():
            return None
        if entry.streamed:
            return ReplayResponse(replay, headers=headers, exact=self._rules.exact)
        body = await _whole(replay)
        return None if body is None else stale_response(entry, headers, body)

    # -- a miss -----------------------------------------------------------------------------

    def pass_on(self, result: Any, *findings: Finding) -> Any:
        """Return a result that is not stored, and say why."""
        self._reporter.not_cached(*findings)
        if findings[0].reason is NotCached.METHOD:
            return self.unrecorded(result, "method")
        return self.bypass(result, words(findings))

    def bypass(self, result: Any, detail: str) -> Any:
        """Return a result that went past the cache."""
        if isinstance(result, Response):
            return _with_header(result, _cache_status(fwd="bypass", detail=detail))
        return result

    def unrecorded(self, result: Any, fwd: str) -> Any:
        """Return a result that is not to be stored."""
        if isinstance(result, Response):
            return _with_header(result, _cache_status(fwd=fwd))
        return result

    def of_one_client(
        self, headers: RawHeaders, incoming: Incoming | None, guard: Guard | None
    ) -> list[Finding]:
        """Say why an answer may be one client's own."""
        findings, known = [], vary_names(headers)
        if incoming is not None and incoming.is_authorized and not may_be_shared(headers, age=0):
            findings.append(Finding(NotCached.AUTHORIZATION))
            known |= {"authorization"}
        if guard is not None:
            findings.extend(guard.findings(known))
        return findings

    async def record(self, response: Response, run: Run) -> Response:
        """Return what is sent instead of an endpoint's response, while that is recorded."""
        findings = self._why_not_stored(response.status_code, response.raw_headers, run)
        by_itself = sends_by_itself(response)
        if by_itself and run.incoming is None:
            findings.append(Finding(NotCached.NO_REQUEST))
        if findings:
            self._end_turn(run, response.status_code, response.raw_headers, findings)
            return cast(Response, self.pass_on(response, *findings))
        if by_itself:
            return await self._record_messages(response, run)
        if isinstance(response, StreamingResponse):
            source = IteratorSource(response.body_iterator, response.charset)
            head = response.status_code, response.raw_headers
            return self._fly(source, response, *head, run, response.background)
        return await self._record_body(response, run)

    async def _record_messages(self, response: Response, run: Run) -> Response:
        assert run.incoming is not None
        request = run.incoming.request
        body = getattr(request, "_body", b"")
        if run.guard is None or sends_what_it_is_given(response):
            source = AppSource(response, plain_scope(request.scope), body)
        else:
            source = AppSource(response, plain_scope(request.scope), body, run.guard.observed_scope)
        await source.begin()
        return self._fly(source, response, source.status, source.headers, run, None)

    def _fly(
        self,
        source: Source,
        response: Response,
        status: int,
        headers: RawHeaders,
        run: Run,
        background: Callable[[], Awaitable[None]] | None,
    ) -> Response:
        """Return the response of a stream that is recorded while it is sent."""
        at_hand = getattr(response, "body", None)
        entry = self._entry(response, status, headers, run)
        entry = dataclasses.replace(entry, streamed=at_hand is None)
        # Of a response that sends by itself, the head is known only now.
        findings = self._why_not_stored(status, headers, run)
        if not findings:
            recorder = self._recorder(entry, run, headers)
            cache_status = _stored(run)
        else:
            recorder = None
            self._end_turn(run, status, headers, findings)
            self._reporter.not_cached(*findings)
            cache_status = _cache_status(fwd="bypass", detail=words(findings))
        lease = run.turn.lease if run.turn is not None and recorder is not None else None
        flight = Flight(
            source,
            recorder,
            max_ahead=self._rules.max_ahead,
            commit_wait=_shorter(COMMIT_WAIT, run.backend.timeout),
            finish_timeout=None if run.is_refresh else self._rules.finish_timeout,
            spool_max=self._rules.spool_max,
            background=background,
            on_unshared=run.shield.reveal,
            on_settled=lambda end: _settled(run, recorder, end),
            released=None if run.turn is None else run.turn.released,
            is_followed=None if lease is None else lease.is_followed,
        )
        if lease is not None:
            lease.on_followed = flight.set_followed
            flight.expect_start()
        run.shield.in_flight = True
        live = partial(
            LiveResponse,
            flight,
            status=status,
            media_type=entry.media_type,
            charset=entry.charset,
            merge=not self._rules.exact,
            generation=entry.generation,
            body=at_hand,
        )
        length = content_length(headers)
        if recorder is not None:
            joined = partial(live, headers=[*entry.headers, _collapsed(run)], joined=True)

            async def join(seconds: float, since: float) -> Response | None:
                return await _join(flight, length, joined, seconds)

            self._answer(run, headers, join)
        return live(flight.read(length), headers=[*entry.headers, cache_status])

    def follow(self, tail: RemoteRun, turn: Turn, resource: Resource, fwd: str) -> None:
        """
        Let those who wait for a turn join a run in another process.

        Args:
            tail: The run; its head is known.
            turn: The turn.
            resource: What it is a response of.
            fwd: Why the cache did not answer (RFC 9211, section 2.2).
        """
        head = tail.head
        assert head is not None
        flight = Flight(
            tail,
            None,
            max_ahead=self._rules.max_ahead,
            finish_timeout=0,
            spool_max=self._rules.spool_max,
            archive=tail.read,
            on_settled=lambda end: turn.end(),
        )
        joined = partial(
            LiveResponse,
            flight,
            status=head.status,
            headers=[*head.headers, _cache_status(fwd=fwd, collapsed=True)],
            media_type=head.media_type,
            charset=head.charset,
            merge=not self._rules.exact,
            generation=None,
            joined=True,
        )
        length = content_length(head.headers)

        async def join(seconds: float, since: float) -> Response | None:
            # One whose process was killed looks as if it went on.
            if not await tail.shows_life(since, seconds):
                return None
            return await _join(flight, length, joined, seconds)

        turn.answer(join, dict(resource.versions), (head.names, head.variant))
        tail.on_over = turn.end
        flight.start()

    def _end_turn(
        self, run: Run, status: int, headers: RawHeaders, findings: Sequence[Finding]
    ) -> None:
        """Let those who wait for a response that is not stored run the endpoint themselves."""
        if run.is_backed and is_failure(status):
            run.backend.flights.rest(run.resource.place)
        if run.turn is not None:
            variant = self._variant(headers, run)
            # Other variants may be shared.
            run.turn.variant = ANY if "*" in variant[0] else variant
            # Where the endpoint failed, or its client has left, one after the other.
            left = all(finding.reason is NotCached.INCOMPLETE for finding in findings)
            run.turn.end(shared=status >= 500 or left)

    def _answer(self, run: Run, headers: RawHeaders, join: Join) -> None:
        """Let others join a run."""
        if run.turn is not None:
            run.turn.answer(join, dict(run.resource.versions), self._variant(headers, run))

    def _variant(self, headers: RawHeaders, run: Run) -> Variant:
        """Return what selects a response beyond its key, and the digest of this request's."""
        resource = run.resource
        names = {*resource.names, *self._varies_on(headers, run)}
        return variant_of(tuple(names), resource.select)

    def _news(self, entry: Entry, headers: RawHeaders, run: Run) -> _News | None:
        """Return what is for those who follow the run in other processes."""
        if run.turn is None or run.turn.lease is None:
            return None
        lease, (names, variant) = run.turn.lease, self._variant(headers, run)
        head = Head(
            status=entry.status,
            headers=entry.headers,
            media_type=entry.media_type,
            charset=entry.charset,
            names=names,
            variant=variant,
        )
        return _News(lease, head)

    async def _record_body(self, response: Response, run: Run) -> Response:
        """Store a response whose body is at hand, and return it."""
        headers = response.raw_headers
        entry = self._entry(response, response.status_code, headers, run)
        recorder = self._recorder(dataclasses.replace(entry, streamed=False), run, headers)
        recorder.feed(bytes(response.body))
        write = spawn(_commit(recorder, run))
        body = bytes(response.body)

        async def join(seconds: float, since: float) -> Response | None:
            return stored_response(entry, [*entry.headers, _collapsed(run)], body)

        self._answer(run, headers, join)
        if run.wait:
            await asyncio.wait({write}, timeout=_shorter(COMMIT_WAIT, run.deadline.left))
        return _with_header(response, _stored(run), headers=entry.headers)

    def _why_not_stored(self, status: int, headers: RawHeaders, run: Run) -> list[Finding]:
        findings = self.of_one_client(headers, run.incoming, run.guard)
        reason = why_not_stored(status, headers, self._rules.statuses)
        if reason is not None:
            findings.insert(0, Finding(reason))
        if run.shield.has_told:
            findings.append(Finding(NotCached.INCOMPLETE))
        if (content_length(headers) or 0) > self._limits(run.resource.store).max_body:
            findings.append(Finding(NotCached.BODY_SIZE))
        if run.incoming is None and self._varies_on(headers, run):
            findings.append(Finding(NotCached.NO_REQUEST))
        return findings

    def _varies_on(self, headers: RawHeaders, run: Run) -> frozenset[str]:
        """Return the names of the headers that select this response, beyond its key."""
        if run.keyed:
            return vary_names(headers) - self._keyed
        return vary_names(headers) | self._declared | self._parameters

    def _limits(self, store: Store) -> Limits:
        rules = self._rules
        max_body = rules.max_body
        if store.capacity is not None:
            max_body = min(max_body, store.capacity // 4)
        return Limits(max_body, rules.max_duration, rules.max_pending, rules.inline_max)

    def _entry(self, response: Response, status: int, headers: RawHeaders, run: Run) -> Entry:
        """Take the head of a response; middleware will change it later, on each hit again."""
        return Entry(
            key=b"",
            versions={},
            status=status,
            headers=tuple(self._with_vary(headers)),
            media_type=response.media_type,
            charset=response.charset,
            streamed=True,
            stored_at=time.time(),
            length=0,
            generation=(run.turn and run.turn.token) or new_id(),
        )

    def _with_vary(self, headers: RawHeaders) -> list[tuple[bytes, bytes]]:
        """Add what the key is made of to the response's Vary (RFC 9110, section 12.5.5)."""
        named = vary_names(headers)
        added = [name for name in self._adds_to_vary if name.lower() not in named]
        if not added:
            return list(headers)
        values = [*header_values(headers, b"vary"), ", ".join(added).encode("latin-1")]
        others = [(name, value) for name, value in headers if name.lower() != b"vary"]
        return [*others, (b"vary", b", ".join(values))]

    def _recorder(self, entry: Entry, run: Run, headers: RawHeaders) -> Recorder:
        def read() -> list[Finding]:
            # Also while the body was made.
            return self.of_one_client(headers, None, run.guard)

        reads, objection = -1, None

        def objects() -> NotCached | None:
            nonlocal reads, objection
            # It is asked at each chunk.
            if run.guard is not None and run.guard.reads != reads:
                reads = run.guard.reads
                objection = NotCached.READ if read() else None
            return objection

        def failed(reason: NotCached, cause: Exception | None) -> None:
            if isinstance(cause, StoreError):
                self._reporter.store_failed(cause, "writing")
            elif reason is NotCached.READ:
                self._reporter.not_cached(*read())
            else:
                self._reporter.not_cached(Finding(reason))

        return Recorder(
            run.resource,
            entry,
            varies_on=self._varies_on(headers, run),
            limits=self._limits(run.resource.store),
            objection=objects,
            on_stored=run.on_stored,
            on_failure=failed,
            news=self._news(entry, headers, run),
        )


@dataclass(frozen=True, slots=True)
class _News:
    """What the holder of a lease tells others."""

    lease: Lease
    head: Head

    async def tell(self, segments: int, chunks: tuple[int, ...], tail: bytes) -> None:
        await self.lease.tell(Progress(self.head, segments, chunks, tail))

    def complete(self, entry: Entry, *, stored: bool) -> None:
        self.lease.last_word = Progress.of(entry, self.head, stored=stored)

    async def is_followed(self) -> bool:
        return await self.lease.is_followed()


async def _join(
    flight: Flight,
    length: int | None,
    joined: Callable[[Reader], Response],
    seconds: float,
) -> Response | None:
    """
    Return a response for one more reader of a flight; None where there is nothing for it.

    Raises:
        BypassError: It has no byte by then.
    """
    if not flight.can_be_joined:
        return None
    reader = flight.read(length, joins=True)
    if reader.is_at_hand:
        return joined(reader)
    begins = False
    try:
        # Until there is a byte, it may turn out that there will be none for this one.
        async with asyncio.timeout(seconds):
            begins = await reader.begun()
    except TimeoutError as exc:
        raise BypassError(Finding(NotCached.WAITED)) from exc
    finally:
        if not begins:
            reader.close()
    return joined(reader) if begins else None


async def _whole(replay: Replay) -> bytes | None:
    """Return a stored body; None where a part of it is missing."""
    try:
        # However long it is.
        with Deadline(None):
            return await replay.whole()
    except BrokenStreamError:
        return None


async def _commit(recorder: Recorder, run: Run) -> None:
    recorder.on_visible = lambda: _settled(run, recorder, None)
    try:
        await recorder.commit()
        await recorder.settled()
    finally:
        _settled(run, recorder, None)
    if run.turn is not None:
        await run.turn.released()


def _settled(run: Run, recorder: Recorder | None, end: End | None) -> None:
    failure = None if recorder is None else recorder.failure
    if run.is_backed and isinstance(end, Failed):
        # Before anybody looks again.
        run.backend.flights.rest(run.resource.place)
    if run.turn is not None:
        lasts = failure is not None and (failure.is_private or failure.is_limit)
        run.turn.end(shared=not lasts)


def _collapsed(run: Run) -> tuple[bytes, bytes]:
    detail = _detail(run.backend.is_fallback)
    return _cache_status(fwd=run.fwd, collapsed=True, detail=detail)


def new_id() -> bytes:
    """Return a random id: of a run, an index or a version."""
    # A version is stored as it is. No pickle begins like this: cashews unpickles what it reads.
    return b"\xc1" + secrets.token_bytes(ID_SIZE - 1)


def _shorter(seconds: float, other: float | None) -> float:
    return seconds if other is None else min(seconds, other)


def _detail(is_fallback: bool) -> str:
    """Say of what comes from, or goes to, the memory that stands in for a store that it does."""
    return "fallback" if is_fallback else ""


def _stored(run: Run) -> tuple[bytes, bytes]:
    return _cache_status(fwd=run.fwd, stored=True, detail=_detail(run.backend.is_fallback))


def _cache_status(**parts: Any) -> tuple[bytes, bytes]:
    return b"cache-status", cache_status(**parts).encode("latin-1")


def _with_header(
    response: Response, header: tuple[bytes, bytes], headers: RawHeaders | None = None
) -> Response:
    """Return a copy with one header more: the endpoint may return one object again and again."""
    clone = copy.copy(response)
    clone.__dict__.pop("_headers", None)
    clone.raw_headers = [*(response.raw_headers if headers is None else headers), header]
    return clone
