"""Reads that are shared: nobody is given what was read before he asked, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.connections import shared_reads
from stream_cached.connections.shared_reads import SharedReads
from stream_cached.stores.redis import RedisStore
from tests.stores.test_contract import redis_cache
from tests.support.selection import examples
from tests.support.servers import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """What is read; each read waits until it is let go, and may then fail."""

    def __init__(self) -> None:
        self.value = 0
        self.under_way: list[asyncio.Future[None]] = []
        self.count = 0
        self.begins = asyncio.Event()
        self.reads = SharedReads(self.read)

    async def read(self, key: str) -> int:
        """Return the value as it was when this was called."""
        value = self.value
        self.count += 1
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way.append(gate)
        self.begins.set()
        await gate
        return value

    async def ask(self) -> asyncio.Task[int]:
        """Begin to ask."""
        task = asyncio.ensure_future(self.reads("key"))
        await turns()
        return task

    async def let_go(self, error: Exception | None = None) -> None:
        """Let the oldest read end."""
        gate = self.under_way.pop(0)
        if not gate.done():
            gate.set_exception(error) if error else gate.set_result(None)
        await turns()


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_who_ask_meanwhile_share_the_next_one() -> None:
    server = Server()
    first = await server.ask()
    server.value = 1
    others = [await server.ask() for _ in range(10)]
    await server.let_go()
    assert first.done()
    assert not any(task.done() for task in others)
    await server.let_go()
    assert [await task for task in [first, *others]] == [0] + [1] * 10
    assert server.count == 2
    assert not server.reads._waiting


async def test_keys_have_nothing_to_do_with_each_other() -> None:
    server = Server()
    tasks = [asyncio.ensure_future(server.reads(key)) for key in "ab"]
    await turns()
    assert len(server.under_way) == 2
    await server.let_go()
    await server.let_go()
    assert await asyncio.gather(*tasks) == [0, 0]


async def test_one_who_leaves_while_he_reads_for_others_leaves_it_to_them() -> None:
    server = Server()
    first, *others = [await server.ask() for _ in range(4)]
    await server.let_go()
    assert await first == 0
    others[0].cancel()
    await turns()
    server.under_way.pop(0)
    await server.let_go()
    assert await asyncio.gather(*others[1:]) == [0, 0]
    assert not server.reads._waiting


async def test_one_for_whom_another_reads_may_leave() -> None:
    server = Server()
    first, second, third, fourth = [await server.ask() for _ in range(4)]
    await server.let_go()
    third.cancel()
    await server.let_go()
    assert [await task for task in (first, second, fourth)] == [0, 0, 0]
    assert not server.reads._waiting


async def test_one_who_leaves_as_it_becomes_his_turn_leaves_it_to_others() -> None:
    server = Server()
    first, second, third = [await server.ask() for _ in range(3)]
    server.under_way.pop(0).set_result(None)
    # After the step of the first, which hands over, and before that of the second.
    asyncio.get_running_loop().call_soon(second.cancel)
    await turns()
    assert await first == 0
    assert second.cancelled()
    await server.let_go()
    assert await third == 0
    assert not server.reads._waiting


async def test_a_read_that_hangs_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "_LONGEST", 0.001)
    server = Server()
    first, second = [await server.ask() for _ in range(2)]
    hangs = server.under_way.pop(0)
    server.begins.clear()
    await server.begins.wait()
    await server.let_go()
    assert await second == 0
    assert not first.done()
    hangs.set_result(None)
    assert await first == 0
    assert not server.reads._waiting


async def test_a_failure_is_one_s_own() -> None:
    server = Server()
    first, second, third = [await server.ask() for _ in range(3)]
    await server.let_go(OSError("first"))
    await server.let_go(OSError("second"))
    await server.let_go()
    with pytest.raises(OSError, match="first"):
        await first
    with pytest.raises(OSError, match="second"):
        await second
    assert await third == 0
    assert not server.reads._waiting


Steps = st.lists(
    st.one_of(
        st.just(("ask", 0)),
        st.just(("write", 0)),
        st.just(("let go", 0)),
        st.just(("fail", 0)),
        st.just(("turn", 0)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
    ),
    max_size=60,
)


@examples(300)
@given(steps=Steps)
def test_whatever_happens_everyone_is_answered_by_what_was_there(
    steps: list[tuple[str, int]],
) -> None:
    async def story() -> None:
        server = Server()
        asked: list[tuple[asyncio.Task[int], int]] = []
        for step, number in steps:
            match step:
                case "ask":
                    asked.append((asyncio.ensure_future(server.reads("key")), server.value))
                case "write":
                    server.value += 1
                case "leave" if asked:
                    asked[number % len(asked)][0].cancel()
                case "turn":
                    await asyncio.sleep(0)
                case "let go" | "fail" if server.under_way:
                    gate = server.under_way.pop(0)
                    if not gate.done():
                        failed = step == "fail"
                        gate.set_exception(OSError()) if failed else gate.set_result(None)
        await turns()
        for _ in range(2 * len(asked)):
            if server.under_way:
                await server.let_go()
        for task, value in asked:
            assert task.done()
            if task.cancelled():
                continue
            error = task.exception()
            assert isinstance(error, OSError | None)
            assert error or task.result() >= value
        assert not server.reads._waiting

    _run(story())


def _run(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(story)


async def test_a_hundred_look_ups_are_two(own_redis: RedisServer) -> None:
    cache = redis_cache(own_redis.port)
    store = RedisStore(cache, 5)
    await store.set_many([("one", b"1")], 60)
    before = _commands(own_redis)
    found = await asyncio.gather(*(store.get_many(["one", "two"]) for _ in range(100)))
    assert found == [[b"1", None]] * 100
    assert _commands(own_redis) - before == 2
    await cache.client.aclose()


def _commands(server: RedisServer) -> int:
    (line,) = [
        line
        for line in (server.execute("INFO", "commandstats") or b"").splitlines()
        if line.startswith(b"cmdstat_mget:")
    ] or [b"cmdstat_mget:calls=0,"]
    return int(line.partition(b"calls=")[2].partition(b",")[0])
