"""Who answers what the store can't: the call itself, or a run that is on its way.

In one process there are turns, among processes there are leases. Whoever has both runs the
endpoint; all others wait for that run, join or follow it, and look again once it is over.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from stream_cached.engine.record import Engine, Stale, new_id
from stream_cached.engine.values import Use
from stream_cached.entries.resource import Miss, Resource
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.format.progress import Head, LeaseRecord, LeaseState
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import lease_key
from stream_cached.keys.variants import ANY, Variant, variant_of
from stream_cached.runs.follow import RemoteRun
from stream_cached.runs.lease import Lease, read_claim
from stream_cached.runs.registry import Turn, within


@dataclass(frozen=True, slots=True)
class Opened:
    """What a call found under its key, and where."""

    use: Use
    resource: Resource
    found: Any
    records: bool
    """Whether what answers it is to be stored."""
    only_joins: bool
    """Whether it is not, though that of others is: a HEAD need not be answered as a GET is."""
    seen: int
    """How many turns had ended when it was looked up."""

    @property
    def lacks_answer(self) -> bool:
        """Whether there is nothing that is fresh, and something is to be stored."""
        return self.records and isinstance(self.found, Miss | Stale)

    @property
    def rests(self) -> bool:
        """Whether what is stale is left as it is, since it could not be made anew."""
        flights = self.use.backend.flights
        return isinstance(self.found, Stale) and flights.is_resting(self.resource.place)

    @property
    def fwd(self) -> str:
        """Why the cache did not answer (RFC 9211, section 2.2)."""
        if isinstance(self.found, Stale):
            return "stale"
        return "vary-miss" if self.found.varied else "uri-miss"

    @property
    def under_way(self) -> Turn | None:
        """The turn that it may wait for, or join, without one of its own."""
        resource = self.resource
        return self.use.backend.flights.under_way(resource.key, resource.select)

    def approach(self, *, shared: bool | None = None) -> tuple[Turn | None, bool]:
        """
        Return the turn to wait for or to join, and whether it is one of its own.

        Args:
            shared: Whether the response can be shared; None for what was seen last.
        """
        resource = self.resource
        flights = self.use.backend.flights
        return flights.approach(resource.key, resource.names, resource.select, shared=shared)

    @property
    def is_up_to_date(self) -> bool:
        """Whether no run has ended since."""
        return self.use.backend.flights.ended == self.seen


@dataclass(frozen=True, slots=True)
class Decided:
    """How a call goes on: with another one's run, with what was found, or by running."""

    opened: Opened
    turn: Turn | None = None
    """What others wait for meanwhile, where it runs."""
    response: Response | None = None
    """The one of a run that it has joined."""


#: How often a call looks again for what another one may have stored before it runs in any case: in
#: a store that loses what was just written, everything is new at each look.
_MOST_TURNS = 4


class Collapsing:
    """
    One call among those that ask for the same.

    Args:
        engine: That of the function.
        look_up: Finds what stands under the key by now.
        seconds: How long it may wait for others.
    """

    def __init__(
        self, engine: Engine, look_up: Callable[[], Awaitable[Opened]], seconds: float
    ) -> None:
        self._engine = engine
        self._look_up = look_up
        self._asked = time.monotonic()
        self._deadline = self._asked + seconds

    @property
    def _left(self) -> float:
        return self._deadline - time.monotonic()

    async def decide(self, opened: Opened) -> Decided:
        """
        Wait for others, or let them wait.

        Args:
            opened: What was found at first.

        Raises:
            BypassError: It has waited long enough.
            StoreError: The store failed.
        """
        if opened.only_joins and isinstance(opened.found, Miss):
            return await self._join(opened)
        turns = 0
        while opened.lacks_answer and not opened.rests:
            turn, own = opened.approach()
            if turn is None:
                break
            if own:
                turns += 1
                if turns > _MOST_TURNS:
                    return Decided(opened, turn)
                async with within(turn):
                    decided = await self._take(turn, opened)
            else:
                decided = await self._wait_for(turn, opened)
            if isinstance(decided, Decided):
                return decided
            opened = decided
        return Decided(opened)

    # -- in this process --------------------------------------------------------------------

    async def _join(self, opened: Opened) -> Decided:
        """Join a run that is on its way, for a call that others would not join."""
        for _ in range(_MOST_TURNS):
            turn = opened.under_way
            if turn is None:
                break
            decided = await self._wait_for(turn, opened)
            if isinstance(decided, Decided):
                return decided
            opened = decided
            if not isinstance(opened.found, Miss):
                break
        return Decided(opened)

    async def _wait_for(self, turn: Turn, opened: Opened) -> Decided | Opened:
        """Join another call's turn, or look again once it is over."""
        if not await turn.answered(self._left):
            raise BypassError(Finding(NotCached.WAITED))
        # Only now it is known what its response varies on.
        is_other = not turn.is_for(opened.resource.select)
        if turn.join is not None and turn.versions == opened.resource.versions and not is_other:
            joined = await turn.join(self._left, self._asked)
            if joined is not None:
                return Decided(opened, response=joined)
        opened = await self._look_up()
        if turn.versions != opened.resource.versions:
            # It began before an invalidation.
            if turn.join is not None:
                turn.retire()
        elif turn.is_value and opened.lacks_answer:
            # It is not stored, and the next one would not be either.
            return Decided(opened)
        return opened

    async def _take(self, turn: Turn, opened: Opened) -> Decided | Opened:
        """Run, unless that is not necessary, or another process does."""
        if opened.use.backend.is_shared:
            return await self._take_lease(turn, opened)
        # The run that it has not seen may be stored by now.
        again = None if opened.is_up_to_date else await self._once_more(turn, opened)
        return again or Decided(opened, turn)

    async def take_unless_taken(self, turn: Turn, opened: Opened) -> bool:
        """
        Take a turn of one's own to make anew what is stale; return whether that is necessary.

        Raises:
            StoreError: The store failed.
        """
        if not opened.use.backend.is_shared:
            return opened.is_up_to_date
        resource = opened.resource
        variant = variant_of(resource.names, resource.select)
        claim, values, _ = await self._claim(turn, resource, variant)
        return claim is None and values == list(resource.seen.values())

    # -- among processes --------------------------------------------------------------------

    async def _take_lease(self, turn: Turn, opened: Opened) -> Decided | Opened:
        try:
            return await self._lead_or_follow(turn, opened)
        except StoreUnavailableError:
            # Something may stand in for it.
            turn.end()
            return await self._look_up()

    async def _lead_or_follow(self, turn: Turn, opened: Opened) -> Decided | Opened:
        resource = opened.resource
        variant = variant_of(resource.names, resource.select)
        # Whose variant is not known beforehand, runs under this one.
        others = _lease_key(resource, ANY)
        seen_of_others = b""
        while True:
            try:
                with opened.use.deadline:
                    claim, values, theirs = await self._claim(turn, resource, variant)
            except StoreUnavailableError:
                raise
            except StoreError:
                # It takes too long, or something else stands there: without, then.
                return Decided(opened, turn)
            if claim is not None and claim.state is LeaseState.ALONE:
                turn.variant = claim.variant
                turn.end(shared=False)
                return Decided(opened)
            if claim is not None:
                key = _lease_key(resource, variant)
                decided, head = await self._wait_for_process(turn, opened, key, claim)
                if decided is not None:
                    return decided
                if head is not None:
                    # Another variant is on its way: this one has a lease of its own.
                    variant, seen_of_others = variant_of(head.names, resource.select), claim.token
                continue
            if values != list(resource.seen.values()) and (
                again := await self._once_more(turn, opened)
            ):
                return again
            if theirs is not None and theirs.token != seen_of_others:
                # It has begun when nobody knew that there are variants.
                decided, _ = await self._wait_for_process(turn, opened, others, theirs)
                if decided is not None:
                    return decided
            return Decided(opened, turn)

    async def _wait_for_process(
        self, turn: Turn, opened: Opened, key: str, claim: LeaseRecord
    ) -> tuple[Decided | Opened | None, Head | None]:
        """
        Follow another process's run.

        Returns:
            How the call goes on, None where it is to run itself; then with the head of what the
            other one answers, if that is another variant.
        """
        resource = opened.resource
        tail = RemoteRun(resource, key, claim)
        with ExitStack() as unless_followed:
            unless_followed.callback(tail.leave)
            if not await tail.begin(self._left):
                raise BypassError(Finding(NotCached.WAITED))
            head = tail.head if tail.state is LeaseState.HELD else None
            if head is None:
                return await self._once_more(turn, opened), None
            if variant_of(head.names, resource.select) != (head.names, head.variant):
                return None, head
            unless_followed.pop_all()
            if turn.lease is not None:
                # The other one goes before.
                turn.lease.release()
                turn.lease = None
            return await self._follow(tail, turn, opened), None

    @staticmethod
    async def _claim(
        turn: Turn, resource: Resource, variant: Variant
    ) -> tuple[LeaseRecord | None, list[bytes | None], LeaseRecord | None]:
        """
        Take the lease for a turn.

        Returns:
            Whose it is, if it is another's; what was looked up, by now; and whose the one is that
            is not for a certain variant, if it is held.
        """
        lease = Lease(
            resource.store,
            resource.key,
            _lease_key(resource, variant),
            new_id(),
            longest=resource.lifetimes.longest_run,
        )
        keys, others = list(resource.seen), _lease_key(resource, ANY)
        claim, values = await lease.claim(
            [*keys, others] if variant != ANY else keys, resource.select
        )
        if claim is None:
            turn.lease = lease
        theirs = read_claim(values.pop(), others) if variant != ANY else None
        is_held = theirs is not None and theirs.state is LeaseState.HELD
        return claim, values, theirs if is_held else None

    async def _once_more(self, turn: Turn, opened: Opened) -> Opened | None:
        """Look up what another run may have stored; None where nothing has changed."""
        again = await self._look_up()
        is_same = (
            again.lacks_answer
            and again.use.backend is opened.use.backend
            and again.resource.versions == opened.resource.versions
            # By now it may be known what the response varies on.
            and again.resource.names == opened.resource.names
        )
        if is_same:
            return None
        turn.end()
        return again

    async def _follow(self, tail: RemoteRun, turn: Turn, opened: Opened) -> Decided | Opened:
        self._engine.follow(tail, turn, opened.resource, opened.fwd)
        joined = turn.join and await turn.join(self._left, self._asked)
        if joined is not None:
            return Decided(opened, response=joined)
        return await self._look_up()


def _lease_key(resource: Resource, variant: Variant) -> str:
    return lease_key(resource.key, resource.versions, variant)
