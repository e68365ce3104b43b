"""The short way of a hit answers what the whole way answers, and costs and tells the same."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from unittest import mock

import pytest
from aiocache import SimpleMemoryCache
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.decorated.wrapping import decorated_of
from stream_cached.stores.aiocache import AiocacheStore
from stream_cached.stores.memory import MemoryStore
from tests.support.asgi import Exchange
from tests.support.gates import run, runs_over

#: What differs between two runs of the same: keys, ETags, ids of events, and the numbers of runs.
_OWN = re.compile(r"[0-9a-f]{32}|run=\d+|(?i:id: [\w-]+)")

Header = tuple[bytes, bytes]

#: What the requests have beside their host. Most of them have nothing.
_HEADERS: list[Sequence[Header]] = [
    *[()] * 4,
    [(b"accept-encoding", b"gzip")],
    [(b"accept-encoding", b"gzip")],
    [(b"Accept-Encoding", b"gzip")],
    [(b"accept-language", b"de-AT")],
    [(b"accept-language", b"de"), (b"accept-language", b"en")],
    [(b"authorization", b"Bearer a")],
    [(b"cache-control", b"no-cache")],
    [(b"cache-control", b"only-if-cached, max-stale=30")],
    [(b"cookie", b"a=b")],
    [(b"if-none-match", b"*")],
    [(b"range", b"bytes=1-3")],
    [(b"last-event-id", b"1")],
    [(b"x-refresh", b"1")],
]

_PATHS = ["/one"] * 4 + ["/within/one", "/other/1", "/other/2"]

_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "soft": {"stale_while_revalidate": 40},
    "response": {"ttl": "response"},
    "vary": {"vary": {"accept-language": lambda value: value[:2]}},
    "tags": {"tags": lambda response: ["item"]},
    "exact": {"replay": "exact"},
    "resume": {"resume": True},
    "event-id": {"resume": "event-id"},
    "honor": {"honor_request": True},
    "key": {"key": "the same"},
    "refresh": {"refresh": lambda request: "x-refresh" in request.headers},
    "client": {"client_cache_control": "max-age=5", "targets": ["CDN-Cache-Control"]},
    "compress": {"compress": "zlib", "secret": "a secret of more than thirty-two characters"},
}


class _Still:
    """The time, which only a test moves on."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    monotonic = time

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class _Failing(SimpleMemoryCache):  # type: ignore[misc]
    """A cache as over a network."""

    fails = False

    async def _multi_get(self, *args: Any, **kwargs: Any) -> Any:
        if self.fails:
            raise ConnectionError
        return await super()._multi_get(*args, **kwargs)


def _response(numbers: itertools.count[int], kind: str) -> Response:
    number = next(numbers)
    headers = {"cache-control": "max-age=60, stale-while-revalidate=30", "vary": "x-language"}

    async def chunks() -> AsyncIterator[bytes]:
        for each in range(400 if kind == "many" else 2):
            yield b"data: %d of %d\n\n" % (each, number)

    if kind == "whole":
        return Response(b"%d" % number, headers={"cache-control": headers["cache-control"]})
    status, media_type = (404, "text/event-stream") if kind == "many" else (200, "text/plain")
    return StreamingResponse(
        chunks(), status, headers if kind == "vary" else None, media_type=media_type
    )


class _Page:
    """What the endpoint answers. It holds nothing itself, which would be a part of its keys."""

    numbers: itertools.count[int]
    kind: str


async def _page(request: Request) -> Response:
    return _response(_Page.numbers, _Page.kind)


def _changed(response: Any, change: str) -> Any:
    """Change a response as middlewares and other decorators do."""
    if change == "header":
        response.headers["x-more"] = "1"
        del response.headers["age"]
    elif change == "raw":
        response.raw_headers.append((b"x-more", b"1"))
    elif change == "body" and isinstance(response, StreamingResponse):
        before = response.body_iterator

        async def upper() -> AsyncIterator[bytes]:
            async for chunk in before:
                yield bytes(chunk).upper()  # type: ignore[arg-type]

        response.body_iterator = upper()
    return response


def _create(endpoint: Callable[[Request], Awaitable[Any]], front: str) -> tuple[Any, FastAPI]:
    async def other() -> str:
        return "a"

    api = FastAPI()

    @api.get("/one")
    @api.get("/other/{item}")
    async def dependent(request: Request, other: str = Depends(other)) -> Response:
        response: Response = await endpoint(request)
        return response

    api.state.dependency = other
    routes = [Route("/one", endpoint), Route("/other/{item}", endpoint)]
    inner: Any = api if front == "fastapi" else Starlette(routes=routes)
    app = Starlette(routes=[Mount("/within", app=inner), Mount("", app=inner)])
    return GZipMiddleware(app, 10) if front == "gzip" else app, api


class Twin:
    """An application, and what is seen of it."""

    def __init__(self, seed: str, option: str, *, is_short: bool, still: _Still) -> None:
        self.random, self.still = random.Random(seed), still
        choose = self.random.choice
        self.cache: Any = MemoryCache(clock=still.monotonic) if choose([0, 1]) else _Failing()
        kind = choose(["plain", "plain", "vary", "many", "whole"])
        change = choose(["none", "none", "none", "header", "raw", "body"])
        self.events: list[Any] = []
        hook = self.events.append if choose([0, 1]) else None
        options = {"ttl": 60, "on_event": hook, "cache": self.cache, **_OPTIONS[option]}

        _Page.numbers, _Page.kind = itertools.count(1), kind
        cached = stream_cached(**options)(_page)

        async def endpoint(request: Request) -> Any:
            return _changed(await cached(request), change)

        self.cached = cached
        function = decorated_of(cached)
        assert function is not None
        if not is_short:
            function._may_be_at_hand = False
        self.app, self.api = _create(endpoint, choose(["starlette", "gzip", "fastapi"]))

    async def step(self, number: int) -> list[Any]:
        """Take one step. Return what was sent."""
        choose = self.random.choice
        changes = ["wait", "invalidate", "lose", "fail", "override"]
        what = choose(["again"] * 8 + ["ask"] * 6 + changes)
        self.cache.fails = what == "fail"
        if number < 4:
            # Only what was asked for several times is at hand.
            what = "again"
        elif what == "wait":
            self.still.now += choose([0.4, 1.0, 30.0, 61.0, 90.0])
        elif what == "invalidate":
            await self.cached.invalidate()
        elif what == "lose":
            await self.cache.clear()
        elif what == "override":
            overrides = self.api.dependency_overrides
            if not overrides.pop(self.api.state.dependency, None):
                overrides[self.api.state.dependency] = lambda: "b"
        if what != "ask":
            return await self._sent(Exchange(self.app, path="/one"))
        exchange = Exchange(self.app, choose(["2.3", "2.4"]), choose(_PATHS))
        exchange.scope["headers"] += choose(_HEADERS)
        exchange.scope["method"] = choose(["GET"] * 9 + ["HEAD"])
        exchange.scope["http_version"] = choose(["1.1", "1.1", "2", "1.0"])
        if not choose(range(6)):
            del exchange.scope["raw_path"], exchange.scope["client"]
        return await self._sent(exchange)

    async def _sent(self, exchange: Exchange) -> list[Any]:
        await exchange.run()
        await runs_over()
        return list(exchange.sent)


def _seen(
    seed: str, option: str, *, is_short: bool, patch: pytest.MonkeyPatch, log: Any
) -> list[Any]:
    """Return what is seen of a sequence of requests, step by step."""
    still, seen, reads = _Still(), list[Any](), list[int]()

    def counted(cls: type) -> Any:
        read = vars(cls)["get_many"]

        async def get_many(store: Any, keys: Sequence[str]) -> Any:
            reads.append(len(keys))
            return await read(store, keys)

        return mock.patch.object(cls, "get_many", get_many)

    async def main() -> None:
        twin = Twin(seed, option, is_short=is_short, still=still)
        for number in range(20):
            log.clear()
            sent = await twin.step(number)
            told = [record.getMessage() for record in log.records]
            stats = dataclasses.asdict(twin.cached.stats())
            shown = repr([sent, told, twin.events, stats, reads])
            seen.append(_OWN.sub("", shown))
            twin.events.clear()
            reads.clear()

    with patch.context() as context, counted(MemoryStore), counted(AiocacheStore):
        for name, module in list(sys.modules.items()):
            if name.startswith("stream_cached.") and vars(module).get("time") is time:
                context.setattr(module, "time", still)
        run(main)
    return seen


@pytest.mark.parametrize("option", _OPTIONS)
def test_both_ways_answer_the_same(
    option: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, level in enumerate([logging.WARNING, logging.DEBUG]):
        seed = f"{option} {number}"
        caplog.set_level(level, "stream_cached")
        short, whole = (
            _seen(seed, option, is_short=is_short, patch=monkeypatch, log=caplog)
            for is_short in (True, False)
        )
        for one, other in zip(short, whole, strict=True):
            assert one == other
