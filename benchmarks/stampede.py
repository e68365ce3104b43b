"""
A stampede: a hundred clients at once ask for a stream that is not cached yet.

Its generator makes 1,000 chunks of 100 bytes in 0.1 s, ten of them each millisecond; it paces
itself by deadlines, so that it catches up where the server was busy with something else. The
clients are one process in uvloop, apart from the server's. Their connections are open before, all
requests are written at once, and each only notes when the first byte of its body and the last one
came; times count from before the first request was written. What came is understood afterwards.

Alternately, round by round, one client alone and then all of them ask, each time for something that
is cold; so do the ways to answer take turns. Of each the medians are shown: until the end of one
client alone, until the last of all has its end and what ratio to one alone that is, until the first
byte of a client (the median one of each round) and what share of the time of one alone, and until
that of the slowest one. The first line is the same body, uncached, which is there at once: what the
server itself takes for a hundred. With two workers, over one Redis, the clients are divided among
processes as the kernel has it; hits are those who came to know of the run in the other process when
that was over already.

Every body is compared, byte for byte, and every Cache-Status; a header that the endpoint makes in
each run says how many runs there were. Anything else than whole bodies of one run ends the
benchmarks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import uvloop

from benchmarks.bodies import MEDIA_TYPE
from benchmarks.client import LAST_CHUNK, Answer, length_in
from benchmarks.servers import app_server, redis_server
from benchmarks.stampede_app import BODY, DURATION
from benchmarks.streams import HIT, MISS, flaw_of
from tests.support.process import HOST

ROUNDS = 20
WARM_UPS = 2

CLIENTS = 100

#: What is aimed at: all of them beside one alone; and the median first byte.
TOTAL, FIRST_BYTE = 2.0, 0.1

JOINED = "stream-cached; fwd=uri-miss; collapsed"

#: Seconds in which what a request has left to be done is done.
_SETTLED = 0.02

#: Seconds that all of them may take.
_LONGEST = 30.0

_fresh = itertools.count()


class Connection(asyncio.Protocol):
    """A connection, kept alive, that reads first, and understands afterwards."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._data = bytearray()
        self._started = self._first = self._ended = 0.0
        self._done: asyncio.Future[None] | None = None
        self._head = 0
        self._length: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop don't say so.
        self._transport = cast(asyncio.WriteTransport, transport)

    def ask(self, request: bytes, started: float) -> asyncio.Future[None]:
        """Write a request; what is returned is done at the end of its answer."""
        assert self._transport is not None
        self._data, self._head = bytearray(), 0
        self._started, self._first, self._ended = started, 0.0, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._first:
            if not self._head and not self._read_head():
                return
            if len(self._data) == self._head:
                return
            self._first = time.perf_counter()
        if self._is_complete:
            self._end()

    def _read_head(self) -> bool:
        """Find the head, and return whether it is all there."""
        edge = self._data.find(b"\r\n\r\n")
        if edge < 0:
            return False
        self._head = edge + 4
        self._length = length_in(bytes(self._data[: self._head]))
        return True

    @property
    def _is_complete(self) -> bool:
        if self._length is None:
            return self._data.endswith(LAST_CHUNK)
        return len(self._data) >= self._head + self._length

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._ended = time.perf_counter()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    @property
    def answer(self) -> Answer:
        """The last answer."""
        took = self._ended - self._started
        return Answer(
            head=self._data[: self._head].decode("latin-1"),
            payload=bytes(self._data[self._head :]),
            first=self._first - self._started if self._first else took,
            took=took,
            complete=self._is_complete,
        )

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


async def _connect(port: int) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, HOST, port)
    return connection


async def _ask(connections: list[Connection], path: str) -> list[Answer]:
    """Let all of them ask at once for the same, which nobody has asked for before."""
    request = f"GET /{path}?{next(_fresh)} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()
    started = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST):
            await asyncio.gather(*[each.ask(request, started) for each in connections])
    answers = [each.answer for each in connections]
    await asyncio.sleep(_SETTLED)
    return answers


def _runs(answers: list[Answer]) -> set[str]:
    """Return the runs of the endpoint that answered."""
    return {line for answer in answers for line in answer.headers if line.startswith("run: ")}


def _flaw(answers: list[Answer], *, cached: bool) -> str:
    """Say what is wrong with what all of them got."""
    for flaw in (flaw_of(answer, BODY, MEDIA_TYPE) for answer in answers):
        if flaw:
            return flaw
    expected = 1 if cached else len(answers)
    if (runs := len(_runs(answers))) != expected:
        return f"the endpoint ran {runs} times instead of {expected}"
    said = Counter(answer.cache_status for answer in answers)
    if not cached:
        return f"Cache-Status: {+said}" if set(said) != {None} else ""
    return "" if said[MISS] == 1 and set(said) <= {MISS, JOINED, HIT} else f"Cache-Status: {said}"


@dataclass
class Figures:
    """The seconds that a way took in its rounds."""

    alone: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    slowest_first: list[float] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)
    runs: int = 0

    def add(self, alone: list[Answer], everyone: list[Answer]) -> None:
        """Take the answers of a round."""
        self.alone.append(alone[0].took)
        self.total.append(max(answer.took for answer in everyone))
        firsts = [answer.first for answer in everyone]
        self.first.append(statistics.median(firsts))
        self.slowest_first.append(max(firsts))
        self.hits.append(sum(answer.cache_status == HIT for answer in everyone))
        self.runs = max(self.runs, len(_runs(everyone)))

    def cells(self) -> tuple[str, ...]:
        """Return a line of the table."""
        alone, total, first, slowest = map(
            statistics.median, (self.alone, self.total, self.first, self.slowest_first)
        )
        return (
            *(f"{alone * 1e3:.1f}", f"{total * 1e3:.1f}", f"{total / alone:.2f}"),
            *(f"{first * 1e3:.1f}", f"{first / alone:.3f}", f"{slowest * 1e3:.1f}"),
            *(f"{self.runs:,}", f"{statistics.median(self.hits):g}"),
        )

    @property
    def is_good(self) -> bool:
        """Whether it reached what is aimed at."""
        alone, total, first = map(statistics.median, (self.alone, self.total, self.first))
        return total < TOTAL * alone and first <= FIRST_BYTE * alone


class Way:
    """
    A way to answer, and the connections that it is asked over.

    Args:
        label: How it is called.
        path: Its path.
        connections: All of them.
    """

    def __init__(self, label: str, path: str, connections: list[Connection]) -> None:
        self.label = label
        self.is_cached = not path.startswith("uncached")
        self.figures = Figures()
        self._path = path
        self._connections = connections

    async def go(self) -> None:
        """Ask by one alone, then by all; end everything if an answer is wrong."""
        alone = await _ask(self._connections[:1], self._path)
        everyone = await _ask(self._connections, self._path)
        for answers in (alone, everyone):
            if flaw := _flaw(answers, cached=self.is_cached):
                sys.exit(f"stampede, {self.label}: {flaw}")
        self.figures.add(alone, everyone)


async def _connections(port: int, workers: int) -> list[Connection]:
    """Open all of them, once each worker accepts some."""
    while True:
        connections = [await _connect(port) for _ in range(CLIENTS)]
        runs = _runs(await _ask(connections, "uncached"))
        if len({run.partition(".")[0] for run in runs}) == workers:
            return connections
        for each in connections:
            each.close()


async def _measure(ports: dict[int, int], rounds: int) -> list[Way]:
    """Return all ways, measured; the ports are those of servers with so many workers."""
    connections = {workers: await _connections(port, workers) for workers, port in ports.items()}
    ways = [
        Way("at once", "uncached-at-once", connections[1]),
        Way("uncached", "uncached", connections[1]),
        Way("memory", "memory", connections[1]),
        Way("Redis", "redis", connections[1]),
        Way("Redis, two workers", "redis", connections[2]),
    ]
    for number in range(-WARM_UPS, rounds):
        for way in ways:
            if number == 0:
                way.figures = Figures()
            await way.go()
    for each in (*connections[1], *connections[2]):
        each.close()
    return ways


_HEADS = ("one alone", "all", "to alone", "first byte", "to alone", "slowest", "runs", "hits")


def _print_table(ways: list[Way]) -> None:
    print(f"  {'':20}" + "".join(f"{head:>11}" for head in _HEADS))
    for way in ways:
        line = f"  {way.label:20}" + "".join(f"{cell:>11}" for cell in way.figures.cells())
        verdict = "good" if way.figures.is_good else "too long"
        print(line + (f"{verdict:>11}" if way.is_cached else ""))


def main(share: float = 1.0) -> None:
    """
    Measure, and print a table.

    Args:
        share: Of the rounds.
    """
    rounds = max(3, round(ROUNDS * share))
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        ports = {}
        for workers in (1, 2):
            server = app_server(redis, "benchmarks.stampede_app:app", workers=workers)
            ports[workers] = stack.enter_context(server).port
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            ways = runner.run(_measure(ports, rounds))
    print(f"\nstampede: {CLIENTS} clients at once, {BODY} in {DURATION} s, {rounds} rounds")
    print(f"  ms; good: all in less than {TOTAL:g} x one alone, first byte in {FIRST_BYTE:g} of it")
    _print_table(ways)
