"""Objects of S3: what fails on the way, what is cancelled, and what may not be there."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import obstore
import pytest

from stream_cached.bodies.object_reading import ObjectReading
from stream_cached.bodies.objects import ObjectBodies
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.errors import StoreError
from tests.bodies.test_contract import MIB, NAME, OTHER, get, names, put
from tests.support import gates
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import S3Server
from tests.support.suspensions import Suspensions
from tests.support.wire import Command, HttpWire

pytestmark = pytest.mark.anyio

#: As fast as a test has to be.
FAST = {"timeout": 1, "upload_timeout": 5, "retry_timeout": 2, "retries": 2}

_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(HttpWire(), s3.port) as proxy:
        yield proxy


@pytest.fixture
def bodies(s3: S3Server, proxy: FaultProxy) -> ObjectBodies:
    """A store behind the proxy."""
    store = bodies_from_url(s3.url(proxy.port, **FAST))
    assert isinstance(store, ObjectBodies)
    return store


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def creates(command: Command) -> bool:
    return command.name == "POST" and command.keys[0].endswith("?uploads=")


def sends_part(command: Command) -> bool:
    return command.name == "PUT" and "partNumber" in command.keys[0]


def completes(command: Command) -> bool:
    return command.name == "POST" and "uploadId" in command.keys[0]


def sends_all(command: Command) -> bool:
    return command.name == "PUT" and "?" not in command.keys[0]


def deletes(command: Command) -> bool:
    return command.name == "POST" and "?delete" in command.keys[0]


def once(proxy: FaultProxy, when: Callable[[Command], bool], act: Callable[[], object]) -> None:
    """Do something just before the first of such commands is passed on."""

    async def hook(command: Command) -> None:
        if when(command):
            proxy.hook = healed
            act()

    async def healed(command: Command) -> None:
        proxy.heal()

    proxy.hook = hook


def in_full(value: object) -> Any:
    return pytest.param(value, marks=pytest.mark.full)


class TestRequests:
    async def test_a_small_object_takes_one_request(
        self, bodies: ObjectBodies, proxy: FaultProxy
    ) -> None:
        await put(bodies, NAME, b"small", bytes(4 * MIB))
        assert proxy.counts == {"PUT": 1}

    async def test_a_reading_takes_one_request_however_it_is_read(
        self, bodies: ObjectBodies, proxy: FaultProxy
    ) -> None:
        body = noise(6 * MIB)
        await put(bodies, NAME, body)
        # Two parts, the beginning and the end.
        assert proxy.counts == {"PUT": 2, "POST": 2}
        reading = await bodies.open(NAME, 10, 5 * MIB)
        found = [await reading.read(200_000) for _ in range(30)]
        assert b"".join(found) == body[10 : 5 * MIB]
        assert proxy.counts == {"PUT": 2, "POST": 2, "GET": 1}

    @pytest.mark.full
    async def test_no_more_than_two_parts_are_on_their_way(
        self, bodies: ObjectBodies, proxy: FaultProxy, s3: S3Server
    ) -> None:
        upload, gate, held = bodies.upload(NAME), gates.Gate(), list[Command]()

        async def hook(command: Command) -> None:
            if sends_part(command):
                held.append(command)
                await gate.passed()

        proxy.hook = hook
        body = noise(27 * MIB)
        writing = asyncio.create_task(upload.write(body))
        async with asyncio.timeout(5):
            while len(held) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(held) == 2
        assert not writing.done()
        gate.open()
        await writing
        await upload.finish()
        # With the time that it takes a machine that is busy.
        assert await get(bodies_from_url(s3.url(timeout=30)), NAME) == body

    async def test_what_is_deleted_takes_one_request(
        self, bodies: ObjectBodies, proxy: FaultProxy, s3: S3Server
    ) -> None:
        for number in range(5):
            await put(bodies, f"aa/{number:02x}", b"body")
        await bodies.delete([f"aa/{number:02x}" for number in range(10)])
        assert proxy.counts == {"PUT": 5, "POST": 1}
        assert s3.keys() == []

    async def test_objects_of_others_are_not_listed(
        self, bodies: ObjectBodies, s3: S3Server
    ) -> None:
        await put(bodies, NAME, b"body")
        for name in ("README", "zz/00", "ab/cd/ef"):
            await obstore.put_async(bodies._writes, name, b"another's")
        assert await names(bodies) == [NAME]
        assert len(s3.keys()) == 4


class TestFaults:
    async def test_a_store_that_throttles_is_asked_again(
        self, bodies: ObjectBodies, proxy: FaultProxy
    ) -> None:
        body = noise(6 * MIB)
        refused = iter([True, False] * 20)
        proxy.answer = lambda command: _BUSY if next(refused) else None
        await put(bodies, NAME, body)
        assert await get(bodies, NAME) == body

    async def test_after_its_time_a_store_is_not_asked_again(
        self, s3: S3Server, proxy: FaultProxy
    ) -> None:
        bodies = bodies_from_url(s3.url(proxy.port, retries=30, retry_timeout=0.1))
        proxy.answer = lambda command: _BUSY
        with pytest.raises(StoreError, match="503"):
            await put(bodies, NAME, b"body")
        assert proxy.counts["PUT"] < 6

    async def test_a_store_is_asked_again_only_as_often_as_it_may_be(
        self, s3: S3Server, proxy: FaultProxy
    ) -> None:
        bodies = bodies_from_url(s3.url(proxy.port, retries=1))
        proxy.answer = lambda command: _BUSY
        with pytest.raises(StoreError, match="503"):
            await put(bodies, NAME, b"body")
        assert proxy.counts["PUT"] == 2

    async def test_an_upload_that_hangs(self, s3: S3Server, proxy: FaultProxy) -> None:
        bodies = bodies_from_url(s3.url(proxy.port, retries=0, upload_timeout=0.2))
        proxy.swallow = True
        began = time.monotonic()
        with pytest.raises(StoreError):
            await put(bodies, NAME, b"body")
        assert time.monotonic() - began < 2

    @pytest.mark.parametrize("size", [MIB, in_full(12 * MIB)])
    async def test_a_store_that_goes_on_throttling(
        self, bodies: ObjectBodies, proxy: FaultProxy, s3: S3Server, size: int
    ) -> None:
        proxy.answer = lambda command: None if creates(command) else _BUSY
        upload = bodies.upload(NAME)

        async def write() -> None:
            await upload.write(noise(size))
            await upload.write(noise(size))
            await upload.finish()

        with pytest.raises(StoreError, match="503") as found:
            await write()
        assert found.value.fix == ""
        with pytest.raises(StoreError):
            await bodies.open(NAME)
        proxy.heal()
        await upload.abort()
        assert (s3.keys(), s3.uploads()) == ([], [])

    async def test_a_store_that_hangs_is_waited_for_no_longer_than_it_may_take(
        self, s3: S3Server, proxy: FaultProxy
    ) -> None:
        bodies = bodies_from_url(s3.url(proxy.port, timeout=0.3))
        proxy.swallow = True
        for call in (
            lambda: bodies.open(NAME),
            lambda: bodies.delete([NAME]),
            lambda: anext(bodies.listed(), None),
            bodies.ping,
        ):
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"no answer in 0\.3 s"):
                await call()
            assert time.monotonic() - began < 0.8

    @pytest.mark.full
    async def test_a_reading_that_hangs(self, bodies: ObjectBodies, proxy: FaultProxy) -> None:
        await put(bodies, NAME, noise(4 * MIB))
        proxy.rate = 2_000_000.0
        reading = await bodies.open(NAME)
        await reading.read(1000)
        proxy.rate = 1.0
        with pytest.raises(StoreError, match="nothing came in 1 s"):
            await reading.read(4 * MIB)
        with pytest.raises(StoreError):
            await reading.read(1)
        await reading.close()

    async def test_an_upload_whose_part_hangs_is_aborted_at_once(
        self, s3: S3Server, proxy: FaultProxy
    ) -> None:
        bodies = bodies_from_url(s3.url(proxy.port, upload_timeout=60))
        upload, hangs = bodies.upload(NAME), asyncio.Event()

        async def hook(command: Command) -> None:
            if sends_part(command):
                hangs.set()
                await asyncio.Event().wait()

        proxy.hook = hook
        writing = asyncio.create_task(upload.write(bytes(20 * MIB)))
        await asyncio.wait_for(hangs.wait(), 5)
        writing.cancel()
        began = time.monotonic()
        await upload.abort()
        assert time.monotonic() - began < 1
        assert s3.uploads() == []

    @pytest.mark.full
    async def test_a_reader_may_take_any_time(self, s3: S3Server, proxy: FaultProxy) -> None:
        bodies = bodies_from_url(s3.url(proxy.port, timeout=3, retries=1, retry_timeout=0.1))
        await put(bodies, NAME, bytes(32 * MIB))
        reading = await bodies.open(NAME)
        for _ in range(3):
            assert await reading.read(8 * MIB) == bytes(8 * MIB)
            await asyncio.sleep(0.5)
        proxy.tear_down()
        assert await reading.read(8 * MIB) == bytes(8 * MIB)
        await reading.close()

    @pytest.mark.full
    async def test_a_store_that_is_gone(
        self, bodies: ObjectBodies, proxy: FaultProxy, s3: S3Server
    ) -> None:
        upload = bodies.upload(NAME)
        await upload.write(noise(6 * MIB))
        await proxy.refuse()
        with pytest.raises(StoreError):
            await upload.finish()
        await upload.abort()
        for call in (lambda: bodies.open(NAME), bodies.ping):
            with pytest.raises(StoreError) as found:
                await call()
            assert found.value.fix == ""
        # What is left is left to the rule for incomplete uploads. It is no object.
        assert s3.keys() == []

    async def test_a_reading_that_is_cut_goes_on(
        self, bodies: ObjectBodies, proxy: FaultProxy
    ) -> None:
        body = noise(6 * MIB)
        await put(bodies, NAME, body)
        cuts = iter([2 * MIB, MIB])

        async def hook(command: Command) -> None:
            proxy.cut_after = next(cuts, None)

        proxy.hook = hook
        assert await get(bodies, NAME, 5) == body[5:]
        assert proxy.counts["GET"] == 3

    @pytest.mark.full
    async def test_a_reading_that_is_cut_again_and_again_is_an_error(
        self, bodies: ObjectBodies, proxy: FaultProxy
    ) -> None:
        await put(bodies, NAME, noise(6 * MIB))
        proxy.cut_after = 2 * MIB
        with pytest.raises(StoreError):
            await get(bodies, NAME)

    async def test_another_range_than_was_asked_for_is_an_error(
        self, bodies: ObjectBodies, proxy: FaultProxy
    ) -> None:
        await put(bodies, NAME, noise(1000))
        proxy.answer = lambda command: (
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: x\r\n"
            b"Last-Modified: Sun, 29 Nov 2026 19:42:47 GMT\r\n"
            b"Content-Range: bytes 0-4/1000\r\n\r\n12345"
        )
        with pytest.raises(StoreError):
            await bodies.open(NAME, 10, 20)

    async def test_a_deletion_whose_connection_is_cut_is_repeated(
        self, bodies: ObjectBodies, proxy: FaultProxy, s3: S3Server
    ) -> None:
        await put(bodies, NAME, b"body")
        once(proxy, deletes, proxy.tear_down)
        await bodies.delete([NAME])
        assert s3.keys() == []
        assert proxy.counts["POST"] == 2

    @pytest.mark.parametrize("when", [*map(in_full, (creates, completes)), sends_part, sends_all])
    async def test_a_connection_that_is_cut_costs_no_more_than_another_attempt(
        self, bodies: ObjectBodies, proxy: FaultProxy, when: Callable[[Command], bool]
    ) -> None:
        body = noise(MIB if when is sends_all else 12 * MIB)
        once(proxy, when, proxy.tear_down)
        with contextlib.suppress(StoreError):
            await put(bodies, NAME, body)
            assert await get(bodies, NAME) == body
            return
        pytest.fail("it was not sent again")

    @pytest.mark.parametrize("when", [completes, in_full(sends_all)])
    async def test_an_object_whose_answer_was_lost_is_deleted(
        self,
        bodies: ObjectBodies,
        proxy: FaultProxy,
        s3: S3Server,
        when: Callable[[Command], bool],
    ) -> None:
        async def hook(command: Command) -> None:
            proxy.cut_after = 0 if when(command) else None

        proxy.hook = hook
        upload = bodies.upload(NAME)
        await upload.write(noise(MIB if when is sends_all else 12 * MIB))
        with pytest.raises(StoreError):
            await upload.finish()
        await upload.abort()
        assert (s3.keys(), s3.uploads()) == ([], [])


class TestObstore:
    """What is held against obstore itself."""

    @pytest.mark.parametrize("pieces", [[b"12", b"345"], [b"12", b"34567"], [b"12", b""]])
    async def test_pieces_of_another_size_than_was_said_are_an_error(
        self, pieces: list[bytes]
    ) -> None:
        async def stream() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        reading = ObjectReading(stream(), 6, 1.0, lambda what, exc: StoreError(what))
        with pytest.raises(StoreError, match="another size"):
            await reading.read(6)
        with pytest.raises(StoreError, match="has failed"):
            await reading.read(1)

    async def test_an_upload_that_it_does_not_come_back_from(
        self, bodies: ObjectBodies, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ObjectBodies, "longest", 0.1)
        proxy.swallow = True
        upload = bodies.upload(NAME)
        with pytest.raises(StoreError, match="does not come back"):
            await upload.write(bytes(11 * MIB))
        await upload.abort()

    async def test_where_a_missing_object_is_an_error_the_others_are_deleted(
        self, bodies: ObjectBodies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def delete(bucket: object, names: list[str]) -> None:
            if OTHER in names:
                raise FileNotFoundError
            deleted.extend(names)

        deleted = list[str]()
        monkeypatch.setattr(obstore, "delete_async", delete)
        await bodies.delete([OTHER, NAME])
        assert deleted == [NAME]


class TestCancellation:
    @pytest.mark.parametrize("size", [MIB, in_full(17 * MIB)])
    def test_at_each_point_it_leaves_nothing(self, s3: S3Server, size: int) -> None:
        bodies, count = bodies_from_url(s3.url()), 0

        async def upload(suspensions: Suspensions) -> None:
            upload = bodies.upload(NAME)
            try:
                for _ in range(3):
                    await upload.write(bytes(size // 3 + 1))
                await upload.finish()
            finally:
                await upload.abort()

        async def cancelled_at(number: int) -> int:
            suspensions = Suspensions()
            task = asyncio.create_task(upload(suspensions))
            suspensions.cancel(task, number)
            with contextlib.suppress(asyncio.CancelledError):
                await task
            # Where the abort itself was cancelled, it goes on.
            await gates.runs_over()
            return suspensions.cancelled

        while asyncio.run(cancelled_at(count + 1)):
            count += 1
            assert (s3.keys(), s3.uploads()) == ([], [])
        assert count >= 3

    @pytest.mark.parametrize("when", [creates, sends_part, completes, sends_all])
    async def test_while_the_store_is_at_work_it_leaves_nothing(
        self,
        bodies: ObjectBodies,
        proxy: FaultProxy,
        s3: S3Server,
        when: Callable[[Command], bool],
    ) -> None:
        async def write() -> None:
            upload = bodies.upload(NAME)
            try:
                await upload.write(bytes(MIB if when is sends_all else 12 * MIB))
                await upload.finish()
            finally:
                await upload.abort()

        task = asyncio.create_task(write())
        once(proxy, when, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (s3.keys(), s3.uploads()) == ([], [])

    @pytest.mark.full
    def test_the_end_of_the_event_loop_aborts_an_upload(self, s3: S3Server) -> None:
        bodies = bodies_from_url(s3.url())

        async def write() -> None:
            upload = bodies.upload(NAME)
            try:
                await upload.write(bytes(12 * MIB))
                await asyncio.Event().wait()
            finally:
                await upload.abort()

        async def main() -> None:
            task = asyncio.create_task(write())
            while not s3.uploads():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not task.done()

        asyncio.run(main())
        assert s3.uploads() == []

    async def test_a_reading_goes_on_where_it_was_cancelled(self, s3: S3Server) -> None:
        bodies, body = bodies_from_url(s3.url()), noise(3 * MIB)
        await put(bodies, NAME, body)
        reading = await bodies.open(NAME)
        task = asyncio.create_task(reading.read(3 * MIB))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await reading.read(3 * MIB) == body

    async def test_an_upload_without_one_of_its_parts_has_no_end(self, s3: S3Server) -> None:
        upload = bodies_from_url(s3.url()).upload(NAME)
        task = asyncio.create_task(upload.write(bytes(12 * MIB)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(StoreError):
            await upload.finish()
        await upload.abort()
        assert (s3.keys(), s3.uploads()) == ([], [])
