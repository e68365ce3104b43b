"""What counts as an outage, who learns of it, and in which event loop a server comes back."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import aiocache
import pytest
from aiocache.serializers import JsonSerializer, NullSerializer, PickleSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import ConfigurationError, MemoryCache, State, health, stream_cached
from stream_cached.connections import deadline
from tests.stores.test_contract import Clock, DictCache
from tests.support.asgi import get
from tests.support.gates import wait_until
from tests.support.logs import warnings
from tests.support.process import HOST
from tests.support.runs import FALLBACK_HIT, FALLBACK_MISS, HIT, MISS
from tests.support.servers import MemcachedServer, RedisServer

pytestmark = pytest.mark.usefixtures("apps_are_processes")


def an_app(paths: int = 1, **settings: Any) -> Starlette:
    numbers = itertools.count()
    routes = []
    for number in range(paths):

        @stream_cached(**{"ttl": 60, "retry_interval": 0.05, **settings})
        async def endpoint(request: Request) -> Response:
            return StreamingResponse(iter([b"run %d" % next(numbers)]))

        routes.append(Route(f"/{number}", endpoint))
    return Starlette(routes=routes)


async def statuses(app: Starlette, *paths: str) -> list[str]:
    return [(await get(app, path)).cache_status for path in paths]


def is_back(server: RedisServer | MemcachedServer) -> bool:
    states = [state for state in health() if f":{server.port}" in state.store]
    return all(state.state is State.AVAILABLE for state in states)


async def back(server: RedisServer | MemcachedServer) -> None:
    await asyncio.to_thread(wait_until, lambda: is_back(server))


# -- what is no outage ----------------------------------------------------------------------------


def test_a_redis_that_forbids_ping_is_there(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.execute("ACL", "SETUSER", "web", "on", ">secret", "~*", "+@all", "-ping")
    app = an_app(cache=f"redis://web:secret@{HOST}:{own_redis.port}/0")
    assert asyncio.run(statuses(app, "/0", "/0")) == [MISS, HIT]
    assert warnings(caplog) == []


def test_a_pool_that_is_too_small_is_no_outage(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = aiocache.RedisCache(endpoint=HOST, port=own_redis.port, pool_max_size=1)
    app = an_app(20, cache=cache)

    async def test() -> None:
        await get(app, "/0")
        answers = await asyncio.gather(*(get(app, f"/{number}") for number in range(20)))
        assert all(answer.complete for answer in answers)
        assert is_back(own_redis)

    asyncio.run(test())
    assert not any("is away" in warning for warning in warnings(caplog))


class Minimal(DictCache):
    async def _exists(self, key: str, _conn: Any = None) -> bool:
        raise NotImplementedError


def test_a_cache_that_can_not_be_pinged_is_there(caplog: pytest.LogCaptureFixture) -> None:
    app = an_app(cache=Minimal(Clock()))
    assert asyncio.run(statuses(app, "/0", "/0")) == [MISS, HIT]
    assert warnings(caplog) == []


class Stoppable(DictCache):
    stopped = False

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        if self.stopped:
            raise OSError("stopped")
        return await super()._get(key, encoding)


def test_a_cache_that_refuses_the_key_of_the_probe_comes_back() -> None:
    def builder(key: str, namespace: str | None = None) -> str:
        if key == "stream-cached:probe":
            raise RuntimeError("not this key")
        return key

    cache = Stoppable(Clock(), key_builder=builder)
    app = an_app(cache=cache)

    async def test() -> None:
        assert await statuses(app, "/0", "/0") == [MISS, HIT]
        cache.stopped = True
        assert await statuses(app, "/0", "/0") == [FALLBACK_MISS, FALLBACK_HIT]
        cache.stopped = False
        await asyncio.to_thread(wait_until, lambda: asyncio.run(statuses(app, "/0")) == [HIT])

    asyncio.run(test())


def test_a_cache_that_refuses_the_key_of_the_ping_is_there() -> None:
    def builder(key: str, namespace: str | None = None) -> str:
        if key == "ping":
            raise RuntimeError("not this key")
        return key

    app = an_app(cache=DictCache(Clock(), key_builder=builder))
    assert asyncio.run(statuses(app, "/0", "/0")) == [MISS, HIT]


def test_a_loop_that_is_held_up_is_no_outage(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither is a machine that is busy with something else.
    monkeypatch.setattr(deadline, "LEAST", 5.0)

    @stream_cached(ttl=60, cache=own_redis.url(timeout=0.2))
    async def large(request: Request) -> Response:
        return StreamingResponse(iter([b"x" * 700_000]))

    @stream_cached(ttl=60, cache=own_redis.url(timeout=0.2), serializer=JsonSerializer())
    async def value(request: Request) -> dict[str, int]:
        return {"a": 1}

    async def values(request: Request) -> Response:
        return JSONResponse(await value(request))

    app = Starlette(routes=[Route("/large", large), Route("/value", values)])

    async def test() -> None:
        for path in ("/large", "/value"):
            await get(app, path)
            body = (await get(app, path)).body
            hit = asyncio.ensure_future(get(app, path))
            await asyncio.sleep(0)
            time.sleep(0.3)  # as an endpoint does that blocks  # noqa: ASYNC251
            assert (await hit).body == body

    asyncio.run(test())
    assert warnings(caplog) == []


@pytest.mark.parametrize("serializer", [NullSerializer, PickleSerializer])
def test_a_value_that_can_not_be_written_or_read_is_no_outage(
    own_redis: RedisServer, serializer: Any
) -> None:
    numbers = itertools.count()

    @stream_cached(
        ttl=60,
        key="key",
        cache=aiocache.RedisCache(endpoint=HOST, port=own_redis.port),
        serializer=serializer(),
    )
    async def value() -> dict[str, int]:
        return {"run": next(numbers)}

    async def test() -> None:
        for number in range(3):
            assert await value() == {"run": number}
            own_redis.execute("SET", "key", b"\x80\x04")  # the beginning of a pickle
        assert is_back(own_redis)
        assert all(state.requests == 0 for state in health() if str(own_redis.port) in state.store)

    asyncio.run(test())


class Broken(aiocache.SimpleMemoryCache):  # type: ignore[misc]
    async def _multi_get(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError("broken")


def test_a_cache_in_this_process_that_fails_is_gone_past() -> None:
    app = an_app(cache=Broken())
    detail = 'stream-cached; fwd=bypass; detail="store"'
    assert asyncio.run(statuses(app, "/0", "/0")) == [detail] * 2


# -- who learns of an outage ----------------------------------------------------------------------


def test_all_that_use_a_server_learn_of_its_outage_from_one_of_them(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caches = [
        own_redis.url(namespace="one"),
        own_redis.url(namespace="two", timeout=5),
        aiocache.RedisCache(endpoint=HOST, port=own_redis.port, timeout=5),
    ]
    apps = [an_app(cache=cache) for cache in caches]

    async def test() -> None:
        for app in apps:
            assert await statuses(app, "/0", "/0") == [MISS, HIT]
        own_redis.pause()
        async with asyncio.timeout(3):
            for app in apps:
                assert await statuses(app, "/0", "/0") == [FALLBACK_MISS, FALLBACK_HIT]
        own_redis.resume()
        await back(own_redis)
        assert [await statuses(app, "/0") for app in apps] == [[HIT]] * 3

    asyncio.run(test())
    assert len(warnings(caplog)) == 1


def test_two_servers_that_are_away_share_memory_and_no_entries(own_redis: RedisServer) -> None:
    with RedisServer() as other:
        own_redis.stop()
        other.stop()
        numbers = itertools.count()

        def app(server: RedisServer) -> Starlette:
            async def value(request: Request) -> Response:
                return StreamingResponse(iter([b"run %d" % next(numbers)]))

            cached = stream_cached(ttl=60, key="report", cache=server.url())
            return Starlette(routes=[Route("/", cached(value))])

        async def bodies() -> list[bytes]:
            apps = [app(own_redis), app(other)]
            return [(await get(each)).body for each in (*apps, *apps)]

        assert asyncio.run(bodies()) == [b"run 0", b"run 1"] * 2


def test_credentials_do_not_show(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    own_redis.stop()
    app = an_app(cache=f"redis://user:secret@{HOST}:{own_redis.port}/3?namespace=web")
    asyncio.run(statuses(app, "/0"))
    shown = repr([state for state in health() if str(own_redis.port) in state.store])
    assert f"redis://{HOST}:{own_redis.port}/3" in shown
    assert "secret" not in shown + caplog.text


# -- in which loop it comes back ------------------------------------------------------------------


@pytest.mark.parametrize("outage", [("stop", "start"), ("pause", "resume")])
def test_a_server_comes_back_in_a_loop_that_knows_nothing_of_its_outage(
    own_redis: RedisServer, outage: tuple[str, str]
) -> None:
    app = an_app(cache=own_redis.url(timeout=0.2))
    begin, end = outage
    asyncio.run(statuses(app, "/0"))
    getattr(own_redis, begin)()
    # The loop ends, and with it its pings.
    assert asyncio.run(statuses(app, "/0", "/0")) == [FALLBACK_MISS, FALLBACK_HIT]
    getattr(own_redis, end)()

    async def test() -> None:
        await get(app, "/0")
        await back(own_redis)
        await get(app, "/0")
        assert await statuses(app, "/0") == [HIT]

    asyncio.run(test())


def test_a_server_comes_back_where_no_loop_lives_for_long(own_redis: RedisServer) -> None:
    app = an_app(cache=own_redis.url())
    own_redis.stop()
    assert asyncio.run(statuses(app, "/0", "/0")) == [FALLBACK_MISS, FALLBACK_HIT]
    own_redis.start()
    wait_until(lambda: asyncio.run(statuses(app, "/0")) == [MISS])
    assert asyncio.run(statuses(app, "/0")) == [HIT]


def test_the_first_ping_of_another_decorator_is_waited_for_no_longer_than_ones_own(
    own_redis: RedisServer,
) -> None:
    patient, quick = (an_app(cache=own_redis.url(), timeout=seconds) for seconds in (60, 0.1))

    async def test() -> None:
        own_redis.pause()
        waiting = asyncio.ensure_future(get(patient, "/0"))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await statuses(quick, "/0") == [FALLBACK_MISS]
        own_redis.resume()
        assert (await waiting).complete

    asyncio.run(test())


def test_loops_of_several_threads_lose_and_find_a_server_together(own_redis: RedisServer) -> None:
    app = an_app(cache=own_redis.url(timeout=0.5))
    gone, returned = threading.Event(), threading.Event()
    ready = threading.Barrier(4)
    seen: list[list[str]] = []

    async def ask() -> None:
        answers = await statuses(app, "/0", "/0")
        await asyncio.to_thread(ready.wait, 10)
        await asyncio.to_thread(gone.wait, 10)
        answers += await statuses(app, "/0", "/0")
        await asyncio.to_thread(ready.wait, 10)
        await asyncio.to_thread(returned.wait, 10)
        await back(own_redis)
        await get(app, "/0")
        answers += await statuses(app, "/0")
        seen.append([answers[1], answers[3], answers[4]])

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait(10)
    own_redis.pause()
    gone.set()
    ready.wait(10)
    own_redis.resume()
    returned.set()
    for thread in threads:
        thread.join(20)
    assert seen == [[HIT, FALLBACK_HIT, HIT]] * 3


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"fallback": "redis://h"}, "memory://"),
        ({"fallback": aiocache.SimpleMemoryCache()}, "bounded"),
        ({"fallback": None}, "or False"),
        ({"fallback": True}, "or False"),
        ({"fallback": "memory://?max_bytes=much"}, "max_bytes"),
        ({"retry_interval": 0}, "above 0"),
        ({"retry_interval": "1"}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"timeout": False}, "above 0"),
    ],
)
def test_what_can_not_work_is_refused_at_decoration(settings: dict[str, Any], fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix):
        stream_cached(ttl=60, cache="redis://h", **settings)


def test_an_alias_for_the_fallback_may_be_configured_later(own_redis: RedisServer) -> None:
    own_redis.stop()
    app = an_app(cache=own_redis.url(), fallback="aside")
    with pytest.raises(ConfigurationError, match="aside"):
        asyncio.run(statuses(app, "/0"))
    before = aiocache.caches.get_config()
    aiocache.caches.set_config(
        {**before, "aside": {"cache": "stream_cached.MemoryCache", "max_bytes": 1 << 20}}
    )
    try:
        assert asyncio.run(statuses(app, "/0", "/0")) == [FALLBACK_MISS, FALLBACK_HIT]
        memory: Any = aiocache.caches.get("aside")
        assert isinstance(memory, MemoryCache)
        assert memory.sizes()
    finally:
        aiocache.caches.set_config(before)


@pytest.mark.parametrize(("timeout", "expected"), [(0.2, 0.2), (0, None), (None, None)])
def test_the_time_out_of_a_decorator_overrules_the_caches(
    timeout: float | None, expected: float | None
) -> None:
    cached = stream_cached(ttl=60, cache="redis://h?timeout=3", timeout=timeout)

    @cached
    async def endpoint(request: Request) -> Response:
        raise NotImplementedError

    async def seconds() -> float | None:
        return cached.hooks.binding().timeout

    assert asyncio.run(seconds()) == expected
