"""An app with metrics for several processes. Set `PROMETHEUS_MULTIPROC_DIR` and `CACHE`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from stream_cached import StreamCache
from stream_cached.prometheus import PrometheusMetrics

streams = StreamCache(os.environ["CACHE"], ttl=60, on_event=PrometheusMetrics(interval=0.05))


@streams.cached()
async def export(request: Request) -> Response:
    async def rows() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"0123456789"

    return StreamingResponse(rows())


async def pid(request: Request) -> Response:
    """The process that answers."""
    return PlainTextResponse(str(os.getpid()))


registry = CollectorRegistry()
MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

app = Starlette(
    routes=[
        Route("/export", export),
        Route("/pid", pid),
        Mount("/metrics", make_asgi_app(registry)),
    ]
)
