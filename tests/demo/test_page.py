"""The page of `stream-cached demo --serve`: its three endpoints, its counters, and in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_cached.demo import page
from stream_cached.demo.app import create_app
from tests.conftest import Serve
from tests.support.app_server import AppServer
from tests.support.browser import NEEDS_CHROMIUM, Browser, Tab
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.runs import HIT, MISS

JOINED = "stream-cached; fwd=uri-miss; collapsed"
BODY = "".join(page.row(number) for number in range(1, page.ROWS + 1)).encode()
HALF = BODY[: len(BODY) // 2]
ENDPOINTS = ["none", "naive", "stream_cached"]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Half of the rows are there; the others are once it is open."""
    gate = Gate()

    async def until(number: int) -> None:
        if number > page.ROWS // 2:
            await gate.passed(60)

    monkeypatch.setattr(page, "until", until)
    return gate


@pytest.fixture
def server(serve: Serve, gate: Gate) -> Iterator[AppServer]:
    server = serve(create_app("memory://"))
    start_over(server)
    yield server
    gate.open()


def start_over(server: AppServer) -> None:
    assert fetch(server.port, "/start-over", method="POST").status == 204


def counters(server: AppServer, name: str) -> list[int]:
    """Runs, requests, hits, joins, misses and bytes."""
    found = json.loads(fetch(server.port, "/counters").text)
    return [*found["counted"][name].values()]


def half_read(server: AppServer, name: str) -> RawClient:
    """A viewer that has read half of the body."""
    client = RawClient(server.port)
    client.send("GET", f"/rows/{name}")
    client.read_head()
    assert client.read_until(len(HALF)) == HALF
    return client


def test_the_second_viewer_joins_and_the_third_hits(server: AppServer, gate: Gate) -> None:
    with half_read(server, "stream_cached") as first, half_read(server, "stream_cached") as second:
        assert counters(server, "stream_cached") == [1, 2, 0, 1, 1, len(BODY)]
        gate.open()
        answers = [first.read_rest(), second.read_rest(), fetch(server.port, "/rows/stream_cached")]
    assert [answer.body for answer in answers] == [BODY] * 3
    assert [answer.header("Cache-Status") for answer in answers] == [MISS, JOINED, HIT]
    assert counters(server, "stream_cached") == [1, 3, 1, 1, 1, 3 * len(BODY)]


def test_a_first_viewer_that_leaves_truncates_what_the_naive_cache_has(server: AppServer) -> None:
    with half_read(server, "naive") as first:
        first.abort()
    wait_until(lambda: page._bodies)
    second = fetch(server.port, "/rows/naive")
    # Nothing tells its client that half of the body is missing.
    assert (second.status, second.complete, second.body) == (200, True, HALF)
    assert second.header("Cache-Status") == "naive; hit"
    assert counters(server, "naive") == [1, 2, 1, 0, 1, len(BODY)]


def test_a_first_viewer_that_leaves_changes_nothing_for_others(
    server: AppServer, gate: Gate
) -> None:
    with half_read(server, "stream_cached") as first:
        first.abort()
    with half_read(server, "stream_cached") as second:
        gate.open()
        assert second.read_rest().body == BODY
        assert second.response.header("Cache-Status") == JOINED
    assert fetch(server.port, "/rows/stream_cached").header("Cache-Status") == HIT
    assert counters(server, "stream_cached")[:5] == [1, 3, 1, 1, 1]


def test_without_a_cache_each_viewer_has_a_run(server: AppServer, gate: Gate) -> None:
    gate.open()
    answers = [fetch(server.port, "/rows/none") for _ in range(2)]
    assert [answer.body for answer in answers] == [BODY] * 2
    assert [answer.header("Cache-Status") for answer in answers] == [None] * 2
    assert counters(server, "none") == [2, 2, 0, 0, 2, 2 * len(BODY)]


def test_the_naive_cache_works_while_nobody_leaves(server: AppServer, gate: Gate) -> None:
    gate.open()
    assert [fetch(server.port, "/rows/naive").body for _ in range(2)] == [BODY] * 2
    assert counters(server, "naive") == [1, 2, 1, 0, 1, 2 * len(BODY)]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_starting_over_empties_caches_and_counters(
    server: AppServer, gate: Gate, name: str
) -> None:
    gate.open()
    fetch(server.port, f"/rows/{name}")
    start_over(server)
    assert counters(server, name) == [0] * 6
    fetch(server.port, f"/rows/{name}")
    assert counters(server, name) == [1, 1, 0, 0, 1, len(BODY)]


def test_starting_over_parts_new_viewers_from_a_run(server: AppServer) -> None:
    with half_read(server, "stream_cached"):
        start_over(server)
        with half_read(server, "stream_cached") as second:
            assert second.response.header("Cache-Status") == MISS


def test_the_page_needs_nothing_from_elsewhere(server: AppServer) -> None:
    answers = {path: fetch(server.port, path) for path in ("/", "/page.css", "/page.js")}
    kinds = [answer.header("Content-Type") for answer in answers.values()]
    assert kinds == [f"text/{kind}; charset=utf-8" for kind in ("html", "css", "javascript")]
    for answer in answers.values():
        assert answer.status == 200
        assert not re.search(r"//\w|@import|url\(", answer.text)
        assert "default-src 'none'" in (answer.header("Content-Security-Policy") or "")
    asked = re.findall(r'(?:src|href)="(?!data:)([^"]*)"', answers["/"].text)
    assert sorted(f"/{name}" for name in asked) == ["/page.css", "/page.js"]


# -- in a browser --------------------------------------------------------------------------------


def shown(tab: Tab) -> list[tuple[str, str, str, str]]:
    """What each viewer shows: how it was answered, rows, bytes, and how it ended."""
    columns = (tab.texts(f".viewer {part}") for part in (".how", ".rows", ".bytes", ".end"))
    return [*zip(*columns, strict=True)]


def counters_are(tab: Tab, *numbers: str) -> None:
    wanted = json.dumps([*numbers])
    texts = "[...document.querySelectorAll('#counters dd')].map((node) => node.innerText)"
    tab.wait_for(f"JSON.stringify({texts}) === JSON.stringify({wanted})")


@pytest.mark.full
@NEEDS_CHROMIUM
def test_viewers_in_a_browser(server: AppServer, gate: Gate, tmp_path: Path) -> None:
    half, all_of_it = f"{len(HALF)} of 1,240 bytes", "1,240 of 1,240 bytes"
    with Browser(tmp_path) as browser:
        tab = browser.open(f"{server.url}/", 360, 800)
        tab.click("#add")
        tab.wait_for("viewers[0].rows === 20")
        tab.click("#add")
        tab.wait_for("viewers[1].rows === 20")
        assert shown(tab) == [
            ("▶ miss", "20 of 40", half, "Reads the run that it has begun."),
            ("⇉ joined", "20 of 40", half, "Reads the run of another viewer."),
        ]
        gate.open()
        tab.wait_for("viewers.every((viewer) => !viewer.reads)")
        tab.click("#add")
        tab.wait_for("viewers.length === 3 && !viewers[2].reads")
        whole = "40 of 40", all_of_it, "✓ Whole: 1,240 bytes."
        assert shown(tab) == [("▶ miss", *whole), ("⇉ joined", *whole), ("✓ hit", *whole)]
        assert tab.texts(".viewer:last-child .bars i") == [""]
        assert tab.texts("#news") == ["Viewer 3 has the whole body."]
        counters_are(tab, "1", "3", "1", "1", "1", "3,720")
        # A narrow window shows all of it.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.full
@NEEDS_CHROMIUM
def test_a_viewer_waits_until_the_page_knows_the_whole_length(
    server: AppServer, tmp_path: Path
) -> None:
    with Browser(tmp_path) as browser:
        tab = browser.open(f"{server.url}/")
        tab.evaluate("known = new Promise((done) => (window.isKnown = done)); add(); null")
        assert tab.texts(".how") == ["waiting"]
        counters_are(tab, "0", "0", "0", "0", "0", "0")
        tab.evaluate("isKnown(); null")
        tab.wait_for("viewers[0].rows === 20")


@pytest.mark.full
@NEEDS_CHROMIUM
@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_first_viewer_leaves_half_way_in_a_browser(
    server: AppServer, gate: Gate, tmp_path: Path, name: str
) -> None:
    with Browser(tmp_path) as browser:
        tab = browser.open(f"{server.url}/")
        if name != "stream_cached":
            tab.click(f"input[value={name}]")
        tab.click("#half")
        tab.wait_for("viewers.length === 2 && viewers[1].rows >= 20")
        gate.open()
        tab.wait_for("!viewers[1].reads")
        first, second = shown(tab)
    assert first[1:] == ("20 of 40", f"{len(HALF)} of 1,240 bytes", "← Left.")
    sentence = "✂ Truncated: 620 of 1,240 bytes, and it looks like a whole answer."
    whole = "40 of 40", "1,240 of 1,240 bytes", "✓ Whole: 1,240 bytes."
    assert (
        second
        == {
            "none": ("▶ no cache", *whole),
            "naive": ("✓ hit", "20 of 40", f"{len(HALF)} of 1,240 bytes", sentence),
            "stream_cached": ("⇉ joined", *whole),
        }[name]
    )


@pytest.mark.full
@NEEDS_CHROMIUM
def test_no_more_viewers_read_than_the_browser_has_connections(
    server: AppServer, tmp_path: Path
) -> None:
    with Browser(tmp_path) as browser:
        tab = browser.open(f"{server.url}/")
        for _ in range(5):
            tab.click("#add")
        tab.wait_for("viewers.every((viewer) => viewer.rows === 20)")
        assert len(shown(tab)) == 4
        tab.click("#add")
        assert tab.texts("#news")[0].startswith("Four viewers read already.")
        # The counters still come.
        counters_are(tab, "1", "4", "0", "3", "1", "2,480")
        tab.click(".viewer button")
        tab.wait_for("!viewers[0].reads")
        tab.click("#add")
        tab.wait_for("viewers.length === 5 && viewers[4].rows === 20")


@pytest.mark.full
@NEEDS_CHROMIUM
def test_what_a_screen_reader_is_told(server: AppServer, gate: Gate, tmp_path: Path) -> None:
    gate.open()
    with Browser(tmp_path) as browser:
        tab = browser.open(f"{server.url}/")
        tab.click("#add")
        tab.wait_for("viewers[0].reads === false")
        nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    named = {(role, name) for role, name in found if role in ("button", "radio", "image", "group")}
    assert named == {
        ("group", "Cache"),
        *(("radio", name) for name in ("No cache", "Naive cache", "stream_cached")),
        *(("button", name) for name in ("Add a viewer", "Start over")),
        ("button", "The first viewer leaves half-way"),
        ("image", "Viewer 1, pieces over time: 40 of 40 rows"),
    }
    assert ("status", "") in found
