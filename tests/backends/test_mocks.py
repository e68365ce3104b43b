"""A mock in the place of a cache: its `get` and `set` are used, as by aiocache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock, create_autospec

import aiocache
import pytest
from aiocache.base import BaseCache
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.support.asgi import get

MOCKS: dict[str, Callable[[], Any]] = {
    "class": lambda: create_autospec(BaseCache),
    "instance": lambda: create_autospec(BaseCache, instance=True),
    "memory": lambda: create_autospec(aiocache.SimpleMemoryCache, instance=True),
    "redis": lambda: create_autospec(aiocache.RedisCache, instance=True),
    "MagicMock": lambda: MagicMock(spec=BaseCache),
    "AsyncMock": lambda: AsyncMock(spec=aiocache.SimpleMemoryCache),
}


@pytest.mark.parametrize("kind", MOCKS)
def test_values_are_got_from_a_mock_and_set_in_it(kind: str) -> None:
    cache = MOCKS[kind]()

    @stream_cached(ttl=60, cache=cache, key="k")
    async def function() -> str:
        return "value"

    async def test() -> None:
        assert function.cache is cache
        cache.get.return_value = None
        assert await function() == "value"
        cache.get.assert_called_with("k")
        cache.set.assert_called_once_with("k", "value", ttl=60)
        cache.get.return_value = "cached"
        assert await function() == "cached"
        cache.get.side_effect = OSError
        assert await function() == "value"

    asyncio.run(test())


@pytest.mark.parametrize("kind", MOCKS)
def test_a_response_is_answered_over_a_mock(kind: str) -> None:
    cache = MOCKS[kind]()
    cache.get.return_value = None

    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter(["rows"]))

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        assert [(await get(app)).body for _ in range(2)] == [b"rows"] * 2

    asyncio.run(test())
