"""An app for several processes, which a test holds by files: each run has another body."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import aclose, stream_cached

DIRECTORY = Path(os.environ.get("DIRECTORY", "."))
CHUNKS = 20
HELD_AT = 10


@stream_cached(
    ttl=60,
    key_host=False,
    cache=os.environ.get("CACHE", "memory://"),
    resume="RESUME" in os.environ,
)
async def endpoint(request: Request) -> Response:
    """
    A stream that says which process made it; with `hold`, half of it waits for a file.

    With `same`, all of them make the same one.
    """
    run = f"{os.getpid()}.{os.urandom(4).hex()}"
    (DIRECTORY / f"run-{run}").touch()
    run = request.query_params.get("same", run)
    hold = request.query_params.get("hold")

    async def body() -> AsyncIterator[bytes]:
        for number in range(CHUNKS):
            # Nothing tells a process that there is a file.
            while hold and number == HELD_AT and not (DIRECTORY / hold).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield f"{run} {number:04}\n".encode() * 100

    return StreamingResponse(body())


async def pid(request: Request) -> Response:
    """The process that answers."""
    return PlainTextResponse(str(os.getpid()))


@asynccontextmanager
async def closing(app: Starlette) -> AsyncIterator[None]:
    """An application's own lifespan."""
    yield
    await aclose(timeout=float(os.environ["CLOSES_WITHIN"]))


app = Starlette(
    routes=[Route("/", endpoint), Route("/pid", pid)],
    lifespan=closing if "CLOSES_WITHIN" in os.environ else None,
)
