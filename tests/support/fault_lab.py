"""A server, a proxy that fails, an application and its clients: all in one loop of virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self, cast
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from stream_cached import Health, health, stream_cached
from tests.support import virtual_time
from tests.support.asgi import Exchange
from tests.support.bodies import chunks_of, new_body
from tests.support.fault_proxy import FaultProxy
from tests.support.faults import Fault
from tests.support.oracle import Answer, Oracle
from tests.support.process import HOST
from tests.support.servers import MemcachedServer, RedisServer
from tests.support.virtual_time import VirtualLoop
from tests.support.wire import Command, MemcachedWire, RedisWire

#: Seconds that one operation of a store may take.
TIMEOUT = 0.5

#: What a clock of floats may be off by.
EPSILON = 0.02


class SourceError(Exception):
    """What an endpoint raises that is told to fail."""


class Streams:
    """
    An endpoint whose every run has another body.

    `/1000/name` has a thousand bytes, `/1000/at-hand/name` has them in no stream, and
    `/1000/varied/name` has others for each `X-Kind`.
    """

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.before: Callable[[str, int], Awaitable[None]] = self._go_on
        """Called with the path and the number of a chunk before it is made."""

    async def _go_on(self, path: str, number: int) -> None:
        return

    async def __call__(self, request: Request) -> Response:
        path = request.url.path
        self.runs[path] += 1
        if "/at-hand/" in path:
            return Response(new_body(path))
        if "/varied/" in path:
            path += request.headers.get("X-Kind", "")
            return StreamingResponse(self._stream(path), headers={"Vary": "X-Kind"})
        return StreamingResponse(self._stream(path))

    async def _stream(self, path: str) -> AsyncIterator[bytes]:
        chunks = chunks_of(new_body(path))
        for number, chunk in enumerate(chunks):
            await self.before(path, number)
            yield chunk
        await self.before(path, len(chunks))

    def app(self, cached: Callable[[Any], Any]) -> Starlette:
        """Return an application of this endpoint, decorated."""
        self.endpoint = cached(self.__call__)
        return Starlette(routes=[Route("/{size:int}/{name:path}", self.endpoint)])


class _TimedExchange(Exchange):
    """One that notes when the first bytes came; its client may be slow, and leave early."""

    def __init__(self, app: ASGIApp, path: str, pace: float, leaves_at: int | None) -> None:
        super().__init__(app, path=path)
        self.pace = pace
        self.leaves_at = leaves_at
        self.first_at: float | None = None
        self.last_at: float | None = None

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        now = asyncio.get_running_loop().time()
        if self.first_at is None and message.get("body"):
            self.first_at = now
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.last_at = now
        if self.pace:
            await asyncio.sleep(self.pace)
        if len(self.sent) == self.leaves_at:
            self.left.set()


class Lab:
    """
    A server behind a proxy, an application over it, and what its clients were given.

    Args:
        server: The real server.
        namespace: Of the keys.
        settings: Those of `stream_cached`.
    """

    def __init__(
        self, server: RedisServer | MemcachedServer, namespace: str, **settings: Any
    ) -> None:
        wire = RedisWire() if isinstance(server, RedisServer) else MemcachedWire()
        self.machine = server
        self.proxy = FaultProxy(wire, server.port)
        self.streams = Streams()
        self.oracle = Oracle(
            first_within=TIMEOUT + EPSILON,
            ended_within=2 * TIMEOUT + EPSILON,
            may_bypass=settings.get("fallback") is False,
        )
        self.fault: Fault | None = None
        """The one that goes on."""
        self.faults_begun = 0
        scheme, path = ("redis", "/0") if isinstance(server, RedisServer) else ("memcached", "/")
        query = urlencode({"namespace": namespace, "timeout": TIMEOUT})
        self.url = f"{scheme}://{HOST}:{self.proxy.port}{path}?{query}"
        self.cached = stream_cached(**{"ttl": 600, "cache": self.url, **settings})
        self.app = self.streams.app(self.cached)

    async def __aenter__(self) -> Self:
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        loop.owed.append(self.proxy.owed)
        await self.proxy.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.proxy.__aexit__()

    # -- clients ----------------------------------------------------------------------------

    async def ask(
        self,
        path: str,
        *,
        kind: str = "",
        pace: float = 0.0,
        leaves_at: int | None = None,
        may_break: bool = False,
    ) -> Answer:
        """
        Send one request, and let its answer be judged.

        Args:
            path: What is asked for.
            kind: What is sent as X-Kind.
            pace: Seconds that the client takes for each message.
            leaves_at: After how many messages the client leaves.
            may_break: Whether the endpoint itself fails.
        """
        exchange = _TimedExchange(self.app, path, pace, leaves_at)
        exchange.scope["headers"].append((b"x-kind", kind.encode()))
        loop, answer = asyncio.get_running_loop(), Answer(path + kind)
        began, faults = loop.time(), self.faults_begun + (self.fault is None)
        try:
            await exchange.run()
        # At the border to a server: it breaks the connection, whatever an application raises.
        except Exception as exc:
            answer.error = repr(exc)
        _fill(answer, exchange)
        answer.left = exchange.left.is_set()
        # A client does not wait for what is done behind its last message.
        ended = loop.time() if exchange.last_at is None else exchange.last_at
        answer.ended_at = ended - began - pace * len(exchange.sent)
        if exchange.first_at is not None:
            answer.first_at = exchange.first_at - began
        # Only a replay from the store itself may break, and only where that failed meanwhile.
        failed = self.faults_begun >= faults
        answer.may_break = may_break or (answer.is_hit and not answer.of_fallback and failed)
        return self.oracle.judge(answer)

    async def ask_all(self, *paths: str) -> list[Answer]:
        """Send several requests at once."""
        return await asyncio.gather(*map(self.ask, paths))

    # -- faults -----------------------------------------------------------------------------

    def arm(self, fault: Fault, when: Callable[[Command], bool], nth: int = 0) -> None:
        """Let a fault begin just before the nth (from 0) of such commands is passed on."""
        left = nth

        async def hook(command: Command) -> None:
            nonlocal left
            if self.fault is None and when(command):
                left -= 1
                if left < 0:
                    self.proxy.hook = _no_hook
                    await self.break_down(fault)

        self.proxy.hook = hook

    async def break_down(self, fault: Fault) -> None:
        """Let a fault begin now."""
        self.fault = fault
        self.faults_begun += 1
        await fault.begin(self)

    async def fix(self) -> None:
        """Let the fault be over."""
        fault, self.fault = self.fault, None
        assert fault is not None, "there is none"
        await fault.end(self)
        # What was held up arrives now; it is none of what comes after.
        await asyncio.sleep(EPSILON)

    async def quiet(self) -> None:
        """Wait until the server owes no reply."""
        await _until(lambda: not self.proxy.owed(), 0)

    # -- the store, as the library sees it --------------------------------------------------

    @property
    def health(self) -> Health:
        """What the library says of the store."""
        [found] = [known for known in health() if f":{self.proxy.port}" in known.store]
        return found

    @property
    def pings(self) -> int:
        """How many pings have reached the server."""
        return self.proxy.passed["PING"] + self.proxy.passed["VERSION"]

    async def returned(self, timeout: float = 120.0) -> int:
        """Wait until the store is used again; return how many pings that took."""
        before = self.pings
        async with asyncio.timeout(timeout):
            await _until(lambda: self.health.available, 0.5)
        return self.pings - before

    # -- what is left -----------------------------------------------------------------------

    async def left_over(self, timeout: float = 120.0) -> set[asyncio.Task[Any]]:
        """Return the tasks that do not end by themselves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await _until(lambda: not self._tasks(), 1.0)
        return self._tasks()

    def _tasks(self) -> set[asyncio.Task[Any]]:
        own = {asyncio.current_task(), *self.proxy.tasks}
        return {task for task in asyncio.all_tasks() if task not in own}


async def _until(condition: Callable[[], bool], step: float) -> None:
    """Wait for what nothing announces; in virtual time that is not slow."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(step)


async def _no_hook(command: Command) -> None:
    return


def _fill(answer: Answer, exchange: Exchange) -> None:
    if not exchange.sent:
        return
    start = exchange.sent[0]
    headers = dict(start["headers"])
    answer.status = start["status"]
    answer.cache_status = headers.get(b"cache-status", b"").decode()
    answer.body = exchange.body
    length = headers.get(b"content-length")
    ended = exchange.sent[1:] and not exchange.sent[-1].get("more_body", False)
    answer.complete = bool(ended) and length in (None, b"%d" % len(answer.body))


Scenario = Callable[[Lab], Awaitable[None]]


def play(
    server: RedisServer | MemcachedServer,
    namespace: str,
    scenario: Scenario,
    **settings: Any,
) -> list[str]:
    """
    Play a scenario in a laboratory; return what was wrong with the answers, and what was left.

    Args:
        server: The real server.
        namespace: Of the keys.
        scenario: What happens.
        settings: Those of `stream_cached`.
    """

    async def main() -> list[str]:
        async with Lab(server, namespace, **settings) as lab:
            await scenario(lab)
            left = [f"it is left: {task}" for task in await lab.left_over()]
            return lab.oracle.objections + left

    flaws = virtual_time.run(main())
    # An exception that was never retrieved is told of only now.
    gc.collect()
    return flaws


def log_flaws(records: list[logging.LogRecord], outages: int | None) -> list[str]:
    """
    Say what is wrong with the log: one warning per outage, one INFO at its end, and no error.

    An outage that somebody has to end is told by an ERROR instead of a warning.

    Args:
        records: What was logged.
        outages: How many there were; None where each warning has to have its INFO.
    """
    said = [record for record in records if record.name == "stream_cached"]
    lasting = [r for r in said if "will not recover by itself" in r.getMessage()]
    errors = [r for r in records if r.levelno >= logging.ERROR and r not in lasting]
    flaws = [f"logged: {r.getMessage()}" for r in errors]
    warnings = [r.getMessage() for r in said if r.levelno == logging.WARNING or r in lasting]
    infos = [r.getMessage() for r in said if r.levelno == logging.INFO]
    expected = len(warnings) if outages is None else outages
    if len(warnings) != expected:
        flaws.append(f"{len(warnings)} warnings of {expected}: {warnings}")
    if len(infos) != expected:
        flaws.append(f"{len(infos)} lines on INFO of {expected}: {infos}")
    return flaws
