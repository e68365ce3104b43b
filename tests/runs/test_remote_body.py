"""What a process reads of a body while another process makes an object of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream_cached.bodies.files import FileBodies
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.entries.object_body import KeptBodies, ObjectBody
from stream_cached.format.records import Segment
from stream_cached.limits import Limits
from stream_cached.runs.remote_body import RemoteBody
from stream_cached.stores.memory import MemoryCache, MemoryStore
from tests.support.gates import Gate

SEGMENTS = [Segment((1000,), False, bytes([number]) * 1000) for number in range(3)]
ALL = range(len(SEGMENTS))


class Held(MemoryStore):
    """A store whose reads wait for a gate."""

    def __init__(self) -> None:
        super().__init__(MemoryCache())
        self.asked, self.gate = asyncio.Event(), Gate()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self.asked.set()
        await self.gate.passed()
        return await super().get_many(keys)


async def read_all(body: RemoteBody) -> list[Segment]:
    return await body.following(ALL)


async def read_one_by_one(body: RemoteBody) -> list[Segment]:
    return [await body.segment(index) for index in ALL]


@pytest.mark.parametrize("read", [read_all, read_one_by_one])
def test_segments_that_go_while_they_are_read_are_in_the_object(
    tmp_path: Path, read: Callable[[RemoteBody], Awaitable[list[Segment]]]
) -> None:
    async def main() -> None:
        store = Held()
        kept = KeptBodies(WatchedBodies.of(FileBodies(tmp_path)), "", Limits())
        written, followed = (ObjectBody(store, "key", b"g" * 16, kept) for _ in range(2))
        await written.write([written.pack(index, SEGMENTS[index]) for index in ALL])
        known: Any = SimpleNamespace(sizes=await written.finish())

        async def never() -> None:
            raise AssertionError("the end is known already")

        remote = RemoteBody(followed, never)
        reading = asyncio.ensure_future(read(remote))
        await store.asked.wait()
        await written.recorded()
        remote.find_object(known)
        store.gate.open()
        assert await reading == SEGMENTS

    asyncio.run(main())
