"""A miss is streamed and stored; what comes after it is served from the cache, byte for byte."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.bodies.files import FileBodies
from stream_cached.errors import LostStreamError
from stream_cached.format.codec import encode_segment
from stream_cached.format.records import Segment
from tests.conftest import Serve
from tests.support.gates import run
from tests.support.http_client import fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import segments


def test_the_second_request_is_answered_from_the_cache(serve: Serve, cache_url: str) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            for number in range(100):
                yield b"%d\n" % number

        nonlocal runs
        runs += 1
        return StreamingResponse(rows(), media_type="text/csv")

    server = serve(Starlette(routes=[Route("/rows", endpoint)]))
    miss, hit = fetch(server.port, "/rows"), fetch(server.port, "/rows")

    assert runs == 1
    assert miss.complete
    assert hit.complete
    assert miss.body == hit.body == b"".join(b"%d\n" % number for number in range(100))
    assert miss.header("Cache-Status") == "stream-cached; fwd=uri-miss; stored"
    assert hit.header("Cache-Status") == "stream-cached; hit"


def test_a_segment_that_is_sound_but_not_the_one_that_was_stored_is_not_served(
    serve: Serve,
) -> None:
    cache = MemoryCache()
    bodies: list[bytes] = []

    @stream_cached(ttl=60, cache=cache, inline_max=0)
    async def endpoint(request: Request) -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            bodies.append(b"run %d" % len(bodies))
            yield bodies[-1]

        return StreamingResponse(rows())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    assert fetch(server.port).body == b"run 0"
    (key,) = [key for key in cache.sizes() if key.endswith(":0")]
    generation = bytes.fromhex(key.split(":")[-2])
    forged = encode_segment(Segment((5,), False, b"false"), generation, 0)
    assert cache.memory.set(key, forged, 60)

    assert fetch(server.port).body == b"run 1"
    assert fetch(server.port).body == b"run 1"


@pytest.mark.every_store
@pytest.mark.parametrize("where", ["memory", "redis", "files"])
def test_a_replay_that_breaks_leaves_a_newer_entry_alone(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    memory, bodies = MemoryCache(), FileBodies(tmp_path / "bodies")
    url = memory if where == "memory" else request.getfixturevalue("redis_url")
    settings: dict[str, Any] = {"bodies": bodies} if where == "files" else {}
    runs = 0

    @stream_cached(ttl=60, cache=url, key="report", local=0, **settings)
    async def report() -> StreamingResponse:
        nonlocal runs
        runs += 1
        chunk = bytes([runs]) * 100_000

        async def body() -> AsyncIterator[bytes]:
            for _ in range(60):
                yield chunk

        return StreamingResponse(body())

    def damage() -> None:
        """Take the last part of the only body there is."""
        if where == "files":
            (path,) = bodies.root.glob("??/*")
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"?")
        elif where == "memory":
            assert memory.memory.delete(max(segments(set(memory.sizes())), key=_number))
        else:
            keyspace = Keyspace(request.getfixturevalue("redis_server").port)
            keyspace.set(max(segments(keyspace.all()), key=_number), None)

    async def main() -> None:
        assert len(await _read(await report())) == 6_000_000
        old = aiter((await report()).body_iterator)
        first = await anext(old)
        assert isinstance(first, bytes)
        assert first.strip(b"\1") == b""
        damage()
        await report.invalidate()
        newer = await _read(await report())
        with pytest.raises(LostStreamError):
            async for _ in old:
                pass
        assert await _read(await report()) == newer
        assert runs == 2

    run(main)


def _number(key: str) -> int:
    return int(key.rpartition(":")[2])


async def _read(response: StreamingResponse) -> bytes:
    return b"".join([part async for part in response.body_iterator])  # type: ignore[misc]
