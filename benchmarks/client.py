"""A client that costs little beside what it measures: it reads first, and understands afterwards.

Python's `http.client` needs more time for a body of 20,000 chunks than the server that sends it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from tests.support.process import HOST

_LARGEST = 12 * 1024 * 1024
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass
class Answer:
    """
    What came over the wire.

    Args:
        head: The status line and the headers.
        payload: The body as it was framed.
        first: Seconds until the first byte of the body.
        took: Seconds until its last byte.
        complete: Whether the framing says that nothing is missing.
    """

    head: str
    payload: bytes
    first: float
    took: float
    complete: bool

    @property
    def status(self) -> int:
        """The status; 0 where not even that came."""
        return int(self.head[9:12] or 0)

    @cached_property
    def headers(self) -> list[str]:
        """The lines of the head, as they came, but for their case."""
        return self.head.lower().split("\r\n")[1:]

    @property
    def cache_status(self) -> str | None:
        """The value of Cache-Status."""
        found = [line for line in self.headers if line.startswith("cache-status: ")]
        return found[0].removeprefix("cache-status: ") if found else None

    @property
    def body(self) -> bytes:
        """The body, or as much of it as came; put together at each access."""
        if "transfer-encoding: chunked" not in self.headers:
            return self.payload
        pieces, start = [], 0
        while (edge := self.payload.find(b"\r\n", start)) >= 0:
            size = int(self.payload[start:edge], 16)
            pieces.append(self.payload[edge + 2 : edge + 2 + size])
            start = edge + 2 + size + 2
        return b"".join(pieces)


def length_in(head: bytes) -> int | None:
    """Return the Content-Length; None for a body in chunks."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return None


class Client:
    """One connection, kept alive; a context manager."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self._address, self._timeout = (HOST, port), timeout
        self._data = bytearray(_LARGEST)
        self._filled = 0
        self._socket = socket.socket()
        self.reconnect()

    def reconnect(self) -> None:
        """Replace the connection: after a broken answer it is of no use."""
        self._socket.close()
        self._socket = socket.create_connection(self._address, self._timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, target: str) -> Answer:
        """Ask for a path; only from the first byte sent to the last received does time count."""
        request = f"GET {target} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()
        self._filled, head, first, complete = 0, -1, 0.0, False
        start = time.perf_counter()
        self._socket.sendall(request)
        while not complete and self._receive():
            if head < 0:
                head = self._data.find(b"\r\n\r\n", 0, self._filled) + 4
                if head < 4:
                    head = -1
                    continue
                length = length_in(bytes(self._data[:head]))
            if not first and self._filled > head:
                first = time.perf_counter() - start
            if length is None:
                complete = self._data.endswith(LAST_CHUNK, 0, self._filled)
            else:
                complete = self._filled >= head + length
        took = time.perf_counter() - start
        text = self._data[: max(0, head)].decode("latin-1")
        payload = bytes(memoryview(self._data)[max(0, head) : self._filled])
        return Answer(text, payload, first or took, took, complete)

    def json(self, target: str) -> Any:
        """Ask for a path that answers in JSON."""
        return json.loads(self.get(target).body)

    def _receive(self) -> int:
        """Read what there is; 0 at the end of the connection, however it ended."""
        with memoryview(self._data) as view, contextlib.suppress(ConnectionError):
            received = self._socket.recv_into(view[self._filled :])
            self._filled += received
            return received
        return 0

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
