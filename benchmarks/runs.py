"""
What a run costs per chunk without joins, beside a tee in line.

A tee is the cheapest way to keep what is streamed: a generator that appends each chunk to a list
and yields it. A run drains the endpoint's generator in a task of its own, which costs switches
between tasks: at each chunk where the endpoint awaits between its chunks, seldom where it does not.
Both once more while the chunks are recorded over the store of `memory://`; a loop then waits until
the entry is visible.

In process and without a server, in uvloop. The run is read as a response reads it, several
chunks at once. The ways take turns, round by round; of each the median is shown, in microseconds
per chunk, over the bare iteration of the same generator. That every byte came, and that what was
recorded is stored, is checked in each round, outside of its time.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop

from benchmarks.bodies import Body
from stream_cached.entries.found import Hit
from stream_cached.entries.ids import new_id
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.recorder import Recorder
from stream_cached.entries.resource import Resource
from stream_cached.format.progress import Head
from stream_cached.format.records import Entry
from stream_cached.http.reasons import NotCached
from stream_cached.keys.variants import ANY
from stream_cached.limits import Limits
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.runs.answer import Answer, Recording
from stream_cached.runs.run import Run
from stream_cached.stores.memory import MemoryCache, MemoryStore
from stream_cached.streams.sources import IteratorSource

ROUNDS = 100

BODY = Body(100, 10_000)

#: The defaults of the decorator.
LIMITS = Limits()

HEAD = Head(200, (), None, "utf-8", (), "")

Chunks = Callable[[], AsyncIterator[bytes]]

#: Iterates over chunks in some way, and returns how many bytes came.
Way = Callable[[Chunks], Awaitable[int]]


async def awaiting() -> AsyncIterator[bytes]:
    """An endpoint's generator that lets others run between its chunks."""
    for chunk in BODY.chunks:
        await asyncio.sleep(0)
        yield chunk


async def unsuspended() -> AsyncIterator[bytes]:
    """One that never does."""
    for chunk in BODY.chunks:
        yield chunk


KINDS: dict[str, Chunks] = {"awaits": awaiting, "does not": unsuspended}


def _resource() -> Resource:
    return Resource(
        MemoryStore(MemoryCache()),
        "key",
        needs=("version",),
        lifetimes=Lifetimes(ttl=60, longest_run=LIMITS.max_duration),
        select=None,
        max_variants=1,
    )


class Storage:
    """What a run asks about its storage, where nothing forbids it; and the owner of a recorder."""

    has_slow_readers = False

    async def has_lost_lease(self) -> bool:
        return False

    def objection(self) -> NotCached | None:
        return None

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        sys.exit(f"not recorded: {reason}")

    async def stored(self) -> None:
        pass

    def recorder_moved(self) -> None:
        pass

    def visible(self) -> None:
        pass


async def _recording() -> Recording:
    entry = Entry(
        key=b"",
        versions={},
        status=200,
        headers=(),
        media_type=None,
        charset="utf-8",
        streamed=True,
        stored_at=time.time(),
        length=0,
        generation=new_id(),
    )
    resource = _resource()
    await resource.look_up()
    await resource.begin()
    return Recording(resource, entry, frozenset(), Storage())


def _recorder(recording: Recording | None) -> Recorder | None:
    if recording is None:
        return None
    varies_on = recording.varies_on
    return Recorder(
        Storage(), recording.resource, recording.entry, varies_on=varies_on, limits=LIMITS
    )


async def _tee(
    chunks: AsyncIterator[bytes], kept: list[bytes], recorder: Recorder | None
) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if recorder is None:
            kept.append(chunk)
        else:
            recorder.feed(chunk)
        yield chunk
    if recorder is not None:
        await recorder.commit()


async def _iterate(chunks: AsyncIterator[bytes]) -> int:
    length = 0
    async for chunk in chunks:
        length += len(chunk)
    return length


async def bare(chunks: Chunks, recording: Recording | None) -> int:
    """Only iterate."""
    return await _iterate(chunks())


async def tee(chunks: Chunks, recording: Recording | None) -> int:
    """Keep each chunk, or record it, and hand it on."""
    return await _iterate(_tee(chunks(), [], _recorder(recording)))


async def run(chunks: Chunks, recording: Recording | None) -> int:
    """Read a run as `LiveResponse` does."""
    one = Run(None, "key", ANY)
    if recording is None:
        one.refuse(ANY, alone_for=0.0)
    answer = Answer(HEAD, LIMITS, DisconnectShield(), finish_timeout=30)
    one.begin(IteratorSource(chunks(), "utf-8"), answer, recording)
    reader = one.read()
    length = 0
    while taken := await reader.take():
        length += len(b"".join(taken))
    reader.close()
    await one.over()
    return length


#: Each way to iterate, and whether it records.
WAYS = {
    "bare": (bare, False),
    "tee": (tee, False),
    "run": (run, False),
    "tee, recorded": (tee, True),
    "run, recorded": (run, True),
}


async def _microseconds(way: str, chunks: Chunks) -> float:
    """Return what a chunk took in one way; end everything if it did not all come."""
    iterate, records = WAYS[way]
    recording = await _recording() if records else None
    resource = _resource() if recording is None else recording.resource
    start = time.perf_counter()
    length = await iterate(chunks, recording)
    took = time.perf_counter() - start
    found = await resource.look_up()
    if length != len(BODY.whole) or isinstance(found, Hit) is not records:
        sys.exit(f"{way}: {length:,} bytes, and then {found}")
    return took / BODY.count * 1e6


async def median_microseconds(chunks: Chunks, rounds: int) -> dict[str, float]:
    """Return what a chunk takes in each way; the ways take turns."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(-1, rounds):
        for way, taken in times.items():
            microseconds = await _microseconds(way, chunks)
            if number >= 0:
                taken.append(microseconds)
    return {way: statistics.median(taken) for way, taken in times.items()}


def main(share: float = 1.0) -> None:
    """
    Measure, and print a table.

    Args:
        share: Of the rounds.
    """
    rounds = max(3, round(ROUNDS * share))
    print(f"\nruns: {BODY}, without joins, {rounds} rounds")
    print("  us a chunk over the bare iteration, where the endpoint")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken = {
            kind: runner.run(median_microseconds(chunks, rounds)) for kind, chunks in KINDS.items()
        }
    print(f"  {'':20}" + "".join(f"{kind:>12}" for kind in KINDS))
    for way in WAYS:
        if way == "bare":
            cells = [f"({taken[kind][way]:.2f})" for kind in KINDS]
        else:
            cells = [f"{taken[kind][way] - taken[kind]['bare']:.2f}" for kind in KINDS]
        print(f"  {way:20}" + "".join(f"{cell:>12}" for cell in cells))
