"""Generator functions that are no endpoints: live on a miss, joined, replayed item by item."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from stream_cached import BrokenStreamError, ConfigurationError, MemoryCache, stream_cached
from tests.support.forged import altered
from tests.support.gates import Gate, run, runs_over
from tests.support.keyspace import Keyspace
from tests.support.logs import warnings
from tests.support.process import ROOT
from tests.support.servers import RedisServer
from tests.support.shared_cache import SharedCache


@dataclass
class Token:
    text: str
    number: int


class Source:
    """A generator that is held before one of its items, and what it has seen."""

    def __init__(self, items: list[Any], held_at: int = -1, error: BaseException | None = None):
        self.items, self.held_at, self.error = items, held_at, error
        self.gate = Gate()
        self.runs = 0
        self.closed = 0
        self.begun, self.closed_once = asyncio.Event(), asyncio.Event()

    async def tokens(self, prompt: str = "p", *, model: str = "m") -> AsyncIterator[Any]:
        self.runs += 1
        self.begun.set()
        try:
            for number, item in enumerate(self.items):
                if number == self.held_at:
                    await self.gate.passed()
                yield item
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1
            self.closed_once.set()


async def read(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def taken(items: AsyncIterator[Any], count: int) -> list[Any]:
    return [await anext(items) for _ in range(count)]


# -- miss, join, hit ----------------------------------------------------------------------------


def test_items_are_live_joined_and_replayed(cache_url: str) -> None:
    source = Source([f"token {number}" for number in range(6)], held_at=3)

    async def test() -> None:
        tokens = stream_cached(ttl=60, cache=cache_url)(source.tokens)
        first, second = tokens("a", model="b"), tokens("a", model="b")
        assert await taken(first, 3) == source.items[:3]
        # What exists comes at once, and the rest live.
        assert await taken(second, 3) == source.items[:3]
        waiting = [asyncio.ensure_future(anext(each)) for each in (first, second)]
        source.gate.open()
        assert await asyncio.gather(*waiting) == [source.items[3]] * 2
        for each in (first, second):
            assert await read(each) == source.items[4:]
        assert await read(tokens("a", model="b")) == source.items
        assert source.runs == source.closed == 1
        assert await read(tokens("other", model="b")) == source.items
        assert source.runs == 2

    run(test)


def test_another_process_follows_the_items() -> None:
    source = Source([{"n": number} for number in range(6)], held_at=3)

    async def test() -> None:
        server = MemoryCache()
        here, there = (
            stream_cached(ttl=60, cache=SharedCache(server))(source.tokens) for _ in range(2)
        )
        first, second = here(), there()
        assert await taken(first, 3) == source.items[:3]
        assert await taken(second, 3) == source.items[:3]
        source.gate.open()
        assert await read(first) == await read(second) == source.items[3:]
        assert await read(there()) == source.items
        assert source.runs == 1

    run(test)


def test_a_large_stream_is_replayed_from_its_segments(cache_url: str) -> None:
    source = Source([b"x" * 50_000 + b"%d" % number for number in range(40)])

    async def test() -> None:
        tokens = stream_cached(ttl=60, cache=cache_url)(source.tokens)
        for _ in range(3):
            assert await read(tokens()) == source.items
        assert source.runs == 1

    run(test)


def test_a_plain_generator_is_iterated_and_closed_in_the_thread_pool() -> None:
    threads: set[int] = set()

    def numbers(count: int) -> Iterator[int]:
        try:
            for number in range(count):
                threads.add(threading.get_ident())
                yield number
        finally:
            threads.add(threading.get_ident())

    async def test() -> None:
        cached = stream_cached(ttl=60)(numbers)
        assert inspect.isasyncgenfunction(cached)
        # FastAPI looks through it.
        assert not hasattr(cached, "__wrapped__")
        assert await read(cached(3)) == [0, 1, 2]
        assert await read(cached(count=3)) == [0, 1, 2]
        left = cached(9)
        assert await anext(left) == 0
        await left.aclose()
        await runs_over()
        assert threading.get_ident() not in threads

    run(test)


def test_a_plain_generator_that_is_given_up_is_closed_once_its_thread_is_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []
    began, may_go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[int]:
        try:
            yield 1
            began.set()
            may_go_on.wait(10)
            yield 2
        finally:
            said.append("closed")

    async def test() -> None:
        items = stream_cached(ttl=60, on_disconnect="stop")(slow)()
        assert await anext(items) == 1
        await asyncio.to_thread(began.wait, 10)
        closing = asyncio.ensure_future(items.aclose())
        await asyncio.sleep(0)
        assert said == []
        may_go_on.set()
        await closing
        assert said == ["closed"]

    run(test)
    assert warnings(caplog) == []


def test_other_callables_over_generators() -> None:
    class Rows:
        async def __call__(self, count: int = 2) -> AsyncIterator[int]:
            for number in range(count):
                yield number

        @stream_cached(ttl=60, noself=True)
        async def method(self, count: int) -> AsyncIterator[int]:
            for number in range(count):
                yield number

    async def test() -> None:
        decorate = stream_cached(ttl=60)
        for function in (Rows(), functools.partial(Rows(), 2), functools.partial(Rows(), count=2)):
            cached: Any = decorate(function)
            assert await read(cached()) == await read(cached()) == [0, 1]
        rows: Any = Rows()
        assert await read(rows.method(3)) == await read(rows.method(count=3)) == [0, 1, 2]

    run(test)


def test_the_key_is_aiocaches_and_an_invalidation_counts() -> None:
    source = Source(["a", "b"])

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        name = f"{__name__}{source.tokens.__name__}"
        assert await tokens.cache_key("x", model="y") == f"{name}('x',)[('model', 'y')]"
        assert await read(tokens("x")) == source.items
        assert await tokens.invalidate() is True
        assert await read(tokens("x")) == source.items
        assert source.runs == 2
        switched: Any = tokens
        assert await read(switched("x", cache_read=False)) == source.items
        assert source.runs == 3

    run(test)


def test_an_invalidation_while_it_runs_leaves_the_run_unstored() -> None:
    source = Source(["a", "b"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        first = tokens()
        assert await anext(first) == "a"
        await tokens.invalidate()
        source.gate.open()
        assert await read(first) == ["b"]
        assert await read(tokens()) == ["a", "b"]
        assert source.runs == 2

    run(test)


# -- whole or nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("boom"), OSError("gone")], ids=["value", "os"])
def test_a_generator_that_raises_is_never_stored_and_never_ends_cleanly(error: Exception) -> None:
    source = Source(["a", "b"], held_at=1, error=error)

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        first, second = tokens(), tokens()
        assert await taken(first, 1) == await taken(second, 1) == ["a"]
        source.gate.open()
        with pytest.raises(type(error)) as raised:
            await read(first)
        assert raised.value is error
        with pytest.raises((type(error), BrokenStreamError)):
            await read(second)
        with pytest.raises(type(error)):
            await read(tokens())
        assert source.runs == source.closed == 2

    run(test)


class Halted(BaseException):
    """What is no `Exception`, as what pytest and other frameworks stop a function with."""


@pytest.mark.parametrize("cls", [Halted, GeneratorExit])
def test_what_is_no_exception_fails_its_callers_and_no_task_besides(
    cls: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        @stream_cached(ttl=60)
        async def tokens() -> AsyncIterator[str]:
            yield "a"
            raise cls

        with pytest.raises((cls, BrokenStreamError)) as raised:
            await read(tokens())
        assert isinstance(raised.value.__cause__ or raised.value, cls)

    run(test)
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_who_stops_early_leaves_a_run_that_is_completed_and_stored() -> None:
    source = Source(["a", "b", "c"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        async with contextlib.aclosing(tokens()) as items:
            async for _ in items:
                break
        assert source.closed == 0
        source.gate.open()
        await runs_over()
        assert source.closed == 1
        assert await read(tokens()) == source.items
        assert source.runs == 1

    run(test)


async def _close(items: Any) -> None:
    await items.aclose()


async def _raise(items: Any) -> None:
    with pytest.raises(KeyError):
        await items.athrow(KeyError("consumer"))


async def _cancel(items: Any) -> None:
    reading = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("leave", [_close, _raise, _cancel])
def test_with_stop_the_run_of_who_stops_early_is_closed(leave: Callable[..., Any]) -> None:
    source = Source(["a", "b"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60, on_disconnect="stop")(source.tokens)
        items = tokens()
        assert await anext(items) == "a"
        await leave(items)
        if leave is _cancel:
            await runs_over()
        # Its clean-up has run when `aclose` returns.
        assert source.closed == 1
        source.gate.open()
        assert await read(tokens()) == source.items
        assert source.runs == 2

    run(test)


def test_items_that_are_garbage_have_left() -> None:
    source = Source(["a", "b"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60, on_disconnect="stop")(source.tokens)
        async for _ in tokens():
            break
        gc.collect()
        await source.closed_once.wait()
        tokens()
        assert source.runs == 1

    run(test)


def test_who_stops_early_does_not_spoil_it_for_who_has_joined() -> None:
    source = Source(["a", "b"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60, on_disconnect="stop")(source.tokens)
        first, second = tokens(), tokens()
        assert await taken(first, 1) == await taken(second, 1) == ["a"]
        await first.aclose()
        source.gate.open()
        assert await read(second) == ["b"]
        assert await read(tokens()) == ["a", "b"]
        assert source.runs == 1

    run(test)


# -- items --------------------------------------------------------------------------------------


def test_no_two_callers_are_given_one_mutable_item() -> None:
    original = {"rows": [1]}
    source = Source([original, "end"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        first, second = tokens(), tokens()
        # The one that leads is given what the source has made; nobody sees what it does to it.
        given = await anext(first)
        assert given is original
        given["rows"].append(2)
        joined = await anext(second)
        assert joined == {"rows": [1]}
        joined["rows"].append(3)
        source.gate.open()
        assert await read(first) == await read(second) == ["end"]
        for _ in range(2):
            hit = await read(tokens())
            assert hit == [{"rows": [1]}, "end"]
            hit[0]["rows"].append(4)
        assert source.runs == 1

    run(test)


def test_nothing_is_kept_for_a_caller_that_has_left() -> None:
    made: list[weakref.ref[Token]] = []
    gate, reached = Gate(), asyncio.Event()

    async def tokens() -> AsyncIterator[Token]:
        yield Token("first", 0)
        await gate.passed()
        second = Token("second", 1)
        made.append(weakref.ref(second))
        yield second
        del second
        # What drains the generator has the last one in hand.
        yield Token("third", 2)
        reached.set()
        await asyncio.Event().wait()

    async def test() -> None:
        items = stream_cached(ttl=60)(tokens)()
        assert await anext(items) == Token("first", 0)
        await items.aclose()
        gate.open()
        await reached.wait()
        assert made[0]() is None

    run(test)


def test_a_class_in_the_annotation_is_made_again(cache_url: str) -> None:
    runs: list[int] = []

    async def test() -> None:
        @stream_cached(ttl=60, cache=cache_url)
        async def tokens() -> AsyncIterator[Token]:
            runs.append(1)
            yield Token("a", 1)

        assert await read(tokens()) == await read(tokens()) == [Token("a", 1)]
        assert runs == [1]

    run(test)


def test_an_item_that_can_not_be_stored_is_passed_on_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = object()
    source = Source(["a", odd, "b", odd])

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        for number in range(1, 4):
            assert await read(tokens()) == source.items
            assert source.runs == number

    run(test)
    (line,) = warnings(caplog)
    assert "(builtins.object)" in line
    assert "AsyncIterator[Item]" in line


def test_who_has_joined_a_stream_with_such_an_item_breaks_and_never_ends_short() -> None:
    source = Source(["a", object(), "b"], held_at=1)

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        first, second = tokens(), tokens()
        assert await taken(first, 1) == await taken(second, 1) == ["a"]
        source.gate.open()
        assert await read(first) == source.items[1:]
        with pytest.raises(BrokenStreamError, match="can't be stored"):
            await read(second)

    run(test)


def test_skip_cache_func_is_given_the_generator() -> None:
    source = Source(["a"])
    given: list[bool] = []

    def skip(result: object) -> bool:
        given.append(inspect.isasyncgen(result))
        return True

    async def test() -> None:
        tokens = stream_cached(ttl=60, skip_cache_func=skip)(source.tokens)
        assert await read(tokens()) == await read(tokens()) == ["a"]

    run(test)
    assert given == [True, True]
    assert source.runs == 2


def test_a_stale_entry_answers_where_the_generator_fails() -> None:
    source = Source(["a"])

    async def test() -> None:
        tokens = stream_cached(ttl=0.01, stale_if_error=60)(source.tokens)
        assert await read(tokens()) == ["a"]
        await asyncio.sleep(0.02)
        source.items, source.error = [], ValueError("boom")
        assert await read(tokens()) == ["a"]
        assert source.runs == 2

    run(test)


def test_who_has_joined_and_has_nothing_yet_runs_it_itself() -> None:
    source = Source([object(), "b"], held_at=0)

    async def test() -> None:
        tokens = stream_cached(ttl=60)(source.tokens)
        reading = [asyncio.ensure_future(read(tokens())) for _ in range(2)]
        await source.begun.wait()
        source.gate.open()
        assert await asyncio.gather(*reading) == [source.items] * 2
        assert source.runs == 2

    run(test)


# -- what is stored is not trusted --------------------------------------------------------------


@pytest.mark.parametrize("damage", ["bytes", "another item", "no item", "lengths"])
def test_damaged_items_are_a_miss(
    damage: str, redis_server: RedisServer, redis_url: str, namespace: str
) -> None:
    source = Source(["first", "second", "third"])
    keys = Keyspace(redis_server.port)

    def damaged(stored: bytes) -> bytes:
        at = stored.index(b"\xa6second")
        match damage:
            case "bytes":
                return stored.replace(b"second", b"sec\xffnd")
            case "another item":
                # A list of seven items, which are not there; all checksums are right.
                return altered(stored[:at] + b"\x97" + stored[at + 1 :])
            case "no item":
                return altered(stored[:at] + b"\xc1" + stored[at + 1 :])
            case _:
                return altered(stored, chunks=(5, 8, 6))

    async def test() -> None:
        tokens = stream_cached(ttl=60, cache=redis_url, namespace=namespace)(source.tokens)
        assert await read(tokens()) == source.items
        (key,) = [key for key, value in keys.all().items() if b"second" in value]
        keys.set(key, damaged(keys.all()[key]))
        for _ in range(2):
            assert await read(tokens()) == source.items
        assert source.runs == 2

    run(test)


def test_a_damaged_segment_breaks_the_items_and_the_next_call_is_a_miss(
    redis_server: RedisServer, redis_url: str, namespace: str
) -> None:
    source = Source([b"x" * 200_000 + b"%d" % number for number in range(8)])
    keys = Keyspace(redis_server.port)

    async def test() -> None:
        tokens = stream_cached(ttl=60, cache=redis_url, namespace=namespace)(source.tokens)
        assert await read(tokens()) == source.items
        last = max(keys.all(), key=lambda key: b"x7" in keys.all()[key])
        keys.set(last, None)
        for _ in range(2):
            assert await read(tokens()) == source.items
        assert source.runs == 2

    run(test)


def test_items_of_classes_that_have_changed_are_a_miss() -> None:
    runs: list[type] = []

    @dataclass
    class Other:
        text: str
        size: int

    async def test() -> None:
        cache = MemoryCache()

        def deployed(version: Any) -> Any:
            async def tokens() -> AsyncIterator[Any]:
                runs.append(version)
                yield version("a", 1)

            tokens.__annotations__["return"] = AsyncIterator[version]
            return stream_cached(ttl=60, cache=cache, key="tokens")(tokens)

        for version in (Token, Token, Other, Other, Token):
            assert await read(deployed(version)()) == [version("a", 1)]

    run(test)
    assert runs == [Token, Other, Token]


def test_a_key_that_an_endpoint_has_too_gives_neither_what_the_other_one_made() -> None:
    source = Source(["a"])

    async def test() -> None:
        cache = MemoryCache()
        decorate = stream_cached(ttl=60, cache=cache, key="same")

        @decorate
        async def value() -> dict[str, int]:
            return {"n": 1}

        tokens = decorate(source.tokens)
        for _ in range(2):
            assert await read(tokens()) == ["a"]
            assert await value() == {"n": 1}

    run(test)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_run_of_another_kind_of_function_with_that_key_is_not_joined(is_shared: bool) -> None:
    source = Source(["a", "b"], held_at=1)

    async def test() -> None:
        server = MemoryCache()

        def decorate(function: Callable[..., Any]) -> Any:
            cache = SharedCache(server) if is_shared else server
            return stream_cached(ttl=60, cache=cache, key="same")(function)

        async def endpoint() -> Response:
            return StreamingResponse(iter(["body"]))

        items = decorate(source.tokens)()
        assert await anext(items) == "a"
        answer = await decorate(endpoint)()
        assert [chunk async for chunk in answer.body_iterator] == [b"body"]
        source.gate.open()
        assert await read(items) == ["b"]

    run(test)


def test_a_value_of_the_cache_is_no_item() -> None:
    class Values(stream_cached):
        async def get_from_cache(self, key: str) -> Any:
            return "value"

    source = Source(["a"])

    async def test() -> None:
        assert await read(Values(ttl=60)(source.tokens)()) == ["a"]

    run(test)


# -- the decorated function ---------------------------------------------------------------------


def test_request_key_false_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dependency with yield"):
        stream_cached(ttl=60, request_key=False)(Source([]).tokens)


def test_an_old_fastapi_says_so_where_the_route_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    fastapi = pytest.importorskip("fastapi")
    monkeypatch.setattr("stream_cached.decorated.generator._streams_generators", lambda: False)
    # Those refuse some annotations, too.
    route = fastapi.FastAPI().get("/", response_model=None)
    with pytest.raises(ConfigurationError, match="let it return a StreamingResponse"):
        route(stream_cached(ttl=60)(Source([]).tokens))


def test_without_asyncio_the_generator_runs_uncached() -> None:
    source = Source(["a"])
    items = stream_cached(ttl=60)(source.tokens)()

    def by_hand(coroutine: Any) -> Any:
        with pytest.raises(StopIteration) as end:
            coroutine.send(None)
        return end.value.value

    assert by_hand(anext(items)) == "a"
    assert by_hand(items.aclose()) is None
    assert source.closed == 1


def test_the_function_shows_its_own_signature_without_a_web_framework() -> None:
    program = f"""
        import asyncio, inspect, sys
        sys.path.insert(0, {str(ROOT)!r})
        from collections.abc import AsyncIterator
        from stream_cached import stream_cached

        runs = 0

        @stream_cached(ttl=600)
        async def tokens(prompt: str, *, model: str) -> AsyncIterator[str]:
            global runs
            runs += 1
            for word in prompt.split():
                yield word

        @stream_cached(ttl=600)
        async def endless() -> AsyncIterator[int]:
            while True:
                yield 1
                await asyncio.sleep(0.001)

        async def main() -> None:
            for _ in range(2):
                print([item async for item in tokens("one two", model="m")], runs)
            print(await anext(endless()))

        print(inspect.signature(tokens))
        asyncio.run(main())
        print("fastapi" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "(prompt: str, *, model: str) -> collections.abc.AsyncIterator[str]",
        "['one', 'two'] 1",
        "['one', 'two'] 1",
        "1",
        "False",
    ]
