"""An HTTP/1 client that shows what was on the wire, and how it ended.

It is the judge of "whole or broken, never short": a response is `complete` only where the
protocol says so (the terminal chunk, the last byte of the content-length). It forgives
nothing. Each call has a time-out; one that runs out is a TimeoutError and not a response.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Self

from tests.support.process import HOST

Text = str | bytes
Headers = Mapping[str, str] | Iterable[tuple[Text, Text]]
Framing = Literal["chunked", "length", "close", "none"]


class _BrokenError(Exception):
    """The connection or the framing broke."""


@dataclass
class RawResponse:
    """What came over the wire. `status` is 0 where not even a whole head came."""

    status: int = 0
    reason: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False
    """The body is whole, as far as the protocol can tell: with `framing` "close" it can't."""
    error: str | None = None
    """Why it is not complete."""
    framing: Framing = "none"
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    head_at: float = 0.0
    pieces: list[tuple[float, int]] = field(default_factory=list)
    """The body as it came: (seconds since the request was sent, how many bytes it had by then)."""
    ended_at: float | None = None
    """When its end was seen, clean or broken, in seconds since the request was sent."""
    _parts: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The body so far."""
        # Joined where it is asked for: once for each piece would take minutes for a large body.
        if len(self._parts) != 1:
            self._parts[:] = [b"".join(self._parts)]
        return self._parts[0]

    @property
    def size(self) -> int:
        """How many bytes of the body have come."""
        return self.pieces[-1][1] if self.pieces else 0

    def add(self, piece: bytes, at: float, *, keep: bool) -> None:
        """Take in the next piece of the body."""
        self.pieces.append((at, self.size + len(piece)))
        if keep:
            self._parts.append(piece)

    def header(self, name: str) -> str | None:
        """The one value of a header, None without; more than one is an error."""
        values = self.header_values(name)
        assert len(values) < 2, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    @property
    def text(self) -> str:
        return self.body.decode()


class RawClient:
    """One connection. `request()`, or step by step `send()`, `read_head()`, `read_some()`.

    One that keeps nothing knows how long a body was, and that it was complete.
    """

    def __init__(
        self,
        port: int,
        *,
        timeout: float = 30,
        receive_buffer: int | None = None,
        host: str = HOST,
        keeps: bool = True,
    ) -> None:
        self.timeout = timeout
        self._keeps = keeps
        self.port = port
        self._socket = socket.socket()
        if receive_buffer is not None:  # before connecting, or it has no effect
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect((host, port))
        except BaseException:
            self._socket.close()
            raise
        self._buffer = b""
        self._deadline = 0.0
        self._asked: list[tuple[str, float]] = []  # method and time of what is unanswered
        self._sent_at = 0.0
        self._left = 0
        self._in_chunk = False
        self.response = RawResponse(ended_at=0.0)

    # -- one whole request

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Headers = (),
        body: bytes = b"",
        *,
        version: Literal["1.0", "1.1"] = "1.1",
        timeout: float | None = None,
    ) -> RawResponse:
        """Send a request and read its response, to its end; `timeout` is for all of it."""
        self.send(method, target, headers, body, version=version)
        return self.read_all(timeout)

    # -- step by step

    def send(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Headers = (),
        body: bytes = b"",
        *,
        version: Literal["1.0", "1.1"] = "1.1",
    ) -> None:
        """Send a request; Host and Content-Length are added where they are missing."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        fields = [(_bytes(name), _bytes(value)) for name, value in pairs]
        names = {name.lower() for name, _ in fields}
        if b"host" not in names:
            fields.insert(0, (b"Host", b"%b:%d" % (HOST.encode(), self.port)))
        if body and b"content-length" not in names:
            fields.append((b"Content-Length", b"%d" % len(body)))
        head = f"{method} {target} HTTP/{version}\r\n".encode("latin-1")
        head += b"".join(b"%b: %b\r\n" % pair for pair in fields) + b"\r\n"
        self._socket.settimeout(self.timeout)
        self._asked.append((method, time.monotonic()))
        self._socket.sendall(head + body)

    def read_head(self, timeout: float | None = None) -> RawResponse:
        """The head of the next response; the body is added to it by `read_some()`.

        Where the connection ends before the end of the head, `status` is 0.
        """
        assert self._asked, "no request was sent"
        assert self.response.ended_at is not None, "the last response was not read to its end"
        self._deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        method, self._sent_at = self._asked[0]
        response = self.response = RawResponse()
        try:
            while True:
                status, reason = _status_line(self._line())
                headers = self._fields()
                if status >= 200:  # what comes before (100, 103) is not the response
                    break
            response.status, response.reason, response.headers = status, reason, headers
            response.head_at = self._elapsed()
            del self._asked[0]
            self._begin_body(method)
        except _BrokenError as broken:
            self._end(broken)
        return response

    def read_some(self, timeout: float | None = None) -> bytes:
        """What there is of the body, at least a byte; b"" at its end.

        `client.response.complete` then tells a clean end from a broken one.
        """
        response = self.response
        if response.ended_at is not None:
            return b""
        self._deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            piece = self._piece()
        except _BrokenError as broken:
            self._end(broken)
            return b""
        if piece:
            response.add(piece, self._elapsed(), keep=self._keeps)
        elif self._buffer and not self._asked:
            self._end(_BrokenError(f"bytes after the end of the body: {self._buffer[:40]!r}"))
        else:
            self._end(None)
        return piece

    def read_until(self, size: int, timeout: float | None = None) -> bytes:
        """Read on until the body so far has `size` bytes, or ends; the body so far."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while self.response.size < size and self.read_some(deadline - time.monotonic()):
            pass
        return self.response.body

    def read_rest(self, timeout: float | None = None) -> RawResponse:
        """Read the body to its end, once the head was read; `timeout` is for all of it."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while self.read_some(deadline - time.monotonic()):
            pass
        return self.response

    def read_all(self, timeout: float | None = None) -> RawResponse:
        """The head and all of the body."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        self.read_head(deadline - time.monotonic())
        return self.read_rest(deadline - time.monotonic())

    # -- the end of the connection

    def close(self) -> None:
        """Close it in an orderly way (FIN)."""
        self._socket.close()

    def abort(self) -> None:
        """Tear it down (RST), as a client does that dies."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- framing

    def _begin_body(self, method: str) -> None:
        response = self.response
        codings = response.header_values("transfer-encoding")
        lengths = response.header_values("content-length")
        if codings and lengths:
            raise _BrokenError("both transfer-encoding and content-length")
        if len(lengths) > 1 or any(not value.isdecimal() for value in lengths):
            raise _BrokenError(f"content-length: {lengths}")
        if method == "HEAD" or response.status in (204, 304):
            response.framing = "none"
            self._left = 0
        elif codings:
            if codings != ["chunked"]:
                raise _BrokenError(f"transfer-encoding: {codings}")
            response.framing = "chunked"
            self._left, self._in_chunk = 0, False
        elif lengths:
            response.framing = "length"
            self._left = int(lengths[0])
        else:
            response.framing = "close"

    def _piece(self) -> bytes:
        match self.response.framing:
            case "none":
                return b""
            case "length":
                return self._counted("content-length") if self._left else b""
            case "close":
                if not self._buffer:
                    self._receive()
                piece, self._buffer = self._buffer, b""
                return piece
            case "chunked":
                return self._of_chunk()

    def _of_chunk(self) -> bytes:
        if self._left == 0:
            if self._in_chunk and self._line() != b"":
                raise _BrokenError("a chunk that is longer than its size")
            self._in_chunk = False  # a read that timed out here is taken up again
            size = self._line().split(b";")[0].strip()
            if not size or size.strip(b"0123456789abcdefABCDEF"):
                raise _BrokenError(f"the size of a chunk: {size!r}")
            self._left, self._in_chunk = int(size, 16), True
            if self._left == 0:
                self.response.trailers = self._fields()
                return b""
        return self._counted("chunk")

    def _counted(self, what: str) -> bytes:
        if not self._buffer and not self._receive():
            raise _BrokenError(
                f"the connection ended {self._left} bytes before the end of the {what}"
            )
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(piece)
        return piece

    def _fields(self) -> list[tuple[bytes, bytes]]:
        pairs = []
        while line := self._line():
            name, colon, value = line.partition(b":")
            if not colon or name != name.strip():
                raise _BrokenError(f"not a header: {line!r}")
            pairs.append((name, value.strip(b" \t")))
        return pairs

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._receive():
                raise _BrokenError(
                    f"the connection ended where a line was due, at {self._buffer!r}"
                )
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _receive(self) -> bool:
        """Wait for more; False at an orderly end of the connection."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        try:
            received = self._socket.recv(1 << 18)
        except TimeoutError:
            raise
        except OSError as error:
            raise _BrokenError(f"the connection broke: {error}") from error
        self._buffer += received
        return bool(received)

    def _end(self, broken: _BrokenError | None) -> None:
        self.response.ended_at = self._elapsed()
        self.response.complete = broken is None
        self.response.error = None if broken is None else str(broken)

    def _elapsed(self) -> float:
        return time.monotonic() - self._sent_at


def fetch(
    port: int,
    target: str = "/",
    headers: Headers = (),
    *,
    method: str = "GET",
    body: bytes = b"",
    timeout: float = 30,
) -> RawResponse:
    """One request on a connection of its own."""
    with RawClient(port, timeout=timeout) as client:
        return client.request(method, target, headers, body)


def fetch_many(
    port: int,
    target: str = "/",
    headers: Headers = (),
    *,
    count: int,
    timeout: float = 40,
) -> list[RawResponse]:
    """The same request `count` times at once, each in a thread; all are connected first."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    barrier = threading.Barrier(count)

    def one(_: int) -> RawResponse:
        with RawClient(port, timeout=timeout) as client:
            barrier.wait(timeout)
            return client.request("GET", target, pairs)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def _bytes(text: Text) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _status_line(line: bytes) -> tuple[int, bytes]:
    version, _, rest = line.partition(b" ")
    code, _, reason = rest.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit():
        raise _BrokenError(f"not a status line: {line!r}")
    return int(code), reason
