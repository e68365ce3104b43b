"""The public interface of an aiocache cache, with its backend's own calls under our time-out."""

from __future__ import annotations

from functools import partial
from typing import Any

from stream_cached.stores.aiocache import AiocacheStore

#: How aiocache's caches say that a key is there already, that a value is no number, that there is
#: no such command, and the like.
ANSWERS = (TypeError, ValueError, AttributeError)


def public_view(server: AiocacheStore) -> Any:
    """
    Return a cache whose `get` and `set` go to the server as all operations do.

    Its serializer and its plugins are outside of that: what they raise is theirs, and they may take
    their time. What plugins keep on the cache they find there again.
    """
    cache = server.cache
    base: Any = type(cache)

    class Public(base):  # type: ignore[misc]
        #: aiocache's own would end what is outside, too.
        timeout = property(lambda self: None)

        async def _get(self, *args: Any, **kwargs: Any) -> Any:
            return await server.call("get", partial(base._get, self, *args, **kwargs), ANSWERS)

        async def _set(self, *args: Any, **kwargs: Any) -> Any:
            return await server.call("set", partial(base._set, self, *args, **kwargs), ANSWERS)

    view = object.__new__(Public)
    view.__dict__ = cache.__dict__
    return view
