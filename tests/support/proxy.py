"""A TCP proxy on the loopback that makes the server behind it slow, mute or broken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Self
from urllib.parse import urlencode

from tests.support.process import HOST, free_port

_PIECE = 1 << 16


class DelayProxy:
    """Passes on what comes, in both directions. A context manager.

    What follows can be set at any time, from any thread:

    `delay`      seconds that each piece of a reply is held back; order and throughput stay.
    `holding`    no reply is passed on until it is False again.
    `cut_after`  bytes of replies, counted from when it is set and over all connections,
                 after which a connection is torn down (RST), and so is each one that gets
                 a reply later, until it is set to None (or to a new number).
    `swallow`    nothing is passed on. A connection that has lost bytes so stays mute.

    `connections` is how many were accepted, `requested` and `replied` are bytes passed on.
    """

    def __init__(self, port: int, *, delay: float = 0.0, scheme: str = "redis") -> None:
        self.target_port = port
        self.delay = delay
        self.holding = False
        self.swallow = False
        self.connections = 0
        self.requested = 0
        self.replied = 0
        self._scheme = scheme
        self._budget: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = free_port()
        self._socket = socket.create_server((HOST, self.port))
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def cut_after(self) -> int | None:
        return self._budget

    @cut_after.setter
    def cut_after(self, size: int | None) -> None:
        self._budget = size

    def url(self, **query: object) -> str:
        path = "/0" if self._scheme == "redis" else "/"
        url = f"{self._scheme}://{HOST}:{self.port}{path}"
        return f"{url}?{urlencode(query)}" if query else url

    def cut(self) -> None:
        """Tear down all connections that there are, now."""
        assert self._loop is not None, "not started"
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(10)

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy does not start")

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)
            if self._thread.is_alive():
                raise RuntimeError("the proxy does not stop")
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- in the thread

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, sock=self._socket)
        self._ready.set()
        await self._end.wait()
        server.close()
        await self._cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connection(reader, writer)

    async def _connection(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        self._writers.add(to_client)
        to_server: asyncio.StreamWriter | None = None
        try:
            server, to_server = await asyncio.open_connection(HOST, self.target_port)
            self._writers.add(to_server)
            link = _Link()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(client, to_server, link))
                group.create_task(self._collect(server, link))
                group.create_task(self._replies(to_client, link))
        except* OSError:
            tear_down(to_client)
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    self._writers.discard(writer)
                    writer.close()

    async def _requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, link: _Link
    ) -> None:
        while data := await client.read(_PIECE):
            if self.swallow:
                link.mute = True
            if not link.mute:
                self.requested += len(data)
                to_server.write(data)
                await to_server.drain()
        with contextlib.suppress(OSError):
            to_server.write_eof()

    async def _collect(self, server: asyncio.StreamReader, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        while data := await server.read(_PIECE):
            link.pieces.put_nowait((loop.time() + self.delay, data))
        link.pieces.put_nowait(None)

    async def _replies(self, to_client: asyncio.StreamWriter, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        while (piece := await link.pieces.get()) is not None:
            due, data = piece
            await asyncio.sleep(due - loop.time())
            while self.holding:  # set by another thread  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            if self.swallow:
                link.mute = True
            if link.mute:
                continue
            cut = False
            if self._budget is not None:
                cut = len(data) >= self._budget
                data = data[: self._budget]
                self._budget -= len(data)
            self.replied += len(data)
            to_client.write(data)
            await to_client.drain()
            if cut:
                raise ConnectionAbortedError("cut")
        with contextlib.suppress(OSError):
            to_client.write_eof()

    async def _cut_all(self) -> None:
        for writer in list(self._writers):
            tear_down(writer)


class _Link:
    """One connection through the proxy: what the server has said and when it is due."""

    def __init__(self) -> None:
        self.mute = False
        self.pieces: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()


def tear_down(writer: asyncio.StreamWriter) -> None:
    """End a connection at once, by RST."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
