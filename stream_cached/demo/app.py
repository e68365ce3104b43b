"""The demo's application: three decorated endpoints that stream, and the page."""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from stream_cached import stream_cached
from stream_cached.demo import data, on_redis, page
from stream_cached.stores.memory import MemoryCache

TTL = 60
SECONDS_PER_TOKEN = 0.02


def create_app(cache: str, bodies: str = "") -> FastAPI:
    """Return the application, for the database of `data.build_database`."""
    app = FastAPI(title="stream-cached demo")
    kept = bodies or None

    @app.get("/export.csv")
    @stream_cached(ttl=TTL, cache=cache, bodies=kept)
    async def export_csv(module: str | None = None) -> StreamingResponse:
        rows = data.export_csv(module)
        return StreamingResponse(rows, media_type="text/csv")

    @app.get("/records.ndjson")
    @stream_cached(ttl=TTL, cache=cache, bodies=kept)
    async def records_ndjson() -> StreamingResponse:
        return StreamingResponse(data.records(), media_type="application/x-ndjson")

    @app.get("/tokens")
    @stream_cached(ttl=TTL, cache=cache, bodies=kept)
    async def tokens() -> StreamingResponse:
        return StreamingResponse(_tokens(), media_type="text/event-stream")

    @app.get("/_keys")
    async def keys() -> list[tuple[str, int]]:
        if on_redis.is_redis(cache):
            return list((await on_redis.sizes(cache)).items())
        stored: dict[str, int] = {}
        for endpoint in (export_csv, records_ndjson, tokens):
            if isinstance(endpoint.cache, MemoryCache):
                stored |= endpoint.cache.sizes()
        return list(stored.items())

    page.add_page(app, cache, kept)
    return app


async def _tokens() -> AsyncIterator[str]:
    """Yield one server-sent event per word, at the rate of a language model."""
    for word in data.words():
        await asyncio.sleep(SECONDS_PER_TOKEN)
        yield f"data: {json.dumps({'token': word})}\n\n"
    yield "data: [DONE]\n\n"
