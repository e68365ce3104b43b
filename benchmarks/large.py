"""A body of 200 MiB: the memory that it takes, and a small request beside it every 10 ms.

README.md says how.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.bench import MIB, Bench, WrongError, flaw_in
from benchmarks.bodies import LARGE
from benchmarks.client import Client, Drained, drain
from benchmarks.contenders import CONTENDERS, Server
from benchmarks.figures import Figure, percentile

#: Those who serve it, and those who do so only in a full run.
NAMES = ("uncached", "ours-memory-1GiB", "ours-redis", "aiocache-redis")
FULL = ("ours-memcached", "cashews-memory", "cashews-redis", "aiocache-memory", "hishel-redis")

#: Seconds from one small request to the next, and how long they are alone.
EVERY, IDLE = 0.01, 0.5

BESIDE = "a small request every 10 ms beside 200 MiB"


def _resident(pid: int, what: str) -> float | None:
    """Return MiB of memory, now (`VmRSS`) or at most (`VmHWM`); None where nothing says so."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if found := re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) * 1024 / MIB
    return None


def _forget_the_peak(pid: int) -> bool:
    """Let the most that was resident be what is resident now; False where that can't be."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        return True
    return False


class Beside:
    """A client that makes a small request every 10 ms, as long as something else goes on."""

    def __init__(self, server: Server) -> None:
        self.took: list[float] = []
        self._client = Client(server.port, room=65_536)

    def go_on_until(self, deadline: float) -> None:
        """Make one request after the other."""
        due = time.perf_counter()
        while due < deadline:
            time.sleep(max(0.0, due - time.perf_counter()))
            # The time it had to wait for its own turn counts: it should have been made then.
            self._client.get("/ping")
            self.took.append(time.perf_counter() - due)
            due = max(due + EVERY, time.perf_counter())

    def beside(self, server: Server, path: str) -> Drained:
        """Make them while somebody reads a body, and return what came of that."""
        self.took = []
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(drain, server.port, path)
            while not reading.done():
                self.go_on_until(time.perf_counter() + EVERY)
            return reading.result()

    def close(self) -> None:
        """Close its connection."""
        self._client.close()


class Large:
    """The body, served by one contender."""

    def __init__(self, bench: Bench, server: Server) -> None:
        self._bench, self._server = bench, server
        self._beside = Beside(server)
        self._runs = self._all_runs()

    def _all_runs(self) -> int:
        with Client(self._server.port, room=65_536) as client:
            return int(client.json("/runs"))

    def measure(self) -> None:
        """Make a miss and a hit; raise WrongError if one of them is none, or other bytes."""
        path = f"/200-MiB?n={next(self._bench.fresh)}"
        with contextlib.closing(self._beside):
            self._beside.go_on_until(time.perf_counter() + IDLE)
            self._add_small("idle")
            for work, runs in (("miss", 1), ("hit", 0)):
                self._once(work, path, runs)

    def _once(self, work: str, path: str, runs: int) -> None:
        pid = self._server.pid
        before = _resident(pid, "VmRSS")
        can_forget = _forget_the_peak(pid)
        drained = self._beside.beside(self._server, path)
        peak = _resident(pid, "VmHWM")
        runs_before, self._runs = self._runs, self._all_runs()
        ran = self._runs - runs_before
        expected = {"uncached": 1, "floor": 0}.get(CONTENDERS[self._server.name].kind, runs)
        if (drained.length, drained.digest) != (LARGE.length, LARGE.digest):
            raise WrongError(f"{work}: {drained.length:,} bytes, and other ones than the stream's")
        if ran != expected:
            raise WrongError(f"{work}: the body was made {ran} times instead of {expected}")
        self._add_small(work)
        self._add("200 MiB, one client", work, "s", drained.took)
        self._add("200 MiB, first byte", work, "s", drained.first)
        if can_forget and before is not None and peak is not None:
            self._add(
                "200 MiB: memory at the most, over what it was before", work, "MiB", peak - before
            )

    def _add_small(self, work: str) -> None:
        took = self._beside.took
        self._add(BESIDE, f"{work}, median", "s", statistics.median(took))
        self._add(BESIDE, f"{work}, p99", "s", percentile(took, 99))
        self._add(BESIDE, f"{work}, slowest", "s", max(took))

    def _add(self, measure: str, work: str, unit: str, value: float) -> None:
        name = self._server.name
        self._bench.figures.append(Figure("large", measure, name, work, unit, value))


def run(bench: Bench) -> None:
    """Measure."""
    measure(bench, NAMES + (FULL if bench.scale.share >= 1 else ()))


def measure(bench: Bench, names: Iterable[str]) -> None:
    """Measure these contenders, one after the other."""
    for name, server in bench.servers(names).items():
        try:
            Large(bench, server).measure()
        except (WrongError, OSError, ValueError) as exc:
            flaw = flaw_in(exc)
            bench.figures.append(
                Figure("large", "200 MiB, one client", name, "miss", "s", flaw=flaw, rounds=0)
            )
        bench.empty()
    # They hold what they have stored.
    bench.stop_servers()
