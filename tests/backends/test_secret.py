"""`secret=`: what others can write to a Redis is never served, nor handed to a serializer."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from aiocache.plugins import HitMissRatioPlugin
from aiocache.serializers import JsonSerializer, PickleSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import ConfigurationError, stream_cached
from tests.conftest import Serve
from tests.support.http_client import fetch
from tests.support.keyspace import Keyspace
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS, Runs
from tests.support.servers import RedisServer

pytestmark = pytest.mark.usefixtures("apps_are_processes")

OLD, NEW = "the secret of yesterday", b"the secret of today"


@pytest.fixture
def redis_url(redis_url: str) -> str:
    """A machine that is busy is no outage."""
    return f"{redis_url}?timeout=5"


@pytest.fixture
def keys(redis_server: RedisServer, redis_url: str) -> Keyspace:
    return Keyspace(redis_server.port)


@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
def test_signed_entries_are_hits_for_all_who_have_the_secret(
    serve: Serve, redis_url: str, chunks: int
) -> None:
    runs = Runs(chunks)
    ports = [serve(runs.app(redis_url, key_host=False, secret=OLD)).port for _ in range(2)]
    miss, hit = fetch(ports[0]), fetch(ports[1])
    assert (miss.header("Cache-Status"), hit.header("Cache-Status")) == (MISS, HIT)
    assert miss.body == hit.body == runs.bodies[0]


@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
@pytest.mark.parametrize("secret", [None, NEW], ids=["unsigned", "of another secret"])
def test_what_is_not_signed_by_the_secret_is_a_miss(
    serve: Serve, redis_url: str, chunks: int, secret: Any
) -> None:
    runs = Runs(chunks)
    planted = serve(runs.app(redis_url, key_host=False, secret=secret)).port
    port = serve(runs.app(redis_url, key_host=False, secret=OLD)).port
    fetch(planted)
    miss, hit = fetch(port), fetch(port)
    assert (miss.header("Cache-Status"), hit.header("Cache-Status")) == (MISS, HIT)
    assert hit.body == runs.bodies[1]


@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
def test_secrets_can_be_rotated_without_a_miss(serve: Serve, redis_url: str, chunks: int) -> None:
    runs = Runs(chunks)

    def status(secret: Any) -> str | None:
        port = serve(runs.app(redis_url, key_host=False, secret=secret)).port
        answer = fetch(port)
        assert runs.is_whole(answer)
        return answer.header("Cache-Status")

    assert status(OLD) == MISS
    assert status((NEW, OLD)) == HIT
    assert status((OLD, NEW)) == HIT
    assert status(NEW) == MISS
    assert status((OLD, NEW)) == HIT


@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
def test_nothing_that_is_altered_in_the_redis_is_served(
    serve: Serve, keys: Keyspace, redis_url: str, chunks: int
) -> None:
    runs = Runs(chunks)
    port = serve(runs.app(redis_url, secret=OLD)).port
    fetch(port)
    for key, value in keys.all().items():
        for at in (0, 20, len(value) // 2, len(value) - 1):
            keys.set(key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
            answer = fetch(port)
            assert runs.is_whole(answer) or not answer.complete
            assert runs.is_whole(fetch(port))
            assert fetch(port).header("Cache-Status") == HIT


# -- plain values ---------------------------------------------------------------------------------


class Trap:
    """What a pickle runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def values_app(url: str, **settings: Any) -> Starlette:
    numbers = itertools.count()

    @stream_cached(ttl=60, cache=url, key_host=False, **settings)
    async def value(request: Request) -> dict[str, int]:
        return {"run": next(numbers)}

    async def endpoint(request: Request) -> Response:
        return JSONResponse(await value(request))

    return Starlette(routes=[Route("/{name}", endpoint)])


@pytest.mark.parametrize("serializer", [JsonSerializer, PickleSerializer])
def test_plain_values_are_signed_too(
    serve: Serve, keys: Keyspace, redis_url: str, serializer: Any, tmp_path: Path
) -> None:
    plugin = HitMissRatioPlugin()
    settings = {"serializer": serializer(), "plugins": [plugin]}
    port = serve(values_app(redis_url, secret=OLD, **settings)).port
    assert [json.loads(fetch(port, "/a").body) for _ in range(3)] == [{"run": 0}] * 3

    trap = tmp_path / "sprung"
    (key,) = [key for key in keys.all() if ":version:" not in key]
    for planted in (pickle.dumps(Trap(trap)), b'{"run": 666}', b"\x80", b""):
        keys.set(key, planted)
        runs = [json.loads(fetch(port, "/a").body)["run"] for _ in range(2)]
        assert runs[0] == runs[1] != 666
    assert not trap.exists()


def test_a_plain_value_is_not_taken_from_another_key(
    serve: Serve, keys: Keyspace, redis_url: str
) -> None:
    port = serve(values_app(redis_url, secret=OLD)).port
    for target in ("/a", "/b"):
        fetch(port, target)
    (one, a), (other, b) = [(k, v) for k, v in keys.all().items() if ":version:" not in k]
    keys.set(one, b)
    keys.set(other, a)
    assert {json.loads(fetch(port, target).body)["run"] for target in ("/a", "/b")} == {2, 3}


def test_signed_plain_values_go_by_the_version_of_their_endpoint(
    serve: Serve, redis_url: str
) -> None:
    numbers = itertools.count()

    @stream_cached(ttl=60, cache=redis_url, secret=OLD)
    async def value(name: str) -> int:
        return next(numbers)

    async def ask(request: Request) -> Response:
        if request.query_params:
            await value.invalidate()
        return JSONResponse(await value("a"))

    port = serve(Starlette(routes=[Route("/", ask)])).port
    targets = ("/", "/", "/?invalidate=1", "/")
    assert [json.loads(fetch(port, target).body) for target in targets] == [0, 0, 1, 1]


def test_while_the_redis_is_away_values_are_kept_in_memory(
    serve: Serve, own_redis: RedisServer
) -> None:
    own_redis.stop()
    port = serve(values_app(own_redis.url(), secret=OLD)).port
    assert [json.loads(fetch(port, "/a").body) for _ in range(3)] == [{"run": 0}] * 3


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", b"", (), ("good enough", ""), 5, ("good enough", 5), [[]]])
def test_a_secret_that_is_none_is_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        stream_cached(ttl=60, cache="redis://h", secret=secret)
    assert "good enough" not in str(refused.value)


def test_a_secret_that_can_be_guessed_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def endpoint(request: Request) -> Response:
        raise NotImplementedError

    stream_cached(ttl=60, cache="redis://h", secret=(NEW, "hunter2"))(endpoint)
    (warning,) = warnings(caplog)
    assert "fewer than 16 bytes" in warning
    assert "hunter2" not in warning


def test_in_memory_nothing_needs_to_be_signed(serve: Serve) -> None:
    @stream_cached(ttl=60, cache="memory://?max_bytes=3MiB", secret=OLD)
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter(["rows"]))

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    assert [fetch(port).header("Cache-Status") for _ in range(2)] == [MISS, HIT]
