"""Generator functions in a cache of cashews: its templates, tags and switches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cashews import Command

from stream_cached.cashews import stream_cached
from tests.support.closed_cache import Setup, setup_of
from tests.support.gates import run


@pytest.fixture(params=["mem", "redis", "disk"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Setup:
    """Returns a function that sets up a cache."""
    return setup_of(request.param, request, tmp_path)


async def read(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def test_items_are_replayed_and_tags_and_switches_count(setup: Setup) -> None:
    cache = setup()
    runs: list[int] = []

    @stream_cached(cache, ttl="1m", key="tokens:{prompt}", tags=["prompt:{prompt}"])
    async def tokens(prompt: int) -> AsyncIterator[dict[str, int]]:
        runs.append(prompt)
        for number in range(3):
            yield {"prompt": prompt, "number": number}

    async def test() -> None:
        assert await tokens.cache_key(1) == "tokens:1"
        wanted = [{"prompt": 1, "number": number} for number in range(3)]
        for _ in range(2):
            assert await read(tokens(1)) == await read(tokens(prompt=1)) == wanted
        assert runs == [1]
        await cache.delete_tags("prompt:1")
        assert await read(tokens(1)) == wanted
        with cache.disabling(Command.GET):
            assert await read(tokens(1)) == wanted
        assert runs == [1, 1, 1]
        await cache.close()

    run(test)
