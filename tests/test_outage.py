"""A Redis that ends or hangs, before, during and after a run: the endpoint goes on answering."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import Serve
from tests.gates import wait_until
from tests.http_client import RawClient, fetch
from tests.keyspace import Keyspace
from tests.runs import CHUNK, HIT, HeldRuns, Runs, segments
from tests.servers import RedisServer

each_outage = pytest.mark.parametrize(("begin", "end"), [("stop", "start"), ("pause", "resume")])
each_size = pytest.mark.parametrize("chunks", [1, 10], ids=["inline", "in segments"])


@each_outage
@each_size
def test_without_its_redis_an_endpoint_answers_and_with_it_caches_again(
    serve: Serve,
    own_redis: RedisServer,
    chunks: int,
    begin: str,
    end: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = Runs(chunks)
    port = serve(runs.app(own_redis.url())).port
    getattr(own_redis, begin)()

    answers = [fetch(port, timeout=3) for _ in range(3)]

    assert all(map(runs.is_whole, answers))
    assert len({answer.body for answer in answers}) == 3
    warnings = [r for r in caplog.records if r.name == "stream_cached" and r.levelname == "WARNING"]
    assert len(warnings) == 1, [record.getMessage() for record in warnings]
    assert answers[-1].header("Cache-Status") == 'stream-cached; fwd=bypass; detail="store"'

    getattr(own_redis, end)()
    miss, hit = fetch(port), fetch(port)
    assert runs.is_whole(miss)
    assert hit.header("Cache-Status") == HIT
    assert hit.body == miss.body


@each_outage
@pytest.mark.parametrize("at", [0, 5, 10])
def test_a_redis_that_goes_in_mid_stream_costs_the_entry_only(
    serve: Serve, own_redis: RedisServer, begin: str, end: str, at: int
) -> None:
    runs = HeldRuns()
    runs.at = at
    port = serve(runs.app(own_redis.url())).port
    with RawClient(port, timeout=4) as client:
        client.send()
        runs.reached.wait()
        getattr(own_redis, begin)()
        runs.gate.open()
        miss = client.read_all()
    assert (miss.complete, miss.error) == (True, None)
    assert miss.body == runs.bodies[0]

    getattr(own_redis, end)()
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
    port = serve(runs.app(own_redis.url())).port
    fetch(port)
    getattr(own_redis, begin)()

    without = fetch(port, timeout=3)

    assert runs.is_whole(without)
    assert len(runs.bodies) == 2
    getattr(own_redis, end)()
    following = fetch(port)
    assert runs.is_whole(following)
    # One that hung still has the entry, one that ended has lost it.
    assert (following.body == runs.bodies[0]) == (begin == "pause")


@each_outage
@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_a_redis_that_goes_in_the_middle_of_a_hit_breaks_it_visibly(
    serve: Serve, own_redis: RedisServer, begin: str, end: str, replay: str
) -> None:
    runs = Runs(200)
    port = serve(runs.app(own_redis.url(), replay=replay)).port
    fetch(port)
    with RawClient(port, receive_buffer=1 << 16, timeout=4) as client:
        client.send()
        assert client.read_head().header("Cache-Status") == HIT
        getattr(own_redis, begin)()
        response = client.read_rest()
    assert not response.complete
    assert runs.bodies[0].startswith(response.body)

    getattr(own_redis, end)()
    assert runs.is_whole(fetch(port))


def test_a_redis_that_refuses_writes_costs_the_entry_only(
    serve: Serve, own_redis: RedisServer
) -> None:
    runs = Runs(30)
    port = serve(runs.app(own_redis.url())).port
    fetch(port)
    own_redis.flush()
    used = own_redis.execute("INFO", "memory")
    assert used is not None
    own_redis.execute("CONFIG", "SET", "maxmemory", "3500000")

    full = fetch(port)

    assert runs.is_whole(full)
    own_redis.execute("CONFIG", "SET", "maxmemory", "0")
    following = fetch(port)
    assert runs.is_whole(following)
    wait_until(lambda: len(segments(Keyspace(own_redis.port).all())) <= 30 * CHUNK // 200_000)
    assert not Keyspace(own_redis.port).without_ttl()


@each_size
def test_a_redis_that_is_full_is_told_of_once_until_it_works(
    serve: Serve, own_redis: RedisServer, chunks: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stream_cached")

    def told() -> list[tuple[str, str]]:
        records = [record for record in caplog.records if record.name == "stream_cached"]
        return [(record.levelname, record.getMessage()) for record in records]

    runs = Runs(chunks)
    port = serve(runs.app(own_redis.url())).port
    fetch(port, "/?before")
    assert told() == []
    own_redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    own_redis.execute("CONFIG", "SET", "maxmemory", "1")

    answers = [fetch(port, f"/?{number}") for number in range(5)]

    assert all(map(runs.is_whole, answers))
    ((level, message),) = told()
    assert level == "WARNING"
    assert "the cache fails" in message
    own_redis.execute("CONFIG", "SET", "maxmemory", "0")
    assert runs.is_whole(fetch(port, "/?after"))
    wait_until(lambda: len(told()) > 1)
    level, message = told()[-1]
    assert (level, len(told())) == ("INFO", 2)
    assert "works again" in message
    assert fetch(port, "/?after").header("Cache-Status") == HIT
