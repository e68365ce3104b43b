"""What a key costs: of an endpoint with four arguments and two headers in `vary`."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiocache import cached
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.bench import Bench
from benchmarks.figures import Series, figures_of
from stream_cached import stream_cached
from stream_cached.request.guard import Guard, Terms

ROUNDS = 200
CALLS = 100

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "https",
    "path": "/reports/5/rows",
    "raw_path": b"/reports/5/rows",
    "query_string": b"year=2026&format=csv&detailed=true",
    "root_path": "",
    "headers": [
        (b"host", b"reports.example.org"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"),
        (b"accept", b"text/csv,application/json;q=0.9"),
        (b"accept-language", b"de,en;q=0.7"),
        (b"accept-encoding", b"gzip, deflate, br, zstd"),
        (b"cookie", b"theme=dark; consent=yes"),
        (b"connection", b"keep-alive"),
    ],
}


async def rows(
    request: Request, number: int, year: int, format: str, since: datetime.date
) -> Response:
    """An endpoint that is never run."""
    raise NotImplementedError


async def _measure(
    ways: Mapping[str, Callable[[], Awaitable[Any]]], rounds: int
) -> dict[str, Series]:
    """Return what one call of each takes; the ways take turns, round by round."""
    series = {way: Series() for way in ways}
    for number, (way, call) in itertools.product(range(-1, rounds), ways.items()):
        start = time.perf_counter()
        for _ in range(CALLS):
            await call()
        if number >= 0:
            series[way].add(number, [(time.perf_counter() - start) / CALLS])
    return series


def run(bench: Bench) -> None:
    """Measure."""
    endpoint = stream_cached(ttl=60, vary=("Accept", "Accept-Language"))(rows)
    request = Request(SCOPE)
    arguments = {"number": 5, "year": 2026, "format": "csv", "since": datetime.date(2026, 1, 1)}
    plain = cached(ttl=60)
    terms = Terms(frozenset(), host=True, unguarded=frozenset())

    async def aiocaches() -> None:
        # With the request among the arguments, its key would hold an address.
        plain.get_cache_key(rows, (), arguments)

    async def ours() -> None:
        await endpoint.cache_key(request=request, **arguments)

    async def guard() -> None:
        Guard(request, terms, with_body=False).given((), {"request": request, **arguments})

    reference = "aiocache's key"
    ways = {reference: aiocaches, "our key": ours, "our guard, of a miss": guard}
    series = asyncio.run(_measure(ways, bench.rounds(ROUNDS)))
    bench.figures += figures_of(
        series,
        {way: reference for way in ways if way != reference},
        part="keys",
        measure="a key",
        work="4 arguments, 2 headers",
    )
