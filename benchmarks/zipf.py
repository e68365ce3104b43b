"""Keys as they are really asked for: few of them often (Zipf), with entries of mixed size.

README.md says how.
"""

from __future__ import annotations

import random

from benchmarks.bench import Bench, Turn, WrongError, interleave
from benchmarks.bodies import MIXED
from benchmarks.client import Client, Load
from benchmarks.contenders import CONTENDERS, UNCACHED, Server, flaw_of
from benchmarks.figures import Figure, Series, figures_of
from benchmarks.hits import CONNECTIONS

NAMES = (
    *("uncached", "ours-memory", "ours-redis", "ours-memcached"),
    *("cashews-memory", "cashews-redis", "aiocache-memory", "aiocache-redis"),
    *("fastapi-cache2-memory", "fastapi-cache2-redis", "hishel-sqlite", "hishel-redis"),
)

REQUESTS, ROUNDS = 1_000, 3

#: The share of a key falls with its rank to this power.
EXPONENT = 1.0


class Visitors:
    """Eight connections that ask a contender for the same keys as all others, in each round."""

    def __init__(self, bench: Bench, server: Server, requests: int) -> None:
        self._bench, self._server = bench, server
        self._contender = CONTENDERS[server.name]
        weights = [1 / (rank + 1) ** EXPONENT for rank in range(len(MIXED))]
        self._names = random.Random(1).choices([*MIXED], weights, k=requests)
        self.latencies = Series()
        self.shares = Series()
        self._round = 0

    def __call__(self) -> list[float]:
        """Make all requests, on a cold cache; return how many a second there were."""
        query = f"?n={next(self._bench.fresh)}"
        with Load(self._server.port, CONNECTIONS, room=4 * 1024 * 1024) as load:
            before = load.clients[0].json("/runs")
            seconds, latencies = load.run([f"/{name}{query}" for name in self._names])
            runs = load.clients[0].json("/runs") - before
        self._check(query, runs)
        self.latencies.add(self._round, latencies)
        self.shares.add(self._round, [1 - runs / len(self._names)])
        self._round += 1
        return [len(self._names) / seconds]

    def _check(self, query: str, runs: int) -> None:
        """Raise WrongError unless each key is right now, and had one run (for ours)."""
        keys = set(self._names)
        if self._contender.is_ours and runs != len(keys):
            raise WrongError(f"{runs} runs for {len(keys)} keys")
        with Client(self._server.port) as client:
            for name in sorted(keys):
                if flaw := flaw_of(client.get(f"/{name}{query}"), MIXED[name]):
                    raise WrongError(f"{name}: {flaw}")


def run(bench: Bench) -> None:
    """Measure."""
    requests = bench.rounds(REQUESTS, least=200)
    servers = bench.servers(NAMES)
    visitors = {name: Visitors(bench, server, requests) for name, server in servers.items()}
    turns: dict[str, Turn] = {**visitors}
    # Each for as long as it takes; one that is far slower than the others has fewer rounds.
    longest = max(3.0, 30 * bench.scale.share)
    rates = interleave(turns, longest, least=1, most=bench.rounds(ROUNDS, least=2))
    for name, one in rates.items():
        visitors[name].latencies.flaw = visitors[name].shares.flaw = one.flaw
    to = {name: UNCACHED for name in rates if name != UNCACHED}
    work = f"{requests:,} requests"
    measures: tuple[tuple[str, dict[str, Series], str], ...] = (
        ("Zipf: requests a second, 8 connections", rates, "1/s"),
        ("Zipf: one request", {name: one.latencies for name, one in visitors.items()}, "s"),
        ("Zipf: share of requests without a run", {n: v.shares for n, v in visitors.items()}, ""),
    )
    for measure, series, unit in measures:
        found: list[Figure] = figures_of(
            series, to if unit else {}, part="zipf", measure=measure, work=work, unit=unit
        )
        bench.figures += found
    bench.empty()
