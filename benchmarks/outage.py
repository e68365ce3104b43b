"""What an outage of Redis costs: before it, as it begins, and during it. README.md says how."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.bench import Bench, new_redis
from benchmarks.bodies import WORKS
from benchmarks.client import Answer, Client
from benchmarks.contenders import HIT, ContenderProcess, flaw_of
from benchmarks.figures import Figure, Series, figures_of
from tests.support.gates import wait_until
from tests.support.servers import RedisServer

REPEATS = 2
REQUESTS = 200
CLIENTS = 20

#: What is asked for, over and over; those with a question mark are misses.
MIX = ("W4", *("W1", "W1?") * 3, "W1", "W4?", *("W1?", "W1") * 3, "W1?")

#: How often hits are compared.
ROUNDS = {"W1": 1_000, "W4": 50}

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
        return flaw_of(self.answer, WORKS[self.body])

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
        return self.is_hit and self.body == "W4" and not self.answer.complete


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
                answer = client.get(f"/{name}" + (f"?{number}" if query else ""))
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

    def figures(self) -> Iterator[Figure]:
        """Return its line of the table."""
        answers = [one.answer for one in self.answered]
        took = [answer.took for answer in answers]
        small = [one.answer.took for one in self.answered if one.body == "W1"]
        fallback = sum('detail="fallback"' in (each.cache_status or "") for each in answers)
        seconds = {
            "median": statistics.median(took),
            "slowest W1": max(small),
            "slowest of all": max(took),
            "slowest first byte": max(answer.first for answer in answers),
        }
        numbers = {
            "hits": sum(one.is_hit for one in self.answered),
            "joined": sum(one.has_joined for one in self.answered),
            "runs": self.runs,
            "by the fallback": fallback,
            "broken hits": sum(one.is_broken for one in self.answered),
        }
        if self.used_again:
            seconds["used again after"] = max(self.used_again)
        measure = f"outages of Redis, of {REQUESTS} requests"
        for unit, values in (("s", seconds), ("", numbers)):
            for work, value in values.items():
                yield Figure("outage", measure, self.name, work, unit, value)


def _go_through(outage: Outage) -> None:
    begin, end = OUTAGES[outage.name]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(new_redis())
        server = stack.enter_context(ContenderProcess("ours-redis", redis))
        client = stack.enter_context(Client(server.port))

        for body in ("W1", "W4"):
            client.get(f"/{body}")
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


def _compare_hits(bench: Bench) -> None:
    """Measure a hit from the memory that stands in, beside one from `memory://`."""
    names = {"ours-redis": FALLBACK_HIT, "ours-memory": HIT}
    redis = new_redis()  # it never starts
    with contextlib.ExitStack() as stack:
        clients = {}
        for name in names:
            server = stack.enter_context(ContenderProcess(name, redis))
            clients[name] = stack.enter_context(Client(server.port))
        for work, rounds in ROUNDS.items():
            series = {name: Series() for name in names}
            for number, name in itertools.product(range(-2, bench.rounds(rounds)), names):
                answer = clients[name].get(f"/{work}")
                if number < 0:
                    continue
                series[name].add(number, [answer.took])
                if flaw := flaw_of(answer, WORKS[work]):
                    sys.exit(f"hit, {name}, {work}: {flaw}")
                if answer.cache_status != names[name]:
                    sys.exit(f"hit, {name}, {work}: {answer.cache_status}")
            bench.figures += figures_of(
                series,
                {"ours-redis": "ours-memory"},
                part="outage",
                measure="hit, while Redis is away",
                work=work,
            )


def run(bench: Bench) -> None:
    """Go through the outages."""
    for name in OUTAGES:
        outage = Outage(name)
        for _ in range(bench.rounds(REPEATS, least=1)):
            _go_through(outage)
        bench.figures += outage.figures()
    _compare_hits(bench)
