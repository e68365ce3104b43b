"""What a test has in its hands: the cache of the application, fresh, and with a clock to move."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stream_cached import tasks
from stream_cached.checks import require, require_seconds
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.runs.states import RunState
from stream_cached.runs.streaming import all_runs
from stream_cached.testing.clock import MovedTime
from stream_cached.testing.replacing import Replaced
from stream_cached.testing.statuses import CacheStatus, HasHeaders, no_status, status_of

#: Seconds between two looks at whether something still runs.
_PAUSE = 0.002


class CacheUnderTest:
    """
    The cache that stands for all caches of the application while one test runs.

    It is the fixture `stream_cache`. At the start of the test it is empty.
    """

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._clock = MovedTime()
        self._replaced = Replaced(self._patch, self._clock)

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        self._replaced.begin()
        try:
            yield
        finally:
            self._patch.undo()
            self._replaced.end()

    # -- what a test arranges -----------------------------------------------------------------

    def travel(self, seconds: float) -> None:
        """
        Let so much time pass for the cache, without waiting.

        Nothing else moves: not the time of the application, and no timer of the event loop. Where
        the application's own dates count, such as Expires, use freezegun or time-machine, which the
        cache goes by, too.

        Args:
            seconds: How far to go on.

        Raises:
            ConfigurationError: The test uses a real store, or it is no number above 0.
        """
        require_seconds("seconds", seconds)
        require(
            self._replaced.url is None,
            "travel() can't move the time of a real store, which expires its keys by its own "
            "clock: leave use() out of this test, or give the endpoint a short ttl= and wait",
        )
        self._clock.travel(seconds, self._patch)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Let each call run its function, as AIOCACHE_DISABLE=1 does: nothing is read or stored."""
        before, self._replaced.is_disabled = self._replaced.is_disabled, True
        try:
            yield
        finally:
            self._replaced.is_disabled = before

    def clear(self) -> None:
        """Forget all that this test has stored."""
        self._replaced.forget()

    def use(self, url: str) -> None:
        """
        Let a real store stand for all caches, under a namespace of this test alone.

        Call it before the first request. What the test has stored is deleted at its end.

        Args:
            url: The URL of a store for tests, as `"redis://localhost/15"`.

        Raises:
            ConfigurationError: It is no URL of a store, or time has been moved already.
        """
        require(not self._clock.ahead, "use() comes before travel(), which a real store can't do")
        self._replaced.use(url)

    # -- background work ----------------------------------------------------------------------

    async def wait_idle(self, timeout: float = 5.0) -> None:
        """
        Wait until no run goes on in the background: of a client that has left, or a refresh.

        Args:
            timeout: Seconds after which to give up.

        Raises:
            TimeoutError: Something still runs; the message says what.
        """
        for _ in range(math.ceil(timeout / _PAUSE)):
            if not _going_on():
                return
            # The time of the loop may be frozen.
            await asyncio.to_thread(time.sleep, _PAUSE)
        raise TimeoutError(_still_running(timeout))

    def block_until_idle(self, timeout: float = 5.0) -> None:
        """
        Do the same as `wait_idle` in a test without an event loop.

        Args:
            timeout: Seconds after which to give up.

        Raises:
            TimeoutError: Something still runs; the message says what.
        """
        require(not tasks.has_event_loop(), "in an async test, write: await wait_idle()")
        for _ in range(math.ceil(timeout / _PAUSE)):
            if not _going_on():
                return
            time.sleep(_PAUSE)
        raise TimeoutError(_still_running(timeout))

    # -- what a test expects ------------------------------------------------------------------

    def assert_hit(self, response: HasHeaders) -> None:
        """
        Fail unless a response came from the cache.

        Args:
            response: That of a test client: of Starlette, httpx, Django, or any with `headers`.

        Raises:
            AssertionError: It did not; the message says why, and which line changes that.
        """
        __tracebackhide__ = True
        status = self._status(response, "a hit")
        if not status.is_hit:
            self._fail("a hit", status)

    def assert_miss(self, response: HasHeaders) -> None:
        """
        Fail unless the cache was asked, and had nothing: the endpoint has run for this response.

        Args:
            response: That of a test client.

        Raises:
            AssertionError: It was a hit, or it went past the cache; the message says why.
        """
        __tracebackhide__ = True
        status = self._status(response, "a miss")
        is_past = status.forwarded in ("bypass", "method") or status.reasons
        if status.is_hit or status.is_collapsed or is_past:
            self._fail("a miss", status)

    def assert_stored(self, response: HasHeaders) -> None:
        """
        Fail unless a response is in the cache: it is a hit, or was stored as it was sent.

        Args:
            response: That of a test client.

        Raises:
            AssertionError: It is not; the message says why, and which line changes that.
        """
        __tracebackhide__ = True
        status = self._status(response, "a response that is stored")
        if status.is_hit:
            return
        if not status.is_stored:
            self._fail("a response that is stored", status)
        if not self._holds(response, status):
            self._fail_unstored(status)

    def assert_not_stored(
        self, response: HasHeaders, reason: NotCached | str | None = None
    ) -> None:
        """
        Fail if a response came from the cache, or is stored in it.

        Args:
            response: That of a test client.
            reason: Why it has to be refused: a `NotCached`, or its word, as `"set-cookie"`.

        Raises:
            AssertionError: It is stored, or not stored for another reason.
        """
        __tracebackhide__ = True
        expected = "a response that is not stored"
        status = self._status(response, expected)
        is_stored = status.is_stored and self._holds(response, status)
        if status.is_hit or status.is_collapsed or is_stored:
            raise AssertionError(
                f"expected {expected}, but it may answer other requests.\n"
                f"  Cache-Status: {status.text}\n"
                "  Fix: let it say Cache-Control: no-store, call bypass(), or take the decorator "
                "away"
            )
        words = [each.word for each in status.reasons]
        wanted = reason.word if isinstance(reason, NotCached) else reason
        if wanted is not None and wanted not in words:
            self._fail(f"{expected} because of {wanted!r}", status)

    def _holds(self, response: HasHeaders, status: CacheStatus) -> bool:
        # A middleware may have changed the body, so that an entry of another length will do where
        # nothing has failed.
        exactly = bool(self._late(status) or _going_on())
        return self._replaced.holds(response, exactly=exactly)

    def _late(self, status: CacheStatus) -> list[Finding]:
        """Return why responses were not stored after all, which no header could say."""
        return [each for each in self._replaced.noted if each.reason.word not in status.text]

    def _status(self, response: HasHeaders, expected: str) -> CacheStatus:
        __tracebackhide__ = True
        status = status_of(response)
        if status is None:
            raise AssertionError(f"expected {expected}, but there is {no_status(response)}")
        return status

    def _fail(self, expected: str, status: CacheStatus) -> None:
        __tracebackhide__ = True
        raise AssertionError(
            f"expected {expected}, but it is none.\n"
            f"  Cache-Status: {status.text}\n"
            f"  That is: {status.explained(self._replaced.noted)}"
        )

    def _fail_unstored(self, status: CacheStatus) -> None:
        __tracebackhide__ = True
        late = self._late(status)
        why = "its body was not whole, was not read to its end, or was invalidated or expired since"
        if late:
            why = f"{late[-1]}. Fix: {late[-1].fix or late[-1].reason.fix}"
        elif _going_on():
            why = "its run still goes on. Fix: await stream_cache.wait_idle() before"
        raise AssertionError(
            "expected a response that is stored, but there is no such entry.\n"
            f"  Cache-Status: {status.text}\n"
            f"  That is: it was going to be stored, and then it was not: {why}"
        )


def _going_on() -> list[Any]:
    """Return the tasks of all loops that run, but for the one that asks."""
    current = asyncio.current_task() if tasks.has_event_loop() else None
    return [
        each for each in tasks.running() if each is not current and each.get_loop().is_running()
    ]


def _still_running(timeout: float) -> str:
    # Nothing ends what a loop has left that is over.
    here = [each for each in all_runs() if each.loop.is_running()]
    runs = [repr(each) for each in here if each.state is not RunState.CLOSED]
    what = ", ".join(runs) or f"{len(_going_on())} tasks"
    return (
        f"after {timeout:g} s this still runs: {what}. Fix: let the endpoint come to its end (does "
        "it wait for the test?), read each response to its end, or pass a longer timeout="
    )
