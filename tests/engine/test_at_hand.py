"""The short way of a look-up: what it may not answer, though this process keeps the entry."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
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
from stream_cached.connections.deadline import Deadline
from stream_cached.entries.chunks import ChunkJoiner
from stream_cached.entries.object_body import KeptBodies
from stream_cached.errors import LostStreamError
from stream_cached.events import Answered
from stream_cached.format.validation import UnsoundError
from stream_cached.stores.bounded import BoundedMemory
from tests.support.asgi import Exchange, get
from tests.support.clock import Clock
from tests.support.gates import run, runs_over

_read = BoundedMemory.get_many

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


def test_a_key_that_a_test_has_put_there_is_not_told_as_it_is() -> None:
    told: list[Any] = []
    decorator = stream_cached(ttl=60, cache=MemoryCache(), on_event=told.append)

    async def main() -> None:
        app = _app(one=decorator(_streams("one")))
        decorator.key = "anna's own"
        assert await _bodies(app, "/one") == [b"one 1"] * SEVERAL

    asyncio.run(main())
    assert len({each.key for each in told if isinstance(each, Answered)}) == 1
    assert all("anna" not in each.key for each in told)


def test_a_cache_that_is_gone_is_kept_alive_by_nothing() -> None:
    async def memory() -> weakref.ref[BoundedMemory]:
        cache = MemoryCache()
        await _bodies(_app(one=stream_cached(ttl=60, cache=cache)(_streams("one"))), "/one")
        return weakref.ref(cache.memory)

    gone = asyncio.run(memory())
    gc.collect()
    assert gone() is None


def test_the_tags_of_a_response_are_read_in_the_same_round_trip() -> None:
    async def main() -> None:
        endpoint = stream_cached(ttl=60, cache=MemoryCache(), tags=lambda response: ["item"])(
            _streams("one")
        )
        app = _app(one=endpoint)
        with mock.patch.object(
            BoundedMemory, "get_many", autospec=True, side_effect=_read
        ) as reads:
            await _bodies(app, "/one")
            before = reads.call_count
            assert await _bodies(app, "/one", 1) == [b"one 1"]
        # The memory tells that all is as it was.
        assert reads.call_count == before

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


class _TakingTime(SimpleMemoryCache):  # type: ignore[misc]
    """A cache as over a network. `reads` is called at each of its reads."""

    def reads(self) -> None:
        """Do nothing."""

    async def _multi_get(self, *args: Any, **kwargs: Any) -> Any:
        self.reads()
        return await super()._multi_get(*args, **kwargs)


async def _whole(request: Request) -> Response:
    return Response(b"a whole body")


@pytest.mark.parametrize("is_fresh", [True, False])
@pytest.mark.parametrize("endpoint", [_whole, _streams("one")])
def test_the_time_of_the_first_look_counts(endpoint: Any, is_fresh: bool, clock: Clock) -> None:
    events: list[Answered] = []
    cache = _TakingTime()

    def told(event: Any) -> None:
        if isinstance(event, Answered):
            events.append(event)

    def reads() -> None:
        clock.passed += 2

    async def main() -> None:
        cached = stream_cached(ttl=600, cache=cache, timeout=None, on_event=told)(endpoint)
        app = _app(one=cached)
        await _bodies(app, "/one")
        if not is_fresh:
            await cached.invalidate()
        cache.reads = reads  # type: ignore[method-assign]
        await get(app, "/one")
        await runs_over()

    run(main)
    assert events[-1].outcome == ("hit" if is_fresh else "miss")
    assert events[-1].look_up is not None
    assert min(events[-1].look_up, events[-1].seconds) >= 2


def test_one_time_out_bounds_all_reads_of_a_look_up(clock: Clock) -> None:
    """What is at hand is stale, so that it is read once more."""
    endpoint = stream_cached(ttl=60, cache=_TakingTime(), stale_while_revalidate=60)(
        _streams("one")
    )

    async def main() -> None:
        app = _app(one=endpoint)
        await _bodies(app, "/one")
        clock.passed = 70
        enter = mock.patch.object(
            Deadline, "__enter__", autospec=True, side_effect=Deadline.__enter__
        )
        with enter as entered:
            await get(app, "/one")
            await runs_over()
        first, second, *_ = [call.args[0] for call in entered.call_args_list]
        assert first is second

    run(main)


@pytest.mark.parametrize("endpoint", [_whole, _streams("one")])
def test_a_memory_that_fails_costs_the_entry_and_not_the_client(endpoint: Any) -> None:
    fails = False

    def build(key: str, namespace: str | None) -> str:
        if fails:
            raise LookupError
        return key

    async def main() -> None:
        nonlocal fails
        app = _app(one=stream_cached(ttl=60, cache=MemoryCache(key_builder=build))(endpoint))
        await _bodies(app, "/one")
        fails = True
        answer = await get(app, "/one")
        assert answer.complete
        assert answer.cache_status == 'stream-cached; fwd=bypass; detail="store"'

    run(main)


def test_a_large_body_that_is_damaged_is_deleted_with_its_record(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(300_000)

    @stream_cached(ttl=60, cache=MemoryCache(), bodies=f"file://{tmp_path}")
    async def cached(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    async def endpoint(request: Request) -> StreamingResponse:
        response = await cached(request)
        if is_read:
            # What reads it otherwise than by sending it has its chunks.
            await anext(aiter(response.body_iterator))
        return response

    is_read = False

    async def main() -> None:
        nonlocal is_read
        app = _app(one=endpoint)
        await _bodies(app, "/one")
        is_read = True
        damage = mock.patch.object(ChunkJoiner, "add", side_effect=UnsoundError)
        with damage, mock.patch.object(KeptBodies, "retire") as retire:
            with pytest.raises(LostStreamError):
                await get(app, "/one")
            retire.assert_called_once()

    run(main)
