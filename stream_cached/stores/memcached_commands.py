"""Reads of values from memcached, and of their sizes, and the connections that they take.

aiomcache reads each line and each value of a reply by itself. Here what there is of it is taken at
once. Where anybody has changed how the client reads, the client does it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from aiomcache import Client
from aiomcache.exceptions import ClientException

from stream_cached.errors import StoreError

#: Keys that memcached takes, as they are sent: nothing in them ends a key or a command.
_KEYS = re.compile(rb"[^\x00-\x20\x7f]{1,250}(?: [^\x00-\x20\x7f]{1,250})*")

_VALUE = re.compile(rb"VALUE (\S+) \d+ (\d+) (\d+)\r\n")
_END = b"END\r\n"

#: The reply to a meta get that asks for the size and the token: them, or there is no such key.
_SIZE = re.compile(rb"(?:HD s(\d+) c(\d+)|EN)\r\n")

#: The first version that has meta commands. What is no memcached says another version, or none.
_META = re.compile(rb"1\.(?:[6-9]|\d\d)\.")

#: A value and its token, which another one has that is set under its key.
Value = tuple[bytes, bytes]

#: The size of a value in bytes, and its token.
Size = tuple[int, bytes]

#: The methods of the client that read values.
_READERS = {"get", "multi_get", "_multi_get"}

#: Bytes of a reply that are taken at once.
_AT_ONCE = 256 * 1024


class Pool:
    """aiomcache's pool with at most as many concurrent callers as connections.

    A call that waits inside the pool never wakes up if all connections are closed."""

    def __init__(self, pool: Any, size: int, wait: float | None) -> None:
        self._pool = pool
        self._wait = wait
        self._free = asyncio.Semaphore(size)

    async def acquire(self) -> Any:
        if self._free.locked():
            await self._wait_for_one()
        else:
            await self._free.acquire()
        try:
            return await self._pool.acquire()
        except BaseException:
            self._free.release()
            raise

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await self._free.acquire()
        except TimeoutError as exc:
            # All connections are in use: that is no outage.
            raise StoreError("no connection is free: raise pool_size") from exc

    def release(self, connection: Any) -> None:
        self._pool.release(connection)
        self._free.release()

    async def clear(self) -> None:
        await self._pool.clear()


async def simple_command(connection: Any, command: bytes) -> bytes:
    """Do what aiomcache's method does, which loops forever without suspending if the server closes
    the connection."""
    connection.writer.write(command)
    await connection.writer.drain()
    line: bytes = await connection.reader.readuntil(b"\r\n")
    return line[:-2]


def can_read(client: Any, keys: Sequence[bytes]) -> bool:
    """Whether `read` does what the client would do with these keys."""
    return (
        type(client) is Client
        and vars(client).keys().isdisjoint(_READERS)
        and _KEYS.fullmatch(b" ".join(keys)) is not None
    )


async def has_sizes(client: Any) -> bool:
    """Whether the server tells sizes of values without the values: memcached does from 1.6 on."""
    return _META.match(await client.version()) is not None


async def read(
    client: Any, keys: Sequence[bytes], others: Sequence[bytes] = ()
) -> tuple[dict[bytes, Value], list[Size | None]]:
    """
    Read values, and the sizes of others, in one round trip.

    Args:
        client: The client of aiomcache.
        keys: The keys of the values; at least one.
        others: The keys of the values of which the sizes are read.

    Returns:
        The values that there are, by key; and the sizes, None where there is no value.

    Raises:
        EOFError: The server has closed the connection.
        aiomcache.exceptions.ClientException: It has replied with something else.
    """
    connection = await client._pool.acquire()
    try:
        sizes = b"".join([b"mg %b s c\r\n" % key for key in others])
        connection.writer.write(b"gets %b\r\n%b" % (b" ".join(keys), sizes))
        values, rest = await _values(connection.reader)
        return values, await _sizes(connection.reader, rest, len(others)) if others else []
    except BaseException as exc:
        # What is left of the reply must not be read by the next call: the pool closes it.
        connection.reader.set_exception(exc)
        raise
    finally:
        client._pool.release(connection)


async def _values(reader: asyncio.StreamReader) -> tuple[dict[bytes, Value], bytes]:
    """Read the reply to a get; return what comes after it, too, as far as it was read."""
    values: dict[bytes, Value] = {}
    data, at = await _more(reader), 0
    while True:
        if found := _VALUE.match(data, at):
            key, size, token = found.groups()
            # A line end follows it.
            start, at = found.end(), found.end() + int(size) + 2
            value = data[start : at - 2]
            if at > len(data):
                missing = await reader.readexactly(at - len(data))
                value = (value + missing)[: int(size)]
                data, at = b"", 0
            values[key] = value, token
        elif data.startswith(_END, at):
            return values, data[at + len(_END) :]
        else:
            data, at = await _longer(reader, data[at:]), 0


async def _sizes(reader: asyncio.StreamReader, data: bytes, count: int) -> list[Size | None]:
    sizes: list[Size | None] = []
    at = 0
    while len(sizes) < count:
        if found := _SIZE.match(data, at):
            (size, token), at = found.groups(), found.end()
            sizes.append(None if size is None else (int(size), token))
        else:
            data, at = await _longer(reader, data[at:]), 0
    return sizes


async def _longer(reader: asyncio.StreamReader, data: bytes) -> bytes:
    """Return data, with more of it; raise if it has a whole line, which was not understood."""
    line, end, _ = data.partition(b"\r\n")
    if end:
        raise ClientException("get failed", line)
    return data + await _more(reader)


async def _more(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_AT_ONCE)
    if not data:
        raise EOFError("the server has closed the connection")
    return data
