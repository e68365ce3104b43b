"""hypercorn in a thread of this process: HTTP/1.1, and HTTP/2 without TLS."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import Any, Self

from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.support.app_server import AppServer
from tests.support.gates import wait_until
from tests.support.process import HOST, free_port


class HypercornServer:
    """An ASGI app behind hypercorn. A context manager."""

    def __init__(self, app: Any) -> None:
        self.port = free_port()
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="hypercorn", daemon=True)

    def _run(self) -> None:
        config = Config()
        config.bind = [f"{HOST}:{self.port}"]
        config.graceful_timeout = 1
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            AppServer.closers[self._loop] = []
            try:
                runner.run(serve(self._app, config, shutdown_trigger=self._until_end))
            finally:
                for close in AppServer.closers.pop(self._loop):
                    runner.run(close())
                # What hypercorn leaves open warns once its loop is closed.
                gc.collect()

    async def _until_end(self) -> None:
        await self._ends.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(self._accepts)
        return self

    def _accepts(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), 1).close()
        except OSError:
            return False
        return True

    def __exit__(self, *exc_info: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
