"""The connections to a Redis server, of which there are only so many."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream_cached.format.envelope import InPieces

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

try:
    from redis.observability.providers import get_observability_instance as _telemetry
except ImportError:
    # redis-py before version 7.2 measures nothing.
    _telemetry = None  # type: ignore[assignment]

#: None without hiredis, and with an old one.
_pack: Any = getattr(hiredis, "pack_command", None)

#: redis-py has no types for them.
_plain: Any = inspect.unwrap(ConnectionPool.get_connection)
_release: Any = ConnectionPool.release
_make: Any = ConnectionPool.make_connection
_available: Any = ConnectionPool.get_available_connection

#: Bytes from which on a value is not copied to be packed.
_LARGE = 16 * 1024

#: What hiredis packs as redis-py does. Of a view with gaps, it would pack other bytes.
_SIMPLE = frozenset({str, bytes, int, float})
_SIZED = frozenset({str, bytes})


def _packer(of_redis: Callable[..., list[bytes]]) -> Callable[..., list[bytes]]:
    """
    Return what packs a command by hiredis, as only the client of redis-py without asyncio does.

    Args:
        of_redis: What packs it in redis-py, for what hiredis packs otherwise or would copy.
    """

    def pack_command(*args: Any) -> list[bytes]:
        name = args[0]
        classes = {*map(type, args)}
        sized = args if classes <= _SIZED else [arg for arg in args if type(arg) in _SIZED]
        is_simple = type(name) is str and classes <= _SIMPLE and max(map(len, sized)) <= _LARGE
        # Of a name of two words, each one is sent by itself.
        return [_pack(args)] if is_simple and " " not in name else of_redis(*args)

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


def _in_pieces(
    commands: Iterable[Sequence[Any]], encode: Callable[[Any], bytes]
) -> list[bytes | memoryview]:
    """Return commands as they are sent. Of those with a value in pieces, these are not copied."""
    packed: list[bytes | memoryview] = []
    small = b""
    for command in commands:
        small += b"*%d\r\n" % len(command)
        for word in command:
            if type(word) is InPieces:
                packed += (b"%b$%d\r\n%b" % (small, len(word) + word.size, word), *word.pieces)
                small = b"\r\n"
            else:
                data = encode(word)
                small += b"$%d\r\n%b\r\n" % (len(data), data)
    return [*packed, small]


class RedisPool(BlockingConnectionPool):
    """
    A pool whose callers wait for a connection, if all of them are in use, in their order.

    The blocking pool of redis-py has a condition and a timer for each call: they take longer than
    Redis needs for a small value. And it wakes nobody else if a call is cancelled that was woken.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.connection_kwargs
        #: Whether connections are authenticated once more when they are released, or others told.
        self._is_told = bool(options.get("credential_provider") or options.get("event_dispatcher"))
        self._turns: deque[asyncio.Future[None]] = deque()
        """Those of the calls that wait. One that is done has not taken its connection yet."""

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
        has_to_wait = self._has_to_wait
        if not has_to_wait and self.is_unwatched():
            return await self._take()
        while True:
            if has_to_wait:
                await self._wait()
            try:
                return await _plain(self, *args, **kwargs)
            except RedisConnectionError:
                if self.can_get_connection():
                    raise
            has_to_wait = True

    async def exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any] | None:
        """
        Send commands together, and return their replies.

        What the server refuses has an exception as its reply. Return None where the connection was
        lost, and where others have to be told.
        """
        if not self.is_unwatched():
            return None
        connection = await (self.get_connection() if self._has_to_wait else self._take())
        replies: list[Any] = []
        try:
            # Where there is a value in pieces, the first command has one.
            is_in_pieces = InPieces in map(type, commands[0])
            if is_in_pieces:
                packed = _in_pieces(commands, connection.encoder.encode)
            else:
                packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as exc:
                    replies.append(exc)
        except (RedisConnectionError, RedisTimeoutError, OSError):
            return None
        finally:
            if connection.should_reconnect():
                await self.release(connection)
            else:
                self._put_back(connection)
        return replies

    def is_unwatched(self) -> bool:
        """Whether this pool may take connections itself: nobody is told that it takes them."""
        # Before version 8.1, redis-py has no such attribute, and other connections.
        if _telemetry is None or getattr(self, "_in_maintenance", True) or self._is_told:
            return False
        return _telemetry().get_provider_manager() is None

    @property
    def _has_to_wait(self) -> bool:
        # Nobody takes the connection that another one waits for.
        return self.max_connections - len(self._in_use_connections) <= len(self._turns)

    async def _take(self) -> Any:
        """Do what redis-py does to get a free connection, but for what nobody is told."""
        connection = _available(self)
        try:
            # One that is lost raises an error.
            with contextlib.suppress(RedisConnectionError, OSError):
                if connection.is_connected and not await connection.can_read():
                    return connection
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Take a connection back, and let the next one have it that waits."""
        if self.is_unwatched() and not connection.should_reconnect():
            self._put_back(connection)
            return
        try:
            await _release(self, connection)
        finally:
            # Also where it is cancelled: a lost connection may be replaced.
            self._wake_next()

    def _put_back(self, connection: Any) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._wake_next()

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout(self.timeout):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self._wake_next()
            if isinstance(exc, TimeoutError):
                raise RedisConnectionError("No connection available.") from exc
            raise
        finally:
            self._turns.remove(turn)

    def _wake_next(self) -> None:
        for turn in self._turns:
            if not turn.done():
                turn.set_result(None)
                break
