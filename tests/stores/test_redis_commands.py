"""Commands that are sent to Redis together, and who has to come to know of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from unittest import mock

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from stream_cached.format.envelope import InPieces, State, pack
from stream_cached.stores.redis_commands import ask, exchange
from stream_cached.stores.redis_pool import RedisPool
from tests.support.gates import run
from tests.support.proxy import DelayProxy
from tests.support.versions import needs

own_connections = needs("redis", "8.1", "has to take connections itself")


def _client(url: str, kind: type[Redis] = Redis, **options: Any) -> Redis:
    # Older versions of redis-py repeat nothing else.
    options = {"max_connections": 1, "timeout": 30, "retry": Retry(NoBackoff(), 1), **options}
    return kind(connection_pool=RedisPool.from_url(url, **options))


async def _blocked(client: Redis, other: int) -> None:
    """Wait until another client of the server waits for its reply."""
    for _ in range(10_000):
        if b"cmd=blpop" in (await ask(client, [("CLIENT LIST", "ID", other)]))[0]:
            return
    raise AssertionError("it does not wait")


def test_each_command_has_its_reply(redis_url: str) -> None:
    async def main() -> None:
        client = _client(redis_url)
        sets = [("SET", f"k{n}", b"v%d" % n, "PX", 60_000) for n in range(3)]
        assert await exchange(client, sets) == [b"OK"] * 3
        replies = await exchange(client, [("MGET", "k0", "none"), ("GETRANGE", "k1", "0", "0")])
        assert replies == [[b"v0", None], b"v"]
        assert await exchange(client, []) == []
        await client.aclose(close_connection_pool=True)

    run(main)


def test_what_the_server_refuses_is_the_reply_of_that_command(redis_url: str) -> None:
    async def main() -> None:
        client = _client(redis_url)
        commands = [("SET", "k", b"v"), ("INCR", "k"), ("GET", "k")]
        done, refused, value = await exchange(client, commands)
        assert (done, value) == (b"OK", b"v")
        assert isinstance(refused, ResponseError)
        with pytest.raises(ResponseError, match="not an integer"):
            await ask(client, commands)
        assert await ask(client, [("GET", "k")]) == [b"v"]
        await client.aclose(close_connection_pool=True)

    run(main)


def test_a_large_value_goes_there_and_back(redis_url: str) -> None:
    async def main() -> None:
        client, large = _client(redis_url), bytes(range(256)) * 4096
        commands = [("SET", "k", large), ("STRLEN", "k"), ("GET", "k"), ("GET", "none")]
        assert await exchange(client, commands) == [b"OK", len(large), large, None]
        await client.aclose(close_connection_pool=True)

    run(main)


def test_a_call_that_is_cancelled_leaves_no_reply_to_the_next_one(redis_url: str) -> None:
    async def main() -> None:
        client, other = _client(redis_url), _client(redis_url)
        await ask(client, [("SET", "k", b"v")])
        (own,) = await ask(client, [("CLIENT ID",)])
        # The first reply is there, and the second one never comes.
        waiting = asyncio.create_task(exchange(client, [("GET", "k"), ("BLPOP", "none", 0)]))
        await _blocked(other, own)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await exchange(client, [("STRLEN", "k")]) == [1]
        await client.aclose(close_connection_pool=True)
        await other.aclose(close_connection_pool=True)

    run(main)


def test_a_connection_that_is_lost_meanwhile_is_made_once_more(redis_url: str) -> None:
    async def main() -> None:
        client, other = _client(redis_url), _client(redis_url)
        await ask(client, [("SET", "k", b"v")])
        (own,) = await ask(client, [("CLIENT ID",)])
        # While it waits for a reply.
        waiting = asyncio.create_task(exchange(client, [("BLPOP", "list", 0)]))
        await _blocked(other, own)
        assert await ask(other, [("CLIENT KILL", "ID", own)]) == [1]
        await ask(other, [("RPUSH", "list", b"item")])
        assert await waiting == [[b"list", b"item"]]
        # And while nobody uses it.
        (own,) = await ask(client, [("CLIENT ID",)])
        await ask(other, [("CLIENT KILL", "ID", own)])
        assert await exchange(client, [("GET", "k")]) == [b"v"]
        await client.aclose(close_connection_pool=True)
        await other.aclose(close_connection_pool=True)

    run(main)


def test_a_server_that_is_away_is_an_error_of_redis_py(redis_url: str) -> None:
    async def main() -> None:
        with DelayProxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
            client = _client(proxy.url())
            assert await exchange(client, [("PING",)]) == [b"PONG"]
            proxy.cut_after = 0
            with pytest.raises(RedisConnectionError):
                await exchange(client, [("PING",)])
            proxy.cut_after = None
            assert await exchange(client, [("PING",)]) == [b"PONG"]
            await client.aclose(close_connection_pool=True)

    run(main)


def _in_pieces() -> InPieces:
    pieces = b"0" * 300_000, memoryview(b"1" * 100_000)[:70_000], b"", b"2"
    value = pack(State.SEGMENT, bytes(16), 0, ["head"], *pieces, kind=InPieces)
    assert isinstance(value, InPieces)
    return value


def test_a_value_in_pieces_is_stored_as_a_whole(redis_url: str) -> None:
    async def main() -> None:
        client, value = _client(redis_url), _in_pieces()
        commands = [("SET", "k", value), ("SET", b"l", value, "PX", 60_000), ("GET", "k")]
        assert await exchange(client, commands) == [b"OK", b"OK", value.joined]
        assert await ask(client, [("GET", "l"), ("STRLEN", "none")]) == [value.joined, 0]
        assert 0 < (await ask(client, [("PTTL", "l")]))[0] <= 60_000
        await client.aclose(close_connection_pool=True)

    run(main)


class _Own(Redis):
    """A client of the user's."""


def _of_the_class(client: Redis) -> Any:
    execute: Any = Redis.execute_command

    async def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await execute(self, *args, **kwargs)

    return mock.patch.object(Redis, "execute_command", traced)


def _of_the_client(client: Redis) -> Any:
    return mock.patch.object(client, "execute_command", mock.AsyncMock())


def _of_one_command(client: Redis) -> Any:
    return mock.patch.object(client, "mget", mock.AsyncMock())


def _telemetry(client: Redis) -> Any:
    return mock.patch.object(RedisPool, "is_unwatched", return_value=False)


@own_connections
@pytest.mark.parametrize(
    "watch", [_of_the_class, _of_the_client, _of_one_command, _telemetry, None]
)
def test_where_commands_are_watched_the_client_sends_them(redis_url: str, watch: Any) -> None:
    execute: Any = Pipeline.execute
    sent: list[int] = []

    async def executed(self: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(len(self.command_stack))
        return await execute(self, *args, **kwargs)

    async def main() -> None:
        value = _in_pieces()
        commands = [("SET", "k", value), ("GET", "k")]
        plain = _client(redis_url)
        client = plain if watch else _client(redis_url, _Own)
        with mock.patch.object(Pipeline, "execute", executed):
            assert await exchange(plain, commands) == [b"OK", value.joined]
            assert not sent
            with watch(client) if watch else contextlib.nullcontext():
                assert await exchange(client, commands) == [b"OK", value.joined]
            assert sent == [2]
        await plain.aclose(close_connection_pool=True)
        await client.aclose(close_connection_pool=True)

    run(main)
