"""Large bodies in a bucket: what a directory does otherwise is shown there."""

from __future__ import annotations

import http.client
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Serve, Spawn
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.object_app import CHUNK, chunk_of
from tests.support.quick_s3 import QuickS3
from tests.support.runs import HIT, FailingRuns, HeldRuns, Runs
from tests.support.servers import S3Server


def is_same(*bodies: bytes) -> bool:
    return len(set(bodies)) == 1


def test_a_body_in_a_bucket(serve: Serve, redis_url: str, s3: S3Server) -> None:
    runs = Runs(chunks=80)
    port = serve(runs.app(redis_url, bodies=s3.url(), local=0, commit_timeout=10)).port
    found = fetch_many(port, count=3)
    assert is_same(runs.bodies[0], *(each.body for each in found))
    hit = fetch(port)
    assert hit.header("Cache-Status") == HIT
    assert is_same(hit.body, runs.bodies[0])
    part = fetch(port, headers={"Range": "bytes=5000000-7000000"})
    assert part.status == 206
    assert is_same(part.body, runs.bodies[0][5_000_000:7_000_001])
    assert len(s3.keys()) == 1
    assert s3.uploads() == []


def test_a_run_that_fails_leaves_no_upload(serve: Serve, redis_url: str, s3: S3Server) -> None:
    runs = FailingRuns(chunks=60)
    runs.at = 55
    port = serve(runs.app(redis_url, bodies=s3.url())).port
    assert not fetch(port).complete
    wait_until(lambda: s3.uploads() == [])
    assert s3.keys() == []


@pytest.mark.full
def test_a_slow_reader_in_the_window_and_one_past_it(
    serve: Serve, redis_url: str, s3: S3Server
) -> None:
    runs = HeldRuns(chunks=100, chunk=300_000)
    # The beginning is in the window until both read it.
    runs.at = 2
    limits = {"live_window": "1MB", "max_ahead": "500KB", "spool_max": "1MB"}
    settings = {"bodies": s3.url(), "max_body": "1GB", "commit_timeout": 10, **limits}
    port = serve(runs.app(redis_url, **settings)).port
    with RawClient(port) as slow, RawClient(port) as quick:
        for client in (slow, quick):
            client.send()
            client.read_head()
            client.read_until(1)
        runs.gate.open()
        assert is_same(quick.read_rest(30).body, runs.bodies[0])
        assert is_same(slow.read_rest(30).body, runs.bodies[0])
    assert len(runs.bodies) == 1


def test_an_object_that_is_gone_is_a_miss(serve: Serve, redis_url: str, s3: S3Server) -> None:
    runs = Runs(chunks=60)
    port = serve(runs.app(redis_url, bodies=s3.url(), local=0, commit_timeout=10)).port
    fetch(port)
    s3.flush()
    again = fetch(port)
    assert is_same(again.body, runs.bodies[1])
    assert is_same(fetch(port).body, runs.bodies[1])


#: Bytes that a client is ahead of the upload at most: less than the window.
_AHEAD = 128 << 20


def _peak(pid: int) -> int:
    """The most memory that a process has had since it was last asked, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return int(found[1]) * 1024


def _has_received(s3: QuickS3, size: int) -> bool:
    return s3.received() > size


def _read_a_run(port: int, target: str, s3: QuickS3) -> int:
    """Read a body, see that it is that of one run, and return its size."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", target)
    answer = connection.getresponse()
    run, number = "", 0
    while chunk := answer.read(CHUNK):
        if number % 64 == 0:
            # An upload on a busy machine may be slower than any client.
            wait_until(partial(_has_received, s3, number * CHUNK - _AHEAD), timeout=60)
        run = run or chunk[: chunk.index(b" ")].decode()
        assert chunk == chunk_of(run, number)
        number += 1
    connection.close()
    return number * CHUNK


@pytest.mark.full
@pytest.mark.rest
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_gigabyte_in_little_memory(spawn: Spawn, redis_url: str, tmp_path: Path) -> None:
    with QuickS3() as s3:
        environment = {
            "CACHE": f"{redis_url}?timeout=5",
            "BODIES": s3.url(),
            "DIRECTORY": str(tmp_path),
            "LIMITS": "max_body=2GiB,commit_timeout=60,live_window=256MiB",
        }
        app = spawn("tests.support.object_app:app", environment)
        for target in ("/?chunks=16", "/?chunks=16"):
            _read_a_run(app.port, target, s3)
        peaks = []
        for _ in range(2):
            before = _peak(app.pid)
            assert _read_a_run(app.port, "/?chunks=16384", s3) == 1 << 30
            peaks.append(_peak(app.pid) - before)
        assert len(list(tmp_path.glob("run-*"))) == 2, app.output()
        miss, hit = peaks
        assert (miss < 64 << 20, hit < 32 << 20) == (True, True), peaks
