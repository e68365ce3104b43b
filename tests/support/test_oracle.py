"""The judge of answers, given wrong ones: it sees each of them."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from starlette.types import Message, Receive, Scope, Send

from stream_cached import Health, health
from tests.support.bodies import flaw, new_body
from tests.support.fault_lab import Lab, Scenario, log_flaws, play
from tests.support.faults import fault_of
from tests.support.oracle import FALLBACK, Answer, Oracle
from tests.support.runs import HIT, MISS
from tests.support.servers import RedisServer

PATH = "/300000/x"


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> Iterator[None]:
    """Look again at what `play` has let the collector forget."""
    yield
    gc.unfreeze()


def answer(body: bytes, **changes: Any) -> Answer:
    """Return a whole answer, but for some changes."""
    whole = Answer(PATH, 200, MISS, body, complete=True, first_at=0.0, ended_at=0.0)
    for name, value in changes.items():
        setattr(whole, name, value)
    return whole


# -- bodies ---------------------------------------------------------------------------------------

WRONG: dict[str, Callable[[bytes, bytes], bytes]] = {
    "empty": lambda body, other: b"",
    "short": lambda body, other: body[:-1],
    "of the first line": lambda body, other: body[: body.index(b"\n") + 1],
    "long": lambda body, other: body + b"x",
    "altered at its end": lambda body, other: body[:-1] + bytes([body[-1] ^ 1]),
    "of another request": lambda body, other: new_body("/300000/y"),
    "of a longer path": lambda body, other: new_body("/300000/x2"),
    "an error": lambda body, other: b"Internal Server Error",
    "with a gap": lambda body, other: body[:100_000] + body[200_000:] + body[100_000:200_000],
    "of two runs": lambda body, other: body[:200_000] + other[200_000:],
    "of two runs the other way": lambda body, other: other[:100] + body[100:],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_seen(name: str) -> None:
    body, other = new_body(PATH), new_body(PATH)
    assert body != other
    wrong = WRONG[name](body, other)
    assert flaw(PATH, body, whole=True) is None
    assert flaw(PATH, wrong, whole=True) is not None

    oracle = Oracle()
    oracle.judge(answer(body))
    assert not oracle.objections
    oracle.judge(answer(wrong))
    assert len(oracle.objections) == 1


@pytest.mark.parametrize("name", WRONG)
def test_the_beginning_of_a_wrong_body_is_seen(name: str) -> None:
    wrong = WRONG[name](new_body(PATH), new_body(PATH))
    is_a_beginning = name in ("empty", "short", "of the first line")
    assert (flaw(PATH, wrong, whole=False) is None) == is_a_beginning


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"complete": False, "error": "broken"},
        {"complete": False, "status": 0},
        {"status": 500},
        {"status": 304},
        {"cache_status": 'stream-cached; fwd=bypass; detail="store"'},
        {"first_at": 0.6, "ended_at": 0.6},
        {"ended_at": 1.1},
        {"first_at": None, "ended_at": 0.6},
        {"may_break": True, "ended_at": 1.1},
        {"left": True, "complete": False, "first_at": 0.6},
    ],
)
def test_a_wrong_answer_is_seen(changes: dict[str, Any]) -> None:
    oracle = Oracle(first_within=0.52, ended_within=1.02)
    oracle.judge(answer(new_body(PATH)))
    oracle.judge(answer(new_body(PATH), first_at=0.5, ended_at=1.0))
    oracle.judge(answer(new_body(PATH)[:70_000], complete=False, may_break=True))
    oracle.judge(answer(new_body(PATH)[:70_000], complete=False, left=True))
    assert not oracle.objections
    oracle.judge(answer(new_body(PATH), **changes))
    assert len(oracle.objections) == 1
    assert PATH in oracle.objections[0]


def test_an_answer_knows_where_it_comes_from() -> None:
    assert answer(b"", cache_status=HIT).is_hit
    assert answer(b"", cache_status=HIT + FALLBACK).is_hit
    assert answer(b"", cache_status=HIT + FALLBACK).of_fallback
    assert not answer(b"", cache_status=HIT).of_fallback
    assert not answer(b"", cache_status=MISS).is_hit


# -- the laboratory -------------------------------------------------------------------------------

App = Callable[[Scope, Receive, Send], Any]


def sending(*messages: Message, error: Exception | None = None, seconds: float = 0.0) -> App:
    """An application that sends what it is told to."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app


def start(*headers: tuple[bytes, bytes], hit: bool = False) -> Message:
    status = HIT if hit else MISS
    found = [(b"cache-status", status.encode()), *headers]
    return {"type": "http.response.start", "status": 200, "headers": found}


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


LENGTH = (b"content-length", b"300000")


@pytest.mark.parametrize(
    "app",
    [
        lambda body: sending(start(), part(body[:-1], more=True), part(b"", more=False)),
        lambda body: sending(start(hit=True), part(body[:-1], more=False)),
        lambda body: sending(start(hit=True), part(new_body("/300000/y"), more=False)),
        lambda body: sending(start(), part(body, more=True)),
        lambda body: sending(start(), part(body[:70_000], more=True), error=RuntimeError("broken")),
        lambda body: sending(start(LENGTH, hit=True), part(body[:-1], more=False)),
        lambda body: sending(error=RuntimeError("broken")),
        lambda body: sending(start(), part(body, more=False), seconds=0.6),
    ],
)
def test_a_laboratory_sees_what_an_application_does_wrong(
    redis_server: RedisServer, redis_url: str, namespace: str, app: Callable[[bytes], App]
) -> None:
    async def scenario(lab: Lab) -> None:
        lab.app = cast(Any, app(new_body(PATH)))
        await lab.ask(PATH)

    assert len(play(redis_server, namespace, scenario)) == 1


def test_only_a_hit_whose_store_failed_may_break(
    redis_server: RedisServer, redis_url: str, namespace: str
) -> None:
    beginning = new_body(PATH)[:70_000]

    async def scenario(lab: Lab) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await lab.break_down(fault_of("redis", "mute"))
            await broken(scope, receive, send)

        broken = sending(start(LENGTH, hit=True), part(beginning, more=True))
        lab.app = cast(Any, app)
        assert (await lab.ask(PATH)).may_break
        await lab.fix()
        lab.app = cast(Any, broken)
        assert not (await lab.ask(PATH)).may_break
        broken = sending(start(LENGTH), part(beginning, more=True))
        lab.app = cast(Any, app)
        assert not (await lab.ask(PATH)).may_break

    assert len(play(redis_server, namespace, scenario)) == 2


def test_a_task_that_is_left_behind_is_seen(
    redis_server: RedisServer, redis_url: str, namespace: str
) -> None:
    tasks = []

    async def scenario(lab: Lab) -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))

    (found,) = play(redis_server, namespace, scenario)
    assert "it is left" in found


def test_what_the_log_must_not_say_is_seen(
    redis_server: RedisServer, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def fail() -> None:
        raise RuntimeError("never retrieved")

    async def scenario(lab: Lab) -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        del task

    def flaws(scenario: Scenario, outages: int | None) -> list[str]:
        caplog.clear()
        assert not play(redis_server, namespace, scenario)
        return log_flaws(caplog.records, outages)

    async def nothing(lab: Lab) -> None:
        await lab.ask(PATH)

    assert not flaws(nothing, 0)
    assert any("never retrieved" in found for found in flaws(scenario, 0))
    assert len(flaws(nothing, 1)) == 2

    logger = logging.getLogger("stream_cached")

    async def chatty(lab: Lab) -> None:
        logger.warning("away")
        logger.warning("away")
        logger.info("back")

    assert len(flaws(chatty, 1)) == 1
    assert len(flaws(chatty, 2)) == 1
    assert len(flaws(chatty, None)) == 1


def test_a_fault_shows_in_what_is_said_of_the_store(
    redis_server: RedisServer, redis_url: str, namespace: str
) -> None:
    known: list[Health] = []

    async def scenario(lab: Lab) -> None:
        await lab.ask(PATH)
        assert lab.health.store in {each.store for each in health()}
        await lab.break_down(fault_of("redis", "refused"))
        await lab.ask(PATH)
        known.append(lab.health)
        await lab.fix()
        assert await lab.returned() in (1, 2)
        known.append(lab.health)

    assert not play(redis_server, namespace, scenario)
    assert [each.available for each in known] == [False, True]
    assert known[0].requests == 1
    assert known[0].cause
