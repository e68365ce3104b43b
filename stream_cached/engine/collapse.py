"""Lead a run, join a run of this process, or follow a run of another process.

In one process a request finds other runs in the registry; among processes there are leases. The
request that has both leads a run. All others wait for that run, join or follow it, and look up
again once it has ended.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from dataclasses import dataclass

from stream_cached.engine.claiming import new_lease
from stream_cached.engine.confirm import validate
from stream_cached.engine.decisions import Decision, Lead, LeadOrStale, Raise, Serve
from stream_cached.engine.join import join
from stream_cached.engine.lookup import look_up
from stream_cached.engine.outcome import Absent, Call, Stale, View
from stream_cached.engine.past import unsatisfied
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.format.progress import Head, LeaseRecord, LeaseState
from stream_cached.http.reasons import NOT_HANDED_ON_FOR
from stream_cached.keys.names import lease_key
from stream_cached.keys.variants import ANY, Variant, variant_of
from stream_cached.responses.resumption import Again
from stream_cached.runs.follow import RemoteRun
from stream_cached.runs.joining import BeginGoneError
from stream_cached.runs.lease import read_lease
from stream_cached.runs.registry import Leading
from stream_cached.runs.run import Run

#: How often a call looks again before it leads a run in any case: in a store that loses what was
#: just written, everything is new at each look.
_MAX_LOOKS = 4


@dataclass(frozen=True, slots=True)
class _Claim:
    """The attempt to take a lease."""

    holder: LeaseRecord | None
    """The lease of another process; None if the lease is taken now."""
    values: list[bytes | None]
    """The values of the keys that the look-up has read, by now."""
    other: LeaseRecord | None
    """A lease for a variant that is not known yet, if another process holds one."""


class Collapse:
    """
    The way of one call among others that want the same.

    Args:
        call: The call.
        again: Answers it once more, if a run that it has joined is not for it after all.
    """

    def __init__(self, call: Call, again: Again) -> None:
        self._call = call
        self._again = again
        self._looks = 0
        self._waited_enough = call.has_waited_enough or call.wishes.no_cache
        """Whether a run took longer than `wait_timeout` to answer: the next one needs no lease."""

    def _left(self, run: Run | None = None) -> float:
        """Return the seconds that the call may still wait; for a run, not from before it began."""
        longest = self._call.service.options.limits.longest_wait
        began = self._call.started if run is None else max(self._call.started, run.began)
        return max(0.0, began + longest - time.monotonic())

    def _is_new(self, run: Run) -> bool:
        return not self._looks and run.began >= self._call.started

    async def step(self, view: View) -> Decision | View:
        """
        Decide what a call does whose look-up found no answer; or look up again.

        Raises:
            StoreError: The store failed.
        """
        wishes = self._call.wishes
        if wishes.only_if_cached:
            return Serve(unsatisfied(self._call))
        if not self._call.collapses:
            return _lead(view)
        if view.only_joins and isinstance(view.found, Absent):
            return await self._only_join(view)
        if not view.lacks_answer or view.is_backing_off:
            return _lead(view)
        if wishes.no_cache and (other := view.joinable) is not None:
            # That run may have begun before the request came that wants a new answer.
            return await self._wait_for(other, view) if self._is_new(other) else _lead(view)
        if self._call.is_conditional and not await self._can_follow(view):
            return await self._only_join(view)
        run, is_new = view.lead_or_join()
        if run is None:
            return _lead(view)
        if not is_new:
            return await self._wait_for(run, view)
        self._looks += 1
        is_alone = view.is_up_to_date and not self._needs_lease(view)
        if self._looks > _MAX_LOOKS or view.claimed or is_alone:
            return _lead(view, run)
        async with Leading(run):
            return await self._take(run, view)

    # -- in this process --------------------------------------------------------------------

    async def _only_join(self, view: View) -> Decision | View:
        """Join a run that goes on, for a HEAD request."""
        run, self._looks = view.joinable, self._looks + 1
        if run is None or self._looks > _MAX_LOOKS:
            return _lead(view)
        return await self._wait_for(run, view)

    async def _wait_for(self, run: Run, view: View) -> Decision | View:
        """Join the run of another call, or look up again once it has ended."""
        while not run.has_answered and not await run.answered(self._left(run)):
            # Its call may have begun to lead it only now, after it had followed another process.
            if not self._left(run):
                return await self._give_up_on(run)
        self._waited_enough = self._waited_enough or run.was_given_up_on
        is_new = run.remote is None and run.began >= self._call.started
        if run.answer and not await self._can_take(run.answer.head, is_new=is_new):
            return _lead(view)
        # The headers that its response varies on are known only now.
        is_other = not run.is_for(view.resource.select)
        if run.versions == view.resource.versions and not is_other:
            step = await self._join(run, view)
            if step is not None:
                return step
            if run.error is not None and isinstance(view.found, Absent):
                return Raise(run.error, run.traceback)
        view = await look_up(self._call)
        if run.versions != view.resource.versions:
            # The run began before an invalidation.
            if run.is_listed:
                run.retire()
        elif run.brought_value and view.lacks_answer:
            # The value is not stored, and the next one would not be either.
            return _lead(view)
        return view

    async def _can_take(self, head: Head, *, is_new: bool) -> bool:
        """Whether the answer of a run is for the call; `is_new` if it began after the call."""
        if not self._call.can_use(head.media_type):
            return False
        if head.validated is None or is_new:
            return True
        # Each request has to validate it: has anything changed since the run began?
        await validate(self._call)
        return self._call.execution.validated == head.validated

    async def _join(self, run: Run, view: View) -> Decision | View | None:
        """Join a run; None if it has no answer for this call."""
        execution = self._call.execution
        # Once the head is sent, an answer with another head can only break off.
        at_once = execution.can_run_later() and execution.shows_break()
        try:
            joined = await run.join(self._left(run), self._call.started, at_once=at_once)
        except BeginGoneError:
            return _lead_apart(view)
        except TimeoutError:
            return await self._give_up_on(run)
        return None if joined is None else Serve(join(self._call, view, joined, self._again))

    async def _give_up_on(self, run: Run) -> View:
        """Wait no longer for a run: one of those that wait leads another, which the others join."""
        self._waited_enough = True
        run.retire()
        return await look_up(self._call)

    def _needs_lease(self, view: View) -> bool:
        return view.use.backend.is_shared and view.limit is None and not self._waited_enough

    async def _take(self, run: Run, view: View) -> Decision | View:
        """Lead a run, unless that is not necessary, or another process does."""
        if self._needs_lease(view):
            try:
                return await self._lead_or_follow(run, view)
            except StoreUnavailableError:
                # Memory may stand in for the store.
                run.withdraw()
                return await look_up(self._call)
        # A run that has ended since the look-up may be stored by now.
        again = None if view.is_up_to_date else await self._look_once_more(run, view)
        return again or _lead(view, run)

    # -- among processes --------------------------------------------------------------------

    async def _can_follow(self, view: View) -> bool:
        """Whether another process has a run that a call which leads none may follow."""
        if not view.use.backend.is_shared or self._waited_enough or view.joinable is not None:
            return False
        resource = view.resource
        variants = {ANY, variant_of(resource.names, resource.select)}
        keys = [_lease_key(resource, variant) for variant in variants]
        with view.use.deadline:
            values = await resource.store.get_many(keys)
        leases = map(read_lease, values, keys)
        return any(lease and lease.state is LeaseState.HELD for lease in leases)

    async def _lead_or_follow(self, run: Run, view: View) -> Decision | View:
        resource = view.resource
        variant = variant_of(resource.names, resource.select)
        seen_other = b""
        while True:
            try:
                with view.use.deadline:
                    claim = await _take_lease(run, resource, variant)
            except StoreUnavailableError:
                raise
            except StoreError:
                # Another program uses that key, or the claim takes too long: lead without a lease.
                return _lead(view, run)
            if claim.holder is not None:
                step, head = await self._leave_to(claim.holder, run, view, variant)
                if step is not None:
                    return step
                if head is not None:
                    # Another variant is made there: this one has a lease of its own.
                    variant = variant_of(head.names, resource.select)
                    seen_other = claim.holder.token
                continue
            if claim.values != list(resource.seen.values()) and (
                again := await self._look_once_more(run, view)
            ):
                return again
            if claim.other is not None and claim.other.token != seen_other:
                # That run began when no process knew that there are variants.
                step, _ = await self._follow(run, view, ANY, claim.other)
                if step is not None:
                    return step
            return _lead(view, run)

    async def _leave_to(
        self, holder: LeaseRecord, run: Run, view: View, variant: Variant
    ) -> tuple[Decision | View | None, Head | None]:
        if holder.state is LeaseState.ALONE:
            run.refuse(holder.variant, alone_for=NOT_HANDED_ON_FOR)
            return _lead(view), None
        return await self._follow(run, view, variant, holder)

    async def _follow(
        self, run: Run, view: View, variant: Variant, holder: LeaseRecord
    ) -> tuple[Decision | View | None, Head | None]:
        """
        Follow the run of another process.

        Return how the call goes on, None if it has to run itself; and the head of the other run's
        response if that is another variant.
        """
        resource = view.resource
        remote = RemoteRun(resource, _lease_key(resource, variant), holder)
        with ExitStack() as unless_followed:
            unless_followed.callback(remote.leave)
            if not await remote.begin(self._left(run), self._left()):
                if not remote.lacks_begin:
                    return _lead(view, run), None
                run.withdraw()
                return _lead_apart(view), None
            head = remote.head if remote.state is LeaseState.HELD else None
            if head is not None and not await self._can_take(head, is_new=False):
                return _lead(view), None
            if head is None:
                return await self._look_once_more(run, view), None
            if variant_of(head.names, resource.select) != (head.names, head.variant):
                return None, head
            unless_followed.pop_all()
        run.give_up_lease()
        limits = self._call.service.options.limits
        run.follow(remote, head, limits, dict(resource.versions))
        step = await self._join(run, view) or await look_up(self._call)
        return step, None

    async def _look_once_more(self, run: Run, view: View) -> View | None:
        """Look up what another run may have stored; None if nothing has changed."""
        again = await look_up(self._call)
        is_same = (
            again.lacks_answer
            and again.use.backend is view.use.backend
            and again.resource.versions == view.resource.versions
            # By now it may be known what the response varies on.
            and again.resource.names == view.resource.names
        )
        if is_same:
            return None
        run.withdraw()
        return again


async def refresh_is_needed(run: Run, view: View) -> bool:
    """Take the lease for a refresh. Return False if another run or process makes it."""
    if not view.use.backend.is_shared:
        return view.is_up_to_date
    resource = view.resource
    variant = variant_of(resource.names, resource.select)
    claim = await _take_lease(run, resource, variant)
    return claim.holder is None and claim.values == list(resource.seen.values())


async def _take_lease(run: Run, resource: Resource, variant: Variant) -> _Claim:
    """Take the lease of a variant for a run, unless another process has it."""
    lease = new_lease(resource, _lease_key(resource, variant))
    keys = list(resource.seen)
    any_variant = None if variant == ANY else _lease_key(resource, ANY)
    if any_variant is not None:
        keys.append(any_variant)
    holder, values = await lease.claim(keys, resource.select)
    if holder is None:
        run.hold(lease)
    other = None if any_variant is None else read_lease(values.pop(), any_variant)
    is_held = other is not None and other.state is LeaseState.HELD
    return _Claim(holder, values, other if is_held else None)


def _lead(view: View, run: Run | None = None) -> Decision:
    if run is not None:
        run.versions, run.began = dict(view.resource.versions), time.monotonic()
    if isinstance(view.found, Stale):
        return LeadOrStale(view, view.found, run)
    return Lead(view, run)


def _lead_apart(view: View) -> Decision:
    """Run the endpoint for one call alone: another run goes on, and will be stored."""
    return _lead(dataclasses.replace(view, records=False))


def _lease_key(resource: Resource, variant: Variant) -> str:
    return lease_key(resource.key, resource.versions, variant)
