"""An endpoint that itself raises a `StoreError` runs once, and its client gets that error."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import (
    BrokenStreamError,
    BypassError,
    MemoryCache,
    NotCached,
    StoreError,
    StoreUnavailableError,
    StreamCachedError,
    stream_cached,
)
from stream_cached.http.reasons import Finding
from stream_cached.tasks import running_here
from tests.support.asgi import Exchange
from tests.support.gates import run
from tests.support.servers import RedisServer

Endpoint = Callable[[Request], Awaitable[Any]]

_sizes = itertools.count(3 << 25)


def memory() -> str:
    """The address of a store that no other test has: equal ones share one."""
    return f"memory://?max_bytes={next(_sizes)}"


ERRORS = {
    "StoreError": lambda: StoreError("the endpoint's own"),
    "StoreUnavailableError": lambda: StoreUnavailableError("the endpoint's own"),
    "BrokenStreamError": lambda: BrokenStreamError("the endpoint's own"),
    "BypassError": lambda: BypassError(Finding(NotCached.INCOMPLETE)),
}

each_error = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


class Sending(Response):
    """Sends in a way of its own, and raises before or after its head."""

    def __init__(self, raise_it: Callable[[], None], *, sends_head: bool) -> None:
        super().__init__()
        self.raise_it, self.sends_head = raise_it, sends_head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.sends_head:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        self.raise_it()


class Raising:
    """An endpoint that raises what it is given, at some point of its run."""

    def __init__(self, where: str, error: Callable[[], StreamCachedError]) -> None:
        self.where = where
        self.error = error
        self.runs = 0
        self.raises = True

    def _raise(self) -> None:
        if self.raises:
            raise self.error()

    async def __call__(self, request: Request) -> Any:
        self.runs += 1
        await asyncio.sleep(0)
        if self.where == "endpoint":
            self._raise()
        if self.where in ("own messages", "own messages after the head"):
            return Sending(self._raise, sends_head=self.where != "own messages")

        async def body() -> AsyncIterator[bytes]:
            if self.where == "first chunk":
                self._raise()
            yield b"a"
            await asyncio.sleep(0)
            if self.where == "later chunk":
                self._raise()
            yield b"b"

        return StreamingResponse(body())


PLACES = ["endpoint", "first chunk", "later chunk", "own messages", "own messages after the head"]


def serving(endpoint: Endpoint) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)])


async def outcome(app: ASGIApp) -> tuple[Any, ...]:
    """Ask once; say what was raised, and what was sent before."""
    exchange = Exchange(app)
    raised: BaseException | None = None
    try:
        await exchange.run()
    except Exception as exc:
        raised = exc
    status = exchange.sent[0]["status"] if exchange.sent else None
    return type(raised), str(raised), status, exchange.body, exchange.complete


async def uncached(endpoint: Raising) -> tuple[Any, ...]:
    found = await outcome(serving(endpoint.__call__))
    assert endpoint.runs == 1
    endpoint.runs = 0
    return found


@pytest.mark.matrix
@each_error
@pytest.mark.parametrize("where", PLACES)
def test_it_runs_once_and_its_error_is_its_clients(
    cache_url: str, where: str, error: Callable[[], StreamCachedError]
) -> None:
    endpoint = Raising(where, error)
    app = serving(stream_cached(ttl=60, cache=cache_url)(endpoint.__call__))

    async def test() -> None:
        expected = await uncached(endpoint)
        assert issubclass(expected[0], type(error()))
        for number in range(3):
            assert await outcome(app) == expected
            assert endpoint.runs == number + 1

    run(test)


@pytest.mark.matrix
@each_error
@pytest.mark.parametrize("where", PLACES)
def test_of_many_that_ask_at_once_nobody_runs_twice(
    redis_url: str, where: str, error: Callable[[], StreamCachedError]
) -> None:
    endpoint = Raising(where, error)
    app = serving(stream_cached(ttl=60, cache=redis_url)(endpoint.__call__))

    async def test() -> None:
        expected = await uncached(endpoint)
        found = await asyncio.gather(*(outcome(app) for _ in range(5)))
        assert endpoint.runs <= 5
        for each in found:
            assert each[:2] == expected[:2]
            assert not each[-1] or each[2:] == expected[2:]

    run(test)


@each_error
@pytest.mark.parametrize("settings", [{}, {"stale_while_revalidate": 60}], ids=["", "stale"])
def test_the_error_of_one_that_makes_a_stale_entry_again(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    error: Callable[[], StreamCachedError],
) -> None:
    endpoint = Raising("endpoint", error)
    cached = stream_cached(ttl=60, cache=redis_url, stale_if_error=1, **settings)
    app = serving(cached(endpoint.__call__))
    now = time.time

    async def test() -> None:
        expected = await uncached(endpoint)
        endpoint.raises = False
        assert (await outcome(app))[3] == b"ab"
        endpoint.raises = True
        endpoint.runs = 0
        # Past the second for which it may stand in for an endpoint that fails.
        monkeypatch.setattr(time, "time", lambda: now() + 61.5)
        found = await outcome(app)
        if settings:
            assert found[3] == b"ab"
            while running_here():
                await asyncio.wait(running_here())
        else:
            assert found == expected
        assert endpoint.runs == 1

    run(test)


@each_error
@pytest.mark.parametrize("asks", ["authorization", "cache_read", "cache_write", "POST", "HEAD"])
def test_the_error_of_one_that_goes_past_the_cache(
    asks: str, error: Callable[[], StreamCachedError]
) -> None:
    endpoint = Raising("endpoint", error)
    cached = stream_cached(ttl=60, cache=memory())(endpoint.__call__)

    async def outer(request: Request) -> Any:
        switches = {asks: False} if asks.startswith("cache") else {}
        return await cached(request, **switches)

    app = Starlette(routes=[Route("/", outer, methods=["GET", "HEAD", "POST"])])

    async def test() -> None:
        exchange = Exchange(app)
        if asks == "authorization":
            exchange.scope["headers"].append((b"authorization", b"Bearer x"))
        if asks.isupper():
            exchange.scope["method"] = asks
        with pytest.raises(type(error())):
            await exchange.run()
        assert endpoint.runs == 1

    run(test)


@each_error
def test_the_error_of_a_function_that_returns_plain_values(
    cache_url: str, error: Callable[[], StreamCachedError]
) -> None:
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def value(number: int) -> int:
        nonlocal runs
        runs += 1
        raise error()

    async def test() -> None:
        with pytest.raises(type(error())):
            await value(1)
        assert runs == 1

    run(test)


@each_error
def test_the_error_of_a_dependency(cache_url: str, error: Callable[[], StreamCachedError]) -> None:
    runs = 0
    app = FastAPI()

    @stream_cached(ttl=60, cache=cache_url)
    async def dependency() -> str:
        nonlocal runs
        runs += 1
        raise error()

    @app.get("/")
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(name: str = Depends(dependency)) -> str:
        raise AssertionError("it has no argument")

    async def test() -> None:
        assert (await outcome(app))[0] is type(error())
        assert runs == 1

    run(test)


@each_error
def test_the_error_of_another_cached_endpoint_that_it_calls(
    cache_url: str, error: Callable[[], StreamCachedError]
) -> None:
    inner = Raising("endpoint", error)
    cached = stream_cached(ttl=60, cache=cache_url, key="inner")(inner.__call__)
    runs = 0

    @stream_cached(ttl=60, cache=cache_url, key="outer")
    async def endpoint(request: Request) -> Any:
        nonlocal runs
        runs += 1
        return await cached(request)

    async def test() -> None:
        assert (await outcome(serving(endpoint)))[0] is type(error())
        assert (inner.runs, runs) == (1, 1)

    run(test)


# -- by an invalidation of its own ----------------------------------------------------------------


class Invalidating:
    """An endpoint that invalidates another one, whose store does not take it."""

    def __init__(self) -> None:
        self.runs = 0
        self.told: list[bool] = []
        # Too small to take anything.
        cache = MemoryCache(max_bytes=1)

        @stream_cached(ttl=60, cache=cache)
        async def other(request: Request) -> Response:
            raise AssertionError("nobody asks for it")

        self.other = other

    async def __call__(self, request: Request) -> Response:
        self.runs += 1
        self.told.append(await self.other.invalidate())
        return StreamingResponse(iter([b"whole"]))


def test_an_invalidation_that_the_store_does_not_take_fails_the_endpoint_once(
    cache_url: str,
) -> None:
    endpoint = Invalidating()
    app = serving(stream_cached(ttl=60, cache=cache_url)(endpoint.__call__))

    async def test() -> None:
        expected = await outcome(serving(endpoint.__call__))
        assert expected[0] is StoreError
        endpoint.runs = 0
        assert await outcome(app) == expected
        assert endpoint.runs == 1

    run(test)


@pytest.mark.parametrize("own_store_is_down", [False, True])
@pytest.mark.parametrize("fallback", ["memory://?max_bytes=64MiB", False])
def test_an_invalidation_while_the_store_is_down_is_put_off_and_the_endpoint_runs_once(
    own_redis: RedisServer, fallback: Any, own_store_is_down: bool
) -> None:
    own_redis.stop()
    runs = 0
    told = []

    @stream_cached(ttl=60, cache=own_redis.url(), fallback=fallback)
    async def other(request: Request) -> Response:
        raise AssertionError("nobody asks for it")

    own = own_redis.url() if own_store_is_down else memory()

    @stream_cached(ttl=60, cache=own, fallback=fallback)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        told.append(await other.invalidate())
        return StreamingResponse(iter([b"whole"]))

    async def test() -> None:
        found = await outcome(serving(endpoint))
        assert found[2:] == (200, b"whole", True)
        assert (runs, told) == (1, [False])

    run(test)


@pytest.mark.matrix
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("fallback", ["memory://?max_bytes=64MiB", False], ids=["memory", "none"])
def test_it_runs_once_while_its_own_store_is_down(
    own_redis: RedisServer, fallback: Any, where: str
) -> None:
    own_redis.stop()
    endpoint = Raising(where, ERRORS["StoreUnavailableError"])
    app = serving(
        stream_cached(ttl=60, cache=own_redis.url(), fallback=fallback)(endpoint.__call__)
    )

    async def test() -> None:
        expected = await uncached(endpoint)
        assert await outcome(app) == expected
        assert endpoint.runs == 1

    run(test)
