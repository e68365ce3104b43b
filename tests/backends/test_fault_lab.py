"""The laboratory itself: a clock that jumps, and a proxy that fails as it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import virtual_time
from tests.support.fault_proxy import FaultProxy, InThread
from tests.support.process import HOST
from tests.support.servers import MemcachedServer, RedisServer
from tests.support.virtual_time import StuckError, VirtualLoop
from tests.support.wire import Command, MemcachedWire, RedisWire, Wire

# -- the clock ------------------------------------------------------------------------------------


def now() -> float:
    return asyncio.get_running_loop().time()


def test_to_wait_takes_no_time_and_is_counted_exactly() -> None:
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    async def main() -> float:
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.Event().wait()
        assert now() - began == 0.5
        await asyncio.gather(*map(sleeper, (3600, 0.001, 60, 0)))
        return now() - began

    before = time.monotonic()
    assert virtual_time.run(main()) == 3600.5
    assert time.monotonic() - before < 5
    assert woken == [0, 0.001, 60, 3600]


def test_the_clock_waits_for_threads_and_for_names() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0.01):
            await loop.run_in_executor(None, time.sleep, 0.1)
            assert await asyncio.to_thread(lambda: "done") == "done"
            assert await loop.getaddrinfo(HOST, 80)

    virtual_time.run(main())


def test_the_clock_waits_for_a_server_that_owes_a_reply(own_redis: RedisServer) -> None:
    async def main() -> None:
        async with connected(RedisWire(), own_redis.port) as (proxy, say):
            assert await say(PING) == b"+PONG\r\n"
            began = now()
            own_redis.pause()
            threading.Timer(0.2, own_redis.resume).start()
            async with asyncio.timeout(0.05):
                assert await say(PING) == b"+PONG\r\n"
            assert now() == began

            own_redis.pause()
            proxy.hangs = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await say(PING)
            assert now() == began + 0.5

    virtual_time.run(main())


@pytest.mark.full
def test_the_clock_waits_for_large_values(redis_server: RedisServer, redis_url: str) -> None:
    value = b"v" * 8_000_000

    async def main() -> None:
        async with connected(RedisWire(), redis_server.port) as (_, say):
            async with asyncio.timeout(0.001):
                assert await say(_resp(b"SET", b"key", value)) == b"+OK\r\n"
                reply = await say(_resp(b"GET", b"key"), len(value) + 12)
            assert reply.endswith(value + b"\r\n")

    for _ in range(5):
        virtual_time.run(main())


def test_a_loop_in_which_nothing_will_happen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "PATIENCE", 0.05)

    async def main() -> None:
        await asyncio.Event().wait()

    loop = VirtualLoop()
    task = loop.create_task(main())
    with pytest.raises(StuckError):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


# -- what the proxy understands -------------------------------------------------------------------


def _resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


PING = _resp(b"PING")
SEGMENT = "ns:app:" + "0" * 32 + ":" + "f" * 32 + ":12"
AWKWARD = b"\r\nEND\r\n*1\r\n$4\r\nPING\r\n"

COMMANDS: list[tuple[Wire, bytes, str, tuple[str, ...], str]] = [
    (RedisWire(), PING, "PING", (), "pings"),
    (RedisWire(), _resp(b"hello", b"3"), "HELLO", (), "prepares"),
    (RedisWire(), _resp(b"MGET", b"k", b"app:version:x"), "MGET", ("k", "app:version:x"), "reads"),
    (RedisWire(), _resp(b"SET", b"k", AWKWARD, b"PX", b"9"), "SET", ("k",), "stores"),
    (RedisWire(), _resp(b"EVAL", b"return", b"1", b"k", b"v"), "EVAL", ("k",), "stores"),
    (RedisWire(), _resp(b"DEL", b"a", SEGMENT.encode()), "DEL", ("a", SEGMENT), "writes"),
    (RedisWire(), _resp(b"PEXPIRE", SEGMENT.encode(), b"1"), "PEXPIRE", (SEGMENT,), "of_segments"),
    (RedisWire(), _resp(b"SET", b"f:version:00", b"v"), "SET", ("f:version:00",), "of_version"),
    (MemcachedWire(), b"version\r\n", "VERSION", (), "pings"),
    (MemcachedWire(), b"gets a b\r\n", "GETS", ("a", "b"), "reads"),
    (MemcachedWire(), b"set k 0 9 25\r\n%b\r\n" % AWKWARD, "SET", ("k",), "stores"),
    (MemcachedWire(), b"cas k 0 9 2 77\r\n\r\n\r\n", "CAS", ("k",), "stores"),
    (MemcachedWire(), b"touch %b 9\r\n" % SEGMENT.encode(), "TOUCH", (SEGMENT,), "of_segments"),
    (MemcachedWire(), b"delete k\r\n", "DELETE", ("k",), "of_record"),
    (MemcachedWire(), b"mg k s\r\n", "MG", ("k",), "of_record"),
]


@pytest.mark.parametrize(("wire", "raw", "name", "keys", "trait"), COMMANDS)
def test_commands_are_cut_where_they_end(
    wire: Wire, raw: bytes, name: str, keys: tuple[str, ...], trait: str
) -> None:
    raw = raw.replace(b" 25\r\n", b" %d\r\n" % len(AWKWARD))
    buffer, found = bytearray(), []
    for byte in raw + raw:
        buffer.append(byte)
        if command := wire.command(buffer):
            found.append(command)
    assert [command.raw for command in found] == [raw, raw]
    assert not buffer
    assert (found[0].name, found[0].keys) == (name, keys)
    assert getattr(found[0], trait)
    assert found[0].writes or not found[0].stores


READ = Command("GETS", ("k",), b"", stores=False, writes=False)
WRITE = Command("SET", ("k",), b"", stores=True, writes=True)


@pytest.mark.parametrize(
    ("wire", "command", "raw"),
    [
        (RedisWire(), READ, b"*3\r\n$25\r\n%b\r\n$-1\r\n_\r\n" % AWKWARD.ljust(25)),
        (RedisWire(), READ, b"*1\r\n$-1\r\n"),
        (RedisWire(), READ, b"%1\r\n+a\r\n*2\r\n:1\r\n*0\r\n"),
        (RedisWire(), WRITE, b"-OOM command not allowed\r\n"),
        (MemcachedWire(), READ, b"END\r\n"),
        (MemcachedWire(), READ, b"SERVER_ERROR out of memory\r\n"),
        (MemcachedWire(), READ, b"VALUE k 0 25 7\r\n%b\r\nVALUE l 0 0 8\r\n\r\nEND\r\n"),
        (MemcachedWire(), WRITE, b"STORED\r\n"),
    ],
)
def test_replies_are_cut_where_they_end(wire: Wire, command: Command, raw: bytes) -> None:
    if b"%b" in raw:
        raw %= AWKWARD.ljust(25)
    buffer, found = bytearray(), []
    for byte in raw + raw:
        buffer.append(byte)
        if reply := wire.reply(buffer, command):
            found.append(reply)
    assert found == [raw, raw]


# -- what the proxy does --------------------------------------------------------------------------

Say = Callable[..., Awaitable[bytes]]


@asynccontextmanager
async def connected(wire: Wire, port: int) -> AsyncIterator[tuple[FaultProxy, Say]]:
    """A proxy in virtual time, and a connection through it."""
    async with FaultProxy(wire, port) as proxy:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.owed.append(proxy.owed)
        reader, writer = await asyncio.open_connection(HOST, proxy.port)

        async def say(request: bytes, size: int = 0) -> bytes:
            writer.write(request)
            if size:
                return await reader.readexactly(size)
            return await reader.readuntil(b"\r\n")

        try:
            yield proxy, say
        finally:
            writer.close()


@pytest.fixture(params=["redis", "memcached"])
def through(request: pytest.FixtureRequest) -> Callable[[Callable[..., Any]], None]:
    """Run a coroutine function with a proxy, a connection through it, and a ping and its reply."""
    kind = request.param
    request.getfixturevalue(f"{kind}_url")
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"{kind}_server")
    wire: Wire = RedisWire() if kind == "redis" else MemcachedWire()
    if isinstance(server, RedisServer):
        ping, pong = PING, b"+PONG\r\n"
    else:
        ping, pong = b"version\r\n", server.execute("version") + b"\r\n"

    def run(scenario: Callable[[FaultProxy, Say, bytes, bytes], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with connected(wire, server.port) as (proxy, say):
                assert await say(ping) == pong
                await scenario(proxy, say, ping, pong)

        virtual_time.run(main())

    return run


Through = Callable[[Callable[..., Any]], None]


def test_replies_are_delayed_and_throttled(through: Through) -> None:
    async def scenario(proxy: FaultProxy, say: Say, ping: bytes, pong: bytes) -> None:
        began = now()
        proxy.delay = 2.0
        assert await say(ping * 3, 3 * len(pong)) == pong * 3
        assert now() - began == pytest.approx(2.0)
        proxy.heal()
        proxy.rate, began = 10.0, now()
        assert await say(ping) == pong
        assert now() - began == pytest.approx(len(pong) / 10)

    through(scenario)


def test_a_connection_is_cut_after_so_many_bytes(through: Through) -> None:
    async def scenario(proxy: FaultProxy, say: Say, ping: bytes, pong: bytes) -> None:
        proxy.cut_after = len(pong) + 3
        assert await say(ping * 3, len(pong) + 3) == pong + pong[:3]
        with pytest.raises(ConnectionResetError):
            await say(b"", 1)
        _, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(ping)
        with pytest.raises(ConnectionResetError):
            await _.readexactly(1)
        writer.close()

    through(scenario)


@pytest.mark.parametrize("how", ["swallow", "clog"])
def test_nothing_is_answered_while_nothing_is_passed_on(through: Through, how: str) -> None:
    async def scenario(proxy: FaultProxy, say: Say, ping: bytes, pong: bytes) -> None:
        passed = proxy.passed.total()
        if how == "swallow":
            proxy.swallow = True
        else:
            proxy.clog()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await say(ping)
        assert proxy.passed.total() == passed
        proxy.heal()
        if how == "clog":
            assert await say(ping) == pong
        else:  # what was lost is lost
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await say(ping)

    through(scenario)


def test_a_port_is_closed_and_opened_again(through: Through) -> None:
    async def scenario(proxy: FaultProxy, say: Say, ping: bytes, pong: bytes) -> None:
        await proxy.refuse()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await say(ping)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, proxy.port)
        await proxy.listen()
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(ping)
        assert await reader.readexactly(len(pong)) == pong
        writer.close()

    through(scenario)


def test_a_hook_comes_before_the_server_and_answers_come_in_their_order(through: Through) -> None:
    async def scenario(proxy: FaultProxy, say: Say, ping: bytes, pong: bytes) -> None:
        seen: list[int] = []

        async def hook(command: Command) -> None:
            seen.append(proxy.passed.total())
            proxy.answer = lambda command: b"-NO\r\n" if len(seen) % 2 else None

        proxy.hook = hook
        expected = (b"-NO\r\n" + pong) * 2
        assert await say(ping * 4, len(expected)) == expected
        assert seen == [1, 1, 2, 2]

    through(scenario)


def test_an_idle_connection_ends_with_its_server(own_redis: RedisServer) -> None:
    async def main() -> None:
        async with connected(RedisWire(), own_redis.port) as (_, say):
            assert await say(PING) == b"+PONG\r\n"
            own_redis.kill()
            with pytest.raises(asyncio.IncompleteReadError):
                await say(b"", 1)

    virtual_time.run(main())


def test_a_proxy_in_a_thread_works_for_blocking_clients(
    redis_server: RedisServer, redis_url: str
) -> None:
    with (
        InThread(FaultProxy(RedisWire(), redis_server.port)) as thread,
        redis.Redis(host=HOST, port=thread.proxy.port, retry=Retry(NoBackoff(), 0)) as client,
    ):
        assert client.ping()
        thread.call(thread.proxy.refuse())
        with pytest.raises(redis.ConnectionError):
            client.ping()
        thread.call(thread.proxy.listen())
        assert client.ping()
