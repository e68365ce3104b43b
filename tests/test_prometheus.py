"""The metrics for Prometheus: of one process, of several, and in the queries of the docs."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import (
    Answered,
    ConfigurationError,
    NotCached,
    Outcome,
    RunBegan,
    RunEnded,
    RunResult,
    StoreAway,
    StoreBack,
    stream_cached,
)
from stream_cached.prometheus import PrometheusMetrics
from tests.conftest import Spawn
from tests.support.asgi import Exchange, get
from tests.support.gates import runs_over
from tests.support.http_client import fetch
from tests.support.process import HOST, ROOT, ServerProcess

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Metrics(PrometheusMetrics):
    """The metrics in a registry of their own."""

    def __init__(self, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry, **settings)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"stream_cached_{name}", labels)

    @property
    def samples(self) -> dict[str, set[str]]:
        """The names of the samples there are, each with those of its labels."""
        return {
            sample.name: set(sample.labels)
            for family in self.registry.collect()
            for sample in family.samples
        }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(interval=0.01)


# -- one process ----------------------------------------------------------------------------------


async def test_a_miss_a_joined_request_and_a_hit(metrics: Metrics) -> None:
    gate = asyncio.Event()

    @stream_cached(60, on_event=metrics)
    async def export(request: Request) -> Response:
        async def rows() -> AsyncIterator[bytes]:
            yield b"12345"
            await gate.wait()
            yield b"67890"

        return StreamingResponse(rows())

    app = Starlette(routes=[Route("/", export)])
    name = f"{__name__}.{test_a_miss_a_joined_request_and_a_hit.__name__}.<locals>.export"
    leads, joins = Exchange(app), Exchange(app)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(leads.run())
        await leads.received.wait()
        # Several times the interval.
        await asyncio.sleep(0.05)
        group.create_task(joins.run())
        await joins.received.wait()
        assert metrics.value("running", endpoint=name) == 1
        # Nobody says that a reader has come: it is looked at now and then.
        while metrics.value("readers") != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        gate.set()
    await runs_over()
    await get(app)
    for result in ("miss", "joined", "hit"):
        assert metrics.value("requests_total", endpoint=name, result=result) == 1
        assert metrics.value("sent_bytes_total", endpoint=name, result=result) == 10
        assert metrics.value("first_byte_seconds_count", endpoint=name, result=result) == 1
    assert metrics.value("runs_total", endpoint=name, result="stored", cause="") == 1
    assert metrics.value("running", endpoint=name) == 0
    async with asyncio.timeout(10):
        while metrics.value("readers") != 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    saved = metrics.value("saved_seconds_total", endpoint=name)
    assert saved is not None
    assert saved > 0
    assert metrics.value("pending_bytes") == 0


@pytest.mark.parametrize(
    ("answered", "reason"),
    [
        (
            Answered(Outcome.BYPASS, reasons=(NotCached.SET_COOKIE, NotCached.STATUS)),
            "set-cookie",
        ),
        (Answered(Outcome.BYPASS, detail="max-body"), "max-body"),
        # What a record in the store says, where others may write.
        (Answered(Outcome.BYPASS, detail="forged"), "other"),
    ],
)
def test_a_bypass_has_one_reason_of_a_closed_set(
    metrics: Metrics, answered: Answered, reason: str
) -> None:
    metrics(answered)
    assert metrics.value("bypasses_total", endpoint="", reason=reason) == 1


def test_what_is_not_known_is_not_counted(metrics: Metrics) -> None:
    metrics(Answered(Outcome.HIT))
    assert metrics.value("requests_total", endpoint="", result="hit") == 1
    assert metrics.value("saved_seconds_total", endpoint="") == 0
    assert metrics.value("first_byte_seconds_count", endpoint="", result="hit") == 0
    assert metrics.value("look_up_seconds_count", store="") is None


def test_a_store_is_up_or_away(metrics: Metrics) -> None:
    up = {"store": "redis://host", "role": "records"}
    metrics(StoreAway("redis://host", "records"))
    assert metrics.value("store_up", **up) == 0
    metrics(StoreBack("redis://host", "records", 1.5))
    assert metrics.value("store_up", **up) == 1
    metrics(Answered(Outcome.HIT, look_up=0.002, store="redis://host"))
    assert metrics.value("look_up_seconds_count", store="redis://host") == 1
    assert metrics.value("look_up_seconds_sum", store="redis://host") == 0.002


def test_an_interval_is_a_number_of_seconds() -> None:
    with pytest.raises(ConfigurationError, match="interval"):
        Metrics(interval=0)


# -- several processes ----------------------------------------------------------------------------


def _samples(port: int) -> dict[tuple[Any, ...], float]:
    """Return what one worker says of all; nothing while prometheus-client makes a file."""
    answer = fetch(port, "/metrics/")
    if answer.status != 200:
        return {}
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.full
def test_two_workers_are_counted_together(
    spawn: Spawn, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    server = spawn(
        "tests.support.metrics_app:app",
        {
            "CACHE": f"{redis_url}?namespace={namespace}",
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        },
        options=("--workers", "2"),
    )
    pids, asked = set[str](), 0
    while (len(pids) < 2 or asked < 20) and asked < 500:
        pids.add(fetch(server.port, "/pid").text)
        assert fetch(server.port, "/export").text == "0123456789" * 4
        asked += 1
    assert len(pids) == 2

    endpoint = ("endpoint", "tests.support.metrics_app.export")
    hit = ("stream_cached_requests_total", endpoint, ("result", "hit"))
    miss = ("stream_cached_requests_total", endpoint, ("result", "miss"))
    deadline = time.monotonic() + 10
    readers = ("stream_cached_readers",)
    # An answer is counted after its last byte, and each worker looks at its readers now and then.
    while (samples := _samples(server.port)).get(hit) != asked - 1 or samples[readers]:
        assert time.monotonic() < deadline, samples
    assert samples[miss] == 1
    sent = samples["stream_cached_sent_bytes_total", endpoint, ("result", "hit")]
    assert sent == 40 * (asked - 1)
    # The run of one worker, and what its entry has saved in the other one.
    runs = samples["stream_cached_runs_total", ("cause", ""), endpoint, ("result", "stored")]
    assert runs == 1
    assert samples["stream_cached_saved_seconds_total", endpoint] > 0
    # Gauges have no label of a process.
    assert samples["stream_cached_running", endpoint] == 0
    (store,) = [key for key in samples if key[0] == "stream_cached_store_up"]
    assert samples[store] == 1
    assert dict(store[1:])["role"] == "records"


# -- the documentation ----------------------------------------------------------------------------

TEXT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
_WORDS = {"by", "sum", "rate", "histogram_quantile", "le", "min", "increase"}


def _all_metrics() -> Metrics:
    """Return metrics of which each one has a value."""
    metrics = Metrics()
    metrics(Answered(Outcome.BYPASS, endpoint="e", size=1, first_byte=0.1, look_up=0.1, store="s"))
    metrics(Answered(Outcome.HIT, endpoint="e", saved=1.0))

    async def of_runs() -> None:
        metrics(RunBegan(1, "e", "k"))
        metrics(RunEnded(1, "e", "k", RunResult.STORED, "", 1.0))

    asyncio.run(of_runs())
    metrics(StoreAway("s", "records"))
    return metrics


def _queries() -> list[str]:
    rows = re.findall(r"^\| [^|]+ \| `([^`]*stream_cached_[^`]*)` \|$", TEXT, flags=re.MULTILINE)
    return [row.replace("\\|", "|") for row in rows]


def test_the_queries_name_metrics_and_labels_that_exist() -> None:
    samples, queries = _all_metrics().samples, _queries()
    assert len(queries) >= 8
    labels = set().union(*samples.values())
    for query in queries:
        assert query.count("(") == query.count(")")
        # Texts and durations are neither metrics nor labels.
        names = re.findall(r"[a-z_]+", re.sub(r'"[^"]*"|\[\w+\]|\d[\d.]*', "", query))
        metrics = {name for name in names if name.startswith("stream_cached_")}
        assert metrics
        assert metrics <= samples.keys(), query
        assert set(names) - metrics <= labels | _WORDS, query


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(stream_cached_\w+)` \| (\w+) \| ([^|]*)\|", TEXT, flags=re.MULTILINE)
    shown = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    families = {}
    for family in _all_metrics().registry.collect():
        kind, suffix = family.type, "_total" if family.type == "counter" else ""
        labels = {label for each in family.samples for label in each.labels} - {"le"}
        families[family.name + suffix] = (kind, labels)
    assert shown == families


class Prometheus(ServerProcess):
    """A real one, which looks at one app five times a second."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target

    def command(self) -> list[str]:
        job = {"job_name": "app", "static_configs": [{"targets": [f"{HOST}:{self._target}"]}]}
        # What is JSON is YAML, too.
        config = {"global": {"scrape_interval": "200ms"}, "scrape_configs": [job]}
        job["metrics_path"] = "/metrics/"
        (self.directory / "prometheus.yml").write_text(json.dumps(config))
        return [
            "prometheus",
            f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def answers(self) -> bool:
        return fetch(self.port, "/-/ready").status == 200

    def ask(self, query: str) -> list[Any]:
        answer = json.loads(fetch(self.port, f"/api/v1/query?query={quote(query)}").text)
        assert answer["status"] == "success", (query, answer)
        result: list[Any] = answer["data"]["result"]
        return result


#: The queries that have no result while nothing goes wrong.
_OF_TROUBLE = ("bypasses", 'result="aborted"', "< 1")


@pytest.mark.full
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no Prometheus")
def test_a_real_prometheus_answers_the_queries(
    spawn: Spawn, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    cache = f"{redis_url}?namespace={namespace}"
    environment = {"CACHE": cache, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    app = spawn("tests.support.metrics_app:app", environment)
    fetch(app.port, "/export")
    with Prometheus(app.port) as prometheus:
        deadline = time.monotonic() + 20
        ratio = next(query for query in _queries() if "joined" in query)
        while not (found := prometheus.ask(ratio)) or found[0]["value"][1] in ("NaN", "0"):
            assert time.monotonic() < deadline
            fetch(app.port, "/export")
            time.sleep(0.1)
        assert found[0]["value"][1] == "1"
        for query in _queries():
            is_empty = not prometheus.ask(query)
            assert is_empty is any(each in query for each in _OF_TROUBLE), query
