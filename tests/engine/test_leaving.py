"""A client that leaves: its run is completed while it is stored, and closed at once otherwise."""

from __future__ import annotations

import pytest

from stream_cached import tasks
from tests.conftest import Serve
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import CHUNK, HIT, MISS, HeldRuns, segments
from tests.support.servers import RedisServer


def _nothing_runs() -> bool:
    """Whether nothing goes on in any event loop, but those that other tests have closed."""
    return all(task.get_loop().is_closed() for task in tasks.running())


@pytest.mark.matrix
@pytest.mark.parametrize("leave", ["close", "abort"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("chunks", [10, 50])
def test_a_run_whose_client_has_left_is_completed_and_stored(
    serve: Serve, cache_url: str, leave: str, http: str, chunks: int
) -> None:
    runs = HeldRuns(chunks)
    server = serve(runs.app(cache_url), http=http)  # type: ignore[arg-type]
    with RawClient(server.port) as client:
        client.send()
        client.read_head()
        client.read_until(runs.at * CHUNK)
        getattr(client, leave)()
    runs.gate.open()
    wait_until(_nothing_runs)

    hit = fetch(server.port)

    assert hit.header("Cache-Status") == HIT
    assert hit.complete
    assert hit.body == runs.bodies[0]


def test_the_client_may_leave_before_it_has_read_anything(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    runs.at = 0
    server = serve(runs.app(cache_url))
    with RawClient(server.port) as client:
        client.send()
        runs.reached.wait()
        client.abort()
    runs.gate.open()
    wait_until(_nothing_runs)

    assert fetch(server.port).header("Cache-Status") == HIT


def test_a_run_that_outlives_its_client_too_long_is_closed_and_deleted(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = HeldRuns()
    server = serve(runs.app(redis_url, finish_timeout=0.1))
    with RawClient(server.port) as client:
        client.send()
        runs.reached.wait()
        client.abort()
    runs.closed[0].wait()
    wait_until(_nothing_runs)

    assert not segments(Keyspace(redis_server.port).all())
    following = fetch(server.port)
    assert following.header("Cache-Status") == MISS
    assert following.body == runs.bodies[1]


def test_a_client_that_leaves_ends_a_run_at_once_that_is_over_a_limit(serve: Serve) -> None:
    runs = HeldRuns()
    port = serve(runs.app("memory://?max_bytes=1MiB", max_body=3 * CHUNK)).port
    with RawClient(port) as client:
        client.send()
        runs.reached.wait()
        assert not runs.closed[0].is_open
        client.abort()
    runs.closed[0].wait(2)


def test_a_client_that_leaves_ends_a_run_at_once_whose_store_failed(
    serve: Serve, own_redis: RedisServer
) -> None:
    runs = HeldRuns()
    runs.at = 9
    stopped = Gate()

    async def before(run: int, number: int) -> None:
        if number == 1:
            await stopped.passed()
        await HeldRuns.before(runs, run, number)

    runs.before = before  # type: ignore[method-assign]
    port = serve(runs.app(own_redis.url())).port
    with RawClient(port) as client:
        client.send()
        client.read_head()
        client.read_until(CHUNK)
        own_redis.stop()
        stopped.open()
        runs.reached.wait()
        client.abort()
    runs.closed[0].wait(3)


def test_a_client_that_leaves_ends_a_bypassed_run_at_once(serve: Serve) -> None:
    runs = HeldRuns(headers={"Cache-Control": "no-store"})
    port = serve(runs.app("memory://")).port
    with RawClient(port) as client:
        client.send()
        runs.reached.wait()
        client.abort()
    runs.closed[0].wait(2)
