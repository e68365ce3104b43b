"""A cache with aiocache's public interface whose backend calls run under our time-out."""

from __future__ import annotations

from functools import partial
from typing import Any

from stream_cached.stores.aiocache import AiocacheStore

#: Exceptions of aiocache's caches that are answers of a healthy server: the key already exists, the
#: value is no number, there is no such command.
ANSWERS = (TypeError, ValueError, AttributeError)


def public_view(server: AiocacheStore) -> Any:
    """Return a view of the cache whose `get` and `set` run under our time-out."""
    # Serializer and plugins run outside the time-out, and their exceptions are no failures of the
    # server.
    cache = server.cache
    base: Any = type(cache)

    class Public(base):  # type: ignore[misc]
        #: aiocache's own time-out would also cancel serializer and plugins.
        timeout = property(lambda self: None)

        async def _get(self, *args: Any, **kwargs: Any) -> Any:
            return await server.call("get", partial(base._get, self, *args, **kwargs), ANSWERS)

        async def _set(self, *args: Any, **kwargs: Any) -> Any:
            return await server.call("set", partial(base._set, self, *args, **kwargs), ANSWERS)

    view = object.__new__(Public)
    # Shared, because plugins may keep state on the cache.
    view.__dict__ = cache.__dict__
    return view
