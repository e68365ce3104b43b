"""What a hit takes: one client at a time, and eight connections at once. README.md says how."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.bench import Bench, Turn, WrongError, interleave
from benchmarks.bodies import MEDIA_TYPE, WORKS, Expected
from benchmarks.client import Answer, Client, Load
from benchmarks.contenders import (
    CONTENDERS,
    CONTROL,
    GENERAL,
    HIT,
    MISS,
    PREPARED,
    RAW,
    UNCACHED,
    Contender,
    Server,
    flaw_of,
)
from benchmarks.figures import Figure, Series, figures_of

CONNECTIONS = 8

#: Seconds that a turn of one client takes, and one of eight connections; bytes of answers that are
#: kept until they are checked.
TURN, LOADED_TURN, KEPT = 0.01, 0.04, 32 * 1024 * 1024

#: Seconds of one hit from which on nobody measures how many a second there are.
SLOW = 0.25


def references(names: Iterable[str]) -> dict[str, str]:
    """Return what the hits of each are compared with."""
    return {name: CONTENDERS[name].floor for name in names if name not in (RAW, PREPARED)}


class Asker:
    """
    One client of a contender, which checks what it was answered.

    Args:
        server: The contender.
        body: The body that it asks for.
        path: How the path calls it.
        media_type: What its type has to begin with.
        longest: Seconds that a contender which may fail may take for one answer.
    """

    def __init__(
        self,
        server: Server,
        body: Expected,
        path: str,
        media_type: str = MEDIA_TYPE,
        *,
        longest: float = 60.0,
    ) -> None:
        self.contender: Contender = CONTENDERS[server.name]
        timeout = longest if self.contender.fails else 60.0
        self.client = Client(server.port, timeout, room=body.length * 2 + 65_536)
        self._body, self._path, self._media_type = body, path, media_type
        self._runs = self._all_runs()

    def _all_runs(self) -> int:
        return int(self.client.json("/runs"))

    def runs(self) -> int:
        """Return how often a body was made since this was last asked."""
        before, self._runs = self._runs, self._all_runs()
        return self._runs - before

    def warm_up(self, patience: float) -> float:
        """Ask a few times, so that it is a hit; return the seconds of the last time."""
        took = 0.0
        for _ in range(4):
            answer = self.client.get(f"/{self._path}")
            if not answer.complete:
                self.client.reconnect()
            took = answer.took
            if took > patience:
                break
        self.runs()
        return took

    def ask(self, count: int) -> list[float]:
        """Ask so often, for what is stored; return the seconds of each. Checked afterwards."""
        answers = [self.client.get(f"/{self._path}") for _ in range(count)]
        self.check(answers, HIT, 0)
        return [answer.took for answer in answers]

    def hit(self, number: int) -> None:
        """Ask once for a resource that `miss` has asked for."""
        self.check([self.client.get(f"/{self._path}?n={number}")], HIT, 0)

    def miss(self, numbers: Sequence[int]) -> list[Answer]:
        """Ask for as many resources that nobody has asked for before. Checked afterwards."""
        answers = [self.client.get(f"/{self._path}?n={number}") for number in numbers]
        self.check(answers, MISS, len(answers))
        return answers

    def check(self, answers: Iterable[Answer], cache_status: str, runs: int) -> None:
        """Raise WrongError unless each answer is right, and the body was made so often."""
        came = 0
        for answer in answers:
            came += 1
            if flaw := flaw_of(answer, self._body, self._media_type):
                raise WrongError(flaw)
            if self.contender.is_ours and not (answer.cache_status or "").startswith(cache_status):
                raise WrongError(f"Cache-Status: {answer.cache_status}")
        expected = {"floor": 0, "uncached": came, "cache": runs}[self.contender.kind]
        if (ran := self.runs()) != expected:
            raise WrongError(f"the body was made {ran} times instead of {expected}")


def one_client(bench: Bench, askers: Mapping[str, Asker], body: Expected) -> dict[str, Series]:
    """Measure the seconds of hits, one after the other."""

    def turn(asker: Asker) -> Turn:
        count = 0

        def measured() -> list[float]:
            nonlocal count
            count = count or count_for(asker.warm_up(bench.scale.patience), body)
            return asker.ask(count)

        return measured

    turns = {name: turn(asker) for name, asker in askers.items()}
    return interleave(turns, bench.scale.seconds)


def count_for(took: float, body: Expected) -> int:
    """Return how many requests a turn is of, where one takes so long."""
    return max(1, min(50, int(TURN / took), KEPT // body.length))


class Loader:
    """
    Eight connections to a contender.

    Args:
        server: The contender.
        asker: One client of it, for the number of runs.
        path: How the path calls the body.
        room: Bytes of an answer at the most.
        took: Seconds of one hit, about.
    """

    def __init__(self, server: Server, asker: Asker, path: str, room: int, took: float) -> None:
        self.cpu: list[float] = []
        self._port, self._asker, self._room = server.port, asker, room
        self._targets = [f"/{path}"] * max(2 * CONNECTIONS, min(2_000, int(LOADED_TURN / took)))

    def __call__(self) -> list[float]:
        """Measure once: hits a second."""
        with Load(self._port, CONNECTIONS, room=self._room) as load:
            load.run(self._targets[:CONNECTIONS])
            self._asker.runs()
            began = time.process_time()
            seconds, _ = load.run(self._targets)
            self.cpu.append((time.process_time() - began) / len(self._targets))
            if len(load.sizes) != 1:
                sizes = " and ".join(f"{size:,}" for size in sorted(load.sizes)[:3])
                raise WrongError(f"bodies of {sizes} bytes, as framed, for the same request")
            if self._asker.contender.kind != "uncached":
                self._asker.check((each.answer() for each in load.clients), HIT, 0)
        return [len(self._targets) / seconds]


@contextlib.contextmanager
def asking(
    servers: Mapping[str, Server], body: Expected, path: str, **settings: Any
) -> Iterator[dict[str, Asker]]:
    """Connect to each server, to ask for one body; `settings` are those of `Asker`."""
    with contextlib.ExitStack() as stack:
        askers = {name: Asker(each, body, path, **settings) for name, each in servers.items()}
        for asker in askers.values():
            stack.callback(asker.client.close)
        yield askers


def run(bench: Bench) -> None:
    """Measure."""
    servers = bench.servers(GENERAL)
    for work, body in WORKS.items():
        with asking(servers, body, work, longest=bench.scale.longest) as askers:
            hits = one_client(bench, askers, body)
            bench.figures += figures_of(
                hits, references(hits), part="hits", measure="hit, one client", work=work
            )
            loaders = _loaders(servers, askers, work, body, hits)
            rates = interleave(loaders, bench.scale.seconds)
            bench.figures += _rates(rates, loaders, work)
    bench.empty()


def _loaders(
    servers: Mapping[str, Server],
    askers: Mapping[str, Asker],
    work: str,
    body: Expected,
    hits: Mapping[str, Series],
) -> dict[str, Loader]:
    """Return those who are fast enough, and right."""
    took = {name: min(series.values, default=SLOW) for name, series in hits.items()}
    room = body.length * 2 + 65_536
    return {
        name: Loader(server, askers[name], work, room, took[name])
        for name, server in servers.items()
        if not hits[name].flaw and took[name] < SLOW and name != UNCACHED
    }


def _rates(rates: Mapping[str, Series], loaders: Mapping[str, Loader], work: str) -> list[Figure]:
    measure = f"hits a second, {CONNECTIONS} connections"
    found = figures_of(
        rates, references(rates), part="hits", measure=measure, work=work, unit="1/s"
    )
    # The client is one process: what it could do itself stands beside what it has measured.
    cpu = {
        name: Series(dict(enumerate([[one] for one in each.cpu])))
        for name, each in loaders.items()
        if name in (RAW, PREPARED, CONTROL)
    }
    own = "the client's own CPU, for each hit of the line above"
    return found + figures_of(cpu, {}, part="hits", measure=own, work=work)
