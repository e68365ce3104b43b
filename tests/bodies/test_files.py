"""The directory of bodies: leftovers, its bound, several processes, and what it can't do."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stream_cached.bodies import threads
from stream_cached.bodies.cleaning import Cleaner, lock
from stream_cached.bodies.files import FileBodies
from stream_cached.bodies.protocol import MissingBodyError
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.errors import ConfigurationError, StoreError
from tests.bodies.test_contract import MIB, NAME, OTHER, get, names, put
from tests.support.gates import wait_until
from tests.support.process import ROOT

pytestmark = pytest.mark.anyio

_KILLED = """
import asyncio, os, signal
from stream_cached.bodies.files import FileBodies

async def main():
    upload = FileBodies({root!r}).upload("ab/01")
    await upload.write(bytes(3 << 20))
    await upload.write(bytes(3 << 20))
    print(len(os.listdir({root!r} + "/unfinished")), flush=True)
    {end}

asyncio.run(main())
"""


def killed_writer(root: Path, end: str) -> subprocess.Popen[str]:
    code = _KILLED.format(root=str(root), end=end)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )


def unfinished(root: Path) -> list[str]:
    return os.listdir(root / "unfinished")


class TestLeftovers:
    async def test_the_file_of_a_killed_writer_is_deleted_at_the_next_start(
        self, tmp_path: Path
    ) -> None:
        with killed_writer(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            process.wait(10)
        assert len(unfinished(tmp_path)) == 1
        await put(FileBodies(tmp_path), OTHER, b"body")
        assert unfinished(tmp_path) == []
        assert await names(FileBodies(tmp_path)) == [OTHER]

    async def test_the_file_of_a_living_writer_stays(self, tmp_path: Path) -> None:
        with killed_writer(tmp_path, "await asyncio.sleep(60)") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            try:
                await FileBodies(tmp_path).ping()
                assert len(unfinished(tmp_path)) == 1
            finally:
                process.kill()

    async def test_one_process_at_a_time_cleans_up(self, tmp_path: Path) -> None:
        cleaner = Cleaner(tmp_path, None)
        cleaner.clean()
        (cleaner.unfinished / "left").write_bytes(b"of a killed writer")
        held = os.open(tmp_path / "lock", os.O_RDWR)
        assert lock is not None
        assert lock(held)
        cleaner.clean()
        assert unfinished(tmp_path) == ["left"]
        os.close(held)
        cleaner.clean()
        assert unfinished(tmp_path) == []

    async def test_a_file_that_was_taken_for_a_leftover_is_created_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies, deleted = FileBodies(tmp_path), list[Path]()

        def late(descriptor: int) -> bool:
            if not deleted:
                deleted.extend((tmp_path / "unfinished").iterdir())
                deleted[0].unlink()
            assert lock is not None
            return lock(descriptor)

        monkeypatch.setattr("stream_cached.bodies.files.lock", late)
        await put(bodies, NAME, b"body")
        assert len(deleted) == 1
        assert await get(bodies, NAME) == b"body"


class TestBound:
    async def test_the_least_recently_used_go_first(self, tmp_path: Path) -> None:
        bodies = FileBodies(tmp_path)
        for number in range(10):
            await put(bodies, f"{number:02x}/00", bytes(MIB))
            os.utime(tmp_path / f"{number:02x}/00", (1000 + number, 1000 + number))
        # The oldest is used again.
        await get(bodies, "00/00")
        await put(bodies, "aa/00", bytes(MIB))
        Cleaner(tmp_path, 10 * MIB).clean()
        assert await names(bodies) == [f"{n:02x}/00" for n in (0, 3, 4, 5, 6, 7, 8, 9)] + ["aa/00"]

    async def test_a_file_that_is_read_is_read_to_its_end(self, tmp_path: Path) -> None:
        bodies = FileBodies(tmp_path)
        await put(bodies, NAME, bytes(2 * MIB))
        reading = await bodies.open(NAME)
        await reading.read(1)
        os.utime(tmp_path / NAME, (1000, 1000))
        await put(bodies, OTHER, bytes(MIB))
        Cleaner(tmp_path, 2 * MIB).clean()
        assert await names(bodies) == [OTHER]
        assert await reading.read(3 * MIB) == bytes(2 * MIB - 1)
        await reading.close()

    async def test_what_this_process_adds_is_counted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies, cleaned = FileBodies(tmp_path, max_bytes=100 * MIB), threading.Event()
        await bodies.ping()
        monkeypatch.setattr(bodies.cleaner, "clean", cleaned.set)
        for number in range(4):
            await put(bodies, f"00/{number:02x}", bytes(MIB))
        assert not cleaned.is_set()
        await put(bodies, NAME, bytes(MIB))
        assert cleaned.wait(5)


class TestFailures:
    async def test_a_disk_that_is_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies = FileBodies(tmp_path)
        await bodies.ping()

        def full(descriptor: int, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        upload = bodies.upload(NAME)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            await upload.write(bytes(MIB))
            with pytest.raises(StoreError, match="No space left"):
                await upload.write(bytes(MIB))
        await upload.abort()
        assert unfinished(tmp_path) == []

    async def test_a_directory_that_can_not_be_one_has_a_fix(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        bodies = FileBodies(tmp_path / "file" / "bodies")
        with pytest.raises(StoreError) as found:
            await bodies.ping()
        assert found.value.fix.startswith("let this process create and write files in /")

    async def test_a_file_that_becomes_shorter_while_it_is_read(self, tmp_path: Path) -> None:
        bodies = FileBodies(tmp_path)
        await put(bodies, NAME, bytes(4 * MIB))
        reading = await bodies.open(NAME)
        await reading.read(1)
        os.truncate(tmp_path / NAME, 3 * MIB)
        with pytest.raises(StoreError, match="shorter"):
            await reading.read(4 * MIB)
        await reading.close()

    async def test_a_missing_directory_is_an_empty_one(self, tmp_path: Path) -> None:
        bodies = FileBodies(tmp_path / "missing")
        assert await names(bodies) == []
        with pytest.raises(MissingBodyError):
            await bodies.open(NAME)


class TestCancellation:
    async def test_an_object_that_lacks_a_block_is_not_made_visible(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies, gate = FileBodies(tmp_path), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            monkeypatch.setattr(threads, "_pool", (os.getpid(), pool))
            pool.submit(gate.wait)
            upload = bodies.upload(NAME)
            await upload.write(bytes(MIB))
            writing = asyncio.create_task(upload.write(bytes(MIB)))
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])
            gate.set()
            with pytest.raises(StoreError):
                await upload.finish()
            await upload.abort()
        assert unfinished(tmp_path) == []

    async def test_a_file_that_nobody_waits_for_any_more_is_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies, gate, opened = FileBodies(tmp_path), threading.Event(), list[int]()
        await put(bodies, NAME, b"body")

        def late(path: Path) -> tuple[int, int]:
            gate.wait(5)
            opened.append(os.open(path, os.O_RDONLY))
            return opened[0], 4

        monkeypatch.setattr("stream_cached.bodies.files._opened", late)
        with ThreadPoolExecutor(1) as pool:
            monkeypatch.setattr(threads, "_pool", (os.getpid(), pool))
            opening = asyncio.create_task(bodies.open(NAME))
            await asyncio.sleep(0.05)
            opening.cancel()
            await asyncio.wait([opening])
            gate.set()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[0])

    async def test_an_upload_is_removed_though_its_task_is_cancelled_before_a_thread_comes_to_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bodies, gate = FileBodies(tmp_path), threading.Event()
        upload = bodies.upload(NAME)
        await upload.write(bytes(3 * MIB))
        wait_until(lambda: any((tmp_path / "unfinished").glob("*")))
        with ThreadPoolExecutor(1) as pool:
            monkeypatch.setattr(threads, "_pool", (os.getpid(), pool))
            pool.submit(gate.wait)
            aborting = asyncio.create_task(upload.abort())
            await asyncio.sleep(0)
            aborting.cancel()
            await asyncio.wait([aborting])
            gate.set()
        assert aborting.cancelled()
        assert unfinished(tmp_path) == []


class TestUrls:
    def test_equal_urls_have_one_store(self) -> None:
        store = bodies_from_url("file:///tmp/bodies%20here?max_bytes=1GiB")
        assert store is bodies_from_url("file:///tmp/bodies%20here?max_bytes=1GiB")
        assert (store.name, store.capacity) == ("file:///tmp/bodies here", 1 << 30)

    @pytest.mark.parametrize(
        ("url", "fix"),
        [
            ("file://", "absolute path"),
            ("file://cache/app", "absolute path"),
            ("file:///cache?size=3", "use max_bytes"),
            ("file:///cache?max_bytes=much", "write 64MiB"),
            ("ftp://user:secret@host/cache", "use file://"),
        ],
    )
    def test_others_are_refused_with_the_fix(self, url: str, fix: str) -> None:
        with pytest.raises(ConfigurationError, match=fix) as found:
            bodies_from_url(url)
        assert "secret" not in str(found.value)

    def test_a_path_has_to_be_absolute(self) -> None:
        with pytest.raises(ConfigurationError, match="absolute"):
            FileBodies("cache")
