"""What a process that follows a run of another process does once it no longer does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.resource import Resource
from stream_cached.format.progress import Head, LeaseRecord, Progress, encode_lease, encode_progress
from stream_cached.keys.names import lease_key
from stream_cached.keys.variants import ANY
from stream_cached.runs.channel import ProgressChannel
from stream_cached.runs.follow import RemoteRun
from stream_cached.stores.memory import MemoryCache, MemoryStore
from tests.support.gates import run, runs_over

TOKEN = b"t" * 16
HEAD = Head(200, (), "text/csv", "utf-8", (), "")


class Swallowing(MemoryStore):
    """A store whose client swallows a cancellation: before Python 3.12, `wait_for` may do so."""

    def __init__(self) -> None:
        super().__init__(MemoryCache())
        self.asked = asyncio.Event()

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await super().get_many(keys)


@pytest.mark.parametrize("goes_on", [True, False])
def test_nothing_is_left_of_a_watch_whose_cancellation_was_swallowed(goes_on: bool) -> None:
    async def main() -> None:
        store = Swallowing()
        lifetimes = Lifetimes(60, 60)
        resource = Resource(
            store, "key", needs=(), lifetimes=lifetimes, select=None, max_variants=1
        )
        key, lease = lease_key("key", {}, ANY), LeaseRecord(TOKEN)
        progress = Progress(HEAD, 1, length=None if goes_on else 10)
        told = ProgressChannel(store, "key", TOKEN).progress_key, encode_progress(progress, TOKEN)
        held = [(key, encode_lease(lease, key))] if goes_on else []
        await store.set_many([told, *held], None)
        remote = RemoteRun(resource, key, lease)
        begins = asyncio.create_task(remote.begin(30, 30))
        await store.asked.wait()
        remote.leave()
        await begins
        await runs_over()

    run(main)
