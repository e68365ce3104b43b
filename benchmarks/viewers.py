"""Three viewers of one stream: when each of them received what. See README.md.

`python -m benchmarks.viewers PICTURE` measures and draws it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from benchmarks.client import Client, request_for
from benchmarks.report import pyplot
from stream_cached import stream_cached
from tests.support.app_server import AppServer

CHUNKS = 20
#: Bytes of a chunk, and seconds that the endpoint takes to make it.
SIZE, PACE = 1024, 0.1

#: Seconds after which each viewer asks.
STARTS = {"first viewer": 0.0, "second viewer": 1.05, "third viewer": 2.4}

_COLOURS = {"miss": "#3b6ea5", "join": "#d08a2e", "hit": "#4b8f5b"}
_WORDS = {
    "miss": "runs the endpoint, and reads it live",
    "join": "joins: the start at once, then live",
    "hit": "hit: all of it from the cache",
}


@dataclass(frozen=True)
class View:
    """What one viewer received: seconds since the first one asked, and bytes in all by then."""

    asked: float
    arrivals: list[tuple[float, int]]
    way: str


@stream_cached(ttl=60, cache="memory://")
async def _report(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            await asyncio.sleep(PACE)
            yield b"x" * SIZE

    return StreamingResponse(chunks(), media_type="text/plain")


def measured() -> dict[str, View]:
    """Return what the viewers have received of one run."""
    app = Starlette(routes=[Route("/", _report)])
    with AppServer(app) as server, ThreadPoolExecutor(len(STARTS)) as pool:
        began = time.perf_counter()
        views = pool.map(lambda start: _watch(server.port, began, start), STARTS.values())
        return dict(zip(STARTS, views, strict=True))


def _watch(port: int, began: float, start: float) -> View:
    time.sleep(max(0.0, began + start - time.perf_counter()))
    with Client(port) as client:
        asked = time.perf_counter() - began
        arrivals: list[tuple[float, int]] = []
        client.send(request_for("/"))
        ended = False
        while not ended:
            ended = client.advance()
            if size := client.answer().body.count(b"x"):
                arrivals.append((time.perf_counter() - began, size))
        answer = client.answer()
    if answer.body != b"x" * CHUNKS * SIZE:
        raise RuntimeError(f"a viewer received {len(answer.body)} bytes: {answer.head}")
    status = answer.cache_status or ""
    way = "hit" if "; hit" in status else "join" if "collapsed" in status else "miss"
    return View(asked, arrivals, way)


def draw(views: dict[str, View], path: str) -> None:
    """Draw a lane for each viewer: a bar for what came at one time, as long as it had waited."""
    figure, axes = pyplot().subplots(figsize=(8.2, 2.6), dpi=110)
    for lane, (name, view) in enumerate(views.items()):
        colour, bottom, before = _COLOURS[view.way], -lane, 0
        axes.plot([view.asked], [bottom + 0.3], marker="|", color="#444444", markersize=22)
        for at, size in view.arrivals:
            height = 0.6 * (size - before) / SIZE / CHUNKS
            axes.bar(at, 0.6 * size / SIZE / CHUNKS, 0.06, bottom, color=colour, alpha=0.35)
            axes.bar(at, height, 0.06, bottom + 0.6 * before / SIZE / CHUNKS, color=colour)
            before = size
        axes.text(0, bottom + 0.68, f"{name}: {_WORDS[view.way]}", fontsize=9, color=colour)
    axes.set_yticks([])
    axes.set_xlim(-0.1, max(STARTS.values()) + 0.4)
    axes.set_xlabel("seconds; a line where a viewer asks, a bar where bytes arrive", fontsize=9)
    axes.spines[["left", "right", "top"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main(path: str) -> None:
    """Measure and draw."""
    views = measured()
    for name, view in views.items():
        first, last = view.arrivals[0][0] - view.asked, view.arrivals[-1][0] - view.asked
        print(f"{name}: {view.way}, first byte after {first:.3f} s, last after {last:.3f} s")
    draw(views, path)


if __name__ == "__main__":
    main(sys.argv[1])
