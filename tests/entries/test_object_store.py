"""Large bodies in S3: what fails there costs the entry, never a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from stream_cached.bodies.objects import ObjectBodies
from stream_cached.bodies.urls import bodies_from_url
from tests.bodies.test_objects import creates, in_full, once
from tests.conftest import Serve, Spawn
from tests.support.fault_proxy import FaultProxy, InThread
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.keyspace import Keyspace
from tests.support.object_app import CHUNK, is_one_run
from tests.support.process import free_port
from tests.support.runs import HIT, MISS, Runs
from tests.support.servers import RedisServer, S3Server
from tests.support.wire import HttpWire

#: Chunks of 100,000 bytes, for one part and the rest.
CHUNKS = 60

_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with InThread(FaultProxy(HttpWire(), s3.port)) as thread:
        yield thread.proxy


@pytest.fixture
def bodies(s3: S3Server, proxy: FaultProxy) -> str:
    return s3.url(proxy.port, timeout=1, upload_timeout=1, retries=2, retry_timeout=1)


def test_a_large_body_is_an_object(
    serve: Serve, redis_url: str, redis_server: RedisServer, s3: S3Server
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, bodies=s3.url())).port
    miss, hit = fetch(port), fetch(port)
    part = fetch(port, headers={"Range": "bytes=5500000-5500009"})
    assert (miss.header("Cache-Status"), hit.header("Cache-Status")) == (MISS, HIT)
    assert miss.body == hit.body == runs.bodies[0]
    assert (part.status, part.body) == (206, miss.body[5_500_000:5_500_010])
    assert (len(s3.keys()), s3.uploads()) == (1, [])
    keyspace = Keyspace(redis_server.port)
    wait_until(lambda: sum(map(len, keyspace.all().values())) < 10_000)


@pytest.mark.parametrize(
    "fault", ["throttles", "hangs", *map(in_full, ("begins nothing", "is gone"))]
)
def test_a_store_that_fails_costs_the_entry(
    serve: Serve, redis_url: str, s3: S3Server, proxy: FaultProxy, bodies: str, fault: str
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, bodies=bodies)).port
    if fault == "is gone":
        proxy.target_port = free_port()
    else:
        answer = b"" if fault == "hangs" else _BUSY
        begins = fault != "begins nothing"
        proxy.answer = lambda command: None if begins and creates(command) else answer
    began = time.monotonic()
    answers = fetch_many(port, count=3)
    assert time.monotonic() - began < 4
    assert all(map(runs.is_whole, answers))
    assert s3.keys() == []
    proxy.heal()
    assert runs.is_whole(fetch(port))


@pytest.mark.parametrize("damage", ["deleted", "swapped", *map(in_full, ("truncated", "changed"))])
def test_what_is_damaged_is_never_served(
    serve: Serve, redis_url: str, s3: S3Server, damage: str
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, bodies=s3.url(), local=0)).port
    first, other = fetch(port, "/?first"), fetch(port, "/?other")
    bucket = bodies_from_url(s3.url())
    assert isinstance(bucket, ObjectBodies)

    async def spoil() -> None:
        names = [each.name async for each in bucket.listed()]
        values = [
            bytes(await obstore.get_range_async(bucket._reads, name, start=0, end=99 << 20))
            for name in names
        ]
        for name, value, another in zip(names, values, reversed(values), strict=True):
            spoilt = {
                "truncated": value[:5_500_000],
                "swapped": another,
                "changed": value[:3_000_000] + b"?" + value[3_000_001:],
            }
            if damage == "deleted":
                await bucket.delete([name])
            else:
                await obstore.put_async(bucket._writes, name, spoilt[damage])

    asyncio.run(spoil())
    for path, before in (("/?first", first), ("/?other", other)):
        answer = fetch(port, path)
        # After the first byte it can only break.
        assert not answer.complete or answer.body in runs.bodies
        again = fetch(port, path)
        assert runs.is_whole(again)
        assert again.body != before.body


def test_a_hit_that_is_cut_goes_on(
    serve: Serve, redis_url: str, proxy: FaultProxy, bodies: str
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, bodies=bodies, local=0)).port
    fetch(port)
    once(proxy, lambda command: command.reads, lambda: setattr(proxy, "cut_after", 3_000_000))
    assert runs.is_whole(fetch(port))
    assert proxy.counts["GET"] == 2
    assert len(runs.bodies) == 1


@pytest.mark.full
def test_a_worker_that_is_killed_in_mid_upload_leaves_no_head_and_no_object(
    spawn: Spawn, redis_url: str, s3: S3Server, tmp_path: Path
) -> None:
    environment = {
        "CACHE": f"{redis_url}?timeout=5",
        "BODIES": s3.url(),
        "DIRECTORY": str(tmp_path),
    }
    app, target = "tests.support.object_app:app", "/?chunks=320&hold=go@300"
    first, second = spawn(app, environment), spawn(app, environment)
    with RawClient(first.port, timeout=30) as client:
        client.send("GET", target)
        client.read_head()
        client.read_until(290 * CHUNK)
        wait_until(s3.uploads)
        first.kill()
        assert not client.read_rest().complete
    assert s3.keys() == []
    (tmp_path / "go").touch()
    again = fetch(second.port, target, timeout=40)
    assert again.complete
    assert is_one_run(again.body)
    assert len(list(tmp_path.glob("run-*"))) == 2
