"""Fixtures: real servers, and an address of a cache for each kind of them.

A test that needs a server which is not there is skipped; with
STREAM_CACHED_REQUIRE_SERVERS=1 it fails.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import pytest

from stream_cached.endpoint.identity import Identity
from stream_cached.entries.body import Body
from stream_cached.request import key_parts
from stream_cached.request.application import Applications
from tests.support import memory, selection
from tests.support.app_server import AppProcess, AppServer, EventLoop, HttpParser
from tests.support.clock import Clock, moved_clock
from tests.support.servers import MemcachedServer, RedisServer, S3Server, ServerMissingError

pytest_plugins = ["stream_cached.testing"]

S = TypeVar("S", RedisServer, MemcachedServer, S3Server)

_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(memory.Reports(config))
    selection.load_profile(config)
    memory.keep_together()
    # Else pytest shares one directory with all other runs on this machine, and tidies it up.
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        directory = tempfile.mkdtemp(prefix="stream-cached-tests-")
        config.option.basetemp = os.path.join(directory, "tests")
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    made = yield
    if isinstance(made, list):
        # All combinations of one test.
        selection.thin_out(made)
        if hasattr(collector.config, "workerinput"):
            # Each process would keep them, only to leave them out.
            return [item for item in made if not selection.leaves_out(collector.config, item)]
    return made


def pytest_collection_finish() -> None:
    memory.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.passed:
        # All this would be kept to the end of the run: what it has logged, and its names.
        report.sections.clear()
        report.keywords = {}
    return report


class Serve(Protocol):
    def __call__(
        self,
        app: Callable[..., Any],
        http: HttpParser = "h11",
        port: int = 0,
        *,
        loop: EventLoop = "asyncio",
        grace: int = 1,
        **config: Any,
    ) -> AppServer: ...


class Spawn(Protocol):
    def __call__(
        self,
        app: str,
        environment: Mapping[str, str] | None = None,
        http: HttpParser = "h11",
        *,
        loop: EventLoop = "asyncio",
        options: tuple[str, ...] = (),
    ) -> AppProcess: ...


def server_or_skip(kind: type[S]) -> S:
    try:
        return kind()
    except ServerMissingError as missing:
        reason = str(missing)
    if os.environ.get("STREAM_CACHED_REQUIRE_SERVERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _fresh(server: S) -> S:
    """Running and empty, whatever the test before has done to it."""
    if server.running:
        server.resume()
    server.start()
    server.flush()
    return server


@pytest.fixture(scope="module", autouse=True)
def _no_garbage() -> Iterator[None]:
    yield
    memory.give_back()


@pytest.fixture(autouse=True)
def _no_caches() -> Iterator[None]:
    with memory.forgetting_caches():
        yield
    memory.give_back_if_grown()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for all tests. It may be paused or stopped: the next test gets it back."""
    with server_or_skip(RedisServer) as server:
        yield server


@pytest.fixture(scope="module")
def memcached_server() -> Iterator[MemcachedServer]:
    """One memcached for the tests of a module: it gives back no memory while it runs."""
    with server_or_skip(MemcachedServer) as server:
        yield server


@pytest.fixture
def segments_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indexes of the segments that were read."""
    indexes: list[int] = []
    real = Body.read

    async def counted(self: Body, some: range, seals: Any = None) -> Any:
        indexes.extend(some)
        return await real(self, some, seals)

    monkeypatch.setattr(Body, "read", counted)
    return indexes


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone."""
    with server_or_skip(RedisServer) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """`redis://127.0.0.1:<port>/0` of a Redis that is empty."""
    return _fresh(redis_server).url()


@pytest.fixture
def memcached_url(memcached_server: MemcachedServer) -> str:
    """`memcached://127.0.0.1:<port>/` of a memcached that is empty."""
    return _fresh(memcached_server).url()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    """One S3 for the tests of a module: it takes 80 MB, and keeps what it holds in memory."""
    with server_or_skip(S3Server) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server) -> S3Server:
    """An S3 that runs, with one empty bucket."""
    return _fresh(s3_server)


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["memory", "redis", "memcached"])
def cache_url(request: pytest.FixtureRequest, namespace: str) -> str:
    """The address of an empty cache, over all kinds of caches, with a fresh namespace."""
    if request.param == "memory":
        # Equal addresses share one store in a process: no two tests have the same limit.
        return f"memory://?namespace={namespace}&max_bytes={(128 << 20) + next(_numbers)}"
    base: str = request.getfixturevalue(f"{request.param}_url")
    # A machine that is busy is no outage.
    return f"{base}?namespace={namespace}&timeout=5"


@pytest.fixture
def apps_are_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let several applications of a test stand for one, in several processes."""
    monkeypatch.setattr(key_parts, "number_form", lambda scope: {})
    monkeypatch.setattr(Applications, "form", lambda self, scope, namespace: {})
    monkeypatch.setattr(Applications, "holding", lambda self, scope: lambda: True)
    monkeypatch.setattr(Identity, "form", lambda self, scope, *, in_memory: [])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return moved_clock(monkeypatch)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Run apps in this process: `serve(app).url`. They are stopped after the test."""
    with contextlib.ExitStack() as stack:

        def start(app: Callable[..., Any], *args: Any, **kwargs: Any) -> AppServer:
            return stack.enter_context(AppServer(app, *args, **kwargs))

        yield start


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Run apps in processes: `spawn("tests.apps:app", {"CACHE": url}).url`."""
    with contextlib.ExitStack() as stack:

        def start(app: str, *args: Any, **kwargs: Any) -> AppProcess:
            return stack.enter_context(AppProcess(app, *args, **kwargs))

        yield start
