"""
Run the benchmarks: `make bench`, or `python -m benchmarks`.

One uvicorn (httptools, uvloop) in a process of its own, one Redis, one client that asks for one
thing after the other over one connection. The ways to answer take turns, round by round, so that
whatever else the machine does hits all of them. Of each the median is shown, and its ratio to the
same stream without a cache in the same run: the ratios hold elsewhere, the times do not.

A hit is asked for after a warm-up; a miss has a query of its own each time, and is the whole
request, up to the visible entry. Every answer's length and Cache-Status are checked, and that the
endpoint ran once for each uncached request and each miss.
"""

from __future__ import annotations

import http.client
import itertools
import platform
import statistics
import sys
import time
from importlib.metadata import version

from benchmarks import keys
from benchmarks.app import BODIES
from tests.app_server import AppProcess
from tests.process import HOST
from tests.servers import RedisServer, ServerMissingError

ROUNDS = {"small": 300, "tiny-chunks": 30, "10-MB": 30}

#: Way to answer: path, and what Cache-Status has to say.
WAYS = {
    "prepared Response": ("prepared", None),
    "uncached stream": ("uncached", None),
    "miss, memory": ("memory", "stream-cached; fwd=uri-miss; stored"),
    "hit, memory": ("memory", "stream-cached; hit"),
    "miss, Redis": ("redis", "stream-cached; fwd=uri-miss; stored"),
    "hit, Redis": ("redis", "stream-cached; hit"),
}


def measure(connection: http.client.HTTPConnection, body: str) -> dict[str, list[float]]:
    """Return the seconds that each way took, in each round."""
    size, count = BODIES[body]
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in itertools.count(-3):
        if number == ROUNDS[body]:
            return times
        for way, (path, cache_status) in WAYS.items():
            query = f"?{number}" if way.startswith("miss") else ""
            start = time.perf_counter()
            connection.request("GET", f"/{path}/{body}{query}")
            response = connection.getresponse()
            length = len(response.read())
            took = time.perf_counter() - start
            if number >= 0:
                times[way].append(took)
                if (length, response.headers["cache-status"]) != (size * count, cache_status):
                    sys.exit(f"{way}, {body}: {length} bytes, {response.headers.items()}")
    raise AssertionError


def main() -> None:
    """Measure everything, and print a table for each body."""
    names = ("stream-cached", "aiocache", "starlette", "uvicorn", "uvloop", "redis", "msgpack")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()};")
    print(", ".join(f"{name} {version(name)}" for name in names))
    try:
        redis = RedisServer()
    except ServerMissingError as exc:
        sys.exit(str(exc))
    environment = {"BENCHMARK_REDIS": redis.url(namespace="benchmark")}
    server = AppProcess("benchmarks.app:app", environment, "httptools", loop="uvloop")
    with redis, server:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
        for body, (size, count) in BODIES.items():
            times = measure(connection, body)
            reference = statistics.median(times["uncached stream"])
            print(f"\n{body}: {count:,} chunks of {size:,} bytes, {ROUNDS[body]} rounds")
            print(f"  {'':20}{'median ms':>10}{'p90 ms':>10}{'to uncached':>13}")
            for way, taken in times.items():
                median, p90 = statistics.median(taken), statistics.quantiles(taken, n=10)[-1]
                ratio = median / reference
                print(f"  {way:20}{median * 1e3:>10.2f}{p90 * 1e3:>10.2f}{ratio:>13.2f}")
        connection.request("GET", "/runs")
        expected = sum(3 * (rounds + 3) for rounds in ROUNDS.values()) + 2 * len(BODIES)
        runs = int(connection.getresponse().read())
        print(f"\n{runs:,} runs of the endpoints, {expected:,} expected")
        if runs != expected:
            sys.exit(1)
    keys.main()


if __name__ == "__main__":
    main()
