"""The plugin beside `pip install cashews`, without the optional packages of cashews."""

from __future__ import annotations

import subprocess
import sys

from tests.support.process import ROOT

#: Optional packages that a cashews cache in memory does without.
OPTIONAL = ("diskcache", "fastapi", "redis", "xxhash", "zlib_ng")

#: Stores a stream by both decorators, and prints what two requests for each of them receive.
SCRIPT = """
import asyncio
import sys

for name in sys.argv[1:]:
    sys.modules[name] = None

from cashews import Cache
from starlette.responses import StreamingResponse

from stream_cached.cashews import install, stream_cached

install()
cache = Cache()
cache.setup("mem://")
runs = []


async def rows():
    runs.append(None)
    yield b"run "
    yield b"%d" % len(runs)


async def report():
    return StreamingResponse(rows())


async def receive():
    await asyncio.Event().wait()


async def body_of(response):
    body = bytearray()

    async def send(message):
        body.extend(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "asgi": {}}
    await response(scope, receive, send)
    return body.decode()


async def main():
    for decorate in stream_cached(cache, ttl=60, key="ours"), cache(ttl=60, key="theirs"):
        endpoint = decorate(report)
        for _ in range(2):
            print(await body_of(await endpoint()))


asyncio.run(main())
"""


def test_streams_are_stored_in_memory_without_optional_packages() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *OPTIONAL], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["run 1", "run 1", "run 2", "run 2"]
