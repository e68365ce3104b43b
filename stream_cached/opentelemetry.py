"""The front door for OpenTelemetry: what `on_event=` is told, as metrics and spans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TracerProvider

from stream_cached.backends.breaker import health
from stream_cached.backends.breaker_state import State
from stream_cached.event_hook import RunBegan, RunEnded, RunResult, StoreAway, StoreBack
from stream_cached.events import Answered, Event, Outcome
from stream_cached.measures import FIRST_BYTE, LOOK_UP, reason_of
from stream_cached.runs.load import load

__all__ = ["OpenTelemetryMetrics"]

_NAME = "stream_cached"

#: How many runs are remembered to which requests that joined may be linked. A slow client may be
#: answered long after the run has ended.
_MAX_RUNS = 1024


class OpenTelemetryMetrics:
    """
    Counts what happens, and makes a span of each run. Make one in each process, and pass it as
    `on_event=`.

    Args:
        meter_provider: The provider of the meter; by default that of the process.
        tracer_provider: The provider of the tracer; by default that of the process.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        self._open: dict[int, Span] = {}
        self._runs_by_number: dict[int, SpanContext] = {}
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._requests = meter.create_counter("stream_cached.requests", "{request}")
        self._bypasses = meter.create_counter("stream_cached.bypasses", "{request}")
        self._sent = meter.create_counter("stream_cached.sent", "By")
        self._saved = meter.create_counter("stream_cached.saved", "s")
        self._runs = meter.create_counter("stream_cached.runs", "{run}")
        self._running = meter.create_up_down_counter("stream_cached.running", "{run}")
        self._first_byte = meter.create_histogram(
            "stream_cached.first_byte", "s", explicit_bucket_boundaries_advisory=FIRST_BYTE
        )
        self._look_up = meter.create_histogram(
            "stream_cached.look_up", "s", explicit_bucket_boundaries_advisory=LOOK_UP
        )
        _observe(meter)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Answered():
                self._answered(event)
            case RunBegan():
                self._began(event)
            case RunEnded():
                self._ended(event)
            case StoreAway() | StoreBack():
                # The state is looked at where it is asked for.
                pass
            case never:
                assert_never(never)

    def _answered(self, event: Answered) -> None:
        of = {"endpoint": event.endpoint, "result": event.outcome.value}
        self._requests.add(1, of)
        if event.size:
            self._sent.add(event.size, of)
        if event.first_byte is not None:
            self._first_byte.record(event.first_byte, of)
        if event.saved is not None:
            self._saved.add(event.saved, {"endpoint": event.endpoint})
        if event.look_up is not None:
            self._look_up.record(event.look_up, {"store": event.store})
        if event.outcome is Outcome.BYPASS:
            self._bypasses.add(1, {"endpoint": event.endpoint, "reason": reason_of(event)})
        if event.outcome is Outcome.JOINED and event.run is not None:
            joined = self._runs_by_number.get(event.run)
            if joined is not None:
                trace.get_current_span().add_link(joined)

    def _began(self, event: RunBegan) -> None:
        self._running.add(1, {"endpoint": event.endpoint})
        of = {"stream_cached.endpoint": event.endpoint, "stream_cached.key": event.key}
        # It is a child of the request that leads it.
        span = self._open[event.run] = self._tracer.start_span("stream_cached.run", attributes=of)
        if len(self._runs_by_number) >= _MAX_RUNS:
            del self._runs_by_number[next(iter(self._runs_by_number))]
        self._runs_by_number[event.run] = span.get_span_context()

    def _ended(self, event: RunEnded) -> None:
        of = {"endpoint": event.endpoint}
        self._running.add(-1, of)
        self._runs.add(1, {**of, "result": event.result.value, "cause": event.cause})
        span = self._open.pop(event.run, None)
        if span is None:
            return
        span.set_attribute("stream_cached.result", event.result.value)
        if event.cause:
            span.set_attribute("stream_cached.cause", event.cause)
        if event.result is RunResult.FAILED:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _observe(meter: Meter) -> None:
    """Add what is looked at when it is asked for."""

    def readers(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(load().readers)]

    def pending(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(load().pending)]

    def store_up(options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(int(each.available), {"store": each.store, "role": each.role})
            for each in health()
            if each.state is not State.UNTRIED
        ]

    meter.create_observable_gauge("stream_cached.readers", [readers], "{client}")
    meter.create_observable_gauge("stream_cached.pending", [pending], "By")
    meter.create_observable_gauge("stream_cached.store_up", [store_up])
