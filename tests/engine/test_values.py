"""What is not a response is cached as in aiocache: `@cached` can be replaced without a flush."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import aiocache
import pytest
from aiocache import Cache, cached
from aiocache.plugins import BasePlugin, HitMissRatioPlugin, TimingPlugin
from aiocache.serializers import (
    JsonSerializer,
    MsgPackSerializer,
    NullSerializer,
    PickleSerializer,
    StringSerializer,
)
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from tests.conftest import Serve
from tests.support.asgi import get
from tests.support.http_client import fetch
from tests.support.logs import warnings
from tests.support.process import HOST
from tests.support.servers import MemcachedServer, RedisServer

HIT = "stream-cached; hit"
SERIALIZERS = ["JsonSerializer", "StringSerializer", "PickleSerializer", "MsgPackSerializer"]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.fixture(params=["memory", "redis", "memcached"])
def backend(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The backend's part of a `caches.set_config`."""
    if request.param == "memory":
        Cache.MEMORY._cache = {}  # all instances share it
        return {"cache": "aiocache.SimpleMemoryCache"}
    request.getfixturevalue(f"{request.param}_url")
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"{request.param}_server")
    name = "RedisCache" if request.param == "redis" else "MemcachedCache"
    return {"cache": f"aiocache.{name}", "endpoint": "127.0.0.1", "port": server.port}


@pytest.fixture
def configure(backend: dict[str, Any]) -> Iterator[Callable[..., None]]:
    """Configure the alias `default` over each kind of backend."""

    def set_config(serializer: str = "PickleSerializer", **settings: Any) -> None:
        options: dict[str, Any] = {"class": f"aiocache.serializers.{serializer}"}
        if serializer == "MsgPackSerializer":  # aiocache would decode what it reads
            options["encoding"] = None
        alias = {**backend, "serializer": options, **settings}
        aiocache.caches.set_config({"default": alias})

    before = aiocache.caches.get_config()
    yield set_config
    aiocache.caches.set_config(before)


PLUGINS = [{"class": f"aiocache.plugins.{name}"} for name in ("HitMissRatioPlugin", "TimingPlugin")]


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_plain_values_and_responses_live_in_one_alias_with_any_serializer(
    configure: Callable[..., None], serializer: str
) -> None:
    configure(serializer, namespace="app:", plugins=PLUGINS)

    async def test() -> None:
        numbers = itertools.count()

        @stream_cached(ttl=60, alias="default")
        async def value(name: str) -> int:
            return next(numbers)

        @stream_cached(ttl=60, alias="default")
        async def endpoint(request: Request) -> Response:
            return StreamingResponse(iter([b"\x00\xff binary ", str(next(numbers)).encode()]))

        # StringSerializer gives back a str.
        assert [str(await value(name)) for name in "aab"] == ["0", "0", "1"]
        app = Starlette(routes=[Route("/", endpoint)])
        miss, hit = await get(app), await get(app)
        assert hit.cache_status == HIT
        assert hit.body == miss.body == b"\x00\xff binary 2"

        cache = aiocache.caches.get("default")
        assert value.cache is endpoint.cache is cache
        assert cache.hit_miss_ratio == {"total": 5, "hits": 2, "hit_ratio": 0.4}
        assert cache.profiling["get_total"] == 5
        assert cache.profiling["set_total"] == 3
        await cache.close()

    run(test)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("serializer", "values"),
    [
        ("PickleSerializer", [{"a": [1, (2, 3)]}, None, b"\xff", 0, ""]),
        ("JsonSerializer", [{"a": [1, {"b": "ü"}]}, None, 0, "", [], 1.5]),
        ("MsgPackSerializer", [[1, [2, b"\xff"]], 0, b""]),
    ],
)
@pytest.mark.parametrize("key", [{}, {"key": "fixed"}, {"key_builder": lambda f, x: f"built {x}"}])
def test_what_aiocache_has_stored_is_a_hit_and_the_other_way_round(
    configure: Callable[..., None], serializer: str, values: list[Any], key: dict[str, Any]
) -> None:
    configure(serializer)

    async def test() -> None:
        runs: list[Any] = []

        async def function(x: int) -> Any:
            runs.append(x)
            return values[x % len(values)]

        old = cached(ttl=60, alias="default", **key)(function)
        new = stream_cached(ttl=60, alias="default", **key)(function)
        cache = aiocache.caches.get("default")
        for number, (first, second) in enumerate([(old, new), (new, old)] * len(values)):
            x = number // 2
            await cache.delete(cached(**key).get_cache_key(function, (x,), {}))
            wanted = values[x]
            runs.clear()
            assert await first(x) == wanted
            assert await second(x) == wanted
            # As in aiocache, what comes back as None is a miss.
            assert len(runs) == (2 if wanted is None else 1)
        await cache.close()

    run(test)


@pytest.mark.parametrize("serializer", ["NullSerializer", "StringSerializer"])
def test_an_empty_text_is_a_value(configure: Callable[..., None], serializer: str) -> None:
    """In the store, it is no bytes at all."""
    configure(serializer)
    runs: list[str] = []

    async def note(name: str) -> str:
        runs.append(name)
        return ""

    async def test() -> None:
        function: Any = stream_cached(ttl=60, alias="default")(note)
        assert [await function("a") for _ in range(3)] == [""] * 3

    run(test)
    assert len(runs) == 1


@pytest.mark.parametrize(
    "serializer",
    [JsonSerializer(), StringSerializer(), PickleSerializer(), MsgPackSerializer(encoding=None)],
)
def test_a_class_with_its_keyword_arguments_works_as_in_aiocache(
    redis_server: RedisServer, redis_url: str, serializer: Any
) -> None:
    async def test() -> None:
        runs = itertools.count()

        @stream_cached(
            ttl=60,
            cache=Cache.REDIS,
            endpoint="127.0.0.1",
            port=redis_server.port,
            namespace="ns",
            serializer=serializer,
            plugins=[HitMissRatioPlugin(), TimingPlugin()],
        )
        async def value(x: str) -> int:
            return next(runs)

        assert [str(await value(x)) for x in "xxy"] == ["0", "0", "1"]
        assert value.cache.hit_miss_ratio["total"] == value.cache.profiling["get_total"] == 3
        assert value.cache.hit_miss_ratio["hits"] == 1
        await value.cache.close()

    run(test)


class Item(BaseModel):
    name: str
    run: int


def test_dicts_and_models_of_a_fastapi_endpoint_are_cached_as_they_are(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = itertools.count()
    settings: dict[str, Any] = {
        "ttl": 60,
        "cache": redis_url,
        "serializer": PickleSerializer(),
    }
    app = FastAPI()

    @app.get("/dict")
    @stream_cached(**settings)
    async def as_dict(name: str) -> dict[str, Any]:
        return {"name": name, "run": next(runs)}

    @app.get("/model")
    @stream_cached(**settings)
    async def as_model(name: str) -> Item:
        return Item(name=name, run=next(runs))

    @app.get("/none")
    @stream_cached(**settings)
    async def as_none(name: str) -> None:
        next(runs)

    port = serve(app).port
    for target in ("/dict", "/model"):
        answers = [fetch(port, f"{target}?name={name}") for name in "aab"]
        assert answers[0].status == 200
        assert answers[0].body == answers[1].body != answers[2].body
    assert [fetch(port, "/none?name=a").body for _ in range(2)] == [b"null"] * 2
    assert next(runs) == 6  # None is a miss, as in aiocache


def test_a_response_replaces_a_plain_value_under_its_key(serve: Serve, cache_url: str) -> None:
    plain = True

    @stream_cached(ttl=60, cache=cache_url, key="one")
    async def endpoint(request: Request) -> Any:
        return "plain" if plain else StreamingResponse(iter([b"stream"]))

    async def outer(request: Request) -> Response:
        switches = {"cache_read": "fresh" not in request.query_params}
        answer = await endpoint(request, **switches)
        return answer if isinstance(answer, Response) else Response(answer)

    port = serve(Starlette(routes=[Route("/", outer)])).port
    assert [fetch(port).body for _ in range(2)] == [b"plain"] * 2
    plain = False
    assert fetch(port).body == b"plain"
    assert fetch(port, "/?fresh").body == b"stream"
    assert fetch(port).header("Cache-Status") == HIT
    plain = True
    assert fetch(port, "/?fresh").body == b"plain"
    assert fetch(port).body == b"plain"


# -- what a user's own classes and functions do ----------------------------------------------------

_sizes = itertools.count(1 << 24)


def memory() -> str:
    """A store that no other test has: equal URLs share one."""
    return f"memory://?max_bytes={next(_sizes)}"


def test_a_plugin_that_raises_is_warned_of_once_whatever_it_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(BasePlugin):  # type: ignore[misc]
        async def post_get(self, client: Any, key: str, *args: Any, **kwargs: Any) -> None:
            raise ValueError(f"nothing is known of {key}")

    @stream_cached(ttl=60, cache=memory(), plugins=[Broken()])
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter([b"stream"]))

    async def test() -> None:
        app = Starlette(routes=[Route("/{number}", endpoint)])
        for number in range(3):
            miss, hit = await get(app, f"/{number}"), await get(app, f"/{number}")
            assert miss.body == hit.body == b"stream"
            assert hit.cache_status == HIT
        (warning,) = warnings(caplog)
        assert "the plugin Broken raised ValueError in a hook of get" in warning

    run(test)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("dumps", "of type dict could not be stored: LookupError. Let the function return what"),
        ("loads", "could not be read: LookupError. It counts as a miss"),
    ],
)
def test_a_serializer_that_raises_is_warned_of_with_what_follows(
    method: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(value: Any) -> Any:
        raise LookupError

    serializer = JsonSerializer()
    setattr(serializer, method, refuse)
    cache = Cache(Cache.MEMORY, serializer=serializer, namespace=method)

    @stream_cached(ttl=60, cache=cache)
    async def report() -> dict[str, int]:
        return {"rows": 1}

    async def test() -> None:
        for _ in range(3):
            assert await report() == {"rows": 1}
        (warning,) = warnings(caplog)
        assert told in warning

    run(test)


def test_a_value_that_cannot_be_signed_is_warned_of(
    redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"serializer": NullSerializer(), "secret": "s" * 32, "namespace": namespace}

    @stream_cached(ttl=60, cache=redis_url, **settings)
    async def report() -> dict[str, int]:
        return {"rows": 1}

    async def test() -> None:
        for _ in range(2):
            assert await report() == {"rows": 1}
        (warning,) = warnings(caplog)
        assert "the serializer returned dict, which can't be signed" in warning

    run(test)


@pytest.mark.parametrize("key", [None, "one"])
def test_a_value_whose_making_began_before_an_invalidation_is_not_stored(
    cache_url: str, key: str | None
) -> None:
    async def test() -> None:
        began, gate, state = asyncio.Event(), asyncio.Event(), "old"

        @stream_cached(ttl=60, key="one", cache=cache_url)
        async def report() -> dict[str, str]:
            seen = state
            began.set()
            await gate.wait()
            return {"state": seen}

        under_way = asyncio.ensure_future(report())
        await began.wait()
        state = "new"
        await report.invalidate(key=key)
        gate.set()
        assert await under_way == {"state": "old"}
        assert await report() == {"state": "new"}
        state = "newer"
        assert await report() == {"state": "new"}

    run(test)


def test_nested_values_are_counted_with_what_is_in_them() -> None:
    bound = 3 << 20

    @stream_cached(ttl=60, cache=f"memory://?max_bytes={bound}")
    async def value(number: int) -> dict[str, list[str]]:
        return {"rows": [f"{row} {number} ".ljust(1000, "y") for row in range(100)]}

    async def test() -> None:
        tracemalloc.start()
        try:
            for number in range(60):
                assert len((await value(number))["rows"]) == 100
                assert value.cache.memory.used <= bound
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 2 * bound
        finally:
            tracemalloc.stop()
        # The last ones are there.
        assert await value(59) is not None
        assert value.cache.memory.used > bound // 2

    run(test)


def test_a_subclass_may_keep_plain_values_where_it_likes() -> None:
    class Local(stream_cached):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.values: dict[str, Any] = {}

        async def get_from_cache(self, key: str) -> Any:
            return self.values.get(key)

        async def set_in_cache(self, key: str, value: Any) -> None:
            self.values[key] = value

    async def test() -> None:
        runs = itertools.count()
        local = Local(ttl=60, cache=memory())

        @local
        async def value(name: str) -> str:
            return f"{name} {next(runs)}"

        assert [await value(name) for name in "aab"] == ["a 0", "a 0", "b 1"]
        assert list(local.values.values()) == ["a 0", "b 1"]
        local.values.clear()
        assert await value("a") == "a 2"

    run(test)


def test_a_subclass_that_reads_plain_values_is_given_no_record() -> None:
    class Reading(stream_cached):
        async def get_from_cache(self, key: str) -> Any:
            return await super().get_from_cache(key)

    async def test() -> None:
        runs = itertools.count()

        @Reading(ttl=60, cache=memory())
        async def page() -> Response:
            return Response(f"{next(runs)}")

        assert [(await page()).body for _ in range(2)] == [b"0", b"0"]
        await page.invalidate()
        assert [(await page()).body for _ in range(2)] == [b"1", b"1"]

    run(test)


def refuse(key: str, namespace: str | None = None) -> str:
    raise RuntimeError("no key today")


@pytest.mark.parametrize("kind", [MemoryCache, aiocache.SimpleMemoryCache, aiocache.RedisCache])
def test_a_cache_that_can_not_build_its_keys_is_answered_without(
    kind: type[Any], redis_server: RedisServer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> Any:
        options = {"endpoint": HOST, "port": redis_server.port} if "Redis" in str(kind) else {}
        return kind(key_builder=refuse, **options)

    async def test() -> None:
        runs = itertools.count()

        @stream_cached(ttl=60, cache=make())
        async def endpoint(request: Request) -> Response:
            return StreamingResponse(iter([str(next(runs)).encode()]))

        @stream_cached(ttl=60, cache=make())
        async def value() -> int:
            return next(runs)

        app = Starlette(routes=[Route("/", endpoint)])
        answers = [await get(app) for _ in range(3)]
        assert [answer.body for answer in answers] == [b"0", b"1", b"2"]
        detail = 'stream-cached; fwd=bypass; detail="store"'
        assert [answer.cache_status for answer in answers] == [detail] * 3
        assert len(warnings(caplog)) == 1
        assert [await value() for _ in range(2)] == [3, 4]
        assert len(warnings(caplog)) == 2

    run(test)
