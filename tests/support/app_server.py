"""uvicorn, the real one: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar

import uvicorn

from tests.support.process import HOST, ServerProcess

T = TypeVar("T")
Closer = Callable[[], Coroutine[Any, Any, object]]
HttpParser = Literal["h11", "httptools"]
EventLoop = Literal["asyncio", "uvloop"]


class _Uvicorn(uvicorn.Server):
    """uvicorn that says when it runs, and ends as soon as it is told to."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        self.loop = asyncio.get_running_loop()
        self.ready.set()
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 1)
            await self.on_tick(0)  # keeps the Date header up to date

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Without the tenth of a second that uvicorn waits even for nobody."""
        for _ in range(20):
            if not self.server_state.connections and not self.server_state.tasks:
                break
            await asyncio.sleep(0.002)  # a client that has closed is seen by then
        else:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await self.lifespan.shutdown()

    def end(self) -> None:
        self._end.set()


class AppServer:
    """An ASGI app behind uvicorn in a thread. A context manager.

    `grace` is how long (whole seconds) requests that still run at the end are waited for.
    """

    closers: ClassVar[dict[asyncio.AbstractEventLoop, list[Closer]]] = {}
    """For the loop of each that runs: what closes that which the app has used."""

    def __init__(
        self,
        app: Callable[..., Any],
        http: HttpParser = "h11",
        port: int = 0,
        *,
        loop: EventLoop = "asyncio",
        grace: int = 1,
        **config: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "log_config": None,  # what it logs goes to the root logger, and so to caplog
            "access_log": False,
            "ws": "none",
            "http": http,
            "loop": "none",
            "timeout_graceful_shutdown": grace,
            **config,
        }
        self._socket = socket.create_server((HOST, port))
        # asyncio sets it only on sockets that name their protocol. Without it, an answer on a
        # connection that is kept open waits 40 ms for an acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        self._loop_factory = _loop_factory(loop)
        self._server = _Uvicorn(uvicorn.Config(app, **settings))
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="uvicorn", daemon=True)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    @property
    def requests_running(self) -> int:
        """How many calls of the app have not returned yet."""
        return len(self._server.server_state.tasks)

    @property
    def connections(self) -> int:
        """How many clients are connected, as far as it knows."""
        return len(self._server.server_state.connections)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        """Run `coroutine` in the server's loop and wait for its result."""
        assert self._server.loop is not None, "not started"
        return asyncio.run_coroutine_threadsafe(coroutine, self._server.loop).result(timeout)

    def start(self) -> None:
        self._thread.start()
        if not self._server.ready.wait(30):
            raise RuntimeError("uvicorn does not start")
        if self._server.loop is None:
            self._thread.join(10)
            raise RuntimeError("uvicorn did not start") from self._error

    def stop(self, timeout: float = 20) -> None:
        """End it and wait until its thread is gone. Does nothing the second time."""
        if self._thread.is_alive() and self._server.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._server.loop.call_soon_threadsafe(self._server.end)
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise RuntimeError("uvicorn does not stop")
            if self._error is not None:
                raise RuntimeError("uvicorn did not stop well") from self._error
        self._socket.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                self.closers[runner.get_loop()] = []
                try:
                    runner.run(self._server.serve(sockets=[self._socket]))
                finally:
                    for close in self.closers.pop(runner.get_loop()):
                        runner.run(close())
        except (Exception, SystemExit) as error:  # uvicorn exits where the lifespan fails
            self._error = error
        finally:
            self._server.ready.set()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def _loop_factory(loop: EventLoop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


class AppProcess(ServerProcess):
    """An app, given as "module:attribute", behind uvicorn in a process of its own.

    It runs in the root of the project (so that "tests.apps:app" can be imported), with
    `environment` on top of ours. What it writes is in `output()`.
    """

    def __init__(
        self,
        app: str,
        environment: Mapping[str, str] | None = None,
        http: HttpParser = "h11",
        *,
        loop: EventLoop = "asyncio",
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.app, self.http, self.loop, self.options = app, http, loop, options
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", self.app, "--host", HOST),
            *("--port", str(self.port), "--http", self.http, "--loop", self.loop),
            *("--ws", "none", "--no-access-log", "--timeout-graceful-shutdown", "2"),
            *self.options,
        ]
