"""The CPU of a hit inside Starlette, without a server and a network. README.md says how."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import uvloop
from starlette.types import ASGIApp

from benchmarks import apps as bench_apps
from benchmarks.bench import MIB, Bench
from benchmarks.bodies import WORKS, Body
from benchmarks.contenders import CONTENDERS, environment_of
from benchmarks.figures import Series, figures_of
from benchmarks.hits import references
from stream_cached import Limits
from stream_cached.entries.local import allow

NAMES = (
    *("prepared", "control", "same-fields", "redis-get", "memcached-get"),
    *("ours-memory", "ours-redis", "ours-memcached"),
    *("cashews-memory", "aiocache-memory", "aiocache-redis", "fastapi-cache2-memory"),
)

ROUNDS, CALLS = 30, 100

#: How many of them keep entries in the process: elsewhere each has one of its own.
OURS = sum(name.startswith("ours-") for name in NAMES)

Ask = Callable[[], Coroutine[Any, Any, list[bytes]]]


def _scope(path: str) -> dict[str, Any]:
    """Return a scope as uvicorn makes one of the request of the client."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 40_000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"benchmark")],
        "state": {},
    }


def _asks(app: ASGIApp, path: str) -> Ask:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ask() -> list[bytes]:
        parts: list[bytes] = []
        came = False

        async def received() -> dict[str, Any]:
            nonlocal came
            if came:
                await asyncio.Event().wait()  # the client stays
            came = True
            return await receive()

        async def send(message: MutableMapping[str, Any]) -> None:
            if body := message.get("body"):
                parts.append(body)

        await app(_scope(path), received, send)
        return parts

    return ask


async def _measure(bench: Bench, apps: dict[str, ASGIApp], work: str, body: Body) -> None:
    series = {name: Series() for name in apps}
    asks = {name: _asks(app, f"/{work}") for name, app in apps.items()}
    calls = max(2, min(CALLS, 10_000 // body.count, 4 * MIB // body.length))
    for number in range(-1, bench.rounds(ROUNDS)):
        for name, ask in asks.items():
            if number < 0:
                await ask()
                await ask()
                continue
            runs, began = bench_apps.runs, time.process_time()
            for _ in range(calls):
                came = await ask()
            series[name].add(number, [(time.process_time() - began) / calls])
            if b"".join(came) != body.whole:
                series[name].flaw = "other bytes than the stream's"
            elif bench_apps.runs != runs:
                series[name].flaw = f"the body was made {bench_apps.runs - runs} times"
    bench.figures += figures_of(
        series,
        references(apps),
        part="cpu",
        measure="CPU of a hit inside Starlette, no server",
        work=work,
    )


async def _measure_all(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        apps: dict[str, ASGIApp] = {}
        for name in NAMES:
            if not bench.can_take_part(CONTENDERS[name]):
                continue
            app: Any = bench_apps.build(name)
            started: AbstractAsyncContextManager[Any] = app.router.lifespan_context(app)
            await stack.enter_async_context(started)
            apps[name] = app
        for work, body in WORKS.items():
            # cashews needs seconds for a hit of so many chunks.
            taking_part = {
                name: app
                for name, app in apps.items()
                if not name.startswith("cashews") or body.count <= 1_000
            }
            await _measure(bench, taking_part, work, body)


def run(bench: Bench) -> None:
    """Measure."""
    os.environ.update(environment_of(bench.redis, bench.memcached))
    allow(OURS * Limits().local)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure_all(bench))
