"""Hides the client's disconnect from a function while its stream is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.requests import Request
from starlette.types import Scope

from stream_cached.request.disconnect import DisconnectShield

#: The key of a scope that holds the shield of its request.
_SCOPE_KEY = "stream_cached.shield"

#: The shield of the running task, for requests with another scope than the one that is sent to.
_shield: ContextVar[RecordingShield | None] = ContextVar("stream_cached_shield", default=None)


class RecordingShield(DisconnectShield):
    """Hides the disconnect while the run is recorded."""

    hides = True

    def reveal(self) -> None:
        self.hides = False
        super().reveal()

    def cover(self, scope: Scope) -> None:
        """Hide the disconnect from all requests with this scope."""
        scope[_SCOPE_KEY] = self


def is_shielded(request: Request) -> bool:
    """Whether the disconnect is hidden from a request, which could end its body early."""
    shields = request.scope.get(_SCOPE_KEY), _shield.get()
    return any(shield is not None and shield.hides for shield in shields)


@contextmanager
def shield_task(shield: RecordingShield | None = None) -> Iterator[None]:
    """Hide the disconnect from the running task, and from the tasks that it starts."""
    token = _shield.set(shield or RecordingShield())
    try:
        yield
    finally:
        _shield.reset(token)
