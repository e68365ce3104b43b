"""Entries whose ttl is over: served while a new one is made, or where the endpoint fails."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import ConfigurationError, stream_cached
from stream_cached.engine import stale
from stream_cached.engine.outcome import Stale, View
from stream_cached.runs.lease import Lease
from stream_cached.testing import CacheUnderTest
from tests.conftest import Serve
from tests.engine.test_collapse import Waiting
from tests.support.clock import Clock
from tests.support.gates import Gate, run, wait_until
from tests.support.http_client import RawResponse, fetch
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS, HeldRuns, Runs

TTL = 60
STALE = "stream-cached; hit; ttl=-1"
RENEWED = "stream-cached; fwd=stale; stored"


class Held(HeldRuns):
    """The second run waits."""

    async def before(self, run: int, number: int) -> None:
        await super().before(run - 1, number)


class Failing(Runs):
    """An endpoint that fails from its second call on, in some way."""

    way = ""
    calls = 0

    async def __call__(self, request: Request) -> Response:
        self.calls += 1
        if self.calls > 1:
            if self.way == "raises":
                raise RuntimeError("the endpoint broke")
            if self.way.startswith("raises "):
                raise HTTPException(int(self.way.split()[1]))
            if self.way.startswith("answers "):
                return PlainTextResponse("no", int(self.way.split()[1]))
            if self.way == "yields nothing":
                return StreamingResponse(_broken())
        return await super().__call__(request)


async def _broken() -> AsyncIterator[bytes]:
    for number in itertools.count():
        if not number:
            raise RuntimeError("the source broke")
        yield b""


def status(response: RawResponse) -> str | None:
    return response.header("Cache-Status")


def is_stale(response: RawResponse) -> bool:
    """Whether it is served though its ttl is over: by a second or, on a busy machine, by more."""
    return re.fullmatch(r"stream-cached; hit; ttl=-\d+", status(response) or "") is not None


def test_what_is_stale_is_served_at_once_while_one_run_makes_it_again(
    serve: Serve, cache_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale, "_CARRIED_FOR", 0.1)
    runs = Held()
    server = serve(runs.app(cache_url, ttl=TTL, stale_while_revalidate=30))
    assert status(fetch(server.port)) == MISS
    clock.passed = TTL + 0.1

    answers = [fetch(server.port) for _ in range(10)]
    assert all(is_stale(answer) for answer in answers)
    assert all(answer.complete and answer.body == runs.bodies[0] for answer in answers)
    runs.reached.wait()
    # Nobody waits for the run.
    wait_until(lambda: not server.requests_running)
    assert len(runs.bodies) == 2
    runs.gate.open()
    wait_until(lambda: status(fetch(server.port)) == HIT)
    assert fetch(server.port).body == runs.bodies[1]
    assert len(runs.bodies) == 2


def test_past_the_window_it_is_a_miss(serve: Serve, cache_url: str, clock: Clock) -> None:
    runs = Runs()
    server = serve(runs.app(cache_url, ttl=TTL, stale_while_revalidate=5, stale_if_error=30))
    fetch(server.port)
    clock.passed = TTL + 6
    answer = fetch(server.port)
    assert (status(answer), answer.body) == (RENEWED, runs.bodies[1])
    assert status(fetch(server.port)) == HIT


def test_workers_that_share_a_store_make_it_again_once(
    serve: Serve, redis_url: str, clock: Clock
) -> None:
    runs = Held()
    app = runs.app(redis_url, ttl=TTL, stale_while_revalidate=30, key_host=False)
    servers = [serve(app) for _ in range(2)]
    fetch(servers[0].port)
    clock.passed = TTL + 0.1
    for server in servers * 5:
        assert is_stale(fetch(server.port))
    runs.reached.wait()
    runs.gate.open()
    wait_until(lambda: all(status(fetch(server.port)) == HIT for server in servers))
    assert len(runs.bodies) == 2


@pytest.mark.parametrize(
    "window", [{"stale_while_revalidate": 5}, {"stale_if_error": 5}, {}], ids=str
)
def test_nothing_is_stale_for_longer_than_is_said_now(
    serve: Serve, redis_url: str, clock: Clock, window: dict[str, float]
) -> None:
    runs = Runs()
    before = serve(runs.app(redis_url, ttl=TTL, key_host=False, stale_while_revalidate=86_400))
    after = serve(runs.app(redis_url, ttl=TTL, key_host=False, **window))
    fetch(before.port)
    clock.passed = TTL + 3600
    assert fetch(after.port).body == runs.bodies[1]


def test_who_leaves_it_to_another_process_does_not_take_that_for_a_failure(
    serve: Serve, redis_url: str, clock: Clock
) -> None:
    runs = Held()
    app = runs.app(
        redis_url, ttl=TTL, key_host=False, stale_while_revalidate=1, stale_if_error=1000
    )
    servers = [serve(app) for _ in range(2)]
    fetch(servers[0].port)
    clock.passed = TTL + 0.1
    assert status(fetch(servers[0].port)) == STALE
    runs.reached.wait()
    assert status(fetch(servers[1].port)) == STALE
    clock.passed = TTL + 3
    waiting = Waiting(servers[1].port, 1)
    wait_until(lambda: servers[1].requests_running)
    runs.gate.open()
    (answer,) = waiting.answers()
    assert "stale-if-error" not in (status(answer) or "")
    assert answer.body == runs.bodies[1]


@pytest.mark.matrix
@pytest.mark.parametrize("on_disconnect", ["finish", "stop"])
def test_nobody_need_read_what_is_made_again(
    serve: Serve, cache_url: str, clock: Clock, on_disconnect: str
) -> None:
    runs = Runs(chunks=50)
    app = runs.app(
        cache_url, ttl=TTL, stale_while_revalidate=30, on_disconnect=on_disconnect, max_body="64MiB"
    )
    server = serve(app)
    fetch(server.port)
    clock.passed = TTL + 0.1
    assert fetch(server.port).body == runs.bodies[0]
    wait_until(lambda: status(fetch(server.port)) == HIT)
    assert fetch(server.port).body == runs.bodies[1]


WAYS = ["raises", "raises 503", "answers 500", "answers 504", "yields nothing"]


def test_a_refused_renewal_is_not_tried_again_before_it_is_over(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    refused, gate = Gate(), Gate()

    async def held(view: View, found: Stale) -> bool:
        refused.open()
        await gate.passed()
        return False

    monkeypatch.setattr(stale, "_is_replaced", held)
    runs = Failing()
    runs.way = "answers 504"
    server = serve(runs.app("memory://", ttl=TTL, stale_while_revalidate=1000))
    fetch(server.port)
    clock.passed = TTL + 0.1
    assert status(fetch(server.port)) == STALE
    refused.wait()
    assert fetch(server.port).body == runs.bodies[0]
    assert runs.calls == 2
    gate.open()


@pytest.mark.parametrize(
    "way", [*WAYS[::2], *(pytest.param(each, marks=pytest.mark.full) for each in WAYS[1::2])]
)
def test_a_renewal_that_fails_leaves_what_is_stale_and_is_tried_again_later(
    serve: Serve, cache_url: str, clock: Clock, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    runs = Failing()
    runs.way = way
    server = serve(runs.app(cache_url, ttl=TTL, stale_while_revalidate=1000))
    fetch(server.port)
    clock.passed = TTL + 0.1
    assert status(fetch(server.port)) == STALE
    wait_until(lambda: runs.calls == 2)
    for _ in range(5):
        answer = fetch(server.port)
        assert answer.complete
        assert answer.body == runs.bodies[0]
    assert runs.calls == 2

    def later() -> str | None:
        # A run that has just failed holds the next one off from then on.
        clock.passed += 10
        return status(fetch(server.port))

    wait_until(lambda: later() and runs.calls >= 3)
    runs.way = ""
    wait_until(lambda: later() == HIT)


class Halted(BaseException):
    """What is no `Exception`."""


@pytest.mark.parametrize("cls", [Halted, asyncio.CancelledError])
def test_a_renewal_that_raises_no_exception_is_tried_again_later_too(
    cls: type[BaseException], caplog: pytest.LogCaptureFixture, stream_cache: CacheUnderTest
) -> None:
    runs: list[int] = []

    @stream_cached(ttl=TTL, stale_while_revalidate=1000)
    async def endpoint(request: Request) -> Response:
        runs.append(len(runs))
        if len(runs) > 1:
            raise cls
        return PlainTextResponse("0")

    app = Starlette(routes=[Route("/", endpoint)])

    async def test() -> None:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://a") as client:
            await client.get("/")
            stream_cache.travel(TTL + 1)
            for _ in range(3):
                stream_cache.assert_hit(await client.get("/"))
        await stream_cache.wait_idle()

    run(test)
    gc.collect()
    assert runs == [0, 1]
    assert sum("a refresh failed" in text for text in warnings(caplog)) == 1
    assert [each.getMessage() for each in caplog.records if each.name == "asyncio"] == []


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("raises", ""),
        ("raises 503", "; fwd-status=503"),
        ("answers 500", "; fwd-status=500"),
        ("yields nothing", ""),
    ],
)
def test_where_the_endpoint_fails_what_is_stale_is_served(
    serve: Serve, cache_url: str, clock: Clock, way: str, said: str
) -> None:
    runs = Failing()
    runs.way = way
    server = serve(runs.app(cache_url, ttl=TTL, stale_if_error=1000))
    fetch(server.port)
    clock.passed = TTL + 0.1
    answers = [fetch(server.port)]
    # For a while, it is not asked again.
    answers += [fetch(server.port) for _ in range(3)]
    assert runs.calls == 2
    for answer in answers:
        assert answer.complete
        assert answer.body == runs.bodies[0]
    detail = '; detail="stale-if-error"'
    assert status(answers[0]) == f"stream-cached; fwd=stale{said}{detail}"
    assert status(answers[1]) == f"stream-cached; fwd=stale{detail}"
    runs.way = ""
    clock.passed += 10
    assert status(fetch(server.port)) == RENEWED
    assert status(fetch(server.port)) == HIT


def test_a_head_request_is_answered_from_what_is_stale_too(
    serve: Serve, cache_url: str, clock: Clock
) -> None:
    runs = Failing()
    runs.way = "raises"
    server = serve(runs.app(cache_url, ttl=TTL, stale_if_error=1000))
    fetch(server.port)
    clock.passed = TTL + 0.1
    for method in ("HEAD", "GET", "HEAD"):
        answer = fetch(server.port, method=method)
        assert answer.status == 200
        assert "stale-if-error" in (status(answer) or "")


@pytest.mark.parametrize("window", ["stale_if_error", "stale_while_revalidate"])
def test_a_variant_that_fails_does_not_keep_others_from_being_made_again(
    serve: Serve, cache_url: str, clock: Clock, window: str
) -> None:
    calls: list[str] = []

    async def endpoint(request: Request) -> Response:
        language = request.headers["accept-language"]
        calls.append(language)
        if language == "fr" and calls.count("fr") > 1:
            raise RuntimeError("the endpoint broke")
        return PlainTextResponse(language, headers={"vary": "Accept-Language"})

    settings = {window: 1000.0}
    cached = stream_cached(ttl=TTL, cache=cache_url, **settings)(endpoint)  # type: ignore[arg-type]
    server = serve(Starlette(routes=[Route("/", cached)]))
    french, english = {"Accept-Language": "fr"}, {"Accept-Language": "en"}
    for headers in french, english:
        fetch(server.port, headers=headers)
    clock.passed = TTL + 0.1
    fetch(server.port, headers=french)
    wait_until(lambda: calls.count("fr") == 2)
    fetch(server.port, headers=english)
    wait_until(lambda: calls.count("en") == 2)


def test_all_who_wait_for_an_endpoint_that_fails_are_given_what_is_stale(
    serve: Serve, cache_url: str, clock: Clock
) -> None:
    runs, gate = Runs(), Gate()
    calls: list[int] = []

    async def endpoint(request: Request) -> Response:
        calls.append(1)
        if len(calls) > 1:
            await gate.passed()
            raise RuntimeError("the endpoint broke")
        return await runs(request)

    cached = stream_cached(ttl=TTL, cache=cache_url, stale_if_error=30)(endpoint)
    server = serve(Starlette(routes=[Route("/", cached)]))
    fetch(server.port)
    clock.passed = TTL + 0.1
    waiting = Waiting(server.port, 10)
    wait_until(lambda: server.requests_running == 10)
    gate.open()
    assert all(answer.body == runs.bodies[0] for answer in waiting.answers())
    assert len(calls) == 2


def test_what_begins_to_rest_while_a_call_claims_it_holds_up_nobody(
    serve: Serve, redis_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, fail, claiming, claim = Gate(), Gate(), Gate(), Gate()
    calls: list[str] = []

    @stream_cached(ttl=TTL, cache=redis_url, stale_if_error=1000, wait_timeout=2)
    async def endpoint(request: Request) -> Response:
        language = request.headers.get("accept-language", "")
        calls.append(language)
        if len(calls) == 3:
            failing.open()
            await fail.passed()
            raise RuntimeError("the endpoint broke")
        return PlainTextResponse(language, headers={"vary": "Accept-Language"})

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    german, english = {"Accept-Language": "de"}, {"Accept-Language": "en"}
    for headers in german, english:
        fetch(server.port, headers=headers)
    clock.passed = TTL + 0.1
    first = Waiting(server.port, 1, german)
    failing.wait()
    take = Lease._claim

    async def slowly(lease: Lease, *args: Any) -> object:
        taken = await take(lease, *args)
        claiming.open()
        await claim.passed()
        return taken

    monkeypatch.setattr(Lease, "_claim", slowly)
    second = Waiting(server.port, 1, english)
    claiming.wait()
    fail.open()
    first.answers()
    claim.open()
    second.answers()
    clock.passed += 10
    answer = fetch(server.port, headers=english)
    assert (answer.text, status(answer)) == ("en", HIT)


@pytest.mark.parametrize(("way", "code"), [("raises 404", 404), ("answers 404", 404)])
def test_another_answer_is_no_failure(
    serve: Serve, cache_url: str, clock: Clock, way: str, code: int
) -> None:
    runs = Failing()
    runs.way = way
    server = serve(runs.app(cache_url, ttl=TTL, stale_if_error=30))
    fetch(server.port)
    clock.passed = TTL + 0.1
    assert fetch(server.port).status == code


class BreaksLater(Runs):
    async def before(self, run: int, number: int) -> None:
        if run and number == 3:
            raise RuntimeError("the source broke")


def test_a_failure_after_the_first_byte_breaks_the_stream(
    serve: Serve, cache_url: str, clock: Clock
) -> None:
    runs = BreaksLater()
    server = serve(runs.app(cache_url, ttl=TTL, stale_if_error=30))
    fetch(server.port)
    clock.passed = TTL + 0.1
    assert not fetch(server.port).complete


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate", "s-maxage=60"])
def test_what_must_be_revalidated_is_never_served_stale(
    serve: Serve, cache_url: str, clock: Clock, directive: str
) -> None:
    runs = Runs(headers={"Cache-Control": f"public, {directive}"})
    server = serve(runs.app(cache_url, ttl=TTL, stale_while_revalidate=30, stale_if_error=30))
    fetch(server.port)
    assert status(fetch(server.port)) == HIT
    clock.passed = TTL + 0.1
    assert status(fetch(server.port)) == "stream-cached; fwd=stale; stored"


async def _session() -> AsyncIterator[dict[str, bool]]:
    state = {"open": True}
    try:
        yield state
    finally:
        state["open"] = False


def test_a_run_that_needs_its_requests_session_is_carried_by_it(
    serve: Serve, cache_url: str, clock: Clock
) -> None:
    gate = Gate()
    states: list[str] = []
    runs: list[int] = []
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=TTL, cache=cache_url, stale_while_revalidate=30, key_ignore=["state"])
    async def endpoint(state: Annotated[dict[str, bool], Depends(_session)]) -> StreamingResponse:
        run = len(runs)
        runs.append(run)

        async def body() -> AsyncIterator[bytes]:
            yield b"run "
            if run:
                await gate.passed()
            states.append("open" if state["open"] else "closed")
            yield str(run).encode()

        return StreamingResponse(body())

    server = serve(app)
    assert fetch(server.port).text == "run 0"
    clock.passed = TTL + 0.1
    assert fetch(server.port).text == "run 0"
    wait_until(lambda: len(runs) == 2)
    wait_until(lambda: server.requests_running == 1)
    gate.open()
    wait_until(lambda: not server.requests_running)
    assert states == ["open", "open"]
    assert fetch(server.port).text == "run 1"


@pytest.mark.parametrize("form", ["value", "stream"])
def test_what_a_run_leaves_to_be_done_is_done_once_it_has_ended(
    form: str, serve: Serve, cache_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale, "_CARRIED_FOR", 0.0)
    gate = Gate()
    runs: list[int] = []
    done: list[int] = []
    app = FastAPI()

    async def body(run: int) -> AsyncIterator[bytes]:
        yield str(run).encode()

    @app.get("/")
    @stream_cached(ttl=TTL, cache=cache_url, stale_while_revalidate=30)
    async def endpoint(tasks: BackgroundTasks) -> Response:
        run = len(runs)
        runs.append(run)
        if run:
            await gate.passed()
        tasks.add_task(done.append, run)
        return PlainTextResponse(str(run)) if form == "value" else StreamingResponse(body(run))

    server = serve(app)
    assert fetch(server.port).text == "0"
    clock.passed = TTL + 0.1
    assert fetch(server.port).text == "0"
    wait_until(lambda: len(runs) == 2)
    gate.open()
    wait_until(lambda: not server.requests_running)
    assert done == [0, 1]
    assert fetch(server.port).text == "1"
    assert done == [0, 1]


@pytest.mark.parametrize("option", ["stale_while_revalidate", "stale_if_error"])
@pytest.mark.parametrize("way", ["raises", "yields nothing", "answers 503"])
def test_nothing_is_done_for_a_run_that_has_failed_as_without_the_cache(
    way: str, option: str, serve: Serve, cache_url: str, clock: Clock
) -> None:
    runs: list[int] = []
    done: list[int] = []
    options: Any = {option: 30}
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=TTL, cache=cache_url, **options)
    async def endpoint(tasks: BackgroundTasks) -> Response:
        run = len(runs)
        runs.append(run)
        tasks.add_task(done.append, run)
        if run and way == "raises":
            raise RuntimeError("the endpoint broke")
        if run and way == "answers 503":
            return PlainTextResponse("no", 503)
        return StreamingResponse(_broken()) if run else PlainTextResponse("0")

    server = serve(app)
    fetch(server.port)
    clock.passed = TTL + 0.1
    assert fetch(server.port).text == "0"
    wait_until(lambda: not server.requests_running)
    # Whatever its status, a response is followed by its tasks.
    assert done == ([0, 1] if way == "answers 503" else [0])
    assert len(runs) == 2


def test_a_run_may_read_the_requests_body_though_its_client_has_gone(
    serve: Serve, cache_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale, "_CARRIED_FOR", 0.1)
    gate = Gate()
    seen: list[tuple[bytes, bool]] = []

    @stream_cached(ttl=TTL, cache=cache_url, stale_while_revalidate=30, methods=["POST"])
    async def endpoint(request: Request) -> Response:
        if seen:
            await gate.passed()
        seen.append((await request.body(), await request.is_disconnected()))
        return PlainTextResponse(str(len(seen)))

    server = serve(Starlette(routes=[Route("/", endpoint, methods=["POST"])]))

    def ask() -> RawResponse:
        return fetch(server.port, method="POST", body=b"body")

    assert ask().text == "1"
    clock.passed = TTL + 0.1
    assert ask().text == "1"
    wait_until(lambda: not server.requests_running)
    gate.open()
    wait_until(lambda: ask().text == "2")
    assert seen == [(b"body", False)] * 2


@pytest.mark.parametrize("name", ["stale_while_revalidate", "stale_if_error"])
def test_windows_are_checked(name: str) -> None:
    for wrong in (-1, float("nan"), "10", True):
        with pytest.raises(ConfigurationError, match=name):
            stream_cached(ttl=60, **{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="ttl=None"):
        stream_cached(ttl=None, **{name: 10})  # type: ignore[arg-type]
