"""The demo's page: one slow stream without a cache, with a naive one, and with `stream_cached`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields
from importlib.resources import files

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_cached import stream_cached

TTL = 60
ROWS = 40
SECONDS_PER_ROW = 0.1
PREFIX = "/rows/"

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # The page needs nothing from elsewhere, and this lets it have nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:",
    "Cache-Control": "no-cache",
}


@dataclass
class Counters:
    """What was counted of one endpoint since the last start."""

    runs: int = 0
    requests: int = 0
    hits: int = 0
    joins: int = 0
    misses: int = 0
    bytes: int = 0

    def answered(self, cache_status: str) -> None:
        """Count an answer by its Cache-Status; one without is a miss."""
        parts = [part.strip() for part in cache_status.split(";")]
        if "hit" in parts:
            self.hits += 1
        elif "collapsed" in parts:
            self.joins += 1
        else:
            self.misses += 1

    def clear(self) -> None:
        """Start again from 0."""
        for field in fields(self):
            setattr(self, field.name, 0)


#: Of each endpoint by its name, in this process.
counted = {name: Counters() for name in ("none", "naive", "stream_cached")}

#: The naive cache: bodies by their names.
_bodies: dict[str, bytes] = {}


def row(number: int) -> str:
    """Return one line of the CSV."""
    day, amount = number % 28 + 1, number * 37 % 90 + 10
    return f"{number:02},2026-01-{day:02},order {1000 + number},{amount}.00\n"


def full_length() -> int:
    """How many bytes the whole body has."""
    return sum(len(row(number)) for number in range(1, ROWS + 1))


async def until(number: int) -> None:
    """Wait until a row is there, as for a slow database."""
    await asyncio.sleep(SECONDS_PER_ROW)


async def rows(name: str) -> AsyncIterator[str]:
    """Yield the rows for an endpoint."""
    counted[name].runs += 1
    for number in range(1, ROWS + 1):
        await until(number)
        yield row(number)


async def _remembered(name: str) -> AsyncIterator[str]:
    """The mistake of the naive cache: it keeps what there is when a response ends, also early."""
    sent: list[str] = []
    try:
        async for line in rows(name):
            sent.append(line)
            yield line
    finally:
        _bodies[name] = "".join(sent).encode()


class Counting:
    """Counts what the three endpoints answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        counters = counted.get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
        if counters is None:
            await self._app(scope, receive, send)
            return
        counters.requests += 1

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                counters.answered(Headers(raw=message["headers"]).get("cache-status", ""))
            else:
                counters.bytes += len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, counting)


def add_page(app: FastAPI, cache: str, bodies: str | None) -> None:
    """Add the page, its three endpoints and their counters to the demo's application."""
    app.add_middleware(Counting)

    @app.get("/rows/none")
    async def none() -> Response:
        return StreamingResponse(rows("none"), media_type="text/csv")

    @app.get("/rows/naive")
    async def naive() -> Response:
        headers = {"Cache-Status": "naive; hit"}
        if "naive" in _bodies:
            return Response(_bodies["naive"], media_type="text/csv", headers=headers)
        headers = {"Cache-Status": "naive; fwd=uri-miss; stored"}
        return StreamingResponse(_remembered("naive"), media_type="text/csv", headers=headers)

    # Two servers of the demo differ in their ports, and so in their hosts.
    @app.get("/rows/stream_cached")
    @stream_cached(ttl=TTL, cache=cache, bodies=bodies, key_host=False)
    async def cached() -> StreamingResponse:
        return StreamingResponse(rows("stream_cached"), media_type="text/csv")

    @app.get("/counters")
    async def counters() -> dict[str, object]:
        return {
            "rows": ROWS,
            "bytes": full_length(),
            "seconds": ROWS * SECONDS_PER_ROW,
            "counted": {name: asdict(each) for name, each in counted.items()},
        }

    @app.post("/start-over", status_code=204)
    async def start_over() -> None:
        _bodies.clear()
        await cached.invalidate()
        for each in counted.values():
            each.clear()

    for path, (name, media_type) in _FILES.items():
        _add_file(app, path, name, media_type)


def _add_file(app: FastAPI, path: str, name: str, media_type: str) -> None:
    content = files("stream_cached.demo").joinpath("files", name).read_bytes()

    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)
