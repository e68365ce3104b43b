"""A cache in memory that is taken for one that processes share: two decorators over it are two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from stream_cached import MemoryCache


class SharedCache(BaseCache):  # type: ignore[misc]
    """
    One process's connection to it.

    Args:
        server: What all of them share.
    """

    NAME = "shared"

    def __init__(self, server: MemoryCache) -> None:
        super().__init__(serializer=NullSerializer())
        self.server = server
        self.after: Callable[[str, Sequence[str]], Any] | None = None
        """Awaited after each operation took effect, with its name and keys: it may fail it."""

    async def _do(self, name: str, keys: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        try:
            result = await getattr(self.server, name)(*args, **kwargs)
        finally:
            if self.after is not None:
                await self.after(name, keys)
        return result

    async def _get(self, key: str, encoding: Any = None, _conn: Any = None) -> Any:
        return await self._do("_get", [key], key)

    async def _multi_get(self, keys: Sequence[str], encoding: Any = None, _conn: Any = None) -> Any:
        return await self._do("_multi_get", keys, keys)

    async def _set(
        self, key: str, value: Any, ttl: Any = None, _cas_token: Any = None, _conn: Any = None
    ) -> Any:
        return await self._do("_set", [key], key, value, ttl, _cas_token=_cas_token)

    async def _add(self, key: str, value: Any, ttl: Any = None, _conn: Any = None) -> Any:
        return await self._do("_add", [key], key, value, ttl)

    async def _exists(self, key: str, _conn: Any = None) -> Any:
        return await self._do("_exists", [key], key)

    async def _expire(self, key: str, ttl: Any, _conn: Any = None) -> Any:
        return await self._do("_expire", [key], key, ttl)

    async def _delete(self, key: str, _conn: Any = None) -> Any:
        return await self._do("_delete", [key], key)
