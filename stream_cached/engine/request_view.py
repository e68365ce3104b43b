"""A request, as far as the engine looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_cached.http.conditions import CONDITIONS
from stream_cached.http.wishes import NO_WISHES, Wishes
from stream_cached.keys.variants import Select
from stream_cached.request.incoming import Incoming


@dataclass(slots=True)
class RequestView:
    """A request, as far as the engine looks at it."""

    method: str
    scheme: str
    host: Sequence[bytes]
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    select: Select
    """Returns the digest of the request's values for some headers."""
    is_authorized: bool = False
    """Whether it carries Authorization, so that its answer may be one user's own."""
    is_conditional: bool = False
    """Whether it has a precondition, or asks for a part of the response."""
    wishes: Wishes = NO_WISHES
    """What it wants of a cache."""
    accepts_coding: bool = True
    """Whether what it is sent may be compressed on its way."""

    @classmethod
    def of(cls, incoming: Incoming, wishes: Wishes = NO_WISHES) -> RequestView:
        scope = incoming.scope
        return cls(
            method=scope.get("method", "WEBSOCKET"),
            scheme=scope.get("scheme", "http"),
            host=incoming.host,
            path=scope["path"],
            query=scope.get("query_string", b""),
            headers=scope["headers"],
            select=incoming.select,
            is_authorized=incoming.is_authorized,
            is_conditional=incoming.has_any(CONDITIONS),
            wishes=wishes,
            accepts_coding=incoming.accepts_coding,
        )

    @property
    def can_range(self) -> bool:
        """Whether the same request is sent a part of an entry if it asks for it."""
        return self.method in ("GET", "HEAD")

    @property
    def is_head(self) -> bool:
        return self.method == "HEAD"
