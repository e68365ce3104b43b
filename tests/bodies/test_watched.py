"""What a process knows of a store of bodies that fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from weakref import WeakSet

import pytest

from stream_cached.bodies import watched
from stream_cached.bodies.files import FileBodies, FileReading, FileUpload
from stream_cached.bodies.protocol import MissingBodyError, Patience
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.bodies.watched import Side, WatchedBodies
from stream_cached.errors import StoreError

pytestmark = pytest.mark.anyio


async def fail() -> None:
    raise StoreError("no luck")


async def work() -> None:
    return


def side_of(doing: str) -> Side:
    return Side("store", doing, WeakSet())


async def attempt(side: Side, *, works: bool = False) -> None:
    try:
        side.check()
        await side.run("step", work() if works else fail(), 5)
    except StoreError:
        return


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the module sees, to be set."""
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


async def test_it_is_left_alone_for_longer_and_longer(now: list[float]) -> None:
    side, waits = side_of("reading from"), list[int]()
    await attempt(side)
    for _ in range(8):
        failed, before = now[0], side.requests
        while True:
            now[0] += 0.5
            await attempt(side)
            if side.requests == before:
                break
            before = side.requests
        waits.append(round(now[0] - failed))
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert side.cause == "no luck"


async def test_failures_at_once_are_one_failure(now: list[float]) -> None:
    side = side_of("reading from")
    steps = [asyncio.create_task(attempt(side)) for _ in range(5)]
    await asyncio.sleep(0)
    now[0] += 0.1
    await asyncio.wait(steps)
    now[0] += 1.0
    before = side.requests
    await attempt(side)
    assert side.requests == before


async def test_after_an_attempt_that_works_it_is_used_again(now: list[float]) -> None:
    side = side_of("reading from")
    await attempt(side)
    now[0] += 1.0
    await attempt(side, works=True)
    assert side.cause is None
    side.check()


class _Full(FileBodies):
    """A directory that takes what fits into a buffer, and opens what it can't read."""

    def upload(self, name: str) -> FileUpload:
        return _FullUpload(self, self.path_of(name))

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> FileReading:
        return _Unreadable(self, os.open(self.root, os.O_RDONLY), 0, 1)


class _FullUpload(FileUpload):
    async def finish(self) -> None:
        raise StoreError("full")


class _Unreadable(FileReading):
    async def read(self, size: int) -> bytes:
        raise StoreError("unreadable")


@pytest.mark.parametrize("writes", [True, False], ids=["writing", "reading"])
async def test_a_first_step_that_works_shows_nothing(
    tmp_path: Path, now: list[float], caplog: pytest.LogCaptureFixture, writes: bool
) -> None:
    bodies = WatchedBodies(_Full(tmp_path))
    side, tries = (bodies.writes if writes else bodies.reads), 0
    caplog.set_level(logging.INFO)
    for _ in range(20):
        now[0] += 1.0
        with contextlib.suppress(StoreError):
            if writes:
                upload = bodies.upload("00/00-00", 8)
                tries += 1
                await upload.write(b"x")
                await bodies.delete(["00/00-00"])
                await upload.finish()
            else:
                reading = await bodies.open("00/00-00", 0, 1)
                tries += 1
                await reading.read(1)
    assert side.cause is not None
    # After 1, 2, 4 and 8 seconds.
    assert tries == 5
    assert len(caplog.records) == 1


async def test_an_upload_that_does_not_begin_does_not_count(tmp_path: Path) -> None:
    class _Forked(FileBodies):
        def upload(self, name: str) -> FileUpload:
            raise StoreError("not in this process")

    bodies = WatchedBodies(_Forked(tmp_path))
    for _ in range(2):
        with pytest.raises(StoreError, match="not in this process"):
            bodies.upload("00/00-00", 1)


async def test_a_step_that_takes_too_long_has_failed() -> None:
    side = side_of("writing to")
    with pytest.raises(StoreError, match="write: no answer within") as found:
        await side.run("write", asyncio.Event().wait(), 0.01)
    assert found.value.is_reported
    with pytest.raises(StoreError, match="writing to store fails"):
        side.check()


class _Slow(FileBodies):
    """A directory that takes its time to open a file, as its settings allow."""

    patience = Patience()

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> FileReading:
        await asyncio.sleep(0.05)
        return await super().open(name, start, stop)


@pytest.mark.parametrize("answer", [0.0, 5.0])
async def test_the_longer_time_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: float
) -> None:
    monkeypatch.setattr(watched, "OPEN_TIMEOUT", 0.01)
    bodies = _Slow(tmp_path)
    bodies.patience = Patience(answer=answer)
    with pytest.raises(MissingBodyError if answer else StoreError) as found:
        await WatchedBodies.of(bodies).open("00/00-00", 0, 1)
    assert ("no answer" in str(found.value)) == (not answer)


def test_the_url_of_a_bucket_says_how_long_steps_may_take() -> None:
    bodies = bodies_from_url("s3://bucket?region=us-east-1&timeout=7&upload_timeout=40")
    assert WatchedBodies.of(bodies).patience == Patience(answer=7, upload=40)
