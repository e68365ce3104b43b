"""The contenders that are applications of FastAPI: what yields, what returns a model, and whole
bodies under fastapi-cache2."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp

from benchmarks import apps
from benchmarks.bodies import MEDIA_TYPE
from stream_cached import StreamCache

Decorate = Callable[[Any], Any]

#: How many items the endpoint yields, and how many of them the model holds.
ITEMS = 1_000
IN_MODEL = 100

#: Whether this version of the library has `StreamCache.Route`.
HAS_ROUTE = hasattr(StreamCache, "Route")


class Item(BaseModel):
    """An item of about 90 bytes as JSON."""

    number: int
    name: str
    price: float
    in_stock: bool = True
    tags: list[str] = ["a", "b"]


class Page(BaseModel):
    """A model of 100 items."""

    total: int
    items: list[Item]


def item(number: int) -> Item:
    """Return one item."""
    return Item(number=number, name=f"a name of item {number}", price=number / 4)


async def yields(n: str = "") -> AsyncIterator[Item]:
    """Yield the items; FastAPI makes JSON lines of them."""
    apps.runs += 1
    for number in range(ITEMS):
        yield item(number)


async def page(n: str = "") -> Page:
    """Return a model, which FastAPI validates and renders."""
    apps.runs += 1
    return Page(total=IN_MODEL, items=[item(number) for number in range(IN_MODEL)])


def _plain(endpoint: Any) -> Any:
    return endpoint


def _served(decorate: Decorate, *, route: Any = None, **settings: Any) -> ASGIApp:
    application = FastAPI(**settings)
    if route is not None:
        application.router.route_class = route
    application.router.routes.extend(apps.CONTROLS)
    application.add_api_route("/yields", decorate(yields))
    application.add_api_route("/model", decorate(page), response_model=Page)
    return application


def ours(cache: str, *, by_route: bool = False) -> ASGIApp:
    """This library: the decorator alone, or below `StreamCache.Route`."""
    streams: Any = StreamCache(cache, ttl=apps.TTL)
    route = streams.Route if by_route else None
    return _served(streams.cached(), route=route, lifespan=streams.lifespan)


def _fastapi_cache2(on_redis: bool) -> tuple[Decorate, Callable[..., Any]]:
    cache2: Any = importlib.import_module("fastapi_cache")
    coders: Any = importlib.import_module("fastapi_cache.coder")
    decorators: Any = importlib.import_module("fastapi_cache.decorator")

    @asynccontextmanager
    async def started(app: FastAPI) -> AsyncIterator[None]:
        if on_redis:
            from redis.asyncio import Redis

            backends: Any = importlib.import_module("fastapi_cache.backends.redis")
            backend = backends.RedisBackend(Redis.from_url(apps.redis_url()))
        else:
            backends = importlib.import_module("fastapi_cache.backends.inmemory")
            backend = backends.InMemoryBackend()
        cache2.FastAPICache.init(backend, prefix="fastapi-cache")
        yield

    return decorators.cache(expire=apps.TTL, coder=coders.PickleCoder), started


async def _body(name: str, n: str = "") -> Response:
    return Response(await apps.whole_of(name), media_type=MEDIA_TYPE)


def fastapi_cache2(on_redis: bool) -> ASGIApp:
    """fastapi-cache2, over endpoints that return everything at once."""
    decorate, started = _fastapi_cache2(on_redis)
    application = FastAPI(lifespan=started)
    application.router.routes.extend(apps.CONTROLS)
    application.add_api_route("/model", decorate(page), response_model=Page)
    application.add_api_route("/{name}", decorate(_body), response_model=None)
    return application


BUILDERS: dict[str, Callable[[], ASGIApp]] = {
    "fastapi-uncached": lambda: _served(_plain),
    "fastapi-ours-memory": lambda: ours("memory://"),
    "fastapi-ours-redis": lambda: ours(f"{apps.redis_url()}?namespace=ours-fastapi"),
    "fastapi-route-memory": lambda: ours("memory://", by_route=True),
    "fastapi-route-redis": lambda: ours(f"{apps.redis_url()}?namespace=ours-route", by_route=True),
    "fastapi-cache2-memory": lambda: fastapi_cache2(on_redis=False),
    "fastapi-cache2-redis": lambda: fastapi_cache2(on_redis=True),
}
