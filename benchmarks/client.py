"""A client that costs little beside what it measures: it reads first, and understands afterwards.

Python's `http.client` needs more time for a body of 20,000 chunks than the server that sends it.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
import zlib
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


def request_for(target: str) -> bytes:
    """Return the bytes of a request."""
    return f"GET {target} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()


def length_in(head: bytes) -> int | None:
    """Return the Content-Length; None for a body in chunks."""
    lower = head.lower()
    start = lower.find(b"\r\ncontent-length:")
    return None if start < 0 else int(lower[start + 17 : lower.index(b"\r\n", start + 2)])


class Client:
    """One connection, kept alive; a context manager."""

    def __init__(self, port: int, timeout: float = 60.0, *, room: int = _LARGEST) -> None:
        self._address, self._timeout = (HOST, port), timeout
        self._data = bytearray(room)
        self._filled = 0
        self._head = self._length = 0
        self._framed = True
        self._socket = socket.socket()
        self.reconnect()

    def reconnect(self) -> None:
        """Replace the connection: after a broken answer it is of no use."""
        self._socket.close()
        self._socket = socket.create_connection(self._address, self._timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def port(self) -> int:
        """The port that it is connected with."""
        return self._address[1]

    def fileno(self) -> int:
        """The number of its socket."""
        return self._socket.fileno()

    def send(self, request: bytes) -> None:
        """Write a request."""
        self._filled = self._head = 0
        self._socket.sendall(request)

    def advance(self) -> bool:
        """Read once; return whether the answer has ended, in whichever way."""
        return not self._receive() or self.is_complete()

    def is_complete(self) -> bool:
        """Whether the framing says that the answer is all there."""
        if not self._head and not self._read_head():
            return False
        if self._framed:
            return self._filled >= self._head + self._length
        return self._data.endswith(LAST_CHUNK, 0, self._filled)

    def _read_head(self) -> bool:
        edge = self._data.find(b"\r\n\r\n", 0, self._filled)
        if edge < 0:
            return False
        self._head = edge + 4
        length = length_in(bytes(self._data[: self._head]))
        self._framed, self._length = length is not None, length or 0
        return True

    @property
    def payload_size(self) -> int:
        """Bytes of the body so far, as it is framed."""
        return self._filled - self._head

    def get(self, target: str) -> Answer:
        """Ask for a path; only from the first byte sent to the last received does time count."""
        request, first = request_for(target), 0.0
        start = time.perf_counter()
        self.send(request)
        ended = False
        while not ended:
            ended = self.advance()
            if not first and self._head and self._filled > self._head:
                first = time.perf_counter() - start
        took = time.perf_counter() - start
        return self.answer(first or took, took)

    def answer(self, first: float = 0.0, took: float = 0.0) -> Answer:
        """Return what has come last."""
        text = self._data[: self._head].decode("latin-1")
        payload = bytes(memoryview(self._data)[self._head : self._filled])
        return Answer(text, payload, first, took, self.is_complete())

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


class Load:
    """
    Connections that each ask for one thing after the other, all at the same time.

    Args:
        port: The server's.
        connections: How many.
        room: Bytes of an answer at the most.
        timeout: Seconds in which something has to come.
    """

    def __init__(
        self, port: int, connections: int, *, room: int = _LARGEST, timeout: float = 60.0
    ) -> None:
        self.clients = [Client(port, room=room) for _ in range(connections)]
        self.sizes: set[int] = set()
        self._timeout = timeout
        self._by_number = {client.fileno(): client for client in self.clients}
        self._poll = select.epoll()
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)

    def run(self, targets: list[str]) -> tuple[float, list[float]]:
        """Ask for all of them; return the seconds of all and of each. `sizes` is of the bodies."""
        self.sizes = set()
        requests = [request_for(target) for target in reversed(targets)]
        started: dict[int, float] = {}
        latencies: list[float] = []
        clock = time.perf_counter
        start = clock()
        for number, client in self._by_number.items():
            if requests:
                started[number] = clock()
                client.send(requests.pop())
        while started:
            events = self._poll.poll(self._timeout)
            if not events:
                raise TimeoutError
            for number, _ in events:
                client = self._by_number[number]
                if not client.advance():
                    continue
                now = clock()
                latencies.append(now - started.pop(number))
                self.sizes.add(client.payload_size)
                if not client.is_complete():
                    raise ConnectionError("an answer broke off")
                if requests:
                    started[number] = now
                    client.send(requests.pop())
        return clock() - start, latencies

    def close(self) -> None:
        """Close the connections."""
        self._poll.close()
        for client in self.clients:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass
class Drained:
    """What came of a body that was read without being kept."""

    first: float
    took: float
    length: int
    digest: int


def drain(port: int, target: str) -> Drained:
    """Ask over a connection of its own, and keep nothing but the length and the CRC-32."""
    with socket.create_connection((HOST, port), 120) as connection:
        start = time.perf_counter()
        connection.sendall(
            request_for(target).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        with connection.makefile("rb", buffering=1024 * 1024) as answer:
            framed = None
            while (line := answer.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    framed = int(line[15:])
            first, length, digest = 0.0, 0, 0
            while piece := _piece(answer, framed, length):
                first = first or time.perf_counter() - start
                length += len(piece)
                digest = zlib.crc32(piece, digest)
        return Drained(first, time.perf_counter() - start, length, digest)


def _piece(answer: Any, framed: int | None, length: int) -> bytes:
    """Return the next piece of a body; none at its end, or where it breaks off."""
    if framed is not None:
        return bytes(answer.read(min(262_144, framed - length)))
    size = int(answer.readline() or b"0", 16)
    piece = bytes(answer.read(size))
    answer.readline()
    return piece
