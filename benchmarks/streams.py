"""
What a hit and a miss cost, beside the same stream without a cache.

One client asks for one thing after the other. The ways to answer take turns, round by round, so
that whatever else the machine does hits all of them. Of each the medians are shown, until the first
byte of the body and until its end, and the ratio of the latter to the same stream without a cache
in the same run: the ratios hold elsewhere, the times do not.

A hit is asked for after a warm-up; a miss has a query of its own each time, and is the whole
request, up to the visible entry. After each request, and outside of its time, its status, its
Cache-Status and every byte of its body are checked, and that its generator ran as often as it had
to. What is measured of stream_cached must be right; what cashews answers otherwise is said, in the
place of a figure. cashews has a process of its own, since it visits all that its memory holds each
second.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
from dataclasses import dataclass, field

from benchmarks.bodies import BODIES, MEDIA_TYPE, TEXT, Body
from benchmarks.client import Answer, Client
from benchmarks.servers import app_server, redis_server

ROUNDS = {"small": 300, "tiny-chunks": 30, "10-MB": 30}

WARM_UPS = 3

#: cashews makes a round trip for each chunk; seconds for that many. It takes part in one round of
#: so many, and in one warm-up.
SELDOM = {("tiny-chunks", "cashews-redis"): 10, ("tiny-chunks", "cashews-memory"): 3}

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"


@dataclass(frozen=True)
class Way:
    """
    A way to answer.

    Args:
        path: The first part of its path.
        cache_status: What Cache-Status has to say.
        runs: How often the generator has to run for a request; if so for a cache, it is a miss.
    """

    path: str
    cache_status: str | None = None
    runs: int = 0

    @property
    def is_by_cashews(self) -> bool:
        """Whether cashews is measured, and not this library."""
        return "cashews" in self.path

    def target(self, body: str, number: int) -> str:
        """Return what is asked for in a round."""
        misses = self.runs and self.path != "uncached"
        return f"/{self.path}/{body}" + (f"?{number}" if misses else "")


WAYS = {
    "prepared Response": Way("prepared"),
    "uncached stream": Way("uncached", runs=1),
    "miss, memory": Way("memory", MISS, runs=1),
    "miss, Redis": Way("redis", MISS, runs=1),
    "miss, cashews mem://": Way("cashews-memory", runs=1),
    "miss, cashews Redis": Way("cashews-redis", runs=1),
    "hit, memory": Way("memory", HIT),
    "hit, Redis": Way("redis", HIT),
    "hit, cashews mem://": Way("cashews-memory"),
    "hit, cashews Redis": Way("cashews-redis"),
}


@dataclass
class Figures:
    """The seconds that a way took in its rounds; or what was wrong with its answers."""

    first: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    flaw: str = ""


class Asker:
    """Asks a server, and knows how many generators ran for it."""

    def __init__(self, port: int) -> None:
        self._client = Client(port)
        self.runs = 0

    def ask(self, target: str) -> tuple[Answer, int]:
        """Return an answer, and how many generators ran for it."""
        answer = self._client.get(target)
        if not answer.complete:
            self._client.reconnect()
        before, self.runs = self.runs, self._client.json("/runs")
        return answer, self.runs - before


def flaw_of(answer: Answer, body: Body, media_type: str) -> str:
    """Say what is wrong with an answer."""
    if not answer.status:
        return "no answer: the connection was closed"
    came = answer.body
    if not answer.complete:
        return f"the connection ended after {len(came):,} bytes of the body"
    if answer.status != 200:
        return f"status {answer.status}"
    if len(came) != len(body.whole):
        return f"{len(came):,} bytes instead of {len(body.whole):,}"
    if came != body.whole:
        return "other bytes than the stream's"
    if not any(line.startswith(f"content-type: {media_type}") for line in answer.headers):
        return "another Content-Type than the stream's"
    return ""


def _flaw(way: Way, answer: Answer, runs: int, body: Body) -> str:
    flaw = flaw_of(answer, body, MEDIA_TYPE)
    if not flaw and runs != way.runs:
        flaw = f"the generator ran {runs} times instead of {way.runs}"
    if not flaw and answer.cache_status != way.cache_status:
        flaw = f"Cache-Status: {answer.cache_status}"
    return flaw


def _takes_part(way: Way, name: str, number: int) -> bool:
    return number == -1 or number % SELDOM.get((name, way.path), 1) == 0


def _measure(name: str, askers: dict[bool, Asker], rounds: int) -> dict[str, Figures]:
    """Return what each way took for a body; end everything if one of ours is wrong."""
    figures = {label: Figures() for label in WAYS}
    turns = itertools.product(range(-WARM_UPS, rounds), WAYS.items())
    for number, (label, way) in turns:
        figure = figures[label]
        if figure.flaw or not _takes_part(way, name, number):
            continue
        answer, runs = askers[way.is_by_cashews].ask(way.target(name, number))
        if number < 0:
            continue
        figure.first.append(answer.first)
        figure.took.append(answer.took)
        figure.flaw = _flaw(way, answer, runs, BODIES[name])
        if figure.flaw and not way.is_by_cashews:
            sys.exit(f"{label}, {name}: {figure.flaw}")
    return figures


def _print_table(figures: dict[str, Figures]) -> None:
    reference = statistics.median(figures["uncached stream"].took)
    columns = ("first byte", "median ms", "p90 ms", "to uncached", "rounds")
    print(f"  {'':22}" + "".join(f"{column:>12}" for column in columns))
    for label, figure in figures.items():
        if figure.flaw:
            print(f"  {label:22}  {figure.flaw}")
            continue
        count, median = len(figure.took), statistics.median(figure.took)
        first, p90 = statistics.median(figure.first), sorted(figure.took)[count * 9 // 10]
        print(
            f"  {label:22}{first * 1e3:>12.2f}{median * 1e3:>12.2f}{p90 * 1e3:>12.2f}"
            f"{median / reference:>12.2f}{count:>12}"
        )


def _print_text(askers: dict[bool, Asker]) -> None:
    """Say how a hit comes whose Content-Type has a parameter, of which there is no figure."""
    media_type = f"{TEXT}; charset=utf-8"
    print(f"a hit of the small body as {media_type}:")
    for label, path in {"stream_cached": "text-redis", "cashews": "text-cashews-redis"}.items():
        asker = askers["cashews" in path]
        asker.ask(f"/{path}/small")
        answer, runs = asker.ask(f"/{path}/small")
        flaw = flaw_of(answer, BODIES["small"], media_type)
        print(f"  {label + ', Redis':22}{flaw or 'whole'}; the generator ran {runs} times")


def main(share: float = 1.0) -> None:
    """
    Measure, and print a table for each body.

    Args:
        share: Of the rounds.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        servers = {cashews: stack.enter_context(app_server(redis)) for cashews in (False, True)}
        askers = {cashews: Asker(server.port) for cashews, server in servers.items()}
        for name, body in BODIES.items():
            figures = _measure(name, askers, max(3, int(ROUNDS[name] * share)))
            print(f"\n{name}: {body}")
            _print_table(figures)
            redis.flush()
        runs = sum(asker.runs for asker in askers.values())
        print(f"\n{runs:,} runs of generators, each where there had to be one")
        _print_text(askers)
