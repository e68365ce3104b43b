"""The connections to a Redis server, of which there are only so many."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

#: None without hiredis, and with an old one.
_pack: Any = getattr(hiredis, "pack_command", None)

#: redis-py has no types for them.
_plain: Any = inspect.unwrap(ConnectionPool.get_connection)
_release: Any = ConnectionPool.release
_make: Any = ConnectionPool.make_connection
_waits: Any = BlockingConnectionPool.get_connection

#: Bytes from which on a value is not copied to be packed.
_LARGE = 16 * 1024


def _packer(of_redis: Callable[..., list[bytes]]) -> Callable[..., list[bytes]]:
    """
    Return what packs a command by hiredis, as only the client of redis-py without asyncio does.

    Args:
        of_redis: What packs it in redis-py, for what hiredis refuses or would copy.
    """

    def pack_command(*args: Any) -> list[bytes]:
        name = args[0]
        for arg in args:
            if type(arg) is bytes and len(arg) > _LARGE:
                return of_redis(*args)
        # Of a name of two words, each one is sent by itself.
        if type(name) is str and " " not in name:
            try:
                return [_pack(args)]
            except (TypeError, UnicodeError):
                pass
        return of_redis(*args)

    return pack_command


def _packs_commands(
    pack: Callable[..., list[bytes]],
) -> Callable[[Iterable[Iterable[Any]]], list[bytes]]:
    """Return the same for several commands, which are sent together."""

    def pack_commands(commands: Iterable[Iterable[Any]]) -> list[bytes]:
        packed: list[bytes] = []
        small: list[bytes] = []
        for command in commands:
            for piece in pack(*command):
                if len(piece) <= _LARGE:
                    small.append(piece)
                else:
                    packed += (b"".join(small), piece)
                    small = []
        return [*packed, b"".join(small)]

    return pack_commands


class RedisPool(BlockingConnectionPool):
    """
    A pool whose callers wait for a connection, if all of them are in use.

    A connection that is free is taken as from the plain pool of redis-py: the way of the blocking
    one, with a condition and a timer, takes longer than Redis needs for a small value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = 0

    def make_connection(self) -> Any:
        """Return a new connection."""
        connection = _make(self)
        encoder = connection.encoder
        if _pack is not None and (encoder.encoding, encoder.encoding_errors) == ("utf-8", "strict"):
            connection.pack_command = _packer(connection.pack_command)
            connection.pack_commands = _packs_commands(connection.pack_command)
        return connection

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

    async def release(self, connection: Any) -> None:
        """Take a connection back, and let the next one have it that waits."""
        await _release(self, connection)
        # Who has begun to wait since then looks for a connection first.
        if self._waiting:
            async with self._condition:
                self._condition.notify()
