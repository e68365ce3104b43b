"""What the parts share: the servers, how long to measure, the turns, and what came out."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from benchmarks.contenders import CONTENDERS, Contender, ContenderProcess
from benchmarks.figures import Figure, Series
from tests.support.servers import (
    MemcachedServer,
    RedisServer,
    S3Server,
    ServerMissingError,
    find_memcached,
    find_redis,
)


class WrongError(Exception):
    """A contender answered something else than it should have."""


@dataclass(frozen=True)
class Scale:
    """
    How long to measure.

    Args:
        seconds: For each contender in each case.
        share: Of the rounds of those parts that count rounds, and not seconds.
        kept: Bytes of misses that each contender stores in one case at the most.
        longest: Seconds of one request after which a contender, if it may fail, has failed.
        limit: Seconds of everything after which no further part begins.
        patience: Seconds of a request beyond which it is not repeated to warm up.
    """

    seconds: float
    share: float
    kept: int
    longest: float
    limit: float
    patience: float = 0.25


MIB = 1024 * 1024

SCALES = {
    "tiny": Scale(0.001, 0.01, 1 * MIB, 0.5, 600),
    "default": Scale(0.15, 0.15, 96 * MIB, 1.5, 150),
    "full": Scale(0.8, 1.0, 256 * MIB, 60.0, 1_000),
}


class Bench:
    """A run of the benchmarks; a context manager that ends all servers."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.figures: list[Figure] = []
        self.fresh = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, ContenderProcess] = {}
        self._skipped: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @cached_property
    def redis(self) -> RedisServer:
        """A Redis."""
        return self._stack.enter_context(new_redis())

    @cached_property
    def memcached(self) -> MemcachedServer | None:
        """A memcached of 2 GB, where there is one."""
        try:
            find_memcached()
        except ServerMissingError:
            return None
        return self._stack.enter_context(MemcachedServer("-m", "2048"))

    @cached_property
    def s3(self) -> S3Server | None:
        """moto's S3, where there is moto. All its objects are in its memory."""
        try:
            server = self._stack.enter_context(S3Server())
        except ServerMissingError:
            return None
        server.flush()
        return server

    def say(self, line: str) -> None:
        """Print something that is no figure."""
        print(line, file=sys.stderr, flush=True)

    def rounds(self, count: int, *, least: int = 3) -> int:
        """Return how many rounds to make where a full run makes so many."""
        return max(least, round(count * self.scale.share))

    def servers(self, names: Iterable[str]) -> dict[str, ContenderProcess]:
        """Return the contenders that can take part, each in a process that runs from now on."""
        wanted = [name for name in names if self.can_take_part(CONTENDERS[name])]
        new = [name for name in wanted if name not in self._servers]
        made = [self._process(name) for name in new]
        with ThreadPoolExecutor(2) as pool:
            starting = {server: pool.submit(server.start) for server in made}
        for server, started in starting.items():
            self._stack.callback(server.close)
            if self._has_started(server, started):
                self._servers[server.name] = server
        return {name: self._servers[name] for name in wanted if name in self._servers}

    def _process(self, name: str) -> ContenderProcess:
        s3 = self.s3 if CONTENDERS[name].needs_s3 else None
        return ContenderProcess(name, self.redis, self.memcached, s3)

    def _has_started(self, server: ContenderProcess, started: Future[None]) -> bool:
        try:
            started.result()
        except RuntimeError as exc:
            if not CONTENDERS[server.name].fails:
                raise
            self._skip(server.name, str(exc).rstrip().rpartition("\n")[2])
            return False
        return True

    def _skip(self, name: str, reason: str) -> None:
        if name not in self._skipped:
            self._skipped.add(name)
            self.say(f"without {name}: {reason}")

    def stop_servers(self) -> None:
        """End the contenders, and empty what they have stored in."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self.empty()

    def empty(self) -> None:
        """Empty the Redis and the memcached."""
        self.redis.flush()
        if self.memcached is not None:
            self.memcached.flush()

    def can_take_part(self, contender: Contender) -> bool:
        """Whether it has all that it needs; a line says once what is missing."""
        reason = ""
        if not contender.is_there:
            reason = f"there is no package {contender.package}"
        elif contender.needs_memcached and self.memcached is None:
            reason = "there is no memcached"
        elif contender.needs_s3 and self.s3 is None:
            reason = "there is no moto"
        if reason:
            self._skip(contender.name, reason)
        return not reason and contender.name not in self._skipped


def new_redis() -> RedisServer:
    """Return a Redis that is not started yet."""
    try:
        find_redis()
    except ServerMissingError as exc:
        raise SystemExit(str(exc)) from exc
    return RedisServer()


#: Measures once and returns the values of a round. Raises WrongError.
Turn = Callable[[], Sequence[float]]


def interleave(
    turns: Mapping[str, Turn],
    seconds: float,
    *,
    least: int = 3,
    most: int = 1_000,
    patience: float = 1.0,
) -> dict[str, Series]:
    """
    Let the contenders take turns, round by round, each until its time is used up.

    Each round begins with another one, so that nobody always runs after the same other one.

    Args:
        turns: By name of the contender.
        seconds: Of the turns of each.
        least: Rounds that each makes within `patience`, even if its time is used up before.
        most: Rounds at the most.
        patience: Seconds after which nobody makes another round for that.
    """
    series = {name: Series() for name in turns}
    spent = dict.fromkeys(turns, 0.0)
    patience = max(patience, seconds)
    names = list(turns)
    for number in range(most):
        active = [
            name
            for name in names
            if not series[name].flaw
            and spent[name] < (patience if len(series[name].rounds) < least else seconds)
        ]
        if not active:
            break
        start = number % len(active)
        for name in active[start:] + active[:start]:
            began = time.perf_counter()
            try:
                series[name].add(number, turns[name]())
            except (WrongError, OSError) as exc:
                series[name].flaw = flaw_in(exc)
            spent[name] += time.perf_counter() - began
    return series


def flaw_in(exc: Exception) -> str:
    """Say what was wrong."""
    return "one request took too long" if isinstance(exc, TimeoutError) else str(exc)
