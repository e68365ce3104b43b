"""An app for processes that keep large bodies in a directory; a test holds its runs by files.

Each chunk names the run that has made it, so that no body can be mixed unnoticed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.runs.streaming import runs_here

DIRECTORY = Path(os.environ.get("DIRECTORY", "."))
CHUNK = 64 * 1024
_PAIRS = (pair.split("=") for pair in os.environ.get("LIMITS", "").split(",") if pair)
LIMITS: dict[str, Any] = {
    name: float(value) if name.endswith("timeout") else value for name, value in _PAIRS
}


def chunk_of(run: str, number: int) -> bytes:
    return f"{run} {number:06}\n".encode().ljust(CHUNK, b".")


def is_one_run(body: bytes) -> bool:
    """Whether a body is that of one run, from its first chunk to its last."""
    run = body[: body.index(b" ")].decode()
    count = len(body) // CHUNK
    return body == b"".join(chunk_of(run, number) for number in range(count))


@stream_cached(
    ttl=600,
    key_host=False,
    cache=os.environ.get("CACHE", "memory://"),
    bodies=os.environ.get("BODIES"),
    **LIMITS,
)
async def endpoint(request: Request) -> Response:
    """So many chunks; with `hold=one@5,two@9`, the run waits before these for files so named."""
    run = f"{os.getpid()}.{os.urandom(4).hex()}"
    (DIRECTORY / f"run-{run}").touch()
    query = request.query_params
    count, names = int(query["chunks"]), query.get("hold", "").split(",")
    holds = {int(at): DIRECTORY / name for name, _, at in (n.partition("@") for n in names) if at}

    async def body() -> AsyncIterator[bytes]:
        for number in range(count):
            # Nothing tells a process that there is a file.
            while number in holds and not holds[number].exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield chunk_of(run, number)

    return StreamingResponse(body())


async def made(request: Request) -> Response:
    """How many bytes this process has of the runs that go on."""
    streams = [run.stream for run in runs_here()]
    return Response(str(sum(stream.made for stream in streams if stream is not None)))


app = Starlette(routes=[Route("/", endpoint), Route("/made", made)])
