"""The benchmarks: they find out what is wrong, and make a table of what they have saved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvloop")

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from benchmarks import __main__ as command
from benchmarks import apps, compare, hits, misses, report
from benchmarks.bench import SCALES, Bench, WrongError, interleave
from benchmarks.bodies import MEDIA_TYPE, WORKS, Body
from benchmarks.client import Load, drain
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.figures import Series, figures_of, percentile
from benchmarks.hits import Asker
from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.process import ROOT

BODY = WORKS["W1"]


@dataclass
class Running:
    """A contender in a thread of this process."""

    name: str
    port: int
    pid: int = os.getpid()

    def command(self) -> list[str]:
        return []


@contextlib.contextmanager
def _ask(serve: Serve, app: ASGIApp, name: str = "prepared") -> Iterator[Asker]:
    asker = Asker(Running(name, serve(app).port), BODY, "W1")
    with asker.client:
        yield asker


async def _displaced(request: Request) -> Response:
    """As many bytes as it should be, and not the same ones."""
    return Response(BODY.whole[::-1], media_type=MEDIA_TYPE)


async def _short(request: Request) -> Response:
    return Response(BODY.whole[:-1], media_type=MEDIA_TYPE)


async def _fails(request: Request) -> Response:
    return Response(BODY.whole, 500, media_type=MEDIA_TYPE)


async def _typeless(request: Request) -> Response:
    return Response(BODY.whole)


@pytest.mark.parametrize(
    ("endpoint", "flaw"),
    [
        (_displaced, "other bytes than the stream's"),
        (_short, "1,023 bytes instead of 1,024"),
        (_fails, "status 500"),
        (_typeless, "another Content-Type than the stream's"),
    ],
)
def test_wrong_answers_are_found(serve: Serve, endpoint: Any, flaw: str) -> None:
    with _ask(serve, apps.served(endpoint)) as asker, pytest.raises(WrongError, match=flaw):
        asker.ask(2)


def test_a_hit_that_runs_the_endpoint_is_found(serve: Serve) -> None:
    with _ask(serve, apps.served(apps.stream), "ours-memory") as asker:
        asker.contender = CONTENDERS["aiocache-memory"]
        with pytest.raises(WrongError, match="the body was made 2 times instead of 0"):
            asker.ask(2)


def test_a_miss_that_is_none_is_found(serve: Serve) -> None:
    same = stream_cached(ttl=60, cache="memory://", key="the same for all")(apps.stream)
    with _ask(serve, apps.served(same), "aiocache-memory") as asker:
        asker.miss([1])
        with pytest.raises(WrongError, match="the body was made 0 times instead of 1"):
            asker.miss([2])


def test_our_cache_status_has_to_say_the_same(serve: Serve) -> None:
    app = apps.served(stream_cached(ttl=60, cache="memory://")(apps.stream))
    with _ask(serve, app, "ours-memory") as asker:
        with pytest.raises(WrongError, match="Cache-Status: stream-cached; fwd=uri-miss; stored"):
            asker.ask(1)
        asker.runs()
        asker.ask(2)


def test_hits_and_misses_are_measured(serve: Serve) -> None:
    app = apps.build("ours-memory")
    with Bench(SCALES["tiny"]) as bench, _ask(serve, app, "ours-memory") as asker:
        took = hits.one_client(bench, {"ours-memory": asker}, BODY)["ours-memory"]
        ends, firsts = misses.measure(bench, {"ours-memory": asker}, BODY)
        server = Running("ours-memory", asker.client.port)
        assert hits.Loader(server, asker, "W1", 65_536, 0.01)()[0] > 0
    assert len(took.rounds) >= 3
    assert not took.flaw
    for end, first in zip(ends["ours-memory"].values, firsts["ours-memory"].values, strict=True):
        assert 0 < first <= end


def test_a_load_finds_bodies_of_another_size(serve: Serve) -> None:
    sizes = iter([*[1_024] * 20, *[1_000] * 100])

    async def endpoint(request: Request) -> Response:
        return Response(BODY.whole[: next(sizes)], media_type=MEDIA_TYPE)

    with _ask(serve, apps.served(endpoint)) as asker:
        loader = hits.Loader(Running("prepared", asker.client.port), asker, "W1", 65_536, 1.0)
        with pytest.raises(WrongError, match=r"bodies of 1,000 and 1,024 bytes"):
            loader()


def test_a_load_makes_all_its_requests(serve: Serve) -> None:
    port = serve(apps.build("uncached")).port
    apps.runs = 0
    with Load(port, 3) as load:
        _, latencies = load.run([f"/W1?n={number}" for number in range(20)])
    assert (len(latencies), apps.runs) == (20, 20)


def test_a_load_does_not_wait_for_ever(serve: Serve) -> None:
    async def endpoint(request: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response()

    port = serve(apps.served(endpoint)).port
    with Load(port, 2, timeout=0.05) as load, pytest.raises(TimeoutError):
        load.run(["/W1"] * 2)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_body_is_drained_without_being_kept(serve: Serve, is_stream: bool) -> None:
    body = Body(1_000, 50)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter(body)) if is_stream else Response(body.whole)

    drained = drain(serve(apps.served(endpoint)).port, "/W1")
    assert (drained.length, drained.digest) == (body.length, body.digest)
    assert 0 < drained.first <= drained.took


def test_every_chunk_is_another_line_of_json() -> None:
    # Others of the same kind: these keep all that they have once made.
    for body in (*map(replace, WORKS.values()), Body(20, 3, step=7)):
        lines = body.whole.splitlines()
        assert len(set(lines)) == body.count
        assert json.loads(lines[-1])["n"].lstrip("0") == str((body.count - 1) * body.step)
        assert {len(chunk) for chunk in body} == {body.size}


def test_contenders_take_turns_until_their_time_is_over() -> None:
    made: list[str] = []

    def wrong() -> list[float]:
        raise WrongError("other bytes")

    def turn(name: str) -> list[float]:
        made.append(name)
        return [1.0]

    series = interleave(
        {
            "prepared": lambda: turn("prepared"),
            "cashews-memory": wrong,
            "uncached": lambda: turn("uncached"),
        },
        0.0,
        least=2,
    )
    assert made == ["prepared", "uncached", "uncached", "prepared"]
    assert series["cashews-memory"].flaw == "other bytes"


def test_a_ratio_is_that_of_each_round() -> None:
    # The machine was ten times slower in the second round.
    floor = Series({0: [1.0], 1: [10.0], 2: [1.0]})
    other = Series({0: [2.0], 1: [20.0]})
    found = figures_of(
        {"prepared": floor, "ours-memory": other, "cashews-memory": Series(flaw="none")},
        {"ours-memory": "prepared", "cashews-memory": "prepared"},
        part="hits",
        measure="hit",
        work="W1",
    )
    assert [(one.contender, one.ratio, one.rounds) for one in found] == [
        ("prepared", None, 3),
        ("ours-memory", 2.0, 2),
        ("cashews-memory", None, 0),
    ]


def test_percentiles() -> None:
    values = [float(number) for number in range(100)]
    assert percentile(values, 90) == 90
    assert percentile(values, 90, best_is_high=True) == 9
    assert percentile([1.0], 99) == 1


def _figure(contender: str, work: str, **other: Any) -> dict[str, Any]:
    return {
        "measure": "hit, one client",
        "contender": contender,
        "work": work,
        "unit": "s",
        **other,
    }


SAVED = {
    "date": "2026-01-02 03:04 UTC",
    "scale": "full",
    "seconds": 900.4,
    "machine": "Linux, 2 cores",
    "versions": {"Python": "3.11.7", "starlette": "1.10.0"},
    "load": [0.5, 1.75],
    "figures": [
        _figure("prepared", "W1", median=0.0001, p90=0.00012),
        _figure("ours-memory", "W1", median=0.00012, p90=0.2, ratio=1.2, to="prepared"),
        _figure("cashews-memory", "W1", flaw="other bytes"),
        _figure("prepared", "W2", median=1.5, p90=2.5),
        {
            "measure": "round trips",
            "contender": "ours-redis",
            "work": "W1",
            "unit": "",
            "median": 3.0,
        },
    ],
}

TABLE = """\
2026-01-02 03:04 UTC, full, 900 s. Linux, 2 cores. Load average 0.5 before and 1.8 after. \
Python 3.11.7, starlette 1.10.0.

**hit, one client** (ratio to prepared)

|                |     W1 |    p90 | ratio |     W2 |    p90 |
|----------------|-------:|-------:|------:|-------:|-------:|
| prepared       | 100 µs | 120 µs |       | 1.50 s | 2.50 s |
| ours-memory    | 120 µs | 200 ms |  1.20 |      - |        |
| cashews-memory |      - |        |       |      - |        |

- cashews-memory (W1): other bytes.

**round trips**

|            | W1 |
|------------|---:|
| ours-redis |  3 |
"""


def test_the_table_is_made_of_what_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (saved := tmp_path / "saved.json").write_text(json.dumps(SAVED))
    command.main(["--show", str(saved), "--out", str(tmp_path)])
    assert (tmp_path / "figures.md").read_text() == TABLE == report.table(SAVED)
    assert capsys.readouterr().out.startswith(TABLE)


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert report.plot(SAVED, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (saved := tmp_path / "saved.json").write_text(json.dumps(SAVED))
    command.main(["--show", str(saved), "--out", str(tmp_path)])
    assert "no plot: matplotlib is not installed" in capsys.readouterr().out


def test_who_must_be_right_and_is_not_fails_the_run() -> None:
    assert command.wrong_in(SAVED) == []
    wrong = {"figures": [_figure("ours-redis", "W1", flaw="x"), _figure("Redis", "W1", flaw="y")]}
    assert command.wrong_in(wrong) == ["Redis", "ours-redis"]


def test_missing_packages_are_skipped_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = Contender("hishel-sqlite", package="no_such_package", fails=True)
    monkeypatch.setitem(CONTENDERS, "hishel-sqlite", missing)
    with Bench(SCALES["tiny"]) as bench:
        assert bench.servers(["hishel-sqlite"]) == {}
        assert bench.servers(["hishel-sqlite"]) == {}
    assert capsys.readouterr().err == "without hishel-sqlite: there is no package no_such_package\n"


def _run(tmp_path: Path, *arguments: str) -> str:
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks", "--tiny", "--out", str(tmp_path), *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_part_that_needs_no_server_runs(tmp_path: Path) -> None:
    assert "| our key" in _run(tmp_path, "keys")
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert {one["part"] for one in saved["figures"]} == {"keys"}


@pytest.mark.full
@pytest.mark.usefixtures("redis_server")
@pytest.mark.parametrize(
    "part",
    ["cpu", "runs", *(pytest.param(n, marks=pytest.mark.rest) for n in ("endpoints", "growth"))],
)
def test_parts_with_servers_run(tmp_path: Path, part: str) -> None:
    assert _run(tmp_path, part).rstrip().endswith(str(tmp_path))


# -- the comparison -------------------------------------------------------------------------------


def _shown() -> list[list[str]]:
    """Return the lines of the table in the documentation, cell by cell."""
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_documentation_has_the_questions_of_the_comparison() -> None:
    heads, _, *rows = _shown()
    assert [row[0] for row in rows] == [question.__doc__ for question in compare.QUESTIONS]
    assert [head.rpartition(" ")[0] for head in heads[1:]] == list(compare.LIBRARIES)


@pytest.mark.full
@pytest.mark.parametrize("number", range(len(compare.QUESTIONS)))
def test_this_library_still_answers_as_the_documentation_shows(number: int) -> None:
    question, (_, build) = compare.QUESTIONS[number], compare.LIBRARIES["stream_cached"]
    shown, found = _shown()[2 + number][1], question(build)
    # How many seconds it takes depends on the machine.
    assert re.sub(r" in [\d.]+ s", "", found) == re.sub(r" in [\d.]+ s", "", shown)
