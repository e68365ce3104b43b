"""A proxy on the loopback that understands what it passes on, and fails where it is told to.

It runs in the loop that enters it: in virtual time its delays cost nothing. `InThread` gives
it a loop and a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from tests.support.process import HOST, free_port
from tests.support.proxy import tear_down
from tests.support.wire import Command, Wire

T = TypeVar("T")

_PIECE = 1 << 18

#: Seconds between two pieces of a reply that is throttled.
_TICK = 0.05

#: What the proxy says instead of the server; None where the command is passed on.
Answer = Callable[[Command], bytes | None]
Hook = Callable[[Command], Awaitable[None]]


async def _no_hook(command: Command) -> None:
    return


@dataclass(eq=False, slots=True)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    expected: deque[tuple[Command, bytes | None]] = field(default_factory=deque)
    """What was asked and not answered, in its order, and what the proxy answers itself."""
    buffer: bytearray = field(default_factory=bytearray)
    """What the server has said of a reply that is not whole."""
    said: asyncio.Queue[tuple[float, bytes] | None] = field(default_factory=asyncio.Queue)
    """Replies, and when they are due."""
    owed: int = 0
    """Replies that the server owes."""
    mute: bool = False


class FaultProxy:
    """
    Passes on commands and replies. An asynchronous context manager.

    What follows can be set at any time:

    `delay`      seconds that each reply is held back; order and throughput stay.
    `rate`       bytes of replies per second and connection, None for no bound.
    `cut_after`  bytes of replies, counted from when it is set and over all connections, after
                 which a connection is torn down (RST), and so is each one that gets a reply later.
    `swallow`    no command is passed on or answered; a connection that has lost one stays mute.
    `answer`     what is said in the server's place.
    `hook`       awaited before each command is passed on; it may set all of these.
    `hangs`      the server is known not to answer: a reply is not waited for.

    `counts` is how many commands came, by name; `passed` how many of them reached the server.
    """

    def __init__(self, wire: Wire, target_port: int) -> None:
        self.wire = wire
        self.target_port = target_port
        self.port = free_port()
        self._flows = asyncio.Event()
        self.heal()
        self.hook: Hook = _no_hook
        self.counts: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.connections = 0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def heal(self) -> None:
        """Pass everything on as it comes."""
        self.delay = 0.0
        self.rate: float | None = None
        self.cut_after: int | None = None
        self.swallow = False
        self.hangs = False
        self.answer: Answer = lambda command: None
        self._flows.set()

    def clog(self) -> None:
        """Read nothing of what clients send, so that it piles up with them."""
        self._flows.clear()

    def owed(self) -> bool:
        """Whether the server owes a reply, and will give it."""
        return not self.hangs and any(link.owed for link in self._links)

    @property
    def tasks(self) -> frozenset[asyncio.Task[None]]:
        """Its own tasks."""
        return frozenset(self._tasks)

    async def listen(self) -> None:
        """Accept connections."""
        if self._server is None:
            listening = socket.create_server((HOST, self.port))
            # Small, so that clients notice soon where nothing is read.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
            # Left out by asyncio here: a reply would wait for the one before to be acknowledged.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._server = await asyncio.start_server(self._accept, sock=listening)

    async def refuse(self) -> None:
        """Close the port, and tear down all connections."""
        server, self._server = self._server, None
        if server is not None:
            for listening in server.sockets:
                asyncio.get_running_loop().remove_reader(listening)
            # Of what is accepted while a server closes, asyncio closes nothing.
            await asyncio.sleep(0)
            server.close()
        self.tear_down()

    def tear_down(self) -> None:
        """Tear down all connections that there are."""
        for link in self._links:
            tear_down(link.to_client)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.refuse()
        await _turns()  # what has been accepted is told of in the next ones
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # they are forgotten in the next turn
        await _turns()  # what was torn down is closed in the next ones

    # -- a connection -----------------------------------------------------------------------

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._spawn(self._connect(client, to_client))

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            tear_down(to_client)
            return
        except BaseException:
            tear_down(to_client)
            raise
        link = _Link(client, to_client, server, to_server)
        self._links.add(link)
        try:
            await self._serve(link)
        finally:
            self._links.discard(link)
            to_server.close()
            to_client.close()

    async def _serve(self, link: _Link) -> None:
        """Serve a connection until its client has gone, or has been told all there is to tell."""
        collecting = self._spawn(self._collect(link))
        ends = [self._spawn(self._requests(link)), self._spawn(self._replies(link))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (collecting, *ends):
                task.cancel()
            await asyncio.gather(collecting, *ends, return_exceptions=True)

    async def _requests(self, link: _Link) -> None:
        buffer = bytearray()
        while data := await link.client.read(_PIECE):
            await self._flows.wait()
            buffer += data
            while (command := self.wire.command(buffer)) is not None:
                await self._handle(link, command)

    async def _handle(self, link: _Link, command: Command) -> None:
        self.counts[command.name] += 1
        await self.hook(command)
        # The hook may have ended the connection.
        link.mute = link.mute or self.swallow or link.to_client.is_closing()
        if link.mute:
            return
        answer = self.answer(command)
        link.expected.append((command, answer))
        if answer is not None:
            self._advance(link)
            return
        self.passed[command.name] += 1
        link.owed += 1
        link.to_server.write(command.raw)
        await link.to_server.drain()

    def _advance(self, link: _Link) -> None:
        """Hand on the replies that are whole, in the order of what was asked."""
        due = asyncio.get_running_loop().time() + self.delay
        while link.expected:
            command, reply = link.expected[0]
            if reply is None:
                reply = self.wire.reply(link.buffer, command)
                if reply is None:
                    return
                link.owed -= 1
            link.expected.popleft()
            link.said.put_nowait((due, reply))

    async def _collect(self, link: _Link) -> None:
        """Read what the server says, to its end."""
        with contextlib.suppress(OSError):
            while data := await link.server.read(_PIECE):
                link.buffer += data
                self._advance(link)
        link.owed = 0
        link.said.put_nowait(None)

    async def _replies(self, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        while (said := await link.said.get()) is not None:
            due, reply = said
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            link.mute = link.mute or self.swallow
            if not link.mute:
                await self._send(link, reply)

    async def _send(self, link: _Link, reply: bytes) -> None:
        view = memoryview(reply)
        while view:
            size = len(view)
            if self.rate is not None:
                size = min(size, max(1, int(self.rate * _TICK)))
                await asyncio.sleep(size / self.rate)
            if self.cut_after is not None:
                size = min(size, self.cut_after)
                self.cut_after -= size
            link.to_client.write(view[:size])
            await link.to_client.drain()
            view = view[size:]
            if self.cut_after == 0:
                # What is written goes out first: it is in the socket, unless that is full.
                tear_down(link.to_client)
                raise ConnectionAbortedError("cut")


class InThread:
    """A proxy in a thread of its own. A context manager."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def call(self, awaitable: Awaitable[T]) -> T:
        """Await something in its loop, and wait for the result."""

        async def awaited() -> T:
            return await awaitable

        assert self._loop is not None, "not started"
        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.proxy:
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy does not start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the proxy does not stop")


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
