"""The claim of a run: its place in the registry, its lease, and the requests that wait for it.

`advance` looks an event up in the table of `states`. The run carries out the effects.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from stream_cached.keys.variants import Select, Variant, is_for
from stream_cached.runs.states import TRANSITIONS, Effect, Event, RunState

if TYPE_CHECKING:
    from stream_cached.runs.lease import Lease
    from stream_cached.runs.registry import RunRegistry


class Claim(ABC):
    """
    The claim of one run.

    Args:
        registry: Where other requests find the run; None for a run that no request waits for.
        key: The key of the resource.
        variant: The variant that the request is for, as far as it is known.
    """

    # What most runs never change is set here, once for all of them.

    lease: Lease | None = None
    """What makes it the only run among processes; None if it need not be."""
    state = RunState.CLAIMED
    brought_value = False
    """Whether the endpoint has answered with a plain value."""
    is_listed = True
    versions: Mapping[str, bytes] = MappingProxyType({})
    """The versions that its answer depends on."""
    declared: int | None = None
    """Bytes of the body of its answer, if its head declares them."""
    is_visible = False
    """Whether its answer is stored, and can be served."""
    on_close: Callable[[RunState], None] | None = None
    """Called once, with the last state before the end, by what watches the run."""
    number: int | None = None
    """What `on_event=` knows it by; None if nobody watches it."""
    watched_since: float | None = None
    """When the endpoint was called, if somebody watches the run."""
    error: Exception | None = None
    """What the endpoint raised, if the requests that waited may be given it."""
    traceback: TracebackType | None = None
    hands_on_refusal = False
    """Whether the requests that waited may be given the answer, though it is not stored."""
    _is_unlisted = False
    _alone_for = 0.0
    _left: asyncio.Event | None = None

    def __init__(self, registry: RunRegistry | None, key: str, variant: Variant) -> None:
        self.key = key
        self.variant = variant
        self.identity = object()
        """Stands for the run where the run itself must not be kept alive."""
        self.began = time.monotonic()
        """When it was claimed or, later, when its call began to lead it."""
        self._registry = registry
        self._answered, self._over = asyncio.Event(), asyncio.Event()

    def is_for(self, select: Select | None) -> bool:
        """Whether a request may be for the variant of this run, as far as it is known."""
        return is_for(self.variant, select)

    @property
    def token(self) -> bytes | None:
        """What other processes know the run by; None if they know nothing of it."""
        return None if self.lease is None else self.lease.token

    @property
    def has_answered(self) -> bool:
        """Whether the run can be joined, or has ended."""
        return self._answered.is_set()

    async def answered(self, seconds: float) -> bool:
        """Wait until the run can be joined, or has ended. Return whether that was in time."""
        if self._answered.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True

    async def left(self, seconds: float) -> None:
        """Wait until no request can find the run any more; raise TimeoutError if it still can."""
        if self.is_listed:
            async with asyncio.timeout(seconds):
                await self.waited_for().wait()

    def waited_for(self) -> asyncio.Event:
        """Note that a request waits for the end of the run, and return what tells it."""
        self._left = self._left or asyncio.Event()
        return self._left

    @property
    def is_waited_for(self) -> bool:
        """Whether a request waits for the end of the run."""
        return self._left is not None

    def hold(self, lease: Lease) -> None:
        """Own a lease that is taken now, until the run ends or gives it up."""
        self.lease = lease

    @property
    def was_given_up_on(self) -> bool:
        """Whether requests no longer wait for it, though the endpoint has not answered."""
        return self.state is RunState.CLAIMED and not self.is_listed

    @property
    def took(self) -> float | None:
        """Seconds since the endpoint was called, if somebody watches the run."""
        since = self.watched_since
        return None if since is None else time.monotonic() - since

    async def has_lost_lease(self) -> bool:
        """Whether another process may have run the endpoint meanwhile."""
        return self.lease is not None and not await self.lease.is_held()

    def give_up_lease(self) -> None:
        """Release the lease, because the run of another process comes first."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    def retire(self) -> None:
        """Let no other request of this process join, though the run may go on."""
        self._leave_registry(alone_for=0.0)

    # -- events -----------------------------------------------------------------------------

    def advance(self, event: Event) -> bool:
        """Take note of an event. Return False if it changes nothing in this state."""
        transition = TRANSITIONS[self.state].get(event)
        if transition is None:
            return False
        before = self.state
        self.state, effects = transition
        for effect in effects:
            self._carry_out(effect)
        if self.on_close is not None and self.state is RunState.CLOSED:
            on_close, self.on_close = self.on_close, None
            on_close(before)
        return True

    @abstractmethod
    def _carry_out(self, effect: Effect) -> None:
        """Do what follows from an event."""

    def withdraw(self) -> None:
        """Give the claim back: those who wait look up again."""
        self.advance(Event.CLOSE)

    async def close(self) -> None:
        """End a run without a stream, and wait until other processes know."""
        self.advance(Event.CLOSE)
        await self.released()

    def fail(
        self, error: Exception | None = None, variant: Variant | None = None, alone_for: float = 0.0
    ) -> None:
        """
        Note that the endpoint has raised.

        The requests that waited are given the `error`, if they are for the `variant`.
        """
        if error is not None:
            self.error, self.traceback = error, error.__traceback__
        self.variant = variant or self.variant
        self._alone_for = max(self._alone_for, alone_for)
        self.advance(Event.RAISE)

    def bring_value(self, versions: Mapping[str, bytes]) -> None:
        """Note that the endpoint has answered with a plain value."""
        self.brought_value, self.versions = True, versions
        self.advance(Event.VALUE)

    def refuse(self, variant: Variant, *, alone_for: float, hands_on: bool = False) -> None:
        """
        Note that the answer is not stored.

        For `alone_for` seconds no request for the variant waits for another one. `hands_on` says
        that the requests that waited are given the answer.
        """
        self.variant, self._alone_for, self.hands_on_refusal = variant, alone_for, hands_on
        self.advance(Event.REFUSE)

    # -- the end ----------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run is left."""
        return self._over.is_set()

    async def over(self) -> None:
        """Wait until nothing of the run is left."""
        await self._over.wait()

    async def released(self) -> None:
        """Wait until other processes know that the lease is released, if it is."""
        if self.lease is not None:
            await self.lease.released()

    def unlist(self) -> None:
        """Let no other request join, in any process."""
        if self._is_unlisted:
            # By the next time, another run of the variant may have been shared.
            return
        self._is_unlisted = True
        self._leave_registry(alone_for=self._alone_for)
        if self.lease is not None:
            self.lease.release(
                alone=self.variant if self._alone_for else None, alone_for=self._alone_for
            )

    def _leave_registry(self, *, alone_for: float) -> None:
        self.is_listed = False
        if self._registry is not None:
            self._registry.remove(self, alone_for=alone_for)
        self._answered.set()
        if self._left is not None:
            self._left.set()
