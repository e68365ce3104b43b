"""Bodies in a store of their own: written while they stream, read in parts, deleted in time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stream_cached.bodies.files import FileBodies
from tests.conftest import Serve
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT, MISS, FailingRuns, HeldRuns, Runs, segments
from tests.support.servers import RedisServer

UNSTORED = "stream-cached; fwd=uri-miss"


@pytest.fixture
def bodies(tmp_path: Path) -> FileBodies:
    return FileBodies(tmp_path / "bodies")


@pytest.fixture
def keyspace(redis_server: RedisServer, redis_url: str) -> Keyspace:
    return Keyspace(redis_server.port)


def objects(bodies: FileBodies) -> list[Path]:
    return sorted(p for p in bodies.root.glob("*/*") if len(p.parent.name) == 2)


def unfinished(bodies: FileBodies) -> list[Path]:
    return sorted(bodies.cleaner.unfinished.glob("*"))


def same(*bodies: bytes) -> bool:
    return len(set(bodies)) == 1


def is_settled(bodies: FileBodies, keyspace: Keyspace) -> bool:
    return not unfinished(bodies) and not segments(keyspace.all())


# -- what is stored where -------------------------------------------------------------------------


def test_a_large_body_is_an_object_and_the_store_has_its_record(
    serve: Serve, redis_url: str, keyspace: Keyspace, bodies: FileBodies
) -> None:
    runs = Runs(chunks=50)
    port = serve(runs.app(redis_url, bodies=bodies)).port
    miss, hit = fetch(port), fetch(port)
    assert (miss.header("Cache-Status"), hit.header("Cache-Status")) == (MISS, HIT)
    assert same(miss.body, hit.body, runs.bodies[0])
    assert hit.header("Content-Length") == "5000000"
    (body,) = objects(bodies)
    assert 5_000_000 < body.stat().st_size < 5_010_000
    wait_until(lambda: is_settled(bodies, keyspace))
    assert sum(map(len, keyspace.all().values())) < 5_000


def test_a_small_body_is_in_its_record(serve: Serve, redis_url: str, bodies: FileBodies) -> None:
    runs = Runs(chunks=2)
    port = serve(runs.app(redis_url, bodies=bodies)).port
    assert same(fetch(port).body, fetch(port).body, runs.bodies[0])
    assert objects(bodies) == []


def test_a_body_in_memory_with_objects(serve: Serve, namespace: str, bodies: FileBodies) -> None:
    runs = Runs(chunks=50)
    url = f"memory://?namespace={namespace}&max_bytes=8000000"
    port = serve(runs.app(url, bodies=bodies)).port
    # A quarter of the memory is no bound for an object.
    assert same(fetch(port).body, fetch(port).body, runs.bodies[0])
    assert len(objects(bodies)) == 1


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (262_000, 262_200), (4_999_990, 5_000_000)])
def test_a_range_of_an_object(
    serve: Serve, redis_url: str, bodies: FileBodies, start: int, stop: int
) -> None:
    runs = Runs(chunks=50)
    port = serve(runs.app(redis_url, bodies=bodies)).port
    fetch(port)
    part = fetch(port, headers={"Range": f"bytes={start}-{stop - 1}"})
    assert part.status == 206
    assert same(part.body, runs.bodies[0][start:stop])


@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_a_signed_object(serve: Serve, redis_url: str, bodies: FileBodies, replay: str) -> None:
    runs = Runs(chunks=20)
    settings = {"bodies": bodies, "replay": replay, "local": 0}
    port = serve(runs.app(redis_url, secret="s" * 32, **settings)).port
    assert same(fetch(port).body, fetch(port).body, runs.bodies[0])
    (body,) = objects(bodies)
    # Neither the checksum of the part, nor that of the prefix notice it.
    data = bytearray(body.read_bytes())
    data[-1] ^= 1
    body.write_bytes(data)
    assert not same(fetch(port).body, runs.bodies[0])


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {}, 200),
        ("GET", {"If-None-Match": "*"}, 304),
        ("HEAD", {"If-None-Match": "*"}, 304),
    ],
)
def test_an_answer_without_a_body_reads_no_object(
    serve: Serve,
    redis_url: str,
    bodies: FileBodies,
    method: str,
    headers: dict[str, str],
    status: int,
) -> None:
    runs = Runs(chunks=50)
    port = serve(runs.app(redis_url, bodies=bodies)).port
    fetch(port)
    objects(bodies)[0].unlink()
    found = fetch(port, headers=headers, method=method)
    assert (found.status, found.header("Cache-Status"), found.body) == (status, HIT, b"")
    if status == 200:
        assert found.header("Content-Length") == "5000000"
    assert len(runs.bodies) == 1


# -- damage ---------------------------------------------------------------------------------------


def deleted(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def without_its_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def without_its_begin(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1:])


def with_another_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200_000] ^= 1
    path.write_bytes(data)


def swapped(path: Path) -> None:
    """With two segments in the place of each other."""
    data = path.read_bytes()
    middle = (len(data) + 300) // 2
    path.write_bytes(data[:300] + data[middle:] + data[300:middle])


_DAMAGES = [deleted, emptied, without_its_begin, with_another_bit, swapped]


@pytest.mark.matrix
@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=100000-400000"}], ids=["whole", "part"])
def test_a_damaged_object_is_a_miss(
    serve: Serve,
    redis_url: str,
    bodies: FileBodies,
    damage: Callable[[Path], None],
    headers: dict[str, str],
) -> None:
    runs = Runs(chunks=5)
    port = serve(runs.app(redis_url, bodies=bodies, local=0)).port
    fetch(port)
    damage(objects(bodies)[0])
    again = fetch(port, headers=headers)
    assert again.complete
    assert again.status == 206 or same(again.body, runs.bodies[-1])
    assert len(runs.bodies) == 2
    hit = fetch(port)
    assert hit.header("Cache-Status") == HIT or headers
    assert runs.is_whole(hit)


def test_the_object_of_another_entry_is_a_miss(
    serve: Serve, redis_url: str, bodies: FileBodies
) -> None:
    first, second = Runs(chunks=5), Runs(chunks=5)
    ports = [
        serve(runs.app(redis_url, bodies=bodies, local=0, namespace=name)).port
        for name, runs in (("first", first), ("second", second))
    ]
    for port in ports:
        fetch(port)
    one, other = objects(bodies)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for port, runs in zip(ports, (first, second), strict=True):
        assert same(fetch(port).body, runs.bodies[1])


@pytest.mark.parametrize("damage", [without_its_end])
def test_damage_after_the_first_byte_breaks_visibly_and_is_a_miss_then(
    serve: Serve, redis_url: str, bodies: FileBodies, damage: Callable[[Path], None]
) -> None:
    runs = Runs(chunks=50)
    port = serve(runs.app(redis_url, bodies=bodies, local=0)).port
    fetch(port)
    damage(objects(bodies)[0])
    broken = fetch(port)
    assert not broken.complete
    assert runs.bodies[0].startswith(broken.body)
    assert same(fetch(port).body, runs.bodies[1])


# -- ends of a run --------------------------------------------------------------------------------


def test_a_run_that_fails_leaves_nothing(
    serve: Serve, redis_url: str, keyspace: Keyspace, bodies: FileBodies
) -> None:
    runs = FailingRuns(chunks=50)
    runs.at = 40
    port = serve(runs.app(redis_url, bodies=bodies)).port
    assert not fetch(port).complete
    wait_until(lambda: is_settled(bodies, keyspace))
    assert objects(bodies) == []
    assert same(fetch(port).body, runs.bodies[1])


def test_a_run_that_outgrows_a_limit_leaves_nothing(
    serve: Serve, redis_url: str, keyspace: Keyspace, bodies: FileBodies
) -> None:
    runs = Runs(chunks=50)
    port = serve(runs.app(redis_url, bodies=bodies, max_body="4MB")).port
    assert same(fetch(port).body, runs.bodies[0])
    wait_until(lambda: is_settled(bodies, keyspace))
    assert objects(bodies) == []


def test_a_client_that_leaves_changes_nothing(
    serve: Serve, redis_url: str, bodies: FileBodies
) -> None:
    runs = HeldRuns(chunks=50)
    runs.at = 30
    port = serve(runs.app(redis_url, bodies=bodies)).port
    with RawClient(port) as client:
        client.send("GET", "/")
        client.read_head()
        client.read_until(1_000_000)
    runs.gate.open()
    wait_until(lambda: objects(bodies))
    hit = fetch(port)
    assert same(hit.body, runs.bodies[0])


def test_more_runs_than_may_upload_are_not_stored(
    serve: Serve, redis_url: str, bodies: FileBodies
) -> None:
    runs = HeldRuns(chunks=20)
    runs.at = 15
    port = serve(runs.app(redis_url, bodies=bodies, max_uploads=1, key_host=False)).port
    with RawClient(port) as client:
        client.send("GET", "/?first")
        client.read_head()
        client.read_until(1_000_000)
        wait_until(lambda: unfinished(bodies))
        second = fetch(port, "/?second")
        assert same(second.body, runs.bodies[1])
        assert fetch(port, "/?second").body == runs.bodies[2]
        runs.gate.open()
        assert same(client.read_rest().body, runs.bodies[0])
    wait_until(lambda: len(objects(bodies)) == 1)
    assert fetch(port, "/?first").header("Cache-Status") == HIT
    assert fetch(port, "/?third").header("Cache-Status") == MISS
    assert fetch(port, "/?third").header("Cache-Status") == HIT


# -- the window -----------------------------------------------------------------------------------


def test_one_that_comes_when_the_start_has_gone_is_answered_from_the_object(
    serve: Serve, redis_url: str, keyspace: Keyspace, bodies: FileBodies
) -> None:
    runs = HeldRuns(chunks=60)
    runs.at = 59
    settings = {"bodies": bodies, "live_window": "1MB", "max_ahead": "500KB"}
    port = serve(runs.app(redis_url, **settings)).port
    with RawClient(port) as client, ThreadPoolExecutor(1) as pool:
        client.send("GET", "/")
        client.read_head()
        client.read_until(5_500_000)
        wait_until(lambda: 0 < len(segments(keyspace.all())) < 6)
        late = pool.submit(fetch, port)
        with pytest.raises(TimeoutError):
            late.result(0.3)
        runs.gate.open()
        assert same(client.read_rest().body, runs.bodies[0])
        hit = late.result()
    assert hit.header("Cache-Status") == HIT
    assert same(hit.body, runs.bodies[0])
    assert len(runs.bodies) == 1


def test_each_that_waits_too_long_for_the_object_runs_the_endpoint_and_stores_nothing(
    serve: Serve, redis_url: str, keyspace: Keyspace, bodies: FileBodies
) -> None:
    runs = HeldRuns(chunks=60)
    runs.at = 59
    settings = {"live_window": 0, "max_ahead": "500KB", "wait_timeout": 0.3}
    port = serve(runs.app(redis_url, bodies=bodies, **settings)).port
    with RawClient(port) as client:
        client.send("GET", "/")
        client.read_head()
        client.read_until(5_500_000)
        wait_until(lambda: unfinished(bodies) and not segments(keyspace.all()))
        late = fetch_many(port, count=2)
        assert [answer.header("Cache-Status") for answer in late] == [UNSTORED] * 2
        assert {answer.body for answer in late} == set(runs.bodies[1:])
        runs.gate.open()
        assert same(client.read_rest().body, runs.bodies[0])
    assert fetch(port).header("Cache-Status") == HIT
    assert same(fetch(port).body, runs.bodies[0])
    assert len(runs.bodies) == 3
    assert len(objects(bodies)) == 1


def test_a_slow_reader_that_falls_out_of_the_window_reads_the_object(
    serve: Serve, redis_url: str, bodies: FileBodies
) -> None:
    runs = Runs(chunks=100)
    settings = {"live_window": "1MB", "max_ahead": "500KB", "spool_max": "1MB"}
    port = serve(runs.app(redis_url, bodies=bodies, max_body="1GB", **settings)).port
    with RawClient(port, receive_buffer=4096) as slow, RawClient(port) as quick:
        slow.send("GET", "/")
        slow.read_head()
        slow.read_until(1)
        quick.send("GET", "/")
        assert same(quick.read_all().body, runs.bodies[0])
        assert same(slow.read_rest().body, runs.bodies[0])
    assert len(runs.bodies) == 1


def test_a_slow_reader_that_is_the_last_one_does_not_hold_up_the_object_that_it_needs(
    serve: Serve, redis_url: str, bodies: FileBodies
) -> None:
    class HeldTwice(HeldRuns):
        at = 1
        rest = Gate()

        async def before(self, run: int, number: int) -> None:
            if number == 75:
                await self.rest.passed()
            await super().before(run, number)

    runs = HeldTwice(chunks=100)
    settings = {"live_window": "1MB", "max_ahead": "500KB", "spool_max": "1MB"}
    port = serve(runs.app(redis_url, bodies=bodies, max_body="1GB", **settings)).port
    with RawClient(port, receive_buffer=4096) as slow:
        slow.send("GET", "/")
        slow.read_head()
        slow.read_until(1)
        with RawClient(port) as quick:
            quick.send("GET", "/")
            quick.read_head()
            # While the beginning is in the window: else it would wait for the object.
            runs.gate.open()
            quick.read_until(7_000_000)
        runs.rest.open()
        assert same(slow.read_rest().body, runs.bodies[0])
    assert len(runs.bodies) == 1


def test_a_slow_reader_does_not_hold_up_the_object_that_others_wait_for(
    serve: Serve, redis_url: str, keyspace: Keyspace, bodies: FileBodies
) -> None:
    runs = Runs(chunks=100)
    settings = {"live_window": "300KB", "max_ahead": "500KB"}
    port = serve(runs.app(redis_url, bodies=bodies, max_body="1GB", **settings)).port
    with RawClient(port, receive_buffer=4096) as slow:
        slow.send("GET", "/")
        slow.read_head()
        slow.read_until(2_000_000)
        wait_until(lambda: unfinished(bodies) and len(segments(keyspace.all())) <= 1)
        assert same(fetch(port).body, runs.bodies[0])
        assert same(slow.read_rest().body, runs.bodies[0])
    assert len(runs.bodies) == 1


def test_many_cold_clients_cause_one_run(serve: Serve, redis_url: str, bodies: FileBodies) -> None:
    # Twenty clients hold a body each.
    runs = Runs(chunks=15)
    port = serve(runs.app(redis_url, bodies=bodies, live_window="1MB")).port
    found = fetch_many(port, count=20)
    assert same(runs.bodies[0], *(each.body for each in found))
    assert len(objects(bodies)) == 1
