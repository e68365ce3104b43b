"""The tags of cashews: sets of keys, which `cache.delete_tags` deletes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from cashews import Cache, Command
from cashews.backends.interface import Backend

from stream_cached.binding import Binding
from stream_cached.cashews.views import backend_of, through_middlewares, view_of

#: Adds members to a set, which then lives for as long as was asked for by whoever asked for most.
_ADD = """
local left = redis.call("PTTL", KEYS[1])
redis.call("SADD", KEYS[1], unpack(ARGV, 2))
if ARGV[1] == "" then
    redis.call("PERSIST", KEYS[1])
elseif left == -2 or (left >= 0 and left < tonumber(ARGV[1])) then
    redis.call("PEXPIRE", KEYS[1], ARGV[1])
end
"""

#: Members that are added at once: a script has only so many arguments.
_MOST = 1000


class Tags:
    """
    The tags of a cache, wherever they are.

    Args:
        cache: It may be set up later.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._backend: Backend | None = None
        self._binding: Binding | None = None

    async def add(self, tag: str, keys: Sequence[str], seconds: float | None) -> None:
        """
        Let `cache.delete_tags` delete these keys.

        Args:
            tag: The tag.
            keys: As cashews knows them.
            seconds: How long they live at most; None for ever.

        Raises:
            StoreError: The store of the tags failed.
        """
        name = f"{self._cache._tags_key_prefix}{tag}"
        backend = backend_of(self._cache, name)
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
                # cashews' own client may suppress errors, and shorten the life of the set.
                span = "" if expire is None else math.ceil(expire * 1000)
                await server.call("tag", partial(client.eval, _ADD, 1, key, span, *members))

        call: Any = through_middlewares(self._cache, backend, Command.SET_ADD, add)
        for first in range(0, len(keys), _MOST):
            await call(name, *keys[first : first + _MOST], expire=seconds)
