"""Whatever happens to a store, and when: each client is given a whole body, or sees it break."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from stream_cached import stream_cached
from tests.support import virtual_time
from tests.support.fault_lab import EPSILON, TIMEOUT, Lab, Scenario, SourceError, log_flaws, play
from tests.support.faults import FAULTS, LOSSES, Fault, fault_of, setting
from tests.support.moments import INLINE, LONG, MOMENTS, SEGMENTS, Moment
from tests.support.oracle import FALLBACK, Answer
from tests.support.runs import HIT, MISS


def _params() -> Iterator[object]:
    """Each fault at each moment. One that both kinds of servers have: at each with one of them."""
    names = [{str(fault) for fault in faults} for faults in FAULTS.values()]
    common = sorted(set.intersection(*names))
    for place, (kind, faults) in enumerate(FAULTS.items()):
        for fault, (number, (name, moment)) in itertools.product(
            faults, enumerate(MOMENTS.items(), place)
        ):
            if str(fault) in common and (number + common.index(str(fault))) % 2:
                continue
            yield pytest.param(kind, fault, moment, id=f"{kind}-{fault}-{name}")


Test = TypeVar("Test", bound=Callable[..., None])


class Attempt(Protocol):
    def __call__(
        self, kind: str, scenario: Scenario, *, outages: int | None = 1, **settings: Any
    ) -> None: ...


@pytest.fixture
def attempt(
    request: pytest.FixtureRequest, namespace: str, caplog: pytest.LogCaptureFixture
) -> Attempt:
    """Play a scenario, and look at all that must hold whatever happens in it."""

    def attempt(kind: str, scenario: Scenario, *, outages: int | None = 1, **settings: Any) -> None:
        request.getfixturevalue(f"{kind}_url")
        caplog.set_level(logging.INFO)
        server = request.getfixturevalue(f"{kind}_server")
        flaws = play(server, namespace, scenario, **settings)
        flaws += log_flaws(caplog.records, outages)
        assert not flaws, "\n".join(flaws)

    return attempt


def _disturbed(fault: Fault, moment: Moment) -> Scenario:
    """A fault at a moment; requests meanwhile; and the store as it was before."""

    async def scenario(lab: Lab) -> None:
        if moment.stored:
            await lab.ask(moment.path)
            assert (await lab.ask(moment.path)).cache_status == HIT
        if moment.used:
            await lab.ask("/700000/known")
        if moment.used and not moment.missed:
            assert (await lab.ask("/700000/known")).cache_status == HIT
        if moment.breaks:
            _let_break(lab, moment.path)
        await _strike(lab, fault, moment)
        await _go_on(lab, fault, moment)
        await lab.fix()
        assert await lab.returned() <= 2
        await _is_as_before(lab, moment)

    return scenario


def _let_break(lab: Lab, path: str) -> None:
    """Let the first run of a path raise at its end."""

    async def before(asked: str, number: int) -> None:
        if asked == path and lab.streams.runs[path] == 1 and number == 23:
            raise SourceError

    lab.streams.before = before


async def _strike(lab: Lab, fault: Fault, moment: Moment) -> None:
    if moment.when is None:
        await lab.break_down(fault)
    else:
        lab.arm(fault, moment.when, moment.nth)
    await lab.ask(moment.path, kind=moment.kind, may_break=moment.breaks)
    assert lab.faults_begun == 1, "the moment did not come"


async def _go_on(lab: Lab, fault: Fault, moment: Moment) -> None:
    """What is asked meanwhile is answered; by the memory, where the store is of no use."""
    paths = (moment.path, "/1000/new", "/700000/new", "/700000/known")
    await lab.ask_all(*paths, *paths)
    if fault.is_outage:
        assert not lab.health.available
        await lab.ask_all("/1000/new", "/700000/new")
        answers = await lab.ask_all("/1000/new", "/700000/new")
        assert [answer.cache_status for answer in answers] == [HIT + FALLBACK] * 2
        assert [answer.ended_at for answer in answers] == [0.0] * 2


async def _is_as_before(lab: Lab, moment: Moment) -> None:
    """The store is used again: what is stored is there, and comes from there."""
    passed = lab.proxy.passed.copy()
    miss, hit = await lab.ask("/700000/after"), await lab.ask("/700000/after")
    assert (miss.cache_status, hit.cache_status) == (MISS, HIT)
    assert hit.body == miss.body
    reached = lab.proxy.passed - passed
    # A script may have looked up, and taken the lease.
    assert reached["SET"] >= 3
    assert reached["MGET"] + reached["GETS"] >= 1
    await lab.ask_all(moment.path, "/700000/known", "/700000/new")


@pytest.mark.matrix("kind", "fault", share=3, rest=8)
@pytest.mark.parametrize(("kind", "fault", "moment"), [*_params()])
def test_a_fault_costs_no_client_a_byte(
    attempt: Attempt, kind: str, fault: Fault, moment: Moment
) -> None:
    outages = (1 if fault.is_outage else 0) if fault.steady else None
    attempt(kind, _disturbed(fault, moment), outages=outages, local=moment.local)


@pytest.mark.matrix(share=3, rest=4)
@pytest.mark.parametrize("kind", ["redis", "memcached"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("name", [name for name, moment in MOMENTS.items() if moment.when])
def test_a_server_that_loses_all_it_held_costs_no_client_a_byte(
    attempt: Attempt, kind: str, loss: Fault, name: str
) -> None:
    moment = MOMENTS[name]

    async def scenario(lab: Lab) -> None:
        if moment.stored:
            await lab.ask(moment.path)
        if moment.breaks:
            _let_break(lab, moment.path)
        await _strike(lab, loss, moment)
        await lab.fix()
        await lab.ask_all(moment.path, moment.path)
        assert await lab.returned() <= 2
        await _is_as_before(lab, moment)

    attempt(kind, scenario, outages=None, local=moment.local)


# -- what a single request does not show ----------------------------------------------------------

each_kind = pytest.mark.parametrize("kind", ["redis", "memcached"])
each_silence = pytest.mark.parametrize("name", ["late", "mute", "clogged", "paused"])
_outages = pytest.mark.parametrize(
    ("kind", "fault"),
    [
        pytest.param(kind, fault, id=f"{kind}-{fault}")
        for kind, faults in FAULTS.items()
        for fault in faults
        if fault.is_outage
    ],
)


#: The outages of the quick run, where another test goes through all of them.
_FEW = {"killed", "paused", "mute", "refused"}

_few_outages = pytest.mark.parametrize(
    ("kind", "fault"),
    [
        pytest.param(
            kind,
            fault,
            id=f"{kind}-{fault}",
            marks=() if str(fault) in _FEW else pytest.mark.full,
        )
        for kind, faults in FAULTS.items()
        for fault in faults
        if fault.is_outage
    ],
)


def each_outage(test: Test) -> Test:
    marked: Test = pytest.mark.matrix(share=2)(_outages(test))
    return marked


def few_outages(test: Test) -> Test:
    marked: Test = _few_outages(test)
    return marked


@each_kind
@each_silence
def test_all_that_wait_for_a_silent_store_wait_for_one_time_out(
    attempt: Attempt, kind: str, name: str
) -> None:
    async def scenario(lab: Lab) -> None:
        stored = [f"/{size}/stored{n}" for n in range(4) for size in (1000, 700_000)]
        await lab.ask_all(*stored)
        await lab.break_down(fault_of(kind, name))
        await lab.ask_all(
            *stored, *(f"/{size}/new{n}" for n in range(4) for size in (1000, 70_000))
        )
        answers = await lab.ask_all(*stored, *(f"/1000/later{n}" for n in range(4)))
        assert {answer.ended_at for answer in answers} == {0.0}
        await lab.fix()
        assert await lab.returned() <= 2

    attempt(kind, scenario)


@each_kind
@each_silence
def test_requests_that_come_while_others_wait_end_with_them(
    attempt: Attempt, kind: str, name: str
) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ask_all(*(f"/700000/stored{n}" for n in range(4)))
        await lab.break_down(fault_of(kind, name))
        tasks: list[asyncio.Task[Answer]] = []
        async with asyncio.TaskGroup() as group:
            for n in range(8):
                for path in (f"/1000/{n}", f"/700000/{n}", f"/700000/stored{n}"):
                    tasks.append(group.create_task(lab.ask(path)))
                await asyncio.sleep(0.1)
        for number, task in enumerate(tasks):
            # What the first ones have waited for, the others need not wait for any more.
            left = max(0.0, TIMEOUT - number // 3 * 0.1)
            assert task.result().first_at == pytest.approx(left, abs=0.001)
        await lab.fix()
        assert await lab.returned() <= 2

    attempt(kind, scenario)


@each_kind
@pytest.mark.parametrize("delay", [0.05, 0.1, 0.15])
def test_a_store_that_is_slow_holds_up_the_end_of_a_stream_for_one_time_out(
    attempt: Attempt, kind: str, delay: float
) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ask_all(*(f"/2300000/{n}" for n in range(8)))  # so that all are connected
        await lab.break_down(setting("slow", {"delay": delay}))
        answer = await lab.ask(LONG)
        # A script takes the lease with the look-up. Without it, there are two more round trips.
        assert answer.first_at == pytest.approx(delay * (1 if kind == "redis" else 3))
        assert answer.ended_at <= delay * 3 + TIMEOUT + EPSILON
        await lab.fix()

    attempt(kind, scenario, outages=0)


@each_kind
@pytest.mark.parametrize("after", [100, 300_000, 1_100_000, 2_200_000])
def test_a_connection_that_is_cut_under_a_hit_breaks_it_or_costs_it_a_run(
    attempt: Attempt, kind: str, after: int
) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ask(LONG)
        await lab.break_down(setting("cut", {"cut_after": after}))
        answer = await lab.ask(LONG)
        assert answer.complete != answer.is_hit
        await lab.fix()
        assert await lab.returned() <= 2

    attempt(kind, scenario)


@few_outages
def test_a_slow_client_is_given_all_that_was_read_before_its_store_died(
    attempt: Attempt, kind: str, fault: Fault
) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ask(LONG)
        slow = asyncio.create_task(lab.ask(LONG, pace=0.1))
        await asyncio.sleep(0.25)
        await lab.break_down(fault)
        await lab.ask_all("/1000/new", "/700000/new")
        assert not lab.health.available
        answer = await slow
        assert answer.is_hit
        # Two windows had been asked for.
        assert answer.complete or len(answer.body) >= 4 * 250_000
        await lab.fix()
        assert await lab.returned() <= 2

    attempt(kind, scenario)


@few_outages
def test_a_client_that_leaves_in_an_outage_leaves_nothing_behind(
    attempt: Attempt, kind: str, fault: Fault
) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ask(LONG)
        lab.arm(fault, lambda command: command.stores and command.of_segments, 4)
        await lab.ask("/2300000/new", leaves_at=8)
        for _ in range(200):
            # Its run goes on without it.
            await asyncio.sleep(0 if lab.faults_begun else 0.01)
        assert lab.faults_begun == 1
        await asyncio.gather(*(lab.ask("/2300000/newer", leaves_at=n) for n in (1, 4, 20)))
        await asyncio.gather(*(lab.ask(LONG, leaves_at=n) for n in (1, 2, 4)))
        await lab.ask_all(LONG, "/2300000/new")
        await lab.fix()
        assert await lab.returned() <= 2

    attempt(kind, scenario)


@each_outage
def test_each_outage_is_told_of_once(attempt: Attempt, kind: str, fault: Fault) -> None:
    async def scenario(lab: Lab) -> None:
        for outage in range(2):
            await lab.break_down(fault)
            for n in range(2):
                await lab.ask_all(*(f"/{size}/{outage}-{n}" for size in (1000, 700_000)))
            assert not lab.health.available
            # What the memory held in the last outage may have been invalidated since.
            miss, hit = await lab.ask("/1000/same"), await lab.ask("/1000/same")
            assert (miss.cache_status, hit.cache_status) == (MISS + FALLBACK, HIT + FALLBACK)
            await asyncio.sleep(20)
            await lab.fix()
            assert await lab.returned() <= 2
            miss, hit = await lab.ask(f"/700000/{outage}"), await lab.ask(f"/700000/{outage}")
            assert (miss.cache_status, hit.cache_status) == (MISS, HIT)

    attempt(kind, scenario, outages=2)


@few_outages
def test_without_a_fallback_requests_go_past_a_store_that_is_away(
    attempt: Attempt, kind: str, fault: Fault
) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.ask_all(INLINE, SEGMENTS)
        await lab.break_down(fault)
        await lab.ask_all(INLINE, SEGMENTS, "/1000/new", "/700000/new")
        await lab.ask("/1000/newer")
        assert not lab.health.available
        answers = await lab.ask_all(INLINE, SEGMENTS, "/1000/new", "/700000/new")
        assert {a.cache_status for a in answers} == {'stream-cached; fwd=bypass; detail="store"'}
        assert {answer.ended_at for answer in answers} == {0.0}
        await lab.fix()
        assert await lab.returned() <= 2
        await lab.ask("/700000/after")
        assert (await lab.ask("/700000/after")).cache_status == HIT

    attempt(kind, scenario, fallback=False)


@few_outages
def test_what_is_invalidated_in_an_outage_is_not_served_after_it(
    attempt: Attempt, kind: str, fault: Fault
) -> None:
    async def scenario(lab: Lab) -> None:
        before = [await lab.ask(INLINE), await lab.ask(SEGMENTS)]
        await lab.break_down(fault)
        for n in range(2):
            await lab.ask(f"/1000/new{n}")
        assert not lab.health.available
        meanwhile = await lab.ask_all(INLINE, SEGMENTS)
        await lab.streams.endpoint.invalidate()
        later = await lab.ask_all(INLINE, SEGMENTS)
        await lab.fix()
        assert await lab.returned() <= 2
        after = await lab.ask_all(INLINE, SEGMENTS)
        for answers in zip(before, meanwhile, later, after, strict=True):
            assert len({answer.body for answer in answers}) == 4

    attempt(kind, scenario)


@few_outages
def test_plain_values_come_in_time(attempt: Attempt, kind: str, fault: Fault) -> None:
    async def scenario(lab: Lab) -> None:
        runs = 0

        @stream_cached(ttl=60, cache=lab.url)
        async def value(number: int) -> dict[str, int]:
            nonlocal runs
            runs += 1
            return {"number": number, "run": runs}

        async def get(number: int) -> dict[str, int]:
            loop = asyncio.get_running_loop()
            began = loop.time()
            found = await value(number)
            assert found["number"] == number
            assert loop.time() - began <= TIMEOUT + EPSILON
            return found

        assert await get(1) == await get(1)
        await lab.break_down(fault)
        await asyncio.gather(get(1), get(2), get(3))
        await get(4)
        assert not lab.health.available
        assert await get(5) == await get(5)
        await lab.fix()
        assert await lab.returned() <= 2
        assert await get(6) == await get(6)

    attempt(kind, scenario)


# A connection that the proxy is given in the loop's last turns is left to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@few_outages
def test_a_loop_may_end_in_an_outage(
    request: pytest.FixtureRequest,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    fault: Fault,
) -> None:
    request.getfixturevalue(f"{kind}_url")
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with Lab(request.getfixturevalue(f"{kind}_server"), namespace) as lab:
            await lab.ask(SEGMENTS)
            await lab.break_down(fault)
            await lab.ask_all(SEGMENTS, "/700000/new")
            await lab.ask("/700000/newer")
            assert not lab.health.available
            await asyncio.sleep(0.5)
            assert not lab.oracle.objections

    virtual_time.run(main())
    gc.collect()
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR" if fault.name == "MOVED" else "WARNING"], [
        record.getMessage() for record in caplog.records
    ]
