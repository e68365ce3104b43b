"""The end of an application, and of an event loop, while something runs."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, aclose, lifespan, stream_cached
from stream_cached.tasks import running_here
from tests.conftest import Spawn
from tests.runs.test_lease import Workers, begin, is_whole, left
from tests.support.asgi import Exchange, get
from tests.support.http_client import fetch
from tests.support.runs import HIT, MISS, Runs

#: Nothing of this is to be seen in what a process writes. (uvicorn itself logs requests that it
#: cancels.)
COMPLAINTS = ("was destroyed", "never retrieved", "never awaited", "unclosed")


def complaints(output: str) -> list[str]:
    return [complaint for complaint in COMPLAINTS if complaint in output]


def workers_that_close(
    spawn: Spawn, directory: Path, url: str, monkeypatch: pytest.MonkeyPatch, within: float
) -> Workers:
    monkeypatch.setenv("CLOSES_WITHIN", str(within))
    monkeypatch.setenv("PYTHONWARNINGS", "always::ResourceWarning")
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    return Workers(spawn, directory, url)


@pytest.mark.full
def test_a_run_is_completed_before_its_application_ends(
    spawn: Spawn, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = workers_that_close(spawn, tmp_path, redis_url, monkeypatch, 20)
    ending, other = workers.all
    begin(ending).abort()
    with ThreadPoolExecutor() as threads:
        stopping = threads.submit(ending.stop, 20)
        ending.wait_for_output("Waiting for application shutdown")
        workers.open()
        stopping.result()
    assert not complaints(ending.output())
    answer = fetch(other.port, target="/?hold=gate")
    assert is_whole(answer)
    assert answer.header("Cache-Status") == HIT


@pytest.mark.full
def test_a_run_that_takes_too_long_is_given_up_and_leaves_nothing(
    spawn: Spawn, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = workers_that_close(spawn, tmp_path, redis_url, monkeypatch, 0.1)
    ending, other = workers.all
    begin(ending).abort()
    ending.stop(20)
    assert not complaints(ending.output())
    with redis.Redis.from_url(redis_url) as client:
        assert left(client.keys()) == []
    workers.open()
    answer = fetch(other.port, target="/?hold=gate")
    assert is_whole(answer)
    assert answer.header("Cache-Status") == MISS


@pytest.mark.full
def test_an_application_without_a_lifespan_ends_without_complaint(
    spawn: Spawn, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    workers = Workers(spawn, tmp_path, redis_url, 1)
    (server,) = workers.all
    assert is_whole(fetch(server.port))
    begin(server).abort()
    server.stop(20)
    assert not complaints(server.output())


def test_what_is_given_up_breaks_its_readers_and_is_not_stored(cache_url: str) -> None:
    closed: list[bool] = []

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                if not closed:
                    await asyncio.Event().wait()
            finally:
                closed.append(True)

        return StreamingResponse(body())

    app = Starlette(routes=[Route("/", endpoint)])

    async def main() -> None:
        reader = Exchange(app)
        task = asyncio.create_task(reader.run())
        await reader.received.wait()
        await aclose(timeout=0.01)
        assert closed == [True]
        assert not running_here()
        with pytest.raises(Exception, match="the application ends"):
            await task
        assert not reader.complete
        # It can be used again.
        assert (await get(app)).cache_status == MISS
        await aclose()

    asyncio.run(main())


def test_nothing_warns_over_many_loops_and_test_clients(cache_url: str) -> None:
    runs = Runs(chunks=3)
    app = Starlette(
        routes=[Route("/", stream_cached(ttl=60, cache=cache_url)(runs.__call__))],
        lifespan=lifespan,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3):
            with TestClient(app) as client:
                assert client.get(f"/?{number}").content == runs.bodies[-1]
                assert client.get(f"/?{number}").headers["cache-status"] == HIT
            # Each request in a loop of its own.
            assert TestClient(app).get(f"/?{number}").headers["cache-status"] == HIT
            assert TestClient(app).get(f"/?{number}&new").headers["cache-status"] == MISS
            gc.collect()


def test_an_error_holds_up_no_later_loop(redis_url: str) -> None:
    calls: list[int] = []

    @stream_cached(ttl=60, cache=redis_url)
    async def endpoint(request: Request) -> Response:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the endpoint broke")
        return StreamingResponse(iter([b"whole"]))

    app = Starlette(routes=[Route("/", endpoint)])
    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/").status_code == 500
    started = time.monotonic()
    # Nobody waits for the lease of a loop that is gone.
    assert client.get("/").text == "whole"
    assert time.monotonic() - started < 2


def test_the_timeout_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="timeout=0"):
        asyncio.run(aclose(timeout=0))
