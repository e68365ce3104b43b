"""A model of many requests for one stream, in two processes that share a store.

Clients ask, leave, are cancelled or read slowly; whatever the source, the store and the clock do,
and in whatever order: each reader is given one complete run, or a visible break; one run goes on
at a time, unless there is a reason; and in the end, nothing of it is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import itertools
import random
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock
from weakref import WeakValueDictionary

import pytest
from aiocache.base import BaseCache
from aiocache.serializers import StringSerializer
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from stream_cached import Compression, limits, stream_cached, tasks
from stream_cached.backends import breaker
from stream_cached.bodies.files import FileBodies
from stream_cached.connections import time_limit
from stream_cached.entries import chunks, ids, telling
from stream_cached.runs import channel, lease, registry
from stream_cached.stores.memory import MemoryCache
from stream_cached.streams import backlog, reader, stream
from tests.support.asgi import Exchange
from tests.support.at_once import without_threads
from tests.support.selection import examples
from tests.support.step_loop import StepLoop, in_order_of_making, process

pytestmark = pytest.mark.usefixtures("apps_are_processes")

T = TypeVar("T")

#: What one value of the store may hold: a stream of a few chunks has several segments.
VALUE_SIZE = 1024

TTL = 60.0
TIMEOUT = 0.5

#: Seconds for which nobody waits for anybody once a response could not be shared.
ALONE_FOR = 121.0


class SourceError(Exception):
    """What a source raises that is told to fail."""


# -- the store ------------------------------------------------------------------------------------


@dataclass(eq=False)
class Operation:
    """One that is under way: what it is about, and what it does to the store."""

    process: int
    name: str
    keys: tuple[str, ...]
    effect: Callable[[], Any]
    may_go_on: asyncio.Event
    how: str | None
    """How it fails."""
    result: Any = None
    is_done: bool = False

    def take_effect(self) -> None:
        if not self.is_done:
            self.is_done, self.result = True, self.effect()

    def is_about(self, what: str) -> bool:
        match what:
            case "reads":
                return self.name == "get"
            case "writes":
                return self.name != "get"
            case "lease":
                return any(":lease:" in key for key in self.keys)
            case "segments":
                return any(key.rpartition(":")[2].isdigit() for key in self.keys)
            case "progress":
                return any(key.endswith(":progress") for key in self.keys)
        return True


class Server:
    """
    A store that two processes share. It may be slow, fail, and do later what it was asked for.

    Args:
        loop: Its clock is the store's.
        on_trouble: Called when an operation fails, or is given up.
    """

    def __init__(self, loop: StepLoop, on_trouble: Callable[[], None]) -> None:
        self.items: dict[str, tuple[Any, float | None]] = {}
        self.held: dict[int, str] = {}
        """By process, which operations wait until they are let go."""
        self.faults: dict[int, deque[tuple[str, str]]] = {0: deque(), 1: deque()}
        """By process, how the next operations fail, and which ones."""
        self.pending: list[Operation] = []
        self.adrift: list[Operation] = []
        """Those that nobody waits for any more, and that may still come to it."""
        self.drifts = False
        self.has_failed = False
        """Whether an operation has failed, or was given up."""
        self._loop = loop
        self._on_trouble = on_trouble

    def live(self) -> dict[str, tuple[Any, float | None]]:
        now = self._loop.time()
        return {k: v for k, v in self.items.items() if v[1] is None or v[1] > now}

    def get(self, key: str) -> Any:
        value, deadline = self.items.get(key, (None, None))
        return None if deadline is not None and deadline <= self._loop.time() else value

    def set(self, key: str, value: Any, ttl: float | None) -> bool:
        self.items[key] = value, self._loop.time() + ttl if ttl else None
        return True

    def add(self, key: str, value: Any, ttl: float | None) -> bool:
        return self.get(key) is None and self.set(key, value, ttl)

    def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        return self.get(key) == expected and self.set(key, value, ttl)

    def expire(self, key: str, ttl: float | None) -> bool:
        value = self.get(key)
        return value is not None and self.set(key, value, ttl)

    async def run(self, where: int, name: str, keys: tuple[str, ...], effect: Any) -> Any:
        """Do what is asked for, when and as it is to be."""
        operation = Operation(where, name, keys, effect, asyncio.Event(), None)
        operation.how = self._fault(operation)
        is_held = where in self.held and operation.is_about(self.held[where])
        self.pending.append(operation)
        try:
            if is_held or operation.how == "hangs":
                await operation.may_go_on.wait()
            else:
                await asyncio.sleep(0)
            if operation.how in (None, "hangs", "done but lost"):
                operation.take_effect()
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.has_failed = True
            asking = client.get()
            if asking is None or not asking.is_cancelling:
                self._on_trouble()
            if self.drifts and not operation.is_done:
                self.adrift.append(operation)
            raise
        finally:
            self.pending.remove(operation)
        match operation.how:
            case "refused":
                return False
            case "broken":
                raise RuntimeError("the store is full")
            case "lost" | "done but lost":
                raise ConnectionResetError("the store is gone")
        return operation.result

    def _fault(self, operation: Operation) -> str | None:
        faults = self.faults[operation.process]
        if not faults or not operation.is_about(faults[0][1]):
            return None
        self._fail()
        how, _ = faults.popleft()
        # Only that says whether it was done.
        return "broken" if how == "refused" and operation.name != "set" else how

    def _fail(self) -> None:
        self.has_failed = True
        self._on_trouble()

    def fail(self, operation: Operation) -> None:
        """Let one that is under way fail."""
        self._fail()
        operation.how = "lost"
        operation.may_go_on.set()

    def recover(self) -> None:
        """Be well again, and answer at once."""
        self.held.clear()
        for faults in self.faults.values():
            faults.clear()
        for operation in self.pending:
            operation.may_go_on.set()


class SharedCache(BaseCache):  # type: ignore[misc]
    """What one process has of the store."""

    NAME = "shared"

    def __init__(self, server: Server, where: int) -> None:
        super().__init__(serializer=StringSerializer())
        self.server, self.where = server, where

    async def _do(self, name: str, keys: tuple[str, ...], effect: Callable[[], Any]) -> Any:
        return await self.server.run(self.where, name, keys, effect)

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        value = await self._do("get", (key,), lambda: self.server.get(key))
        return value.decode(encoding) if encoding and isinstance(value, bytes) else value

    async def _multi_get(
        self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        assert encoding is None
        values = await self._do("get", tuple(keys), lambda: [self.server.get(key) for key in keys])
        return list(values)

    async def _set(
        self,
        key: str,
        value: Any,
        ttl: float | None = None,
        _cas_token: Any = None,
        _conn: Any = None,
    ) -> Any:
        value = value.encode() if isinstance(value, str) else value
        if _cas_token is None:
            return await self._do("set", (key,), lambda: self.server.set(key, value, ttl))
        swap = lambda: self.server.compare_and_set(key, _cas_token, value, ttl)  # noqa: E731
        return await self._do("swap", (key,), swap)

    async def _add(self, key: str, value: Any, ttl: float | None = None, _conn: Any = None) -> bool:
        if not await self._do("add", (key,), lambda: self.server.add(key, value, ttl)):
            raise ValueError(f"{key} is there")
        return True

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return await self._do("get", (key,), lambda: self.server.get(key)) is not None

    async def _expire(self, key: str, ttl: float, _conn: Any = None) -> bool:
        return bool(await self._do("expire", (key,), lambda: self.server.expire(key, ttl)))

    async def _delete(self, key: str, _conn: Any = None) -> int:
        gone = await self._do("delete", (key,), lambda: self.server.items.pop(key, None))
        return int(gone is not None)


# -- who runs, and who asks -----------------------------------------------------------------------


@dataclass(eq=False)
class Run:
    """One run of the endpoint; a test says what it answers, and when."""

    number: int
    client: Client
    began: float
    way: asyncio.Future[str]
    """In what way it answers."""
    is_excused: bool = False
    """Whether another one may run beside it."""
    is_private: bool = False
    is_value: bool = False
    has_started: bool = False
    sends_by_itself: bool = False
    """Its source may be through long before its end is sent."""
    answered: float | None = None
    ended: float | None = None
    is_complete: bool = False
    body: bytes = b""
    orders: deque[bytes | str] = field(default_factory=deque)
    """What its source does next: chunks, and how it ends."""
    ordered: asyncio.Event = field(default_factory=asyncio.Event)
    chunks: int = 0
    is_told_to_end: bool = False

    def order(self, *orders: bytes | str) -> None:
        self.orders.extend(orders)
        self.ordered.set()


@dataclass(eq=False)
class Client:
    """One who asks, and what came of it."""

    number: int
    process: int
    kind: str
    asked: float
    oldest: int
    """The number of the first run that may answer: those before were invalidated."""
    oldest_apart: int
    """And where its process goes by itself."""
    permits: float
    """How many messages it takes before it waits."""
    begins: asyncio.Event
    """Its response is sent."""
    raises: bool
    """Whether `send` raises once it has left, as from ASGI 2.4 on."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    sent: list[Message] = field(default_factory=list)
    error: str = ""
    begun_at: float | None = None
    """When it was sent the first message."""
    is_cancelling: bool = False
    is_done: bool = False
    is_troubled: bool = False
    """Whether there is a reason for it to be given less, or to run beside others."""

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def is_complete(self) -> bool:
        last = self.sent[-1] if self.sent else {"type": "nothing"}
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    def header(self, name: bytes) -> str:
        return str(dict(self.sent[0]["headers"]).get(name, b"").decode())

    def take(self, count: float) -> None:
        self.permits += count
        self.moved.set()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        while self.permits <= 0 and not self.left.is_set():
            self.moved.clear()
            await self.moved.wait()
        if self.left.is_set():
            if self.raises:
                raise OSError("the client has left")
            return
        self.permits -= 1
        if self.begun_at is None:
            self.begun_at = asyncio.get_running_loop().time()
        self.sent.append(message)


#: Who asks, in all that is done for him.
client: ContextVar[Client | None] = ContextVar("client", default=None)


class SendsByItself(Response):
    """A response of a way of its own."""

    def __init__(self, chunks: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


# -- the world ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What is the same in a whole test."""

    max_ahead: int = 1_000_000
    max_pending: int = 1_000_000
    max_body: int = 1_000_000
    spool_max: int = 1_000_000
    inline_max: int = VALUE_SIZE
    on_disconnect: str = "finish"
    wait_timeout: float | None = 10.0
    max_duration: float = 600.0
    exact: bool = False
    fallback: bool = True
    varies: bool = False
    wrapped: bool = False
    answers: str = "stream"
    """How the endpoint answers unless a test says it; empty where it always waits for that."""
    drifts: bool = False
    live_window: int | None = None
    """With large bodies in a directory: how much of a run stays in the store. None without one."""
    compresses: bool = False


class World:
    """Two processes, a store, an endpoint and its clients; and what must not happen."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loop = StepLoop()
        self.server = Server(self.loop, self.trouble)
        self.server.drifts = config.drifts
        self.faults: list[str] = []
        """What has happened that must not."""
        self.runs: list[Run] = []
        self.clients: list[Client] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.registries: list[registry.RunRegistry] = []
        self.oldest = [0, 0]
        self.oldest_apart = [0, 0]
        self.alone_until = 0.0
        self.frozen_at = 0.0
        self.is_held_up = False
        """Whether a run may have been stored long after its end."""
        self._patches = ExitStack()
        self._patch()
        self.directory: Path | None = None
        if config.live_window is not None:
            self._patches.enter_context(without_threads())
            directory = self._patches.enter_context(tempfile.TemporaryDirectory())
            self.directory = Path(directory) / "bodies"
        self.cached = [self._process(where) for where in (0, 1)]
        self.endpoints: list[Any] = [cached(self.endpoint) for cached in self.cached]

    def _patch(self) -> None:
        world, numbers = self, itertools.count(1)

        class RunRegistry(registry.RunRegistry):
            def __init__(self) -> None:
                super().__init__()
                world.registries.append(self)

        class Backlog(backlog.Backlog):
            _largest = 0

            def append(self, chunks: Sequence[bytes], size: int) -> bool:
                has_much = super().append(chunks, size)
                self._largest = max(self._largest, size - backlog.LINK_SIZE)
                return has_much

            def drop(self, fastest: int | None) -> tuple[int, list[bytes]]:
                result = super().drop(fastest)
                bound = 2 * (self._max_ahead + self._largest + backlog.LINK_SIZE)
                if self.made - self.dropped > bound:
                    world.faults.append(f"memory holds {self.made - self.dropped} of {bound}")
                return result

        numbered_ids = SimpleNamespace(token_bytes=lambda size: next(numbers).to_bytes(size, "big"))
        for target, name, new in [
            (time, "monotonic", self.loop.time),
            (ids, "secrets", numbered_ids),
            (stream, "Backlog", Backlog),
            (registry, "RunRegistry", RunRegistry),
            (stream, "Seat", in_order_of_making(reader.Seat)),
            (time_limit, "_Operation", in_order_of_making(time_limit._Operation)),
            (lease, "_abandoned", ByProcess()),
            (tasks, "_running", set()),
            (breaker, "_breakers", WeakValueDictionary()),
            (chunks, "VALUE_SIZE", VALUE_SIZE),
            (telling, "_MAX_TOLD", VALUE_SIZE // 2),
            (limits, "VALUE_SIZE", VALUE_SIZE),
        ]:
            self._patches.enter_context(mock.patch.object(target, name, new))

    def _process(self, where: int) -> Any:
        config = self.config
        memory = MemoryCache(clock=self.loop.time)
        return stream_cached(
            ttl=TTL,
            cache=SharedCache(self.server, where),
            timeout=TIMEOUT,
            max_ahead=config.max_ahead,
            max_pending=config.max_pending,
            max_body=config.max_body,
            spool_max=config.spool_max,
            inline_max=config.inline_max,
            on_disconnect=config.on_disconnect,  # type: ignore[arg-type]
            wait_timeout=config.wait_timeout,
            max_duration=config.max_duration,
            # Those that are set are the test's own.
            key_context=(),
            replay="exact" if config.exact else "fast",
            fallback=memory if config.fallback else False,
            compress=Compression(min_size=10) if config.compresses else None,
            **self._bodies(),
        )

    def _bodies(self) -> dict[str, Any]:
        """Return where a process keeps large bodies: each one looks after it for itself."""
        if self.directory is None:
            return {}
        window = self.config.live_window
        return {"bodies": FileBodies(self.directory), "live_window": window, "grace": 1.0}

    def close(self) -> None:
        """Give everything back, whatever state it is in."""
        self.loop.frozen.clear()
        self.server.recover()
        for _ in range(3):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.pass_time(60)
        self._patches.close()
        self.loop.close()

    # -- the endpoint -----------------------------------------------------------------------

    async def endpoint(self, request: Request) -> Any:
        run = self._begin()
        try:
            way = self.config.answers or await run.way
            return self._answer(run, way)
        except BaseException:
            self._end(run)
            raise

    def _begin(self) -> Run:
        asking = client.get()
        assert asking is not None
        now = self.loop.time()
        run = Run(len(self.runs), asking, now, self.loop.create_future())
        self._check_alone(run)
        self.runs.append(run)
        return run

    def _check_alone(self, run: Run) -> None:
        """See that no other run goes on, unless there is a reason."""
        now, asking = self.loop.time(), run.client
        # The clock rounds: a wait of ten seconds may be a little less. Once one has waited for so
        # long, any of those that wait may lead the next run.
        longest = self.config.wait_timeout or self.config.max_duration
        waiting = [each for each in self.clients if each is asking or not each.is_done]
        has_waited = any(now - each.asked >= longest - 1e-6 for each in waiting)
        is_away = any(not self._is_available(where) for where in (0, 1))
        run.is_excused = asking.is_troubled or has_waited or is_away or now <= self.alone_until
        if run.is_excused:
            return
        for other in self.runs:
            if other.ended is not None or other.is_excused:
                continue
            if self.config.varies and other.client.kind != asking.kind:
                continue
            if self.config.varies and other.client.process != asking.process:
                # Whether there are variants, one may know before the other.
                continue
            if now - other.began > self.config.max_duration:
                # It is not waited for for so long.
                continue
            if other.client.is_done or other.client.left.is_set() or other.client.is_cancelling:
                # It may be given up, and take its time to close.
                continue
            begun_at = now if other.client.begun_at is None else other.client.begun_at
            if other.answered is not None and begun_at - other.answered >= 1:
                # The client that brought it did not read it in time.
                continue
            self.faults.append(f"run {run.number} goes on beside run {other.number}")

    def _is_available(self, where: int) -> bool:
        binding = self.cached[where].hooks._binding
        return binding is None or bool(binding.breaker.is_available) or binding.breaker.outages == 0

    def _answer(self, run: Run, way: str) -> Any:
        run.answered = self.loop.time()
        headers = {"Vary": "X-Kind"} if self.config.varies else {}
        if self.config.compresses:
            headers["Content-Type"] = "text/plain"
        match way:
            case "raises":
                raise SourceError
            case "fails":
                self.trouble()
                self._end(run)
                return PlainTextResponse("no", 500)
            case "at hand" | "value":
                run.body = self.chunk(run, 30)
                run.is_complete, run.has_started = True, True
                run.ended = self.loop.time()
                if way == "value" and not self.config.varies:
                    run.is_value = True
                    return run.body.decode()
                return Response(run.body, headers=headers)
            case "private":
                run.is_private = True
                self.be_alone()
                return StreamingResponse(self._chunks(run), headers={"Set-Cookie": "a=b"})
            case "by itself":
                run.sends_by_itself = True
                return SendsByItself(self._chunks(run), headers)
        return StreamingResponse(self._chunks(run, is_stubborn=way == "stubborn"), headers=headers)

    async def _chunks(self, run: Run, *, is_stubborn: bool = False) -> AsyncIterator[bytes]:
        run.has_started = True
        # The recorder's own timer is as long.
        late = self.loop.call_later(self.config.max_duration - 0.01, self.be_alone)
        try:
            while True:
                while not run.orders:
                    run.ordered.clear()
                    await run.ordered.wait()
                match run.orders.popleft():
                    case bytes(chunk):
                        run.body += chunk
                        if len(run.body) > self.config.max_body:
                            self.be_alone()
                        if len(run.body) > self.config.max_pending:
                            self.trouble()
                        yield chunk
                    case "ends":
                        run.is_complete = True
                        return
                    case _:
                        raise SourceError
        except asyncio.CancelledError:
            if not is_stubborn:
                raise
        finally:
            late.cancel()
            self._end(run)

    def chunk(self, run: Run, size: int) -> bytes:
        """Return the next chunk of a run: no other one, of any run, has a part like it."""
        run.chunks += 1
        text = f"{run.number}:{run.chunks};"
        return (text * (size // len(text) + 1))[:size].encode()

    def _end(self, run: Run) -> None:
        if run.ended is None:
            run.ended = self.loop.time()
            if not run.is_complete:
                self.trouble()

    # -- the clients ------------------------------------------------------------------------

    def ask(
        self,
        where: int,
        kind: str = "",
        *,
        permits: float = float("inf"),
        begins: bool = True,
        raises: bool = False,
    ) -> Client:
        """Let somebody ask."""
        asking = Client(
            number=len(self.clients),
            process=where,
            kind=kind,
            asked=self.loop.time(),
            oldest=self.oldest[where],
            oldest_apart=self.oldest_apart[where],
            permits=permits,
            begins=asyncio.Event(),
            raises=raises,
            is_troubled=where in self.loop.frozen,
        )
        if begins:
            asking.begins.set()
        self.clients.append(asking)
        asking.task = self._spawn(where, self._exchange(asking), asking)
        return asking

    def _spawn(self, where: int, coroutine: Any, asking: Client | None = None) -> asyncio.Task[Any]:
        context = contextvars.copy_context()
        context.run(process.set, where)
        context.run(client.set, asking)
        task = self.loop.create_task(coroutine, context=context)
        self.tasks.append(task)
        return task

    async def _exchange(self, asking: Client) -> None:
        scope = Exchange(self._app, "2.4" if asking.raises else "2.3").scope
        scope["headers"].append((b"x-kind", asking.kind.encode()))
        try:
            await self._app(scope, asking.receive, asking.send)
        except BaseException as exc:
            # Without what hangs on it.
            asking.error = repr(exc)
        finally:
            asking.is_done = True
        self._judge(asking)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        asking = client.get()
        assert asking is not None
        answer = await self.endpoints[asking.process](Request(scope, receive))
        response = answer if isinstance(answer, Response) else PlainTextResponse(answer)
        del answer
        if self.config.wrapped and isinstance(response, StreamingResponse):
            response.body_iterator = _wrapped(response.body_iterator)
        await asking.begins.wait()
        await response(scope, receive, send)

    def _judge(self, asking: Client) -> None:
        """See that a client was given one complete run, or can tell that it was not."""
        who, error = f"client {asking.number}", asking.error
        body = asking.body
        has_gone = asking.left.is_set() or asking.is_cancelling
        if not asking.sent or asking.status >= 500:
            if not has_gone and not asking.is_troubled:
                self.faults.append(f"{who} was given nothing, for no reason: {error}")
            return
        runs = [run for run in self.runs if self._may_answer(run, asking)]
        if not any(run.body.startswith(body) for run in runs):
            self.faults.append(f"{who} was given what is no run for it: {body[:200]!r}")
        elif asking.is_complete:
            # What is not cached is sent as it is without a cache.
            is_own = has_gone and "fwd=bypass" in asking.header(b"cache-status")
            if not is_own and not any(run.is_complete and run.body == body for run in runs):
                self.faults.append(f"{who} was told of an end, which {body[:200]!r} is not")
            length = asking.header(b"content-length")
            if length and int(length) != len(body):
                self.faults.append(f"{who} was told of {length} bytes, and given {len(body)}")
        elif not (has_gone or asking.is_troubled or self._is_lost(asking, runs)):
            self.faults.append(f"{who} was cut off, for no reason: {error}")

    def _is_lost(self, asking: Client, runs: list[Run]) -> bool:
        """Whether what is left of what it read may be lost."""
        reading = [run for run in runs if run.ended and run.body.startswith(asking.body)]
        since = [(run.ended or 0.0, run.is_complete) for run in reading]
        # The other process learns later that a run has failed.
        has_failed = any(ended > asking.asked - 1 for ended, complete in since if not complete)
        # What is too much for the file is in the store, as long as an entry is; and so is what a
        # hit has not read yet.
        has_slept = any(self.loop.time() - ended > TTL for ended, _ in since)
        is_from_store = any(part in asking.error for part in ("slow reader", "stored body"))
        return has_failed or (has_slept and is_from_store)

    def _may_answer(self, run: Run, asking: Client) -> bool:
        if run.client is asking:
            return True
        if run.is_private or (self.config.varies and run.client.kind != asking.kind):
            return False
        is_apart = "fallback" in asking.header(b"cache-status")
        if is_apart and run.client.process != asking.process:
            return False
        is_in_time = not (self.server.has_failed or self.is_held_up or run.sends_by_itself)
        if run.ended is not None and is_in_time and asking.asked > run.ended + TTL + 5:
            return False
        # A plain value is stored in a format that has no versions.
        return run.is_value or run.number >= (asking.oldest_apart if is_apart else asking.oldest)

    # -- what happens to them ---------------------------------------------------------------

    def trouble(self) -> None:
        """Something has happened that excuses the clients that are on their way."""
        for run in self.runs:
            if run.ended is None:
                run.is_excused = True
        for asking in self.clients:
            if not asking.is_done:
                asking.is_troubled = True

    def hold_up(self, seconds: float) -> None:
        """Let nothing go on for a while."""
        self.is_held_up = True
        if seconds >= self.config.max_duration:
            self.be_alone()
        self.trouble()
        self.loop.hold_up(seconds)

    def freeze(self, where: int) -> None:
        """Let nothing go on in one process."""
        self.is_held_up = True
        self.trouble()
        self.loop.frozen.add(where)
        self.frozen_at = self.loop.time()

    def thaw(self) -> None:
        """Let all go on."""
        if not self.loop.frozen:
            return
        self.trouble()
        if self.loop.time() - self.frozen_at >= self.config.max_duration:
            self.be_alone()
        self.loop.frozen.clear()

    def be_alone(self) -> None:
        """For a while, nobody waits for anybody."""
        self.trouble()
        self.alone_until = self.loop.time() + ALONE_FOR

    def invalidate(self, where: int) -> None:
        """Let nothing be served to those who ask later that was made before."""
        self.trouble()
        self._spawn(where, self._invalidated(where))

    async def _invalidated(self, where: int) -> None:
        first = len(self.runs)
        done = await self.endpoints[where].invalidate()
        self.oldest_apart[where] = max(self.oldest_apart[where], first)
        for each in (0, 1) if done else (where,):
            self.oldest[each] = max(self.oldest[each], first)
        self.trouble()

    # -- its end ----------------------------------------------------------------------------

    def settle(self) -> None:
        """Let all that goes on come to its end, and see that nothing is left of it."""
        self.thaw()
        self.loop.choose = _orders(0)
        self.server.recover()
        self.server.adrift.clear()
        self._come_to_an_end()
        # Followers are told for a while how a run has ended; a lease would live longer.
        self.loop.pass_time(channel.LAST_WORD_TTL)
        if not self.server.has_failed and self.loop.time() > self.alone_until:
            self._check_left(self._left_in_store(":lease:", ":progress"))
        self.loop.pass_time(200)
        # Nobody closes the iterator of a response that goes past the cache.
        gc.collect()
        self.loop.run()
        self._check_left(self._left_in_store(":lease:", ":progress"))
        self._check_left(self.loop.timers)
        self._check_left(asyncio.all_tasks(self.loop))
        self._check_left(tasks._running)
        self._check_left([runs for each in self.registries for runs in each._runs.values()])
        if self.directory is not None:
            self._check_left(list(self.directory.glob("unfinished/*")))
        self._check_usable()
        self.loop.pass_time(2000)
        self._check_left(self.server.live())
        gc.collect()
        self.loop.run()
        self.faults.extend(self.loop.complaints)

    def _come_to_an_end(self) -> None:
        for asking in self.clients:
            asking.begins.set()
            asking.take(float("inf"))
        for _ in range(400):
            for run in self.runs:
                if not run.way.done():
                    run.way.set_result("stream")
                if not run.is_told_to_end:
                    run.is_told_to_end = True
                    run.order(self.chunk(run, 50), "ends")
            self.loop.pass_time(0.5)
            if all(task.done() for task in self.tasks):
                return
        self._check_left([task for task in self.tasks if not task.done()])

    def _left_in_store(self, *parts: str) -> list[str]:
        return [key for key in self.server.live() if any(part in key for part in parts)]

    def _check_left(self, left: Any) -> None:
        if left:
            self.faults.append(f"left: {left!r}")

    def _check_usable(self) -> None:
        """See that clients that come now are answered, by one run."""
        first = len(self.runs)
        asking = [self.ask(where) for where in (0, 1)]
        self._come_to_an_end()
        if self.config.answers in ("", "stream", "by itself", "at hand"):
            if not all(each.is_complete and each.status == 200 for each in asking):
                self.faults.append(f"who comes later is given {[each.error for each in asking]}")
            if len(self.runs) != first + 1:
                self.faults.append(f"who comes later is {len(self.runs) - first} runs")


class ByProcess(MutableMapping[bytes, float]):
    """What is one dict in each process."""

    def __init__(self) -> None:
        self._all: dict[int | None, dict[bytes, float]] = {}

    @property
    def _here(self) -> dict[bytes, float]:
        return self._all.setdefault(process.get(), {})

    def __getitem__(self, key: bytes) -> float:
        return self._here[key]

    def __setitem__(self, key: bytes, value: float) -> None:
        self._here[key] = value

    def __delitem__(self, key: bytes) -> None:
        del self._here[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._here)

    def __len__(self) -> int:
        return len(self._here)


async def _wrapped(chunks: Any) -> AsyncIterator[Any]:
    """What a middleware puts in the place of a body."""
    async for chunk in chunks:
        yield chunk


# -- what may happen, in any order ----------------------------------------------------------------


class Story:
    """What happens: each thing, and then some of what follows from it."""

    def __init__(self, config: Config) -> None:
        # What nobody holds any more is found when the test says so, and quickly.
        gc.disable()
        gc.collect()
        gc.freeze()
        self.world = World(config)

    def close(self) -> None:
        self.world.close()
        gc.enable()

    def tell(self, name: str, then: Then, arguments: dict[str, Any]) -> None:
        """Let a thing happen, and things go on."""
        loop, (steps, order) = self.world.loop, then
        loop.choose = _orders(order)
        getattr(self, name)(**arguments)
        loop.run(steps)
        self.check()

    def check(self) -> None:
        assert not self.world.faults, self.world.faults

    def end(self) -> None:
        self.world.settle()
        self.check()

    # -- clients ----------------------------------------------------------------------------

    @property
    def clients(self) -> list[Client]:
        return [asking for asking in self.world.clients if not asking.is_done]

    def somebody_asks(
        self, where: int, kind: str, permits: float, begins: bool, raises: bool
    ) -> None:
        self.world.ask(where, kind, permits=permits, begins=begins, raises=raises)

    def many_ask(self, where: int, kind: str, count: int) -> None:
        for number in range(count):
            self.world.ask((where + number) % 2, kind)

    def a_client_reads(self, index: int, count: float) -> None:
        for asking in _one_of(self.clients, index):
            asking.begins.set()
            asking.take(count)

    def a_client_leaves(self, index: int) -> None:
        for asking in _one_of(self.clients, index):
            asking.left.set()
            asking.moved.set()

    def a_request_is_cancelled(self, index: int) -> None:
        for asking in _one_of(self.clients, index):
            assert asking.task is not None
            asking.is_cancelling = True
            asking.task.cancel()

    # -- runs -------------------------------------------------------------------------------

    def the_endpoint_answers(self, index: int, way: str) -> None:
        runs = self.world.runs
        for run in _one_of([run for run in runs if not run.way.done()], index):
            run.way.set_result(way)

    @property
    def running(self) -> list[Run]:
        return [run for run in self.world.runs if run.ended is None and not run.is_told_to_end]

    def a_source_yields(self, index: int, sizes: list[int]) -> None:
        for run in _one_of(self.running, index):
            run.order(*(self.world.chunk(run, size) for size in sizes))

    def a_source_ends(self, index: int, how: str) -> None:
        for run in _one_of(self.running, index):
            run.is_told_to_end = True
            run.order(how)

    # -- the store --------------------------------------------------------------------------

    def the_store_is_slow(self, where: int, what: str) -> None:
        self.world.server.held[where] = what

    def an_operation(self, index: int, how: str) -> None:
        server = self.world.server
        for operation in _one_of(server.pending, index):
            match how:
                case "goes on":
                    operation.may_go_on.set()
                case "is done":
                    operation.take_effect()
                case "fails":
                    server.fail(operation)

    def the_store_recovers(self) -> None:
        self.world.server.recover()

    def the_store_fails(self, where: int, how: str, what: str, count: int) -> None:
        self.world.server.faults[where].extend([(how, what)] * count)

    def what_was_given_up_is_done(self, index: int) -> None:
        adrift = self.world.server.adrift
        for operation in _one_of(adrift, index):
            adrift.remove(operation)
            operation.take_effect()

    def it_is_invalidated(self, where: int) -> None:
        self.world.invalidate(where)

    # -- time -------------------------------------------------------------------------------

    def nothing_happens(self) -> None:
        return

    def time_passes(self, seconds: float) -> None:
        self.world.loop.pass_time(seconds)

    def the_loop_is_held_up(self, seconds: float) -> None:
        self.world.hold_up(seconds)

    def a_process_is_frozen(self, where: int) -> None:
        self.world.freeze(where)

    def all_go_on(self) -> None:
        self.world.thaw()


def _one_of(those: list[T], index: int) -> list[T]:
    """Return one of those there are, where there are any."""
    return [those[index % len(those)]] if those else []


def _orders(number: int) -> Callable[[int], int]:
    """Return in which order things go on: as asyncio has it, the last first, or any."""
    if number < 2:
        return lambda count: -number % count
    return random.Random(number).randrange


#: How many steps things go on for then, None for as long as they do; and in which order.
Then = tuple[int | None, int]

#: What happens, how things go on then, and the particulars.
Happening = tuple[str, Then, dict[str, Any]]

configs = st.builds(
    Config,
    max_ahead=st.sampled_from([1_000_000, 1, 300, 3_000]),
    max_pending=st.sampled_from([1_000_000, 1_000_000, VALUE_SIZE, 4 * VALUE_SIZE]),
    max_body=st.sampled_from([1_000_000, 1_000_000, 3_000]),
    spool_max=st.sampled_from([1_000_000, 500]),
    inline_max=st.sampled_from([VALUE_SIZE, 0]),
    on_disconnect=st.sampled_from(["finish", "stop"]),
    wait_timeout=st.sampled_from([None, 10.0, 1.0]),
    max_duration=st.sampled_from([600.0, 600.0, 15.0]),
    exact=st.booleans(),
    fallback=st.booleans(),
    varies=st.sampled_from([False, False, True]),
    wrapped=st.booleans(),
    answers=st.sampled_from(["stream"] * 4 + [""] * 4 + ["by itself"] * 2 + ["at hand", "value"]),
    drifts=st.booleans(),
)
thens = st.sampled_from(
    [(steps, order) for order in (0, 0, 0, 1, *range(2, 8)) for steps in (None, None, *range(9))]
)
processes = st.integers(0, 1)
indexes = st.integers(0, 7)
kinds = st.sampled_from(["a", "a", "b"])
whats = st.sampled_from(["all", "reads", "writes", "lease", "segments", "progress"])
hows = st.sampled_from(["lost", "done but lost", "broken", "refused", "hangs"])
ways = st.sampled_from(
    ["stream"] * 4
    + ["by itself"] * 2
    + ["stubborn", "at hand", "value", "private", "fails", "raises"]
)

Arguments = dict[str, st.SearchStrategy[Any]]

#: What happens in each story, how often; and what in some.
USUAL: list[tuple[int, str, Arguments]] = [
    (
        3,
        "somebody_asks",
        {
            "where": processes,
            "kind": kinds,
            "permits": st.sampled_from([float("inf"), float("inf"), 0, 1, 2]),
            "begins": st.sampled_from([True] * 5 + [False]),
            "raises": st.booleans(),
        },
    ),
    (1, "many_ask", {"where": processes, "kind": kinds, "count": st.integers(2, 4)}),
    (2, "a_client_reads", {"index": indexes, "count": st.sampled_from([1, 2, 5, float("inf")])}),
    (3, "the_endpoint_answers", {"index": indexes, "way": ways}),
    (
        4,
        "a_source_yields",
        {
            "index": indexes,
            "sizes": st.sampled_from([[10], [0], [1, 1, 1], [200, 10], [1_500], [5_000, 10]]),
        },
    ),
    (
        2,
        "a_source_ends",
        {"index": indexes, "how": st.sampled_from(["ends", "ends", "ends", "raises"])},
    ),
    (3, "time_passes", {"seconds": st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.6])}),
    (1, "nothing_happens", {}),
]
TROUBLES: dict[str, list[tuple[int, str, Arguments]]] = {
    "leave": [
        (2, "a_client_leaves", {"index": indexes}),
        (3, "a_request_is_cancelled", {"index": indexes}),
    ],
    "store": [
        (2, "the_store_is_slow", {"where": processes, "what": whats}),
        (
            4,
            "an_operation",
            {
                "index": indexes,
                "how": st.sampled_from(["goes on", "goes on", "is done", "fails"]),
            },
        ),
        (1, "the_store_recovers", {}),
        (
            1,
            "the_store_fails",
            {
                "where": processes,
                "how": hows,
                "what": whats,
                "count": st.sampled_from([1, 2, 5, 20]),
            },
        ),
        (1, "what_was_given_up_is_done", {"index": indexes}),
    ],
    "invalidate": [(2, "it_is_invalidated", {"where": processes})],
    "wait": [(3, "time_passes", {"seconds": st.sampled_from([1, 3, 6, 12, 40, 70, 130])})],
    "stop": [
        (1, "the_loop_is_held_up", {"seconds": st.sampled_from([0.1, 1, 6, 40])}),
        (2, "a_process_is_frozen", {"where": processes}),
        (2, "all_go_on", {}),
    ],
}


@functools.cache
def _happenings(troubles: frozenset[str]) -> st.SearchStrategy[list[Happening]]:
    """Return what happens in stories with these troubles."""
    choices = [*USUAL, *(each for trouble in sorted(troubles) for each in TROUBLES[trouble])]
    happening = st.one_of(
        [
            st.tuples(st.just(name), thens, st.fixed_dictionaries(arguments))
            for weight, name, arguments in choices
            for _ in range(weight)
        ]
    )
    # A list has about five of them, and is easily made shorter.
    parts = st.tuples(*[st.lists(happening) for _ in range(6)])
    return parts.map(lambda lists: list(itertools.chain.from_iterable(lists)))


happenings = st.frozensets(st.sampled_from(sorted(TROUBLES))).flatmap(_happenings)


def told(config: Config, story: list[Happening]) -> None:
    """Tell a story to its end."""
    teller = Story(config)
    try:
        for name, then, arguments in story:
            teller.tell(name, then, arguments)
        teller.end()
    finally:
        teller.close()


_USUAL_CLIENT: dict[str, Any] = {
    "where": 0,
    "kind": "a",
    "permits": float("inf"),
    "begins": True,
    "raises": False,
}
_THEN: Then = (None, 0)


def _asks(where: int = 0) -> Happening:
    return "somebody_asks", _THEN, {**_USUAL_CLIENT, "where": where}


def _yields(*sizes: int) -> Happening:
    return "a_source_yields", _THEN, {"index": 0, "sizes": [*sizes]}


_ENDS: Happening = ("a_source_ends", _THEN, {"index": 0, "how": "ends"})
_MANY: Happening = ("many_ask", _THEN, {"where": 0, "kind": "a", "count": 2})


@pytest.fixture(autouse=True, scope="module")
def thaws() -> Iterator[None]:
    """What was kept out of sight of the garbage collector is seen again."""
    yield
    gc.unfreeze()


def test_a_reader_does_not_join_a_run_that_another_process_has_ended_without_an_entry() -> None:
    begin = [_asks(), _MANY, _yields(10), ("time_passes", _THEN, {"seconds": 0.01})]
    # The store can't keep up with the last chunks, just when the last two ask.
    end = [_yields(10), _yields(5000, 10), _MANY, _ENDS]
    told(Config(max_pending=4096, fallback=False), [*begin, *end])


def test_a_slow_store_does_not_make_a_stream_longer_than_max_duration() -> None:
    slow: Happening = ("the_store_is_slow", _THEN, {"where": 0, "what": "all"})
    held_up: Happening = ("the_loop_is_held_up", _THEN, {"seconds": 6})
    told(Config(max_duration=15, fallback=False), [_asks(), slow, _ENDS, held_up, held_up, held_up])


@given(configs, happenings)
@examples(100)
def test_whatever_happens(config: Config, story: list[Happening]) -> None:
    told(config, story)


@pytest.mark.full
@given(configs, happenings)
@examples(700)
def test_whatever_happens_at_length(config: Config, story: list[Happening]) -> None:
    told(config, story)


#: With large bodies in a directory, compressed or not.
with_bodies = st.builds(
    lambda config, window, compress: replace(config, live_window=window, compresses=compress),
    configs,
    st.sampled_from([1_000_000, 0, 2_000]),
    st.booleans(),
)


@given(with_bodies, happenings)
@examples(30)
def test_whatever_happens_with_large_bodies_in_files(
    config: Config, story: list[Happening]
) -> None:
    told(config, story)


@pytest.mark.full
@pytest.mark.rest
@given(with_bodies, happenings)
@examples(300)
def test_whatever_happens_with_large_bodies_in_files_at_length(
    config: Config, story: list[Happening]
) -> None:
    told(config, story)
