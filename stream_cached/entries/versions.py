"""Versions: what every entry of a function, an argument or a tag depends on."""

from __future__ import annotations

from stream_cached.entries.ids import new_id, softened, version_of
from stream_cached.stores.protocol import Store

#: How often to soften a version that others replace at the same time.
_ATTEMPTS = 5


async def renew_version(store: Store, version: str, ttl: float | None) -> None:
    """Invalidate every entry that depends on a version."""
    await store.set_many([(version, new_id())], ttl)


async def soften_version(store: Store, version: str, ttl: float | None, now: float) -> None:
    """Make every entry that depends on a version stale, as of `now` in seconds since the epoch."""
    for _ in range(_ATTEMPTS):
        (value,) = await store.get_many([version])
        if value is None or version_of(value) is None:
            break
        if await store.compare_and_set(version, value, softened(value, now), ttl):
            return
    await renew_version(store, version, ttl)
