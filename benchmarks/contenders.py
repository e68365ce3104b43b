"""Who is measured: each contender is a name, a command that starts it in a process, and a URL."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Protocol

from benchmarks.bodies import MEDIA_TYPE, Expected
from benchmarks.client import Answer
from tests.support.app_server import AppProcess
from tests.support.process import HOST
from tests.support.servers import MemcachedServer, RedisServer, S3Server

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"
JOINED = "stream-cached; fwd=uri-miss; collapsed"

#: What the reference of the misses, and the reference of a hit where there is no other, is called.
UNCACHED, PREPARED, CONTROL, RAW = "uncached", "prepared", "control", "raw-bytes"

#: The floor of bodies that are kept elsewhere than their records.
FILE = "file-response"


@dataclass(frozen=True)
class Contender:
    """
    One way to answer.

    Args:
        name: How tables call it, and which application it is.
        floor: The name of what its hits are compared with.
        package: The module that it needs, where it is not this library's own dependency.
        kind: "floor" if it never runs an endpoint, "uncached" if it always does, else "cache".
        fails: Whether it may answer wrongly. That of all others fails the benchmarks.
    """

    name: str
    floor: str = PREPARED
    package: str = ""
    kind: str = "cache"
    fails: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is this library."""
        return "ours" in self.name or "route" in self.name

    @property
    def needs_memcached(self) -> bool:
        """Whether it can't do without a memcached."""
        return "memcached" in self.name

    @property
    def needs_s3(self) -> bool:
        """Whether it can't do without an S3."""
        return "s3" in self.name

    @property
    def is_there(self) -> bool:
        """Whether its package is installed."""
        return not self.package or importlib.util.find_spec(self.package) is not None


def _others(name: str, package: str, **floors: str) -> list[Contender]:
    return [
        Contender(f"{name}-{store}", floor, package, fails=True) for store, floor in floors.items()
    ]


_ALL = [
    Contender(RAW, kind="floor"),
    Contender(PREPARED, kind="floor"),
    Contender(CONTROL, kind="floor"),
    Contender("same-fields", kind="floor"),
    Contender("redis-get", kind="floor"),
    Contender("memcached-get", kind="floor", package="aiomcache"),
    Contender(UNCACHED, kind="uncached"),
    Contender("ours-memory"),
    Contender("ours-redis", "redis-get"),
    Contender("ours-memcached", "memcached-get", "aiomcache"),
    *_others("cashews", "cashews", memory=PREPARED, redis="redis-get"),
    *_others("aiocache", "aiocache", memory=PREPARED, redis="redis-get"),
    *_others("fastapi-cache2", "fastapi_cache", memory=PREPARED, redis="redis-get"),
    *_others("hishel", "hishel", sqlite=PREPARED, redis="redis-get"),
    Contender("ours-memory-1GiB"),
    Contender(FILE, kind="floor"),
    Contender("ours-file", FILE),
    Contender("ours-s3", FILE, "obstore"),
    Contender("fastapi-uncached", kind="uncached"),
    Contender("fastapi-ours-memory"),
    Contender("fastapi-ours-redis", "redis-get"),
    Contender("fastapi-route-memory"),
    Contender("fastapi-route-redis", "redis-get"),
]

CONTENDERS = {contender.name: contender for contender in _ALL}

#: Those that serve no bodies of `bodies.py`, or too large ones.
_SPECIAL = (
    *("ours-memory-1GiB", "fastapi-uncached", "fastapi-ours", "fastapi-route"),
    *(FILE, "ours-file", "ours-s3"),
)

#: Those that serve W1 to W4.
GENERAL = tuple(name for name in CONTENDERS if not name.startswith(_SPECIAL))


class Server(Protocol):
    """What a contender is while it runs."""

    @property
    def name(self) -> str:
        """How tables call it."""

    @property
    def port(self) -> int:
        """Its port on the loopback."""

    @property
    def pid(self) -> int:
        """Its process."""

    def command(self) -> list[str]:
        """What starts it."""


def environment_of(redis: RedisServer, memcached: MemcachedServer | None) -> dict[str, str]:
    """Return the variables that say where the servers are."""
    environment = {"BENCHMARK_REDIS": redis.url()}
    if memcached is not None:
        environment["BENCHMARK_MEMCACHED"] = f"{HOST}:{memcached.port}"
    return environment


class ContenderProcess(AppProcess):
    """uvicorn as it is deployed (httptools, uvloop), over the application of a contender."""

    def __init__(
        self,
        name: str,
        redis: RedisServer,
        memcached: MemcachedServer | None = None,
        s3: S3Server | None = None,
        *,
        workers: int = 1,
        counts: bool = False,
        app: str = "benchmarks.apps:app",
    ) -> None:
        environment = {"BENCHMARK_CONTENDER": name, **environment_of(redis, memcached)}
        if s3 is not None:
            environment["BENCHMARK_S3"] = s3.url()
        if counts:
            environment["BENCHMARK_COUNTS"] = "1"
        # A connection is idle while another server is asked, sometimes for minutes.
        options = ("--factory", "--timeout-keep-alive", "1200", "--workers", str(workers))
        super().__init__(app, environment, "httptools", loop="uvloop", options=options)
        self.name = name
        self.environment["BENCHMARK_DIRECTORY"] = str(self.directory)

    def command(self) -> list[str]:
        if self.name == RAW:
            return [sys.executable, "-m", "benchmarks.raw_bytes", str(self.port)]
        return super().command()


def flaw_of(answer: Answer, body: Expected, media_type: str = MEDIA_TYPE) -> str:
    """Say what is wrong with an answer."""
    if not answer.status:
        return "no answer: the connection was closed"
    came = answer.body
    if not answer.complete:
        return f"the connection ended after {len(came):,} bytes of the body"
    if answer.status != 200:
        return f"status {answer.status}"
    if len(came) != body.length:
        return f"{len(came):,} bytes instead of {body.length:,}"
    if came != body.whole:
        return "other bytes than the stream's"
    if not any(line.startswith(f"content-type: {media_type}") for line in answer.headers):
        return "another Content-Type than the stream's"
    return ""
