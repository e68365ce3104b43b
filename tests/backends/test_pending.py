"""Invalidations that are kept for a store, and what is refused where there were too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stream_cached.backends.breaker import CircuitBreaker
from stream_cached.backends.pending import InvalidatedBefore, Key, PendingInvalidations
from stream_cached.errors import StoreUnavailableError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Invalidator:
    def __init__(self) -> None:
        self.done: list[Key | None] = []
        self.refuses_older = 0
        self.fails_at: Key | None = "nothing"
        self.meanwhile: Callable[[Key | None], object] = lambda key: None

    async def carry_out(self, key: Key | None, *, away: bool) -> None:
        self.meanwhile(key)
        await asyncio.sleep(0)
        if key == self.fails_at:
            raise StoreUnavailableError("away again")
        self.done.append(key)

    def refuse_older(self) -> None:
        self.refuses_older += 1


async def test_what_is_owed_is_carried_out_once() -> None:
    pending, one, other = PendingInvalidations(), Invalidator(), Invalidator()
    for key in ("a", "b", "a", None):
        pending.add(one, key)
    pending.add(other, b"c")
    assert len(pending) == 4
    await pending.settle()
    assert (one.done, other.done, len(pending)) == (["a", "b", None], [b"c"], 0)
    await pending.settle()
    assert one.done == ["a", "b", None]


async def test_what_fails_is_kept() -> None:
    pending, invalidator = PendingInvalidations(), Invalidator()
    invalidator.fails_at = "key-50"
    for number in range(100):
        pending.add(invalidator, f"key-{number}")
    with pytest.raises(StoreUnavailableError):
        await pending.settle()
    invalidator.fails_at = "nothing"
    await pending.settle()
    assert set(invalidator.done) == {f"key-{number}" for number in range(100)}
    assert not pending


async def test_what_is_owed_again_while_it_is_carried_out_is_carried_out_again() -> None:
    pending, invalidator = PendingInvalidations(), Invalidator()
    pending.add(invalidator, "a")

    def again(key: Key | None) -> None:
        if not invalidator.done:
            pending.add(invalidator, "a")

    invalidator.meanwhile = again
    await pending.settle()
    assert invalidator.done == ["a", "a"]


def test_only_what_was_carried_out_is_forgotten() -> None:
    pending, invalidator = PendingInvalidations(), Invalidator()
    first = pending.add(invalidator, "a")
    second = pending.add(invalidator, "a")
    pending.carried_out(invalidator, "a", first)
    assert len(pending) == 1
    pending.carried_out(invalidator, "a", second)
    pending.carried_out(invalidator, "b", 7)
    assert not pending


async def test_of_those_that_are_owed_most_everything_older_is_refused() -> None:
    pending, small, large = PendingInvalidations(max_keys=10), Invalidator(), Invalidator()
    for number in range(3):
        pending.add(small, f"small-{number}")
    for number in range(8):
        pending.add(large, f"large-{number}")
    assert (small.refuses_older, large.refuses_older, len(pending)) == (0, 1, 4)
    await pending.settle()
    assert (len(small.done), large.done) == (3, [None])


def test_a_distrusted_value_is_refused_until_it_is_set_or_has_expired() -> None:
    now = 0.0
    invalidated_before = InvalidatedBefore(lambda: now, max_keys=2)
    assert not invalidated_before.refuses("a", None)
    invalidated_before.was_set("a")
    invalidated_before.begin()
    assert invalidated_before.refuses("a", 60)
    for key in ("a", "b"):
        invalidated_before.was_set(key)
        assert not invalidated_before.refuses(key, 60)
    invalidated_before.was_set("c")
    assert invalidated_before.refuses("a", 60)
    assert not invalidated_before.refuses("b", 60)
    now = 61.0
    assert invalidated_before.refuses("a", None)
    assert not invalidated_before.refuses("a", 60)


async def test_an_invalidation_that_fails_is_kept_and_one_that_is_done_is_not() -> None:
    breaker, invalidator = CircuitBreaker("redis://h:6379/0", 1.0), Invalidator()
    assert await breaker.invalidate(invalidator, "a", used=True)
    assert not breaker.pending
    invalidator.fails_at = "b"
    assert not await breaker.invalidate(invalidator, "b", used=True)
    assert not await breaker.invalidate(invalidator, "c", used=False)
    assert breaker.health.invalidations == 2

    async def refuse(key: Key | None, *, away: bool) -> None:
        raise ValueError("not this key")

    invalidator.carry_out = refuse  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not this key"):
        await breaker.invalidate(invalidator, "d", used=True)
    assert breaker.health.invalidations == 2
