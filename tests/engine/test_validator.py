"""`validator=`: an entry that is no longer fresh is fresh again as long as nothing has changed."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import ConfigurationError, StreamCache, stream_cached
from tests.conftest import Serve
from tests.support.clock import Clock
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.keyspace import Keyspace
from tests.support.logs import warnings
from tests.support.runs import HeldRuns, Runs, segments
from tests.support.servers import RedisServer

HIT = "stream-cached; hit"


class Exports:
    """An endpoint, and what its validator says of it."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.says: Any = "v1"
        self.runs = self.asked = 0
        self.status = 200

    async def __call__(self, request: Request) -> StreamingResponse:
        self.runs += 1
        run = self.runs

        async def body() -> AsyncIterator[bytes]:
            yield b"run "
            yield b"%d" % run

        return StreamingResponse(body(), self.status, headers=self.headers)

    async def validator(self, request: Request) -> Any:
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def port(self, serve: Serve, **settings: Any) -> int:
        cached = stream_cached(**{"ttl": 60, "validator": self.validator, **settings})
        return serve(Starlette(routes=[Route("/", cached(self.__call__))])).port


def told(answer: RawResponse) -> str:
    return answer.header("Cache-Status") or ""


@pytest.mark.parametrize("inline_max", [0, 1000])
def test_the_endpoint_runs_only_if_something_has_changed(
    serve: Serve, cache_url: str, clock: Clock, inline_max: int
) -> None:
    exports = Exports()
    port = exports.port(serve, cache=cache_url, inline_max=inline_max)
    assert [fetch(port).body for _ in range(3)] == [b"run 1"] * 3
    assert exports.asked == 1
    clock.passed = 70
    answer = fetch(port)
    assert (answer.body, told(answer)) == (b"run 1", f'{HIT}; ttl=59; detail="validated"')
    assert answer.header("Age") == "0"
    # It is fresh for all again.
    clock.passed = 120
    assert [told(fetch(port)) for _ in range(2)] == [HIT] * 2
    assert exports.asked == 2
    clock.passed = 140
    exports.says = "v2"
    assert fetch(port).body == b"run 2"
    assert (exports.runs, exports.asked) == (2, 3)
    clock.passed = 210
    assert fetch(port).body == b"run 2"


@pytest.mark.usefixtures("apps_are_processes")
def test_the_segments_of_an_entry_that_is_fresh_again_live_on(
    serve: Serve, redis_server: RedisServer, redis_url: str, clock: Clock, tmp_path: Path
) -> None:
    keyspace = Keyspace(redis_server.port)
    exports, runs = Exports(), Runs()
    settings = {"validator": exports.validator, "key_host": False}
    port = serve(runs.app(redis_url, **settings)).port
    fetch(port)
    keys = segments(keyspace.all())
    # A process that keeps new bodies elsewhere has the old ones here.
    for another in ({}, {"bodies": f"file://{tmp_path}"}):
        for key in keys:
            keyspace.run("EXPIRE", key, "1000")
        clock.passed += 70
        port = serve(runs.app(redis_url, **settings, **another)).port
        # To send the body would renew them, too.
        told_304 = [told(fetch(port, headers={"If-None-Match": "*"})) for _ in range(2)]
        assert [each.endswith('"validated"') for each in told_304] == [True, False]
        assert min(int(keyspace.run("TTL", key)) for key in keys) > 24 * 60 * 60
    assert len(runs.bodies) == 1


def test_its_value_is_a_weak_etag(serve: Serve, clock: Clock) -> None:
    exports = Exports()
    port = exports.port(serve)
    assert [fetch(port).header("ETag") for _ in range(2)] == ['W/"v1"'] * 2
    clock.passed = 70
    answer = fetch(port, headers={"If-None-Match": 'W/"v1"'})
    assert (answer.status, answer.header("ETag"), exports.runs) == (304, 'W/"v1"', 1)
    for own, settings, tag in (({"ETag": '"own"'}, {}, '"own"'), ({}, {"etag": False}, None)):
        port = Exports(**own).port(serve, **settings)
        assert [fetch(port).header("ETag") for _ in range(2)] == [tag] * 2


def test_variants_have_etags_of_their_own(serve: Serve) -> None:
    port = Exports(Vary="X-A").port(serve)
    one, other = (fetch(port, headers={"X-A": value}).header("ETag") for value in "ab")
    assert one != other
    assert fetch(port, headers={"X-A": "a"}).header("ETag") == one


def test_an_exception_counts_as_a_change(
    serve: Serve, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    exports = Exports()
    port = exports.port(serve)
    fetch(port)
    exports.says = RuntimeError("no database")
    for run in (2, 3):
        clock.passed += 70
        assert fetch(port).body == b"run %d" % run
    assert len(warnings(caplog)) == 1
    exports.says = "v1"
    clock.passed += 70
    assert fetch(port).body == b"run 4"


def test_the_value_is_taken_before_the_run(serve: Serve, clock: Clock) -> None:
    exports = Exports()

    async def changing(request: Request) -> Response:
        response = await exports(request)
        exports.says = "v2"
        return response

    cached = stream_cached(ttl=60, validator=exports.validator)
    port = serve(Starlette(routes=[Route("/", cached(changing))])).port
    fetch(port)
    clock.passed = 70
    # What was changed during the run may not be in its body.
    assert fetch(port).body == b"run 2"


@pytest.mark.parametrize("soft", [False, True])
def test_what_was_invalidated_is_made_again(serve: Serve, cache_url: str, soft: bool) -> None:
    exports, streams = Exports(), StreamCache(cache_url, ttl=60)
    cached = streams.cached(validator=exports.validator, tags=("all",), stale_if_error=60)

    async def invalidate(request: Request) -> Response:
        await streams.invalidate_tags("all", soft=soft)
        return Response()

    routes = [Route("/", cached(exports.__call__)), Route("/no", invalidate)]
    port = serve(Starlette(routes=routes)).port
    for run in (1, 2):
        assert fetch(port).body == b"run %d" % run
        fetch(port, "/no")


def test_an_error_is_never_confirmed(serve: Serve, clock: Clock) -> None:
    exports = Exports()
    exports.status = 404
    port = exports.port(serve)
    for run in (1, 2):
        assert fetch(port).body == b"run %d" % run
        clock.passed += 70


def test_a_stale_response_is_confirmed_in_the_background(serve: Serve, clock: Clock) -> None:
    exports = Exports()
    port = exports.port(serve, stale_while_revalidate=600)
    fetch(port)
    clock.passed = 70
    assert told(fetch(port)) == f"{HIT}; ttl=-11"
    wait_until(lambda: told(fetch(port)) == HIT)
    assert (exports.runs, exports.asked) == (1, 2)


@pytest.mark.parametrize("directives", ["no-cache", "max-age=0, must-revalidate"])
def test_a_response_that_has_to_be_validated_each_time(serve: Serve, directives: str) -> None:
    exports = Exports(Cache_Control=directives)
    port = exports.port(serve, ttl="response")
    fetch(port)
    for number in (2, 3):
        answer = fetch(port)
        assert (answer.body, told(answer)) == (b"run 1", f'{HIT}; ttl=0; detail="validated"')
        assert exports.asked == number
    assert fetch(port, headers={"If-None-Match": 'W/"v1"'}).status == 304
    assert fetch(port, headers={"Range": "bytes=0-2"}).body == b"run"
    assert fetch(port, method="HEAD").status == 200
    exports.says = "v2"
    assert [fetch(port).body for _ in range(2)] == [b"run 2"] * 2
    # Without a value there is nothing to confirm it by.
    exports.says = None
    assert [fetch(port).body for _ in range(2)] == [b"run 3", b"run 4"]
    assert exports.status == 200
    exports.status = 500
    exports.says = "v3"
    assert [fetch(port).body for _ in range(2)] == [b"run 5", b"run 6"]


def test_a_run_is_joined_only_if_nothing_has_changed_since(serve: Serve) -> None:
    exports, gate = Exports(Cache_Control="no-cache"), Gate()

    async def held(request: Request) -> Response:
        response = await exports(request)
        if exports.runs == 1:
            response.body_iterator = after(gate)
        return response

    cached = stream_cached(ttl="response", validator=exports.validator)
    port = serve(Starlette(routes=[Route("/", cached(held))])).port
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, port)
        wait_until(lambda: exports.runs == 1)
        joining = pool.submit(fetch, port)
        wait_until(lambda: exports.asked == 2)
        exports.says = "v2"
        assert fetch(port).body == b"run 2"
        gate.open()
        assert {first.result().body, joining.result().body} == {b"held"}
    assert exports.runs == 2


@pytest.mark.usefixtures("apps_are_processes")
@pytest.mark.parametrize("says", ["v1", "v2"])
def test_the_run_of_another_process_is_followed_only_if_nothing_has_changed(
    serve: Serve, redis_url: str, says: str
) -> None:
    exports, runs = Exports(), HeldRuns(headers={"Cache-Control": "no-cache"})
    settings = {"ttl": "response", "validator": exports.validator, "key_host": False}
    ports = [serve(runs.app(redis_url, **settings)).port for _ in range(2)]
    with RawClient(ports[0]) as first, RawClient(ports[1]) as second:
        first.send()
        first.read_head()
        runs.reached.wait()
        exports.says = says
        second.send()
        second.read_head()
        runs.gate.open()
        bodies = [each.read_rest().body for each in (first, second)]
    assert bodies == [runs.bodies[0], runs.bodies[-1]]
    assert len(runs.bodies) == (1 if says == "v1" else 2)


async def after(gate: Gate) -> AsyncIterator[bytes]:
    yield b"he"
    await gate.passed()
    yield b"ld"


def test_a_response_is_fresh_for_as_long_as_it_says_again(serve: Serve, clock: Clock) -> None:
    exports = Exports(Cache_Control="max-age=100", Age="70")
    port = exports.port(serve, ttl="response")
    fetch(port)
    clock.passed = 40
    assert told(fetch(port)) == f'{HIT}; ttl=99; detail="validated"'
    answer = fetch(port)
    assert (told(answer), answer.header("Age")) == (f"{HIT}; ttl=99", "0")


def test_many_requests_ask_once(serve: Serve, clock: Clock) -> None:
    exports, gate = Exports(), Gate()

    async def slow(request: Request) -> Any:
        said = await exports.validator(request)
        if exports.asked > 1:
            await gate.passed()
        return said

    port = exports.port(serve, validator=slow)
    fetch(port)
    clock.passed = 70
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(fetch, port) for _ in range(5)]
        wait_until(lambda: exports.asked == 2)
        gate.open()
        assert {each.result().body for each in answers} == {b"run 1"}
    assert (exports.runs, exports.asked) == (1, 2)


def test_it_takes_some_of_the_arguments(serve: Serve, clock: Clock) -> None:
    seen: list[Any] = []
    app = FastAPI()

    async def version(item: int, request: Request) -> datetime.datetime:
        seen.append((item, request.url.path))
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    @app.get("/{item}")
    @stream_cached(ttl=60, validator=version, key_ignore=("session",))
    async def page(item: int, session: Annotated[object, Depends(object)]) -> dict[str, int]:
        return {"item": item}

    port = serve(app).port
    for _ in range(2):
        answer = fetch(port, "/7")
        assert answer.header("ETag") == 'W/"2026-01-01T00:00:00+00:00"'
        clock.passed += 70
    assert told(answer).startswith(HIT)
    assert seen == [(7, "/7")] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validator": "v1"}, "async function"),
        ({"validator": lambda item, page: "v1"}, "takes item, page"),
        ({"validator": lambda request: "v1", "ttl": None}, "nothing becomes stale"),
    ],
)
def test_what_is_no_validator_is_refused(settings: dict[str, Any], message: str) -> None:
    async def endpoint(request: Request) -> Response:
        return Response()

    with pytest.raises(ConfigurationError, match=message):
        stream_cached(**{"ttl": 60, **settings})(endpoint)
