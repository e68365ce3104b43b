"""The keys in Redis: what aiocache makes of them, with the namespace, as bytes."""

from __future__ import annotations

from typing import Any

import aiocache
import pytest

from stream_cached.stores.aiocache import _MOST_NATIVES
from stream_cached.stores.redis import RedisStore

KEYS = ["key", "a:b", "", "schlüssel", "\udcff"]


@pytest.mark.parametrize("namespace", [None, "", "ours", "a:"])
@pytest.mark.parametrize("own", [None, lambda key, namespace: f"{key}/{namespace}"])
def test_keys_are_those_that_aiocache_makes(namespace: str | None, own: Any) -> None:
    cache = aiocache.RedisCache(namespace=namespace, key_builder=own)
    store = RedisStore(cache, None)
    for key in KEYS:
        made = cache.build_key(key, namespace=cache.namespace)
        native = made.encode("utf-8", "surrogatepass")
        assert store.native_key(key) == native
        for _ in range(2):
            assert store.native_keys([key, "key"])[0] == native


def test_a_namespace_counts_from_when_it_is_set() -> None:
    cache = aiocache.RedisCache(namespace="one")
    store = RedisStore(cache, None)
    assert store.native_keys(["key"]) == (b"one:key",)
    cache.namespace = "two"
    assert store.native_key("key") == b"two:key"
    assert store.native_keys(["key"]) == (b"two:key",)


def test_a_function_for_keys_is_asked_each_time() -> None:
    tenant = ["a"]

    class Own(aiocache.RedisCache):  # type: ignore[misc]
        def _build_key(self, key: str, namespace: str | None = None) -> str:
            return f"{tenant[0]}:{key}"

    given = aiocache.RedisCache(key_builder=lambda key, namespace: f"{tenant[0]}:{key}")
    late = aiocache.RedisCache()
    stores = [RedisStore(cache, None) for cache in (given, Own(), late)]
    late.build_key = given.build_key
    for tenant[0] in ("a", "b"):
        for store in stores:
            assert store.native_keys(["key"]) == (f"{tenant[0]}:key".encode(),)


def test_no_more_keys_than_so_many_are_remembered() -> None:
    store = RedisStore(aiocache.RedisCache(), None)
    for number in range(2 * _MOST_NATIVES):
        store.native_keys([f"{number}"])
        assert len(store._natives) <= _MOST_NATIVES
    store.native_keys([*map(str, range(100))])
    assert not any(len(each) > 10 for each in store._natives)
