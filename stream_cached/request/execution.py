"""How a Starlette or FastAPI endpoint is run for one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from stream_cached.endpoint.dependencies import closes_before_response, needs_request
from stream_cached.endpoint.function import Endpoint, response_heads
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.guard import RUNS, Guard, Observation, Terms
from stream_cached.request.incoming import Incoming
from stream_cached.request.injected import TasksOfRun, plain_result


@dataclass(slots=True)
class Executed:
    """What one run of an endpoint came to."""

    result: Any
    changed_head: bool
    """Whether the endpoint has changed the Response that it was given."""


def _goes_on(result: Any) -> bool:
    """Whether what makes a body, such as a generator or an application, may pass a request on."""
    if isinstance(result, Response):
        return not hasattr(result, "body")
    return callable(result) or hasattr(result, "__next__") or hasattr(result, "__anext__")


@dataclass(eq=False)
class Execution:
    """One call of an endpoint. Without `terms`, nothing watches what it reads."""

    endpoint: Endpoint
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    incoming: Incoming | None
    terms: Terms | None
    guard: Observation | None = None
    """What notices the reads of the request in its last run; None if nothing watches."""
    has_validated: bool = False
    """Whether the validator was asked for this call."""
    validated: str | None = None
    """What the validator has said before the run; None if it said nothing."""
    selecting: frozenset[str] = frozenset()
    """Names of what selects the answer beside its Vary; known once the endpoint has returned."""

    @property
    def function(self) -> Callable[..., Any]:
        return self.endpoint.function

    def tasks_of_run(self) -> TasksOfRun:
        """Return what its run adds from now on to the BackgroundTasks of the request."""
        return TasksOfRun((*self.args, *self.kwargs.values()))

    async def run(self) -> Any:
        return await self.endpoint.run(self.args, self.kwargs)

    async def run_watched(self, *, release: bool = False) -> Executed:
        """Run it and note its reads; `release` unwatches an HTTPEndpoint afterwards."""
        head = response_heads(self.args, self.kwargs)
        self.guard = guard = self._guard()
        # Calls that the request is passed on to see that an endpoint runs with it.
        scope = {} if self.incoming is None else self.incoming.scope
        mark = object()
        is_marked = scope.setdefault(RUNS, mark) is mark
        args: Sequence[Any] = self.args
        kwargs = self.kwargs
        if guard is not None:
            args, kwargs = guard.given(args, kwargs)
        result = None
        try:
            result = plain_result(await self.endpoint.run(args, kwargs))
        finally:
            if guard is not None and release:
                guard.release(self.args)
            if is_marked and not _goes_on(result):
                scope.pop(RUNS, None)
        return Executed(result, bool(head) and response_heads(self.args, self.kwargs) != head)

    def _guard(self) -> Guard | None:
        if self.incoming is None or self.terms is None:
            return None
        incoming = self.incoming
        return Guard(
            incoming.request,
            self.terms,
            with_body=incoming.has_body and "body" not in incoming.left_out,
            left_out=incoming.left_out,
        )

    def shielded(self, seconds: float) -> AbstractContextManager[DisconnectShield]:
        if self.incoming is None:
            return nullcontext(DisconnectShield())
        return self.incoming.shielded(next(iter(self.args), None), seconds)

    def can_outlive_request(self) -> bool:
        """Whether a run finds all that it may read of the request once the request has ended."""
        if self.incoming is None:
            return True
        return self.incoming.can_be_detached and not needs_request(self.incoming.scope)

    def can_run_later(self) -> bool:
        """Whether the endpoint can still run once the response to the request has begun."""
        return self.incoming is None or not closes_before_response(self.incoming.scope)

    def shows_break(self) -> bool:
        """Whether a body that breaks off looks broken: by HTTP/1.0, the end is the end."""
        if self.incoming is None:
            return True
        scope = self.incoming.scope
        return scope.get("http_version") != "1.0" or scope.get("method") == "HEAD"

    def outlive_request(self) -> None:
        if self.incoming is not None:
            self.incoming.detach()


class ReturnedExecution(Execution):
    """The execution of a function that has already returned: nothing watches it any more."""

    def __init__(self, incoming: Incoming | None, shield: DisconnectShield) -> None:
        self._shield = shield
        self.incoming = incoming
        self.terms = None
        self.args = ()
        self.kwargs = {}

    @property
    def function(self) -> Any:
        """Nothing: the function has returned."""
        return None

    def shielded(self, seconds: float) -> AbstractContextManager[DisconnectShield]:
        return nullcontext(self._shield)

    async def run_watched(self, *, release: bool = False) -> Executed:
        return Executed(await self.run(), False)

    def can_outlive_request(self) -> bool:
        return True

    def outlive_request(self) -> None:
        """Do nothing: the rest needs nothing of the request."""
