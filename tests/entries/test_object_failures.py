"""A store of bodies that fails, hangs or is slow costs the entry, and never the client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import StreamCache, health
from stream_cached.backends.breaker_state import State
from stream_cached.bodies import watched
from stream_cached.bodies.files import FileBodies, FileReading, FileUpload
from stream_cached.errors import StoreError
from stream_cached.runs.states import GivenUp
from stream_cached.runs.streaming import runs_here
from tests.conftest import Serve
from tests.support.gates import Gate, until, wait_until
from tests.support.http_client import fetch, fetch_many
from tests.support.runs import HIT, MISS, Runs


class Flaky(FileBodies):
    """A directory whose steps fail, or wait for a gate."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fails: set[str] = set()
        self.hangs: set[str] = set()
        self.fix = ""
        self.tried: list[str] = []
        self.gate = Gate()

    async def step(self, name: str) -> None:
        self.tried.append(name)
        if name in self.hangs:
            await self.gate.passed(60)
        if name in self.fails:
            raise StoreError(f"{name}: no luck").with_fix(self.fix)

    def upload(self, name: str) -> FileUpload:
        return _Upload(self, name)

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> FileReading:
        await self.step("open")
        return await super().open(name, start, stop)


class _Upload(FileUpload):
    def __init__(self, bodies: Flaky, name: str) -> None:
        super().__init__(bodies, bodies.path_of(name))
        self._flaky = bodies

    async def write(self, data: bytes) -> None:
        await self._flaky.step("write")
        await super().write(data)

    async def finish(self) -> None:
        await self._flaky.step("finish")
        await super().finish()


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    for name in ("OPEN_TIMEOUT", "WRITE_TIMEOUT", "FINISH_TIMEOUT"):
        monkeypatch.setattr(watched, name, 0.3)
    return Flaky(tmp_path / "bodies")


def objects(bodies: FileBodies) -> int:
    return len(list(bodies.root.glob("??/*")))


@pytest.mark.matrix
@pytest.mark.parametrize("step", ["write", "finish"])
@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
def test_a_store_that_does_not_take_a_body_costs_the_entry(
    serve: Serve,
    redis_url: str,
    bodies: Flaky,
    step: str,
    hangs: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (bodies.hangs if hangs else bodies.fails).add(step)
    runs = Runs(chunks=30)
    port = serve(runs.app(redis_url, bodies=bodies, commit_timeout=0.1)).port
    found = fetch_many(port, count=5)
    assert all(map(runs.is_whole, found))
    wait_until(lambda: [r for r in caplog.records if "large bodies are not cached" in r.message])
    assert objects(bodies) == 0
    # It is left alone for a while, and nobody waits for it.
    tried = len(bodies.tried)
    assert runs.is_whole(fetch(port))
    assert len(bodies.tried) == tried
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
def test_a_store_that_can_not_be_read_costs_no_record(
    serve: Serve,
    redis_url: str,
    bodies: Flaky,
    hangs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Runs(chunks=30)
    port = serve(runs.app(redis_url, bodies=bodies, local=0)).port
    assert fetch(port).header("Cache-Status") == MISS
    (bodies.hangs if hangs else bodies.fails).update(("open", "write"))
    again = fetch(port)
    assert (again.complete, len(runs.bodies)) == (True, 2)
    bodies.hangs.clear()
    bodies.fails.clear()
    for side in (watched.WatchedBodies.of(bodies).reads, watched.WatchedBodies.of(bodies).writes):
        monkeypatch.setattr(side, "_next", 0.0)
    hit = fetch(port)
    assert hit.header("Cache-Status") == HIT
    assert runs.is_whole(hit)
    assert len(runs.bodies) == 2


def test_the_end_of_a_stream_waits_for_the_commit_no_longer_than_it_may(
    serve: Serve, redis_url: str, bodies: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "FINISH_TIMEOUT", 30)
    bodies.hangs.add("finish")
    runs = Runs(chunks=30)
    port = serve(runs.app(redis_url, bodies=bodies, commit_timeout=0.1)).port
    assert runs.is_whole(fetch(port))
    assert objects(bodies) == 0
    # It goes on after the end.
    bodies.gate.open()
    wait_until(lambda: objects(bodies) == 1)
    wait_until(lambda: fetch(port).header("Cache-Status") == HIT)
    assert len(runs.bodies) == 1


def test_what_will_not_recover_by_itself_is_one_error_with_its_fix(
    serve: Serve, redis_url: str, bodies: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    bodies.fails.add("write")
    bodies.fix = "create the bucket"
    runs = Runs(chunks=30)
    port = serve(runs.app(redis_url, bodies=bodies)).port
    for _ in range(3):
        assert runs.is_whole(fetch(port))
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    assert "will not recover by itself: create the bucket" in record.message


def test_health_has_an_item_for_the_bodies(serve: Serve, redis_url: str, bodies: Flaky) -> None:
    streams = StreamCache(redis_url, ttl=60, bodies=bodies)
    runs = Runs(chunks=30)
    app = Starlette(routes=[Route("/", streams.cached()(runs.__call__))])

    def item() -> object:
        (found,) = [each for each in health() if each.store == bodies.name]
        assert found.role == "bodies"
        assert streams.health().role == "records"
        nested = streams.health().bodies
        assert nested is not None
        assert (nested.state, nested.cause) == (found.state, found.cause)
        return found.state, found.cause

    port = serve(app).port
    assert item() == (State.UNTRIED, None)
    fetch(port)
    assert item() == (State.AVAILABLE, None)
    bodies.fails.add("open")
    fetch(port)
    fetch(port)
    assert item() == (State.AVAILABLE, None) or item() == (State.AWAY, "open: no luck")


def test_start_up_tries_the_directory_and_says_what_memory_can_not_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    streams = StreamCache("memory://", ttl=60, bodies=f"file://{tmp_path}/file/bodies")

    async def main() -> None:
        async with streams:
            with pytest.raises(StoreError, match="Not a directory"):
                await streams.ping()

    asyncio.run(main())
    said = [record.message for record in caplog.records]
    assert [message for message in said if "shares nothing with other processes" in message]
    assert [message for message in said if "let this process create and write files" in message]


def test_a_decorator_says_what_memory_can_not_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs()
    runs.app("memory://", bodies=f"file://{tmp_path}/bodies")
    assert [r for r in caplog.records if "shares nothing with other processes" in r.message]


def test_an_event_loop_that_ends_in_mid_upload_leaves_nothing(
    tmp_path: Path, redis_url: str
) -> None:
    bodies = FileBodies(tmp_path / "bodies")
    streams = StreamCache(redis_url, ttl=60, bodies=bodies)
    begun = asyncio.Event()

    @streams.cached(key="report")
    async def report() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for number in range(1000):
                yield bytes(100_000)
                if number == 50:
                    begun.set()
                    await asyncio.Event().wait()

        return StreamingResponse(body())

    async def main() -> None:
        response = await report()

        async def read() -> None:
            async for _ in response.body_iterator:
                pass

        task = asyncio.create_task(read())
        await begun.wait()
        await until(lambda: any((bodies.root / "unfinished").glob("*")))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    # A thread may still be about to remove it.
    wait_until(lambda: not any((bodies.root / "unfinished").iterdir()))
    assert objects(bodies) == 0


def test_a_writer_that_is_cancelled_leaves_nothing(tmp_path: Path, redis_url: str) -> None:
    bodies = FileBodies(tmp_path / "bodies")
    streams = StreamCache(redis_url, ttl=60, bodies=bodies)

    @streams.cached(key="report")
    async def report() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield bytes(100_000)
                await asyncio.sleep(0.001)

        return StreamingResponse(body())

    async def main() -> None:
        response = await report()
        async for _ in response.body_iterator:
            if list((bodies.root).glob("unfinished/*")):
                break
        (run,) = runs_here()
        assert run.recorder is not None
        writer = run.recorder._writer
        assert writer is not None
        writer.cancel()
        await asyncio.wait([writer])
        assert list((bodies.root).glob("unfinished/*")) == []
        run.abort(GivenUp.SHUTDOWN)
        await run.over()

    asyncio.run(main())
