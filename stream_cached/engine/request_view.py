"""A request, as far as the engine looks at it."""

from __future__ import annotations

from stream_cached.http.wishes import NO_WISHES, Wishes
from stream_cached.request.incoming import Incoming


class RequestView:
    """
    A request, as far as the engine looks at it.

    Args:
        incoming: The request.
        wishes: What it wants of a cache.
        method: The method that counts; by default its own.
        is_conditional: Whether it has a precondition, or asks for a part of the response; by
            default, its headers say that.
    """

    __slots__ = ("_incoming", "headers", "is_conditional", "method", "select", "wishes")

    def __init__(
        self,
        incoming: Incoming,
        wishes: Wishes = NO_WISHES,
        *,
        method: str | None = None,
        is_conditional: bool | None = None,
    ) -> None:
        scope = incoming.scope
        self._incoming = incoming
        self.wishes = wishes
        self.method: str = method or scope.get("method", "WEBSOCKET")
        # What is stored of another endpoint must not be made of a part of this answer.
        self.headers = () if incoming.is_of_another_call else scope["headers"]
        self.is_conditional = incoming.is_conditional if is_conditional is None else is_conditional
        self.select = incoming.select
        """Returns the digest of the request's values for some headers."""

    def unconditional(self, method: str | None = None) -> RequestView:
        """Return the same request without its conditions, and perhaps with another method."""
        view = RequestView(
            self._incoming, self.wishes, method=method or self.method, is_conditional=False
        )
        # The endpoint may have run with it meanwhile.
        view.headers = self.headers
        return view

    @property
    def is_authorized(self) -> bool:
        """Whether it carries Authorization, so that its answer may be one user's own."""
        return self._incoming.is_authorized

    @property
    def accepts_coding(self) -> bool:
        """Whether what it is sent may be compressed on its way."""
        return self._incoming.accepts_coding

    @property
    def can_range(self) -> bool:
        """Whether the same request is sent a part of an entry if it asks for it."""
        return self.method in ("GET", "HEAD")

    @property
    def is_head(self) -> bool:
        return self.method == "HEAD"
