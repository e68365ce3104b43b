"""An HTTP client that returns the chunks of a streamed answer as the server sent them.

Other clients merge or split chunks, but the demo counts them.
"""

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from io import BufferedReader

#: The Host header of every request. It is part of the key, so both servers must get the same.
SITE = "demo.test"

_TIMEOUT = 15.0
_READ_SIZE = 65536


@dataclass(frozen=True)
class Answer:
    """The measured answer to one request; times are seconds since the request was sent."""

    status: int
    cache_status: str
    first_byte: float
    total: float
    size: int
    pieces: int
    digest: str

    @property
    def is_hit(self) -> bool:
        """Whether Cache-Status reports a hit."""
        return "hit" in self._parameters

    @property
    def is_stored(self) -> bool:
        """Whether Cache-Status reports a miss whose answer is being stored."""
        return "stored" in self._parameters and not self.is_hit

    @property
    def _parameters(self) -> list[str]:
        return [part.strip() for part in self.cache_status.split(";")]


def ask(host: str, port: int, path: str) -> Answer:
    """Request the path and read the whole answer; raise OSError if the connection breaks."""
    request = f"GET {path} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n"
    digest = hashlib.sha256()
    size = pieces = 0
    with (
        socket.create_connection((host, port), timeout=_TIMEOUT) as connection,
        connection.makefile("rb") as stream,
    ):
        start = time.perf_counter()
        connection.sendall(request.encode("ascii"))
        status = _status(stream)
        headers = http.client.parse_headers(stream)
        first_byte = 0.0
        for piece in _body(stream, headers):
            if not pieces:
                first_byte = time.perf_counter() - start
            digest.update(piece)
            size += len(piece)
            pieces += 1
        total = time.perf_counter() - start
    return Answer(
        status=status,
        cache_status=", ".join(headers.get_all("Cache-Status", [])),
        first_byte=first_byte,
        total=total,
        size=size,
        pieces=pieces,
        digest=digest.hexdigest(),
    )


def _status(stream: BufferedReader) -> int:
    line = stream.readline()
    match line.split(None, 2):
        case [b"HTTP/1.1", code, *_]:
            return int(code)
    raise http.client.BadStatusLine(repr(line))


def _body(stream: BufferedReader, headers: Message) -> Iterator[bytes]:
    if headers.get("Transfer-Encoding") == "chunked":
        return _chunks(stream)
    return _reads(stream, int(headers.get("Content-Length", "0")))


def _chunks(stream: BufferedReader) -> Iterator[bytes]:
    while length := int(_complete(stream.readline()), 16):
        yield _complete(stream.read(length), length)
        _complete(stream.readline())


def _reads(stream: BufferedReader, left: int) -> Iterator[bytes]:
    while left:
        piece = _complete(stream.read1(min(left, _READ_SIZE)))
        left -= len(piece)
        yield piece


def _complete(data: bytes, length: int = 1) -> bytes:
    if len(data) < length:
        raise ConnectionError("the connection ended within the body")
    return data
