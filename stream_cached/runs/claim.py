"""The claim of a run: its place in the registry, its lease, and the requests that wait for it.

`advance` looks an event up in the table of `states`. The run carries out the effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stream_cached.keys.variants import Select, Variant, is_for
from stream_cached.runs.states import TRANSITIONS, Effect, Event, RunState

if TYPE_CHECKING:
    from stream_cached.runs.lease import Lease
    from stream_cached.runs.registry import RunRegistry


class Claim:
    """
    The claim of one run.

    Args:
        registry: Where other requests find the run; None for a run that no request waits for.
        key: The key of the resource.
        variant: The variant that the request is for, as far as it is known.
    """

    def __init__(self, registry: RunRegistry | None, key: str, variant: Variant) -> None:
        self.key = key
        self.variant = variant
        self.identity = object()
        """Stands for the run where the run itself must not be kept alive."""
        self.versions: Mapping[str, bytes] = {}
        self.lease: Lease | None = None
        """What makes it the only run among processes; None if it need not be."""
        self.state = RunState.CLAIMED
        self.brought_value = False
        """Whether the endpoint has answered with a plain value."""
        self._registry = registry
        self.is_listed = True
        self._alone = False
        self._is_marked = False
        self._answered = asyncio.Event()

    def is_for(self, select: Select | None) -> bool:
        """Whether a request may be for the variant of this run, as far as it is known."""
        return is_for(self.variant, select)

    @property
    def token(self) -> bytes | None:
        """What other processes know the run by; None if they know nothing of it."""
        return None if self.lease is None else self.lease.token

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

    def hold(self, lease: Lease) -> None:
        """Take over the lease of this run."""
        self.lease = lease

    def give_up_lease(self) -> None:
        """Release the lease, because the run of another process comes first."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    def retire(self) -> None:
        """Let no other request of this process join, though the run may go on."""
        self._leave_registry(alone=False)

    # -- events -----------------------------------------------------------------------------

    def advance(self, event: Event) -> bool:
        """Take note of an event. Return False if it changes nothing in this state."""
        transition = TRANSITIONS[self.state].get(event)
        if transition is None:
            return False
        self.state, effects = transition
        for effect in effects:
            self._carry_out(effect)
        return True

    def _carry_out(self, effect: Effect) -> None:
        raise NotImplementedError

    def withdraw(self) -> None:
        """Give the claim back."""
        self.advance(Event.CLOSE)

    async def close(self) -> None:
        """End a run without a stream, and wait until other processes know."""
        self.advance(Event.CLOSE)
        await self.released()

    def fail(self, *, alone: bool) -> None:
        """Note that the endpoint has raised; `alone` if the exception is an answer."""
        self._alone = self._alone or alone
        self.advance(Event.RAISE)

    def bring_value(self, versions: Mapping[str, bytes]) -> None:
        """Note that the endpoint has answered with a plain value."""
        self.brought_value, self.versions = True, versions
        self.advance(Event.VALUE)

    def refuse(self, variant: Variant, *, alone: bool) -> None:
        """Note that the answer is not stored; `alone` if no response of it can be shared."""
        self.variant, self._alone = variant, alone
        self.advance(Event.REFUSE)

    # -- the end ----------------------------------------------------------------------------

    async def released(self) -> None:
        """Wait until other processes know of the end."""
        if self.lease is not None:
            await self.lease.released()

    def unlist(self) -> None:
        """Let no other request join, in any process."""
        # Once: another run may have shown meanwhile that the response can be shared.
        marks = self._alone and not self._is_marked
        self._is_marked = self._is_marked or marks
        self._leave_registry(alone=marks)
        if self.lease is not None:
            self.lease.release(alone=self.variant if self._alone else None)

    def _leave_registry(self, *, alone: bool) -> None:
        self.is_listed = False
        if self._registry is not None:
            self._registry.remove(self, alone=alone)
        self._answered.set()
