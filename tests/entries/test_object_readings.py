"""Who opens an object closes it, however the request ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from stream_cached import stream_cached
from stream_cached.bodies.files import FileBodies, FileReading
from stream_cached.entries.object_body import ObjectBody
from stream_cached.tasks import running_here
from tests.conftest import Serve
from tests.support.asgi import Exchange, get
from tests.support.gates import wait_until
from tests.support.http_client import fetch
from tests.support.runs import Runs

RANGE = b"bytes=100000-2900000"


class Kept(FileBodies):
    """A directory that keeps what is opened: else it is closed once nobody refers to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.readings: list[FileReading] = []

    async def open(self, name: str, start: int = 0, stop: int | None = None) -> FileReading:
        reading = await super().open(name, start, stop)
        self.readings.append(reading)
        return reading

    @property
    def are_closed(self) -> bool:
        return bool(self.readings) and all(each._descriptor is None for each in self.readings)


@pytest.fixture
def bodies(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "bodies")


def test_a_range_of_a_damaged_object_leaves_nothing_open(
    serve: Serve, redis_url: str, bodies: Kept
) -> None:
    runs = Runs(chunks=30)
    port = serve(runs.app(redis_url, bodies=bodies, local=0)).port
    fetch(port)
    (path,) = bodies.root.glob("??/*")
    data = bytearray(path.read_bytes())
    data[600_000] ^= 1
    path.write_bytes(data)
    assert fetch(port, headers={"Range": RANGE.decode()}).body == runs.bodies[1]
    wait_until(lambda: bodies.are_closed)


@pytest.mark.parametrize("at", ["inflating", "renewing"])
@pytest.mark.parametrize("headers", [[], [(b"range", RANGE)]], ids=["whole", "range"])
def test_a_hit_that_is_cancelled_while_it_is_opened_leaves_nothing_open(
    redis_url: str,
    bodies: Kept,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    headers: list[tuple[bytes, bytes]],
) -> None:
    app = Runs(chunks=30).app(redis_url, bodies=bodies, local=0)

    async def main() -> None:
        await get(app)
        unpacked, is_read = ObjectBody._unpacked, asyncio.Event()

        async def hang(*_: Any) -> Any:
            await asyncio.Event().wait()

        async def noted(self: ObjectBody, *args: Any) -> Any:
            is_read.set()
            return await (hang() if at == "inflating" else unpacked(self, *args))

        monkeypatch.setattr(ObjectBody, "_unpacked", noted)
        if at == "renewing":
            monkeypatch.setattr(ObjectBody, "renew", hang)
        hit = Exchange(app)
        hit.scope["headers"] += headers
        task = asyncio.create_task(hit.run())
        await is_read.wait()
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.gather(*running_here())
        assert bodies.are_closed

    asyncio.run(main())


def _open_in(directory: Path) -> list[str]:
    """The files of a directory that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if name.startswith(str(directory))]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is open")
def test_a_hit_that_is_never_sent_leaves_nothing_open(redis_url: str, tmp_path: Path) -> None:
    bodies = FileBodies(tmp_path / "bodies")
    runs = Runs(chunks=30)
    cached: Any = stream_cached(ttl=60, cache=redis_url, bodies=bodies, local=0)(runs.__call__)

    async def main() -> None:
        scope = Exchange(runs.app(redis_url)).scope
        response = await cached(Request(scope))
        async for _ in response.body_iterator:
            pass
        hit = await cached(Request(scope))
        assert len(_open_in(tmp_path)) == 1
        del hit
        # A thread that reads ahead refers to the file until it has read.
        wait_until(lambda: gc.collect() >= 0 and not _open_in(tmp_path))

    asyncio.run(main())
