"""How often a request goes to Redis, and how much is stored there. README.md says how."""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass

from redis import Redis

from benchmarks.bench import Bench, WrongError, flaw_in
from benchmarks.bodies import WORKS, Body
from benchmarks.contenders import CONTENDERS, ContenderProcess
from benchmarks.figures import Figure
from benchmarks.hits import Asker
from tests.support.servers import RedisServer

REQUESTS = 3

NAMES = ("ours-redis", "aiocache-redis", "fastapi-cache2-redis", "hishel-redis", "cashews-redis")

#: Of a new connection, or of the counting itself. (A PING is a round trip like any other.)
_NOT_COUNTED = {"auth", "client", "hello", "info", "select"}

#: Seconds in which what a request has left to be done is done.
_SETTLED = 0.03


@dataclass(frozen=True)
class Counts:
    """What one request came to."""

    batches: int
    commands: Counter[str]


class Counted:
    """A contender that is asked for one body, and all that is counted of that."""

    def __init__(self, asker: Asker, redis: RedisServer) -> None:
        self._asker, self._redis = asker, redis

    def miss(self, number: int) -> Counts:
        """Ask for what is not stored yet."""
        return self._counted(number, is_miss=True)

    def hit(self, number: int) -> Counts:
        """Ask for what a miss has stored."""
        return self._counted(number, is_miss=False)

    def _counted(self, number: int, *, is_miss: bool) -> Counts:
        batches, commands = self._read()
        if is_miss:
            self._asker.miss([number])
        else:
            self._asker.hit(number)
        time.sleep(_SETTLED)
        batches_after, commands_after = self._read()
        return Counts(batches_after - batches, commands_after - commands)

    def _read(self) -> tuple[int, Counter[str]]:
        stats = (self._redis.execute("INFO", "commandstats") or b"").decode()
        calls = re.findall(r"^cmdstat_(\w+).*?:calls=(\d+)", stats, re.MULTILINE)
        commands = Counter({name: int(n) for name, n in calls if name not in _NOT_COUNTED})
        return self._asker.client.json("/batches"), commands


def _stored(redis: RedisServer) -> int:
    """Return the memory that Redis has for all keys."""
    with contextlib.closing(Redis(port=redis.port)) as client:
        pipeline = client.pipeline(transaction=False)
        for key in client.scan_iter(count=10_000):
            pipeline.memory_usage(key, samples=0)
        return sum(size or 0 for size in pipeline.execute())


class Row:
    """A contender at one body."""

    def __init__(self, bench: Bench, name: str, work: str) -> None:
        self._bench, self._name, self._work = bench, name, work

    def add(self, measure: str, unit: str, value: float) -> None:
        """Add a figure."""
        figure = Figure("round-trips", measure, self._name, self._work, unit, value)
        self._bench.figures.append(figure)

    def add_counts(self, kind: str, counts: list[Counts]) -> None:
        """Add the medians of what several requests came to."""
        batches = statistics.median_low([count.batches for count in counts])
        commands = next(count.commands for count in counts if count.batches == batches)
        self.add(f"Redis: round trips of a {kind}", "", batches)
        self.add(f"Redis: commands of a {kind}", "", commands.total())

    def measure(self, counted: Counted, redis: RedisServer, body: Body) -> None:
        """Count."""
        requests = 1 if body.count > 1_000 and "ours" not in self._name else REQUESTS
        numbers = list(itertools.islice(self._bench.fresh, requests + 1))
        counted.miss(numbers[0])
        counted.hit(numbers[0])
        self.add_counts("miss", [counted.miss(number) for number in numbers[1:]])
        self.add_counts("hit", [counted.hit(numbers[1]) for _ in range(requests)])
        redis.flush()
        counted.miss(next(self._bench.fresh))
        self.add("Redis: memory of an entry / body", "x", _stored(redis) / body.length)


def run(bench: Bench) -> None:
    """Count, in processes of their own: what counts takes time."""
    for name in NAMES:
        if not CONTENDERS[name].is_there:
            continue
        bench.redis.flush()
        with ContenderProcess(name, bench.redis, counts=True) as server:
            for work, body in WORKS.items():
                asker = Asker(server, body, work, longest=bench.scale.longest)
                try:
                    Row(bench, name, work).measure(Counted(asker, bench.redis), bench.redis, body)
                except (WrongError, OSError) as exc:
                    measure, flaw = "Redis: round trips of a miss", flaw_in(exc)
                    bench.figures.append(
                        Figure("round-trips", measure, name, work, "", rounds=0, flaw=flaw)
                    )
                asker.client.close()
