"""A server under load while its store fails at random: no wrong byte, and nothing that grows."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest

from tests.conftest import Spawn
from tests.support.app_server import AppProcess, EventLoop, HttpParser
from tests.support.fault_proxy import FaultProxy, InThread
from tests.support.faults import FAULTS
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.oracle import Answer, Oracle
from tests.support.runs import HIT
from tests.support.servers import MemcachedServer, RedisServer
from tests.support.wire import MemcachedWire, RedisWire

SECONDS = float(os.environ.get("STREAM_CACHED_LOAD_SECONDS", "20"))
#: Each run has the same faults, so that a change that fails is the one to blame.
SEED = int(os.environ.get("STREAM_CACHED_LOAD_SEED", "1"))

CLIENTS = 6

#: Real seconds within which an answer has to come: a busy machine is no fault of the cache.
PATIENCE = 20.0

MIB = 1 << 20

#: What must not be in a log, whatever fails.
_UNSEEMLY = (
    "never retrieved",
    "was destroyed",
    "never awaited",
    "Exception in callback",
    "Unclosed",
    "unclosed",
)


class Trouble:
    """Lets faults begin and end at random, and knows when there was one."""

    def __init__(self, proxy: InThread, machine: RedisServer | MemcachedServer, kind: str) -> None:
        self.machine = machine
        self.begun: Counter[str] = Counter()
        self._thread = proxy
        self._faults = FAULTS[kind]
        self._random = random.Random(f"{SEED} {kind}")
        self._lock = threading.Lock()
        self._since: float | None = None
        self._last = 0.0

    @property
    def proxy(self) -> FaultProxy:
        return self._thread.proxy

    async def quiet(self) -> None:
        """Wait until the server owes no reply."""
        while self.proxy.owed():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def since(self, moment: float) -> bool:
        """Whether something was wrong at any time since then."""
        with self._lock:
            return self._since is not None or self._last >= moment

    def run(self, end: threading.Event) -> None:
        """Let faults come and go until the end."""
        while not end.wait(self._random.uniform(0.3, 2.0)):
            fault = self._random.choice(self._faults)
            self.begun[fault.name] += 1
            with self._lock:
                self._since = time.monotonic()
            self._thread.call(fault.begin(self))
            end.wait(self._random.uniform(0.1, 2.5))
            self._thread.call(fault.end(self))
            with self._lock:
                self._since, self._last = None, time.monotonic()


class Client:
    """One of several clients: asks for this and that, and sometimes leaves early."""

    def __init__(self, number: int, port: int, oracle: Oracle, trouble: Trouble) -> None:
        self.random = random.Random(f"{SEED} {number}")
        self.port = port
        self.oracle = oracle
        self.trouble = trouble
        self.seen: Counter[str] = Counter()

    def run(self, end: threading.Event) -> None:
        while not end.is_set():
            self.oracle.judge(self.ask(self._path()))

    def _path(self) -> str:
        size = self.random.choice((1000, 1000, 300_000, 300_000, 2_300_000))
        name = self.random.choice(("a", "b", "c", "slow", "at-hand/x", "failing/x"))
        if self.random.random() < 0.2:
            name = f"{name}-{self.random.getrandbits(64):x}"
        return f"/{size}/{name}"

    def ask(self, path: str) -> Answer:
        answer, began = Answer(path), time.monotonic()
        try:
            with RawClient(self.port, timeout=PATIENCE) as client:
                client.send("GET", path)
                client.read_head()
                if self.random.random() < 0.1:
                    client.read_until(self.random.randrange(1, 300_000))
                    answer.left = True
                    client.abort()
                else:
                    client.read_rest()
        except TimeoutError:
            answer.error = f"nothing came for {PATIENCE} s"
        _fill(answer, client.response)
        # A request that joins late reads from the store, too: the chunks that memory does not keep.
        reads_store = answer.is_hit or answer.is_joined
        failed = reads_store and not answer.of_fallback and self.trouble.since(began)
        answer.may_break = answer.error is None and (failed or "/failing" in path)
        answer.error = answer.error or client.response.error
        self.seen[answer.cache_status] += 1
        return answer


def _fill(answer: Answer, response: RawResponse) -> None:
    answer.status, answer.body = response.status, response.body
    answer.complete = response.complete and not answer.left
    answer.cache_status = response.header("Cache-Status") or ""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What the server's process held at one time."""

    resident: int
    tasks: int
    files: int
    available: bool

    @classmethod
    def take(cls, port: int) -> Sample:
        """Ask the process."""
        return cls(**json.loads(fetch(port, "/stats", timeout=PATIENCE).body))


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "loop", "http"), [("redis", "uvloop", "httptools"), ("memcached", "asyncio", "h11")]
)
def test_load_while_the_store_fails_at_random(
    request: pytest.FixtureRequest,
    spawn: Spawn,
    namespace: str,
    kind: str,
    loop: EventLoop,
    http: HttpParser,
) -> None:
    sys.stdout.write(f"STREAM_CACHED_LOAD_SEED={SEED}\n")
    request.getfixturevalue(f"{kind}_url")
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"{kind}_server")
    wire = RedisWire() if kind == "redis" else MemcachedWire()
    path = "/0" if kind == "redis" else ""
    with InThread(FaultProxy(wire, server.port)) as proxy:
        cache = f"{kind}://127.0.0.1:{proxy.proxy.port}{path}?namespace={namespace}"
        process = spawn("tests.support.load_app:app", {"CACHE": cache}, http, loop=loop)
        trouble = Trouble(proxy, server, kind)
        # Where all connections are taken, that is no outage, and memory does not stand in.
        oracle = Oracle(may_bypass=True)
        clients = [Client(n, process.port, oracle, trouble) for n in range(CLIENTS)]
        idle = Sample.take(process.port)
        samples = list(_under_load(process, clients, trouble))
        seen = sum((client.seen for client in clients), Counter[str]())
        sys.stdout.write(f"{oracle.judged} answers, {seen}, {trouble.begun}, {samples[-1]}\n")
        said = [line for line in process.output().splitlines() if " stream_cached " in line]
        assert not oracle.objections, "\n".join(oracle.objections[:10] + said)
        _check_growth(samples)
        _check_end(process, idle)
    assert seen[HIT] > 20
    assert seen[f'{HIT}; detail="fallback"'] > 20


def _under_load(process: AppProcess, clients: list[Client], trouble: Trouble) -> Iterator[Sample]:
    """Let clients ask and faults come for half of the time; look at the process meanwhile."""
    end = threading.Event()
    busy: list[Client | Trouble] = [*clients, trouble]
    with ThreadPoolExecutor(len(busy)) as pool:
        futures = [pool.submit(each.run, end) for each in busy]
        deadline = time.monotonic() + SECONDS / 2
        try:
            while time.monotonic() < deadline and not any(each.done() for each in futures):
                yield Sample.take(process.port)
                end.wait(0.25)
        finally:
            end.set()
    for each in futures:
        each.result()


def _check_growth(samples: list[Sample]) -> None:
    """See that the process takes no more in the last quarter of the time than in the third."""
    half = samples[len(samples) // 2 :]
    earlier, later = half[: len(half) // 2], half[len(half) // 2 :]
    grown = median(s.resident for s in later) - median(s.resident for s in earlier)
    # What is under way differs by more than that; a leak of bodies would be hundreds of megabytes.
    assert grown < 40 * MIB, [sample.resident // MIB for sample in samples]
    assert max(s.files for s in later) <= max(s.files for s in samples[: len(samples) // 2]) + 16


def _check_end(process: AppProcess, idle: Sample) -> None:
    """See that nothing goes on, that the store is used again, and what the log says."""

    def is_at_rest() -> bool:
        sample = Sample.take(process.port)
        return sample.available and sample.tasks <= idle.tasks

    wait_until(is_at_rest, 60)
    answers = [fetch(process.port, "/300000/after") for _ in range(2)]
    assert answers[1].header("Cache-Status") == HIT
    assert answers[0].body == answers[1].body

    log = process.output()
    # An outage that somebody has to end is told of in other words.
    begun = log.count(" is away ") + log.count(" can't be used (")
    assert begun == log.count(" is back ") > 0
    found = [log[at : at + 1500] for text in _UNSEEMLY if (at := log.find(text)) >= 0]
    assert not found, "\n".join(found)
