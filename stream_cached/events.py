"""What is said of calls and stores: one event for each answered call, and lines in the log.

The log says each reason once, and each change of a store's state once.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from weakref import WeakSet

from stream_cached.errors import StoreUnavailableError
from stream_cached.event_hook import EventHook, RunBegan, RunEnded, StoreAway, StoreBack
from stream_cached.http.cache_status import cache_status
from stream_cached.http.reasons import Finding, NotCached, explained, words

logger = logging.getLogger("stream_cached")

#: Reasons that are intended, or that concern one response only: not worth a warning.
_QUIET = frozenset(
    {
        # The state of a store has log lines of its own.
        NotCached.STORE,
        NotCached.CONDITIONAL,
        NotCached.KEPT_OUT,
        NotCached.NO_FRESHNESS,
        NotCached.RANGE,
        NotCached.STATUS,
        NotCached.SKIPPED,
        NotCached.SWITCHED_OFF,
        NotCached.INCOMPLETE,
        NotCached.OVERTAKEN,
    }
)

#: How many lines one endpoint may cause: clients choose some of what there is to say.
_MAX_LINES = 100

#: How often the same failure of a store is said in a minute: one that is full, and evicts what was
#: just written, fails and works with each request.
_MOST_A_MINUTE = 3


class Outcome(enum.StrEnum):
    """How a call was answered."""

    HIT = "hit"
    STALE = "stale"
    JOINED = "joined"
    MISS = "miss"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True)
class Answered:
    """How one call was answered: the source of its Cache-Status and of its log line."""

    outcome: Outcome
    fwd: str = ""
    """Why the cache did not answer (RFC 9211, section 2.2)."""
    fwd_status: int | None = None
    """The status of the response that a stale entry replaces."""
    ttl: int | None = None
    """Seconds of freshness that are left; negative for a stale entry."""
    stored: bool = False
    reasons: tuple[NotCached, ...] = ()
    """Why the answer is not stored."""
    detail: str = ""
    key: str = ""
    """The key of the call, without values of arguments; empty if it has none."""
    size: int | None = None
    """Bytes of the body that were sent; None where the library does not see them pass."""
    seconds: float = 0.0
    """From the call to the last byte."""
    endpoint: str = ""
    """The module and the qualified name of the endpoint."""
    first_byte: float | None = None
    """Seconds from the call to the first byte of the body, or to the head of an answer without one.
    None where the library does not send the answer itself."""
    look_up: float | None = None
    """Seconds that the look-up took in a store over a network; None without one."""
    store: str = ""
    """The address of that store, without credentials."""
    run: int | None = None
    """The number of the run that it began or joined; None if there is none in this process."""
    saved: float | None = None
    """Seconds that the run of the entry took which has answered; None where that is not known."""

    @property
    def header(self) -> tuple[bytes, bytes]:
        """The Cache-Status header field."""
        if self is HIT:
            return _OF_HIT
        status = cache_status(
            hit=self.outcome is Outcome.HIT or (self.outcome is Outcome.STALE and not self.fwd),
            ttl=self.ttl,
            fwd=self.fwd,
            fwd_status=self.fwd_status,
            stored=self.stored,
            collapsed=self.outcome is Outcome.JOINED,
            detail=self.detail,
        )
        return b"cache-status", status.encode("latin-1")


#: What `on_event=` is called with.
Event = Answered | RunBegan | RunEnded | StoreAway | StoreBack

#: The answer of a fresh entry, and its header: most answers are these.
HIT = Answered(Outcome.HIT)
_OF_HIT = b"cache-status", cache_status(hit=True).encode("latin-1")


def logs_answers() -> bool:
    """Whether the log shows how each call was answered."""
    return logger.isEnabledFor(logging.DEBUG)


def bypassed(findings: tuple[Finding, ...] | list[Finding], fwd: str = "bypass") -> Answered:
    """Return the event of an answer that is not stored; `fwd` if the cache was looked into."""
    reasons = tuple(dict.fromkeys(finding.reason for finding in findings))
    if reasons and reasons[0] is NotCached.METHOD:
        return Answered(Outcome.BYPASS, fwd="method", reasons=reasons)
    return Answered(Outcome.BYPASS, fwd=fwd, reasons=reasons, detail=words(findings))


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """What this process has answered for one endpoint."""

    hits: int
    stale: int
    """Responses from stale entries."""
    joined: int
    """Responses of runs that other requests began."""
    misses: int
    bypasses: Mapping[str, int]
    """Responses that went past the cache, by the reasons as `Cache-Status` names them."""
    bytes: int
    """Bytes of bodies that were sent, as far as the library sends them itself."""
    seconds_saved: float
    """The mean duration of a miss, for each response that needed no run of its own."""

    @property
    def ratio(self) -> float:
        """The part of all responses that needed no run of their own."""
        saved = self.hits + self.stale + self.joined
        total = saved + self.misses + sum(self.bypasses.values())
        return saved / total if total else 0.0


class _Counters:
    """Counts the answers of one endpoint. As an `Ending`, it is one of the hits themselves."""

    watches = False

    def __init__(self) -> None:
        self._outcomes: Counter[Outcome] = Counter()
        self._hits = 0
        """Those of which nothing else is told."""
        self._bypasses: Counter[str] = Counter()
        self._bytes = 0
        self._seconds = 0.0

    def through(self, send: Any) -> Any:
        return send

    def sent(self, size: int | None) -> None:
        self._hits += 1
        self._bytes += size or 0

    def add(self, event: Answered, size: int | None, seconds: float) -> None:
        self._outcomes[event.outcome] += 1
        self._bytes += size or 0
        if event.outcome is Outcome.MISS:
            self._seconds += seconds
        elif event.outcome is Outcome.BYPASS:
            self._bypasses[event.detail or event.fwd] += 1

    @property
    def stats(self) -> EndpointStats:
        outcomes = self._outcomes
        hits, misses = self._hits + outcomes[Outcome.HIT], outcomes[Outcome.MISS]
        saved = hits + outcomes[Outcome.STALE] + outcomes[Outcome.JOINED]
        return EndpointStats(
            hits=hits,
            stale=outcomes[Outcome.STALE],
            joined=outcomes[Outcome.JOINED],
            misses=misses,
            bypasses=dict(self._bypasses),
            bytes=self._bytes,
            seconds_saved=saved * self._seconds / misses if misses else 0.0,
        )


class Reporter:
    """
    The log of one endpoint.

    Args:
        endpoint: Its module, its qualified name and its place.
        name: The same without the place, for `hook`.
        hook: What is told of its calls and runs; None for nothing.
    """

    all: ClassVar[WeakSet[Reporter]] = WeakSet()

    def __init__(self, endpoint: str, name: str = "", hook: EventHook | None = None) -> None:
        self.all.add(self)
        self.name, self.hook = name or endpoint, hook
        self._endpoint = endpoint
        self.counters = _Counters()
        self._said: set[tuple[object, str]] = set()
        self._failure, self._minute, self._times = "", 0.0, 0
        self.failing: dict[str, str] = {}
        """Why a store fails, by what was done with it."""

    def answered(self, event: Answered, *, size: int | None, seconds: float) -> None:
        """Count an answer, and log it at DEBUG, once its last byte is sent."""
        self.counters.add(event, size, seconds)
        if self.hook is not None:
            self.hook.tell(event)
        if logs_answers():
            event = replace(event, size=size, seconds=seconds)
            logger.debug(
                "%s: answered: %s%s, key %s, %s bytes, %.1f ms",
                self._endpoint,
                event.outcome,
                f" ({event.detail})" if event.detail else "",
                event.key or "-",
                "-" if event.size is None else event.size,
                event.seconds * 1000,
            )

    @property
    def stats(self) -> EndpointStats:
        """What was answered so far."""
        return self.counters.stats

    def not_cached(self, *findings: Finding) -> None:
        """Warn once that and why a response is not cached, and how to fix that."""
        new = [f for f in findings if (f.reason, f.subject) not in self._said]
        if not new or len(self._said) > _MAX_LINES:
            return
        self._said.update((finding.reason, finding.subject) for finding in new)
        level = logging.DEBUG if all(f.reason in _QUIET for f in new) else logging.WARNING
        text = "%s: a response is not cached (logged once): %s"
        logger.log(level, text, self._endpoint, explained(new))

    def warn(self, message: str) -> None:
        """Warn once."""
        self._once((message, ""), logging.WARNING, "%s: %s", self._endpoint, message)

    def error(self, message: str) -> None:
        """Log an error once."""
        self._once((message, ""), logging.ERROR, "%s: %s", self._endpoint, message)

    def function_failed(self, cause: BaseException) -> None:
        """Log at DEBUG where a function of the application, given to the decorator, has failed."""
        logger.debug(
            "%s: a function of its decorator failed",
            self._endpoint,
            exc_info=(type(cause), _without_message(cause), cause.__traceback__),
        )

    def refresh_failed(self, cause: BaseException | int | None) -> None:
        """Warn that a stale response is served because the endpoint has failed."""
        logger.warning(
            "%s: a refresh failed (%r): the stale response is served for now",
            self._endpoint,
            cause,
            exc_info=cause if isinstance(cause, BaseException) else None,
        )

    def failed_apart(self, cause: BaseException) -> None:
        """Warn that a run has failed after the call that began it."""
        logger.warning(
            "%s: a run failed after its client had left (%r): later runs end before their requests "
            "do, in case they need what a middleware closes",
            self._endpoint,
            cause,
            exc_info=cause,
        )

    def clean_up_failed(self, cause: BaseException | str) -> None:
        """Warn once that the clean-up of what the endpoint iterates over fails."""
        if ("clean-up", "") not in self._said:
            self._said.add(("clean-up", ""))
            logger.warning(
                "%s: the clean-up of what it iterates over fails, which changes nothing of its "
                "responses (logged once): %s",
                self._endpoint,
                cause if isinstance(cause, str) else repr(cause),
                exc_info=cause if isinstance(cause, BaseException) else None,
            )

    def on_complete_failed(self, cause: Exception) -> None:
        """Log what a function of `on_complete` has raised."""
        logger.error("%s: on_complete= failed (%r)", self._endpoint, cause, exc_info=cause)

    def store_failed(self, cause: Exception, doing: Literal["reading", "writing"]) -> None:
        """Warn of a failing store, once for each cause until it works again."""
        if isinstance(cause, StoreUnavailableError) or getattr(cause, "is_reported", False):
            # What knows the store logs this once for all endpoints.
            return
        if fix := getattr(cause, "fix", ""):
            self._once(
                (fix, ""),
                logging.ERROR,
                "%s: the cache fails (%s), and will not recover by itself: %s. Requests are "
                "answered without it",
                *(self._endpoint, cause, fix),
            )
        elif self.failing.get(doing) != str(cause) and self._may_say(str(cause)):
            self.failing[doing] = str(cause)
            logger.warning(
                "%s: the cache fails (%s); requests are answered without it", self._endpoint, cause
            )

    def _may_say(self, failure: str) -> bool:
        now = time.monotonic()
        if failure != self._failure or now - self._minute >= 60:
            self._failure, self._minute, self._times = failure, now, 0
        self._times += 1
        return self._times <= _MOST_A_MINUTE

    def store_works(self, doing: Literal["reading", "writing"]) -> None:
        """Log that a store which failed works again."""
        if self.failing.pop(doing, None) is not None and not self.failing:
            logger.info("%s: the cache works again", self._endpoint)

    def _once(self, what: tuple[object, str], level: int, message: str, *args: object) -> None:
        if what not in self._said and len(self._said) <= _MAX_LINES:
            self._said.add(what)
            logger.log(level, message, *args)


def _without_message(cause: BaseException) -> BaseException:
    """Return an exception of the same class: the message may hold values of the request."""
    cls = type(cause)
    try:
        return cls.__new__(cls)
    # A class of the application may want arguments.
    except Exception:
        return Exception(cls.__qualname__)
