"""The connections to a Redis server, of which there are only so many."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

#: redis-py has no types for them.
_plain: Any = ConnectionPool.get_connection
_waits: Any = BlockingConnectionPool.get_connection


class RedisPool(BlockingConnectionPool):
    """
    A pool whose callers wait for a connection, if all of them are in use.

    A connection that is free is taken as from the plain pool of redis-py: the way of the blocking
    one, with a condition and a timer, takes longer than Redis needs for a small value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = 0

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """
        Return a connection; the arguments are those of the installed version of redis-py.

        Raises:
            redis.exceptions.ConnectionError: No connection became free in time, or there is no
                server.
        """
        # Nobody takes the connection that another one waits for.
        if not self._waiting and self.can_get_connection():
            try:
                return await _plain(self, *args, **kwargs)
            except RedisConnectionError:
                if self.can_get_connection():
                    raise
        self._waiting += 1
        try:
            return await _waits(self, *args, **kwargs)
        finally:
            self._waiting -= 1
