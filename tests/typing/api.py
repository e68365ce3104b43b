"""Typed uses of the public API, for mypy alone: nothing imports or runs this module."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from datetime import timedelta
from typing import Annotated, Any, assert_type

import httpx
from cashews import Cache
from django.http import HttpResponse
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

import stream_cached.cashews
from stream_cached import (
    Answered,
    CachedEndpoint,
    CachedGenerator,
    Completed,
    ConfigurationError,
    EndpointStats,
    Event,
    FallbackCache,
    Health,
    Limits,
    MemoryCache,
    NotCached,
    NotInKey,
    Outcome,
    RunEnded,
    RunResult,
    State,
    StreamCache,
    aclose,
    health,
    in_key,
    lifespan,
    not_in_key,
)
from stream_cached import (
    stream_cached as cached,
)
from stream_cached.testing import CacheUnderTest

# -- decorators -----------------------------------------------------------------------------------


async def rows() -> AsyncIterator[bytes]:
    yield b"row\n"


async def copied(completed: Completed) -> None:
    assert_type(completed.digest, str)
    assert_type([chunk async for chunk in completed.body], list[bytes])


def happened(event: Event) -> None:
    if isinstance(event, Answered):
        assert_type(event.first_byte, float | None)
        assert_type(event.outcome, Outcome)
    elif isinstance(event, RunEnded):
        assert_type(event.result, RunResult)


async def asleep(event: Event) -> None: ...


@cached()
async def without_options(request: Request) -> StreamingResponse:
    return StreamingResponse(rows())


@cached(ttl=60)
def not_async(request: Request, name: str, *, limit: int = 10) -> Response:
    return Response(name)


@cached(60, "key", "namespace", cache="redis://localhost", noself=False)
async def by_position(request: Request) -> dict[str, int]:
    return {"rows": 1}


@cached(
    ttl=None,
    skip_cache_func=lambda result: result is None,
    cache=MemoryCache(max_bytes=1024),
    vary={"Accept-Language": lambda value: value[:2], "Accept": None},
    methods=["GET", "POST"],
    statuses=range(200, 206),
    limits=Limits(
        max_body="1GiB",
        max_duration=30,
        max_pending=1_000_000,
        max_ahead="1MiB",
        max_variants=5,
        inline_max=0,
        spool_max="1GB",
        finish_timeout=1.5,
        held_finish_timeout=1.5,
        wait_timeout=2,
        retry_interval=0.5,
    ),
    on_disconnect="stop",
    stale_while_revalidate=10,
    stale_if_error=60.0,
    timeout=None,
    fallback=False,
    secret=["new", b"old"],
    replay="exact",
    resume=True,
    authorized="keyed",
    key_host=False,
    request_key=True,
    key_args={"user": lambda user: user.id},
    key_ignore=("session",),
    unguarded={"client", "state.user"},
    bodies="file:///var/cache/app",
    compress="zlib",
    on_complete=copied,
    on_event=happened,
)
async def all_options(request: Request, user: Any, session: Any) -> StreamingResponse:
    return StreamingResponse(rows())


@cached(ttl=60, max_body="64MiB", max_variants=5)
async def limits_as_keywords(request: Request) -> Response:
    return Response()


@cached(ttl=60)
async def tokens(prompt: str, *, model: str = "m") -> AsyncIterator[str]:
    yield prompt


@cached(ttl=60)
def plain_tokens(count: int) -> Iterator[dict[str, int]]:
    yield {"n": count}


class Reports:
    @cached(ttl=60, noself=True)
    async def report(self, request: Request) -> Response:
        return Response()


def wrong_types() -> None:
    cached(methods=5)  # type: ignore[arg-type]
    cached(on_event=asleep)  # type: ignore[arg-type]
    cached(limits={"max_body": 5})  # type: ignore[arg-type]
    cached(on_disconnect="wait")  # type: ignore[arg-type]
    Limits(max_body=1.5)  # type: ignore[arg-type]
    Limits(max_boddy=5)  # type: ignore[call-arg]
    Limits().max_body = 5  # type: ignore[misc]


# -- what is decorated ----------------------------------------------------------------------------


async def calls(request: Request) -> None:
    assert_type(await without_options(request), StreamingResponse)
    assert_type(not_async(request, "name", limit=5), Awaitable[Response])
    assert_type(await not_async(request, "name"), Response)
    assert_type(await by_position(request), dict[str, int])
    not_async(request, 5)  # type: ignore[arg-type]
    not_async(request, "name", other=5)  # type: ignore[call-arg]
    assert_type(await without_options.invalidate(), bool)
    assert_type(await without_options.invalidate(key="key"), bool)
    assert_type(await not_async.cache_key(request, "name"), str)
    await Reports.report(Reports(), request)
    assert_type(tokens("prompt", model="m"), AsyncGenerator[str, None])
    assert_type(plain_tokens(3), AsyncGenerator[dict[str, int], None])
    assert_type([each async for each in tokens("prompt")], list[str])
    assert_type(await tokens.cache_key("prompt"), str)
    assert_type(await plain_tokens.invalidate(), bool)
    tokens(5)  # type: ignore[arg-type]
    tokens("prompt", "m")  # type: ignore[call-arg]
    async with contextlib.aclosing(tokens("prompt")) as items:
        assert_type(await anext(items), str)


def is_cached(endpoint: CachedEndpoint[..., Response]) -> None: ...


def is_generator(endpoint: CachedGenerator[..., str]) -> None: ...


is_generator(tokens)
is_cached(all_options)
is_cached(limits_as_keywords)

assert_type(Limits().max_body, int)
assert_type(Limits(spool_max="1MiB").spool_max, int)
assert_type(Limits().wait_timeout, float | None)

# -- keys -----------------------------------------------------------------------------------------


@not_in_key
class Session: ...


class Pool: ...


not_in_key(Pool)

api = FastAPI()


async def session() -> Session:
    return Session()


@api.get("/report")
@cached(ttl=60, vary=("Accept",))
async def report(
    request: Request,
    connection: Annotated[Session, Depends(session)],
    trace: Annotated[str, NotInKey] = "",
) -> StreamingResponse:
    return StreamingResponse(rows())


# -- stores and the application -------------------------------------------------------------------

FallbackCache(
    primary="redis://localhost",
    fallback=MemoryCache(max_bytes=1024, namespace="aside"),
    retry_interval=2,
    timeout=0.5,
)

app = Starlette(lifespan=lifespan)
api = FastAPI(lifespan=lifespan)


async def at_the_end() -> None:
    await aclose()
    await aclose(timeout=2)
    for state in health():
        assert_type(state, Health)
        assert_type(state.state, State)
    raise ConfigurationError("pass something else")


# -- cashews --------------------------------------------------------------------------------------

cache = Cache()
stream_cached.cashews.install()


@stream_cached.cashews.stream_cached(cache, ttl="1h")
async def by_request(request: Request) -> StreamingResponse:
    return StreamingResponse(rows())


@stream_cached.cashews.stream_cached(
    cache,
    timedelta(minutes=5),
    "report:{name}",
    tags=["reports"],
    prefix="web",
    vary=("Accept",),
    limits=Limits(max_body="1GiB"),
    wait_timeout=5,
)
def by_template(name: str) -> Response:
    return Response(name)


stream_cached.cashews.uninstall()


# -- methods --------------------------------------------------------------------------------------


class Shop:
    """A class whose methods are cached."""

    @cached(ttl=timedelta(minutes=1), noself=True)
    async def item(self, number: int) -> dict[str, int]:
        return {"number": number}


async def of_methods(shop: Shop) -> None:
    assert_type(await shop.item(1), dict[str, int])
    await Shop.item.invalidate(number=1)


# -- one cache for an application ------------------------------------------------------------------

streams = StreamCache(ttl="10m", namespace="shop", authorized="keyed", on_event=happened)


@streams.cached(ttl=lambda response: 60, tags=("item:{number}",), invalidate_by=("number",))
async def of_cache(number: int) -> Response:
    return Response()


async def with_cache() -> None:
    assert_type(await of_cache(1), Response)
    assert_type(await streams.invalidate_tags("item:1", soft=True), bool)
    assert_type(streams.health(), Health)
    assert_type(of_cache.stats(), EndpointStats)
    async with streams:
        await streams.ping()


application = FastAPI(lifespan=streams.lifespan)
in_key(Shop, lambda shop: str(shop))


# -- tests ----------------------------------------------------------------------------------------


async def test_page(stream_cache: CacheUnderTest, response: Response) -> None:
    stream_cache.travel(1.5)
    with stream_cache.disabled():
        stream_cache.assert_not_stored(response, NotCached.STATUS)
    stream_cache.assert_not_stored(response, "status")
    stream_cache.assert_hit(response)
    stream_cache.assert_miss(httpx.Response(200))
    stream_cache.assert_stored(HttpResponse())
    stream_cache.clear()
    stream_cache.use("redis://localhost/15")
    await stream_cache.wait_idle(timeout=1)
    stream_cache.block_until_idle()
    stream_cache.assert_hit("a text")  # type: ignore[arg-type]
