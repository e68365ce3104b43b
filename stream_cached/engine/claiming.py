"""A look-up that takes the lease in the same round trip, where it finds nothing.

So it is for a call that will run the endpoint, as the last one of its function had to. The lease is
that of the versions which are read at the same time: it is taken only if they are those that the
last call has seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream_cached.backends.binding import Backend
from stream_cached.engine.outcome import Absent, Call, View
from stream_cached.entries.ids import new_id
from stream_cached.entries.resource import Resource
from stream_cached.http.wishes import NO_WISHES
from stream_cached.keys.names import lease_key
from stream_cached.keys.variants import ANY
from stream_cached.runs.lease import Lease
from stream_cached.runs.registry import RunRegistry
from stream_cached.runs.run import Run
from stream_cached.stores.protocol import may_claim


def probably_leads(call: Call, backend: Backend) -> bool:
    """Whether a call that has not looked yet will probably lead a run."""
    service = call.service
    return (
        backend.is_shared
        and service.outlook.is_miss(call.key)
        and may_claim(backend.store)
        and call.reads
        and call.writes
        and call.collapses
        and not (call.attempt or call.is_head or call.is_conditional)
        and call.wishes is NO_WISHES
        and not service.hooks.prepares
        and backend.local.kept(call.key) is None
    )


def claimed_run(call: Call, resource: Resource, registry: RunRegistry) -> Run | None:
    """
    Return a run for which the look-up of a resource takes the lease.

    None if the versions are not known that the lease would be for, or the key has a run already.
    """
    expected = resource.depends.expected(call.service.outlook.versions)
    if expected is None or (run := registry.lead(call.key)) is None:
        return None

    async def read(keys: Sequence[str]) -> list[bytes | None]:
        versions = resource.depends.as_versions(expected)
        lease = new_lease(resource, lease_key(resource.key, versions, ANY))
        is_taken, values = await lease.claim_if_absent(keys, expected)
        if is_taken:
            run.hold(lease)
        return values

    resource.records.read_by(read)
    return run


def new_lease(resource: Resource, key: str) -> Lease:
    """Return a lease of a resource, by its key, which is not taken yet."""
    longest = resource.lifetimes.longest_run
    return Lease(resource.store, resource.key, key, new_id(), longest=longest)


def settle(run: Run, view: View) -> None:
    """Let a call lead the run for which its look-up has taken the lease, or nobody."""
    if run.lease is not None and view.lacks_answer and isinstance(view.found, Absent):
        view.claimed = run
        return
    run.withdraw()
    if view.registry.ended == view.ended + 1:
        # No other run has ended meanwhile.
        view.ended += 1


def note(call: Call, view: View) -> None:
    """Note what a look-up has found in a store that processes share, for the next one."""
    if view.use.backend.is_shared:
        outlook = call.service.outlook
        outlook.note(call.key, is_miss=view.lacks_answer)
        if view.lacks_answer:
            outlook.versions = view.resource.depends.seen(view.resource.seen)


def note_stored(call: Call, view: View) -> None:
    """Note that the answer of a call was stored there."""
    if view.use.backend.is_shared:
        call.service.outlook.note_stored(call.key)
