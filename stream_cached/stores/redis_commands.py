"""Commands for a Redis server that are sent together, and their replies.

A pipeline of redis-py takes twice as long as its commands need, and a single command of it as long
as two of these. Where anybody has changed how a client does its work, the client does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Any

from redis.asyncio import Redis
from redis.asyncio import client as of_redis
from redis.exceptions import WatchError

from stream_cached.format.envelope import InPieces
from stream_cached.stores.redis_pool import RedisPool

Command = Sequence[Any]

_GLOBALS = vars(of_redis)

#: The methods of a client that would do the same.
_METHODS = {"execute_command", "pipeline", "get", "mget", "set", "eval", "delete", "ping"}


async def exchange(client: Any, commands: Sequence[Command]) -> list[Any]:
    """
    Send commands in one round trip.

    Args:
        client: The client of redis-py.
        commands: The words of each command.

    Returns:
        The replies. What the server refuses has an exception as its reply.

    Raises:
        redis.exceptions.RedisError: The server can't be reached, or does not answer.
    """
    if not commands:
        return []
    pool, replies = client.connection_pool, None
    if isinstance(pool, RedisPool) and _is_plain(client):
        replies = await pool.exchange(commands)
    if replies is None:
        # The client knows how often to repeat it where a connection was lost.
        pipeline = client.pipeline(transaction=False)
        # The replies are those of the server, either way.
        pipeline.response_callbacks = {}
        for command in commands:
            pipeline.execute_command(*map(_whole, command))
        replies = await pipeline.execute(raise_on_error=False)
    return replies


async def ask(client: Any, commands: Sequence[Command]) -> list[Any]:
    """Do the same; raise the exception of the first command that the server refuses."""
    replies = await exchange(client, commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def set_watched(client: Any, expected: bytes, setting: Command) -> bool:
    """Set a key that still holds a value, without a script, which may be forbidden."""
    _, key, *_ = setting
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.watch(key)
        if await pipeline.get(key) != expected:
            return False
        pipeline.multi()
        pipeline.execute_command(*map(_whole, setting))
        try:
            await pipeline.execute()
        except WatchError:
            return False
        return True


def _whole(word: Any) -> Any:
    return word.joined if type(word) is InPieces else word


def _is_plain(client: Any) -> bool:
    """Whether a client is as redis-py has it: nobody traces its commands, or has replaced them."""
    execute: Any = Redis.execute_command
    return (
        type(client) is Redis
        and type(execute) is FunctionType
        and execute.__globals__ is _GLOBALS
        and vars(client).keys().isdisjoint(_METHODS)
        and client.connection is None
    )
