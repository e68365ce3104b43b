"""A `FallbackCache` by itself: in aiocache's configuration, under plain `@cached`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import aiocache
import pytest
from aiocache.plugins import HitMissRatioPlugin
from aiocache.serializers import JsonSerializer, NullSerializer, PickleSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import (
    ConfigurationError,
    FallbackCache,
    MemoryCache,
    StoreError,
    StoreUnavailableError,
    health,
    stream_cached,
)
from stream_cached.backends.pending import MAX_KEYS
from tests.conftest import server_or_skip
from tests.support.asgi import get
from tests.support.gates import TIMEOUT, wait_until
from tests.support.runs import FALLBACK_HIT, HIT
from tests.support.servers import MemcachedServer, RedisServer

Server = RedisServer | MemcachedServer

both = pytest.mark.parametrize("kind", [RedisServer, MemcachedServer])


@pytest.fixture
def server(kind: type[Server]) -> Iterator[Server]:
    """A server for this test alone."""
    with server_or_skip(kind) as server:  # type: ignore[type-var]
        yield server


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    before = aiocache.caches.get_config()
    yield
    aiocache.caches.set_config(before)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def over(server: Server, **settings: Any) -> Any:
    settings = {"retry_interval": 0.05, **settings}
    return FallbackCache(primary=server.url(timeout=0.3), **settings)


async def back(server: Server) -> None:
    """Wait until the server is used again."""

    def is_back() -> bool:
        return all(state.available for state in health() if f":{server.port}" in state.store)

    await asyncio.to_thread(wait_until, is_back)


@both
@pytest.mark.parametrize("outage", ["stop", "pause"])
def test_every_call_works_without_the_server(server: Server, outage: str) -> None:
    async def test() -> None:
        cache = over(server, namespace="web")
        assert await cache.set("before", {"a": 1}, ttl=60)
        assert await cache.get("before") == {"a": 1}
        getattr(server, outage)()

        assert await cache.get("before") is None
        assert await cache.set("one", [1], ttl=60)
        assert await cache.multi_set([("two", [2]), ("three", [3])])
        assert await cache.multi_get(["one", "two", "none"]) == [[1], [2], None]
        assert await cache.add("four", [4])
        with pytest.raises(ValueError, match="four"):
            await cache.add("four", [4])
        assert await cache.exists("four")
        assert await cache.increment("count", 2) == 2
        assert await cache.increment("count") == 3
        assert await cache.expire("one", 60)
        assert await cache.delete("one") == 1
        assert await cache.get("one", default="gone") == "gone"
        assert await cache.clear()
        assert await cache.get("two") is None
        with pytest.raises(StoreUnavailableError):
            await cache.raw("get", "two")
        await cache.close()

    run(test)


@both
def test_the_server_is_used_again_and_what_was_deleted_or_set_meanwhile_is_gone(
    server: Server,
) -> None:
    async def test() -> None:
        cache, plain = over(server), aiocache_over(server)
        for key in ("deleted", "set", "kept"):
            await cache.set(key, "old")
        server.pause()
        assert await cache.get("kept") is None
        await cache.delete("deleted")
        await cache.set("set", "new")
        assert await cache.get("set") == "new"
        server.resume()
        await back(server)

        assert await cache.multi_get(["deleted", "set", "kept"]) == [None, None, "old"]
        await cache.set("kept", "newer")
        assert await plain.get("kept") == "newer"
        await plain.close()

    run(test)


def aiocache_over(server: Server) -> Any:
    cls = aiocache.RedisCache if isinstance(server, RedisServer) else aiocache.MemcachedCache
    return cls(endpoint="127.0.0.1", port=server.port, serializer=JsonSerializer())


@both
def test_what_it_stores_is_what_the_primary_stores(server: Server) -> None:
    async def test() -> None:
        cache, plain = over(server), aiocache_over(server)
        await cache.set("key", {"a": 1}, ttl=60)
        assert await plain.get("key") == {"a": 1}
        await plain.set("key", [2])
        assert await cache.get("key") == [2]
        assert await cache.increment("count", 5) == 5
        with pytest.raises(TypeError):
            await cache.increment("key")
        assert await cache.multi_get(["key", "none"]) == [[2], None]
        assert await cache.delete("key") == 1
        assert await cache.delete("key") == 0
        assert await cache.clear()
        assert await plain.get("count") is None
        assert (
            await cache.raw("get", "none" if isinstance(server, RedisServer) else b"none") is None
        )
        await plain.close()

    run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_a_cleared_cache_is_cleared_when_the_server_is_back(server: RedisServer) -> None:
    async def test() -> None:
        cache, other = over(server, namespace="web"), over(server, namespace="other")
        await cache.set("key", 1)
        await other.set("key", 2)
        server.pause()
        await cache.clear(namespace="web")
        server.resume()
        await back(server)
        assert await cache.get("key") is None
        assert await other.get("key") == 2

    run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_more_deletions_than_are_kept_refuse_everything_older(server: RedisServer) -> None:
    async def test() -> None:
        cache = over(server)
        await cache.multi_set([("old", 1), ("older", 2)])
        server.pause()
        for number in range(MAX_KEYS + 1):
            await cache.delete(f"key-{number}")
        server.resume()
        await back(server)

        assert await cache.multi_get(["old", "older"]) == [None, None]
        assert not await cache.exists("old")
        await cache.set("old", 3)
        assert await cache.get("old") == 3
        assert await cache.get("older") is None

    run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_of_more_keys_than_are_kept_no_overwritten_value_comes_back(server: RedisServer) -> None:
    async def test() -> None:
        cache = over(server)
        await cache.multi_set([("price", "old"), ("other", "old")])
        server.pause()
        await cache.set("price", "new")
        await cache.multi_set([(f"key-{number}", 0) for number in range(MAX_KEYS + 1)])
        server.resume()
        await back(server)
        assert await cache.multi_get(["price", "other"]) == [None, None]
        await cache.set("price", "newer")
        assert await cache.get("price") == "newer"

    run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_what_is_set_without_end_does_not_keep_the_server_away(server: RedisServer) -> None:
    async def test() -> None:
        # An outage without a time-out: a busy machine is none.
        cache = over(server, timeout=TIMEOUT)
        await cache.set("key", "old")
        server.execute("CONFIG", "SET", "maxmemory", "1")
        await cache.set("key", "new")
        assert await cache.get("key") == "new"
        numbers, stopped = itertools.count(), False

        async def set_on() -> None:
            while not stopped:
                await cache.set(f"key-{next(numbers)}", "value")
                await asyncio.sleep(0)

        setters = [asyncio.ensure_future(set_on()) for _ in range(20)]
        server.execute("CONFIG", "SET", "maxmemory", "0")
        await back(server)
        assert await cache.get("key") is None
        stopped = True
        await asyncio.gather(*setters)

    run(test)


@both
def test_what_expires_while_the_server_is_away_is_not_there_when_it_is_back(
    server: Server,
) -> None:
    async def test() -> None:
        cache = over(server)
        await cache.set("key", "old", ttl=600)
        server.pause()
        await cache.set("key", "new", ttl=600)
        assert await cache.expire("key", 60)
        server.resume()
        await back(server)
        assert await cache.get("key") is None

    run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_mistakes_of_a_caller_are_no_outage(server: RedisServer) -> None:
    async def test() -> None:
        cache = over(server, serializer=NullSerializer())
        server.execute("LPUSH", "list", "1")
        calls = [
            cache.set("key", {"a": "dict"}),
            cache.set("key", "value", ttl=-1),
            cache.get("list"),
            cache.raw("no_such_command"),
        ]
        for call in calls:
            with pytest.raises((StoreError, AttributeError)):
                await call
        assert await cache.set("key", "value")
        (state,) = [state for state in health() if f":{server.port}" in state.store]
        assert state.requests == 0
        assert state.available

    run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_plain_cached_works_over_an_alias(server: RedisServer) -> None:
    aiocache.caches.set_config(
        {
            "default": {
                "cache": "stream_cached.FallbackCache",
                "primary": server.url(timeout=0.3),
                "fallback": "memory://?max_bytes=1MiB",
                "retry_interval": 0.05,
                "serializer": {"class": "aiocache.serializers.PickleSerializer"},
                "plugins": [{"class": "aiocache.plugins.HitMissRatioPlugin"}],
                "namespace": "web",
            }
        }
    )
    numbers = itertools.count()

    @aiocache.cached(ttl=60, alias="default")  # type: ignore[untyped-decorator]
    async def value(name: str) -> complex:
        return complex(next(numbers), 1)

    async def test() -> None:
        assert [await value("a") for _ in range(2)] == [0 + 1j] * 2
        server.stop()
        assert [await value("a") for _ in range(3)] == [1 + 1j] * 3
        server.start()
        await back(server)
        assert [await value("a") for _ in range(3)] == [2 + 1j] * 3

    run(test)
    cache: Any = aiocache.caches.get("default")
    assert isinstance(cache, FallbackCache)
    assert isinstance(cache.serializer, PickleSerializer)
    assert isinstance(cache.plugins[0], HitMissRatioPlugin)
    assert cache.hit_miss_ratio["total"] == 8


@pytest.mark.parametrize("kind", [RedisServer])
@pytest.mark.parametrize("how", ["alias", "instance", "instance with a namespace"])
def test_stream_cached_goes_by_the_one_that_it_is_given(server: RedisServer, how: str) -> None:
    memory = MemoryCache(max_bytes=1 << 20)
    cache = over(server, fallback=memory)
    aiocache.caches._caches["shared"] = cache  # as if it was configured
    aiocache.caches.add("shared", {"cache": "stream_cached.FallbackCache"})
    settings: dict[str, Any] = {"alias": "shared"} if how == "alias" else {"cache": cache}
    if "namespace" in how:
        settings["namespace"] = "other"
    numbers = itertools.count()

    @stream_cached(ttl=60, **settings)
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter([b"run %d" % next(numbers)]))

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        assert [(await get(app)).body for _ in range(2)] == [b"run 0"] * 2
        assert (await get(app)).cache_status == HIT
        server.stop()
        assert [(await get(app)).body for _ in range(3)] == [b"run 1"] * 3
        assert (await get(app)).cache_status == FALLBACK_HIT
        assert memory.sizes()
        server.start()
        await back(server)
        assert [(await get(app)).body for _ in range(2)] == [b"run 2"] * 2

    with contextlib.ExitStack() as stack:
        stack.callback(aiocache.caches._caches.pop, "shared")
        run(test)


@pytest.mark.parametrize("kind", [RedisServer])
def test_without_a_fallback_calls_say_that_the_server_is_away(server: RedisServer) -> None:
    async def test() -> None:
        cache = over(server, fallback=False)
        await cache.set("key", 1)
        server.pause()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await cache.get("key")
        assert not await cache.delete("key")
        server.resume()
        await back(server)
        assert await cache.get("key") is None

    run(test)


def test_over_memory_it_is_that_memory() -> None:
    async def test() -> None:
        memory = MemoryCache()
        cache = FallbackCache(primary=memory)
        await cache.set("key", 1)
        assert await memory.get("key") == 1
        assert await cache.delete("key") == 1
        assert await cache.clear()

    run(test)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"primary": "nothing"}, "alias 'nothing' is not configured"),
        ({"primary": 5}, "is no cache"),
        ({"primary": "redis://h", "fallback": aiocache.SimpleMemoryCache()}, "bounded"),
        ({"primary": "redis://h", "fallback": "redis://u:pass@other"}, "in this process"),
        ({"primary": "redis://h", "fallback": None}, "or False"),
        ({"primary": FallbackCache(primary="memory://")}, "use it directly"),
    ],
)
def test_what_can_not_work_is_refused(settings: dict[str, Any], fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix) as refused:
        FallbackCache(**settings)
    assert "pass@" not in str(refused.value)
