"""
What an outage of Redis costs: requests that are made before it, as it begins, and during it.

Clients in threads ask all the time, each for one thing after the other: small bodies and large
ones, half of them stored before (hits, as long as Redis is there) and half of them asked for once
(misses). After a quarter of the requests Redis goes away under them; once all are answered it comes
back, and what is shown last is how much later it is used again, by the server's own clock. Each
outage has a server and a Redis of its own, and is gone through several times: what is slowest is
the slowest of all of them, and so is what is shown last.

These are wall times under load: as many clients as this keep all cores busy, and that shows in
every line, also in the healthy one. Once all are answered, every body is compared, byte for byte. A
hit whose store goes away while it is read, or from whose memory the rest of it is thrown out, is
broken visibly, and counted as broken. A body that ends cleanly and is wrong or short ends the
benchmarks. So does a number of runs of the generators that is not what Cache-Status says.

The second table is a hit from the memory that stands in, beside one from `memory://`.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.bodies import BODIES, MEDIA_TYPE
from benchmarks.client import Answer, Client
from benchmarks.servers import app_server, redis_server
from benchmarks.streams import HIT, flaw_of
from tests.support.gates import wait_until
from tests.support.servers import RedisServer

REPEATS = 3
REQUESTS = 200
CLIENTS = 20

#: Seconds that no request should take: a time-out of 0.5 s before the first byte, one at the end
#: of the body, and some work.
BOUND = 1.2

#: What is asked for, over and over; those with a question mark are misses.
MIX = ("10-MB", *("small", "small?") * 3, "small", "10-MB?", *("small?", "small") * 3, "small?")

#: How often hits are compared.
ROUNDS = {"small": 1_000, "10-MB": 50}

FALLBACK_HIT = f'{HIT}; detail="fallback"'

#: Seconds between two pings at the most, and a little.
LONGEST_ABSENCE = 35.0


def _nothing(redis: RedisServer) -> None:
    pass


def _kill_and_start(redis: RedisServer) -> None:
    redis.kill()
    redis.start()


def _fill(redis: RedisServer) -> None:
    redis.execute("CONFIG", "SET", "maxmemory", "1")


def _make_room(redis: RedisServer) -> None:
    redis.execute("CONFIG", "SET", "maxmemory", "0")


Change = Callable[[RedisServer], object]

#: How each begins, and how it ends.
OUTAGES: dict[str, tuple[Change, Change]] = {
    "healthy": (_nothing, _nothing),
    "stopped: refuses": (RedisServer.stop, RedisServer.start),
    "paused: hangs": (RedisServer.pause, RedisServer.resume),
    "killed, started": (_kill_and_start, _nothing),
    "full: takes nothing": (_fill, _make_room),
}


@dataclass(frozen=True)
class Answered:
    """A request for a body, and its answer."""

    body: str
    answer: Answer

    @property
    def flaw(self) -> str:
        """What is wrong with it."""
        return flaw_of(self.answer, BODIES[self.body], MEDIA_TYPE)

    @property
    def is_hit(self) -> bool:
        """Whether it came from a cache."""
        return (self.answer.cache_status or "").startswith(HIT)

    @property
    def has_joined(self) -> bool:
        """Whether it came from the run of another request."""
        return "; collapsed" in (self.answer.cache_status or "")

    @property
    def is_broken(self) -> bool:
        """Whether it is a hit of several segments whose connection broke visibly."""
        return self.is_hit and self.body == "10-MB" and not self.answer.complete


class Load:
    """Clients that share out requests among themselves."""

    def __init__(self, port: int) -> None:
        self.answered: list[Answered] = []
        self._port = port
        self._numbers: Iterator[int] = iter(range(REQUESTS))

    def run(self, begin: Callable[[], object]) -> tuple[float, float]:
        """Make all requests; return from when to when, after a quarter of them, `begin` took."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._ask) for _ in range(CLIENTS)]
            wait_until(lambda: len(self.answered) >= REQUESTS // 4, timeout=60)
            started = time.monotonic()
            begin()
            ended = time.monotonic()
            for client in clients:
                client.result()
        return started, ended

    def _ask(self) -> None:
        with Client(self._port) as client:
            for number in self._numbers:
                name, query, _ = MIX[number % len(MIX)].partition("?")
                answer = client.get(f"/redis/{name}" + (f"?{number}" if query else ""))
                self.answered.append(Answered(name, answer))
                if not answer.complete:
                    client.reconnect()


@dataclass
class Outage:
    """An outage: its requests, and what else was seen each time."""

    name: str
    answered: list[Answered] = field(default_factory=list)
    runs: int = 0
    used_again: list[float] = field(default_factory=list)
    """Seconds from when Redis was back until it was used; none where that never ended."""

    def add(self, answered: list[Answered], runs: int) -> None:
        """Add requests; end everything if a body is wrong, or one is short and looks whole."""
        for one in answered:
            if not one.is_broken and one.flaw:
                sys.exit(f"{self.name}: {one.body}: {one.flaw}; {one.answer.cache_status}")
            one.answer.payload = b""  # hundreds of megabytes, all in all
        expected = sum(not one.is_hit and not one.has_joined for one in answered)
        if runs != expected:
            sys.exit(f"{self.name}: {runs} generators ran, and not {expected}")
        self.answered += answered
        self.runs += runs

    def cells(self) -> Sequence[object]:
        """Return its line of the table."""
        answers = [one.answer for one in self.answered]
        took = [answer.took for answer in answers]
        small = [one.answer.took for one in self.answered if one.body == "small"]
        first = [answer.first for answer in answers]
        times = statistics.median(took), max(small), max(took), max(first)
        return (
            self.name,
            *(f"{seconds * 1e3:.0f}" for seconds in times),
            sum(one.is_hit for one in self.answered),
            sum(one.has_joined for one in self.answered),
            self.runs,
            sum('detail="fallback"' in (answer.cache_status or "") for answer in answers),
            sum(one.is_broken for one in self.answered),
            f"{max(self.used_again):.2f} s" if self.used_again else "-",
        )


def _go_through(outage: Outage) -> None:
    begin, end = OUTAGES[outage.name]
    with redis_server() as redis, app_server(redis) as server, Client(server.port) as client:
        for body in ("small", "10-MB"):
            client.get(f"/redis/{body}")
        before, load = client.json("/runs"), Load(server.port)
        gone = load.run(lambda: begin(redis))
        outage.add(load.answered, client.json("/runs") - before)
        end(redis)
        back = time.monotonic() if end is not _nothing else gone[1]
        used_again = _used_again(client, gone[0], back)
        if used_again is not None:
            outage.used_again.append(used_again)


def _used_again(client: Client, gone: float, back: float) -> float | None:
    """Return how many seconds after it was back Redis was used again."""
    deadline = time.monotonic() + LONGEST_ABSENCE
    while time.monotonic() < deadline:
        ((available, seconds),) = client.json("/health")
        since = time.monotonic() - seconds
        if available:
            return None if since < gone else max(0.0, since - back)
        time.sleep(0.02)
    sys.exit("Redis is back, and is not used again")


def _compare_hits(share: float) -> None:
    """Print what a hit from the memory that stands in takes, beside one from `memory://`."""
    print(f"\n  {'hits while Redis is away':24}{'fallback ms':>13}{'memory:// ms':>14}{'ratio':>8}")
    redis = redis_server()
    with app_server(redis) as server, Client(server.port) as client:
        for name, rounds in ROUNDS.items():
            took = _hits(client, name, max(3, int(rounds * share)))
            fallback, memory = (statistics.median(times) * 1e3 for times in took)
            print(f"  {name:24}{fallback:>13.2f}{memory:>14.2f}{fallback / memory:>8.2f}")


def _hits(client: Client, name: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of hits from the memory that stands in, and from `memory://`."""
    ways = {"redis": FALLBACK_HIT, "memory": HIT}
    took: dict[str, list[float]] = {path: [] for path in ways}
    for number, (path, cache_status) in itertools.product(range(-2, rounds), ways.items()):
        answer = client.get(f"/{path}/{name}")
        if number < 0:
            continue
        took[path].append(answer.took)
        flaw = flaw_of(answer, BODIES[name], MEDIA_TYPE)
        if flaw or answer.cache_status != cache_status:
            sys.exit(f"hit, {path}, {name}: {flaw or answer.cache_status}")
    return took["redis"], took["memory"]


#: Two lines of head, and the width.
_COLUMNS = (
    (f"of {REQUESTS} requests,", "times in ms", -20),
    ("", "median", 8),
    ("slowest", "small", 9),
    ("slowest", "of all", 9),
    ("slowest", "first byte", 12),
    ("", "hits", 6),
    ("", "joined", 8),
    ("", "runs", 6),
    ("by the", "fallback", 10),
    ("broken", "hits", 8),
    ("used", "again", 10),
)


def _print_line(cells: Sequence[object]) -> None:
    """Print a line of the table of outages, its first cell on the left."""
    aligned = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, (*_, width) in zip(cells, _COLUMNS, strict=True)
    ]
    print("  " + "".join(aligned))


def main(share: float = 1.0) -> None:
    """
    Go through the outages, and print a table.

    Args:
        share: Of the rounds in which hits are compared; and of the repeats.
    """
    repeats = max(1, round(REPEATS * share))
    print(f"\noutages, {repeats} of each, with {CLIENTS} clients at once")
    _print_line([upper for upper, *_ in _COLUMNS])
    _print_line([lower for _, lower, _ in _COLUMNS])
    slowest = 0.0
    for name in OUTAGES:
        outage = Outage(name)
        for _ in range(repeats):
            _go_through(outage)
        _print_line(outage.cells())
        slowest = max(slowest, *(one.answer.took for one in outage.answered))
    verdict = "too long" if slowest > BOUND else "good"
    print(f"  the slowest request of all took {slowest:.2f} s ({verdict}: {BOUND} s at the most)")
    _compare_hits(share)
