"""A server that understands nothing and writes prepared bytes: what the client itself can do.

Its only argument is a port. It is no contender: no server that reads its requests is as fast.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.bodies import MEDIA_TYPE, body_of
from tests.support.process import HOST


class RawBytes(asyncio.Protocol):
    """A connection."""

    prepared: dict[bytes, bytes]
    _transport: asyncio.WriteTransport

    def __init__(self, prepared: dict[bytes, bytes]) -> None:
        self.prepared = prepared

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop don't say so.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        path = data[5 : data.index(b" ", 5)].partition(b"?")[0]
        if path not in self.prepared:
            whole = b"0" if path == b"runs" else body_of(path.decode()).whole
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(whole)}"
            self.prepared[path] = head.encode() + b"\r\n\r\n" + whole
        self._transport.write(self.prepared[path])


async def serve(port: int) -> None:
    """Serve for ever."""
    prepared: dict[bytes, bytes] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: RawBytes(prepared), HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
