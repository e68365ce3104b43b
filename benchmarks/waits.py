"""How long clients, servers and shutdowns wait, with and without the decorator. See README.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.waits_app import FAILS_AFTER, FIRST_TOKEN_AFTER
from tests.support.app_server import AppProcess
from tests.support.http_client import RawClient, fetch

APP = "benchmarks.waits_app:app"

#: uvicorn waits for its calls without a bound.
NO_BOUND = ("--timeout-graceful-shutdown", "600")

#: Seconds for what happens after a client has left.
SETTLED = 0.3


def _exits(way: str, name: str, *, options: tuple[str, ...] = NO_BOUND, stays: int = 0) -> float:
    """Return the seconds from SIGTERM to the exit, after one client of a stream has left."""
    with AppProcess(APP, options=options) as server, ExitStack() as stack:
        others = [stack.enter_context(RawClient(server.port)) for _ in range(stays)]
        if name:
            with RawClient(server.port) as leaving:
                for client in (leaving, *others):
                    client.send(target=f"/{way}/{name}")
                    client.read_head()
                    client.read_until(1)
                leaving.abort()
            time.sleep(SETTLED)
        began = time.monotonic()
        server.stop(timeout=60)
        return time.monotonic() - began


def _ask(port: int, target: str) -> float:
    """Return the seconds until a client has its whole answer."""
    began = time.monotonic()
    fetch(port, target, timeout=60)
    return time.monotonic() - began


def _slowest(way: str, target: str, clients: int, options: tuple[str, ...] = NO_BOUND) -> float:
    """Return the seconds of the slowest of some clients that ask at once."""
    with AppProcess(APP, options=options) as server, ThreadPoolExecutor(clients) as pool:
        fetch(server.port, "/openapi.json")
        return max(pool.map(lambda _: _ask(server.port, f"/{way}/{target}"), range(clients)))


def _served_again(way: str) -> float:
    """Return the seconds until a request is served after five clients have left five streams."""
    options = (*NO_BOUND, "--limit-concurrency", "6")
    with AppProcess(APP, options=options) as server, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(5)]
        for number, client in enumerate(clients):
            client.send(target=f"/{way}/events?n={number}")
            client.read_head()
            client.read_until(1)
        for client in clients:
            client.abort()
        began = time.monotonic()
        while fetch(server.port, f"/{way}/fails").status == 503:
            if time.monotonic() - began > 60:
                break
            time.sleep(0.05)
        return time.monotonic() - began - FAILS_AFTER


WAITS: dict[str, Callable[[str], float]] = {
    "SIGTERM to exit, idle": lambda way: _exits(way, ""),
    "SIGTERM to exit, a client has left": lambda way: _exits(way, "events"),
    "the same, with a yield dependency": lambda way: _exits(way, "held"),
    "the same, --timeout-graceful-shutdown 3": lambda way: _exits(
        way, "held", options=("--timeout-graceful-shutdown", "3")
    ),
    "SIGTERM to exit, two clients read, shutdown 3": lambda way: _exits(
        way, "events", options=("--timeout-graceful-shutdown", "3"), stays=2
    ),
    "a middleware's 504 (after 0.5 s), to its end": lambda way: _slowest(way, "silent?limited", 1),
    "20 clients of what fails after 0.4 s, the slowest": lambda way: _slowest(way, "fails", 20),
    f"12 clients of a first token after {FIRST_TOKEN_AFTER:.0f} s, the slowest": lambda way: (
        _slowest(way, "tokens", 12)
    ),
    "five abandoned streams, --limit-concurrency 6: served after": _served_again,
}


def run(bench: Bench) -> None:
    """Measure."""
    for label, measure in WAITS.items():
        plain, cached = measure("plain"), measure("cached")
        for work, seconds in (("without", plain), ("with the decorator", cached)):
            bench.figures.append(Figure("waits", "who waits, seconds", label, work, "s", seconds))
