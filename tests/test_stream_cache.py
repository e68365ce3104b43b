"""One cache object for an application: its settings, its store, its start and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.testclient import TestClient

from stream_cached import (
    ConfigurationError,
    Limits,
    State,
    StoreUnavailableError,
    StreamCache,
    lifespan,
    stream_cached,
)
from stream_cached.stream_cache import URL_VARIABLE
from stream_cached.testing import CacheUnderTest
from tests.support.logs import warnings
from tests.support.process import free_port
from tests.support.runs import HIT, MISS
from tests.support.servers import RedisServer


def app_of(streams: StreamCache, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=streams.lifespan)

    @app.get("/{name}")
    @streams.cached(**options)
    async def endpoint(name: str) -> Response:
        return PlainTextResponse(name)

    return app


def states(client: TestClient, *paths: str) -> list[str]:
    return [client.get(path).headers["cache-status"] for path in paths]


# -- which store ----------------------------------------------------------------------------------


def test_nothing_is_resolved_when_it_is_made() -> None:
    streams = StreamCache("nonsense://", ttl=60)
    with (
        pytest.raises(ConfigurationError, match="unknown scheme"),
        TestClient(app_of(streams)),
    ):
        pass  # The start of the application tells.


def test_the_url_is_given_or_configured_or_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, namespace: str
) -> None:
    own = f"{redis_url}?namespace={namespace}"
    monkeypatch.setenv(URL_VARIABLE, own)
    for streams, is_redis in [
        (StreamCache("memory://?max_bytes=21MiB"), False),
        (StreamCache(), True),
    ]:
        with TestClient(app_of(streams, ttl=60)) as client:
            assert states(client, "/a", "/a") == [MISS, HIT]
            assert streams.health().store.startswith("redis" if is_redis else "memory")
    monkeypatch.delenv(URL_VARIABLE)
    streams = StreamCache()
    with TestClient(app_of(streams, ttl=60)) as client:
        assert states(client, "/a", "/a") == [MISS, HIT]
        assert streams.health().store == "memory"
    streams = StreamCache()
    streams.configure(f"{own}2")
    with TestClient(app_of(streams, ttl=60)) as client:
        assert states(client, "/a", "/a") == [MISS, HIT]
        assert streams.health().store.startswith("redis")
    with pytest.raises(ConfigurationError, match="in use"):
        streams.configure("memory://")


def test_a_url_that_is_configured_is_checked_at_once() -> None:
    with pytest.raises(ConfigurationError, match="unknown scheme"):
        StreamCache().configure("nonsense://")


def test_two_with_other_namespaces_share_nothing() -> None:
    one, other = (StreamCache("memory://", ttl=60, namespace=name) for name in ("one:", "other:"))
    clients = [TestClient(app_of(streams)) for streams in (one, other)]
    with clients[0], clients[1]:
        assert states(clients[0], "/a", "/a") == [MISS, HIT]
        assert states(clients[1], "/a", "/a") == [MISS, HIT]
        clients[0].portal.call(one.clear)  # type: ignore[union-attr]
        assert states(clients[0], "/a") == [MISS]
        assert states(clients[1], "/a") == [HIT]


# -- settings -------------------------------------------------------------------------------------


def test_an_endpoint_overrides_the_settings_of_the_cache() -> None:
    streams = StreamCache(ttl=60, limits=Limits(max_body=4), vary=("Accept",), statuses=(200, 404))
    plain, own = streams.cached(), streams.cached(ttl="1h", limits=Limits(max_body=8), vary=())
    assert (plain.ttl, plain.options.limits.max_body, [*plain.options.vary]) == (60, 4, ["Accept"])
    assert (own.ttl, own.options.limits.max_body, [*own.options.vary]) == (3600, 8, [])
    assert plain.options.statuses == own.options.statuses == {200, 404}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "one"}, ["key= concerns one endpoint", ".cached()"]),
        ({"tags": ("a",)}, ["tags= concerns one endpoint"]),
        ({"cache": "redis://host"}, ["the first argument", "StreamCache('redis://host')"]),
        ({"alias": "default"}, ["alias= is not for a StreamCache", "stream_cached"]),
        ({"authorized": "maybe"}, ["authorized='maybe'"]),
        ({"ttl": 0}, ["ttl=0"]),
        ({"nonsense": 1}, ["'nonsense'"]),
        ({"limits": Limits, "ttl": 1}, ["limits="]),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, Any], words: list[str]) -> None:
    # What only a cache of a class takes is told at the first use.
    with pytest.raises(ConfigurationError) as refused:
        StreamCache("memory://", **options).health()
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("name", ["alias", "cache"])
def test_an_endpoint_has_no_cache_of_its_own(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}= is that of the StreamCache"):
        StreamCache().cached(**{name: "memory://"})


# -- ttl ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        *((90, 90), (1.5, 1.5), (timedelta(minutes=2), 120), ("90s", 90), ("10m", 600)),
        *(("1h30m", 5400), ("2d", 172_800), (" 1H ", 3600), (None, None)),
    ],
)
def test_a_ttl_has_several_forms(ttl: Any, seconds: float | None) -> None:
    assert StreamCache(ttl=ttl).cached().ttl == stream_cached(ttl).ttl == seconds


@pytest.mark.parametrize("ttl", ["", "10", "m", "1m1h", "-1m", "0s", timedelta(0), True, [60]])
def test_no_ttl_is_refused_with_the_forms(ttl: Any) -> None:
    with pytest.raises(ConfigurationError, match='a timedelta, a text such as "10m"'):
        StreamCache().cached(ttl=ttl)


async def async_ttl(response: Response) -> int:
    return 60


def of_two(response: Response, more: int) -> int:
    return 60


@pytest.mark.parametrize("ttl", [async_ttl, of_two, lambda: 60])
def test_a_function_that_can_not_be_a_ttl_is_refused(ttl: Any) -> None:
    with pytest.raises(ConfigurationError):
        stream_cached(ttl=ttl)


def test_a_ttl_may_be_a_function_of_the_response(
    stream_cache: CacheUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    def ttl(response: Response) -> Any:
        text = bytes(response.body).decode()
        return {"short": 10, "long": "1h", "never": 0, "wrong": -1}[text]

    streams = StreamCache(ttl=ttl, namespace="ttl:")
    with TestClient(app_of(streams)) as client:
        paths = ("/short", "/long", "/never")
        bypassed = 'stream-cached; fwd=uri-miss; detail="skip-cache-func"'
        assert states(client, *paths) == [MISS, MISS, bypassed]
        assert states(client, *paths) == [HIT, HIT, bypassed]
        stream_cache.travel(11)
        assert states(client, *paths[:2]) == [MISS, HIT]
        stream_cache.travel(3600)
        assert states(client, *paths[:2]) == [MISS, MISS]
        assert client.get("/wrong").text == "wrong"
    assert any("ttl=-1" in warning for warning in warnings(caplog)), warnings(caplog)


# -- start and end --------------------------------------------------------------------------------


def test_its_lifespan_stands_within_another_one() -> None:
    streams = StreamCache(ttl=60, namespace="within:")
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with streams:
            seen.append("start")
            yield {"pool": 1}
        seen.append("end")

    app = app_of(streams)
    app.router.lifespan_context = own
    with TestClient(app) as client:
        assert states(client, "/a", "/a") == [MISS, HIT]
    assert seen == ["start", "end"]


def test_an_application_without_a_lifespan_works_as_well() -> None:
    streams = StreamCache(ttl=60, namespace="without:")
    app = app_of(streams)
    client = TestClient(app)
    assert states(client, "/a", "/a") == [MISS, HIT]


def test_a_ping_reaches_the_store_and_says_if_it_is_away(own_redis: RedisServer) -> None:
    async def test() -> None:
        here = StreamCache(own_redis.url(timeout=5))
        await here.ping()
        assert here.health().state in (State.AVAILABLE, State.UNTRIED)
        with pytest.raises(StoreUnavailableError):
            await StreamCache(f"redis://127.0.0.1:{free_port()}").ping()
        await StreamCache("memory://").ping()

    asyncio.run(test())


ABOVE = "@stream_cached stands above the route decorator"


@pytest.mark.parametrize("own", [False, True])
def test_a_decorator_above_that_of_the_route_is_told_once(
    own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    streams = StreamCache(ttl=60)
    app = FastAPI(lifespan=streams.lifespan if own else lifespan)
    router, inner = APIRouter(), FastAPI()
    decorated: list[Any] = []
    places: list[Any] = [app, router, inner]
    for number, routes in enumerate(places):

        @routes.get(f"/above-{number}")  # type: ignore[untyped-decorator]
        async def above() -> str:
            return "above"

        @routes.get(f"/below-{number}")  # type: ignore[untyped-decorator]
        @streams.cached()
        async def below() -> str:
            return "below"

        # As `@streams.cached()` does above `@app.get(...)`.
        decorated.append(streams.cached()(above))
    app.include_router(router)
    app.mount("/inner", inner)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/above-0").json() == "above"
    assert [ABOVE in warning for warning in warnings(caplog)] == [True] * 3


def test_routes_of_starlette_are_looked_through_as_well(caplog: pytest.LogCaptureFixture) -> None:
    async def plain(request: Any) -> Response:
        return PlainTextResponse("plain")

    app = Starlette(lifespan=lifespan)
    inner = Starlette()
    inner.add_route("/", plain)
    app.router.routes.append(Mount("/inner", inner))
    wrapper = stream_cached(ttl=60)(plain)
    with TestClient(app) as client:
        assert client.get("/inner/").text == "plain"
    assert len(warnings(caplog)) == 1
    assert wrapper is not plain


# -- stats ----------------------------------------------------------------------------------------


def test_it_counts_what_it_has_answered() -> None:
    streams = StreamCache(ttl=60, namespace="stats:")
    app = app_of(streams)
    with TestClient(app) as client:
        states(client, "/abc", "/abc", "/abc", "/de")
        client.get("/abc", headers={"Authorization": "Bearer 1"})
        client.get("/abc", headers={"Range": "bytes=0-1"})
    (stats,) = streams.stats().values()
    assert (stats.hits, stats.misses, stats.joined, stats.stale) == (3, 2, 0, 0)
    assert stats.bypasses == {"authorization": 1}
    assert stats.bytes == 4 * 3 + 2 + 2
    assert stats.ratio == 3 / 6
    assert stats.seconds_saved > 0
    assert [*streams.stats()] == [f"{__name__}.app_of.<locals>.endpoint"]
    assert StreamCache().cached().stats() == {}


def test_a_decorator_counts_and_clears_what_it_has_decorated() -> None:
    app, decorator = FastAPI(), stream_cached(ttl=60)

    @app.get("/one")
    @decorator
    async def one() -> Response:
        return PlainTextResponse("one")

    @app.get("/other")
    @decorator
    async def other() -> Response:
        return PlainTextResponse("other")

    with TestClient(app) as client:
        assert states(client, "/one", "/one", "/other", "/other") == [MISS, HIT, MISS, HIT]
        assert client.portal.call(decorator.clear) is True  # type: ignore[union-attr]
        assert states(client, "/one") == [MISS]
    assert {stats.hits for stats in decorator.stats().values()} == {1}
    assert one.stats().ratio == 1 / 3
    assert other.stats().ratio == 1 / 2
