"""What a server speaks that does not understand us: RESP with or without TLS."""

from __future__ import annotations

import asyncio
import ssl

#: What a Redis without TLS answers to a PING, whatever it permits.
_ANSWERS = (b"+PONG", b"-NOAUTH", b"-NOPERM", b"-ERR", b"-DENIED", b"-LOADING")

_SECONDS = 0.5


async def speaks_tls(host: str, port: int) -> bool:
    """Whether the server answers a handshake of TLS."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=anyone)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


async def speaks_plainly(host: str, port: int) -> bool:
    """Whether the server answers a command without TLS."""
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n")
                return (await reader.read(16)).startswith(_ANSWERS)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False
