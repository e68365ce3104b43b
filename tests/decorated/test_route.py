"""The route class of FastAPI for endpoints that yield; `test_yield_endpoints` has both ways."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.types import Message

from stream_cached import StreamCache
from tests.conftest import Serve
from tests.support.asgi import Exchange
from tests.support.gates import Gate, run, runs_over, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.runs import HIT, MISS

streams = StreamCache(ttl=60)

fastapi = pytest.importorskip("fastapi.sse", reason="this FastAPI does not stream what is yielded")


def says(answer: Any) -> str:
    return str(answer.headers.get("cache-status", ""))


def test_its_other_endpoints_are_those_of_fastapi() -> None:
    async def value() -> dict[str, int]:
        return {"n": 1}

    async def response() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]), status_code=203)

    async def rows() -> AsyncIterator[int]:
        yield 1

    app, plain = FastAPI(), FastAPI()
    app.router.route_class = streams.Route
    for each, decorate in ((app, streams.cached()), (plain, lambda function: function)):
        each.get("/value")(decorate(value))
        each.get("/response")(decorate(response))
        each.get("/plain/value", status_code=201)(value)
        each.get("/plain/rows")(rows)
    with TestClient(app) as client, TestClient(plain) as original:
        for path in ("/value", "/response", "/plain/value", "/plain/rows", "/plain/none"):
            wanted, found = original.get(path), [client.get(path) for _ in range(2)]
            for answer in found:
                assert (answer.status_code, answer.text) == (wanted.status_code, wanted.text)
            cached = [MISS, HIT] if path in ("/value", "/response") else ["", ""]
            assert [says(answer) for answer in found] == cached


def test_who_may_not_see_an_entry_is_refused_before_it_is_looked_up() -> None:
    asked: list[str] = []

    def user(x_user: str = Header()) -> None:
        asked.append(x_user)
        if x_user != "known":
            raise HTTPException(403)

    async def rows() -> AsyncIterator[int]:
        yield 1

    router, outer, app = APIRouter(route_class=streams.Route), APIRouter(), FastAPI()
    router.get("/rows")(streams.cached()(rows))
    outer.include_router(router, prefix="/inner", dependencies=[Depends(user)])
    app.include_router(outer, prefix="/outer")
    with TestClient(app) as client:
        users = ["known", "known", "other", None]
        found = [
            client.get("/outer/inner/rows", headers={"x-user": name} if name else {})
            for name in users
        ]
    assert [answer.status_code for answer in found] == [200, 200, 403, 422]
    assert [says(answer) for answer in found] == [MISS, HIT, "", ""]
    assert asked == ["known", "known", "other"]


def test_a_request_that_is_not_valid_runs_nothing() -> None:
    runs: list[int] = []

    def needs(number: int) -> None:
        pass

    async def rows() -> AsyncIterator[int]:
        runs.append(1)
        yield 1

    app = FastAPI()
    app.router.route_class = streams.Route
    app.get("/", dependencies=[Depends(needs)])(streams.cached()(rows))
    with TestClient(app) as client:
        assert client.get("/?number=x").status_code == 422
    assert not runs


def test_one_function_may_be_on_both_kinds_of_routes() -> None:
    runs: list[int] = []

    @streams.cached()
    async def rows() -> AsyncIterator[int]:
        runs.append(1)
        yield 1

    app, prepared = FastAPI(), APIRouter(route_class=streams.Route)
    app.get("/rows")(rows)
    prepared.get("/rows")(rows)
    app.include_router(prepared, prefix="/prepared")
    with TestClient(app) as client:
        for path in ("/rows", "/prepared/rows"):
            found = [client.get(path) for _ in range(2)]
            assert [says(answer) for answer in found] == [MISS, HIT]
            assert [answer.text for answer in found] == ["1\n", "1\n"]
    assert runs == [1, 1]


def test_what_is_not_stored_has_all_that_fastapi_sends() -> None:
    async def events() -> AsyncIterator[int]:
        yield 1

    app, plain = FastAPI(), FastAPI()
    app.router.route_class = streams.Route
    options: Any = {"response_class": fastapi.EventSourceResponse, "status_code": 201}
    cached = streams.cached(skip_cache_func=lambda items: True)
    app.get("/", **options)(cached(events))
    plain.get("/", **options)(events)
    with TestClient(app) as client, TestClient(plain) as original:
        wanted = original.get("/")
        for headers in ({}, {"range": "bytes=0-1"}):
            found = client.get("/", headers=headers)
            # Not each version of FastAPI sends the status of a stream.
            assert found.status_code == wanted.status_code
            assert found.text == wanted.text
            assert says(found)
            del found.headers["cache-status"]
            assert found.headers == wanted.headers


def test_another_process_follows_the_response(serve: Serve, redis_url: str, namespace: str) -> None:
    gate, runs = Gate(), list[int]()

    async def rows() -> AsyncIterator[int]:
        runs.append(1)
        yield 1
        await gate.passed()
        yield 2

    def app() -> FastAPI:
        shared = StreamCache(redis_url, namespace=namespace, ttl=60, key_host=False)
        made = FastAPI()
        made.router.route_class = shared.Route
        made.get("/")(shared.cached()(rows))
        return made

    here, there = serve(app()), serve(app())
    with RawClient(here.port) as first, RawClient(there.port) as second:
        for client in (first, second):
            client.send()
            client.read_head()
            assert client.read_until(2) == b"1\n"
        gate.open()
        assert [client.read_rest().body for client in (first, second)] == [b"1\n2\n"] * 2
    hit = fetch(there.port)
    assert (hit.header("cache-status"), hit.header("content-length")) == (HIT, "4")
    assert runs == [1]


def test_fastapi_is_imported_where_the_class_is_asked_for() -> None:
    code = """
import sys
sys.modules["fastapi"] = None
from stream_cached import ConfigurationError, StreamCache
streams = StreamCache()
try:
    streams.Route
except ConfigurationError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'install "stream-cached[fastapi]"' in done.stdout


def test_a_client_that_leaves_ends_what_is_not_stored(serve: Serve) -> None:
    closed: list[int] = []

    async def events() -> AsyncIterator[int]:
        try:
            yield 1
            await Gate().passed(60)
        finally:
            closed.append(1)

    app = FastAPI()
    app.router.route_class = streams.Route
    app.get("/", response_class=fastapi.EventSourceResponse)(streams.cached()(events))
    server = serve(app)
    with RawClient(server.port) as client:
        # It may be somebody's own answer, and is sent past the cache.
        client.send(headers=[("Authorization", "Bearer alice")])
        client.read_head()
        assert client.read_some()
        client.abort()
    wait_until(lambda: closed)


class SlowClient(Exchange):
    """A client to which each message takes some turns of the event loop."""

    turns = 0

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        for _ in range(self.turns):
            await asyncio.sleep(0)


@pytest.mark.parametrize("headers", [[], [(b"range", b"bytes=0-1")]])
def test_an_event_stream_that_fails_never_ends_cleanly(headers: list[Any]) -> None:
    """FastAPI itself ends it cleanly where it notices the end before the exception."""

    def events() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the source is gone")

    app = FastAPI()
    app.router.route_class = streams.Route
    app.get("/", response_class=fastapi.EventSourceResponse)(streams.cached()(events))

    async def test() -> None:
        for turns in range(40):
            client = SlowClient(app)
            client.turns = turns % 8
            client.scope["headers"] += headers
            with pytest.raises(Exception):  # noqa: B017, PT011
                await client.run()
            assert not client.complete
            assert "hit" not in client.cache_status
            await runs_over()

    run(test)
