"""
How often a request goes to Redis: round trips, and commands.

A round trip is what the client library (redis-py, for stream_cached and for cashews) sends at once
and then awaits the replies of: one command, or a pipeline of them. It is counted in the server's
process. Several may be under way at the same time, so that they are not all waited for one after
the other. The commands are those that Redis itself has counted (`INFO commandstats`).

Of each kind several requests are made, one after the other, and the median of each count is shown:
how many segments of a miss go into one pipeline depends on how fast they are made. (cashews makes
one round trip for each chunk, and is asked once where those are very many.) A warm-up precedes, so
that what opens a connection is not counted. It is a pass of its own, so that counting costs no
measured time.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass

from benchmarks.bodies import BODIES, MEDIA_TYPE
from benchmarks.client import Client
from benchmarks.servers import app_server, redis_server
from benchmarks.streams import flaw_of
from tests.support.servers import RedisServer

REQUESTS = 5

PATHS = {"stream_cached": "redis", "cashews": "cashews-redis"}

#: Of a new connection, or of the counting itself. (A PING is a round trip like any other.)
_NOT_COUNTED = {"auth", "client", "hello", "info", "select"}

#: Seconds in which what a request has left to be done is done.
_SETTLED = 0.05


@dataclass
class Counts:
    """What one request came to."""

    batches: int
    commands: Counter[str]
    runs: int
    flaw: str


class Counters:
    """All that is counted, as it stands."""

    def __init__(self, client: Client, redis: RedisServer) -> None:
        self._client, self._redis = client, redis

    def of(self, name: str, target: str) -> Counts:
        """Ask for a body, and return what that came to."""
        runs, batches, commands = self._read()
        answer = self._client.get(target)
        if not answer.complete:
            self._client.reconnect()
        time.sleep(_SETTLED)
        runs_after, batches_after, commands_after = self._read()
        flaw = flaw_of(answer, BODIES[name], MEDIA_TYPE)
        return Counts(batches_after - batches, commands_after - commands, runs_after - runs, flaw)

    def _read(self) -> tuple[int, int, Counter[str]]:
        stats = (self._redis.execute("INFO", "commandstats") or b"").decode()
        calls = re.findall(r"^cmdstat_(\w+).*?:calls=(\d+)", stats, re.MULTILINE)
        commands = Counter({name: int(n) for name, n in calls if name not in _NOT_COUNTED})
        return self._client.json("/runs"), self._client.json("/batches"), commands


def _print_row(label: str, counts: list[Counts], runs: int) -> None:
    for count in counts:
        if count.flaw or count.runs != runs:
            print(f"  {label}{count.flaw or f'the generator ran {count.runs} times'}")
            if "cashews" not in label:
                sys.exit(1)
            return
    batches = statistics.median_low([count.batches for count in counts])
    commands = next(count.commands for count in counts if count.batches == batches)
    each = ", ".join(f"{name} {number:,}" for name, number in sorted(commands.items()))
    print(f"  {label}{batches:>12,}{commands.total():>10,}{runs:>6}   {each}")


def main() -> None:
    """Count, and print a table."""
    print(f"\n  {'':38}{'round trips':>12}{'commands':>10}{'runs':>6}   of which")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        server = stack.enter_context(app_server(redis, "benchmarks.counted:app"))
        counters = Counters(stack.enter_context(Client(server.port)), redis)
        for name, (library, path) in itertools.product(BODIES, PATHS.items()):
            slow = library == "cashews" and BODIES[name].count > 1_000
            requests = range(1 if slow else REQUESTS)
            for _ in range(2):
                counters.of("small", f"/{path}/small?warm-up")
            misses = [counters.of(name, f"/{path}/{name}?{number}") for number in requests]
            hits = [counters.of(name, f"/{path}/{name}?0") for _ in requests]
            _print_row(f"{name + ',':13}{'miss':6}{library:19}", misses, 1)
            _print_row(f"{name + ',':13}{'hit':6}{library:19}", hits, 0)
