"""A time-out that is due because the event loop was held up is put off, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from stream_cached.connections.time_limit import TimeLimit
from stream_cached.errors import StoreUnavailableError
from tests.support import virtual_time
from tests.support.virtual_time import VirtualLoop

TIMEOUT = 0.1


async def after(event: asyncio.Event, seconds: float) -> str:
    """An answer that comes some time after the loop has gone on."""
    await event.wait()
    await asyncio.sleep(seconds)
    return "value"


def hold_up(seconds: float, then: asyncio.Event) -> None:
    """As if something had blocked the loop: the time is over before anything else is seen to."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jump(seconds)
    then.set()


async def never() -> None:
    await asyncio.Event().wait()


async def within(operation: Awaitable[object]) -> float:
    """Wait for an operation that fails; return how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(StoreUnavailableError):
        await operation
    return loop.time() - began


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.04])
def test_an_answer_is_given_more_time_once_the_loop_goes_on(seconds: float) -> None:
    async def main() -> None:
        went_on = asyncio.Event()
        asyncio.get_running_loop().call_soon(hold_up, 3.0, went_on)
        limit = TimeLimit()
        assert await limit.run("get", lambda: after(went_on, seconds), TIMEOUT) == "value"

    virtual_time.run(main())


def test_one_that_never_comes_expires_after_that() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(hold_up, 3.0, asyncio.Event())
        took = await within(TimeLimit().run("get", never, TIMEOUT))
        # Not at once, and not after as long as at first.
        assert 3.0 < took < 3.0 + TIMEOUT

    virtual_time.run(main())


def test_a_loop_that_is_not_held_up_puts_nothing_off() -> None:
    async def main() -> None:
        took = await within(TimeLimit().run("get", never, TIMEOUT))
        assert took == pytest.approx(TIMEOUT)

    virtual_time.run(main())


def test_a_loop_that_is_held_up_again_and_again_puts_it_off_a_few_times() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        times = 0

        def again() -> None:
            nonlocal times
            times += 1
            hold_up(1.0, asyncio.Event())
            if times < 50:
                loop.call_later(0.01, again)

        loop.call_soon(again)
        await within(TimeLimit().run("get", never, TIMEOUT))
        assert 2 <= times <= 10

    virtual_time.run(main())


def test_what_is_put_off_is_cancelled_as_soon_as_its_caller_is() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(hold_up, 3.0, asyncio.Event())
        task = asyncio.create_task(TimeLimit().run("get", never, TIMEOUT))
        for _ in range(4):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_time.run(main())
