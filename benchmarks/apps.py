"""The applications that are measured: one for each contender, in a process of its own.

`BENCHMARK_CONTENDER` says which one a process serves, and the other variables where its servers
are. Every application answers `/<body>` with one of the bodies (any query makes it another
resource), and `/runs` with how many times a body was made.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiocache import Cache, cached
from aiocache.serializers import NullSerializer, PickleSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from benchmarks.bodies import MEDIA_TYPE, MIXED, body_of
from stream_cached import Limits, health, lifespan, stream_cached

TTL = 600

#: The body of 200 MiB is stored, too: on memory, where there is room for four of it.
LIMITS = Limits(max_body="256MiB")

#: Seconds that an endpoint needs before a body of mixed size.
MIXED_TAKES = 0.002

Endpoint = Callable[[Request], Awaitable[Response]]

runs = 0


def redis_url() -> str:
    """Where the Redis is."""
    return os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0")


def memcached_address() -> tuple[str, int]:
    """Where the memcached is."""
    host, _, port = os.environ.get("BENCHMARK_MEMCACHED", "127.0.0.1:11211").rpartition(":")
    return host, int(port)


async def stream(request: Request) -> Response:
    """Stream the body that the path names."""
    return StreamingResponse(chunks_of(request.path_params["name"]), media_type=MEDIA_TYPE)


async def chunks_of(name: str) -> AsyncIterator[bytes]:
    """Make a body; the number of runs grows."""
    global runs
    runs += 1
    if name in MIXED:
        await asyncio.sleep(MIXED_TAKES)
    for chunk in body_of(name):
        yield chunk


async def whole_of(name: str) -> bytes:
    """Make a body as those have to who can't stream: all of it, from the same chunks."""
    return b"".join([chunk async for chunk in chunks_of(name)])


async def _runs(request: Request) -> Response:
    return JSONResponse(runs)


async def _ping(request: Request) -> Response:
    return Response(b"pong")


async def _health(request: Request) -> Response:
    """Say of each store whether it is used, and for how many seconds that has been so."""
    return JSONResponse([[store.available, store.seconds] for store in health()])


CONTROLS = [Route("/runs", _runs), Route("/ping", _ping), Route("/health", _health)]


def served(endpoint: Any, **settings: Any) -> Starlette:
    """Return an application whose bodies come from an endpoint, or from an ASGI application."""
    return Starlette(routes=[*CONTROLS, Route("/{name}", endpoint)], **settings)


def prepared(fields: dict[str, str] | None = None) -> ASGIApp:
    """The floor of memory: a Response of bytes that are at hand."""

    async def endpoint(request: Request) -> Response:
        return Response(body_of(request.path_params["name"]).whole, 200, fields, MEDIA_TYPE)

    return served(endpoint)


#: Those that a hit of ours has beside a type and a length.
FIELDS = {
    "accept-ranges": "bytes",
    "age": "0",
    "cache-status": "stream-cached; hit",
    "etag": '"0123456789abcdef0123456789abcdef"',
}


def redis_get() -> ASGIApp:
    """The floor of Redis: one GET, and a Response of what it gives."""
    from redis.asyncio import Redis

    client = Redis.from_url(redis_url())

    async def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        body = await client.get(f"floor:{name}")
        if body is None:
            body = body_of(name).whole
            await client.set(f"floor:{name}", body)
        return Response(body, media_type=MEDIA_TYPE)

    return served(endpoint)


def memcached_get() -> ASGIApp:
    """The floor of memcached: one get, of as many values of 1,000,000 bytes as there have to be."""
    import aiomcache

    client = aiomcache.Client(*memcached_address())

    async def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        parts = -(-body_of(name).length // 1_000_000)
        keys = [f"floor:{name}:{part}".encode() for part in range(parts)]
        found = [part for part in await client.multi_get(*keys) if part is not None]
        if len(found) < parts:
            whole = body_of(name).whole
            found = [whole[at : at + 1_000_000] for at in range(0, len(whole), 1_000_000)]
            for key, value in zip(keys, found, strict=True):
                await client.set(key, value)
        body = found[0] if parts == 1 else b"".join(found)
        return Response(body, media_type=MEDIA_TYPE)

    return served(endpoint)


def file_response() -> ASGIApp:
    """The floor of bodies elsewhere: a FileResponse."""

    def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        path = Path(os.environ["BENCHMARK_DIRECTORY"], f"{name}.ndjson")
        if not path.exists():
            with path.open("wb") as file:
                file.writelines(body_of(name))
        return FileResponse(path, media_type=MEDIA_TYPE)

    return served(endpoint)


def ours(cache: str, bodies: str | None = None) -> ASGIApp:
    """This library: the decorator over the stream."""
    # One process may have several of these applications: the namespace tells them apart.
    kinds = "-".join(url.partition(":")[0] for url in (cache, bodies) if url)
    # A miss ends when its body can be a hit, however long that takes: no client is that quick
    # elsewhere than on the loopback.
    patient = dataclasses.replace(LIMITS, commit_timeout=60, max_pending="256MiB")
    limits = LIMITS if bodies is None else patient
    decorate = stream_cached(
        ttl=TTL, cache=cache, bodies=bodies, namespace=f"ours-{kinds}", limits=limits
    )
    return served(decorate(stream), lifespan=lifespan)


def ours_in_files() -> ASGIApp:
    """The same, with large bodies in a directory."""
    return ours(redis_url(), f"file://{os.environ['BENCHMARK_DIRECTORY']}/bodies")


def by_cashews(url: str | None) -> ASGIApp:
    """cashews over the same stream, as its documentation has it; without a URL on memory."""
    from cashews import Cache as CashewsCache

    made: dict[str, Endpoint] = {}

    def decorated(name: str) -> Endpoint:
        cache = CashewsCache()
        # Its memory holds 1,000 keys unless told, and each chunk is one: room for two bodies, one
        # that is hit and one that is a miss. It visits all of them each second, so no more.
        cache.setup(url or f"mem://?size={max(1_000, 2 * body_of(name).count + 100)}")
        endpoint: Endpoint = cache(ttl=TTL, key="{request.url}")(stream)
        return endpoint

    async def endpoint(request: Request) -> Response:
        name = "" if url else request.path_params["name"]
        if name not in made:
            made[name] = decorated(name)
        return await made[name](request)

    return served(endpoint)


def by_aiocache(kind: Any, serializer: Any, **settings: Any) -> ASGIApp:
    """Plain `aiocache.cached`, over a function that returns all of the body at once."""

    @cached(ttl=TTL, cache=kind, serializer=serializer, **settings)  # type: ignore[untyped-decorator]
    async def body(name: str, query: str) -> bytes:
        return await whole_of(name)

    async def endpoint(request: Request) -> Response:
        found = await body(request.path_params["name"], request.url.query)
        return Response(found, media_type=MEDIA_TYPE)

    return served(endpoint)


def aiocache_redis() -> ASGIApp:
    """Of its serializers, only that of pickles keeps bytes on a Redis."""
    host, _, port = redis_url().removeprefix("redis://").partition("/")[0].rpartition(":")
    return by_aiocache(
        Cache.REDIS, PickleSerializer(), endpoint=host, port=int(port), namespace="aiocache"
    )


def by_hishel(on_redis: bool) -> ASGIApp:
    """hishel's ASGI middleware over the same stream, by URL: its default storage, or Redis."""
    hishel: Any = importlib.import_module("hishel")
    asgi: Any = importlib.import_module("hishel.asgi")
    if on_redis:
        from redis.asyncio import Redis

        storage = hishel.AsyncRedisStorage(client=Redis.from_url(redis_url()), default_ttl=TTL)
    else:
        path = os.path.join(os.environ["BENCHMARK_DIRECTORY"], "hishel.db")
        storage = hishel.AsyncSqliteStorage(database_path=path, default_ttl=TTL)
    return served(asgi.ASGICacheMiddleware(served(stream), storage=storage, rfc=False))


def memcached_url() -> str:
    """The same as a URL."""
    host, port = memcached_address()
    return f"memcached://{host}:{port}/"


BUILDERS: dict[str, Callable[[], ASGIApp]] = {
    "prepared": prepared,
    "control": prepared,
    "same-fields": lambda: prepared(FIELDS),
    "redis-get": redis_get,
    "memcached-get": memcached_get,
    "uncached": lambda: served(stream),
    "ours-memory": lambda: ours("memory://"),
    "ours-memory-1GiB": lambda: ours("memory://?max_bytes=1GiB"),
    "ours-redis": lambda: ours(redis_url()),
    "file-response": file_response,
    "ours-file": ours_in_files,
    "ours-s3": lambda: ours(redis_url(), os.environ["BENCHMARK_S3"]),
    "ours-memcached": lambda: ours(memcached_url()),
    "cashews-memory": lambda: by_cashews(None),
    "cashews-redis": lambda: by_cashews(redis_url()),
    "aiocache-memory": lambda: by_aiocache(Cache.MEMORY, NullSerializer()),
    "aiocache-redis": aiocache_redis,
    "hishel-sqlite": lambda: by_hishel(on_redis=False),
    "hishel-redis": lambda: by_hishel(on_redis=True),
}


def build(name: str) -> ASGIApp:
    """Return the application of a contender."""
    if name in BUILDERS:
        return BUILDERS[name]()
    fastapi_apps: Any = importlib.import_module("benchmarks.fastapi_apps")
    found: ASGIApp = fastapi_apps.BUILDERS[name]()
    return found


def app() -> ASGIApp:
    """Return the application that this process serves."""
    if os.environ.get("BENCHMARK_COUNTS"):
        CONTROLS.append(_counted())
    return build(os.environ["BENCHMARK_CONTENDER"])


def _counted() -> Route:
    """Count what redis-py sends at once, one command or a whole pipeline; not while measuring."""
    from redis.asyncio.connection import AbstractConnection

    send, batches = AbstractConnection.send_packed_command, 0

    async def count_and_send(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal batches
        batches += 1
        await send(self, *args, **kwargs)

    async def count(request: Request) -> Response:
        return JSONResponse(batches)

    AbstractConnection.send_packed_command = count_and_send  # type: ignore[method-assign]
    return Route("/batches", count)
