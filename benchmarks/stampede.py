"""A stampede: a hundred clients at once ask for what is not cached yet. README.md says how."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import uvloop

from benchmarks.bench import Bench
from benchmarks.client import LAST_CHUNK, Answer, length_in, request_for
from benchmarks.contenders import HIT, JOINED, MISS, ContenderProcess, flaw_of
from benchmarks.figures import Figure, Series, figures_of
from benchmarks.stampede_app import BODY
from tests.support.process import HOST

ROUNDS = 15
WARM_UPS = 1

CLIENTS = 100

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
    request = request_for(f"/{path}?{next(_fresh)}")
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
    for flaw in (flaw_of(answer, BODY) for answer in answers):
        if flaw:
            return flaw
    said = Counter(answer.cache_status for answer in answers)
    expected = 1 if cached else len(answers)
    if (runs := len(_runs(answers))) != expected:
        return f"the endpoint ran {runs} times instead of {expected}: {_list(said)}"
    if not cached:
        return f"Cache-Status: {_list(said)}" if set(said) != {None} else ""
    return (
        ""
        if said[MISS] == 1 and set(said) <= {MISS, JOINED, HIT}
        else f"Cache-Status: {_list(said)}"
    )


def _list(said: Counter[str | None]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in said.items())


@dataclass
class Taken:
    """What a way took, round by round."""

    alone: Series = field(default_factory=Series)
    total: Series = field(default_factory=Series)
    first: Series = field(default_factory=Series)
    slowest_first: Series = field(default_factory=Series)
    hits: Series = field(default_factory=Series)
    runs: Series = field(default_factory=Series)

    def add(self, number: int, alone: list[Answer], everyone: list[Answer]) -> None:
        """Take the answers of a round."""
        firsts = [answer.first for answer in everyone]
        self.alone.add(number, [alone[0].took])
        self.total.add(number, [max(answer.took for answer in everyone)])
        self.first.add(number, [statistics.median(firsts)])
        self.slowest_first.add(number, [max(firsts)])
        self.hits.add(number, [sum(answer.cache_status == HIT for answer in everyone)])
        self.runs.add(number, [len(_runs(everyone))])

    def figures(self, label: str, flaw: str) -> list[Figure]:
        """Return a line of the table."""
        columns = {
            "one alone": (self.alone, "s"),
            "all of 100": (self.total, "s"),
            "first byte, median client": (self.first, "s"),
            "first byte, slowest client": (self.slowest_first, "s"),
            "runs": (self.runs, ""),
            "hits": (self.hits, ""),
        }
        made = []
        for work, (series, unit) in columns.items():
            series.flaw = flaw
            (figure,) = figures_of(
                {label: series},
                {},
                part="stampede",
                measure=f"stampede: {CLIENTS} clients of one cold stream",
                work=work,
                unit=unit,
            )
            if unit and work != "one alone" and not flaw:
                ratio = series.ratio_to(self.alone)
                figure = dataclasses.replace(figure, ratio=ratio, to="one alone")
            made.append(figure)
        return made


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
        self.taken = Taken()
        self.flaw = ""
        self._path = path
        self._connections = connections

    async def go(self, number: int) -> None:
        """Ask by one alone, then by all, unless an answer was wrong."""
        if self.flaw:
            return
        alone = await _ask(self._connections[:1], self._path)
        everyone = await _ask(self._connections, self._path)
        for answers in (alone, everyone):
            if flaw := _flaw(answers, cached=self.is_cached):
                self.flaw = flaw
                return
        if number >= 0:
            self.taken.add(number, alone, everyone)


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
            await way.go(number)
    for each in (*connections[1], *connections[2]):
        each.close()
    return ways


def run(bench: Bench) -> None:
    """Measure."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for workers in (1, 2):
            server = ContenderProcess(
                "stampede",
                bench.redis,
                workers=workers,
                app="benchmarks.stampede_app:app",
            )
            ports[workers] = stack.enter_context(server).port
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            ways = runner.run(_measure(ports, bench.rounds(ROUNDS)))
    for way in ways:
        bench.figures += way.taken.figures(way.label, way.flaw)
