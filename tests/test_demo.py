"""`stream-cached demo`, as a user runs it: the exit status, the table, and that nothing is left."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import http.client
import inspect
import json
import linecache
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from stream_cached.demo import data, on_redis, report
from stream_cached.demo.cli import main
from stream_cached.demo.client import Answer, ask
from tests.support.http_client import RawClient
from tests.support.process import HOST, ROOT, free_port

DEMO = (sys.executable, "-m", "stream_cached.demo")
PATHS = ["/export.csv", "/records.ndjson", "/tokens"]

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"

_ROW = re.compile(
    r"^(?P<path>\S*) +(?P<which>1st|2nd)(, (?P<server>[AB]))? +(?P<first_byte>[\d,.]+) +"
    r"(?P<total>[\d,.]+) +(?P<size>[\d,]+) +(?P<pieces>[\d,]+)  (?P<digest>[0-9a-f]{12})  "
    r"(?P<status>.+)$",
    re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Row:
    path: str
    which: str
    server: str | None
    total: float
    size: int
    pieces: int
    digest: str
    status: str


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=30, check=False
    )


def rows_of(output: str) -> list[Row]:
    return [
        Row(
            path=match["path"],
            which=match["which"],
            server=match["server"],
            total=float(match["total"].replace(",", "")),
            size=int(match["size"].replace(",", "")),
            pieces=int(match["pieces"].replace(",", "")),
            digest=match["digest"],
            status=match["status"],
        )
        for match in _ROW.finditer(output)
    ]


def check_table(output: str, first_server: str | None, second_server: str | None) -> None:
    rows = rows_of(output)
    assert [row.path for row in rows[::2]] == PATHS
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first.which, first.server) == ("1st", first_server)
        assert (second.which, second.server) == ("2nd", second_server)
        assert first.status == "fwd=uri-miss; stored"
        assert second.status == "hit"
        assert (first.size, first.digest) == (second.size, second.digest)
        assert first.pieces > 100
    export, _, _, _, tokens, tokens_again = rows
    assert export.size > 2_000_000
    assert tokens_again.total < tokens.total / 10
    assert "Every second answer was a hit with the same bytes." in output
    assert max(map(len, output.splitlines())) <= 100


def check_listing(output: str) -> None:
    listing = output.partition("The store's keys for /export.csv:")[2]
    sizes = [int(size.replace(",", "")) for size in re.findall(r"^ *([\d,]+)  ", listing, re.M)]
    assert re.search(r"export_csv:[0-9a-f]{32}$", listing, re.M)
    # The last is the sum, of more keys than are listed.
    assert sizes[-1] > rows_of(output)[0].size
    assert re.search(r"\.\.\. \d+ more\n *[\d,]+  in \d+ keys$", listing.rstrip())


def servers_in(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"\(process (\d+)\)", output)]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a server of the demo still runs"
        time.sleep(0.02)


@pytest.mark.full
def test_shows_that_the_second_answer_is_the_stored_first_one() -> None:
    start = time.monotonic()
    result = run_demo()
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - start < 20
    check_table(result.stdout, None, None)
    check_listing(result.stdout)
    wait_until_gone(servers_in(result.stdout))


@pytest.mark.full
def test_two_processes_share_a_redis(redis_url: str) -> None:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        client.set("demo:of-somebody-else", "1")
        result = run_demo("--cache", f"{redis_url}?namespace=demo")
        assert (result.returncode, result.stderr) == (0, "")
        check_table(result.stdout, "A", "B")
        check_listing(result.stdout)
        assert len(set(servers_in(result.stdout))) == 2
        # It takes away what it has stored, and nothing else.
        assert client.keys() == [b"demo:of-somebody-else"]
    wait_until_gone(servers_in(result.stdout))


@pytest.mark.full
def test_large_bodies_are_kept_in_a_directory(redis_url: str, tmp_path: Path) -> None:
    result = run_demo("--cache", redis_url, "--bodies", f"file://{tmp_path}/bodies")
    assert (result.returncode, result.stderr) == (0, "")
    # The path may be longer than a line.
    check_table(result.stdout.replace(str(tmp_path), ""), "A", "B")
    assert f"Large bodies are kept at file://{tmp_path}/bodies." in result.stdout
    sizes = [path.stat().st_size for path in (tmp_path / "bodies").glob("??/*")]
    assert max(sizes) > rows_of(result.stdout)[0].size
    # The store has the records alone.
    listed = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+)  in ", result.stdout)]
    assert not listed or listed[0] < max(sizes) / 100


def two_free_ports() -> int:
    """The first of two that follow each other."""
    first, second = free_port(), free_port()
    while second != first + 1:
        first, second = second, free_port()
    return first


def _hears_ctrl_c() -> None:
    # A shell lets what it runs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def serving(port: int, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    with subprocess.Popen(
        [*DEMO, "--serve", "--port", str(port), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_hears_ctrl_c,
    ) as process:
        try:
            assert process.stdout is not None
            output = ""
            while "Ctrl-C ends the demo" not in output:
                line = process.stdout.readline()
                assert line, f"ended early:\n{output}"
                output += line
            assert "Open this page in a browser" in output
            assert f"\n  http://{HOST}:{port}/\n" in output
            assert re.search(rf"curl -iN .*http://{HOST}:{port}/tokens", output)
            yield process, servers_in(output)
        finally:
            process.kill()


@pytest.mark.full
def test_serve_answers_until_ctrl_c() -> None:
    port = free_port()
    with serving(port) as (process, pids):
        first, second = (ask(HOST, port, "/export.csv?module=this") for _ in range(2))
        assert not report.problems("/export.csv", first, second)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    wait_until_gone(pids)


@pytest.mark.full
def test_a_viewer_at_one_server_joins_a_run_of_the_other(redis_url: str, namespace: str) -> None:
    port = two_free_ports()
    with (
        serving(port, "--cache", f"{redis_url}?namespace={namespace}") as (process, pids),
        RawClient(port) as first,
        RawClient(port + 1) as second,
    ):
        for client in (first, second):
            client.send("GET", "/rows/stream_cached")
            client.read_head()
            client.read_until(100)
        assert first.response.header("Cache-Status") == MISS
        assert second.response.header("Cache-Status") == "stream-cached; fwd=uri-miss; collapsed"
        # Streams that Ctrl-C cuts off are not worth a word.
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    wait_until_gone(pids)


def test_an_address_to_listen_on_is_for_serving(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--host", "::1"])
    assert "--host and --port need --serve" in capsys.readouterr().err


@pytest.mark.full
def test_servers_end_with_a_parent_that_is_killed() -> None:
    port = free_port()
    with serving(port) as (process, pids):
        process.kill()
        process.wait(10)
        wait_until_gone(pids)
    with pytest.raises(ConnectionRefusedError):
        ask(HOST, port, "/tokens")


@pytest.mark.full
def test_port_in_use_is_said() -> None:
    with socket.create_server((HOST, 0)) as listener:
        result = run_demo("--serve", "--port", str(listener.getsockname()[1]))
    assert result.returncode == 2
    assert "Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_unreachable_redis_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://user:secret@{HOST}:{free_port()}/0?namespace=x"
    assert main(["demo", "--cache", url]) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"stream-cached demo: no Redis answers at redis://{HOST}:")
    assert "secret" not in error


@pytest.mark.parametrize(
    ("module", "cache", "extra"),
    [
        ("fastapi", "memory://", "demo"),
        ("uvicorn", "memory://", "demo"),
        ("redis", "redis://127.0.0.1:6379/0", "redis"),
    ],
)
def test_missing_extra_is_named(
    module: str,
    cache: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--cache", cache]) == 2
    assert f"{module} is missing: pip install 'stream-cached[{extra}]'" in capsys.readouterr().err


@pytest.mark.full
def test_mistaken_cache_url_is_said() -> None:
    for url, hint in (("memory://?size=3", "unknown option 'size'"), ("local", "--cache takes")):
        result = run_demo("--cache", url)
        assert result.returncode == 2
        assert hint in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.full
@pytest.mark.rest
def test_disabled_cache_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOCACHE_DISABLE", "1")
    result = run_demo()
    assert result.returncode == 1
    assert "/export.csv: the first answer was no stored miss" in result.stdout
    assert "/export.csv: the second answer was no hit" in result.stdout
    assert "Every second answer" not in result.stdout


def answer(**changes: object) -> Answer:
    made = Answer(
        status=200, cache_status=MISS, first_byte=0.1, total=0.2, size=9, pieces=3, digest="ab"
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_problems_are_told_apart() -> None:
    first, second = answer(), answer(cache_status=HIT)
    assert report.problems("/p", first, second) == []
    assert report.problems("/p", first, answer(cache_status=HIT, digest="cd")) == [
        "/p: the bodies of the two answers differ."
    ]
    assert report.problems("/p", first, first) == [
        f"/p: the second answer was no hit. Cache-Status: {MISS}."
    ]
    assert report.problems("/p", second, second) == [
        f"/p: the first answer was no stored miss. Cache-Status: {HIT}."
    ]
    assert report.problems("/p", first, answer(cache_status=HIT, status=500)) == [
        "/p: the second answer had status 500 and 9 bytes."
    ]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_broken_answer_is_no_answer(reply: bytes) -> None:
    with socket.create_server((HOST, 0)) as listener:

        def answer_one() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(reply)

        thread = threading.Thread(target=answer_one)
        thread.start()
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(HOST, listener.getsockname()[1], "/")
        thread.join()


@pytest.mark.full
def test_data_is_real_and_repeats_itself(tmp_path: Path) -> None:
    database = tmp_path / "lines.sqlite"
    assert data.build_database(database) > 10_000
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT line, text FROM lines WHERE module = 'ast'").fetchall()
    assert rows
    for line, text in rows:
        assert text == linecache.getline(ast.__file__, line).rstrip()
    chunks = list(data.export_csv())
    assert chunks[0].startswith("module,line,length,same_lines,text\r\n")
    assert chunks == list(data.export_csv())
    found = [json.loads(line) for line in "".join(data.records()).splitlines()]
    assert {"module", "line", "kind", "name", "doc"} == set(found[0])
    walk = next(record for record in found if record["name"] == "ast.walk")
    assert (walk["kind"], walk["line"]) == ("Function", inspect.getsourcelines(ast.walk)[1])
    assert "".join(data.words()).startswith("The Zen of Python, by Tim Peters\n\nBeautiful is")


def test_private_namespace_is_below_the_given_one() -> None:
    url = on_redis.with_namespace("redis://h:1/0?namespace=x&timeout=2", private=True)
    assert re.fullmatch(r"redis://h:1/0\?namespace=x%3A[0-9a-f]{8}&timeout=2", url)
    assert on_redis.with_namespace("redis://h", private=False).endswith(
        "?namespace=stream-cached-demo"
    )
