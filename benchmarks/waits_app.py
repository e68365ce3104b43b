"""The application of the waits: each endpoint plain, and under `/cached` with the decorator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stream_cached import lifespan, stream_cached

#: Seconds that an endpoint takes to fail, and that a model takes to its first token.
FAILS_AFTER = 0.4
FIRST_TOKEN_AFTER = 15.0

#: Seconds after which the middleware answers 504, where the query asks for that.
TIME_OUT = 0.5


async def _endless() -> AsyncIterator[str]:
    while True:
        yield "data: x\n\n"
        await asyncio.sleep(0.1)


async def events() -> Response:
    """Send events without an end."""
    return StreamingResponse(_endless(), media_type="text/event-stream")


async def _session() -> AsyncIterator[str]:
    yield "a session"


async def held(session: Annotated[str, Depends(_session)]) -> Response:
    """Send events without an end, with a dependency that the request closes."""
    return StreamingResponse(_endless(), media_type="text/event-stream")


async def fails() -> Response:
    """Fail after a while."""
    await asyncio.sleep(FAILS_AFTER)
    raise HTTPException(404)


async def silent() -> Response:
    """Answer far too late."""
    await asyncio.sleep(20)
    return Response("late")


async def tokens() -> Response:
    """Stream tokens, of which the first one comes late."""

    async def body() -> AsyncIterator[str]:
        await asyncio.sleep(FIRST_TOKEN_AFTER)
        yield "token"

    return StreamingResponse(body())


async def _limit(request: Request, call_next: RequestResponseEndpoint) -> Response:
    if "limited" not in request.url.query:
        return await call_next(request)
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(call_next(request), TIME_OUT)
    return Response("it takes too long", 504)


app = FastAPI(lifespan=lifespan)
app.add_middleware(BaseHTTPMiddleware, dispatch=_limit)
ENDPOINTS: list[Callable[..., Awaitable[Any]]] = [events, held, fails, silent, tokens]
for endpoint in ENDPOINTS:
    name = endpoint.__name__
    cached = stream_cached(ttl=60, key_ignore=("session",) if endpoint is held else ())
    app.add_api_route(f"/plain/{name}", endpoint, response_model=None)
    app.add_api_route(f"/cached/{name}", cached(endpoint), response_model=None)
