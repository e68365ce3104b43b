"""One request, as the cache sees it: whether it is for it, and what its key is made of."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import UploadFile
from starlette.endpoints import HTTPEndpoint
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import Message, Receive

from stream_cached.keys import digest, request_key
from stream_cached.policy import BypassError, NotCached, content_length

#: Bytes of a request's body up to which its digest becomes part of the key.
MAX_REQUEST_BODY = 1024 * 1024

Normalisers = Mapping[str, Callable[[str], str] | None]


class Incoming:
    """
    A request that reached the decorator.

    Args:
        request: The request.
        vary: The headers of `vary`, lower-cased, with what normalises their values.

    Raises:
        BypassError: A header can't be normalised.
    """

    def __init__(self, request: HTTPConnection, vary: Normalisers) -> None:
        self.request = request
        self._scope = request.scope
        self._headers: dict[bytes, list[bytes]] = {}
        for name, value in self._scope["headers"]:
            self._headers.setdefault(name.lower(), []).append(value)
        self._selecting = {name: self._normalised(name, vary[name]) for name in vary}

    def _values(self, name: str) -> list[bytes]:
        return self._headers.get(name.encode("latin-1"), [])

    def _normalised(self, name: str, normalise: Callable[[str], str] | None) -> Any:
        values = self._values(name)
        if normalise is None:
            return values
        try:
            value = normalise(b", ".join(values).decode("latin-1"))
        # The user's function: a failing one must not fail the request.
        except Exception as exc:
            raise BypassError(NotCached.NORMALISER, f"{name}: {type(exc).__name__}") from exc
        if not isinstance(value, str):
            raise BypassError(NotCached.NORMALISER, f"{name}: {type(value).__name__}")
        return value.encode("utf-8", "surrogatepass")

    @property
    def is_head(self) -> bool:
        """Whether it is a HEAD request, for which GET's entries are used."""
        return bool(self._scope["type"] == "http" and self._scope["method"] == "HEAD")

    def check(self, methods: frozenset[str], keyed: Set[str]) -> None:
        """
        See whether the request is for the cache.

        Args:
            methods: Those that are.
            keyed: The headers that are part of the key.

        Raises:
            BypassError: It is not.
        """
        method = "GET" if self.is_head else self._scope.get("method", "WEBSOCKET")
        if method not in methods:
            raise BypassError(NotCached.METHOD, method)
        if "authorization" not in keyed and self._values("authorization"):
            raise BypassError(NotCached.AUTHORIZATION)
        if b"".join(self._values("content-type")).lower().startswith(b"multipart/form-data"):
            raise BypassError(NotCached.UPLOAD)

    async def body_digest(self) -> str | None:
        """
        Return what stands for the request's body in its key, None where there is none.

        Raises:
            BypassError: It is an upload, or was read by somebody who did not keep it.
        """
        request = self.request
        announced = self._values("transfer-encoding") or content_length(self._scope["headers"])
        # In HTTP/2 a body need not be announced.
        if not announced and self._scope["method"] in ("GET", "HEAD"):
            return None
        if not isinstance(request, Request):
            raise BypassError(NotCached.UPLOAD)
        form = getattr(request, "_form", None)
        if form is not None:
            # A framework has parsed it; the body itself is gone.
            items = form.multi_items()
            if any(isinstance(value, UploadFile) for _, value in items):
                raise BypassError(NotCached.UPLOAD)
            return digest([[name.encode(), value.encode()] for name, value in items])
        if hasattr(request, "_body"):
            body = request._body
        elif getattr(request, "_stream_consumed", False):
            raise BypassError(NotCached.UPLOAD)
        else:
            body = await _peek(request)
        read_as = [self._values("content-type"), self._values("content-encoding")]
        return digest([read_as, hashlib.blake2b(body, digest_size=16).digest()])

    def key(self, endpoint: str, body: str | None, arguments: Mapping[str, Any]) -> str:
        """
        Build the key of a call of an endpoint.

        Args:
            endpoint: Module and qualified name.
            body: What `body_digest` returned.
            arguments: In canonical form, by name.
        """
        scope = self._scope
        return request_key(
            endpoint,
            method="GET" if self.is_head else scope["method"],
            scheme=scope.get("scheme", "http"),
            host=self._values("host") or [repr(scope.get("server")).encode()],
            # A middleware that rewrites one of them need not know of the others.
            path=[scope.get("raw_path") or b"", scope["path"], scope.get("root_path", "")],
            query=scope.get("query_string", b""),
            body=body,
            arguments=arguments,
            headers=self._selecting,
        )

    def select(self, names: Sequence[str]) -> str:
        """Return the digest of the request's values for the named headers."""
        return digest([[name, self._selecting.get(name, self._values(name))] for name in names])

    @contextmanager
    def shielded(self, instance: object = None) -> Iterator[DisconnectShield]:
        """
        Keep its client's leaving from whoever sees this request.

        Where the block ends without a flight that took the shield over, it is lifted.

        Args:
            instance: What the endpoint is a method of; an `HTTPEndpoint` has a `receive`.
        """
        shield = DisconnectShield()
        if isinstance(self.request, Request):
            shield.receive = self.request._receive
            self.request._receive = shield
            if isinstance(instance, HTTPEndpoint):
                instance.receive = shield
        try:
            yield shield
        finally:
            if not shield.in_flight:
                shield.reveal()


async def _peek(request: Request) -> bytes:
    """
    Read the request's body, and leave it to be read once more.

    Raises:
        BypassError: It is too large for that; it can still be read as a whole.
    """
    messages: list[Message] = []
    receive, size, more = request._receive, 0, True
    while more and size <= MAX_REQUEST_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        messages.append(message)
        size += len(message.get("body", b""))
        more = message.get("more_body", False)

    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    request._receive = replay
    if size > MAX_REQUEST_BODY:
        raise BypassError(NotCached.UPLOAD)
    return b"".join(message.get("body", b"") for message in messages)


class DisconnectShield:
    """
    A `receive` that keeps a client's leaving to itself while the run is, or may be, recorded.

    `if await request.is_disconnected(): return` would otherwise end a body cleanly, and short.
    """

    receive: Receive

    def __init__(self) -> None:
        self.in_flight = False
        self._revealed = asyncio.Event()

    def reveal(self) -> None:
        """Let the endpoint see again what its client does."""
        self._revealed.set()

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            await self._revealed.wait()
        return message
