"""A lease by itself, over real stores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stream_cached.backends.binding import Binding
from stream_cached.backends.resolve import resolve_cache
from stream_cached.errors import StoreError
from stream_cached.format.progress import Head, LeaseRecord, LeaseState, encode_lease
from stream_cached.keys.names import lease_key
from stream_cached.keys.variants import ANY
from stream_cached.runs.lease import Lease
from stream_cached.stores.protocol import Release, Store

KEY = "key"
LEASE = lease_key(KEY, {}, ((), ""))


@pytest.fixture(params=["redis", "memcached"])
def shared_url(request: pytest.FixtureRequest, namespace: str) -> str:
    base: str = request.getfixturevalue(f"{request.param}_url")
    return f"{base}?namespace={namespace}&timeout=5"


def with_store(url: str, test: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Binding(resolve_cache(url, options={})).primary.store)

    asyncio.run(main())


def lease(store: Store, token: bytes) -> Lease:
    return Lease(store, KEY, LEASE, token * 16, longest=60)


def test_one_of_many_takes_it(shared_url: str) -> None:
    async def test(store: Store) -> None:
        leases = [lease(store, b"%d" % number) for number in range(10)]
        claims = [claim for claim, _ in await asyncio.gather(*(each.claim([]) for each in leases))]
        (winner,) = (each for each, claim in zip(leases, claims, strict=True) if claim is None)
        assert {claim.token for claim in claims if claim} == {winner.token}
        # It is its holder's to release.
        for other in leases:
            if other is not winner:
                other.release()
                await other.released()
        claim, _ = await lease(store, b"x").claim([])
        assert claim == LeaseRecord(winner.token)
        winner.release()
        await winner.released()
        assert await lease(store, b"y").claim([]) == (None, [])

    with_store(shared_url, test)


def test_what_the_last_holder_has_stored_is_seen_with_it(shared_url: str) -> None:
    async def test(store: Store) -> None:
        await store.set_many([("record", b"stored")], 60)
        assert await lease(store, b"a").claim(["record", "other"]) == (None, [b"stored", None])

    with_store(shared_url, test)


def test_who_asks_twice_has_it(shared_url: str) -> None:
    async def test(store: Store) -> None:
        mine = lease(store, b"a")
        assert await mine.claim([]) == (None, [])
        # As a client does whose connection broke before the answer.
        assert await mine.claim([]) == (None, [])

    with_store(shared_url, test)


def test_what_is_damaged_or_released_can_be_taken(shared_url: str) -> None:
    async def test(store: Store) -> None:
        held = encode_lease(LeaseRecord(b"a" * 16), LEASE)
        for value in (
            held[:-1],
            held[:30] + bytes([held[30] ^ 1]) + held[31:],
            encode_lease(LeaseRecord(b"a" * 16), "another key"),
            encode_lease(LeaseRecord(b"a" * 16, LeaseState.RELEASED), LEASE),
        ):
            await store.set_many([(LEASE, value)], 60)
            mine = lease(store, b"b")
            assert await mine.claim([]) == (None, [])
            mine.release()
            await mine.released()

    with_store(shared_url, test)


def test_what_is_no_lease_is_left_alone(shared_url: str) -> None:
    async def test(store: Store) -> None:
        await store.set_many([(LEASE, b"somebody else's")], 60)
        mine = lease(store, b"a")
        with pytest.raises(StoreError, match="another program"):
            await mine.claim([])
        await mine.released()
        assert await store.get_many([LEASE]) == [b"somebody else's"]

    with_store(shared_url, test)


def test_a_response_that_can_not_be_shared_says_so(shared_url: str) -> None:
    async def test(store: Store) -> None:
        first = lease(store, b"a")
        await first.claim([])
        first.release(alone=ANY)
        await first.released()
        claim, _ = await lease(store, b"b").claim([])
        assert claim is not None
        assert claim.state is LeaseState.ALONE

    with_store(shared_url, test)


def test_a_variant_that_can_not_be_shared_leaves_the_lease_to_others(shared_url: str) -> None:
    async def test(store: Store) -> None:
        first = lease(store, b"a")
        await first.claim([])
        first.release(alone=(("accept",), "0" * 32))
        await first.released()
        claim, _ = await lease(store, b"b").claim([], lambda names: "0" * 32)
        assert claim is not None
        assert (claim.state, claim.variant) == (LeaseState.ALONE, (("accept",), "0" * 32))
        other = lease(store, b"c")
        claim, _ = await other.claim([], lambda names: "1" * 32)
        assert claim is None
        other.release()
        await other.released()

    with_store(shared_url, test)


async def offering(store: Store) -> tuple[Lease, Release]:
    """A lease that is held, and what releases it."""
    mine = lease(store, b"a")
    await mine.claim([])
    offered = mine.offer()
    assert offered is not None
    return mine, offered


def test_what_a_commit_may_release_is_not_renewed_meanwhile(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_cached.runs.lease.BEAT", 0.01)

    async def test(store: Store) -> None:
        mine, offered = await offering(store)
        assert await store.get_many([offered.key]) == [offered.value]
        await store.delete_many([LEASE])
        await asyncio.sleep(0.05)
        assert await store.get_many([LEASE]) == [None]
        mine.answer_offer(released=True)
        assert mine.offer() is None
        await asyncio.sleep(0.05)
        assert await store.get_many([LEASE]) == [None]

    with_store(shared_url, test)


def test_what_a_commit_has_not_released_is_renewed_again(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_cached.runs.lease.BEAT", 0.01)

    async def test(store: Store) -> None:
        mine, offered = await offering(store)
        mine.answer_offer(released=False)
        await asyncio.sleep(0.05)
        assert await store.get_many([LEASE]) != [offered.value]
        mine.release()
        await mine.released()
        assert await lease(store, b"b").claim([]) == (None, [])

    with_store(shared_url, test)


def test_a_lease_that_is_being_renewed_can_not_be_released_by_a_commit(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_cached.runs.lease.BEAT", 0.0)

    async def test(store: Store) -> None:
        mine = lease(store, b"a")
        await mine.claim([])
        for _ in range(3):
            await asyncio.sleep(0)
        assert mine.offer() is None
        mine.release()
        await mine.released()

    with_store(shared_url, test)


def test_what_a_run_has_told_of_itself_goes_with_its_lease(shared_url: str) -> None:
    async def test(store: Store) -> None:
        mine = lease(store, b"a")
        await mine.claim([])
        mine.channel.open(Head(200, (), None, "utf-8", (), ""))
        await mine.channel.tell(0, (), b"")
        await mine.channel.mark_followed()
        offered = mine.offer()
        assert offered is not None
        assert None not in await store.get_many([offered.followed, *offered.dropped])
        mine.answer_offer(released=False)
        mine.release()
        await mine.released()
        assert await store.get_many([offered.followed, *offered.dropped]) == [None, None]

    with_store(shared_url, test)
