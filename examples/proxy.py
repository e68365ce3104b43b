"""A caching reverse proxy: an endpoint that forwards each request, and the decorator on it.

    ORIGIN=http://127.0.0.1:8000 uvicorn examples.proxy:app --port 8080 --no-date-header

The origin's Cache-Control, Expires, Vary and validators decide what is stored, and for how long.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import lifespan, stream_cached

ORIGIN = httpx.URL(os.environ.get("ORIGIN", "http://127.0.0.1:8000"))

#: The fields that are for one connection, beside those that Connection names (RFC 9110, 7.6.1).
OF_CONNECTION = {
    *("connection", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
    *("trailer", "transfer-encoding", "upgrade"),
}

# An origin may close a connection that is kept.
limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
client = httpx.AsyncClient(timeout=15, limits=limits, trust_env=False)


def end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lines = [value.decode("latin-1") for name, value in headers if name.lower() == b"connection"]
    named = {name.strip().lower() for name in ",".join(lines).split(",")} | OF_CONNECTION
    return [(k.lower(), v) for k, v in headers if k.decode("latin-1").lower() not in named]


async def forward(request: Request) -> StreamingResponse:
    """Ask the origin, and pass its answer on while it comes."""
    target = request.scope["raw_path"] + b"?" * bool(request.url.query)
    target += request.url.query.encode("latin-1")
    outgoing = httpx.Request(
        request.method,
        ORIGIN.copy_with(raw_path=target),
        headers=[*end_to_end(request.headers.raw), (b"host", ORIGIN.netloc)],
        content=request.stream() if request.method not in ("GET", "HEAD") else None,
    )
    try:
        answer = await client.send(outgoing, stream=True)
    except httpx.HTTPError as exc:
        # The origin can't be reached: what is stored may be served for a while.
        raise HTTPException(502) from exc
    if answer.status_code > 599:
        await answer.aclose()
        raise HTTPException(502)

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        finally:
            await answer.aclose()

    response = StreamingResponse(body(), answer.status_code)
    response.raw_headers = end_to_end(answer.headers.raw)
    return response


cached = stream_cached(ttl="response", heuristic=0.1, honor_request=True, unguarded=("headers",))


@asynccontextmanager
async def clients(app: Starlette) -> AsyncIterator[None]:
    async with lifespan(app), client:
        yield


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
app = Starlette(routes=[Route("/{path:path}", cached(forward), methods=METHODS)], lifespan=clients)
