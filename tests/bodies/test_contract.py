"""One class holds every store of bodies to the guarantees of its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from stream_cached.bodies.protocol import BodyStore, MissingBodyError
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.errors import StoreError
from tests.support.servers import S3Server

pytestmark = pytest.mark.anyio

NAME = "ab/0123456789abcdef-0123"
OTHER = "cd/0123456789abcdef-4567"
MIB = 1024 * 1024


@pytest.fixture(params=["file", "s3"])
def bodies_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path_factory.mktemp('bodies')}/sub"
    else:
        server: S3Server = request.getfixturevalue("s3")
        yield server.url()
        assert server.uploads() == []


@pytest.fixture
async def bodies(bodies_url: str) -> AsyncIterator[BodyStore]:
    store = bodies_from_url(bodies_url)
    yield store
    await store.close()


async def put(bodies: BodyStore, name: str, *pieces: bytes) -> None:
    upload = bodies.upload(name)
    for piece in pieces:
        await upload.write(piece)
    await upload.finish()


async def get(bodies: BodyStore, name: str, start: int = 0, stop: int | None = None) -> bytes:
    reading = await bodies.open(name, start, stop)
    try:
        return await reading.read(1 << 30)
    finally:
        await reading.close()


async def names(bodies: BodyStore) -> list[str]:
    return sorted([each.name async for each in bodies.listed()])


class TestObjects:
    async def test_what_was_written_is_read_byte_for_byte(self, bodies: BodyStore) -> None:
        pieces = [b"\x00\xff\r\n", b"", random.Random(1).randbytes(6 * MIB), b"end"]
        await put(bodies, NAME, *pieces)
        assert await get(bodies, NAME) == b"".join(pieces)

    async def test_an_empty_object(self, bodies: BodyStore) -> None:
        await put(bodies, NAME)
        assert await get(bodies, NAME) == b""

    async def test_reads_of_any_size_in_order(self, bodies: BodyStore) -> None:
        body = random.Random(2).randbytes(3 * MIB + 7)
        await put(bodies, NAME, body)
        reading, found = await bodies.open(NAME), []
        for size in (1, 0, 64, 300_000, MIB, 2 * MIB, 10):
            found.append(await reading.read(size))
        await reading.close()
        assert b"".join(found) == body
        assert [len(piece) for piece in found[:5]] == [1, 0, 64, 300_000, MIB]
        assert found[-1] == b""

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (5, 5), (MIB - 1, MIB + 1), (100, 2 * MIB), (2 * MIB, None), (3 * MIB, None)],
    )
    async def test_a_part(self, bodies: BodyStore, start: int, stop: int | None) -> None:
        body = random.Random(3).randbytes(2 * MIB + 100)
        await put(bodies, NAME, body)
        assert await get(bodies, NAME, start, stop) == body[start:stop]

    async def test_a_missing_object(self, bodies: BodyStore) -> None:
        with pytest.raises(MissingBodyError):
            await bodies.open(NAME)

    async def test_deleting(self, bodies: BodyStore) -> None:
        await put(bodies, NAME, b"one")
        await put(bodies, OTHER, b"other")
        await bodies.delete([NAME, "ef/00"])
        with pytest.raises(MissingBodyError):
            await bodies.open(NAME)
        assert await get(bodies, OTHER) == b"other"
        await bodies.delete([])

    async def test_a_listing(self, bodies: BodyStore) -> None:
        assert await names(bodies) == []
        await put(bodies, NAME, b"one")
        await put(bodies, OTHER, b"three")
        found = {each.name: each async for each in bodies.listed()}
        assert {name: each.size for name, each in found.items()} == {NAME: 3, OTHER: 5}
        assert all(abs(each.modified - time.time()) < 60 for each in found.values())

    async def test_a_reading_that_is_left_in_the_middle(self, bodies: BodyStore) -> None:
        await put(bodies, NAME, bytes(8 * MIB))
        reading = await bodies.open(NAME)
        assert await reading.read(10) == bytes(10)
        await reading.close()
        await reading.close()

    async def test_a_reading_that_is_closed_while_it_is_read(self, bodies: BodyStore) -> None:
        await put(bodies, NAME, bytes(8 * MIB))
        reading = await bodies.open(NAME)
        task = asyncio.create_task(reading.read(8 * MIB))
        await asyncio.sleep(0)
        await reading.close()
        await asyncio.wait([task])
        # It may have been read already. But nobody has cancelled the reader.
        assert not task.cancelled()
        assert isinstance(task.exception(), StoreError | None)


class TestUploads:
    async def test_an_object_is_not_visible_before_its_end(self, bodies: BodyStore) -> None:
        upload = bodies.upload(NAME)
        await upload.write(bytes(6 * MIB))
        assert await names(bodies) == []
        with pytest.raises(MissingBodyError):
            await bodies.open(NAME)
        await upload.finish()
        assert await names(bodies) == [NAME]

    @pytest.mark.parametrize("size", [0, 10, 12 * MIB])
    async def test_an_aborted_upload_leaves_nothing(self, bodies: BodyStore, size: int) -> None:
        upload = bodies.upload(NAME)
        await upload.write(bytes(size))
        await upload.abort()
        await upload.abort()
        assert await names(bodies) == []
        with pytest.raises(StoreError):
            await upload.finish()
        assert await names(bodies) == []

    async def test_an_upload_that_was_finished_can_be_aborted(self, bodies: BodyStore) -> None:
        upload = bodies.upload(NAME)
        await upload.write(b"body")
        await upload.finish()
        await upload.abort()
        assert await names(bodies) == []

    @pytest.mark.parametrize("turns", range(5))
    async def test_a_cancelled_upload_leaves_nothing(self, bodies: BodyStore, turns: int) -> None:
        async def write() -> None:
            upload = bodies.upload(NAME)
            try:
                for _ in range(8):
                    await upload.write(bytes(3 * MIB))
                await upload.finish()
                await asyncio.Event().wait()
            finally:
                await upload.abort()

        task = asyncio.create_task(write())
        for _ in range(turns * 3):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await names(bodies) == []

    async def test_a_second_object_replaces_the_first(self, bodies: BodyStore) -> None:
        await put(bodies, NAME, b"one")
        await put(bodies, NAME, b"another")
        assert await get(bodies, NAME) == b"another"

    async def test_uploads_side_by_side(self, bodies: BodyStore) -> None:
        pieces = {f"{n:02x}/{n:04x}": bytes([n]) * (MIB + n) for n in range(12)}
        await asyncio.gather(*(put(bodies, name, piece) for name, piece in pieces.items()))
        for name, piece in pieces.items():
            assert await get(bodies, name) == piece


async def test_a_ping_leaves_nothing(bodies: BodyStore) -> None:
    await bodies.ping()
    assert await names(bodies) == []
