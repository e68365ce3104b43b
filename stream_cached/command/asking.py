"""Asks a URL once, and notes when each piece of the answer has come."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from stream_cached.command.loading import UnableError

#: How many pieces have a time of their own in the output.
MOST_TIMES = 100

_READ_SIZE = 65536

#: Why an answer is not whole.
Cut = Literal["", "time", "size", "broken"]


@dataclass(frozen=True)
class Question:
    """What is asked."""

    url: SplitResult
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    timeout: float = 30.0
    max_bytes: int = 64 << 20
    insecure: bool = False

    @property
    def shown(self) -> str:
        """The URL without credentials, and without its query, which may have some."""
        query = "?..." if self.url.query else ""
        return f"{self.url.scheme}://{self.url.netloc}{self.url.path or '/'}{query}"


@dataclass(frozen=True)
class Answer:
    """What has come. Times are seconds since the request."""

    status: int
    version: str = "HTTP/1.1"
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers, by lower-cased names."""
    head: float = 0.0
    times: tuple[float, ...] = ()
    """When the first pieces of the body have come."""
    pieces: int = 0
    last: float = 0.0
    """When the last piece has come."""
    seconds: float = 0.0
    size: int = 0
    """Bytes of the body as they were sent."""
    digest: str = ""
    """The SHA-256 of the body, without its compression."""
    cut: Cut = ""

    @property
    def first_byte(self) -> float:
        """When the body has begun."""
        return self.times[0] if self.times else self.last

    def header(self, name: str) -> str:
        """Return a header as it can be printed."""
        value = self.headers.get(name, "")
        return "".join(c if c.isprintable() else "?" for c in value)[:300]


def question(url: str, headers: Sequence[str], **options: Any) -> Question:
    """
    Return what is asked.

    Raises:
        UnableError: The URL is none of HTTP, or a header is none.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise UnableError("the URL can't be parsed: write http://host:port/path") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnableError("the URL is none of HTTP: write http://host:port/path, or https://")
    if "@" in parts.netloc:
        raise UnableError(
            "the URL has credentials: leave them out, and write --header 'Authorization: ...'"
        )
    fields = []
    for each in headers:
        name, separator, value = each.partition(":")
        if not separator or not name.strip():
            raise UnableError("a --header has no colon: write --header 'Name: value'")
        fields.append((name.strip(), value.strip()))
    if not any(name.lower() == "accept-encoding" for name, _ in fields):
        # As browsers do, so that it shows what a compressor does to the stream.
        fields.append(("Accept-Encoding", "gzip"))
    return Question(parts, headers=tuple(fields), **options)


def ask(asked: Question) -> Answer:
    """
    Send a request, and read its answer within the bounds of time and size.

    Raises:
        UnableError: There is no answer.
    """
    connection = _connection(asked)
    start = time.perf_counter()
    try:
        with _bounded(asked.timeout) as (is_over, sockets):
            try:
                connection.connect()
                sockets.append(connection.sock)
                response = _sent(connection, asked)
                if is_over():
                    # The head may have been cut, which shows nowhere.
                    raise TimeoutError
            except ssl.SSLCertVerificationError as exc:
                raise UnableError(
                    f"the certificate of {asked.url.hostname} can't be verified "
                    f"({exc.verify_message}): correct it, or write --insecure for a test"
                ) from exc
            except ssl.SSLError as exc:
                raise UnableError(
                    f"no TLS with {asked.url.netloc} ({exc.reason}): write http:// if the server "
                    "has none there"
                ) from exc
            except (OSError, http.client.HTTPException) as exc:
                raise UnableError(_no_answer(asked, exc, is_over())) from exc
            return _read(response, asked, start, is_over)
    finally:
        connection.close()


def _connection(asked: Question) -> http.client.HTTPConnection:
    host, port = asked.url.hostname or "", asked.url.port
    if asked.url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=asked.timeout)
    context = ssl.create_default_context()
    if asked.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=asked.timeout, context=context)


def _sent(connection: http.client.HTTPConnection, asked: Question) -> http.client.HTTPResponse:
    target = (asked.url.path or "/") + (f"?{asked.url.query}" if asked.url.query else "")
    try:
        given = {name.lower() for name, _ in asked.headers}
        connection.putrequest(
            asked.method, target, skip_host="host" in given, skip_accept_encoding=True
        )
        for name, value in asked.headers:
            connection.putheader(name, value)
        if "user-agent" not in given:
            connection.putheader("User-Agent", "stream-cached-probe")
        connection.putheader("Connection", "close")
        connection.endheaders()
    except (ValueError, http.client.InvalidURL):
        # Its text would show the value.
        raise UnableError(
            "the method, the URL or a --header has a character that HTTP does not allow there: "
            "percent-encode it"
        ) from None
    return connection.getresponse()


@contextmanager
def _bounded(seconds: float) -> Iterator[tuple[Callable[[], bool], list[socket.socket]]]:
    """Cut the sockets in the list when the time is over: each byte may come just in time."""
    over, sockets = threading.Event(), list[socket.socket]()

    def end() -> None:
        over.set()
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield over.is_set, sockets
    finally:
        timer.cancel()


def _no_answer(asked: Question, exc: Exception, is_over: bool) -> str:
    where = f"{asked.url.scheme}://{asked.url.netloc}"
    if is_over or isinstance(exc, TimeoutError):
        return f"{where} has not answered within {asked.timeout:g} s: raise --timeout"
    if isinstance(exc, OSError):
        cause = exc.strerror or type(exc).__name__
        return f"{where} can't be reached ({cause}): start the server, or correct the URL"
    return f"{where} does not answer in HTTP ({type(exc).__name__}): correct the URL"


def _read(
    response: http.client.HTTPResponse,
    asked: Question,
    start: float,
    is_over: Callable[[], bool],
) -> Answer:
    head = time.perf_counter() - start
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        low = name.lower()
        headers[low] = f"{headers[low]}, {value}" if low in headers else value
    body = _Body(headers.get("content-encoding", ""), asked.max_bytes)
    times: list[float] = []
    last, pieces = head, 0
    cut: Cut = ""
    try:
        while not cut and (piece := response.read1(_READ_SIZE)):
            last, pieces = time.perf_counter() - start, pieces + 1
            if pieces <= MOST_TIMES:
                times.append(last)
            if not body.add(piece):
                cut = "size"
    except (OSError, http.client.HTTPException):
        cut = "broken"
    if not cut and asked.method != "HEAD" and response.length:
        cut = "broken"
    if is_over():
        cut = "time"
    return Answer(
        status=response.status,
        version="HTTP/1.0" if response.version == 10 else "HTTP/1.1",
        headers=headers,
        head=head,
        times=tuple(times),
        pieces=pieces,
        last=last,
        seconds=time.perf_counter() - start,
        size=body.size,
        digest=body.digest,
        cut=cut,
    )


class _Body:
    """The digest of a body, without its compression where that is gzip."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        is_gzip = encoding.strip().lower() in ("gzip", "x-gzip")
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS) if is_gzip else None
        self._plain = hashlib.sha256()
        self._sent = hashlib.sha256()
        self._left = max_bytes
        self._left_plain = max_bytes
        self.size = 0

    def add(self, piece: bytes) -> bool:
        """Add a piece; return whether there may be more."""
        self.size += len(piece)
        self._left -= len(piece)
        self._sent.update(piece)
        if self._inflate is not None:
            self._add_plain(self._inflate, piece)
        return self._left >= 0 and self._left_plain >= 0

    def _add_plain(self, inflate: Any, piece: bytes) -> None:
        try:
            while piece and self._left_plain >= 0:
                plain = inflate.decompress(piece, _READ_SIZE)
                self._plain.update(plain)
                self._left_plain -= len(plain)
                piece = inflate.unconsumed_tail
        except zlib.error:
            # It is not what it says. What was sent counts.
            self._inflate = None

    @property
    def digest(self) -> str:
        """The SHA-256 of all that was added."""
        return (self._sent if self._inflate is None else self._plain).hexdigest()
