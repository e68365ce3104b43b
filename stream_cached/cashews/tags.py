"""The tags of cashews: sets of keys whose members `cache.delete_tags` deletes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cashews import Cache, Command
from cashews.backends.interface import Backend

from stream_cached.backends.binding import Binding
from stream_cached.cashews.views import backend_of, through_middlewares, view_of
from stream_cached.endpoint.tags import ANY
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError, StoreUnavailableError
from stream_cached.keys.names import is_segment_key, tag_key

if TYPE_CHECKING:
    from stream_cached.cashews.hooks import CashewsHooks
    from stream_cached.engine.outcome import Call

#: Adds members to a set, and never shortens the ttl of the set.
_ADD = """
local left = redis.call("PTTL", KEYS[1])
redis.call("SADD", KEYS[1], unpack(ARGV, 2))
if ARGV[1] == "" then
    redis.call("PERSIST", KEYS[1])
elseif left == -2 or (left >= 0 and left < tonumber(ARGV[1])) then
    redis.call("PEXPIRE", KEYS[1], ARGV[1])
end
"""

#: The most members per call, because a script takes a limited number of arguments.
_BATCH = 1000

#: The prefixes of the version keys of each cache's tags; whether there are tags of responses.
_routes: weakref.WeakKeyDictionary[Cache, dict[str, bool]] = weakref.WeakKeyDictionary()


def delete_versions(cache: Cache, route: str, *, of_responses: bool) -> None:
    """
    Make `cache.delete_tags` delete the versions of tags with the prefix `route`, too.

    With `of_responses`, runs whose answers turn out to have such a tag notice it.
    """
    # A tag's set of keys is not reliable: cashews shortens its ttl to that of the last member, and
    # the store may evict it.
    if cache not in _routes:
        _routes[cache] = {}
        original: Any = cache.delete_tags
        own: Any = cache

        async def delete_tags(*tags: str) -> None:
            # First: a run reads the versions of its tags, and then whether this one has changed.
            noted = [tag_key(known, ANY) for known, has in _routes[cache].items() if has]
            try:
                if noted and tags:
                    await cache.delete_many(*noted)
                await original(*tags)
            finally:
                # The versions are deleted even if the store of the tags is down.
                keys = [tag_key(known, tag) for known in sorted(_routes[cache]) for tag in tags]
                if keys:
                    await cache.delete_many(*keys)

        own.delete_tags = delete_tags
    _routes[cache][route] = of_responses or _routes[cache].get(route, False)


class TagStore:
    """The tags of a cache, in the backend for tags, which may be set up later."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._backend: Backend | None = None
        self._binding: Binding | None = None

    async def add(
        self, tag: str, keys: Sequence[str], seconds: float | None, beside: Backend | None
    ) -> None:
        """Add keys in the backend `beside` to a tag for `seconds`, or None for ever."""
        name = f"{self._cache._tags_key_prefix}{tag}"
        backend = backend_of(self._cache, name)
        try:
            await self._add(name, backend, keys, seconds)
        except StoreUnavailableError as exc:
            if backend is beside:
                raise
            # The fallback replaces only the store of the entries, so an outage of another store
            # must not activate it.
            raise StoreError(f"the store of the tags: {exc}") from exc

    async def _add(
        self, name: str, backend: Backend, keys: Sequence[str], seconds: float | None
    ) -> None:
        if self._binding is None or backend is not self._backend:
            self._backend, self._binding = backend, Binding(view_of(self._cache, backend, "", ()))
        server = self._binding.primary.server
        client = getattr(server.cache, "client", None) if server is not None else None

        async def add(key: str, *members: str, expire: float | None) -> None:
            if server is None:
                await backend.set_add(key, *members, expire=expire)
            elif client is None:
                await server.call("tag", partial(backend.set_add, key, *members, expire=expire))
            else:
                # cashews' own client may suppress errors, and may shorten the ttl of the set.
                span = "" if expire is None else math.ceil(expire * 1000)
                await server.call("tag", partial(client.eval, _ADD, 1, key, span, *members))

        call: Any = through_middlewares(self._cache, backend, Command.SET_ADD, add)
        for first in range(0, len(keys), _BATCH):
            await call(name, *keys[first : first + _BATCH], expire=seconds)


class TagSets:
    """The sets of keys by which `cache.delete_tags` deletes the entries of one call."""

    def __init__(self, hooks: CashewsHooks, call: Call) -> None:
        self._hooks = hooks
        self._tags = hooks.tags(call)
        self._of_response = call.tags_of
        self._shared = {call.service.version, *call.versions, *hooks.versions(call)}

    async def enlist(self, resource: Resource, keys: Sequence[str]) -> None:
        """Add the keys of an entry, without the versions that other entries depend on."""
        # Segments expire by themselves; as members, they would only enlarge the set.
        expires = resource.lifetimes.ttl is not None
        own = [
            self._hooks.full(key)
            for key in keys
            if key not in self._shared and not (expires and is_segment_key(key))
        ]
        seconds = resource.lifetimes.versions
        for tag in self._tags:
            await self._hooks.tag(tag, [self._hooks.tag_version(tag), *own], seconds)
        # Before the run, nobody knows them.
        for tag in self._of_response.named if self._of_response else ():
            versions = [self._hooks.tag_version(tag), self._hooks.tag_version(ANY)]
            await self._hooks.tag(tag, [*versions, *own], seconds)
