"""The application again, counting what it sends to Redis; not for measuring times."""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import AbstractConnection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.app import app

batches = 0

_send = AbstractConnection.send_packed_command


async def _count_and_send(self: Any, *args: Any, **kwargs: Any) -> None:
    """Count what redis-py sends at once: one command, or a whole pipeline."""
    global batches
    batches += 1
    await _send(self, *args, **kwargs)


AbstractConnection.send_packed_command = _count_and_send  # type: ignore[method-assign]


async def _batches(request: Request) -> Response:
    return JSONResponse(batches)


app.router.routes.append(Route("/batches", _batches))
