"""Invalidations that are kept for a store, and what is refused where there were too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stream_cached.debts import Debts, Distrust, Key
from stream_cached.exceptions import StoreUnavailableError
from stream_cached.store.switch import Switch

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Creditor:
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
    debts, one, other = Debts(), Creditor(), Creditor()
    for key in ("a", "b", "a", None):
        debts.owe(one, key)
    debts.owe(other, b"c")
    assert len(debts) == 4
    await debts.settle()
    assert (one.done, other.done, len(debts)) == (["a", "b", None], [b"c"], 0)
    await debts.settle()
    assert one.done == ["a", "b", None]


async def test_what_fails_is_kept() -> None:
    debts, creditor = Debts(), Creditor()
    creditor.fails_at = "key-50"
    for number in range(100):
        debts.owe(creditor, f"key-{number}")
    with pytest.raises(StoreUnavailableError):
        await debts.settle()
    creditor.fails_at = "nothing"
    await debts.settle()
    assert set(creditor.done) == {f"key-{number}" for number in range(100)}
    assert not debts


async def test_what_is_owed_anew_while_it_is_carried_out_is_carried_out_again() -> None:
    debts, creditor = Debts(), Creditor()
    debts.owe(creditor, "a")

    def again(key: Key | None) -> None:
        if not creditor.done:
            debts.owe(creditor, "a")

    creditor.meanwhile = again
    await debts.settle()
    assert creditor.done == ["a", "a"]


def test_only_what_was_carried_out_is_forgotten() -> None:
    debts, creditor = Debts(), Creditor()
    first = debts.owe(creditor, "a")
    second = debts.owe(creditor, "a")
    debts.paid(creditor, "a", first)
    assert len(debts) == 1
    debts.paid(creditor, "a", second)
    debts.paid(creditor, "b", 7)
    assert not debts


async def test_of_whoever_is_owed_most_everything_older_is_refused() -> None:
    debts, small, large = Debts(max_keys=10), Creditor(), Creditor()
    for number in range(3):
        debts.owe(small, f"small-{number}")
    for number in range(8):
        debts.owe(large, f"large-{number}")
    assert (small.refuses_older, large.refuses_older, len(debts)) == (0, 1, 4)
    await debts.settle()
    assert (len(small.done), large.done) == (3, [None])


def test_a_distrusted_value_is_refused_until_it_is_set_or_has_expired() -> None:
    now = 0.0
    distrust = Distrust(lambda: now, max_keys=2)
    assert not distrust.refuses("a", None)
    distrust.was_set("a")
    distrust.begin()
    assert distrust.refuses("a", 60)
    for key in ("a", "b"):
        distrust.was_set(key)
        assert not distrust.refuses(key, 60)
    distrust.was_set("c")
    assert distrust.refuses("a", 60)
    assert not distrust.refuses("b", 60)
    now = 61.0
    assert distrust.refuses("a", None)
    assert not distrust.refuses("a", 60)


async def test_an_invalidation_that_fails_is_kept_and_one_that_is_done_is_not() -> None:
    switch, creditor = Switch("redis://h:6379/0", 1.0), Creditor()
    assert await switch.invalidate(creditor, "a", used=True)
    assert not switch.debts
    creditor.fails_at = "b"
    assert not await switch.invalidate(creditor, "b", used=True)
    assert not await switch.invalidate(creditor, "c", used=False)
    assert switch.health.invalidations == 2

    async def refuse(key: Key | None, *, away: bool) -> None:
        raise ValueError("not this key")

    creditor.carry_out = refuse  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not this key"):
        await switch.invalidate(creditor, "d", used=True)
    assert switch.health.invalidations == 2
