"""Real servers: what they send first, what they send later on, and what is left when they end."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.django_servers import SERVERS, DjangoServer
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, RawResponse, fetch, fetch_many
from tests.support.process import HOST, ROOT

Start = Callable[..., DjangoServer]

ROWS = [b"row %d\n" % number for number in range(3)]

#: Views by what they are: the view and its content, and whether the cache takes what they answer.
VIEWS = ("gated", "agated", "mixed", "amixed", "private", "aprivate", "upload", "aupload")

#: Headers that differ from one answer to the next.
_OF_ONE = ("date", "age", "cache-status", "content-length", "transfer-encoding", "connection")
_OF_HIT = ("accept-ranges", "etag")


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start a server: `start("waitress", "redis")`."""
    with ExitStack() as stack:

        def started(kind: str, store: str = "memory", **options: object) -> DjangoServer:
            if find_spec(kind.partition("-")[0]) is None:
                pytest.skip(f"{kind} is not installed")
            url = "memory://"
            if store != "memory":
                # A machine that is busy is no outage.
                url = f"{request.getfixturevalue('redis_url')}?timeout=5"
            if store == "files":
                options["environment"] = {"APP_BODIES": f"file://{tmp_path}/bodies"}
            environment = {"APP_CACHE": url, **options.pop("environment", {})}  # type: ignore[dict-item]
            return stack.enter_context(DjangoServer(kind, environment, **options))  # type: ignore[arg-type]

        yield started


def kept(response: RawResponse) -> list[tuple[bytes, bytes]]:
    """The headers that miss and hit have in common."""
    left_out = {name.encode() for name in (*_OF_ONE, *_OF_HIT)}
    return sorted(
        (name.lower(), value) for name, value in response.headers if name.lower() not in left_out
    )


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("store", ["memory", "redis", "files"])
@pytest.mark.matrix(share=2)
def test_a_server(kind: str, store: str, start: Start) -> None:
    server = start(kind, store)
    for view in VIEWS:
        each_chunk_is_sent_as_it_is_made(server, view)
    assert "Traceback" not in server.output()
    for view in ("gated", "agated"):
        a_client_that_leaves_costs_the_others_nothing(server, view)
    # wsgiref ends the body as if it were whole, and daphne leaves the client waiting; both do so
    # without the cache, too.
    if kind not in ("wsgiref", "daphne"):
        a_generator_that_raises_breaks_the_connection(server)
    server.stop(timeout=15)


def each_chunk_is_sent_as_it_is_made(server: DjangoServer, view: str) -> None:
    gates, target = server.gates, f"/{view}/{view}/3"
    is_upload = "upload" in view
    method, body = ("POST", b"data") if is_upload else ("GET", b"")
    with RawClient(server.port) as client:
        client.send(method, target, body=body)
        miss = client.read_head()
        assert client.read_until(len(ROWS[0])) == ROWS[0]
        gates.open(view, 1)
        assert client.read_until(2 * len(ROWS[0])) == ROWS[0] + ROWS[1]
        gates.open(view)
        client.read_rest()
    assert (miss.status, miss.body, miss.complete) == (200, b"".join(ROWS), True)
    hit = fetch(server.port, target, method=method, body=body)
    assert (hit.status, hit.body, hit.complete) == (200, b"".join(ROWS), True)
    assert kept(hit) == kept(miss)
    is_cached = not is_upload and "private" not in view
    assert gates.notes(f"{view}.runs") == (1 if is_cached else 2)
    wait_until(lambda: gates.notes(f"{view}.closed") == gates.notes(f"{view}.runs"))
    assert (hit.header("content-length") == "18") == is_cached
    assert (hit.header("etag") is not None) == is_cached


def a_client_that_leaves_costs_the_others_nothing(server: DjangoServer, view: str) -> None:
    name = f"{view}-left"
    client = RawClient(server.port)
    client.send("GET", f"/{view}/{name}/3")
    client.read_head()
    client.read_until(len(ROWS[0]))
    client.abort()
    server.gates.open(name)
    wait_until(lambda: server.gates.notes(f"{name}.closed"))
    hit = fetch(server.port, f"/{view}/{name}/3")
    assert hit.body == b"".join(ROWS)
    assert server.gates.notes(f"{name}.runs") == 1


def a_generator_that_raises_breaks_the_connection(server: DjangoServer) -> None:
    for number in (1, 2):
        response = fetch(server.port, "/fails/x")
        assert (response.status, response.body, response.complete) == (200, b"begun\n", False)
        assert server.gates.notes("x.runs") == number


@pytest.mark.parametrize("kind", ["gunicorn-sync", "gunicorn-gthread", "uvicorn"])
@pytest.mark.parametrize("view", ["gated", pytest.param("agated", marks=pytest.mark.rest)])
@pytest.mark.full
def test_many_cold_clients_of_four_workers_cause_one_run(
    kind: str, view: str, start: Start
) -> None:
    options = ("--preload",) if kind.startswith("gunicorn") else ()
    server = start(kind, "redis", workers=4, options=options)
    assert fetch(server.port, "/small/warm", timeout=30).status == 200
    server.gates.open(view)
    answers = fetch_many(server.port, f"/{view}/{view}/3", count=20)
    assert {(each.status, each.body, each.complete) for each in answers} == {
        (200, b"".join(ROWS), True)
    }
    assert server.gates.notes(f"{view}.runs") == 1


def test_a_master_that_has_used_the_cache_before_it_forks(start: Start) -> None:
    server = start(
        "gunicorn-sync", workers=2, options=("--preload",), environment={"APP_WARM": "1"}
    )
    server.gates.open("gated")
    assert server.gates.notes("warm.runs") == 1
    for _ in range(4):
        assert fetch(server.port, "/gated/gated/3").body == b"".join(ROWS)
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("kind", ["gunicorn-gthread", "uvicorn"])
@pytest.mark.full
def test_each_client_gets_its_own_coding(kind: str, start: Start) -> None:
    server = start(kind, environment={"APP_GZIP": "1"})
    server.gates.open("gated")
    target = "/gated/gated/100"
    coded = fetch(server.port, target, {"Accept-Encoding": "gzip"})
    plain = fetch(server.port, target)
    again = fetch(server.port, target, {"Accept-Encoding": "gzip"})
    expected = b"".join(b"row %d\n" % number for number in range(100))
    assert plain.body == gzip.decompress(coded.body) == gzip.decompress(again.body) == expected
    assert server.gates.notes("gated.runs") == 1
    assert coded.header("content-encoding") == again.header("content-encoding") == "gzip"


@pytest.mark.full
def test_no_user_is_given_what_is_another_ones(start: Start) -> None:
    server = start("uvicorn")
    made = subprocess.run(
        [sys.executable, "-m", "tests.django.accounts", "ada", "grace"],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        check=True,
        timeout=60,
    )
    users = json.loads(made.stdout)
    # Each order has a view of its own, by its query.
    for number, order in enumerate((("ada", "grace"), ("grace", "ada"))):
        for kind, by in itertools.product(("generic", "viewset"), ("session", "token")):
            for word in ("guarded", "keyed"):
                hits = []
                for who in (*order, *order):
                    target = f"/{kind}/{word}?by={by}&order={number}"
                    answer = fetch(server.port, target, users[who][by])
                    assert answer.body == b'[{"username":"%s"}]' % who.encode()
                    hits.append("; hit" in (answer.header("cache-status") or ""))
                assert hits == ([False, False, True, True] if word == "keyed" else [False] * 4)


@pytest.mark.full
def test_the_docs_show_what_is_on_the_wire(start: Start) -> None:
    page = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    shown = page.partition("$ curl --raw -i ")[2].partition("\n")[2].partition("```")[0]
    server = start("gunicorn-sync")
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        request = "GET /plain/gated/gated/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        sent = b""
        for number in range(1, 4):
            while sent.count(b"row ") < number:
                sent += connection.recv(65536)
            server.gates.open("gated", number)
        while part := connection.recv(65536):
            sent += part
    head, _, body = sent.decode().replace("\r\n", "\n").partition("\n\n")
    shown_head, _, shown_body = shown.partition("\n\n")
    assert shown_body == body
    assert set(shown_head.splitlines()) <= set(head.splitlines())
