"""
What a hit costs in processor time, inside Starlette and without a server.

The application is called by hand: what a server and its sockets cost is left out, so that what the
cache adds shows as a whole. The floor is a bare `Response` whose body is prepared, and for a hit on
Redis one bare GET whose answer is sent like that. Time of this process is counted, not of the
clock, because other programs may use the machine. (What Redis itself works is not in it.) The ways
take turns, round by round; the median of each, and the median of the ratios within each round.

Outside the measured region: the miss, the first hits (which read the body, and look at the
application), the collection of garbage between two turns.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from benchmarks.servers import redis_server
from stream_cached import stream_cached

#: Chunks, and bytes of each; how often it is asked for in one turn.
WORK = {
    "1 KB, 4 chunks": (4, 256, 200),
    "100 KB, 1,000 chunks": (1_000, 100, 100),
    "400 KB, 20,000 chunks": (20_000, 20, 50),
    "2 MB, 100,000 chunks": (100_000, 20, 20),
    "10 MiB, 160 chunks": (160, 65_536, 20),
}
ROUNDS = 15

Endpoint = Callable[[Request], Awaitable[Response]]

_HEADERS = [
    (b"host", b"reports.example.org"),
    (b"user-agent", b"benchmark"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"connection", b"keep-alive"),
]


def _endpoints(count: int, size: int, redis: str, client: Redis) -> dict[str, Endpoint]:
    body = b"x" * (count * size)

    async def prepared(request: Request) -> Response:
        return Response(body, media_type="text/csv")

    async def bare_get(request: Request) -> Response:
        found = await client.get(f"bare:{count}:{size}")
        return Response(found, media_type="text/csv")

    async def stream(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield b"x" * size

        return StreamingResponse(chunks(), media_type="text/csv")

    # Bodies of 10 MiB in two stores would push each other out of 16 MiB.
    cached = {
        "hit, memory": stream_cached(ttl=600, cache="memory://", local="64MiB")(stream),
        "hit, Redis": stream_cached(ttl=600, cache=redis, local="64MiB")(stream),
    }
    return {"prepared Response": prepared, "bare GET": bare_get, **cached}


async def _ask(app: Starlette, path: str) -> tuple[int, bytes]:
    """Return how long the body is, and the Cache-Status."""
    size, status = 0, b""

    async def receive() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal size, status
        size += len(message.get("body", b""))
        status = dict(message.get("headers", ())).get(b"cache-status", status)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(_HEADERS),
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    await app(scope, receive, send)
    return size, status


async def _measure(name: str, redis: str, rounds: int) -> None:
    count, size, requests = WORK[name]
    client = Redis.from_url(redis)
    await client.set(f"bare:{count}:{size}", b"x" * (count * size))
    endpoints = _endpoints(count, size, redis, client)
    app = Starlette(routes=[Route(f"/{way}", each) for way, each in endpoints.items()])
    times: dict[str, list[float]] = {way: [] for way in endpoints}
    for way in endpoints:
        for _ in range(4):
            await _ask(app, f"/{way}")
            await asyncio.sleep(0.05)
    for _ in range(rounds):
        for way, taken in times.items():
            gc.collect()
            start = time.process_time()
            for _ in range(requests):
                await _ask(app, f"/{way}")
            taken.append((time.process_time() - start) / requests * 1e6)
    for way in endpoints:
        length, status = await _ask(app, f"/{way}")
        assert length == count * size, way
        assert ("hit" in way) == (status == b"stream-cached; hit"), way
    await client.aclose()
    for way, taken in times.items():
        floor = times["bare GET" if way == "hit, Redis" else "prepared Response"]
        ratio = statistics.median(one / other for one, other in zip(taken, floor, strict=True))
        print(
            f"  {name:24}{way:20}{statistics.median(taken):>12.1f}{min(taken):>10.1f}{ratio:>8.2f}"
        )


def main(share: float = 1.0) -> None:
    """Measure, and print a table."""
    print(f"\n  {'':44}{'median us':>12}{'least':>10}{'ratio':>8}")
    with redis_server() as redis:
        for name in WORK:
            url = f"redis://127.0.0.1:{redis.port}/0"
            asyncio.run(_measure(name, url, max(3, int(ROUNDS * share))))
