"""A body that is larger than the bound on memory goes through, is stored and is replayed."""

from __future__ import annotations

import hashlib
import http.client
import sys
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.process import HOST, ROOT

APP = """
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached


@stream_cached(ttl=600, cache=os.environ["CACHE"], max_body="300MiB")
async def endpoint(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["mib"]) * 16):
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
