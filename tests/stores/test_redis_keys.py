"""The keys in Redis: what aiocache makes of them, with the namespace, as bytes."""

from __future__ import annotations

from typing import Any

import aiocache
import pytest

from stream_cached.stores.redis import RedisStore

KEYS = ["key", "a:b", "", "schlüssel", "\udcff"]


@pytest.mark.parametrize("namespace", [None, "", "ours", "a:"])
@pytest.mark.parametrize("own", [None, lambda key, namespace: f"{key}/{namespace}"])
def test_keys_are_those_that_aiocache_makes(namespace: str | None, own: Any) -> None:
    cache = aiocache.RedisCache(namespace=namespace, key_builder=own)
    store = RedisStore(cache, None)
    for key in KEYS:
        made = cache.build_key(key, namespace=cache.namespace)
        assert store.native_key(key) == made.encode("utf-8", "surrogatepass")


def test_a_namespace_counts_from_when_it_is_set() -> None:
    cache = aiocache.RedisCache(namespace="one")
    store = RedisStore(cache, None)
    cache.namespace = "two"
    assert store.native_key("key") == b"two:key"
