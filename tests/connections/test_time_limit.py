"""The time-out of an operation: it is kept, given up early, and put off where the loop was held."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import warnings
from collections.abc import Callable
from functools import partial

import pytest

from stream_cached.connections.deadline import Deadline
from stream_cached.connections.time_limit import TimeLimit
from stream_cached.errors import StoreError, StoreUnavailableError
from tests.support.gates import _resolve

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Failures:
    def __init__(self) -> None:
        self.away = False
        self.noted: list[str] = []
        self.time_limit = TimeLimit(lambda: self.away, lambda exc: self.noted.append(str(exc)))


async def never() -> None:
    await asyncio.Event().wait()


async def done() -> None:
    await asyncio.sleep(0)


async def refuses() -> None:
    raise StoreError("too large")


async def test_one_that_hangs_fails_after_its_time_out() -> None:
    failures = Failures()
    with pytest.raises(StoreUnavailableError, match=r"get: no answer within 0\.01 s"):
        await failures.time_limit.run("get", never, 0.01)
    assert failures.noted == ["get: no answer within 0.01 s"]


async def test_only_what_the_server_is_to_blame_for_is_noted() -> None:
    failures = Failures()
    with pytest.raises(StoreError, match="too large"):
        await failures.time_limit.run("set", refuses, 1)
    assert failures.noted == []

    async def fails() -> None:
        raise failures.time_limit.failure("refused")

    async def nested() -> None:
        await failures.time_limit.run("set", fails, 1)

    with pytest.raises(StoreUnavailableError, match="refused"):
        await failures.time_limit.run("look-up", nested, 1)
    assert failures.noted == ["refused"]


async def test_a_server_that_answers_others_is_not_blamed() -> None:
    failures = Failures()

    async def late() -> None:
        await asyncio.sleep(0.08)

    late_one = asyncio.ensure_future(failures.time_limit.run("get", never, 0.1))
    await failures.time_limit.run("get", late, 1)
    with pytest.raises(StoreError) as failed:
        await late_one
    assert not isinstance(failed.value, StoreUnavailableError)
    assert failures.noted == []
    with pytest.raises(StoreUnavailableError):
        await failures.time_limit.run("get", never, 0.1)


async def test_where_the_server_is_away_none_begins() -> None:
    failures = Failures()
    failures.away = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StoreUnavailableError, match="away"):
            await failures.time_limit.run("get", never, None)
        gc.collect()
    assert failures.noted == []


async def test_all_that_are_under_way_are_given_up_at_once() -> None:
    failures = Failures()

    async def nested() -> None:
        await failures.time_limit.run("get", never, 60)

    calls = [
        asyncio.ensure_future(failures.time_limit.run("look-up", begin, 60))
        for begin in (never, nested)
    ]
    await asyncio.sleep(0)
    failures.time_limit.give_up()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in done] == [StoreUnavailableError] * 2
    assert failures.noted == []


async def test_one_that_is_cancelled_is_cancelled() -> None:
    failures = Failures()
    call = asyncio.ensure_future(failures.time_limit.run("get", never, 60))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert failures.noted == []


async def test_an_answer_that_came_while_the_loop_was_held_up_counts() -> None:
    failures = Failures()
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()

    async def answer() -> str:
        await answered.wait()
        # As a client needs some turns of the loop to read a reply.
        for _ in range(5):
            await asyncio.sleep(0)
        return "value"

    def hold_up() -> None:
        time.sleep(0.2)
        loop.call_soon(answered.set)

    loop.call_soon(hold_up)
    assert await failures.time_limit.run("get", answer, 0.1) == "value"
    assert failures.noted == []


@pytest.mark.full
async def test_a_loop_that_is_held_up_for_ever_does_not_put_it_off_for_ever() -> None:
    failures = Failures()
    loop = asyncio.get_running_loop()
    holding = True

    def hold_up() -> None:
        time.sleep(0.12)
        if holding:
            loop.call_soon(hold_up)

    loop.call_soon(hold_up)
    with pytest.raises(StoreUnavailableError):
        await failures.time_limit.run("get", never, 0.05)
    holding = False


@pytest.mark.parametrize("turns", range(5))
async def test_a_client_that_swallows_a_cancellation_is_cancelled_again(turns: int) -> None:
    failures = Failures()
    loop = asyncio.get_running_loop()
    sent = loop.create_future()

    async def send_and_receive() -> None:
        # As redis-py does; up to Python 3.11 `wait_for` may swallow it.
        await asyncio.wait_for(sent, 60)
        await never()

    def later(turn: int, call: Callable[[], object]) -> None:
        loop.call_soon(later, turn - 1, call) if turn else call()

    async with asyncio.timeout(5):
        call = asyncio.ensure_future(failures.time_limit.run("get", send_and_receive, 60))
        await asyncio.sleep(0.01)
        later(turns, partial(_resolve, sent))
        failures.time_limit.give_up()
        with pytest.raises(StoreUnavailableError):
            await call
    assert call.cancelling() == 0


async def test_one_that_ends_well_though_it_was_cancelled_has_ended_well() -> None:
    failures = Failures()

    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await never()
        return "value"

    assert await failures.time_limit.run("get", stubborn, 0.01) == "value"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_patience_is_spent_by_what_takes_time_only() -> None:
    deadline = Deadline(10.0)
    with deadline:
        await TimeLimit().run("get", done, 5)
    assert deadline.left is not None
    assert 9.0 < deadline.left < 10.0
    deadline.left = 0.0
    with deadline:
        await TimeLimit().run("get", done, 60)
    assert deadline.left == 0.0


async def test_only_what_was_given_its_time_is_blamed() -> None:
    failures = Failures()
    for left, blamed in ((0.001, False), (0.04, False), (0.06, True), (60, True)):
        failures.noted.clear()
        with pytest.raises(StoreError) as failed, Deadline(left):
            await failures.time_limit.run("get", never, 0.1)
        assert isinstance(failed.value, StoreUnavailableError) == blamed
        assert bool(failures.noted) == blamed


async def test_without_patience_each_operation_has_its_own_time_out() -> None:
    deadline = Deadline(None)
    with pytest.raises(StoreUnavailableError, match=r"0\.01 s"), deadline:
        await TimeLimit().run("get", never, 0.01)
    assert deadline.left is None


async def test_operations_within_a_time_share_it() -> None:
    with Deadline(0.05), pytest.raises(StoreUnavailableError):
        await TimeLimit().run("get", never, None)
    with Deadline(60):
        await TimeLimit().run("get", done, 1)
        with pytest.raises(StoreUnavailableError, match=r"0\.01 s"):
            await TimeLimit().run("get", never, 0.01)
