"""When a store is away, and when it is asked again: by plain calls."""

from __future__ import annotations

import pytest

from stream_cached.backends.breaker_state import MAX_INTERVAL, RECOVERED_AFTER, BreakerState, State


def pings(store: BreakerState, count: int, chance: float = 1.0) -> list[float]:
    """Return the delays before that many pings, all of which fail."""
    delays = []
    for _ in range(count):
        delays.append(store.next_ping(chance))
        store.failed_again()
    return delays


def available(retry_interval: float = 1.0) -> BreakerState:
    store = BreakerState(retry_interval, 0.0)
    store.answered(0.0)
    return store


def test_a_store_that_failed_is_asked_at_once_and_then_less_and_less_often() -> None:
    store = available()
    assert store.lost("refused", now=100.0)
    assert pings(store, 8) == [0, 1, 2, 4, 8, 16, 30, 30]


def test_one_that_did_not_answer_its_first_ping_is_not_asked_at_once() -> None:
    store = BreakerState(1.0, 0.0)
    assert store.state is State.UNTRIED
    assert store.lost("refused", now=0.1)
    assert pings(store, 3) == [1, 2, 4]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_chance_brings_a_ping_forward_by_up_to_a_half(chance: float) -> None:
    store = available(2.0)
    store.lost("refused", now=100.0)
    assert pings(store, 3, chance) == [0, 2 * (0.5 + chance / 2), 4 * (0.5 + chance / 2)]


def test_an_interval_longer_than_the_longest_is_kept() -> None:
    store = available(2 * MAX_INTERVAL)
    store.lost("refused", now=100.0)
    assert pings(store, 3) == [0, 2 * MAX_INTERVAL, 2 * MAX_INTERVAL]


def test_an_outage_of_years_does_not_overflow() -> None:
    store = available()
    store.lost("refused", now=100.0)
    assert pings(store, 5000)[-1] == MAX_INTERVAL


def test_a_store_goes_away_once_and_comes_back_once() -> None:
    store = available()
    assert [store.lost(cause, now=100.0) for cause in ("one", "two")] == [True, False]
    assert (store.state, store.cause, store.since, store.outages) == (State.AWAY, "one", 100.0, 1)
    store.requests += 3
    store.answered(105.0)
    assert (store.state, store.cause, store.since) == (State.AVAILABLE, None, 105.0)
    assert store.lost("three", now=200.0)
    assert (store.outages, store.requests) == (2, 0)


def test_one_that_comes_and_goes_is_asked_less_and_less_often() -> None:
    store, first_pings, now = available(), [], 100.0
    for _ in range(5):
        store.lost("full", now)
        first_pings.append(store.next_ping(1.0))
        store.answered(now)
        now += RECOVERED_AFTER / 10
    assert first_pings == [0, 1, 2, 4, 8]
    now += RECOVERED_AFTER
    store.lost("full", now)
    assert store.next_ping(1.0) == 0
