"""Tags that only the response tells: `tags=lambda response: [...]`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, StreamCache, stream_cached
from stream_cached.endpoint.tags import ANY, Tagging, tag_key_of
from stream_cached.entries.resource import Resource
from tests.support.asgi import joined
from tests.support.clock import Clock
from tests.support.decorating import Decorate
from tests.support.gates import Gate
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

each_store = pytest.mark.parametrize("cache_url", ["memory", "redis", "memcached"], indirect=True)

numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def counts_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "numbers", itertools.count(1))


class Item(BaseModel):
    id: int
    owner: str


class Shop:
    """Which item a slug stands for, and whose it is, only the endpoints know."""

    def __init__(self, cached: Any, **settings: Any) -> None:
        decorate: Decorate = cached
        self.app = FastAPI()
        self.owner = {"a": "ann", "b": "bob"}

        @self.app.get("/model/{slug}")
        @decorate(tags=lambda response: [f"owner:{response.owner}", "items"], **settings)
        async def model(slug: str) -> Item:
            return Item(id=next(numbers), owner=shop.owner[slug])

        @self.app.get("/stream/{slug}")
        @decorate(tags=of_headers, vary=("Accept",), **settings)
        async def stream(slug: str) -> Response:
            async def body() -> AsyncIterator[str]:
                yield f"#{next(numbers)}"

            return StreamingResponse(body(), headers={"X-Owner": shop.owner[slug]})

        @self.app.get("/both/{slug}")
        @decorate(tags=of_both, **settings)
        async def both(slug: str) -> dict[str, Any]:
            return {"owner": shop.owner[slug], "run": next(numbers)}

        shop = _Held(self)
        self.model: Any = model
        self.client = TestClient(self.app)

    def states(self, *paths: str) -> list[str]:
        return [self.client.get(path).headers["cache-status"] for path in paths]


class _Held:
    """Keeps the owners out of the keys of functions that refer to them."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    @property
    def owner(self) -> dict[str, str]:
        return self._shop.owner


def of_headers(answer: Response) -> list[str]:
    return [f"owner:{answer.headers['x-owner']}"]


def of_both(slug: str, response: dict[str, str]) -> list[str]:
    return [f"{slug}:{response['owner']}"]


PATHS = ("/model/a", "/model/b", "/stream/a", "/stream/b", "/both/a", "/both/b")


def hits(*indices: int) -> list[str]:
    return [HIT if index in indices else MISS for index in range(len(PATHS))]


@each_store
def test_they_invalidate_in_all_processes(cache_url: str) -> None:
    streams, other = StreamCache(cache_url, ttl=60), StreamCache(cache_url, ttl=60)
    shop = Shop(streams.cached)
    with shop.client:
        call = shop.client.portal.call  # type: ignore[union-attr]
        assert shop.states(*PATHS) == hits()
        assert shop.states(*PATHS) == hits(*range(6))
        assert call(other.invalidate_tags, "owner:ann") is True
        assert shop.states(*PATHS) == hits(1, 3, 4, 5)
        assert call(streams.invalidate_tags, "items", "a:ann", "nothing has this") is True
        assert shop.states(*PATHS) == hits(2, 3, 5)
        assert call(streams.invalidate_tags, "nothing has this") is True
        assert shop.states(*PATHS) == hits(*range(6))
        assert call(streams.clear) is True
        assert shop.states(*PATHS) == hits()


def test_each_variant_has_its_own() -> None:
    streams = StreamCache("memory://?max_bytes=19MiB", ttl=60)
    app = FastAPI()

    @app.get("/varied")
    @streams.cached(tags=lambda response: [response.headers["x-kind"]])
    async def varied() -> Response:
        number = next(numbers)
        return PlainTextResponse("rows", headers={"X-Kind": str(number), "Vary": "Accept"})

    def state(accept: str) -> str:
        return str(client.get("/varied", headers={"Accept": accept}).headers["cache-status"])

    with TestClient(app) as client:
        call = client.portal.call  # type: ignore[union-attr]
        state("a"), state("b")
        assert [state("a"), state("b")] == [HIT, HIT]
        call(streams.invalidate_tags, "1")
        assert (state("a") == HIT, state("b") == HIT) == (False, True)
        assert [state("a"), state("b")] == [HIT, HIT]


def test_an_entry_changes_its_tags() -> None:
    streams = StreamCache("memory://?max_bytes=18MiB", ttl=60)
    shop = Shop(streams.cached)
    with shop.client:
        call = shop.client.portal.call  # type: ignore[union-attr]
        assert shop.states("/model/a") == [MISS]
        shop.owner["a"] = "carl"
        call(streams.invalidate_tags, "owner:ann")
        assert shop.states("/model/a", "/model/a") == [MISS, HIT]
        call(streams.invalidate_tags, "owner:ann")
        assert shop.states("/model/a") == [HIT]
        call(streams.invalidate_tags, "owner:carl")
        assert shop.states("/model/a") == [MISS]


def streaming(streams: StreamCache, gate: Gate) -> Callable[[], Awaitable[Any]]:
    @streams.cached(tags=of_headers)
    async def endpoint() -> Response:
        number = next(numbers)

        async def body() -> AsyncIterator[bytes]:
            yield b"#"
            if number == 1:
                await gate.passed()
            yield str(number).encode()

        return StreamingResponse(body(), headers={"X-Owner": "ann"})

    return endpoint


@pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)
@pytest.mark.parametrize("soft", [False, True])
def test_an_invalidation_while_it_runs_is_not_lost(cache_url: str, soft: bool) -> None:
    streams, other = StreamCache(cache_url, ttl=60), StreamCache(cache_url, ttl=60)
    gate = Gate()
    endpoint = streaming(streams, gate)

    async def test() -> None:
        async with streams:
            response: Any = await endpoint()
            chunks = aiter(response.body_iterator)
            assert await anext(chunks) == b"#"
            # Another process knows nothing of the run.
            await other.invalidate_tags("owner:ann", soft=soft)
            # What comes after the invalidation does not join what began before.
            after: Any = await endpoint()
            assert await joined(after.body_iterator) == b"#2"
            gate.open()
            assert await joined(chunks) == b"1"
            again: Any = await endpoint()
            assert await joined(again.body_iterator) == b"#2"

    asyncio.run(test())


@pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_invalidation_at_the_commit_is_not_lost(
    cache_url: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the versions of its tags are read, and just after."""
    streams = StreamCache(cache_url, ttl=60)
    original = Resource._tag_versions

    async def invalidated(self: Resource) -> dict[str, bytes]:
        monkeypatch.setattr(Resource, "_tag_versions", original)
        if moment == "before":
            await streams.invalidate_tags("owner:ann")
        versions = await original(self)
        if moment == "after":
            await streams.invalidate_tags("owner:ann")
        return versions

    monkeypatch.setattr(Resource, "_tag_versions", invalidated)

    @streams.cached(tags=of_headers)
    async def endpoint() -> Response:
        return PlainTextResponse(str(next(numbers)), headers={"X-Owner": "ann"})

    async def test() -> None:
        async with streams:
            bodies = [bytes((await endpoint()).body) for _ in range(3)]
            assert bodies == [b"1", b"2", b"2"]

    asyncio.run(test())


def test_an_invalidation_by_an_argument_counts_as_one_of_its_tag() -> None:
    streams = StreamCache("memory://?max_bytes=17MiB", ttl=60)
    gate = Gate()
    endpoint = streaming(streams, gate)

    @streams.cached(tags=("owner:{owner}",))
    async def of_owner(owner: str) -> Response:
        return PlainTextResponse(owner)

    async def test() -> None:
        async with streams:
            response: Any = await endpoint()
            chunks = aiter(response.body_iterator)
            assert await anext(chunks) == b"#"
            await of_owner.invalidate(owner="ann")
            gate.open()
            assert await joined(chunks) == b"1"
            again: Any = await endpoint()
            assert await joined(again.body_iterator) == b"#2"

    asyncio.run(test())


@pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)
def test_a_soft_invalidation_makes_stale(cache_url: str, clock: Clock) -> None:
    streams = StreamCache(cache_url, ttl=60, stale_while_revalidate=30)
    shop = Shop(streams.cached)
    with shop.client:
        assert shop.states("/model/a", "/model/b") == [MISS, MISS]

        soften = functools.partial(streams.invalidate_tags, "owner:ann", soft=True)
        assert shop.client.portal.call(soften) is True  # type: ignore[union-attr]
        first, second = shop.client.get("/model/a"), shop.client.get("/model/a")
        assert (first.json()["id"], second.json()["id"]) == (1, 3)
        assert "hit; ttl=" in first.headers["cache-status"]
        assert second.headers["cache-status"] == HIT
        assert shop.states("/model/b") == [HIT]


def test_one_that_is_lost_is_a_miss() -> None:
    """A version may be evicted: nothing then says that the tag was not invalidated."""
    streams = StreamCache("memory://?max_bytes=16MiB", ttl=60)
    shop = Shop(streams.cached)
    with shop.client:
        assert shop.states("/model/a", "/model/a") == [MISS, HIT]
        call = shop.client.portal.call  # type: ignore[union-attr]

        async def lose(tag: str) -> None:
            await streams._own.hooks.binding().primary.store.delete_many([tag_key_of(tag)])

        call(lose, "owner:ann")
        assert shop.states("/model/a", "/model/a") == [MISS, HIT]
        # Without what tells that any tag was invalidated, nothing is wrong with an entry.
        call(lose, ANY)
        assert shop.states("/model/a") == [HIT]


def test_what_fails_is_told_and_stores_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    for name, tags in {
        "raises": lambda response: response["none"],
        "text": lambda response: "text",
        "numbers": lambda response: [1],
    }.items():

        @app.get(f"/{name}")
        @stream_cached(ttl=60, tags=tags)
        async def endpoint() -> dict[str, int]:
            return {"run": next(numbers)}

    with TestClient(app) as client:
        for path in ("/raises", "/text", "/numbers"):
            states = [client.get(path).headers["cache-status"] for _ in range(2)]
            assert all('detail="function"' in state for state in states)
    assert "tags= raised KeyError" in warnings(caplog)[0]
    assert "tags= returned no list of str" in warnings(caplog)[1]


# -- which kind of function it is -----------------------------------------------------------------


def endpoint_of(item: int, response: Response) -> None: ...


def plain_endpoint(item: int) -> None: ...


def annotated(item: int, given: Response) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("endpoint", "tags", "takes_response"),
    [
        (plain_endpoint, lambda response: [], True),
        (plain_endpoint, lambda item, response: [], True),
        (plain_endpoint, annotated, True),
        (plain_endpoint, lambda item: [], False),
        (plain_endpoint, lambda *args, **kwargs: [], False),
        # It names what the endpoint is given.
        (endpoint_of, lambda item, response: [], False),
        (endpoint_of, annotated, True),
        (plain_endpoint, ("item:{item}",), False),
    ],
)
def test_the_function_is_known_by_its_parameters(
    endpoint: Any, tags: Any, takes_response: bool
) -> None:
    tagging = Tagging("name", inspect.signature(endpoint), tags, ())
    assert (tagging.of_response((1,), {}) is not None) is takes_response


def test_an_argument_that_the_endpoint_has_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'other'"):
        stream_cached(ttl=60, tags=lambda other, response: [])(plain_endpoint)
