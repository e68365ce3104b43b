"""Entries that are invalidated by a tag, or by an argument of their calls."""

from __future__ import annotations

import asyncio
import datetime
import enum
import functools
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, Limits, StreamCache, stream_cached
from stream_cached.entries.ids import ID_SIZE, new_id, softened, stale_since, version_of
from tests.support.asgi import joined
from tests.support.clock import Clock
from tests.support.decorating import Decorate
from tests.support.gates import Gate, wait_until
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS
from tests.support.servers import RedisServer

each_store = pytest.mark.parametrize("cache_url", ["memory", "redis", "memcached"], indirect=True)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


#: Counts the runs of a test.
numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def counts_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "numbers", itertools.count(1))


class Shop:
    """An application whose responses say how often the endpoint has run."""

    def __init__(self, decorate: Any, **settings: Any) -> None:
        cached: Decorate = decorate
        self.app = FastAPI()

        @self.app.get("/items/{item}")
        @cached(tags=("items", "item:{item}"), invalidate_by=("page",), **settings)
        async def item(item: int, page: int = 1) -> Response:
            async def body() -> AsyncIterator[bytes]:
                yield f"{item} {page} ".encode()
                yield f"#{next(numbers)}".encode()

            return StreamingResponse(body())

        @self.app.get("/models/{item}")
        @cached(tags=("item:{item}",), **settings)
        async def model(item: int) -> dict[str, int]:
            return {"item": item, "run": next(numbers)}

        @self.app.get("/untagged")
        @cached(**settings)
        async def untagged() -> dict[str, int]:
            return {"run": next(numbers)}

        self.item: Any = item
        self.model: Any = model
        self.client = TestClient(self.app)

    def states(self, *paths: str) -> list[str]:
        return [self.client.get(path).headers["cache-status"] for path in paths]


PATHS = ("/items/1", "/items/1?page=2", "/items/2", "/models/1", "/models/2", "/untagged")


def hits(*indices: int) -> list[str]:
    return [HIT if index in indices else MISS for index in range(len(PATHS))]


@each_store
def test_a_tag_invalidates_the_entries_of_all_endpoints_that_have_it(cache_url: str) -> None:
    streams = StreamCache(cache_url, ttl=60)
    shop = Shop(streams.cached)
    with shop.client:
        call = shop.client.portal.call  # type: ignore[union-attr]
        assert shop.states(*PATHS) == hits()
        assert shop.states(*PATHS) == hits(*range(6))
        assert call(streams.invalidate_tags, "item:1") is True
        assert shop.states(*PATHS) == hits(2, 4, 5)
        assert call(streams.invalidate_tags, "items", "nothing has this") is True
        assert shop.states(*PATHS) == hits(3, 4, 5)
        assert call(streams.invalidate_tags) is True
        assert shop.states(*PATHS) == hits(*range(6))
        assert call(streams.clear) is True
        assert shop.states(*PATHS) == hits()


@each_store
def test_another_process_sees_the_invalidation(cache_url: str) -> None:
    """Another object over the same store has nothing in common with the first but the store."""
    one, other = StreamCache(cache_url, ttl=60), StreamCache(cache_url, ttl=60)
    shop = Shop(one.cached)
    Shop(other.cached)
    with shop.client:
        assert shop.states("/items/1", "/items/1") == [MISS, HIT]
        shop.client.portal.call(other.invalidate_tags, "item:1")  # type: ignore[union-attr]
        assert shop.states("/items/1", "/items/1") == [MISS, HIT]
        shop.client.portal.call(other.clear)  # type: ignore[union-attr]
        assert shop.states("/items/1") == [MISS]


@pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)
def test_an_argument_invalidates_the_entries_of_calls_with_its_value(cache_url: str) -> None:
    shop = Shop(stream_cached, ttl=60, cache=cache_url)
    with shop.client:

        def invalidate(**arguments: Any) -> None:
            async def call() -> bool:
                return bool(await shop.item.invalidate(**arguments))

            assert shop.client.portal.call(call) is True  # type: ignore[union-attr]

        assert shop.states(*PATHS) == hits()
        invalidate(page=2)
        assert shop.states(*PATHS) == hits(0, 2, 3, 4, 5)
        # The tag is that of another endpoint, too.
        invalidate(item=1)
        assert shop.states(*PATHS) == hits(2, 4, 5)
        invalidate()
        assert shop.states(*PATHS) == hits(3, 4, 5)


def test_what_can_not_be_invalidated_by_is_told_with_the_line_to_write() -> None:
    @stream_cached(ttl=60, tags=("pair:{a}:{b}",))
    async def pair(a: int, b: int, c: int = 0) -> Response:
        return PlainTextResponse("pair")

    invalidate: Any = pair.invalidate

    async def test() -> None:
        for arguments, words in [
            ({"c": 1}, ['invalidate_by=("c",)', 'tags=("c:{c}",)']),
            # Only a part of the tag is known.
            ({"a": 1}, ['invalidate_by=("a",)']),
            ({"a": 1, "b": 2}, ["one argument", "tags="]),
            ({"d": 1}, ["'d'", "takes a, b, c"]),
        ]:
            with pytest.raises(ConfigurationError) as refused:
                await invalidate(**arguments)
            assert all(word in str(refused.value) for word in words), refused.value
        with pytest.raises(ConfigurationError, match="a key or an argument"):
            await pair.invalidate(key="x", a=1)

    run(test)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tags": "item"}, ["tags='item'", "a tuple of texts"]),
        ({"tags": (1,)}, ["tags=(1,)"]),
        ({"tags": ("",)}, ["a tuple of texts"]),
        ({"tags": ("item:{",)}, ["tags='item:{'"]),
        ({"tags": ("item:{}",)}, ["name parameters"]),
        ({"tags": ("item:{item!r}",)}, ["name parameters"]),
        ({"tags": ("item:{item[0]}",)}, ["name parameters"]),
        ({"tags": ("item:{other}",)}, ["'other'", "takes item"]),
        ({"invalidate_by": "item"}, ["invalidate_by=('item',)"]),
        ({"invalidate_by": ("other",)}, ["'other'", "takes item"]),
        ({"refresh": True}, ["refresh=True"]),
        ({"refresh": lambda: True}, ["a function of the request"]),
        ({"refresh": lambda request: True, "request_key": False}, ["refresh="]),
    ],
)
def test_a_wrong_setting_is_refused_at_decoration(
    settings: dict[str, Any], words: list[str]
) -> None:
    async def endpoint(item: int) -> Response:
        return PlainTextResponse("")

    with pytest.raises(ConfigurationError) as refused:
        stream_cached(ttl=60, **settings)(endpoint)
    assert all(word in str(refused.value) for word in words), refused.value


# -- the values of tags ---------------------------------------------------------------------------


class Kind(enum.Enum):
    BOOK = "book"


class User:
    """What a tag names an attribute of."""

    def __init__(self, id: Any) -> None:
        self.id = id


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (User(7), "of:7"),
        (User("7"), "of:7"),
        (User(None), "of:None"),
        (User(Kind.BOOK), "of:book"),
        (User(uuid.UUID(int=1)), "of:00000000-0000-0000-0000-000000000001"),
        (User(datetime.date(2026, 1, 2)), "of:2026-01-02"),
    ],
)
def test_a_tag_is_a_text_of_attributes(value: User, tag: str) -> None:
    streams = StreamCache("memory://?max_bytes=19MiB", ttl=60, namespace=f"{tag}:")

    @streams.cached(tags=("of:{user.id}",), key_args={"user": lambda user: str(user.id)})
    async def endpoint(user: User) -> Response:
        return PlainTextResponse(str(next(numbers)))

    async def test() -> None:
        assert [(await endpoint(value)).body for _ in range(2)] == [b"1", b"1"]
        await streams.invalidate_tags(tag)
        assert (await endpoint(value)).body == b"2"

    run(test)


def test_an_object_is_no_tag_and_its_attribute_is_named(caplog: pytest.LogCaptureFixture) -> None:
    @stream_cached(ttl=60, tags=("of:{user}",), key_args={"user": lambda user: user.id})
    async def endpoint(user: User) -> Response:
        return PlainTextResponse("rows")

    async def test() -> None:
        response = await endpoint(User(1))
        assert 'detail="function"' in response.headers["cache-status"]

    run(test)
    (warning,) = warnings(caplog)
    assert "tags= has {user}" in warning
    assert "{user.id}" in warning


def test_tags_may_be_a_function_of_the_arguments(caplog: pytest.LogCaptureFixture) -> None:
    streams = StreamCache("memory://?max_bytes=18MiB", ttl=60)
    given: list[Any] = [["even"], "text", [1], RuntimeError("broken")]

    def tags(number: int) -> Any:
        tags = given[number]
        if isinstance(tags, Exception):
            raise tags
        return tags

    @streams.cached(tags=tags)
    async def endpoint(number: int) -> Response:
        return PlainTextResponse(str(next(numbers)))

    async def test() -> None:
        assert [(await endpoint(0)).body for _ in range(2)] == [b"1", b"1"]
        await streams.invalidate_tags("even")
        assert (await endpoint(0)).body == b"2"
        for number in (1, 2, 3):
            response = await endpoint(number)
            assert 'detail="function"' in response.headers["cache-status"]

    run(test)
    assert "tags= returned no list of str" in warnings(caplog)[0]
    assert "raised RuntimeError" in warnings(caplog)[-1]


# -- while a run goes on, and while the store is away ---------------------------------------------


@pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)
@pytest.mark.parametrize("soft", [False, True])
def test_a_run_that_began_before_the_invalidation_is_not_stored(cache_url: str, soft: bool) -> None:
    streams = StreamCache(cache_url, ttl=60, stale_while_revalidate=60)
    gate = Gate()

    @streams.cached(tags=("item",))
    async def endpoint() -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"#"
            await gate.passed()
            yield str(next(numbers)).encode()

        return StreamingResponse(body())

    async def test() -> None:
        async with streams:
            response: Any = await endpoint()
            chunks = aiter(response.body_iterator)
            assert await anext(chunks) == b"#"
            await streams.invalidate_tags("item", soft=soft)
            gate.open()
            assert await joined(chunks) == b"1"
            again: Any = await endpoint()
            assert await joined(again.body_iterator) == b"#2"

    run(test)


def test_an_invalidation_is_kept_while_the_store_is_away(own_redis: RedisServer) -> None:
    url = own_redis.url(timeout=0.3)
    streams = StreamCache(url, ttl=60, limits=Limits(retry_interval=0.1))
    shop = Shop(streams.cached)
    with shop.client:
        call = shop.client.portal.call  # type: ignore[union-attr]
        wait_until(lambda: shop.states("/items/1") == [HIT])
        own_redis.pause()
        try:
            wait_until(lambda: 'hit; detail="fallback"' in shop.states("/items/1")[0])
            assert call(streams.invalidate_tags, "item:1") is False
            # The memory that stands in for the store is invalidated at once.
            assert "hit" not in shop.states("/items/1")[0]
            assert streams.health().invalidations == 1
        finally:
            own_redis.resume()
        wait_until(lambda: streams.health().available)
        assert streams.health().invalidations == 0
        wait_until(lambda: shop.states("/items/1") == [HIT])
        # What was stored before is gone: three runs of the endpoint, or more.
        assert int(shop.client.get("/items/1").text.rpartition("#")[2]) > 2


# -- soft invalidation ----------------------------------------------------------------------------


@pytest.mark.parametrize("cache_url", ["memory", "redis", "memcached"], indirect=True)
def test_a_soft_invalidation_makes_stale(cache_url: str, clock: Clock) -> None:
    streams = StreamCache(cache_url, ttl=60, stale_while_revalidate=30)
    shop = Shop(streams.cached)
    with shop.client:
        call = shop.client.portal.call  # type: ignore[union-attr]
        assert shop.states("/items/1", "/items/2", "/models/1") == [MISS] * 3

        soften = functools.partial(streams.invalidate_tags, "item:1", soft=True)
        assert call(soften) is True
        first, second = shop.client.get("/items/1"), shop.client.get("/items/1")
        assert first.text == "1 1 #1"
        assert "hit; ttl=" in first.headers["cache-status"]
        assert (second.text, second.headers["cache-status"]) == ("1 1 #4", HIT)
        assert shop.states("/items/2") == [HIT]
        assert "hit; ttl=" in shop.states("/models/1")[0]


def test_without_stale_windows_a_soft_invalidation_is_like_any_other() -> None:
    streams = StreamCache("memory://?max_bytes=17MiB", ttl=60)
    shop = Shop(streams.cached)
    with shop.client:
        assert shop.states("/items/1", "/items/1") == [MISS, HIT]

        soften = functools.partial(streams.invalidate_tags, "item:1", soft=True)
        assert shop.client.portal.call(soften) is True  # type: ignore[union-attr]
        assert shop.states("/items/1") == ["stream-cached; fwd=stale; stored"]


def test_a_version_remembers_the_ones_before() -> None:
    first = value = new_id()
    ids = [first]
    for number in range(10):
        value = softened(value, float(number))
        ids.append(value[:ID_SIZE])
    assert version_of(value) == ids[-1]
    assert stale_since(value, ids[-1]) is None
    assert [stale_since(value, each) for each in ids[-5:-1]] == [6.0, 7.0, 8.0, 9.0]
    # Older ones are forgotten, so that what was made under them is a miss.
    assert [stale_since(value, each) for each in ids[:-5]] == [None] * 6
    assert version_of(None) is version_of(b"") is version_of(value[:-1]) is None
    assert stale_since(None, first) is None
    assert version_of(softened(b"damaged", 1.0)) is not None


# -- refresh= -------------------------------------------------------------------------------------


def test_a_caller_who_may_forces_a_new_run(caplog: pytest.LogCaptureFixture) -> None:
    def refresh(request: Any) -> bool:
        if request.headers.get("x-admin") == "broken":
            raise RuntimeError("broken")
        return bool(request.headers.get("x-admin"))

    shop = Shop(stream_cached, ttl=60, refresh=refresh)
    with shop.client as client:
        assert shop.states("/items/1", "/items/1") == [MISS, HIT]
        forced = client.get("/items/1", headers={"X-Admin": "yes"})
        assert forced.headers["cache-status"] == "stream-cached; fwd=request; stored"
        assert client.get("/items/1").text == forced.text == "1 1 #2"
        assert client.get("/items/1", headers={"X-Admin": "broken"}).text == forced.text
    assert "refresh= raised RuntimeError, which counts as False" in warnings(caplog)[0]
