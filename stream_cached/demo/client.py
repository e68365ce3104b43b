"""A client that reads a streamed answer in the chunks that the server sent it in.

The usual clients merge or split them on the way; here their number is part of the result.
"""

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from io import BufferedReader

#: The host that every request names, whichever server it goes to: it is part of an entry's key.
SITE = "demo.test"

_TIMEOUT = 15.0
_READ_SIZE = 65536


@dataclass(frozen=True)
class Answer:
    """What came back for one request; times are seconds since the request was sent."""

    status: int
    cache_status: str
    first_byte: float
    total: float
    size: int
    pieces: int
    digest: str

    @property
    def is_hit(self) -> bool:
        """Whether Cache-Status says that the answer came out of the store."""
        return "hit" in self._parameters

    @property
    def is_stored(self) -> bool:
        """Whether Cache-Status says that the answer was made now, and is being stored."""
        return "stored" in self._parameters and not self.is_hit

    @property
    def _parameters(self) -> list[str]:
        return [part.strip() for part in self.cache_status.split(";")]


def ask(host: str, port: int, path: str) -> Answer:
    """
    Request the path and read the whole answer.

    Raises:
        OSError: The connection failed or ended early.
        http.client.HTTPException: The answer is not HTTP.
    """
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
