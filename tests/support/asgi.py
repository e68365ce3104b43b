"""ASGI by hand: `receive` and `send` are small functions, and a client leaves when a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

from starlette.types import ASGIApp, Message

from tests.support.gates import runs_over


class Exchange:
    """
    One request to an app, without a server.

    From ASGI 2.4 on `send` raises once the client has left, before it is silent; `receive` then
    gives a disconnect in both.
    """

    def __init__(self, app: ASGIApp, spec_version: str = "2.3", path: str = "/") -> None:
        self.app = app
        self.raises = tuple(map(int, spec_version.split("."))) >= (2, 4)
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"example.org")],
            "client": ("127.0.0.1", 5000),
            "server": ("example.org", 80),
        }
        self.sent: list[Message] = []
        self.begun = asyncio.Event()
        """The head has come."""
        self.received = asyncio.Event()
        """The first byte of a body has come."""
        self.left = asyncio.Event()
        self._asked = False

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        last: Message = self.sent[-1] if self.sent else {"type": "nothing"}
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    @property
    def cache_status(self) -> str:
        headers = dict(self.sent[0]["headers"])
        return str(headers[b"cache-status"].decode())

    async def run(self) -> None:
        await self.app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self.left.is_set():
            if self.raises:
                raise OSError("the client has left")
            return
        self.sent.append(message)
        self.begun.set()
        if message.get("body"):
            self.received.set()


async def get(app: ASGIApp, path: str = "/") -> Exchange:
    """A request of a client that stays."""
    exchange = Exchange(app, path=path)
    await exchange.run()
    return exchange


async def leave(app: ASGIApp, path: str = "/", query: bytes = b"") -> Exchange:
    """A request of a client that leaves with its first byte; wait until nothing of it is left."""
    exchange = Exchange(app, path=path)
    exchange.scope["query_string"] = query
    sending = asyncio.create_task(exchange.run())
    await exchange.received.wait()
    exchange.left.set()
    await sending
    await runs_over()
    return exchange


async def joined(chunks: AsyncIterable[Any]) -> bytes:
    """Read a body to its end."""
    return b"".join([bytes(chunk) async for chunk in chunks])
