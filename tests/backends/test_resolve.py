"""Mistakes are refused with the fix; a cache works in any loop, thread and process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, cast

import aiocache
import pytest
from aiocache.serializers import PickleSerializer
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router

from stream_cached import ConfigurationError, MemoryCache, stream_cached
from stream_cached.backends.resolve import resolve_cache
from stream_cached.checks import parse_size
from tests.support.asgi import get
from tests.support.process import ROOT
from tests.support.servers import RedisServer

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"
BYPASS = 'stream-cached; fwd=bypass; detail="store"'


async def report(request: Request) -> Response:
    return StreamingResponse(iter(["a", "b"]))


def router(**settings: Any) -> Router:
    return Router([Route("/", stream_cached(**{"ttl": 60, **settings})(report))])


async def twice(app: Router) -> list[str]:
    return [(await get(app)).cache_status for _ in range(2)]


def resolve(url: str) -> Any:
    return resolve_cache(url, options={})


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ttl": 0}, ["ttl=0", "above 0", "None"]),
        ({"ttl": -1}, ["ttl=-1", "above 0"]),
        ({"ttl": -0.0}, ["above 0"]),
        ({"ttl": math.nan}, ["ttl=nan", "above 0"]),
        ({"ttl": math.inf}, ["ttl=inf", "None"]),
        ({"ttl": True}, ["ttl=True", "above 0"]),
        ({"ttl": "60"}, ["ttl='60'", "above 0"]),
        ({"key": 5}, ["key=5"]),
        ({"key_builder": "key"}, ["key_builder='key'", "pass a function"]),
        ({"skip_cache_func": None}, ["skip_cache_func=None", "pass a function"]),
        ({"skip_cache_func": True}, ["skip_cache_func=True", "pass a function"]),
        ({"vary": "Accept"}, ["vary=('Accept',)"]),
        ({"vary": ("Accept Language",)}, ["'Accept Language'"]),
        ({"vary": ("Sprache-ä",)}, ["'Sprache-ä'"]),
        ({"vary": ("",)}, ["no name of a header"]),
        ({"vary": ("*",)}, ["'*'"]),
        ({"vary": {"Accept": "lower"}}, ["vary['Accept']", "function"]),
        ({"key_builder": report}, ["key_builder=", "coroutine", "returns at once"]),
        ({"skip_cache_func": report}, ["skip_cache_func=", "coroutine", "returns at once"]),
        ({"vary": {"Accept": report}}, ["vary['Accept']", "coroutine", "returns at once"]),
        ({"key_builder": functools.partial(report)}, ["key_builder=", "coroutine"]),
        ({"methods": "GET"}, ["methods='GET'", '("GET", "POST")']),
        ({"methods": ()}, ["methods=()"]),
        ({"statuses": ()}, ["statuses=()"]),
        ({"statuses": (99,)}, ["statuses="]),
        ({"statuses": (200, 206)}, ["206"]),
        ({"statuses": (304,)}, ["304"]),
        ({"max_body": 0}, ["max_body=0", "1 or more"]),
        ({"max_body": "64 MeB"}, ["max_body='64 MeB'", "64MiB"]),
        ({"max_body": 1.5}, ["max_body=1.5"]),
        ({"max_duration": 0}, ["max_duration=0"]),
        ({"max_duration": math.inf}, ["max_duration=inf"]),
        ({"max_pending": 1}, ["max_pending=1"]),
        ({"max_variants": 0}, ["max_variants=0"]),
        ({"max_variants": 10_001}, ["max_variants=10001", "10,000 at the most"]),
        ({"inline_max": -1}, ["inline_max=-1"]),
        ({"finish_timeout": -1}, ["finish_timeout=-1"]),
        ({"replay": "slow"}, ["replay='slow'", '"exact"']),
        ({"cache": None}, ["stream-cached[redis]", "stream-cached[memcached]"]),
        ({"cache": 5}, ["cache=5", "URL"]),
        ({"cache": dict}, ["no cache"]),
        ({"max_boddy": 5}, ["unknown parameter 'max_boddy'"]),
        ({"cache": "memory://", "endpoint": "a"}, ["unknown parameter 'endpoint'", "query"]),
        ({"cache": MemoryCache, "endpoint": "a"}, ["MemoryCache does not accept", "endpoint"]),
        ({"cache": aiocache.RedisCache, "port": "none"}, ["RedisCache does not accept", "none"]),
    ],
)
def test_a_mistake_is_refused_at_decoration(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        stream_cached(**settings)(report)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", ["unknown scheme"]),
        ("localhost:6379", ["unknown scheme", "redis://"]),
        ("mysql://localhost", ["unknown scheme", "memcached://"]),
        ("Redis.://localhost", ["unknown scheme"]),
        ("redis://localhost:port/0", ["can't be parsed"]),
        ("redis://localhost:99999/0", ["can't be parsed"]),
        ("redis://[::1/0", ["can't be parsed"]),
        ("redis://localhost/zero", ["no database number"]),
        ("redis://localhost/0/1", ["no database number"]),
        ("redis://localhost/0?db=one", ["db=one"]),
        ("redis://localhost/0?timeout=soon", ["timeout=soon"]),
        ("redis://localhost/0?timeout=-1", ["timeout=-1"]),
        ("redis://localhost/0?timeout=nan", ["timeout=nan"]),
        ("redis://localhost/0?ssl=maybe", ["ssl=maybe", "neither true nor false"]),
        ("redis://localhost/0?pool_max_size=-1", ["positive"]),
        ("redis://localhost/0?max_bytes=5", ["unknown option 'max_bytes'", "pool_max_size"]),
        ("redis://localhost/0?ttl=0", ["ttl=0"]),
        ("memcached://localhost?db=1", ["unknown option 'db'", "pool_size"]),
        ("memory://host", ["no host"]),
        ("memory:///path", ["no path"]),
        ("memory://?max_bytes=0", ["max_bytes=0"]),
        ("memory://?max_bytes=1TB", ["max_bytes=1TB", "64MiB"]),
        ("memory://?max_bytes=-5", ["max_bytes=-5"]),
        ("memory://?size=5", ["unknown option 'size'", "max_bytes"]),
        ("memory://?ttl=-1", ["ttl=-1"]),
    ],
)
def test_a_url_that_can_not_work_is_refused_at_decoration(url: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        stream_cached(cache=url)(report)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://user:hunter2@localhost",
        "redis://user:hunter2@localhost/zero",
        "redis://user:hunter2@localhost/0?size=1",
        "redis://user:hunter2@localhost:port/0",
        "redis://user:hunter2/@localhost/0",
        "redis://user:hunter2/1@localhost/0",
        "redis://user:hunter2?@localhost/0",
        "redis://user:hunter2#@localhost/0",
        "redis://user:a@hunter2@localhost/zero",
        "redis://user:1/hunter2@localhost/0",
        "redis://localhost/zero?password=hunter2",
        "redis://localhost/0?db=x&password=hunter2",
        "memcached://user:hunter2@localhost?db=1",
        "memory://user:hunter2@",
    ],
)
def test_a_password_is_in_no_message(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        resolve(url)
    assert "hunter2" not in f"{refused.value} {refused.value!r}"
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("backend", "url"),
    [
        ("RedisCache", "redis://localhost/77"),
        ("RedisCache", "rediss://localhost/77"),
        ("RedisCache", "unix:///no/such/socket"),
        ("MemcachedCache", "memcached://localhost:77"),
    ],
)
def test_a_missing_client_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, backend: str, url: str
) -> None:
    monkeypatch.delattr(aiocache, backend)
    extra = "redis" if backend == "RedisCache" else "memcached"
    with pytest.raises(ConfigurationError, match=rf"pip install 'stream-cached\[{extra}\]'"):
        stream_cached(cache=url)(report)


def test_the_embedded_memory_works_without_any_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(aiocache, "RedisCache")
    monkeypatch.delattr(aiocache, "MemcachedCache")
    assert asyncio.run(twice(router(cache="memory://?max_bytes=9MiB"))) == [MISS, HIT]


class Service:
    async def get(self, request: Request) -> Response:
        return Response()


@pytest.mark.parametrize(
    ("decorated", "words"),
    [
        (Service, ["Service", "methods"]),
        (Route("/", report), ["below the route decorator"]),
        (5, ["with parentheses"]),
        (None, ["with parentheses"]),
        (classmethod(cast(Any, report)), ["report: write @classmethod above @stream_cached"]),
        (property(report), ["report: write @property above @stream_cached"]),
        (functools.cached_property(report), ["write @cached_property above @stream_cached"]),
        (functools.partialmethod(report), ["write @partialmethod above @stream_cached"]),
    ],
)
def test_what_can_not_be_decorated_is_refused_with_a_guess(
    decorated: Any, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        stream_cached(ttl=60)(decorated)
    for word in words:
        assert word in str(refused.value)


def test_the_decorator_without_parentheses_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"@stream_cached\(ttl=60\), with parentheses"):

        @stream_cached  # type: ignore[arg-type]
        async def endpoint(request: Request) -> Response:
            return Response()


@pytest.mark.parametrize("name", ["cache_read", "cache_write", "aiocache_wait_for_write"])
def test_a_parameter_that_is_a_switch_is_refused(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"async def endpoint(*, {name}): ...", scope)
    with pytest.raises(ConfigurationError, match=f"parameter {name}.*another name"):
        stream_cached(ttl=60)(scope["endpoint"])


# -- URLs -------------------------------------------------------------------------------------


def pool_of(cache: Any) -> dict[str, Any]:
    return dict(cache.client.connection_pool.connection_kwargs)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1", 1), ("1048576", 2**20), ("64MiB", 2**26), ("64 mib", 2**26), ("1GB", 10**9)),
        *(("1kb", 1000), ("1KiB", 1024), ("2gib", 2**31), (" 5b ", 5)),
    ],
)
def test_a_size_may_have_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert resolve(f"memory://?max_bytes={text}&namespace=size").memory.max_bytes == size


@pytest.mark.parametrize("text", ["", "0", "0MiB", "-1", "1.5MiB", "MiB", "1 MiB B", "1TiB", "²"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size in bytes"):
        parse_size(text)


def test_the_values_of_a_query_become_what_they_mean() -> None:
    cache = resolve(
        "redis://localhost:7000/3?pool_max_size=7&timeout=1.5&ttl=90&namespace=a%26b&ssl=false"
        "&create_connection_timeout=0.25"
    )
    assert (cache.endpoint, cache.port, cache.db) == ("localhost", 7000, 3)
    assert (cache.timeout, cache.ttl, cache.namespace) == (1.5, 90.0, "a&b")
    pool = cache.client.connection_pool
    assert pool.max_connections == 7
    assert pool.connection_class.__name__ == "Connection"
    assert pool_of(cache)["socket_connect_timeout"] == 0.25
    assert resolve("redis://localhost?db=4").db == 4


@pytest.mark.parametrize(
    ("url", "is_ssl"),
    [
        *(("redis://a", False), ("redis://a?ssl=0", False), ("redis://a?ssl=No", False)),
        *(("redis://a?ssl=off", False), ("redis://a?ssl=TRUE", True), ("redis://a?ssl=1", True)),
        *(("redis://a?ssl", True), ("rediss://a", True), ("rediss://a?ssl=false", True)),
    ],
)
def test_ssl_is_what_the_scheme_or_the_query_says(url: str, is_ssl: bool) -> None:
    pool = resolve(url).client.connection_pool
    assert (pool.connection_class.__name__ == "SSLConnection") is is_ssl


def test_tls_options_reach_the_connection() -> None:
    cache = resolve("rediss://a/1?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_ca_certs=%2Fca.pem")
    options = pool_of(cache)
    assert options["ssl_cert_reqs"] == "none"
    assert options["ssl_check_hostname"] is False
    assert options["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("redis://us%40er:p%2Fw%3A%25@localhost", "us@er", "p/w:%"),
        ("redis://:p%2540w@localhost", None, "p%40w"),
        ("redis://localhost?username=u%2540&password=p%2540", "u%40", "p%40"),
        ("redis://a:b@localhost?username=other", "other", "b"),
        ("redis://localhost/5", None, None),
    ],
)
def test_user_and_password_are_decoded_once(
    url: str, username: str | None, password: str | None
) -> None:
    options = pool_of(resolve(url))
    assert (options.get("username"), options.get("password")) == (username, password)


def test_what_a_url_leaves_out_has_a_default() -> None:
    redis, memcached = resolve("redis://"), resolve("memcached://")
    assert (redis.endpoint, redis.port, redis.db, redis.timeout) == ("127.0.0.1", 6379, 0, 0.5)
    assert (memcached.endpoint, memcached.port, memcached.timeout) == ("127.0.0.1", 11211, 0.5)
    memcached = resolve("memcached://host:11300/?pool_size=3&timeout=0")
    assert (memcached.endpoint, memcached.port) == ("host", 11300)
    assert (memcached.pool_size, memcached.timeout) == (3, 0.0)


@pytest.mark.parametrize("url", ["redis://shared/9", "memcached://shared", "memory://?ttl=99"])
def test_equal_urls_share_one_client(url: str) -> None:
    one, other = (stream_cached(cache=url)(report).cache for _ in range(2))
    assert one is other
    with_serializer = stream_cached(cache=url, serializer=PickleSerializer())(report).cache
    assert with_serializer is not one
    assert isinstance(with_serializer.serializer, PickleSerializer)
    assert not isinstance(one.serializer, PickleSerializer)
    if hasattr(one, "client"):
        assert with_serializer.client is one.client
    else:
        assert with_serializer.memory is one.memory
    assert resolve(f"{url}{'&' if '?' in url else '?'}namespace=x") is not one


def test_the_settings_of_the_decorator_leave_an_instance_as_it_is() -> None:
    cache = MemoryCache(namespace="its own")
    endpoint = stream_cached(cache=cache, namespace="other")(report)
    assert (cache.namespace, endpoint.cache.namespace) == ("its own", "other")


def test_a_class_takes_its_keyword_arguments() -> None:
    cached = stream_cached(cache=MemoryCache, max_bytes=2**20, namespace="n")(report)
    assert isinstance(cached.cache, MemoryCache)
    assert cached.cache.namespace == "n"


# -- aliases ----------------------------------------------------------------------------------


@pytest.fixture
def aliases() -> Iterator[Any]:
    before = aiocache.caches.get_config()
    yield aiocache.caches
    aiocache.caches.set_config(before)


def test_an_alias_may_be_configured_after_the_decoration(aliases: Any, namespace: str) -> None:
    app = router(alias="late")
    endpoint = stream_cached(ttl=60, alias="late")(report)
    assert endpoint.cache is None
    aliases.add("late", {"cache": "aiocache.SimpleMemoryCache", "namespace": namespace})
    assert asyncio.run(twice(app)) == [MISS, HIT]
    aliases.get("late")._cache.clear()


def test_a_known_alias_is_resolved_at_decoration(aliases: Any, namespace: str) -> None:
    aliases.add("early", {"cache": "aiocache.SimpleMemoryCache", "namespace": namespace})
    assert stream_cached(alias="early")(report).cache is aliases.get("early")


def test_an_alias_that_stays_unknown_is_said_at_the_first_use(aliases: Any) -> None:
    app = router(alias="nowhere")
    with pytest.raises(ConfigurationError, match=r"alias 'nowhere'.*caches\.set_config"):
        asyncio.run(get(app))


def test_settings_that_an_alias_makes_void_are_said(
    aliases: Any, caplog: pytest.LogCaptureFixture
) -> None:
    router(alias="default", namespace="n", endpoint="localhost")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "namespace= is ignored" in said
    assert "endpoint= is ignored" in said


# -- loops, threads, processes ----------------------------------------------------------------


def alias_of(url: str, namespace: str) -> dict[str, Any]:
    host, _, port = url.split("/")[2].partition(":")
    kind = "RedisCache" if url.startswith("redis") else "MemcachedCache"
    return {
        "cache": f"aiocache.{kind}",
        "endpoint": host,
        "port": int(port),
        "namespace": namespace,
    }


@pytest.fixture(params=["redis", "memcached"])
def server_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["url", "alias", "instance"])
def on_server(
    request: pytest.FixtureRequest, aliases: Any, server_url: str, namespace: str
) -> dict[str, Any]:
    """A cache on a server, named in each way that there is."""
    match request.param:
        case "url":
            return {"cache": f"{server_url}?namespace={namespace}"}
        case "alias":
            aliases.add(namespace, alias_of(server_url, namespace))
            return {"alias": namespace}
        case _:
            options = alias_of(server_url, namespace)
            return {"cache": getattr(aiocache, options.pop("cache").split(".")[1])(**options)}


def test_a_new_loop_gets_a_client_of_its_own_and_leaves_no_connection_open(
    on_server: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = router(**on_server)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        results = [asyncio.run(twice(app)) for _ in range(3)]
        gc.collect()
    assert results == [[MISS, HIT], [HIT, HIT], [HIT, HIT]]
    assert [str(warning.message) for warning in seen if warning.category is ResourceWarning] == []
    assert caplog.records == []


def in_threads(number: int, app: Router, rounds: int) -> list[list[str]]:
    """What loops in as many threads get, all of them alive until the last is done."""
    together = threading.Barrier(number, timeout=30)
    results: list[list[str]] = []

    def work() -> None:
        async def ask() -> list[str]:
            seen = []
            for _ in range(rounds):
                seen.append((await get(app)).cache_status)
                await asyncio.to_thread(together.wait)
            return seen

        results.append(asyncio.run(ask()))

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_loops_in_several_threads_work_at_once(
    on_server: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    results = in_threads(3, router(**on_server), 10)
    assert len(results) == 3
    assert {status for result in results for status in result[1:]} == {HIT}
    assert caplog.records == []


def test_a_loop_that_ends_leaves_the_others_their_connections(on_server: dict[str, Any]) -> None:
    app = router(**on_server)
    first_is_up, other_is_up, first_is_gone, next_is_up = (threading.Event() for _ in range(4))
    results: dict[str, list[str]] = {}

    def first() -> None:
        async def ask() -> list[str]:
            seen = await twice(app)
            first_is_up.set()
            await asyncio.to_thread(other_is_up.wait, 30)
            return seen

        results["first"] = asyncio.run(ask())
        first_is_gone.set()

    def other() -> None:
        async def ask() -> list[str]:
            await asyncio.to_thread(first_is_up.wait, 30)
            seen = await twice(app)
            clients = clients_of(app)
            other_is_up.set()
            await asyncio.to_thread(next_is_up.wait, 30)
            seen += await twice(app)
            assert clients_of(app) == clients
            return seen

        results["other"] = asyncio.run(ask())

    def following() -> None:
        async def ask() -> list[str]:
            seen = await twice(app)
            next_is_up.set()
            return seen

        first_is_gone.wait(30)
        results["next"] = asyncio.run(ask())

    threads = [threading.Thread(target=work) for work in (first, other, following)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"first": [MISS, HIT], "other": [HIT] * 4, "next": [HIT, HIT]}


def clients_of(app: Router) -> int:
    """The identity of the client that the running loop uses."""
    from stream_cached.backends.binding import Binding

    (route,) = app.routes
    assert isinstance(route, Route)
    return id(Binding(route.endpoint.cache).primary.cache.client)  # type: ignore[attr-defined]


_FORK = """
import asyncio, os, sys
from tests.backends.test_resolve import router, twice

app = router(cache=sys.argv[1])
where = sys.argv[2]

def child():
    try:
        print("child", asyncio.run(twice(app)), flush=True)
    except BaseException as exc:
        print("child", repr(exc), flush=True)
    finally:
        os._exit(0)

async def main():
    print("parent", await twice(app), flush=True)
    if where == "inside":
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(None)
            child()
        await asyncio.to_thread(os.waitpid, pid, 0)
    print("parent", await twice(app), flush=True)

asyncio.run(main())
if where == "after":
    pid = os.fork()
    if not pid:
        child()
    os.waitpid(pid, 0)
print("parent", asyncio.run(twice(app)), flush=True)
"""


@pytest.mark.matrix(share=2)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("where", ["inside", "after"])
def test_a_fork_works_and_leaves_its_parent_alone(
    server_url: str, namespace: str, where: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-c", _FORK),
            # A machine that is busy is no outage.
            *(f"{server_url}?namespace={namespace}&timeout=5", where),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert sorted(lines) == sorted(
        [f"child {[HIT, HIT]}", f"parent {[MISS, HIT]}", *[f"parent {[HIT, HIT]}"] * 2]
    ), done.stderr
    assert "fails" not in done.stderr


_FORK_WITH_A_LOOP = """
import asyncio, os, sys
from tests.backends.test_resolve import clients_of, router, twice

async def client():
    return clients_of(app)

app = router(cache=sys.argv[1])
loop = asyncio.new_event_loop()
loop.run_until_complete(twice(app))
before = loop.run_until_complete(client())
pid = os.fork()
if not pid:
    print(loop.run_until_complete(client()) != before, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(loop.run_until_complete(client()) == before, loop.run_until_complete(twice(app)))
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
"""


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_that_goes_on_with_its_parents_loop_has_another_client(
    server_url: str, namespace: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK_WITH_A_LOOP, f"{server_url}?namespace={namespace}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["True", f"True {[HIT, HIT]}"], done.stderr


@pytest.fixture
def unix_url() -> Iterator[str]:
    """The address of a Redis that listens on a socket in the file system, too."""
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(
            _redis_or_skip(*("--unixsocket", "redis.sock", "--unixsocketperm", "700"))
        )
        yield f"unix://{probe.directory}/redis.sock"


def _redis_or_skip(*options: str) -> RedisServer:
    from tests.conftest import server_or_skip

    class OnSocket(RedisServer):
        def __init__(self) -> None:
            super().__init__(*options)

    return server_or_skip(OnSocket)


def test_a_socket_in_the_file_system_is_an_address(unix_url: str, namespace: str) -> None:
    app = router(cache=f"{unix_url}?namespace={namespace}&db=2")
    assert [asyncio.run(twice(app)) for _ in range(2)] == [[MISS, HIT], [HIT, HIT]]


def test_a_server_that_is_not_there_costs_the_entry_only(caplog: pytest.LogCaptureFixture) -> None:
    app = router(cache="unix:///no/such/socket", fallback=False)
    assert asyncio.run(twice(app)) == [BYPASS, BYPASS]
    assert len(caplog.records) == 1
