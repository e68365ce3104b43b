"""The metrics and spans for OpenTelemetry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import Answered, NotCached, Outcome, stream_cached
from stream_cached.opentelemetry import OpenTelemetryMetrics
from tests.support.asgi import Exchange, get
from tests.support.gates import runs_over

pytestmark = pytest.mark.anyio

Attributes = tuple[tuple[str, object], ...]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Telemetry:
    """What is exported."""

    def __init__(self) -> None:
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.told = OpenTelemetryMetrics(MeterProvider([self.reader]), self.tracers)

    def app(self, app: Starlette) -> Starlette:
        """Return an app that makes a span for each request, as an instrumentation does."""
        tracer = self.tracers.get_tracer("server")

        async def instrumented(scope: Scope, receive: Receive, send: Send) -> None:
            with tracer.start_as_current_span("request"):
                await app(scope, receive, send)

        return instrumented  # type: ignore[return-value]

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def values(self, name: str) -> dict[Attributes, float]:
        """The values of a metric by their attributes; of a histogram, how many there are."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            tuple(sorted((point.attributes or {}).items())): _value(point)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"stream_cached.{name}"
            for point in metric.data.data_points
        }


def _value(point: Any) -> float:
    value: float = point.count if isinstance(point, HistogramDataPoint) else point.value
    return value


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


async def test_a_run_has_a_span_to_which_joined_requests_are_linked(telemetry: Telemetry) -> None:
    gate = asyncio.Event()

    @stream_cached(60, on_event=telemetry.told)
    async def export(request: Request) -> Response:
        async def rows() -> AsyncIterator[bytes]:
            yield b"12345"
            await gate.wait()
            yield b"67890"

        return StreamingResponse(rows())

    test = test_a_run_has_a_span_to_which_joined_requests_are_linked
    name = f"{__name__}.{test.__name__}.<locals>.export"
    app = telemetry.app(Starlette(routes=[Route("/", export)]))
    leads, joins = Exchange(app), Exchange(app)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(leads.run())
        await leads.received.wait()
        group.create_task(joins.run())
        await joins.received.wait()
        assert telemetry.values("running") == {(("endpoint", name),): 1}
        assert telemetry.values("readers") == {(): 2}
        gate.set()
    await runs_over()
    await get(app)

    (run,) = telemetry.spans("stream_cached.run")
    requests = telemetry.spans("request")
    assert len(requests) == 3
    (joined,) = [span for span in requests if span.links]
    (leader,) = [span for span in requests if run.parent == span.get_span_context()]
    assert joined is not leader
    assert [link.context for link in joined.links] == [run.get_span_context()]
    assert run.attributes is not None
    assert run.attributes["stream_cached.endpoint"] == name
    assert run.attributes["stream_cached.result"] == "stored"

    counts = {(("endpoint", name), ("result", result)): 1 for result in ("miss", "joined", "hit")}
    assert telemetry.values("requests") == telemetry.values("first_byte") == counts
    assert telemetry.values("sent") == dict.fromkeys(counts, 10)
    assert telemetry.values("running") == {(("endpoint", name),): 0}
    of_run = ("cause", ""), ("endpoint", name), ("result", "stored")
    assert telemetry.values("runs") == {of_run: 1}
    assert telemetry.values("saved")[(("endpoint", name),)] > 0


async def test_the_span_of_a_run_that_fails_says_so(telemetry: Telemetry) -> None:
    @stream_cached(60, on_event=telemetry.told)
    async def export(request: Request) -> Response:
        raise RuntimeError("the endpoint broke")

    with pytest.raises(RuntimeError):
        await get(Starlette(routes=[Route("/", export)]))
    (run,) = telemetry.spans("stream_cached.run")
    assert run.status.status_code is StatusCode.ERROR


def test_a_bypass_and_a_look_up(telemetry: Telemetry) -> None:
    reasons = (NotCached.SET_COOKIE,)
    telemetry.told(Answered(Outcome.BYPASS, reasons=reasons, look_up=0.1, store="redis://host"))
    assert telemetry.values("bypasses") == {(("endpoint", ""), ("reason", "set-cookie")): 1}
    assert telemetry.values("look_up") == {(("store", "redis://host"),): 1}
