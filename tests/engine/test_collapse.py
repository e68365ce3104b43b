"""Many clients of one cold stream, in one process: one run, and who leaves, leaves alone."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.decorated import function
from stream_cached.engine import answer as way
from stream_cached.engine.outcome import Call
from tests.conftest import Serve
from tests.support.app_server import HttpParser
from tests.support.asgi import Exchange, get
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.runs import CHUNK, HIT, MISS, HeldRuns, Runs
from tests.support.servers import RedisServer

COLLAPSED = "stream-cached; fwd=uri-miss; collapsed"


def ask(port: int, count: int, **options: object) -> list[RawResponse]:
    """Ask with as many clients at once, each on a connection of its own."""
    barrier = threading.Barrier(count)

    def one(_: int) -> RawResponse:
        with RawClient(port, timeout=30) as client:
            barrier.wait(30)
            return client.request(**options)  # type: ignore[arg-type]

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


class Waiting:
    """Clients that ask while a run is held, each in a thread; `answers()` are what they got."""

    def __init__(
        self,
        port: int,
        count: int,
        headers: dict[str, str] | None = None,
        *,
        target: str = "/",
    ) -> None:
        self._threads = ThreadPoolExecutor(count)
        self._futures = [
            self._threads.submit(fetch, port, target=target, headers=headers or {}, timeout=30)
            for _ in range(count)
        ]

    @property
    def any_done(self) -> bool:
        return any(future.done() for future in self._futures)

    def answers(self) -> list[RawResponse]:
        with self._threads:
            return [future.result(30) for future in self._futures]


def test_200_cold_clients_are_one_run(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns(chunks=10, chunk=2_000)
    server = serve(runs.app(cache_url))
    firsts = [RawClient(server.port, timeout=30) for _ in range(200)]
    for client in firsts:
        client.send()
    for client in firsts:
        client.read_head()
        # The first bytes of everybody, before the generator has ended.
        client.read_until(runs.at * 2_000)
    assert not runs.closed[0].is_open
    runs.gate.open()
    answers = [client.read_rest() for client in firsts]
    for client in firsts:
        client.close()

    assert len(runs.bodies) == 1
    assert all(runs.is_whole(answer) for answer in answers)
    statuses = [answer.header("Cache-Status") for answer in answers]
    assert statuses.count(MISS) == 1
    assert statuses.count(COLLAPSED) == 199


def test_who_comes_late_has_at_once_what_there_is(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns(chunks=60)
    runs.at = 50
    server = serve(runs.app(cache_url, max_ahead="256KiB", inline_max=0))
    with RawClient(server.port) as first, RawClient(server.port) as late:
        first.send()
        first.read_head()
        first.read_until(50 * CHUNK)
        late.send()
        late.read_head()
        # Most of it is in the store, and no longer in memory.
        late.read_until(50 * CHUNK)
        runs.gate.open()
        answers = [first.read_rest(), late.read_rest()]
    assert len(runs.bodies) == 1
    assert all(runs.is_whole(answer) for answer in answers)


def test_a_client_that_leaves_leaves_alone(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    server = serve(runs.app(cache_url))
    first = RawClient(server.port)
    first.send()
    first.read_head()
    first.read_until(100)
    others = [RawClient(server.port) for _ in range(20)]
    for client in others:
        client.send()
        client.read_head()
        client.read_until(100)
    others.pop().abort()
    first.abort()
    runs.gate.open()
    answers = [client.read_rest() for client in others]
    for client in others:
        client.close()
    assert len(runs.bodies) == 1
    assert all(runs.is_whole(answer) for answer in answers)


def test_a_session_outlives_the_run_though_its_client_has_left(
    serve: Serve, cache_url: str
) -> None:
    events: list[str] = []
    gate = Gate()

    async def session() -> AsyncIterator[str]:
        events.append("opened")
        yield "session"
        events.append("closed")

    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60, cache=cache_url, key_ignore=("db",))
    async def endpoint(db: str = Depends(session)) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            await gate.passed()
            events.append("run over")
            yield b"last"

        return StreamingResponse(body())

    server = serve(app)
    clients = [RawClient(server.port) for _ in range(21)]
    for client in clients:
        client.send()
        client.read_head()
        client.read_until(6)
    clients.pop(0).abort()
    gate.open()
    answers = [client.read_rest() for client in clients]
    for client in clients:
        client.close()
    wait_until(lambda: server.requests_running == 0)
    assert [answer.body for answer in answers] == [b"first last"] * 20
    assert events.count("run over") == 1
    after = events[events.index("run over") :]
    # Those who followed had sessions of their own, closed whenever they were done.
    assert "closed" in after


@pytest.mark.parametrize(
    "headers", [{"set-cookie": "a=b"}, {"cache-control": "private"}, {"vary": "*"}]
)
def test_what_can_not_be_shared_queues_nobody_up(
    serve: Serve, cache_url: str, headers: dict[str, str]
) -> None:
    gate, hold, reached = Gate(), Gate(), Gate()
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        run = runs
        if run == 1:
            reached.open()
            await gate.passed()

        async def body() -> AsyncIterator[bytes]:
            if run == 1:
                await hold.passed()
            yield b"%d" % run

        return StreamingResponse(body(), headers=headers)

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    first = Waiting(server.port, 1)
    reached.wait()
    others = Waiting(server.port, 9)
    wait_until(lambda: server.requests_running == 10)
    gate.open()
    # The first one is still running.
    bodies = {answer.body for answer in others.answers()}
    hold.open()
    assert bodies | {first.answers()[0].body} == {b"%d" % run for run in range(1, 11)}
    # And for a while, nobody waits.
    hold, gate = Gate(), Gate()
    assert fetch(server.port).body == b"11"


@pytest.mark.parametrize("length", [None, 12])
def test_a_run_that_fails_after_its_last_byte_is_broken_for_all(
    serve: Serve, cache_url: str, length: int | None
) -> None:
    gate, reached = Gate(), Gate()
    headers = {} if length is None else {"content-length": f"{length}"}

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"whole,"
            reached.open()
            await gate.passed()
            yield b" it is"
            raise LookupError

        return StreamingResponse(body(), headers=headers)

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    waiting = Waiting(server.port, 5)
    reached.wait()
    wait_until(lambda: server.requests_running == 5)
    gate.open()
    assert [answer.complete for answer in waiting.answers()] == [False] * 5


def test_who_leaves_while_the_head_is_sent_leaves_alone(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    runs.at = 0
    is_first, held, asked = [True], Gate(), Gate()
    cached = runs.app(cache_url)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        first = scope["type"] == "http" and is_first.pop() if is_first else False

        async def slow(message: Any) -> None:
            if first and message["type"] == "http.response.start":
                asked.open()
                await held.passed()
            await send(message)

        await cached(scope, receive, slow)

    server = serve(app)
    with RawClient(server.port) as client:
        client.send()
        asked.wait()
        waiting = Waiting(server.port, 5)
        wait_until(lambda: server.requests_running == 6)
        client.abort()
    wait_until(lambda: server.connections == 5)
    held.open()
    runs.gate.open()
    assert all(runs.is_whole(answer) for answer in waiting.answers())
    assert len(runs.bodies) == 1


@pytest.mark.matrix("known", "why")
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("why", ["status", "private", "max_body"])
def test_a_variant_that_can_not_be_shared_leaves_the_others_alone(
    serve: Serve, cache_url: str, known: bool, why: str
) -> None:
    gate, reached = Gate(), Gate()
    runs: list[str] = []

    @stream_cached(ttl=60, cache=cache_url, max_body=1000)
    async def endpoint(request: Request) -> Response:
        language = request.headers["accept-language"]
        runs.append(language)
        headers = {"vary": "accept-language"}
        if language == "en":
            reached.open()
            await gate.passed()
        if language == "xx" and why == "status":
            return PlainTextResponse("no", 406, headers)
        if language == "xx" and why == "private":
            headers["cache-control"] = "private"
        size = 5000 if language == "xx" and why == "max_body" else 2

        async def body() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield language.encode() * (size // 20 + 1)

        return StreamingResponse(body(), headers=headers)

    server = serve(Starlette(routes=[Route("/", endpoint)]))

    def get(language: str) -> RawResponse:
        return fetch(server.port, headers={"accept-language": language})

    if known:
        get("de")
    get("xx")
    wait_until(lambda: server.requests_running == 0)
    # What is remembered is this variant.
    get("xx")
    assert (runs.count("xx"), get("xx").header("cache-status")) != (1, HIT)
    waiting = Waiting(server.port, 10, {"accept-language": "en"})
    reached.wait()
    wait_until(lambda: server.requests_running == 10)
    gate.open()
    assert {answer.body for answer in waiting.answers()} == {b"en" * 10}
    assert runs.count("en") == 1
    assert get("en").header("cache-status") == HIT


def test_a_head_joins_a_run_that_is_on_its_way(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns(headers={"x-a": "b"})
    server = serve(runs.app(cache_url))
    with RawClient(server.port) as first:
        first.send()
        first.read_head()
        runs.reached.wait()
        heads = [fetch(server.port, method="HEAD") for _ in range(3)]
        # They have not waited for its end.
        for head in heads:
            assert (head.status, head.body, head.header("x-a")) == (200, b"", "b")
            assert head.header("cache-status") == COLLAPSED
        runs.gate.open()
        assert runs.is_whole(first.read_rest())
    assert len(runs.bodies) == 1


def test_a_head_waits_for_a_run_whose_answer_is_not_known(serve: Serve, cache_url: str) -> None:
    gate, reached = Gate(), Gate()
    runs = 0

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        reached.open()
        await gate.passed()
        return StreamingResponse(iter([b"whole"]))

    server = serve(Starlette(routes=[Route("/", endpoint, methods=["GET", "HEAD"])]))
    waiting = Waiting(server.port, 1)
    reached.wait()
    with ThreadPoolExecutor(3) as threads:
        heads = [threads.submit(fetch, server.port, method="HEAD") for _ in range(3)]
        wait_until(lambda: server.requests_running == 4)
        gate.open()
        assert {head.result().status for head in heads} == {200}
    assert waiting.answers()[0].body == b"whole"
    assert runs == 1


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_turns_private_is_its_own_clients_only(
    serve: Serve, cache_url: str, begun: bool
) -> None:
    gate, reached = Gate(), Gate()

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            if begun:
                yield b"for all "
            reached.open()
            await gate.passed()
            yield request.cookies.get("name", "").encode()

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with ExitStack() as stack:
        first, *others = [stack.enter_context(RawClient(server.port)) for _ in range(6)]
        first.send(headers={"Cookie": "name=first"})
        reached.wait()
        for other in others:
            other.send(headers={"Cookie": "name=other"})
        if begun:
            for other in others:
                other.read_head()
                other.read_until(len(b"for all "))
        else:
            wait_until(lambda: server.requests_running == 6)
        gate.open()
        mine = first.read_all()
        answers = [other.read_rest() if begun else other.read_all() for other in others]
    assert mine.body.endswith(b"first")
    assert mine.complete
    for answer in answers:
        assert b"first" not in answer.body
        assert answer.complete is not begun
        assert begun or answer.body == b"other"


def test_requests_with_authorization_wait_for_nobody(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns(headers={"cache-control": "public"})
    server = serve(runs.app(cache_url))
    with RawClient(server.port) as first:
        first.send()
        first.read_head()
        runs.reached.wait()
        answer = fetch(server.port, headers={"Authorization": "Basic eDp5"})
        runs.gate.open()
        assert answer.body == runs.bodies[1]
        assert first.read_rest().complete


def test_variants_are_joined_by_those_who_want_them(serve: Serve, cache_url: str) -> None:
    gate = Gate()
    runs: list[str] = []

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        language = request.headers.get("accept-language", "")
        runs.append(language)

        async def body() -> AsyncIterator[bytes]:
            yield language.encode()
            await gate.passed()
            yield b"."

        return StreamingResponse(body(), headers={"vary": "Accept-Language"})

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    wanted = ["de", "en", "fr"]
    waiting = [Waiting(server.port, 5, {"Accept-Language": language}) for language in wanted]
    wait_until(lambda: server.requests_running == 15 and len(runs) == 3)
    gate.open()
    for language, each in zip(wanted, waiting, strict=True):
        assert [answer.text for answer in each.answers()] == [f"{language}."] * 5
    assert sorted(runs) == wanted


def test_who_waits_for_an_answer_does_not_join_another_variant(
    serve: Serve, cache_url: str
) -> None:
    gate = Gate()
    runs: list[str] = []

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        language = request.headers.get("accept-language", "")
        runs.append(language)
        if len(runs) == 1:
            # Nobody knows yet that it varies.
            await gate.passed()
        chunks = iter([language.encode(), b"."])
        return StreamingResponse(chunks, headers={"vary": "Accept-Language"})

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    wanted = ["de", "en", "fr"]
    waiting = [Waiting(server.port, 3, {"Accept-Language": language}) for language in wanted]
    wait_until(lambda: server.requests_running == 9)
    gate.open()
    for language, each in zip(wanted, waiting, strict=True):
        assert [answer.text for answer in each.answers()] == [f"{language}."] * 3
    assert sorted(runs) == wanted


def test_what_was_invalidated_is_not_joined(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    endpoint = stream_cached(ttl=60, cache=cache_url)(runs.__call__)
    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with RawClient(server.port) as first:
        first.send()
        first.read_head()
        runs.reached.wait()
        server.run(endpoint.invalidate())
        answer = fetch(server.port)
        runs.gate.open()
        assert first.read_rest().body == runs.bodies[0]
    assert answer.body == runs.bodies[1]


def test_waiting_is_bounded(serve: Serve, cache_url: str) -> None:
    gate, reached = Gate(), Gate()
    runs = 0

    @stream_cached(ttl=60, cache=cache_url, wait_timeout=0.5)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        if runs == 1:
            reached.open()
            await gate.passed()
        return StreamingResponse(iter([b"whole"]))

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    first = Waiting(server.port, 1)
    reached.wait()
    answers = Waiting(server.port, 10).answers()
    assert [answer.body for answer in answers] == [b"whole"] * 10
    # One of them leads the next run.
    assert runs == 2
    gate.open()
    assert first.answers()[0].header("Cache-Status") == MISS


@pytest.mark.matrix
@pytest.mark.parametrize("drops", [True, False])
def test_a_response_that_is_never_sent_holds_nobody_up(
    serve: Serve, cache_url: str, drops: bool
) -> None:
    runs = Runs()
    kept: list[Response] = []
    gate, reached = Gate(), Gate()
    cached = stream_cached(ttl=60, cache=cache_url)(runs.__call__)

    async def outer(request: Request) -> Response:
        response = await cached(request)
        if len(runs.bodies) > 1 or reached.is_open:
            return response
        reached.open()
        if not drops:
            kept.append(response)
        del response
        await gate.passed()
        return PlainTextResponse("something else")

    server = serve(Starlette(routes=[Route("/", outer)]))
    first = Waiting(server.port, 1)
    reached.wait()
    answer = fetch(server.port)
    gate.open()
    assert answer.body == runs.bodies[1]
    assert first.answers()[0].text == "something else"
    server.run(_close(kept))


async def _close(responses: list[Response]) -> None:
    for response in responses:
        assert isinstance(response, StreamingResponse)
        await response.body_iterator.aclose()  # type: ignore[attr-defined]


def test_stop_closes_a_run_at_once_that_nobody_reads(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    server = serve(runs.app(cache_url, on_disconnect="stop"))
    with RawClient(server.port) as first, RawClient(server.port) as other:
        for client in (first, other):
            client.send()
            client.read_head()
            client.read_until(100)
        first.abort()
        wait_until(lambda: server.requests_running == 1)
        assert not runs.closed[0].is_open
        other.abort()
        runs.closed[0].wait()
    runs.gate.open()
    assert fetch(server.port).header("Cache-Status") == MISS


@pytest.mark.parametrize("kind", ["json", "dict", "file"])
def test_what_is_no_stream_runs_once_too(serve: Serve, cache_url: str, kind: str) -> None:
    gate, reached = Gate(), Gate()
    runs = 0
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint() -> object:
        nonlocal runs
        runs += 1
        reached.open()
        await gate.passed()
        if kind == "file":
            return Sending(b"whole")
        return JSONResponse({"run": runs}) if kind == "json" else {"run": runs}

    server = serve(app)
    waiting = Waiting(server.port, 20)
    reached.wait()
    wait_until(lambda: server.requests_running == 20)
    gate.open()
    bodies = {answer.body for answer in waiting.answers()}
    assert len(bodies) == 1
    assert runs == 1


class Sending(Response):
    """Sends in a way of its own."""

    async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
        await super().__call__(scope, receive, send)


def test_an_endpoint_that_calls_itself_does_not_wait_for_itself(
    serve: Serve, cache_url: str
) -> None:
    depth = 0

    @stream_cached(ttl=60, cache=cache_url, key="one")
    async def endpoint(request: Request) -> Response:
        nonlocal depth
        depth += 1
        if depth < 3:
            return await endpoint(request)
        return StreamingResponse(iter([b"whole"]))

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    assert fetch(server.port).body == b"whole"
    assert depth == 3


def test_each_caller_has_a_response_of_its_own(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    cached = stream_cached(ttl=60, cache=cache_url)(runs.__call__)
    numbers = iter(range(100))

    async def outer(request: Request) -> Response:
        response = await cached(request)
        response.headers["x-number"] = str(next(numbers))
        return response

    server = serve(Starlette(routes=[Route("/", outer)]))
    clients = [RawClient(server.port) for _ in range(5)]
    for client in clients:
        client.send()
    heads = [client.read_head() for client in clients]
    runs.gate.open()
    answers = [client.read_rest() for client in clients]
    for client in clients:
        client.close()
    assert len({head.header("x-number") for head in heads}) == 5
    assert all(runs.is_whole(answer) for answer in answers)
    assert len(runs.bodies) == 1


@pytest.mark.parametrize("stored", [True, False])
def test_a_client_that_reads_nothing_stalls_nobody(
    serve: Serve, redis_url: str, stored: bool
) -> None:
    size = 24
    gate = Gate()
    seed = os.urandom(1_000_000)
    runs = 0

    # What is larger than this is not stored, and slow readers read on from a file.
    limit = "80MiB" if stored else "8MiB"

    @stream_cached(ttl=60, cache=redis_url, max_body=limit, timeout=10)
    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1

        async def body() -> AsyncIterator[bytes]:
            yield seed
            await gate.passed()
            for _ in range(size - 1):
                yield seed

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    slow = RawClient(server.port, timeout=60)
    with slow, RawClient(server.port, timeout=60) as quick:
        for client in (quick, slow):
            client.send()
            client.read_head()
            client.read_until(1_000)
        gate.open()
        answer = quick.read_rest()
        assert answer.complete
        assert answer.body == seed * size
        late = slow.read_rest()
        assert late.complete
        assert late.body == seed * size
    assert runs == 1
    assert fetch(server.port, method="HEAD").status == 200


def test_past_spool_max_the_slow_reader_is_cut_alone(serve: Serve, redis_url: str) -> None:
    gate = Gate()
    seed = os.urandom(1_000_000)

    @stream_cached(ttl=60, cache=redis_url, max_body="8MiB", spool_max="4MiB", timeout=10)
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield seed
            await gate.passed()
            for _ in range(23):
                yield seed

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    slow = RawClient(server.port, timeout=60)
    with slow, RawClient(server.port, timeout=60) as quick:
        for client in (quick, slow):
            client.send()
            client.read_head()
            client.read_until(1_000)
        gate.open()
        assert quick.read_rest().body == seed * 24
        late = slow.read_rest()
    assert not late.complete
    assert (seed * 24).startswith(late.body)


def test_hits_follow_a_stampede(serve: Serve, cache_url: str) -> None:
    runs = Runs(chunks=3, chunk=1_000)
    server = serve(runs.app(cache_url))
    for answer in ask(server.port, 20):
        assert runs.is_whole(answer)
    assert len(runs.bodies) == 1
    assert fetch(server.port).header("Cache-Status") == HIT


@pytest.mark.matrix
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_clients_leave_after_each_byte(serve: Serve, cache_url: str, http: HttpParser) -> None:
    runs = HeldRuns(chunks=24, chunk=2)
    runs.at = 12
    server = serve(runs.app(cache_url), http)
    leaving = [RawClient(server.port) for _ in range(48)]
    with RawClient(server.port) as staying:
        for client in (*leaving, staying):
            client.send()
            client.read_head()
        for count, client in enumerate(leaving[:24]):
            client.read_until(count)
            client.abort()
        runs.gate.open()
        for count, client in enumerate(leaving[24:], 24):
            client.read_until(count)
            client.abort()
        assert runs.is_whole(staying.read_rest())
    assert len(runs.bodies) == 1
    assert fetch(server.port).header("Cache-Status") == HIT


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_readers_leave_as_an_asgi_server_tells_it(cache_url: str, version: str) -> None:
    runs = HeldRuns(chunks=6, chunk=2)
    runs.at = 3

    async def main() -> None:
        app = runs.app(cache_url)
        exchanges = [Exchange(app, version) for _ in range(10)]
        tasks = [asyncio.create_task(exchange.run()) for exchange in exchanges]
        for exchange in exchanges:
            await exchange.received.wait()
        for exchange in exchanges[:9]:
            exchange.left.set()
        runs.gate.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert exchanges[9].complete
        assert exchanges[9].body == runs.bodies[0]
        assert not any(exchange.complete for exchange in exchanges[:9])
        assert (await get(app)).cache_status == HIT

    asyncio.run(main())
    assert len(runs.bodies) == 1


def test_what_was_stored_since_is_waited_for_again(serve: Serve, cache_url: str) -> None:
    runs, calls = HeldRuns(), [0]

    async def sometimes(request: Request) -> Response:
        calls[0] += 1
        return PlainTextResponse("slow down", 429) if calls[0] == 1 else await runs(request)

    endpoint = stream_cached(ttl=60, cache=cache_url)(sometimes)
    server = serve(Starlette(routes=[Route("/", endpoint)]))
    assert fetch(server.port).status == 429
    runs.gate.open()
    assert fetch(server.port).header("Cache-Status") == MISS
    server.run(endpoint.invalidate())
    runs.gate = Gate()
    runs.bodies.clear()
    waiting = Waiting(server.port, 10)
    wait_until(lambda: server.requests_running == 10)
    runs.gate.open()
    assert all(runs.is_whole(answer) for answer in waiting.answers())
    assert len(runs.bodies) == 1


def test_who_has_waited_long_enough_for_a_first_byte_leads_a_run(
    serve: Serve, cache_url: str
) -> None:
    runs = HeldRuns()
    runs.at = 0
    server = serve(runs.app(cache_url, wait_timeout=0.2))
    with RawClient(server.port) as first:
        first.send()
        runs.reached.wait()
        answer = fetch(server.port)
        assert (answer.body, answer.complete) == (runs.bodies[1], True)
        runs.gate.open()
        first.read_head()
        assert first.read_rest().body == runs.bodies[0]


@pytest.mark.matrix
@pytest.mark.parametrize("settings", [{"on_disconnect": "stop"}, {"finish_timeout": 0.3}])
def test_an_endpoint_that_asks_for_its_client_learns_that_it_has_left(
    serve: Serve, cache_url: str, settings: dict[str, object]
) -> None:
    runs, gates = Runs(), [Gate(), Gate()]
    calls = iter(gates)

    async def polling(request: Request) -> Response:
        asked = next(calls)
        while not await request.is_disconnected():
            asked.open()
            await asyncio.sleep(0.01)
        return await runs(request)

    endpoint = stream_cached(ttl=60, cache=cache_url, **settings)(polling)  # type: ignore[arg-type]
    server = serve(Starlette(routes=[Route("/", endpoint)]))
    for count, asked in enumerate(gates, 1):
        with RawClient(server.port) as client:
            client.send()
            asked.wait()
            client.abort()
        wait_until(lambda: not server.requests_running)
        # What it answers then may be cut short: the next one asks again.
        assert len(runs.bodies) == count


def test_a_reader_that_is_cut_and_does_not_notice_holds_up_nothing(
    serve: Serve, cache_url: str
) -> None:
    gate, closed = Gate(), Gate()

    @stream_cached(ttl=60, cache=cache_url, on_disconnect="stop")
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                for _ in range(300):
                    yield bytes(CHUNK)
                await gate.passed()
                request.cookies.get("name")
                while True:
                    yield bytes(CHUNK)
            finally:
                closed.open()

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with RawClient(server.port, receive_buffer=4096) as stalled:
        with RawClient(server.port) as first:
            first.send()
            first.read_head()
            first.read_until(CHUNK)
            stalled.send()
            stalled.read_head()
            first.read_until(300 * CHUNK)
            first.abort()
        wait_until(lambda: server.requests_running == 1)
        gate.open()
        closed.wait()


def test_a_store_that_dies_breaks_off_nobody_who_lags_behind(
    serve: Serve, own_redis: RedisServer
) -> None:
    runs = HeldRuns(chunks=250, chunk=40_000)
    runs.at = 200
    server = serve(runs.app(own_redis.url(), max_ahead="64KiB"))
    with RawClient(server.port, receive_buffer=32_768) as slow, RawClient(server.port) as quick:
        slow.send()
        slow.read_head()
        slow.read_until(1000)
        quick.send()
        quick.read_head()
        quick.read_until(200 * 40_000)
        own_redis.kill()
        runs.gate.open()
        assert quick.read_rest().body == runs.bodies[0]
        assert slow.read_rest().body == runs.bodies[0]
    assert len(runs.bodies) == 1


def test_the_time_that_a_request_takes_to_arrive_is_no_wait_for_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits, waits from then on; and what showed life before may be dead by then."""
    calls: list[Call] = []
    arrived: list[float] = []

    def noted(call: Call) -> Any:
        calls.append(call)
        return way.answer(call)

    class Upload(Exchange):
        async def _receive(self) -> Any:
            message = await super()._receive()
            arrived.append(time.monotonic())
            return message

    @stream_cached(ttl=60, cache=MemoryCache(), methods=("POST",))
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(await request.body())

    exchange = Upload(Starlette(routes=[Route("/", endpoint, methods=["POST"])]))
    exchange.scope["method"] = "POST"
    monkeypatch.setattr(function, "answer", noted)
    asyncio.run(exchange.run())
    assert calls[0].started >= arrived[0]
