"""Decorators over one cache, with settings of their own or not, share a client in each loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import aiocache
import pytest
from aiocache.serializers import PickleSerializer

from stream_cached.backends.binding import Binding
from stream_cached.backends.resolve import resolve_cache
from stream_cached.backends.urls import DEFAULT_TIMEOUT
from stream_cached.errors import ConfigurationError
from stream_cached.stores.aiocache import AiocacheStore
from tests.support.process import HOST
from tests.support.servers import MemcachedServer, RedisServer

View = Callable[..., Binding]


@pytest.fixture(params=["redis-url", "memcached-url", "redis-instance", "memcached-instance"])
def view(request: pytest.FixtureRequest, namespace: str) -> View:
    """Makes bindings over one cache: `view(namespace=..., serializer=...)`."""
    kind, _, how = request.param.partition("-")
    url: str = request.getfixturevalue(f"{kind}_url")
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"{kind}_server")
    cache: object = f"{url}?timeout=2&namespace={namespace}"
    if how == "instance":
        cls = aiocache.RedisCache if kind == "redis" else aiocache.MemcachedCache
        cache = cls(endpoint=HOST, port=server.port, timeout=2)
    return lambda **settings: Binding(resolve_cache(cache, options={}, **settings))


async def works(binding: Binding, value: bytes = b"value") -> None:
    await binding.primary.store.set_many([("key", value)], 60)
    assert await binding.primary.store.get_many(["key"]) == [value]


def in_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in another thread, in a loop of its own, while the loop of this thread waits."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert failures == []


def test_settings_of_a_decorator_need_no_client_of_their_own_in_any_loop(view: View) -> None:
    plain = view()
    views = [view(namespace="one"), view(serializer=PickleSerializer()), view(plugins=[])]

    async def clients() -> set[int]:
        for binding in (plain, *views):
            await works(binding)
        return {id(binding.primary.cache.client) for binding in (plain, *views)}

    for _ in range(3):
        assert len(asyncio.run(clients())) == 1


def test_views_of_one_cache_work_one_after_another_in_new_loops(view: View) -> None:
    views = [view(namespace="one"), view(), view(namespace="two")]
    for _ in range(2):
        for binding in views:
            asyncio.run(works(binding))


def test_the_cache_that_the_user_has_works_in_each_new_loop(view: View) -> None:
    binding = view(namespace="one")

    async def by_both() -> None:
        await works(binding)
        assert isinstance(binding.primary.store, AiocacheStore)
        assert binding.primary.store.cache is binding.cache
        assert await binding.cache.set("public", "value")
        assert await binding.cache.get("public") == "value"

    for _ in range(3):
        asyncio.run(by_both())


@pytest.mark.parametrize("first", ["plain", "with settings"])
def test_views_of_one_cache_work_in_two_loops_at_once(view: View, first: str) -> None:
    views = [view(), view(namespace="other")]
    one, other = views if first == "plain" else reversed(views)

    async def both() -> None:
        await works(one, b"one")
        # The loop of this thread lives on, and so do its connections.
        in_thread(works(other, b"other"))
        in_thread(works(one, b"one"))
        await works(one, b"one")
        await works(other, b"other")

    asyncio.run(both())
    asyncio.run(both())


def test_views_of_one_cache_keep_their_namespaces_in_every_loop(view: View) -> None:
    one, other = view(namespace="one"), view(namespace="other")

    async def apart() -> None:
        await works(one, b"one")
        await works(other, b"other")
        assert await one.primary.store.get_many(["key"]) == [b"one"]

    async def both() -> None:
        await apart()
        in_thread(apart())

    asyncio.run(both())
    asyncio.run(apart())


def timeout_of(binding: Binding) -> float | None:
    async def timeout() -> float | None:
        assert isinstance(binding.primary.store, AiocacheStore)
        return binding.primary.store.timeout

    return asyncio.run(timeout())


@pytest.mark.parametrize("scheme", ["redis", "memcached"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [("", DEFAULT_TIMEOUT), ("?timeout=0.25", 0.25), ("?timeout=5", 5.0), ("?timeout=0", None)],
)
def test_the_time_out_is_what_the_url_says(scheme: str, query: str, expected: float | None) -> None:
    for settings in ({}, {"namespace": "other"}):
        cache = resolve_cache(f"{scheme}://{HOST}:1/{query}", options={}, **settings)
        assert timeout_of(Binding(cache)) == expected


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("redis://h?ssl_ca_certs=/ca.pem", "rediss://"),
        ("redis://h?ssl=false&ssl_check_hostname=false", "rediss://"),
        ("unix:///run/redis.sock?ssl=true", "TLS is not supported"),
        ("unix://", "unix:///"),
        ("redis://h?pool_max_size=0", "pool_max_size=0: .* positive"),
        ("redis://h?db=-1", "db=-1: .* 0 or more"),
        ("memcached://h?pool_size=0", "pool_size=0: .* positive"),
        ("memcached://h?pool_size=-2", "pool_size=-2: .* positive"),
        ("memcached://user:secret@h", "user, password .* not supported"),
        ("memcached://h/3", "database are not supported"),
    ],
)
def test_a_url_whose_parts_do_not_go_together_is_refused(url: str, fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix) as refused:
        resolve_cache(url, options={})
    assert "secret" not in str(refused.value)


def test_a_slash_behind_the_host_is_no_path() -> None:
    assert resolve_cache("memcached://h/", options={}).endpoint == "h"
    assert resolve_cache("redis://h/", options={}).db == 0


@pytest.mark.parametrize("name", ["RedisCache", "MemcachedCache", "SimpleMemoryCache"])
def test_the_time_out_is_what_the_keyword_says(name: str) -> None:
    cache_class = getattr(aiocache, name)
    for told, expected in ((5, 5.0), (5.0, 5.0), (0.25, 0.25), (0, None), (None, None)):
        assert (
            timeout_of(Binding(resolve_cache(cache_class, options={"timeout": told}))) == expected
        )
    assert timeout_of(Binding(resolve_cache(cache_class, options={}))) == DEFAULT_TIMEOUT


def test_an_instance_with_the_time_out_that_aiocache_gives_has_ours() -> None:
    assert timeout_of(Binding(aiocache.SimpleMemoryCache())) == DEFAULT_TIMEOUT
    assert timeout_of(Binding(aiocache.SimpleMemoryCache(timeout=4))) == 4
