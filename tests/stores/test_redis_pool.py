"""The pool of connections to Redis: what is free is taken at once, and who waits comes first."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from redis.asyncio import Connection
from redis.asyncio import connection as connections
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError

from stream_cached.stores import redis_pool
from stream_cached.stores.redis_pool import RedisPool
from tests.support.versions import needs

# Since redis-py 5.3 the name of the command is not wanted any more.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

own_connections = needs("redis", "8.1", "has to take connections itself")


async def _until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come true")


def _pool(url: str, **options: Any) -> RedisPool:
    pool: RedisPool = RedisPool.from_url(url, **options)
    return pool


def test_a_free_connection_needs_not_the_lock_of_the_blocking_pool(redis_url: str) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=1)
        async with pool._condition:
            taken = await pool.get_connection("GET")
            assert taken.is_connected
            await pool.release(taken)
        assert await pool.get_connection("GET") is taken
        await pool.disconnect()

    asyncio.run(main())


def test_who_waits_is_given_a_connection_before_who_comes_later(redis_url: str) -> None:
    async def main() -> None:
        pool, order = _pool(redis_url, max_connections=1), list[str]()

        async def use(name: str) -> None:
            connection = await pool.get_connection("GET")
            order.append(name)
            await pool.release(connection)

        held = await pool.get_connection("GET")
        waiting = asyncio.create_task(use("waits"))
        await _until(lambda: len(pool._turns) == 1)
        releasing = asyncio.create_task(pool.release(held))
        # It comes when the connection is free, and the one that waits has not run yet.
        await _until(lambda: bool(pool._available_connections))
        await asyncio.gather(use("comes later"), waiting, releasing)
        assert order == ["waits", "comes later"]
        await pool.disconnect()

    asyncio.run(main())


def test_who_gives_a_connection_back_does_not_take_it_again_before_who_waits(
    redis_url: str,
) -> None:
    async def main() -> None:
        pool, order = _pool(redis_url, max_connections=1, timeout=30), list[str]()
        held = await pool.get_connection("GET")

        async def wait() -> None:
            await pool.release(await pool.get_connection("GET"))
            order.append("waits")

        waiting = asyncio.create_task(wait())
        await _until(lambda: len(pool._turns) == 1)
        await pool.release(held)
        assert await pool.get_connection("GET") is held
        order.append("again")
        assert order == ["waits", "again"]
        await waiting
        await pool.disconnect()

    asyncio.run(main())


def test_a_call_that_is_cancelled_as_it_is_woken_wakes_the_next_one(redis_url: str) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=1, timeout=30)
        held = await pool.get_connection("GET")
        first = asyncio.create_task(pool.get_connection("GET"))
        await _until(lambda: len(pool._turns) == 1)
        second = asyncio.create_task(pool.get_connection("GET"))
        await _until(lambda: len(pool._turns) == 2)
        await pool.release(held)
        first.cancel()
        async with asyncio.timeout(5):
            assert await second is held
        with pytest.raises(asyncio.CancelledError):
            await first
        await pool.release(held)
        assert not pool._turns
        await pool.disconnect()

    asyncio.run(main())


def test_two_connections_are_for_the_two_that_wait_and_a_third_is_for_who_comes_then(
    redis_url: str,
) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=3, timeout=30)
        held = [await pool.get_connection("GET") for _ in range(3)]
        waiting = [asyncio.create_task(pool.get_connection("GET")) for _ in range(2)]
        await _until(lambda: len(pool._turns) == 2)
        for connection in held:
            await pool.release(connection)
        # Those that wait have not run yet.
        assert len(pool._turns) == 2
        async with asyncio.timeout(5):
            taken = await pool.get_connection("GET")
            assert {taken, *await asyncio.gather(*waiting)} == {*held}
        await pool.disconnect()

    asyncio.run(main())


@needs("redis", "7.1", "closes no connection as it is given back")
def test_a_connection_that_is_lost_as_it_is_given_back_lets_the_next_one_go_on(
    redis_url: str,
) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=1, timeout=30)
        held: Any = await pool.get_connection("GET")
        waiting = asyncio.create_task(pool.get_connection("GET"))
        await _until(lambda: len(pool._turns) == 1)
        disconnect, begun = held.disconnect, asyncio.Event()

        async def never() -> None:
            begun.set()
            await asyncio.Event().wait()

        held.disconnect, held.should_reconnect = never, lambda: True
        releasing = asyncio.create_task(pool.release(held))
        await begun.wait()
        releasing.cancel()
        async with asyncio.timeout(5):
            assert await waiting is not held
        await disconnect()
        await pool.disconnect()

    asyncio.run(main())


def test_a_wait_has_an_end(redis_url: str) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=1, timeout=0.01)
        held = await pool.get_connection("GET")
        with pytest.raises(RedisConnectionError):
            await pool.get_connection("GET")
        await pool.release(held)
        assert await pool.get_connection("GET") is held
        await pool.disconnect()

    asyncio.run(main())


def test_without_a_server_no_connection_stays_in_use() -> None:
    async def main() -> None:
        pool = _pool("redis://127.0.0.1:1/0", max_connections=1)
        for _ in range(2):
            with pytest.raises(RedisConnectionError, match="connecting"):
                await pool.get_connection("GET")

    asyncio.run(main())


_LARGE_VALUE = b"v" * 100_000


class _Text(enum.StrEnum):
    KEY = "key"


_COMMANDS: list[tuple[Any, ...]] = [
    ("SET", b"key", b"value", "PX", 100, "NX"),
    ("MGET", "text", "\xe4\u20ac", b"\xff\r\n\0"),
    ("EVAL", "return 1", 0, "", 1.5, -3),
    ("SET", b"key", _LARGE_VALUE),
    ("CLIENT SETINFO", "LIB-NAME", b"name"),
    (b"GET", b"key"),
    ("GET", memoryview(b"key")),
    ("GET", _Text.KEY),
]


def test_commands_are_packed_as_by_redis_py() -> None:
    theirs: Any = Connection()
    ours: Any = _pool("redis://127.0.0.1:1/0").make_connection()
    # Older versions of redis-py refuse it.
    commands = [*_COMMANDS]
    with contextlib.suppress(DataError):
        theirs.pack_command("GET", bytearray(b"key"))
        commands.append(("GET", bytearray(b"key")))
    for command in commands:
        assert b"".join(ours.pack_command(*command)) == b"".join(theirs.pack_command(*command))
    together = ours.pack_commands(commands)
    assert b"".join(together) == b"".join(theirs.pack_commands(commands))
    # A large value is not copied, and what is small is sent in one piece.
    assert any(piece is _LARGE_VALUE for piece in together)
    assert len(together) == 3
    assert len(ours.pack_commands(_COMMANDS[:2])) == 1
    for refused in (True, None, ["list"]):
        with pytest.raises(DataError):
            ours.pack_command("GET", refused)
    with pytest.raises(UnicodeEncodeError):
        ours.pack_command("GET", "\ud800")
    # Its bytes do not follow one another: hiredis would send "abc".
    with pytest.raises(TypeError):
        b"".join(ours.pack_command("GET", memoryview(b"abcdef")[::2]))


@pytest.mark.parametrize("option", [{"encoding": "latin-1"}, {"encoding_errors": "ignore"}])
def test_text_is_packed_in_the_encoding_of_the_client(option: dict[str, Any]) -> None:
    ours: Any = _pool("redis://127.0.0.1:1/0", **option).make_connection()
    command = "GET", "\xe4" if "encoding" in option else "a\ud800b"
    assert b"".join(ours.pack_command(*command)) == b"".join(
        Connection(**option).pack_command(*command)
    )


def test_a_command_is_packed_by_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    ours: Any = _pool("redis://127.0.0.1:1/0").make_connection()
    monkeypatch.setattr(redis_pool, "_pack", lambda command: b"by hiredis")
    assert ours.pack_command("GET", b"key") == [b"by hiredis"]
    monkeypatch.setattr(redis_pool, "_pack", None)
    # There may be none.
    ours = _pool("redis://127.0.0.1:1/0").make_connection()
    assert b"".join(ours.pack_command("GET", b"key")) == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"


@needs("redis", "8.1", "needs no lock to take a connection back")
def test_who_begins_to_wait_while_a_connection_is_given_back_is_woken(redis_url: str) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=1, timeout=30)
        held: Any = await pool.get_connection("GET")
        held.should_reconnect = lambda: True
        async with pool._lock:
            # It has looked whether anybody waits, if it does so first.
            releasing = asyncio.create_task(pool.release(held))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(pool.get_connection("GET"))
            await _until(lambda: len(pool._turns) == 1)
            for _ in range(5):
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await releasing
            assert await waiting is held
        await pool.disconnect()

    asyncio.run(main())


async def _taken_and_released(pool: RedisPool) -> Any:
    connection = await pool.get_connection("GET")
    await pool.release(connection)
    return connection


def test_a_free_connection_that_is_closed_is_opened_again(redis_url: str) -> None:
    async def main() -> None:
        pool = _pool(redis_url, max_connections=1)
        held = await _taken_and_released(pool)
        await held.disconnect()
        assert await _taken_and_released(pool) is held
        assert held.is_connected

        async def fails() -> bool:
            raise RedisConnectionError

        held.can_read, looked = fails, list[object]()

        async def ensure(connection: object) -> None:
            looked.append(connection)

        pool.ensure_connection = ensure  # type: ignore[method-assign]
        await _taken_and_released(pool)
        assert looked == [held]
        await pool.disconnect()

    asyncio.run(main())


@pytest.mark.parametrize("has_telemetry", [True, False])
def test_connections_of_older_versions_are_taken_by_redis_py(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, has_telemetry: bool
) -> None:
    # Telemetry came with 7.2, `can_read` with 8.0, and the rest with 8.1.
    if not has_telemetry:
        monkeypatch.setattr(redis_pool, "_telemetry", None)
    monkeypatch.delattr(connections.AbstractConnection, "can_read", raising=False)

    async def ensure(connection: Any) -> None:
        await connection.connect()

    async def main() -> None:
        pool = _pool(redis_url, max_connections=1)
        vars(pool).pop("_in_maintenance", None)
        pool.ensure_connection = ensure  # type: ignore[method-assign]
        held = await _taken_and_released(pool)
        assert await _taken_and_released(pool) is held
        assert await pool.exchange([("PING",)]) is None
        await pool.disconnect()

    asyncio.run(main())


def _dispatcher(told: list[str]) -> Any:
    """Return what redis-py tells of its events; the names of their classes are added to `told`."""
    dispatcher = pytest.importorskip("redis.event").EventDispatcher()
    dispatch = dispatcher.dispatch_async

    async def dispatch_async(event: object) -> None:
        told.append(type(event).__name__)
        await dispatch(event)

    dispatcher.dispatch_async = dispatch_async
    return dispatcher


@own_connections
def test_what_is_told_of_connections_is_told(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        told_of: list[str] = []
        pool = _pool(redis_url, event_dispatcher=_dispatcher(told_of))
        await _taken_and_released(pool)
        assert told_of == ["AsyncAfterConnectionReleasedEvent"]
        await pool.disconnect()

        # With telemetry of redis-py itself.
        counted: list[object] = []

        async def record(pool_name: str, connection_state: object, counter: int) -> None:
            counted.append((connection_state, counter))

        monkeypatch.setattr(connections, "record_connection_count", record)
        pool = _pool(redis_url)
        await _taken_and_released(pool)
        assert counted == []
        told = mock.Mock()
        monkeypatch.setattr(redis_pool, "_telemetry", lambda: told)
        await _taken_and_released(pool)
        assert len(counted) == 4
        await pool.disconnect()

    asyncio.run(main())
