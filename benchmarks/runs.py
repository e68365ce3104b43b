"""What a run costs per chunk without joins, beside a tee in line. README.md says how."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop

from benchmarks.bench import Bench
from benchmarks.bodies import Body
from benchmarks.figures import Series, figures_of
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

ROUNDS = 40

BODY = Body(100, 10_000)

#: The defaults of the decorator.
LIMITS = Limits()

HEAD = Head(200, (), None, "utf-8", (), "")

Chunks = Callable[[], AsyncIterator[bytes]]

#: Iterates over chunks in some way, and returns how many bytes came.
Way = Callable[[Chunks], Awaitable[int]]


async def awaiting() -> AsyncIterator[bytes]:
    """An endpoint's generator that lets others run between its chunks."""
    for chunk in BODY:
        await asyncio.sleep(0)
        yield chunk


async def unsuspended() -> AsyncIterator[bytes]:
    """One that never does."""
    for chunk in BODY:
        yield chunk


KINDS: dict[str, Chunks] = {
    "the endpoint awaits between chunks": awaiting,
    "it does not": unsuspended,
}


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

    declared: int | None = None
    has_slow_readers = False

    async def has_lost_lease(self) -> bool:
        return False

    def objection(self) -> NotCached | None:
        return None

    lease = took = None

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        sys.exit(f"not recorded: {reason}")

    async def stored(self, entry: Entry, digest: str) -> None:
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
            recorder.feed([chunk])
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


async def whole_run(chunks: Chunks, recording: Recording | None) -> int:
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
    "run": (whole_run, False),
    "tee, recorded": (tee, True),
    "run, recorded": (whole_run, True),
}


async def _seconds(way: str, chunks: Chunks) -> float:
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
    return took / BODY.count


async def _measure(chunks: Chunks, rounds: int) -> dict[str, Series]:
    """Return what a chunk takes in each way; the ways take turns."""
    series = {way: Series() for way in WAYS}
    for number, way in itertools.product(range(-1, rounds), WAYS):
        took = await _seconds(way, chunks)
        if number >= 0:
            series[way].add(number, [took])
    return series


def run(bench: Bench) -> None:
    """Measure."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for kind, chunks in KINDS.items():
            series = runner.run(_measure(chunks, bench.rounds(ROUNDS)))
            bench.figures += figures_of(
                series,
                dict.fromkeys([way for way in WAYS if way != "bare"], "bare"),
                part="runs",
                measure="one chunk of a run, in process",
                work=kind,
            )
