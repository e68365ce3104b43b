"""Objects that no record leads to any more are deleted, and no others."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_cached import StreamCache
from stream_cached.bodies.files import FileBodies
from stream_cached.bodies.objects import ObjectBodies
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.format.envelope import FORMAT_VERSION, MAGIC
from tests.conftest import Serve
from tests.support.gates import wait_until
from tests.support.http_client import fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT, MISS, Runs
from tests.support.servers import RedisServer, S3Server


class VariedRuns(Runs):
    async def __call__(self, request: Request) -> Response:
        return await super().__call__(request)


class World:
    """A cache of large bodies in a directory."""

    def __init__(self, serve: Serve, url: str, path: Path, **settings: Any) -> None:
        self.bodies = FileBodies(path / "bodies")
        self.streams = StreamCache(url, ttl=60, bodies=self.bodies, key_host=False, **settings)
        self.runs = Runs(chunks=5)
        self.varied = VariedRuns(chunks=5, headers={"Vary": "Accept"})
        cached = self.streams.cached(tags=("tag",))(self.runs.__call__)
        varied = self.streams.cached()(self.varied.__call__)
        routes = [Route("/", cached), Route("/varied", varied)]
        self.server = serve(Starlette(routes=routes, lifespan=self.streams.lifespan))

    def fetch(self, target: str = "/", **headers: str) -> str | None:
        response = fetch(self.server.port, target, headers)
        assert self.runs.is_whole(response) or self.varied.is_whole(response)
        return response.header("Cache-Status")

    @property
    def objects(self) -> set[str]:
        return {f"{p.parent.name}/{p.name}" for p in self.bodies.root.glob("??/*")}

    def sweep(self) -> int:
        return self.server.run(self.streams.sweep())

    def age(self, seconds: float) -> None:
        for name in self.objects:
            then = time.time() - seconds
            os.utime(self.bodies.root / name, (then, then))


@pytest.fixture
def world(serve: Serve, redis_url: str, tmp_path: Path) -> World:
    return World(serve, redis_url, tmp_path, grace=0.2, max_duration=60)


@pytest.fixture
def patient(serve: Serve, redis_url: str, tmp_path: Path) -> World:
    """With a long time before anything is deleted."""
    return World(serve, redis_url, tmp_path, max_duration=60)


# -- what a process deletes -----------------------------------------------------------------------


def test_the_object_of_a_replaced_record_is_deleted_after_the_grace(world: World) -> None:
    world.fetch()
    before = world.objects
    world.server.run(world.streams.invalidate_tags("tag"))
    world.fetch()
    assert world.objects > before
    wait_until(lambda: not world.objects & before)
    assert len(world.objects) == 1
    assert world.fetch() == HIT


def test_the_object_of_a_replaced_variant_is_deleted_after_the_grace(world: World) -> None:
    for accept in ("a", "b"):
        world.fetch("/varied", Accept=accept)
    before = world.objects
    assert len(before) == 2
    world.server.run(world.streams.clear())
    for accept in ("a", "b"):
        world.fetch("/varied", Accept=accept)
        assert world.fetch("/varied", Accept=accept) == HIT
    wait_until(lambda: not world.objects & before)
    assert len(world.objects) == 2


def test_the_object_of_a_variant_that_is_refreshed_is_deleted_after_the_grace(
    serve: Serve, redis_url: str, tmp_path: Path
) -> None:
    world = World(
        serve, redis_url, tmp_path, grace=0.2, refresh=lambda request: "refresh" in request.headers
    )
    for accept in ("a", "b"):
        world.fetch("/varied", Accept=accept)
    before = world.objects
    world.fetch("/varied", Accept="a", Refresh="1")
    wait_until(lambda: len(world.objects & before) == 1)
    assert len(world.objects) == 2
    for accept in ("a", "b"):
        assert world.fetch("/varied", Accept=accept) == HIT


def test_variants_that_are_stored_at_once_keep_their_objects(world: World) -> None:
    names = [f"text/{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        assert len(list(pool.map(lambda name: world.fetch("/varied", Accept=name), names))) == 8
    time.sleep(0.5)
    assert {world.fetch("/varied", Accept=name) for name in names} == {HIT}


def test_the_object_of_a_damaged_entry_is_deleted_after_the_grace(world: World) -> None:
    world.fetch()
    (name,) = world.objects
    path = world.bodies.root / name
    data = bytearray(path.read_bytes())
    data[5_000] ^= 1
    path.write_bytes(data)
    world.fetch()
    wait_until(lambda: name not in world.objects)
    assert world.fetch() == HIT


def test_without_a_grace_of_its_own_an_object_is_kept_for_the_longest_run(patient: World) -> None:
    patient.fetch()
    before = patient.objects
    patient.server.run(patient.streams.clear())
    patient.fetch()
    assert patient.objects > before


# -- what a sweep deletes -------------------------------------------------------------------------


def test_a_sweep_deletes_what_no_record_leads_to(patient: World, redis_server: RedisServer) -> None:
    patient.fetch()
    patient.fetch("/varied")
    kept = patient.objects
    patient.fetch("/?gone")
    (gone,) = patient.objects - kept
    keyspace = Keyspace(redis_server.port)
    for key, value in keyspace.all().items():
        if gone.rpartition("-")[2] in value.hex():
            keyspace.set(key, None)
    patient.age(121)
    assert patient.sweep() == 1
    assert patient.objects == kept
    assert patient.fetch() == patient.fetch("/varied") == HIT


def test_a_sweep_deletes_nothing_that_is_younger(patient: World, redis_server: RedisServer) -> None:
    patient.fetch()
    redis_server.flush()
    patient.age(110)
    assert patient.sweep() == 0
    assert len(patient.objects) == 1


def test_a_sweep_deletes_no_variant(patient: World) -> None:
    for accept in ("a", "b", "c"):
        patient.fetch("/varied", Accept=accept)
    patient.age(200)
    assert patient.sweep() == 0
    assert patient.fetch("/varied", Accept="a") == HIT


def test_a_sweep_leaves_other_namespaces_and_other_files_alone(
    serve: Serve, redis_url: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    one, other = (World(serve, redis_url, tmp_path, namespace=name) for name in ("one", "other"))
    one.fetch()
    other.fetch()
    (one.bodies.root / "ab").mkdir(exist_ok=True)
    (one.bodies.root / "ab" / "0123").write_bytes(b"what is this")
    redis_server.flush()
    one.age(2000)
    assert one.sweep() == 1
    assert len(one.objects) == 2


@pytest.mark.parametrize("secret", ["s" * 32, None], ids=["signed", "unsigned"])
def test_a_sweep_of_signed_entries(
    serve: Serve, redis_url: str, tmp_path: Path, secret: str | None
) -> None:
    world = World(serve, redis_url, tmp_path, secret=secret)
    world.fetch()
    world.fetch("/varied")
    world.age(2000)
    assert world.sweep() == 0
    assert world.fetch() == world.fetch("/varied") == HIT


# -- objects that are damaged ---------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda value: b"",
    "cut in its prefix": lambda value: value[:30],
    "cut in its header": lambda value: value[:70],
    "altered in its prefix": lambda value: value[:20] + b"?" + value[21:],
    "altered in its version": lambda value: value[:8] + b"?" + value[9:],
    "altered in its header": lambda value: value[:70] + b"\xff" + value[71:],
    "with rubbish at its begin": lambda value: b"?" * 4_000 + value[4_000:],
}


def header_is_lost(kind: str) -> bool:
    """Whether nothing tells any more whose the object is."""
    return not kind.startswith("altered in")


@pytest.mark.matrix
@pytest.mark.parametrize("is_stored", [False, True], ids=["left", "in use"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_sweep_of_damaged_objects(
    patient: World, redis_server: RedisServer, kind: str, is_stored: bool
) -> None:
    patient.fetch()
    (name,) = patient.objects
    path = patient.bodies.root / name
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    if not is_stored:
        redis_server.flush()
    patient.age(110)
    assert patient.sweep() == 0
    patient.age(121)
    is_kept = is_stored and not header_is_lost(kind)
    assert patient.sweep() == (0 if is_kept else 1)
    assert patient.objects == ({name} if is_kept else set())
    if is_kept:
        assert patient.fetch() == HIT
    assert patient.fetch() in (HIT, MISS)


def test_a_sweep_leaves_objects_of_other_versions_alone(
    patient: World, redis_server: RedisServer
) -> None:
    patient.fetch()
    (name,) = patient.objects
    path = patient.bodies.root / name
    value = path.read_bytes()
    other = bytes([FORMAT_VERSION + 1])
    path.write_bytes(value.replace(MAGIC + bytes([FORMAT_VERSION]), MAGIC + other))
    redis_server.flush()
    patient.age(2000)
    assert patient.sweep() == 0


@pytest.mark.parametrize(
    "kind",
    [
        "emptied",
        "altered in its prefix",
        *(pytest.param(kind, marks=pytest.mark.full) for kind in DAMAGE if "cut" in kind),
    ],
)
def test_a_sweep_of_damaged_objects_in_s3(
    serve: Serve,
    redis_url: str,
    redis_server: RedisServer,
    s3: S3Server,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = StreamCache(redis_url, ttl=60, bodies=s3.url(), max_duration=60)
    runs = Runs(chunks=5)
    app = Starlette(routes=[Route("/", streams.cached()(runs.__call__))])
    server = serve(app)
    fetch(server.port)
    bucket = bodies_from_url(s3.url())
    assert isinstance(bucket, ObjectBodies)

    async def spoil() -> None:
        names = [each.name async for each in bucket.listed()]
        for name in names:
            value = bytes(await (await obstore.get_async(bucket._writes, name)).bytes_async())
            await obstore.put_async(bucket._writes, name, DAMAGE[kind](value))

    asyncio.run(spoil())
    redis_server.flush()
    assert server.run(streams.sweep()) == 0
    # As if it were later: the store reports when an object was changed.
    now = time.time()
    monkeypatch.setattr("stream_cached.entries.sweep.time.time", lambda: now + 125)
    assert server.run(streams.sweep()) == 1
    assert s3.keys() == []
