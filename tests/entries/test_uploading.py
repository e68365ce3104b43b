"""An upload that is slower than its stream takes its time; the window waits for it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from stream_cached import RunEnded, StreamCache
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.entries import body, object_body
from stream_cached.entries.body import PackedSegment
from tests.conftest import Serve
from tests.entries.test_object_failures import Flaky, objects
from tests.support.gates import wait_until
from tests.support.http_client import fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT, MISS, FailingRuns, Runs, segments
from tests.support.servers import RedisServer

#: Chunks of 100,000 bytes.
CHUNKS = 120


class World:
    """A cache of large bodies in a directory that takes none before a gate is open."""

    def __init__(self, redis: RedisServer, path: Path) -> None:
        self.bodies = Flaky(path)
        self.bodies.hangs.add("write")
        self.keyspace = Keyspace(redis.port)
        self.events: list[object] = []
        self.settings: dict[str, Any] = {
            "bodies": self.bodies,
            "local": 0,
            "max_ahead": "500KB",
            "commit_timeout": 0.1,
            "on_event": self.events.append,
        }

    @property
    def window(self) -> list[str]:
        return sorted(segments(self.keyspace.all()), key=lambda key: int(key.rpartition(":")[2]))

    @property
    def causes(self) -> list[str]:
        """Why each run that has ended is not stored; empty where it is."""
        return [event.cause for event in self.events if isinstance(event, RunEnded)]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left but what a record leads to."""
        watched = WatchedBodies.of(self.bodies)
        unfinished = list(self.bodies.root.glob("unfinished/*"))
        return not (self.window or unfinished or watched.window or watched.uploads)


@pytest.fixture
def world(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> World:
    return World(redis_server, tmp_path / "bodies")


def packed() -> list[PackedSegment]:
    """The segments in the memory of this process."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is PackedSegment]


@pytest.fixture
def pending() -> Callable[[], int]:
    """Returns the bytes of those that are there since the test began: another one may still end."""
    before = packed()

    def size() -> int:
        known = {*map(id, before)}
        return sum(len(each.value) for each in packed() if id(each) not in known)

    return size


@pytest.mark.parametrize("secret", [None, pytest.param("s" * 32, marks=pytest.mark.full)])
def test_a_body_is_stored_though_its_stream_is_over_long_before(
    serve: Serve,
    redis_url: str,
    world: World,
    pending: Callable[[], int],
    secret: str | None,
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, secret=secret, **world.settings)).port
    miss = fetch(port)
    assert miss.header("Cache-Status") == MISS
    wait_until(lambda: len(world.window) == 46)
    assert pending() <= 2 * 1024 * 1024
    assert objects(world.bodies) == 0
    world.bodies.gate.open()
    wait_until(lambda: objects(world.bodies) and world.is_clean)
    hit = fetch(port)
    assert hit.header("Cache-Status") == HIT
    assert [miss.body, hit.body] == runs.bodies * 2


def test_an_upload_that_lags_further_than_the_window_costs_the_entry(
    serve: Serve, redis_url: str, world: World, pending: Callable[[], int]
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, live_window="1MB", **world.settings)).port
    assert runs.is_whole(fetch(port))
    # The upload still hangs; nobody waits for that.
    wait_until(lambda: world.is_clean)
    assert world.causes == ["behind"]
    assert pending() == 0
    world.bodies.gate.open()
    assert runs.is_whole(fetch(port))
    wait_until(lambda: objects(world.bodies) == 1)


def test_a_window_goes_on_with_its_upload(serve: Serve, redis_url: str, world: World) -> None:
    world.bodies.gate.open()
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, live_window="1MB", **world.settings)).port
    miss = fetch(port)
    wait_until(lambda: objects(world.bodies) and world.is_clean)
    hit = fetch(port)
    assert (hit.header("Cache-Status"), hit.body) == (HIT, miss.body)


@pytest.mark.parametrize(("chunks", "cause"), [(8, ""), (CHUNKS, "behind")])
def test_without_a_window_memory_is_what_waits_for_the_upload(
    serve: Serve, redis_url: str, world: World, chunks: int, cause: str
) -> None:
    runs = Runs(chunks=chunks)
    port = serve(runs.app(redis_url, live_window=0, **world.settings)).port
    assert runs.is_whole(fetch(port))
    assert world.window == []
    world.bodies.gate.open()
    wait_until(lambda: world.causes and world.is_clean)
    assert world.causes[0] == cause
    assert objects(world.bodies) == (0 if cause else 1)


def test_with_memory_the_window_is_a_part_of_it(serve: Serve, namespace: str, world: World) -> None:
    runs = Runs(chunks=CHUNKS)
    url = f"memory://?namespace={namespace}&max_bytes=64MB"
    port = serve(runs.app(url, **world.settings)).port
    miss = fetch(port)
    world.bodies.gate.open()
    wait_until(lambda: objects(world.bodies))
    wait_until(lambda: fetch(port).header("Cache-Status") == HIT)
    assert fetch(port).body == miss.body


def _changed(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [pytest.param(lambda _: None, marks=pytest.mark.full), _changed],
    ids=["deleted", "changed"],
)
def test_a_damaged_segment_in_the_window_costs_the_entry_only(
    serve: Serve, redis_url: str, world: World, damage: Callable[[bytes], bytes | None]
) -> None:
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, **world.settings)).port
    assert runs.is_whole(fetch(port))
    wait_until(lambda: len(world.window) == 46)
    key = world.window[40]
    world.keyspace.set(key, damage(world.keyspace.all()[key]))
    world.bodies.gate.open()
    wait_until(lambda: world.causes and world.is_clean)
    assert world.causes[0] == "store"
    assert objects(world.bodies) == 0
    again = fetch(port)
    assert again.body == runs.bodies[1]
    wait_until(lambda: objects(world.bodies) == 1)


def test_a_run_that_fails_before_its_upload_has_begun_leaves_nothing(
    serve: Serve, redis_url: str, world: World
) -> None:
    runs = FailingRuns(chunks=CHUNKS)
    runs.at = CHUNKS - 1
    port = serve(runs.app(redis_url, **world.settings)).port
    assert not fetch(port).complete
    wait_until(lambda: world.is_clean)
    world.bodies.gate.open()
    assert fetch(port).body == runs.bodies[1]
    wait_until(lambda: objects(world.bodies) == 1)


@pytest.mark.full
def test_what_waits_for_its_upload_does_not_expire(
    serve: Serve, redis_url: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (body, object_body):
        monkeypatch.setattr(module, "RUN_TTL", 1.0)
        monkeypatch.setattr(module, "RENEW_EVERY", 0.2)
    runs = Runs(chunks=CHUNKS)
    port = serve(runs.app(redis_url, **world.settings)).port
    miss = fetch(port)
    time.sleep(2)
    world.bodies.gate.open()
    wait_until(lambda: objects(world.bodies) and world.is_clean)
    hit = fetch(port)
    assert (hit.header("Cache-Status"), hit.body) == (HIT, miss.body)


def test_an_event_loop_that_ends_while_a_commit_waits_for_the_upload_leaves_nothing(
    redis_url: str, world: World
) -> None:
    streams = StreamCache(redis_url, ttl=60, **world.settings)

    @streams.cached(key="report")
    async def report() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield bytes(100_000)

        return StreamingResponse(chunks())

    async def main() -> None:
        response = await report()
        async for _ in response.body_iterator:
            pass
        async with asyncio.timeout(10):
            while len(world.window) < 12:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        # It ends while the upload hangs.
        assert WatchedBodies.of(world.bodies).uploads == 1

    asyncio.run(main())
    assert WatchedBodies.of(world.bodies).uploads == 0
    assert list(world.bodies.root.glob("??/*")) == []
    assert list(world.bodies.root.glob("unfinished/*")) == []
