"""The demo's own Redis commands: it checks that the server answers, and lists the keys."""

from __future__ import annotations

import contextlib
import glob
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from redis.asyncio import Redis

SCHEMES = ("redis", "rediss")
DEFAULT_NAMESPACE = "stream-cached-demo"

_TIMEOUT = 3.0


def is_redis(url: str) -> bool:
    """Whether the cache URL names a Redis."""
    return urlsplit(url).scheme in SCHEMES


def with_namespace(url: str, *, private: bool) -> str:
    """Return the URL with a namespace; `private` appends a random suffix."""
    namespace = _namespace(url) or DEFAULT_NAMESPACE
    if private:
        namespace = f"{namespace}:{secrets.token_hex(4)}"
    options = dict(parse_qsl(urlsplit(url).query)) | {"namespace": namespace}
    return urlunsplit(urlsplit(url)._replace(query=urlencode(options)))


def shown(url: str) -> str:
    """Return the URL without user, password and options, for display."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


async def ping(url: str) -> None:
    """Check that Redis answers; raise ValueError if the URL is malformed."""
    async with _connect(url) as redis:
        await redis.echo("stream-cached")


async def sizes(url: str) -> dict[str, int]:
    """Return the size in bytes of each key in the URL's namespace, short keys first."""
    found: dict[str, int] = {}
    async with _connect(url) as redis:
        async for key in redis.scan_iter(match=_pattern(url), count=1000):
            found[key.decode(errors="replace")] = await redis.strlen(key)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


async def forget(url: str) -> None:
    """Delete the keys in the URL's namespace; after a failure, they expire by their ttl."""
    from redis import RedisError

    with contextlib.suppress(RedisError, OSError):
        async with _connect(url) as redis:
            async for key in redis.scan_iter(match=_pattern(url), count=1000):
                await redis.unlink(key)


def _namespace(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query)).get("namespace", "")


def _pattern(url: str) -> str:
    return f"{glob.escape(_namespace(url))}:*"


def _connect(url: str) -> Redis:
    from redis.asyncio import Redis

    # The client would refuse the options of aiocache and of this library.
    query = dict(parse_qsl(urlsplit(url).query))
    known: dict[str, str] = {
        name: query[name] for name in ("db", "username", "password") if name in query
    }
    address = urlunsplit(urlsplit(url)._replace(query=urlencode(known)))
    return Redis.from_url(address, socket_connect_timeout=_TIMEOUT, socket_timeout=_TIMEOUT)
