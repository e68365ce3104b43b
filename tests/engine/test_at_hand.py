"""The short way of a look-up: what it may not answer, though this process keeps the entry."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from aiocache import SimpleMemoryCache
from aiocache.plugins import BasePlugin
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.stores.memory import MemoryStore
from tests.support.asgi import Exchange, get
from tests.support.gates import run, runs_over

_read = MemoryStore.get_many

#: So many that the last ones take the short way.
SEVERAL = 4


def _streams(text: str) -> Any:
    numbers = itertools.count(1)

    async def chunks(number: int) -> AsyncIterator[bytes]:
        yield f"{text} {number}".encode()

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks(next(numbers)))

    endpoint.__qualname__ = endpoint.__name__ = text
    return endpoint


def _app(**endpoints: Any) -> Starlette:
    return Starlette(routes=[Route(f"/{name}", each) for name, each in endpoints.items()])


async def _bodies(app: Starlette, path: str, count: int = SEVERAL) -> list[bytes]:
    return [(await get(app, path)).body for _ in range(count)]


def test_a_function_with_the_same_key_is_not_given_the_answer_of_another_one() -> None:
    decorate = stream_cached(ttl=60, cache=MemoryCache(), key="the same")

    async def main() -> None:
        app = _app(one=decorate(_streams("one")), other=decorate(_streams("other")))
        assert await _bodies(app, "/one") == [b"one 1"] * SEVERAL
        assert (await get(app, "/other")).body.startswith(b"other")
        assert (await get(app, "/one")).body.startswith(b"one")

    asyncio.run(main())


def test_plugins_are_told_of_each_hit() -> None:
    told: list[Any] = []

    class Telling(BasePlugin):  # type: ignore[misc]
        async def post_get(self, client: Any, key: str, took: float, ret: Any, **more: Any) -> None:
            told.append(ret)

    cache = MemoryCache(plugins=[Telling()])

    async def main() -> None:
        app = _app(one=stream_cached(ttl=60, cache=cache)(_streams("one")))
        await _bodies(app, "/one")
        assert [isinstance(each, Response) for each in told][1:] == [True] * (SEVERAL - 1)

    asyncio.run(main())


def test_who_does_not_read_is_given_a_new_answer() -> None:
    async def main() -> None:
        endpoint = stream_cached(ttl=60, cache=MemoryCache(), honor_request=True)(_streams("one"))
        app = _app(one=endpoint)
        await _bodies(app, "/one")
        exchange = Exchange(app, path="/one")
        exchange.scope["headers"].append((b"cache-control", b"no-cache"))
        await exchange.run()
        assert exchange.body == b"one 2"
        assert await _bodies(app, "/one") == [b"one 2"] * SEVERAL

    asyncio.run(main())


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_invalidated_is_not_served_as_fresh(soft: bool) -> None:
    async def main() -> None:
        endpoint = stream_cached(
            ttl=60, cache=MemoryCache(), stale_while_revalidate=60 if soft else 0
        )(_streams("one"))
        app = _app(one=endpoint)
        await _bodies(app, "/one")
        await endpoint.invalidate()
        assert (await get(app, "/one")).cache_status != "stream-cached; hit"

    asyncio.run(main())


def test_the_tags_of_a_response_are_read_in_the_same_round_trip() -> None:
    async def main() -> None:
        endpoint = stream_cached(ttl=60, cache=MemoryCache(), tags=lambda response: ["item"])(
            _streams("one")
        )
        app = _app(one=endpoint)
        await _bodies(app, "/one")
        with mock.patch.object(MemoryStore, "get_many", autospec=True, side_effect=_read) as reads:
            assert await _bodies(app, "/one", 1) == [b"one 1"]
        assert reads.call_count == 1

    asyncio.run(main())


def test_a_run_that_is_stored_during_the_look_up_answers_it() -> None:
    """What was read has come before the run, and the run has ended before it came here."""
    read, arrive, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(SimpleMemoryCache):  # type: ignore[misc]
        is_slow = False

        async def _multi_get(self, *args: Any, **kwargs: Any) -> Any:
            values = await super()._multi_get(*args, **kwargs)
            if self.is_slow:
                self.is_slow = False
                read.set()
                await arrive.wait()
            return values

    cache, numbers = Slow(), itertools.count(1)

    async def chunks(number: int) -> AsyncIterator[bytes]:
        yield b"%d" % number
        if number > 1:
            await go_on.wait()
        yield b"."

    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks(next(numbers)))

    async def main() -> None:
        app = _app(one=endpoint)
        assert await _bodies(app, "/one") == [b"1."] * SEVERAL
        await endpoint.invalidate()
        first, second = Exchange(app, path="/one"), Exchange(app, path="/one")
        leading = asyncio.create_task(first.run())
        await first.received.wait()
        cache.is_slow = True
        looking = asyncio.create_task(second.run())
        await read.wait()
        go_on.set()
        await leading
        await runs_over()
        arrive.set()
        await looking
        assert [first.body, second.body] == [b"2.", b"2."]

    run(main)
