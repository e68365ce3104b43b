"""The front door for Prometheus: what `on_event=` is told, as metrics of prometheus-client."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from stream_cached.backends.breaker import health
from stream_cached.backends.breaker_state import State
from stream_cached.checks import require_seconds
from stream_cached.event_hook import RunBegan, RunEnded, StoreAway, StoreBack
from stream_cached.events import Answered, Event, Outcome
from stream_cached.measures import FIRST_BYTE, LOOK_UP, Sampler, reason_of
from stream_cached.runs.load import load

__all__ = ["PrometheusMetrics"]


class PrometheusMetrics:
    """
    Counts what happens, for Prometheus. Make one in each process, and pass it as `on_event=`.

    Under several processes, the environment variable `PROMETHEUS_MULTIPROC_DIR` has to be set
    before prometheus-client is imported, as its documentation says.

    Args:
        registry: The registry of the metrics.
        interval: Seconds after which readers and pending bytes are looked at again.

    Raises:
        ConfigurationError: The interval is not a number of seconds above 0.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, interval: float = 1.0) -> None:
        require_seconds("interval", interval)
        self._requests = Counter(
            "stream_cached_requests",
            "Answers, by how they came about.",
            ("endpoint", "result"),
            registry=registry,
        )
        self._bypasses = Counter(
            "stream_cached_bypasses",
            "Answers past the cache, by the first reason.",
            ("endpoint", "reason"),
            registry=registry,
        )
        self._sent = Counter(
            "stream_cached_sent_bytes",
            "Bytes of bodies that were sent.",
            ("endpoint", "result"),
            registry=registry,
        )
        self._first_byte = Histogram(
            "stream_cached_first_byte_seconds",
            "Seconds from the call to the first byte of the body.",
            ("endpoint", "result"),
            buckets=FIRST_BYTE,
            registry=registry,
        )
        self._saved = Counter(
            "stream_cached_saved_seconds",
            "Seconds that the runs of the entries took which have answered, where that is known.",
            ("endpoint",),
            registry=registry,
        )
        self._runs = Counter(
            "stream_cached_runs",
            "Runs that have ended, by how.",
            ("endpoint", "result", "cause"),
            registry=registry,
        )
        self._running = Gauge(
            "stream_cached_running",
            "Runs that go on.",
            ("endpoint",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._set_up_load(registry)
        self._answers: dict[tuple[str, Outcome], Callable[[Answered], None]] = {}
        self._sampler = Sampler(self._sample, interval)

    def _set_up_load(self, registry: CollectorRegistry) -> None:
        self._readers = Gauge(
            "stream_cached_readers",
            "Clients that are sent a stream whose run goes on.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._pending = Gauge(
            "stream_cached_pending_bytes",
            "Bytes that wait to be written to a store.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._store_up = Gauge(
            "stream_cached_store_up",
            "Whether a store is used: 1, or 0 while it is away for a process.",
            ("store", "role"),
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._look_up = Histogram(
            "stream_cached_look_up_seconds",
            "Seconds of a look-up in a store over a network.",
            ("store",),
            buckets=LOOK_UP,
            registry=registry,
        )
        self._look_ups: dict[str, Callable[[float], None]] = {}

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Answered():
                self._answered(event)
            case RunBegan():
                self._running.labels(event.endpoint).inc()
                self._sampler.wake()
            case RunEnded():
                self._running.labels(event.endpoint).dec()
                self._runs.labels(event.endpoint, event.result.value, event.cause).inc()
                self._sampler.wake()
            case StoreAway():
                self._store_up.labels(event.store, event.role).set(0)
            case StoreBack():
                self._store_up.labels(event.store, event.role).set(1)
            case never:
                assert_never(never)

    def _answered(self, event: Answered) -> None:
        key = event.endpoint, event.outcome
        count = self._answers.get(key)
        if count is None:
            count = self._answers[key] = self._counter_of(*key)
        count(event)
        if event.outcome is Outcome.BYPASS:
            self._bypasses.labels(event.endpoint, reason_of(event)).inc()
        if event.look_up is not None:
            observe = self._look_ups.get(event.store)
            if observe is None:
                observe = self._look_ups[event.store] = self._look_up.labels(event.store).observe
                self._sample()
            observe(event.look_up)

    def _counter_of(self, endpoint: str, outcome: Outcome) -> Callable[[Answered], None]:
        """Return what counts an answer: to look for the labels each time would take longer."""
        requests = self._requests.labels(endpoint, outcome.value)
        sent = self._sent.labels(endpoint, outcome.value)
        first_byte = self._first_byte.labels(endpoint, outcome.value)
        saved = self._saved.labels(endpoint)

        def count(event: Answered) -> None:
            requests.inc()
            if event.size:
                sent.inc(event.size)
            if event.first_byte is not None:
                first_byte.observe(event.first_byte)
            if event.saved is not None:
                saved.inc(event.saved)

        return count

    def _sample(self) -> None:
        now = load()
        self._readers.set(now.readers)
        self._pending.set(now.pending)
        for each in health():
            if each.state is not State.UNTRIED:
                self._store_up.labels(each.store, each.role).set(each.available)
