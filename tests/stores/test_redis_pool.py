"""The pool of connections to Redis: what is free is taken at once, and who waits comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from stream_cached.stores.redis_pool import RedisPool

# Since redis-py 5.3 the name of the command is not wanted any more.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def _until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come true")


def _pool(url: str, **options: Any) -> RedisPool:
    pool: RedisPool = RedisPool.from_url(url, **options)
    return pool


def test_a_free_connection_is_taken_without_the_lock_of_those_that_wait(redis_url: str) -> None:
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
        await _until(lambda: pool._waiting == 1)
        releasing = asyncio.create_task(pool.release(held))
        # It comes when the connection is free, and the one that waits has not run yet.
        await _until(lambda: bool(pool._available_connections))
        await asyncio.gather(use("comes later"), waiting, releasing)
        assert order == ["waits", "comes later"]
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
