"""A body that is larger than the bound on memory goes through, is stored and is replayed."""

from __future__ import annotations

import hashlib
import http.client
import sys
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.support.gates import wait_until
from tests.support.http_client import RawClient
from tests.support.keyspace import Keyspace
from tests.support.process import HOST, ROOT, free_port
from tests.support.runs import HIT, MISS, segments
from tests.support.servers import RedisServer, S3Server

MIB = 1024 * 1024

APP = """
import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached


@stream_cached(
    ttl=600,
    cache=os.environ["CACHE"],
    max_body=os.environ.get("MAX_BODY", "300MiB"),
    bodies=os.environ.get("BODIES"),
    live_window=os.environ.get("LIVE_WINDOW", "64MiB"),
    fallback="memory://?max_bytes=32MiB",
)
async def endpoint(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["mib"]) * 16):
            if number % 16 == 0 and "PAUSE" in os.environ:
                await asyncio.sleep(float(os.environ["PAUSE"]))
            yield number.to_bytes(4, "big") * 16_384

    return StreamingResponse(chunks())


app = Starlette(routes=[Route("/", endpoint)])
"""


def most_memory(pid: int) -> float:
    """The most that a process has held so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def ask(port: int, mib: int) -> tuple[str | None, int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.request("GET", f"/?mib={mib}")
    response = connection.getresponse()
    digest, length = hashlib.sha256(), 0
    while piece := response.read1(1 << 18):
        digest.update(piece)
        length += len(piece)
    connection.close()
    return response.headers["Cache-Status"], length, digest.hexdigest()


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the memory used")
def test_200_mib_on_redis_take_less_than_32_of_the_server(
    spawn: Spawn, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "large_app.py").write_text(APP, encoding="utf-8")
    server = spawn(
        "large_app:app", environment={"CACHE": redis_url, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    for _ in range(2):
        assert ask(server.port, 1)[1] == 1024 * 1024
    before = most_memory(server.pid)

    miss = hit = ask(server.port, 200)
    for _ in range(4):
        # A store that is slower than the stream costs the entry, on a busy machine now and then.
        if hit[0] != "stream-cached; hit":
            hit = ask(server.port, 200)

    assert most_memory(server.pid) - before < 32
    assert miss[0] == "stream-cached; fwd=uri-miss; stored"
    assert hit[0] == "stream-cached; hit"
    assert miss[1:] == hit[1:]
    assert miss[1] == 200 * 1024 * 1024


@pytest.mark.parametrize(
    "store",
    ["up", *(pytest.param(each, marks=pytest.mark.full) for each in ("down", "too small"))],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the memory used")
def test_a_client_that_reads_nothing_takes_no_memory(
    spawn: Spawn, redis_url: str, tmp_path: Path, store: str
) -> None:
    (tmp_path / "large_app.py").write_text(APP, encoding="utf-8")
    environment = {"CACHE": redis_url, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    if store == "down":
        environment["CACHE"] = f"redis://{HOST}:{free_port()}/0"
    if store == "too small":
        environment["MAX_BODY"] = "16MiB"
    server = spawn("large_app:app", environment=environment)
    for _ in range(2):
        assert ask(server.port, 1)[1] == MIB
    quick, slow = (RawClient(server.port, timeout=60, keeps=False) for _ in range(2))
    with quick, slow:
        for client in (quick, slow):
            client.send(target="/?mib=64")
            client.read_head()
            client.read_until(100_000)
        before = most_memory(server.pid)
        assert quick.read_rest().complete
        assert quick.response.size == 64 * MIB
        assert "collapsed" in (slow.response.header("Cache-Status") or "")
        assert slow.read_rest().complete
        assert slow.response.size == 64 * MIB
        # Memory is what stores the stream where its store is down, up to a quarter of it.
        assert most_memory(server.pid) - before < (24 if store == "down" else 16)


@pytest.mark.parametrize(
    "mib", [64, pytest.param(1024, marks=[pytest.mark.full, pytest.mark.rest])]
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the memory used")
def test_a_body_in_a_file_takes_less_than_32_mib_of_the_server_and_of_the_store(
    spawn: Spawn, redis_url: str, redis_server: RedisServer, tmp_path: Path, mib: int
) -> None:
    (tmp_path / "large_app.py").write_text(APP, encoding="utf-8")
    environment = {"CACHE": redis_url, "BODIES": f"file://{tmp_path}/bodies", "MAX_BODY": "2GiB"}
    environment["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    server = spawn("large_app:app", environment=environment)
    for _ in range(2):
        assert ask(server.port, 1)[1] == MIB
    before = most_memory(server.pid)

    miss = hit = ask(server.port, mib)
    for _ in range(4):
        # On a busy machine, a store now and then is slower than the stream: that costs the entry.
        if hit[0] != HIT:
            hit = ask(server.port, mib)

    assert most_memory(server.pid) - before < 32
    assert (miss[0], hit[0]) == (MISS, HIT)
    assert miss[1:] == hit[1:]
    assert miss[1] == mib * MIB
    keyspace = Keyspace(redis_server.port)
    wait_until(lambda: not segments(keyspace.all()))
    assert sum(map(len, keyspace.all().values())) < mib * MIB / 100


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the memory used")
def test_a_body_in_a_bucket_takes_less_than_64_mib_of_the_server(
    spawn: Spawn, redis_url: str, redis_server: RedisServer, s3: S3Server, tmp_path: Path
) -> None:
    (tmp_path / "large_app.py").write_text(APP, encoding="utf-8")
    environment = {"CACHE": redis_url, "BODIES": s3.url(), "LIVE_WINDOW": "400MiB"}
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PAUSE": "0.005"}
    server = spawn("large_app:app", environment=environment)
    for _ in range(2):
        assert ask(server.port, 1)[1] == MIB
    before = most_memory(server.pid)

    # The upload is slower by far: Redis holds what it has not come to.
    miss = ask(server.port, 300)
    assert len(s3.keys()) == 1
    wait_until(lambda: len(s3.keys()) == 2, timeout=60)
    keyspace = Keyspace(redis_server.port)
    wait_until(lambda: not segments(keyspace.all()))
    hit = ask(server.port, 300)

    assert most_memory(server.pid) - before < 64
    assert (miss[0], hit[0]) == (MISS, HIT)
    assert miss[1:] == hit[1:]
    assert miss[1] == 300 * MIB


DISK_APP = """
import asyncio
import os
from collections.abc import AsyncIterator

from cashews import Cache
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached.cashews import stream_cached

cache = Cache()
cache.setup(os.environ["CACHE"], size_limit=8 << 30)


@stream_cached(cache, ttl=600, max_body="2GiB")
async def endpoint(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["mib"]) * 16):
            if number % 16 == 0:
                # No more than a network takes.
                await asyncio.sleep(0.01)
            yield number.to_bytes(4, "big") * 16_384

    return StreamingResponse(chunks())


app = Starlette(routes=[Route("/", endpoint)])
"""


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the memory used")
@pytest.mark.parametrize("mib", [100, pytest.param(500, marks=pytest.mark.rest)])
def test_a_large_body_goes_through_a_disk_of_cashews(
    spawn: Spawn, tmp_path: Path, mib: int
) -> None:
    (tmp_path / "disk_app.py").write_text(DISK_APP, encoding="utf-8")
    environment = {
        "CACHE": f"disk://?directory={tmp_path}/cache",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }
    server = spawn("disk_app:app", environment=environment)
    for _ in range(2):
        assert ask(server.port, 1)[1] == MIB
    before = most_memory(server.pid)

    miss, hit = ask(server.port, mib), ask(server.port, mib)

    assert miss == ("stream-cached; fwd=uri-miss; stored", mib * MIB, miss[2]), server.output()
    assert hit == ("stream-cached; hit", *miss[1:]), server.output()
    assert most_memory(server.pid) - before < 48
