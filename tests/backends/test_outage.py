"""A Redis that ends or hangs, before, during and after a run: memory stands in for it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from stream_cached import Health, State, health, stream_cached
from stream_cached.backends import breaker
from stream_cached.backends.pending import MAX_KEYS
from tests.conftest import Serve
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, fetch, fetch_many
from tests.support.keyspace import Keyspace
from tests.support.runs import FALLBACK_HIT, FALLBACK_MISS, HIT, HeldRuns, Runs
from tests.support.servers import RedisServer

each_outage = pytest.mark.parametrize(("begin", "end"), [("stop", "start"), ("pause", "resume")])


def state_of(server: RedisServer) -> Health:
    """What this process knows of the server."""
    (state,) = [state for state in health() if f":{server.port}/" in state.store]
    return state


def wait_until_back(server: RedisServer) -> None:
    wait_until(lambda: state_of(server).available)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [record for record in caplog.records if record.name == "stream_cached"]
    return [(record.levelname, record.getMessage()) for record in records]


each_size = pytest.mark.parametrize("chunks", [1, 10], ids=["inline", "in segments"])


@each_outage
@each_size
def test_without_its_redis_an_endpoint_caches_in_memory_and_with_it_in_redis_again(
    serve: Serve,
    own_redis: RedisServer,
    chunks: int,
    begin: str,
    end: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "stream_cached")
    # On a busy machine the first request would give up before its ping has failed, and so keep its
    # answer in a memory that is not yet that of the outage.
    monkeypatch.setattr(breaker, "LEAST", 5)
    runs = Runs(chunks)
    port = serve(runs.app(own_redis.url(), retry_interval=0.05)).port
    getattr(own_redis, begin)()

    answers = [fetch(port, timeout=3) for _ in range(3)]

    assert all(map(runs.is_whole, answers))
    assert len(runs.bodies) == 1
    assert [answer.header("Cache-Status") for answer in answers] == [
        *(FALLBACK_MISS, FALLBACK_HIT, FALLBACK_HIT)
    ]
    state = state_of(own_redis)
    assert (state.state, state.available, state.requests) == (State.AWAY, False, 3)

    getattr(own_redis, end)()
    wait_until_back(own_redis)
    miss, hit = fetch(port), fetch(port)
    assert runs.is_whole(miss)
    assert hit.header("Cache-Status") == HIT
    assert hit.body == miss.body == runs.bodies[1]
    (gone, _), (back, _) = told(caplog)
    assert (gone, back) == ("WARNING", "INFO")
    assert "3 requests were answered without it" in told(caplog)[1][1]


@pytest.mark.matrix
@each_outage
@pytest.mark.parametrize("at", [0, 5, 10])
def test_a_redis_that_goes_in_mid_stream_costs_the_entry_only(
    serve: Serve, own_redis: RedisServer, begin: str, end: str, at: int
) -> None:
    runs = HeldRuns()
    runs.at = at
    port = serve(runs.app(own_redis.url(), retry_interval=0.05)).port
    with RawClient(port, timeout=4) as client:
        client.send()
        runs.reached.wait()
        getattr(own_redis, begin)()
        runs.gate.open()
        miss = client.read_all()
    assert (miss.complete, miss.error) == (True, None)
    assert miss.body == runs.bodies[0]

    wait_until(lambda: not state_of(own_redis).available)
    getattr(own_redis, end)()
    wait_until_back(own_redis)
    following, hit = fetch(port), fetch(port)
    assert runs.is_whole(following)
    assert hit.header("Cache-Status") == HIT
    assert hit.body == following.body
    keys = Keyspace(own_redis.port)
    assert not keys.without_ttl()


@each_outage
@each_size
def test_a_redis_that_goes_after_a_run_costs_a_run(
    serve: Serve, own_redis: RedisServer, chunks: int, begin: str, end: str
) -> None:
    runs = Runs(chunks)
    port = serve(runs.app(own_redis.url(), retry_interval=0.05)).port
    fetch(port)
    getattr(own_redis, begin)()

    without = [fetch(port, timeout=3) for _ in range(2)]

    assert all(map(runs.is_whole, without))
    assert len(runs.bodies) == 2
    getattr(own_redis, end)()
    wait_until_back(own_redis)
    following = fetch(port)
    assert runs.is_whole(following)
    # One that hung still has the entry, one that ended has lost it.
    assert (following.body == runs.bodies[0]) == (begin == "pause")


def test_a_redis_that_hangs_costs_one_request_a_time_out_and_the_others_nothing(
    serve: Serve, own_redis: RedisServer
) -> None:
    runs = Runs(1)
    port = serve(runs.app(own_redis.url(timeout=2), retry_interval=30)).port
    fetch(port)
    own_redis.pause()
    assert all(map(runs.is_whole, fetch_many(port, count=6)))

    # Much sooner than the Redis would be given up.
    assert fetch(port, timeout=1).header("Cache-Status") == FALLBACK_HIT


def test_without_a_fallback_requests_go_past_the_cache(
    serve: Serve, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs(1)
    port = serve(runs.app(own_redis.url(), fallback=False, retry_interval=0.05)).port
    own_redis.stop()

    answers = [fetch(port) for _ in range(3)]

    assert len({answer.body for answer in answers}) == 3
    assert answers[-1].header("Cache-Status") == 'stream-cached; fwd=bypass; detail="store"'
    assert len(told(caplog)) == 1
    assert state_of(own_redis).requests == 3
    own_redis.start()
    wait_until_back(own_redis)
    assert fetch(port).body == fetch(port).body


def test_what_memory_held_in_one_outage_is_not_served_in_the_next(
    serve: Serve, own_redis: RedisServer
) -> None:
    runs = Runs(1)
    port = serve(runs.app(own_redis.url(), retry_interval=0.05)).port
    for outage in (1, 2):
        own_redis.stop()
        assert {fetch(port).body for _ in range(2)} == {runs.bodies[-1]}
        assert len(runs.bodies) == outage
        own_redis.start()
        wait_until_back(own_redis)


@pytest.mark.matrix
@each_outage
@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_a_redis_that_goes_in_the_middle_of_a_hit_breaks_it_visibly(
    serve: Serve, own_redis: RedisServer, begin: str, end: str, replay: str
) -> None:
    runs = Runs(100)
    port = serve(runs.app(own_redis.url(), replay=replay, retry_interval=0.05)).port
    fetch(port)
    with RawClient(port, receive_buffer=1 << 16, timeout=4) as client:
        client.send()
        assert client.read_head().header("Cache-Status") == HIT
        getattr(own_redis, begin)()
        response = client.read_rest()
    assert not response.complete
    assert runs.bodies[0].startswith(response.body)

    assert runs.is_whole(fetch(port))
    getattr(own_redis, end)()
    wait_until_back(own_redis)
    assert runs.is_whole(fetch(port))


@each_size
def test_for_a_redis_that_is_full_memory_stands_in(
    serve: Serve, own_redis: RedisServer, chunks: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stream_cached")
    runs = Runs(chunks)
    port = serve(runs.app(own_redis.url(), retry_interval=0.05)).port
    fetch(port, "/?before")
    assert told(caplog) == []
    own_redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    own_redis.execute("CONFIG", "SET", "maxmemory", "1")

    # The first one finds out: its entry is lost, and its body is not.
    answers = [fetch(port, f"/?{number}") for number in (0, 0, 0, 1, 1)]

    assert all(map(runs.is_whole, answers))
    assert answers[1].body == answers[2].body
    assert answers[4].header("Cache-Status") == FALLBACK_HIT
    ((level, message),) = told(caplog)
    assert level == "WARNING"
    assert "OutOfMemory" in message
    own_redis.execute("CONFIG", "SET", "maxmemory", "0")
    wait_until_back(own_redis)
    assert runs.is_whole(fetch(port, "/?after"))
    level, message = told(caplog)[-1]
    assert (level, len(told(caplog))) == ("INFO", 2)
    assert "is back" in message
    assert fetch(port, "/?after").header("Cache-Status") == HIT
    assert not Keyspace(own_redis.port).without_ttl()


def test_a_redis_that_is_full_is_still_read_by_who_began_to(
    serve: Serve, own_redis: RedisServer
) -> None:
    runs = Runs(100)
    port = serve(runs.app(own_redis.url(), retry_interval=30)).port
    fetch(port)
    with RawClient(port, receive_buffer=1 << 16) as client:
        client.send()
        assert client.read_head().header("Cache-Status") == HIT
        own_redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        own_redis.execute("CONFIG", "SET", "maxmemory", "1")
        fetch(port, "/?other")
        assert not state_of(own_redis).available
        hit = client.read_rest()
    assert hit.complete
    assert hit.body == runs.bodies[0]


# -- invalidation while it is away ----------------------------------------------------------------


@each_outage
@pytest.mark.parametrize("how", ["all", "by key"])
def test_an_invalidation_is_carried_out_before_the_redis_is_used_again(
    serve: Serve, own_redis: RedisServer, begin: str, end: str, how: str
) -> None:
    runs = Runs(1)
    settings = {"key": "report"} if how == "by key" else {}
    app = runs.app(own_redis.url(), retry_interval=0.05, **settings)
    (route,) = app.routes
    endpoint: Any = route.endpoint  # type: ignore[attr-defined]
    server = serve(app)
    fetch(server.port)
    getattr(own_redis, begin)()
    assert fetch(server.port, timeout=3).body == fetch(server.port).body == runs.bodies[1]

    done = server.run(endpoint.invalidate(key="report" if how == "by key" else None))

    assert done is False
    # At once for what stands in, later for the Redis itself.
    assert fetch(server.port).body == fetch(server.port).body == runs.bodies[2]
    getattr(own_redis, end)()
    wait_until_back(own_redis)
    assert state_of(own_redis).invalidations == 0
    assert fetch(server.port).body == fetch(server.port).body == runs.bodies[3]
    assert server.run(endpoint.invalidate()) is True


def test_more_invalidations_than_are_kept_refuse_everything_older(
    serve: Serve, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    @stream_cached(
        ttl=60,
        cache=own_redis.url(),
        retry_interval=0.05,
        key_builder=lambda f, request: f"report:{request.query_params['n']}",
    )
    async def endpoint(request: Request) -> Response:
        number = request.query_params["n"]
        calls.append(number)
        answer = f"{number}: {len(calls)}"
        return JSONResponse(answer) if number.startswith("value") else PlainTextResponse(answer)

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    names = ("one", "other")
    for name in names:
        fetch(server.port, f"/?n={name}")
    own_redis.pause()
    fetch(server.port, "/?n=third", timeout=3)

    async def invalidate_many() -> None:
        for number in range(MAX_KEYS + 1):
            await endpoint.invalidate(key=f"report:{number}")

    server.run(invalidate_many(), timeout=60)

    assert state_of(own_redis).invalidations == 1
    own_redis.resume()
    wait_until_back(own_redis)
    assert [fetch(server.port, f"/?n={name}").text for name in names] == ["one: 4", "other: 5"]
