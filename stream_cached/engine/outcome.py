"""The values that pass along the way of a request: calls, views, and what can come out."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stream_cached.engine.request_view import RequestView
from stream_cached.engine.values import Use
from stream_cached.entries.found import Hit, Unstorable
from stream_cached.entries.resource import Resource
from stream_cached.events import Answered, Outcome
from stream_cached.format.items import is_of_items
from stream_cached.http.client_fields import for_client
from stream_cached.http.freshness import Windows
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.http.wishes import NO_WISHES, Wishes
from stream_cached.keys.digest import digest
from stream_cached.request.execution import Execution
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.rendering import Rendering
from stream_cached.runs.registry import RunRegistry
from stream_cached.runs.run import Run
from stream_cached.sending import Reports, Sending, Withheld, sending_of

if TYPE_CHECKING:
    from stream_cached.endpoint.tags import ResponseTags
    from stream_cached.engine.at_hand import FirstLook
    from stream_cached.engine.service import Service


#: The outcomes of a call whose answer is stored, or is going to be.
_OF_STORE = (Outcome.HIT, Outcome.STALE, Outcome.JOINED)

#: How many answers of other calls a call takes that turn out not to be for it.
_MAX_ATTEMPTS = 3


@functools.lru_cache(maxsize=128)
def event_of(outcome: Outcome, fwd: str, *, stored: bool = False, detail: str = "") -> Answered:
    """Return the event of an answer that the endpoint has made. There are few of them."""
    return Answered(outcome, fwd=fwd, stored=stored, detail=detail)


# What is made for each call is not frozen: to set a field would cost three times as much. Nothing
# changes it all the same.

# -- what a front door hands over ---------------------------------------------------------------


@dataclass(slots=True)
class Call:
    """One call of a cached function."""

    service: Service
    execution: Execution
    key: str = ""
    versions: tuple[str, ...] = ()
    """The keys of the versions that its entry depends on, beside the function's: of its tags."""
    tags_of: ResponseTags | None = None
    """Gives the tags that only the answer has. None if it has none."""
    request: RequestView | None = None
    keyed: bool = False
    """Whether the key is built from the request, with the headers of `vary`."""
    findings: tuple[Finding, ...] = ()
    """Why the call is not for the cache."""
    reads: bool = True
    writes: bool = True
    waits: bool = True
    """Whether a response whose body is at hand waits until it is stored."""
    # Looked up at each call: a test may put another clock there.
    started: float = field(default_factory=lambda: time.monotonic())
    reports: Reports | None = None
    """Where its answer is reported; None for the log."""
    rendering: Rendering | None = None
    """How FastAPI renders what the function returns; None if the value itself is wanted."""
    items: str | None = None
    """The media type of what a generator yields, as it is stored; None for any other function."""
    whole_max: float = math.inf
    """Bytes of a stored body that was no stream, up to which it is answered with as a whole."""
    attempt: int = 0
    """How many answers of other calls were not for it after all."""
    look_up: float | None = None
    """Seconds that the look-up took in a store over a network."""
    saved: float | None = None
    """Seconds that the run took whose entry answers, as far as that is known."""
    run: int | None = None
    """The number of the run that answers, for `on_event=`."""
    looked: FirstLook | None = None
    """What its front door has looked at already; only the first look-up takes that."""

    @property
    def is_held(self) -> bool:
        """Whether a run needs something that ends with the request of this call."""
        return self.service.request_bound.is_known or not self.execution.can_outlive_request()

    def failed_apart(self, error: BaseException) -> None:
        """Note that a run has failed after the call had ended."""
        self.service.request_bound.note_failure()
        self.service.reporter.failed_apart(error)

    def check(self) -> None:
        """Raise `BypassError` unless the call is for the cache."""
        if self.findings:
            raise BypassError(*self.findings)

    def sending(self, event: Answered) -> Sending:
        """Return what reports an answer of this call once it is sent."""
        reporter = self.service.reporter
        return sending_of(reporter, event, self.started, self, self.reports or reporter)

    @property
    def shown_key(self) -> str:
        """Its key for logs: one that is not built from the request may hold values of arguments."""
        return self.key if self.keyed or not self.key else digest(self.key)

    @property
    def endpoint(self) -> str:
        """The module and the qualified name of its function."""
        return self.service.reporter.name

    @property
    def store(self) -> str:
        """The address of its store, without credentials; empty for memory."""
        return self.service.store

    def sent(self, event: Answered, size: int | None) -> None:
        """Report an answer of which the library sends nothing itself."""
        # To a HEAD request, the server sends no body.
        self.sending(event).sent(0 if size and self.is_head else size)

    @property
    def takes_values(self) -> bool:
        """Whether a plain value can answer it."""
        return self.rendering is None and self.items is None

    def can_use(self, media_type: str | None) -> bool:
        """Whether a body of this type can answer it: the items of a generator, or a response."""
        return media_type == self.items if self.items else not is_of_items(media_type)

    def headers(
        self, headers: RawHeaders, event: Answered, replaces: Sequence[str] | None
    ) -> RawHeaders:
        """Return the headers of an answer, for this request; see `Entry.replaces`."""
        if self.rendering is not None and replaces is not None:
            headers = self.rendering.merged(headers, replaces)
        options = self.service.options
        if options.targets or options.client_cache_control:
            is_stored = event.stored or event.outcome in _OF_STORE
            headers = for_client(
                headers, options.targets, options.client_cache_control, is_stored=is_stored
            )
        return [*headers, event.header]

    def withholding(self) -> tuple[Call, Withheld]:
        """Return a call whose answer is reported only if it is released."""
        withheld = Withheld(self.reports or self.service.reporter)
        return replace(self, reports=withheld), withheld

    def once_more(self) -> Call:
        """Return the same call, whose answer goes on from one that is reported already."""
        return replace(self.for_the_rest(), attempt=self.attempt + 1)

    def for_the_rest(self) -> Call:
        """Return the same call, for the rest of a whole body, a part of which is sent already."""
        request = self.request and self.request.unconditional()
        return replace(self.withholding()[0], request=request)

    @property
    def has_waited_enough(self) -> bool:
        """Whether it has waited for another call for as long as `wait_timeout` lets it."""
        if not self.attempt:
            return False
        return time.monotonic() - self.started >= self.service.options.limits.longest_wait

    @property
    def is_head(self) -> bool:
        return self.request is not None and self.request.is_head

    @property
    def is_authorized(self) -> bool:
        return self.request is not None and self.request.is_authorized

    @property
    def wishes(self) -> Wishes:
        return NO_WISHES if self.request is None else self.request.wishes

    @property
    def is_conditional(self) -> bool:
        """
        Whether the request has a precondition, or asks for a part.

        What the endpoint answers may be for this request alone, so that the call leads no run
        before the head of the answer is known.
        """
        # The head of a response that FastAPI makes of items is not known here.
        is_conditional = self.request is not None and self.request.is_conditional
        return is_conditional and self.items is None

    @property
    def collapses(self) -> bool:
        """Whether the call may wait for the run of another one."""
        reads = self.reads or self.wishes.no_cache
        return reads and not self.is_authorized and self.attempt < _MAX_ATTEMPTS


# -- what a look-up can find --------------------------------------------------------------------


@dataclass(slots=True)
class Fresh:
    """A fresh entry, as the response that is sent."""

    response: Any


@dataclass(frozen=True, slots=True)
class PlainValue:
    """A value that is no response."""

    value: Any


@dataclass(frozen=True, slots=True)
class Stale:
    """An entry that is kept past its ttl."""

    hit: Hit
    seconds: float
    """The time since its ttl ended."""
    windows: Windows
    """For how long it may be served."""

    @property
    def covers_failures(self) -> bool:
        """Whether it is served where the endpoint answers with a failure."""
        return self.seconds <= self.windows.if_error


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing that can be served."""

    varied: bool = False
    """Whether there are other variants."""
    limit: NotCached | None = None
    """The limit that the last response has passed: the next one is shared, and not stored."""
    fwd: str = ""
    """Why what there is can't answer: `"miss"`, or `"request"` if the request wants another."""
    hit: Hit | None = None
    """An entry that is no longer fresh."""


Found = Fresh | PlainValue | Stale | Unstorable | Absent

#: The classes of what a run may replace. A union would be made once more by each `isinstance`.
NOT_FRESH = (Absent, Stale)


@dataclass(slots=True)
class View:
    """What a call has found, and where."""

    use: Use
    registry: RunRegistry
    resource: Resource
    found: Found
    records: bool
    """Whether the answer of a run is to be stored."""
    only_joins: bool
    """A HEAD request: it may join a run, and never starts one."""
    ended: int
    """How many runs had ended when it was looked up."""
    claimed: Run | None = None
    """The run that the call leads, if the look-up has found nothing and taken its lease."""

    @property
    def lacks_answer(self) -> bool:
        """Whether there is nothing fresh, and an answer is to be stored."""
        return self.records and isinstance(self.found, NOT_FRESH)

    @property
    def expired(self) -> Hit | None:
        """An entry that is no longer fresh, and that the validator may confirm."""
        hit = self.found.hit if isinstance(self.found, NOT_FRESH) else None
        # What was invalidated is not asked for once more.
        is_known = hit is not None and hit.entry.validator and hit.stale_since is None
        return hit if is_known else None

    @property
    def limit(self) -> NotCached | None:
        """The limit for which the answer of a run is not to be stored."""
        return self.found.limit if isinstance(self.found, Absent) else None

    @property
    def is_backing_off(self) -> bool:
        """Whether a stale entry is not to be refreshed yet."""
        return isinstance(self.found, Stale) and self.registry.is_backing_off(self.resource.place)

    @property
    def is_up_to_date(self) -> bool:
        """Whether no run has ended since the look-up."""
        return self.registry.ended == self.ended

    @property
    def fwd(self) -> str:
        """Why the cache did not answer (RFC 9211, section 2.2)."""
        found = self.found
        if isinstance(found, Absent):
            return "vary-miss" if found.varied else found.fwd or "uri-miss"
        return "stale" if isinstance(found, Stale) else "uri-miss"

    def lead_or_join(self, *, again: bool = False) -> tuple[Run | None, bool]:
        """Return the run to wait for, or a new one; see `RunRegistry.lead_or_join`."""
        if self.claimed is not None:
            return self.claimed, True
        resource = self.resource
        return self.registry.lead_or_join(
            resource.key, resource.names, resource.select, again=again
        )

    @property
    def joinable(self) -> Run | None:
        """The run that the call may join without leading one."""
        return self.registry.joinable(self.resource.key, self.resource.select)
