"""cashews' own decorators over endpoints that stream, under the patches of `install`."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import redis
from cashews import Command, decorators
from cashews.backends.memory import Memory
from cashews.contrib.fastapi import (
    CacheDeleteMiddleware,
    CacheEtagMiddleware,
    CacheRequestControlMiddleware,
)
from cashews.decorators.cache import hit as hit_module
from cashews.serialize import Serializer
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from stream_cached.cashews import encoding, install, lookup, stream_cached, uninstall
from stream_cached.cashews.entries import CashewsEntries, EntryRef
from stream_cached.engine.outcome import Call
from stream_cached.errors import BrokenStreamError
from stream_cached.format.codec import decode_record, encode_record
from stream_cached.format.records import Entry
from stream_cached.keys.names import segment_key
from stream_cached.limits import Limits
from stream_cached.options import Options
from tests.conftest import Serve
from tests.support.app_server import AppServer
from tests.support.closed_cache import Cache, Setup, setup_of
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch, fetch_many
from tests.support.servers import RedisServer

HIT = "stream-cached; hit"
MISS = "stream-cached; fwd=uri-miss; stored"

T = TypeVar("T")


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    install()
    yield
    uninstall()


pytestmark = pytest.mark.matrix


@pytest.fixture(params=["mem", "redis", "redis that raises", "disk"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Setup:
    """Returns a function that sets up a cache."""
    return setup_of(request.param, request, tmp_path)


@pytest.fixture
def mem() -> Cache:
    cache = Cache()
    cache.setup("mem://")
    return cache


class Pages:
    """An app with one endpoint, whose response `respond` makes from the number of the run."""

    def __init__(
        self,
        serve: Serve,
        cached: Callable[[Any], Any],
        respond: Callable[[int], Response],
        around: Callable[[Any], Any] = lambda f: f,
        layers: Sequence[Middleware] = (),
        **config: Any,
    ) -> None:
        self.runs = 0

        async def page(name: str) -> Response:
            self.runs += 1
            return respond(self.runs)

        self.cached = around(cached(page))

        async def endpoint(request: Request) -> Response:
            response: Response = await self.cached(request.query_params.get("name", ""))
            return response

        self.server: AppServer = serve(
            Starlette(routes=[Route("/", endpoint)], middleware=layers), **config
        )
        self.port = self.server.port

    def get(self, target: str = "/", **headers: str) -> RawResponse:
        return fetch(self.port, target, headers)

    def act(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the event loop of the app."""
        return self.server.run(action())


def wait_for_refreshes(server: AppServer) -> None:
    """Wait until no refresh and no extension of a pointer is running."""

    async def running() -> bool:
        names = [str(task.get_coro()) for task in asyncio.all_tasks()]
        return any("_get_and_save" in name or "_extend_pointer" in name for name in names)

    wait_until(lambda: not server.run(running()))


async def chunks(*parts: Any) -> AsyncIterator[Any]:
    for part in parts:
        yield part


def rows(run: int) -> Response:
    return StreamingResponse(
        chunks(*(b"run %d, row %d\n" % (run, row) for row in range(3))), media_type="text/csv"
    )


def body_of(run: int) -> bytes:
    return b"".join(b"run %d, row %d\n" % (run, row) for row in range(3))


def test_a_stream_is_stored_and_served_again(serve: Serve, setup: Setup) -> None:
    pages = Pages(serve, setup()(ttl=60), rows)
    answers = [pages.get() for _ in range(3)]
    assert [answer.body for answer in answers] == [body_of(1)] * 3
    assert all(answer.complete for answer in answers)
    assert [answer.header("cache-status") for answer in answers] == [MISS, HIT, HIT]
    assert pages.get("/?name=other").body == body_of(2)


# -- byte for byte --------------------------------------------------------------------------------


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    "parts",
    [
        lambda: (b"a", b"", b"b"),
        lambda: (b"",),
        lambda: (),
        lambda: ("grüße ", "日本"),
        lambda: (memoryview(b"\x00\xff"), b"~stream_cached:", b"\xc1"),
        lambda: tuple(b"%d," % n for n in range(5000)),
        lambda: (b"x" * 3_000_000, b"y" * 2_000_001),
    ],
    ids=["empty chunk", "only an empty chunk", "no chunk", "str", "memoryview", "many", "MiB"],
)
def test_bodies_come_whole(serve: Serve, setup: Setup, http: Any, parts: Any) -> None:
    body = b"".join(part.encode() if isinstance(part, str) else part for part in parts())
    pages = Pages(
        serve,
        setup()(ttl=60),
        lambda run: StreamingResponse(chunks(*parts()), media_type="text/plain"),
        http=http,
    )
    answers = [pages.get() for _ in range(3)]
    assert [answer.body == body and answer.complete for answer in answers] == [True] * 3
    assert answers[0].header("content-type") == "text/plain; charset=utf-8"
    assert [answer.header("content-type") for answer in answers] == [
        "text/plain; charset=utf-8"
    ] * 3
    assert pages.runs == 1


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_all_headers_come(serve: Serve, setup: Setup, http: Any) -> None:
    def respond(run: int) -> Response:
        response = StreamingResponse(chunks(b"\xff"), 203, {"X-A": "1; b=2", "Link": "<a>, <b>"})
        response.headers.append("x-twice", "one")
        response.headers.append("x-twice", "two=2;")
        response.headers["content-type"] = "application/x; charset=latin-1"
        return response

    pages = Pages(serve, setup()(ttl=60), respond, http=http)
    miss, hit = pages.get(), pages.get()
    assert miss.status == hit.status == 203
    for answer in miss, hit:
        assert answer.header_values("x-twice") == ["one", "two=2;"]
        assert answer.header("x-a") == "1; b=2"
        assert answer.header("link") == "<a>, <b>"
        assert answer.header("content-type") == "application/x; charset=latin-1"
    assert pages.runs == 1


@pytest.mark.parametrize("kind", ["stream", "body"])
def test_the_fields_of_one_connection_are_for_its_client_alone(
    serve: Serve, setup: Setup, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(run: int) -> Response:
        headers = {"Connection": "X-Hop", "X-Hop": "1", "TE": "trailers", "X-A": "b", "Age": "7"}
        if kind == "body":
            return Response(b"a", 200, headers)
        return StreamingResponse(chunks(b"a"), 200, headers)

    pages = Pages(serve, setup()(ttl=600), respond)
    miss = pages.get()
    later = SimpleNamespace(time=lambda: time.time() + 100, monotonic=time.monotonic)
    for module in "cashews.encoding", "engine.at_hand", "engine.lookup":
        monkeypatch.setattr(f"stream_cached.{module}.time", later)
    hit = pages.get()
    for name in "connection", "x-hop", "te":
        assert (len(miss.header_values(name)), hit.header_values(name)) == (1, []), name
    assert miss.header("x-a") == hit.header("x-a") == "b"
    assert miss.header("age") == "7"
    assert 107 <= int(hit.header("age") or "") < 167
    assert (hit.body, pages.runs) == (b"a", 1)


def test_bodies_in_memory(serve: Serve, setup: Setup) -> None:
    kinds = {
        "json": lambda run: JSONResponse({"run": run}, headers={"x-a": "b"}),
        "html": lambda run: HTMLResponse(f"<p>{run}"),
        "plain": lambda run: PlainTextResponse(f"{run}" * 100_000),
        "empty": lambda run: Response(status_code=204),
        "redirect": lambda run: RedirectResponse(f"/{run}", 308),
    }
    for kind, respond in kinds.items():
        pages = Pages(serve, setup()(ttl=60, key=kind), respond)
        first, *others = [pages.get() for _ in range(3)]
        for other in others:
            assert (other.status, other.body) == (first.status, first.body), kind
            for name in ("content-type", "content-length", "location", "x-a"):
                assert other.header(name) == first.header(name)
            assert other.complete
            assert other.header("cache-status") == HIT
        assert pages.runs == 1, kind


def test_each_hit_on_a_body_in_memory_is_an_object_of_its_own(serve: Serve, setup: Setup) -> None:
    def stamped(f: Any) -> Any:
        async def call(name: str) -> Response:
            response: Response = await f(name)
            response.headers.append("x-stamp", "here")
            return response

        return call

    for key, respond in {"rows": rows, "json": lambda run: JSONResponse(run)}.items():
        pages = Pages(serve, setup()(ttl=60, key=key), respond, stamped)
        for _ in range(3):
            assert pages.get().header_values("x-stamp") == ["here"]
        assert pages.runs == 1


def test_event_streams(serve: Serve, setup: Setup) -> None:
    def respond(run: int) -> Response:
        events = chunks({"event": "tick", "data": f"{run}"}, {"data": "end"})
        return EventSourceResponse(events, headers={"Cache-Control": "max-age=60"})

    pages = Pages(serve, setup()(ttl=60), respond)
    miss, hit = pages.get(), pages.get()
    assert miss.body == hit.body == b"event: tick\r\ndata: 1\r\n\r\ndata: end\r\n\r\n"
    assert (miss.header("cache-status"), hit.header("cache-status")) == (MISS, HIT)
    assert hit.header("content-type") == "text/event-stream; charset=utf-8"


def test_a_file_keeps_its_ranges(serve: Serve, setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "a file.txt"
    file.write_bytes(b"0123456789" * 100_000)
    pages = Pages(serve, setup()(ttl=60), lambda run: FileResponse(file))
    for _ in range(2):
        part, whole = pages.get(range="bytes=100-104"), pages.get()
        assert (part.status, part.body) == (206, b"01234")
        assert part.header("content-range") == "bytes 100-104/1000000"
        assert (whole.status, whole.body) == (200, b"0123456789" * 100_000)
        assert whole.header("etag") == part.header("etag")


def test_head_is_answered_without_a_body(serve: Serve, setup: Setup) -> None:
    pages = Pages(serve, setup()(ttl=60, key="page"), rows)
    assert [fetch(pages.port, method="HEAD").body for _ in range(2)] == [b"", b""]
    # The client of a HEAD request leaves before the body is stored.
    wait_until(lambda: pages.get().header("cache-status") == HIT)
    assert fetch(pages.port, method="HEAD").header("cache-status") == HIT
    assert pages.get().complete


# -- many at once ---------------------------------------------------------------------------------


class Held:
    """Streams that wait between their two halves."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.gates = Gate(), Gate(), [Gate() for _ in range(40)]

    def respond(self, run: int) -> Response:
        return StreamingResponse(self.stream(run))

    async def stream(self, run: int) -> AsyncIterator[bytes]:
        yield b"run %d, first half\n" % run
        self.begun.open()
        await self.go_on.passed()
        yield b"run %d, second half\n" % run

    @staticmethod
    def body(run: int) -> bytes:
        return b"run %d, first half\nrun %d, second half\n" % (run, run)


def test_a_run_that_ends_while_it_is_looked_for_is_found(
    serve: Serve, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, original, looks = Held(), EntryRef.response, 0
    pages = Pages(serve, setup()(ttl=60), held.respond)

    async def response(self: EntryRef, call: Call) -> Response | None:
        nonlocal looks
        found = await original(self, call)
        looks += 1
        if looks == 1:
            held.go_on.open()
            # Until only the request that looks the entry up is running.
            await asyncio.to_thread(wait_until, lambda: pages.server.requests_running == 1)
        return found

    monkeypatch.setattr(EntryRef, "response", response)
    with RawClient(pages.port) as first, ThreadPoolExecutor(1) as pool:
        first.send()
        held.begun.wait()
        other = pool.submit(pages.get)
        assert first.read_all().body == Held.body(1)
        assert other.result().body == Held.body(1)
    assert pages.runs == 1


@pytest.mark.parametrize("options", [{}, {"lock": True}, {"protected": False}], ids=str)
def test_concurrent_requests_join(serve: Serve, setup: Setup, options: Any) -> None:
    held = Held()
    pages = Pages(serve, setup()(ttl=60, **options), held.respond)
    with RawClient(pages.port) as first, ThreadPoolExecutor(20) as pool:
        first.send()
        held.begun.wait()
        others = [pool.submit(pages.get) for _ in range(20)]
        wait_until(lambda: pages.server.requests_running == 21)
        held.go_on.open()
        bodies = [first.read_all().body, *(other.result().body for other in others)]
    assert bodies == [Held.body(1)] * 21
    assert pages.get().header("cache-status") == HIT
    assert pages.runs == 1


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_cold_endpoint_runs_once(serve: Serve, setup: Setup, http: Any) -> None:
    pages = Pages(
        serve,
        setup()(ttl=60),
        lambda run: StreamingResponse(chunks(*[b"%d" % run * 1000] * 1000)),
        http=http,
    )
    answers = fetch_many(pages.port, count=20)
    assert [len(answer.body) for answer in answers] == [1_000_000] * 20
    assert all(answer.complete for answer in answers)
    assert pages.runs == 1


def test_a_warm_endpoint_is_read_by_many(serve: Serve, setup: Setup) -> None:
    pages = Pages(
        serve, setup()(ttl=60), lambda run: StreamingResponse(chunks(*[b"%d" % run * 1000] * 2000))
    )
    pages.get()
    answers = fetch_many(pages.port, count=20)
    assert [len(answer.body) for answer in answers] == [2_000_000] * 20
    assert pages.runs == 1


def test_runs_that_overlap_are_never_mixed(serve: Serve, setup: Setup) -> None:
    held = Held()
    made = Gate()

    def slowly_sent(f: Any) -> Any:
        async def call(name: str) -> Response:
            response: Response = await f(name)
            # A stream that is not sent yet can't be joined.
            await made.passed()
            return response

        return call

    pages = Pages(serve, setup()(ttl=60, protected=False), held.respond, slowly_sent)
    with RawClient(pages.port) as one, RawClient(pages.port) as two:
        one.send()
        wait_until(lambda: pages.runs == 1)
        two.send()
        wait_until(lambda: pages.runs == 2)
        made.open()
        held.go_on.open()
        assert {one.read_all().body, two.read_all().body} == {Held.body(1), Held.body(2)}
    hits = [pages.get() for _ in range(3)]
    assert {hit.body for hit in hits} <= {Held.body(1), Held.body(2)}
    assert len({hit.body for hit in hits}) == 1
    assert [hit.header("cache-status") for hit in hits] == [HIT] * 3


@pytest.mark.matrix
@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("status", [201, 202, 203, 299, 302, 400, 404, 500, 503])
def test_all_statuses_are_stored_as_by_cashews(
    serve: Serve, setup: Setup, status: int, is_stream: bool
) -> None:
    def respond(run: int) -> Response:
        if is_stream:
            return StreamingResponse(chunks(body_of(run)), status)
        return PlainTextResponse(f"run {run}", status)

    pages = Pages(serve, setup()(ttl=60, key="page"), respond)
    answers = [pages.get() for _ in range(3)]
    assert {answer.status for answer in answers} == {status}
    assert len({answer.body for answer in answers}) == 1
    assert pages.runs == 1


@pytest.mark.parametrize("condition", ["switched off", "condition", "private", "status"])
def test_what_is_not_stored_is_whole_for_all(serve: Serve, setup: Setup, condition: str) -> None:
    cache, gate = setup(), Gate()
    options: dict[str, Any] = {}
    if condition == "condition":
        options["condition"] = lambda *args, **kwargs: False
    headers = {"set-cookie": "a=b"} if condition == "private" else {}

    def held(f: Any) -> Any:
        async def call(name: str) -> Any:
            await gate.passed()
            return await f(name)

        return call

    def respond(run: int) -> Response:
        return StreamingResponse(
            chunks(body_of(run)), 206 if condition == "status" else 200, headers
        )

    def around(f: Any) -> Any:
        async def call(name: str) -> Any:
            commands = [Command.SET] if condition == "switched off" else [Command.PING]
            with cache.disabling(*commands):
                return await f(name)

        return call

    pages = Pages(serve, lambda f: cache(ttl=60, **options)(held(f)), respond, around)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(pages.get) for _ in range(5)]
        wait_until(lambda: pages.server.requests_running == 5)
        gate.open()
        bodies = sorted(answer.result().body for answer in answers)
    assert bodies == [body_of(run) for run in range(1, 6)]


def test_runs_of_several_processes(serve: Serve, setup: Setup) -> None:
    first, second = Held(), Held()
    # Each event loop is like a process: a run in another one can't be joined.
    cache = setup()
    is_memory = isinstance(cache._get_backend(""), Memory)
    one = Pages(serve, cache(ttl=60, key="page"), first.respond)
    two = Pages(serve, (cache if is_memory else setup())(ttl=60, key="page"), second.respond)
    two.runs = 1
    with RawClient(one.port) as a, RawClient(two.port) as b, RawClient(one.port) as c:
        a.send()
        first.begun.wait()
        b.send()
        second.begun.wait()
        c.send()
        wait_until(lambda: one.server.requests_running == 2)
        first.go_on.open()
        assert a.read_all().body == c.read_all().body == Held.body(1)
        # The entry that is stored first is served by both.
        assert one.get().body == two.get().body == Held.body(1)
        second.go_on.open()
        assert b.read_all().body == Held.body(2)
    assert one.get().body == two.get().body == Held.body(2)
    assert (one.runs, two.runs) == (1, 2)


def test_what_was_decorated_before(serve: Serve, setup: Setup) -> None:
    uninstall()
    decorate = setup()(ttl=60)
    pages = Pages(
        serve, decorate, lambda run: StreamingResponse(chunks(*[b"%d" % run * 1000] * 1000))
    )
    install()
    for _ in range(2):
        answers = fetch_many(pages.port, count=20)
        assert [len(answer.body) for answer in answers] == [1_000_000] * 20
    assert pages.runs == 1


def test_what_was_decorated_before_and_is_not_stored_is_never_empty(
    serve: Serve, setup: Setup
) -> None:
    gate = Gate()

    def respond(run: int) -> Response:
        return StreamingResponse(chunks(body_of(run)), headers={"set-cookie": "a=b"})

    def held(f: Any) -> Any:
        async def call(name: str) -> Any:
            await gate.passed()
            return await f(name)

        return call

    uninstall()
    cache = setup()
    pages = Pages(serve, lambda f: cache(ttl=60)(held(f)), respond)
    install()
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(pages.get) for _ in range(5)]
        wait_until(lambda: pages.server.requests_running == 5)
        gate.open()
        statuses = sorted(answer.result().status for answer in answers)
    assert statuses == [200, 500, 500, 500, 500]


def test_a_file_that_is_not_stored_is_sent_to_all(
    serve: Serve, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(limits=Limits(max_body=300_000))
    monkeypatch.setattr("stream_cached.cashews.entries.OPTIONS", options)
    file, gate = tmp_path / "large", Gate()
    file.write_bytes(bytes(300_001))

    def held(f: Any) -> Any:
        async def call(name: str) -> Any:
            await gate.passed()
            return await f(name)

        return call

    cache = setup()
    pages = Pages(serve, lambda f: cache(ttl=60)(held(f)), lambda run: FileResponse(file))
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(pages.get) for _ in range(3)]
        wait_until(lambda: pages.server.requests_running == 3)
        gate.open()
        lengths = [len(answer.result().body) for answer in answers]
    assert lengths == [300_001] * 3


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_stream_that_breaks_is_broken_and_not_stored(serve: Serve, setup: Setup) -> None:
    def respond(run: int) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun\n"
            if run == 1:
                raise RuntimeError("on purpose")
            yield b"and ended\n"

        return StreamingResponse(body())

    pages = Pages(serve, setup()(ttl=60), respond)
    assert not pages.get().complete
    assert pages.get().body == b"begun\nand ended\n"
    assert pages.get().header("cache-status") == HIT
    assert pages.runs == 2


def test_requests_that_joined_see_the_run_break(serve: Serve, setup: Setup) -> None:
    go_on = Gate()

    def respond(run: int) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun\n"
            await go_on.passed()
            raise RuntimeError("on purpose")

        return StreamingResponse(body())

    pages = Pages(serve, setup()(ttl=60), respond)
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(pages.get) for _ in range(10)]
        wait_until(lambda: pages.server.requests_running == 10)
        go_on.open()
        for answer in (answer.result() for answer in answers):
            assert not answer.complete or answer.status == 500


def test_a_client_that_leaves_leaves_nothing_short(serve: Serve, setup: Setup) -> None:
    held = Held()
    left = Gate()

    def respond(run: int, request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"run %d, first half\n" % run
            held.begun.open()
            await held.go_on.passed()
            if await request.is_disconnected():
                return
            yield b"run %d, second half\n" % run

        return StreamingResponse(body())

    cache, runs = setup(), []

    @cache(ttl=60, key="page")
    async def page(request: Request) -> Response:
        runs.append(request)
        return respond(len(runs), request)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def told() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect":
                left.open()
            return message

        await Starlette(routes=[Route("/", page)])(scope, told, send)

    server = serve(app)
    with RawClient(server.port) as client:
        client.send()
        held.begun.wait()
        client.read_head()
        client.abort()
    left.wait()
    with RawClient(server.port) as other:
        other.send()
        wait_until(lambda: server.requests_running == 1)
        held.go_on.open()
        assert other.read_all().body == Held.body(1)
    hit = fetch(server.port)
    assert (hit.body, hit.header("cache-status")) == (Held.body(1), HIT)


@pytest.mark.full
def test_a_full_memory_never_serves_what_is_short(serve: Serve) -> None:
    cache = Cache()
    cache.setup("mem://", size=10)
    pages = Pages(
        serve,
        cache(ttl=60),
        lambda run: StreamingResponse(chunks(*[b"%06d" % run * 200] * 500)),
    )
    for _ in range(3):
        for name in range(12):
            answer = pages.get(f"/?name={name}")
            assert answer.complete
            assert len(answer.body) == 600_000
            assert len({answer.body[n : n + 6] for n in range(0, 600_000, 6)}) == 1
    assert pages.get("/?name=11").header("cache-status") == HIT


def test_segments_that_are_gone_are_a_miss(serve: Serve, setup: Setup) -> None:
    cache = setup()
    pages = Pages(
        serve,
        cache(ttl=60, key="page"),
        lambda run: StreamingResponse(chunks(*[b"%06d" % run * 200] * 500)),
    )
    pages.get()

    async def lose() -> None:
        entries = CashewsEntries.of(cache._get_backend("page"))
        raw: bytes = await cache.get_raw("page")
        (ref,) = encoding.unpack_refs(raw.removeprefix(encoding.PREFIX), entries, "page")
        found: Any = await ref._look_up()
        last = len(found.entry.segments) - 1
        key = segment_key(found.key, found.entry.generation, last)
        await entries.backend.store.delete_many([key])

    pages.act(lose)
    answer = pages.get()
    assert answer.body == b"%06d" % 2 * 100_000
    assert pages.get().header("cache-status") == HIT


def test_a_redis_that_is_away(serve: Serve, own_redis: RedisServer) -> None:
    cache = Cache()
    cache.setup(own_redis.url(), suppress=True)
    pages = Pages(serve, cache(ttl=60), rows)
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2
    own_redis.stop()
    assert [pages.get().body for _ in range(2)] == [body_of(2), body_of(3)]
    own_redis.start()
    assert pages.get().body == body_of(4)


def test_a_redis_that_hangs(serve: Serve, own_redis: RedisServer) -> None:
    cache = Cache()
    cache.setup(own_redis.url(), suppress=True, socket_timeout=0.2)
    held = Held()
    pages = Pages(serve, cache(ttl=60), held.respond)
    with RawClient(pages.port) as client:
        client.send()
        held.begun.wait()
        own_redis.pause()
        held.go_on.open()
        answer = client.read_all(timeout=20)
        assert (answer.body, answer.complete) == (Held.body(1), True)
    answer = pages.get()
    assert (answer.body, answer.complete) == (Held.body(2), True)
    own_redis.resume()
    assert pages.get().complete


# -- what cashews' words mean ---------------------------------------------------------------------


@pytest.mark.full
def test_entries_expire(serve: Serve, setup: Setup) -> None:
    pages = Pages(serve, setup()(ttl=1), rows)
    assert pages.get().body == body_of(1)
    wait_until(lambda: pages.get().body == body_of(2))


@pytest.mark.full
def test_a_stream_may_take_longer_than_its_ttl(serve: Serve, setup: Setup) -> None:
    def respond(run: int) -> Response:
        async def slow() -> AsyncIterator[bytes]:
            yield b"run %d" % run
            await asyncio.sleep(2.2)

        return StreamingResponse(slow())

    pages = Pages(serve, setup()(ttl=2), respond)
    assert pages.get().body == pages.get().body == b"run 1"


def test_a_stream_that_is_never_sent_delays_no_request_for_long(serve: Serve, mem: Cache) -> None:
    pages = Pages(serve, mem(ttl=60, key="page"), rows, around=lambda page: page)

    async def drop() -> None:
        await pages.cached("")

    started = time.monotonic()
    for _ in range(10):
        pages.act(drop)
    assert pages.get().complete
    # A wait for each of the ten streams would take 5 seconds.
    assert time.monotonic() - started < 4


def test_what_is_deleted_while_it_is_made_is_not_found(serve: Serve, setup: Setup) -> None:
    cache, begun, gate = setup(), Gate(), Gate()

    def respond(run: int) -> Response:
        async def held() -> AsyncIterator[bytes]:
            yield b"run %d" % run
            begun.open()
            await gate.passed()

        return StreamingResponse(held())

    pages = Pages(serve, cache(ttl=60, key="page", tags=["pages"]), respond)
    with RawClient(pages.port) as client:
        client.send()
        begun.wait()
        pages.act(lambda: cache.delete_tags("pages"))
        gate.open()
        assert client.read_all().body == b"run 1"
    assert pages.get().body == b"run 2"


def test_another_value_under_the_key_lives_no_longer(serve: Serve, setup: Setup) -> None:
    cache, held = setup(), Held()

    def ttl(*args: Any, result: Any = None, **kwargs: Any) -> float:
        return 3600 if isinstance(result, StreamingResponse) else 50

    pages = Pages(
        serve,
        cache(ttl=ttl, key="page"),
        lambda run: held.respond(run) if run == 1 else JSONResponse(run),
    )
    with RawClient(pages.port) as client:
        client.send()
        held.begun.wait()
        pages.act(lambda: cache.delete("page"))
        assert pages.get().body == b"2"
        held.go_on.open()
        client.read_all()
    wait_until(lambda: pages.server.requests_running == 0)
    assert pages.act(lambda: cache.get_expire("page")) <= 50


def test_an_entry_without_a_ttl(serve: Serve, setup: Setup) -> None:
    cache = setup()
    pages = Pages(serve, cache(ttl=None, key="page"), rows)
    assert pages.get().body == pages.get().body == body_of(1)
    assert pages.act(lambda: cache.get_expire("page")) == -1


def test_invalidation(serve: Serve, setup: Setup) -> None:
    cache = setup()
    pages = Pages(
        serve, cache(ttl=60, key="page:{name}", prefix="web", tags=["pages", "t:{name}"]), rows
    )

    def runs(*names: str) -> list[int]:
        return [int(pages.get(f"/?name={name}").body.split(b",")[0][4:]) for name in names]

    assert runs("a", "b", "a", "b") == [1, 2, 1, 2]
    pages.act(lambda: cache.delete("web:page:a"))
    assert runs("a", "b", "a") == [3, 2, 3]
    pages.act(lambda: cache.delete_match("web:page:*"))
    assert runs("a", "b", "a", "b") == [4, 5, 4, 5]
    pages.act(lambda: cache.delete_tags("t:b"))
    assert runs("a", "b", "a", "b") == [4, 6, 4, 6]
    pages.act(lambda: cache.delete_tags("pages"))
    assert runs("a", "b", "a", "b") == [7, 8, 7, 8]


def test_what_is_invalidated_meanwhile_is_not_served(serve: Serve, setup: Setup) -> None:
    cache, helds = setup(), {1: Held(), 2: Held()}
    pages = Pages(serve, cache(ttl=60, key="page"), lambda run: helds[run].respond(run))
    with RawClient(pages.port) as old, RawClient(pages.port) as new:
        old.send()
        helds[1].begun.wait()
        pages.act(lambda: cache.delete("page"))
        new.send()
        helds[2].begun.wait()
        helds[1].go_on.open()
        assert old.read_all().body == Held.body(1)
        with RawClient(pages.port) as other:
            other.send()
            helds[2].go_on.open()
            assert new.read_all().body == other.read_all().body == Held.body(2)
    assert pages.get().body == Held.body(2)


def test_hits_are_counted(serve: Serve, setup: Setup) -> None:
    pages = Pages(serve, setup().hit(ttl=60, cache_hits=2), rows)
    bodies = [pages.get().body for _ in range(6)]
    assert bodies == [body_of(run) for run in (1, 1, 1, 2, 2, 2)]


@pytest.mark.parametrize("background", [True, False])
def test_hits_cause_a_refresh(serve: Serve, setup: Setup, background: bool) -> None:
    decorate = setup().hit(ttl=60, cache_hits=100, update_after=1, background=background)
    pages = Pages(serve, decorate, rows)
    assert pages.get().body == body_of(1)
    # The request that causes the refresh is answered from the cache.
    assert pages.get().body == body_of(1)
    wait_until(lambda: pages.get().body != body_of(1))
    assert pages.get().complete
    wait_for_refreshes(pages.server)


def test_a_refresh_is_not_cut_short_when_the_client_leaves(serve: Serve, setup: Setup) -> None:
    runs = itertools.count(1)

    @setup().hit(ttl=60, cache_hits=100, update_after=1, key="page")
    async def page(request: Request) -> Response:
        run = next(runs)
        is_gone = await request.is_disconnected()

        async def body() -> AsyncIterator[bytes]:
            for part in body_of(run).splitlines(keepends=True):
                if is_gone or await request.is_disconnected():
                    return
                yield part

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", page)]))
    # A refresh outlives the request that caused it.
    made = [body_of(run) for run in range(1, 100)]
    latest = 0
    while latest < 5:
        latest = max(latest, made.index(fetch(server.port).body))
    wait_for_refreshes(server)


def test_failover(serve: Serve, setup: Setup) -> None:
    fails: list[str] = []

    def respond(run: int) -> Response:
        if fails == ["at once"]:
            raise RuntimeError("on purpose")

        async def body() -> AsyncIterator[bytes]:
            yield body_of(run)[:10]
            if fails:
                raise RuntimeError("on purpose")
            yield body_of(run)[10:]

        return StreamingResponse(body())

    pages = Pages(serve, setup().failover(ttl=60), respond)
    assert [pages.get().body for _ in range(2)] == [body_of(1), body_of(2)]
    fails.append("at once")
    assert pages.get().body == body_of(2)
    # A run that breaks leaves the stored entry as it is.
    fails[0] = "later"
    assert not pages.get().complete
    assert not pages.get().complete
    fails[0] = "at once"
    assert [pages.get().body for _ in range(2)] == [body_of(2)] * 2
    fails.clear()
    assert pages.get().body == body_of(len(range(pages.runs)))


@pytest.mark.parametrize("compress_type", ["gzip", "zlib"])
@pytest.mark.parametrize("more", [{}, {"secret": "s" * 40}], ids=["", "secret"])
def test_compression(serve: Serve, setup: Setup, compress_type: str, more: Any) -> None:
    cache = setup(compress_type=compress_type, **more)
    pages = Pages(
        serve, cache(ttl=60), lambda run: StreamingResponse(chunks(*[b"%d" % run * 1000] * 2000))
    )
    answers = [pages.get() for _ in range(2)]
    assert [answer.body for answer in answers] == [b"1" * 2_000_000] * 2
    assert answers[1].header("cache-status") == HIT


@pytest.mark.parametrize("pickle_type", ["default", "json", "sqlalchemy", "null"])
def test_every_pickler(serve: Serve, setup: Setup, pickle_type: str) -> None:
    cache = setup(pickle_type=pickle_type)
    pages = Pages(serve, cache(ttl=60), rows)
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2
    cache = setup(pickle_type=pickle_type)
    pages = Pages(serve, cache(ttl=60, key="json"), lambda run: JSONResponse(run))
    assert [pages.get().body for _ in range(2)] == [b"1"] * 2


@pytest.mark.parametrize("digestmod", ["md5", "sha256"])
def test_a_secret(serve: Serve, setup: Setup, digestmod: str) -> None:
    pages = Pages(serve, setup(secret="s", digestmod=digestmod)(ttl=60), rows)
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2


def test_shards_of_a_disk(serve: Serve, tmp_path: Path) -> None:
    cache = Cache()
    cache.setup(f"disk://?directory={tmp_path}")
    pages = Pages(
        serve,
        cache(ttl=60, tags=["pages"]),
        lambda run: StreamingResponse(chunks(*[b"%d" % run * 1000] * 2000)),
    )
    assert [pages.get().body for _ in range(2)] == [b"1" * 2_000_000] * 2
    pages.act(lambda: cache.delete_tags("pages"))
    assert pages.get().body == b"2" * 2_000_000


def test_a_memory_that_sweeps_reads_no_entries(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, looks = Cache(), []
    cache.setup("mem://", check_interval=0.01)
    pages = Pages(serve, cache(ttl=60), rows)
    pages.get()
    find = lookup.find

    async def counted(*args: Any) -> Any:
        looks.append(args)
        return await find(*args)

    monkeypatch.setattr(lookup, "find", counted)
    pages.act(lambda: cache.set("other", 1, expire=0.05))
    memory: Any = cache._get_backend("")
    wait_until(lambda: "other" not in memory.store)
    assert looks == []
    assert pages.get().body == body_of(1)
    assert len(looks) == 1


def test_a_transaction_stores_nothing_that_is_short(serve: Serve, setup: Setup) -> None:
    cache = setup()

    def around(f: Any) -> Any:
        async def call(name: str) -> Any:
            async with cache.transaction():
                return await f(name)

        return call

    pages = Pages(serve, cache(ttl=60), rows, around)
    for _ in range(3):
        answer = pages.get()
        assert answer.complete
        assert answer.body == body_of(int(answer.body.split(b",")[0][4:]))


# -- values that another program wrote ------------------------------------------------------------


def test_what_is_tampered_with_is_not_served(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    cache = Cache()
    cache.setup(redis_url, secret="a secret")
    pages = Pages(
        serve,
        cache(ttl=60, key="page"),
        lambda run: StreamingResponse(chunks(b"%d" % run * 300_000)),
    )
    assert pages.get().body == pages.get().body == b"1" * 300_000
    client: Any = redis.Redis(port=redis_server.port)
    for key in [key for key in client.keys("page:*") if key.count(b":") > 1]:
        client.set(key, client.get(key).replace(b"1" * 1000, b"9" * 1000))
    assert pages.get().body == b"2" * 300_000
    for key in client.keys("page*"):
        value = client.get(key)
        client.set(key, value[:-1] + bytes([value[-1] ^ 1]))
    assert pages.get().body == b"3" * 300_000


@pytest.mark.parametrize("secret", [None, "a secret"])
def test_a_record_of_another_program_is_not_served(
    serve: Serve, redis_server: RedisServer, redis_url: str, secret: str | None
) -> None:
    cache = Cache()
    cache.setup(redis_url, secret=secret)
    pages = Pages(serve, cache(ttl=60, key="page"), rows)
    pages.get()
    client: Any = redis.Redis(port=redis_server.port)
    (key,) = [key for key in client.keys("page:*") if key.count(b":") == 1]
    value = client.get(key)
    signature = value[-32:] if secret else b""
    record = decode_record(value.removesuffix(signature))
    assert isinstance(record, Entry)
    body = record.body.replace(b"run", b"RUN")
    client.set(key, encode_record(dataclasses.replace(record, body=body)) + signature)
    # Without a secret, another program can write entries that are served.
    assert pages.get().body == (body_of(2) if secret else body)


def test_another_secret_is_a_miss(serve: Serve, redis_url: str) -> None:
    for run, secret in enumerate(["one", "two"], 1):
        cache = Cache()
        cache.setup(redis_url, secret=secret)
        pages = Pages(serve, cache(ttl=60, key="page"), rows)
        pages.runs = run - 1
        assert [pages.get().body for _ in range(2)] == [body_of(run)] * 2


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["early", "soft"])
def test_what_keeps_the_object_is_refused(
    serve: Serve, setup: Setup, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    pages = Pages(serve, getattr(setup(), name)(ttl=60), rows)
    assert [pages.get().status for _ in range(2)] == [500, 500]
    assert "stream_cached.cashews.stream_cached(cache, ttl=..." in caplog.text
    # A response whose body is in memory is stored by cashews itself.
    pages = Pages(serve, getattr(setup(), name)(ttl=60, key="json"), lambda run: JSONResponse(run))
    assert [pages.get().body for _ in range(2)] == [b"1", b"1"]


def test_client_side_is_refused(
    serve: Serve, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache()
    cache.setup(redis_url, client_side=True)
    pages = Pages(serve, cache(ttl=60), rows)
    assert [pages.get().status for _ in range(2)] == [500, 500]
    assert pages.runs == 2
    assert "stream_cached.cashews.stream_cached(cache, ttl=...)" in caplog.text
    cache = Cache()
    cache.setup(redis_url, client_side=True)
    pages = Pages(serve, cache(ttl=60, key="json"), lambda run: JSONResponse(run))
    assert [pages.get().body for _ in range(2)] == [b"1", b"1"]


@pytest.mark.parametrize(
    "headers",
    [{"set-cookie": "a=b"}, {"cache-control": "no-store"}, {"vary": "accept"}, {"vary": "*"}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["stream", "json"])
def test_what_must_not_be_stored_is_not(
    serve: Serve, setup: Setup, headers: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(run: int) -> Response:
        if kind == "json":
            return JSONResponse(run, headers=headers)
        return StreamingResponse(chunks(b"%d" % run), headers=headers)

    pages = Pages(serve, setup()(ttl=60), respond)
    assert [pages.get().body for _ in range(3)] == [b"1", b"2", b"3"]
    assert caplog.text.count("a response is not cached") == 1
    assert "tests.cashews.test_patches." in caplog.text


# -- cashews' middlewares -------------------------------------------------------------------------


def numbered(run: int) -> Response:
    return StreamingResponse(chunks(b"run %d" % run))


def test_each_body_has_an_etag_of_its_own(serve: Serve, setup: Setup) -> None:
    cache = setup()
    layers = [Middleware(CacheEtagMiddleware, cache_instance=cache)]
    pages = Pages(serve, cache(ttl=60, key="page:{name}"), numbered, layers=layers)
    first = {name: pages.get(f"/?name={name}").body for name in "ab"}
    hits = {name: pages.get(f"/?name={name}") for name in "ab"}
    assert {name: hit.body for name, hit in hits.items()} == first
    a, b = (hits[name].header("etag") for name in "ab")
    assert a
    assert b
    assert a != b
    assert pages.get("/?name=a", **{"if-none-match": a}).status == 304
    assert pages.get("/?name=a", **{"if-none-match": '"of-nobody"'}).body == first["a"]
    pages.act(lambda: cache.delete("page:a"))
    assert pages.get("/?name=a").body == b"run 3"
    assert pages.get("/?name=a").header("etag") != a


def test_a_request_with_no_cache_has_an_etag_of_its_own(serve: Serve, setup: Setup) -> None:
    cache = setup()
    layers = [
        Middleware(CacheRequestControlMiddleware, cache_instance=cache),
        Middleware(CacheEtagMiddleware, cache_instance=cache),
    ]
    pages = Pages(serve, cache(ttl=60, key="page:{name}"), numbered, layers=layers)
    no_cache = {"cache-control": "no-cache"}
    tags = [pages.get(f"/?name={name}", **no_cache).header("etag") for name in "aab"]
    assert len({tag for tag in tags if tag}) == 3


def test_a_request_with_no_cache_causes_a_run(serve: Serve, setup: Setup) -> None:
    cache = setup()
    layers = [Middleware(CacheRequestControlMiddleware, cache_instance=cache)]
    pages = Pages(serve, cache(ttl=60, key="page"), numbered, layers=layers)

    def get(control: str) -> bytes:
        return pages.get(**({"cache-control": control} if control else {})).body

    assert (get(""), get("")) == (b"run 1", b"run 1")
    assert "private, max-age=" in (pages.get().header("cache-control") or "")
    assert (get("no-cache"), get("")) == (b"run 2", b"run 2")
    assert (get("no-store"), get("")) == (b"run 3", b"run 2")


def test_a_client_may_clear_an_entry(serve: Serve, setup: Setup) -> None:
    cache = setup()
    layers = [Middleware(CacheDeleteMiddleware)]
    pages = Pages(serve, cache(ttl=60, key="page"), numbered, layers=layers)
    assert [pages.get().body for _ in range(2)] == [b"run 1"] * 2
    assert pages.get(**{"clear-site-data": "cache"}).body == b"run 2"
    assert pages.get().body == b"run 2"


# -- installing -----------------------------------------------------------------------------------


def test_entries_of_cashews_own_codec_are_misses(serve: Serve, setup: Setup) -> None:
    cache = setup()

    async def store_theirs() -> None:
        response = StreamingResponse(chunks(b"theirs"), headers={"x-a": "b"})
        await cache.set("page", response, expire=60)
        async for _ in response.body_iterator:
            pass

    uninstall()
    pages = Pages(serve, cache(ttl=60, key="page"), rows)
    pages.act(store_theirs)
    assert pages.get().body == b"theirs"
    install()
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2


def test_uninstalling_restores_everything() -> None:
    def state() -> list[object]:
        return [
            dict(vars(Serializer)),
            dict(Serializer._type_mapping),
            dict(vars(decorators)),
            dict(vars(hit_module)),
            dict(vars(Request)),
        ]

    uninstall()
    before = state()
    assert b"StreamingResponse" in Serializer._type_mapping
    install()
    once = state()
    assert once != before
    install()
    assert state() == once
    uninstall()
    assert state() == before
    uninstall()
    assert state() == before


def test_our_own_entries_are_misses_without_us(serve: Serve, setup: Setup) -> None:
    cache = setup()
    pages = Pages(serve, cache(ttl=60, key="page"), rows)
    pages.get()
    uninstall()
    assert pages.act(lambda: cache.get("page")) is None


# -- callers that change the response -------------------------------------------------------------


@pytest.mark.parametrize("respond", [rows, lambda run: JSONResponse(run)], ids=["rows", "json"])
def test_what_is_given_another_ttl_is_no_one_s_object(
    serve: Serve, setup: Setup, respond: Callable[[int], Response]
) -> None:
    def stamped(f: Any) -> Any:
        async def call(name: str) -> Response:
            response: Response = await f(name)
            response.headers.append("x-stamp", "here")
            return response

        return call

    cache = setup()
    pages = Pages(serve, cache(ttl=60, key="page", protected=False), respond, stamped)
    first = pages.get().body
    pages.act(lambda: cache.expire("page", 50))
    for _ in range(3):
        answer = pages.get()
        assert (answer.body, answer.header_values("x-stamp")) == (first, ["here"])
    assert pages.runs == 1


@pytest.mark.parametrize("decorator", ["failover", "__call__"])
@pytest.mark.parametrize("compress_type", ["gzip", "zlib"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_pointer_that_is_cut_is_a_miss(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    decorator: str,
    compress_type: str,
    keep: float,
) -> None:
    cache = Cache()
    cache.setup(redis_url, compress_type=compress_type)
    pages = Pages(serve, getattr(cache, decorator)(ttl=60, key="page"), rows)
    pages.get()
    server = redis.Redis(port=redis_server.port)
    (name,) = server.scan_iter(match="*page")
    value: Any = server.get(name)
    server.set(name, value[: int(len(value) * keep)], ex=60)
    server.close()
    for run in (2, 3 if decorator == "failover" else 2):
        answer = pages.get()
        assert (answer.status, answer.body) == (200, body_of(run))


def test_a_class_may_check_its_subclasses(serve: Serve, setup: Setup) -> None:
    class Report(StreamingResponse):
        def __init_subclass__(cls, *, kind: str) -> None:
            super().__init_subclass__()

    pages = Pages(serve, setup()(ttl=60), lambda run: Report(chunks(body_of(run))))
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2


def test_a_body_that_is_read_by_hand_is_whole(serve: Serve, setup: Setup) -> None:
    def read(f: Any) -> Any:
        async def call(name: str) -> Response:
            response = await f(name)
            return Response(b"".join([part async for part in response.body_iterator]))

        return call

    pages = Pages(serve, setup()(ttl=60), rows, read)
    assert [pages.get().body for _ in range(3)] == [body_of(1)] * 3
    assert pages.runs == 1


def test_a_body_is_not_read_by_hand_twice(serve: Serve, setup: Setup) -> None:
    cache, seen = setup(), []

    def read_twice(f: Any) -> Any:
        async def call(name: str) -> Response:
            response = await f(name)
            for _ in range(2):
                try:
                    seen.append(b"".join([part async for part in response.body_iterator]))
                except BrokenStreamError:
                    seen.append(b"broken")
            return response  # type: ignore[no-any-return]

        return call

    answer = Pages(serve, cache(ttl=60), rows, read_twice).get()
    assert answer.status == 500 or not answer.complete
    assert seen == [body_of(1), b"broken"]


def loud(f: Any) -> Any:
    """Replace `body_iterator` by an iterator that changes the chunks."""

    async def call(*args: Any) -> Response:
        response = await f(*args)
        inner = response.body_iterator

        async def upper() -> AsyncIterator[bytes]:
            async for part in inner:
                yield part.upper()

        response.body_iterator = upper()
        return response  # type: ignore[no-any-return]

    return call


def peeking(f: Any) -> Any:
    """Read the first chunk before the response is sent."""

    async def call(*args: Any) -> Response:
        response = await f(*args)
        inner = aiter(response.body_iterator)
        first = await anext(inner)

        async def body() -> AsyncIterator[bytes]:
            yield first.upper()
            async for part in inner:
                yield part.upper()

        response.body_iterator = body()
        return response  # type: ignore[no-any-return]

    return call


@pytest.mark.parametrize("wrapper", [loud, peeking])
def test_a_body_that_is_wrapped_is_stored_as_it_was(
    serve: Serve, setup: Setup, wrapper: Any
) -> None:
    pages = Pages(serve, setup()(ttl=60), rows, wrapper)
    assert [pages.get().body for _ in range(3)] == [body_of(1).upper()] * 3
    assert pages.runs == 1


@pytest.mark.parametrize("wrapper", [loud, peeking])
@pytest.mark.parametrize("protected", [True, False])
def test_each_caller_that_joins_may_wrap_the_body(
    serve: Serve, setup: Setup, wrapper: Any, protected: bool
) -> None:
    gate, held = Gate(), Held()

    @wrapper  # type: ignore[untyped-decorator]
    @setup()(ttl=60, key="page", protected=protected)
    async def page(request: Request) -> Response:
        await gate.passed()
        return held.respond(1)

    server = serve(Starlette(routes=[Route("/", page)]))
    with ThreadPoolExecutor(15) as pool:
        answers = [pool.submit(fetch, server.port) for _ in range(10 if protected else 1)]
        wait_until(lambda: server.requests_running == len(answers))
        gate.open()
        held.begun.wait()
        answers += [pool.submit(fetch, server.port) for _ in range(5)]
        wait_until(lambda: server.requests_running == len(answers))
        held.go_on.open()
        for answer in answers:
            assert answer.result().body == Held.body(1).upper()
            assert answer.result().complete


def reading(f: Any) -> Any:
    """Read the body before the response is sent."""

    async def call(*args: Any) -> Response:
        response = await f(*args)
        return Response(b"".join([part.upper() async for part in response.body_iterator]))

    return call


def test_a_client_that_leaves_leaves_nothing_short_that_another_task_makes(
    serve: Serve, setup: Setup
) -> None:
    held = Held()

    @setup()(ttl=60, key="page")
    async def page(request: Request) -> Response:
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def make() -> None:
            async for part in held.stream(1):
                if await request.is_disconnected():
                    break
                parts.put_nowait(part)
            parts.put_nowait(None)

        task = asyncio.create_task(make())

        async def body() -> AsyncIterator[bytes]:
            while (part := await parts.get()) is not None:
                yield part
            await task

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", page)]))
    with RawClient(server.port) as client:
        client.send()
        client.read_head()
        held.begun.wait()
        client.abort()
    wait_until(lambda: not server.connections)
    held.go_on.open()
    wait_until(lambda: server.requests_running == 0)
    assert fetch(server.port).body == Held.body(1)


@pytest.mark.parametrize("wrapper", [loud, reading])
def test_a_client_that_leaves_a_wrapped_body_leaves_nothing_short(
    serve: Serve, setup: Setup, wrapper: Any
) -> None:
    held = Held()

    @wrapper  # type: ignore[untyped-decorator]
    @setup()(ttl=60, key="page")
    async def page(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            async for part in held.stream(1):
                if await request.is_disconnected():
                    return
                yield part

        return StreamingResponse(body())

    server = serve(Starlette(routes=[Route("/", page)]))
    with RawClient(server.port) as client:
        client.send()
        held.begun.wait()
        client.abort()
    wait_until(lambda: not server.connections)
    held.go_on.open()
    wait_until(lambda: server.requests_running == 0)
    assert fetch(server.port).body == Held.body(1).upper()


@pytest.mark.parametrize("changes", ["the body", "headers"])
def test_what_is_changed_between_two_layers_is_stored_by_the_outer_one(
    serve: Serve, setup: Setup, changes: str
) -> None:
    cache = setup()

    def tagged(f: Any) -> Any:
        async def call(name: str) -> Response:
            response: Response = await f(name)
            response.headers["x-tag"] = "outer"
            return response

        return call

    between = {"the body": loud, "headers": tagged}[changes]

    def around(f: Any) -> Any:
        changed = between(f)

        @cache(ttl=60, key="outer")
        async def page(name: str) -> Response:
            response: Response = await changed(name)
            return response

        return page

    pages = Pages(serve, cache(ttl=60, key="inner"), rows, around)
    body, tag = (body_of(1), "outer") if changes == "headers" else (body_of(1).upper(), None)

    def get() -> tuple[bytes, str | None]:
        answer = pages.get()
        return answer.body, answer.header("x-tag")

    assert [get() for _ in range(3)] == [(body, tag)] * 3
    found = pages.act(lambda: cache.get("inner"))
    assert found is not None
    assert "x-tag" not in found.headers
    pages.act(lambda: cache.delete("outer"))
    assert get() == (body, tag)
    assert pages.runs == 1


def test_concurrent_callers_do_not_share_a_wrapped_body(serve: Serve, setup: Setup) -> None:
    cache, gate, runs = setup(), Gate(), itertools.count(1)

    @cache(ttl=60, key="outer", condition=lambda *_, **__: False)
    @loud
    @cache(ttl=60, key="inner")
    async def page(request: Request) -> Response:
        await gate.passed()
        return rows(next(runs))

    server = serve(Starlette(routes=[Route("/", page)]))
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(fetch, server.port) for _ in range(5)]
        wait_until(lambda: server.requests_running == 5)
        gate.open()
        assert [answer.result().body for answer in answers] == [body_of(1).upper()] * 5


def test_events_that_are_wrapped_are_not_stored(serve: Serve, setup: Setup) -> None:
    def shouted(f: Any) -> Any:
        async def call(name: str) -> Response:
            response = await f(name)
            inner = response.body_iterator

            async def events() -> AsyncIterator[Any]:
                async for event in inner:
                    yield {"data": event["data"].upper()}

            response.body_iterator = events()
            return response  # type: ignore[no-any-return]

        return call

    def respond(run: int) -> Response:
        return EventSourceResponse(chunks({"data": f"run {run}"}))

    pages = Pages(serve, setup()(ttl=60), respond, shouted)
    for run in range(1, 4):
        assert pages.get().body == b"data: RUN %d\r\n\r\n" % run


def test_each_caller_that_joins_may_have_a_background_task(serve: Serve, setup: Setup) -> None:
    gate, held = Gate(), Held()
    done: list[str] = []

    @setup()(ttl=60, key="page")
    async def page() -> Response:
        await gate.passed()
        return held.respond(1)

    async def endpoint(request: Request) -> Response:
        response: Response = await page()
        response.background = BackgroundTask(done.append, request.query_params["who"])
        return response

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(fetch, server.port, f"/?who={n}") for n in range(2)]
        wait_until(lambda: server.requests_running == 2)
        gate.open()
        held.begun.wait()
        answers += [pool.submit(fetch, server.port, f"/?who={n}") for n in range(2, 4)]
        wait_until(lambda: server.requests_running == 4)
        held.go_on.open()
        assert {answer.result().body for answer in answers} == {Held.body(1)}
    fetch(server.port, "/?who=hit")
    wait_until(lambda: len(done) == 5)
    assert sorted(done) == ["0", "1", "2", "3", "hit"]


def test_a_wrapper_may_add_headers(serve: Serve, setup: Setup) -> None:
    numbers = itertools.count(1)

    def numbered(f: Any) -> Any:
        async def call(name: str) -> Response:
            response: Response = await f(name)
            response.set_cookie("n", str(next(numbers)))
            response.status_code = 201
            return response

        return call

    pages = Pages(serve, setup()(ttl=60), rows, numbered)
    for number in range(1, 4):
        answer = pages.get()
        assert (answer.status, answer.body) == (201, body_of(1))
        assert [v.partition(";")[0] for v in answer.header_values("set-cookie")] == [f"n={number}"]


@pytest.mark.parametrize(
    "respond",
    [
        lambda run: JSONResponse({"run": run}),
        lambda run: StreamingResponse(chunks(b'{"run":', b"%d}" % run)),
    ],
    ids=["a body in memory", "a stream"],
)
def test_what_one_caller_changes_does_not_show_on_another_s(
    serve: Serve, setup: Setup, respond: Callable[[int], Response]
) -> None:
    runs, gate = itertools.count(1), Gate()

    async def page() -> Response:
        await gate.passed()
        return respond(next(runs))

    cached = setup()(ttl=60, key="page")(page)

    async def endpoint(request: Request) -> Response:
        response: Response = await cached()
        response.set_cookie("user", request.query_params["user"])
        return response

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(fetch, server.port, f"/?user={user}") for user in range(10)]
        wait_until(lambda: server.requests_running == 10)
        gate.open()
        for user, answer in enumerate(answers):
            cookies = answer.result().header_values("set-cookie")
            assert [cookie.partition(";")[0] for cookie in cookies] == [f"user={user}"]
            assert answer.result().text.replace(" ", "") == '{"run":1}'


def test_a_response_is_compressed_for_clients_that_accept_it(serve: Serve, setup: Setup) -> None:
    gate = Gate()
    text = "x" * 4000

    async def page() -> Response:
        await gate.passed()
        return PlainTextResponse(text)

    cached = setup()(ttl=60, key="page")(page)

    async def endpoint(request: Request) -> Response:
        response: Response = await cached()
        return response

    server = serve(
        Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(GZipMiddleware)])
    )
    with ThreadPoolExecutor(4) as pool:
        takes = ["gzip", "identity", "gzip", "identity"]
        answers = [
            pool.submit(fetch, server.port, "/", {"accept-encoding": encoding})
            for encoding in takes
        ]
        wait_until(lambda: server.requests_running == 4)
        gate.open()
        for encoding, answer in zip(takes, answers, strict=True):
            body = answer.result().body
            assert (gzip.decompress(body) if encoding == "gzip" else body) == text.encode()


@pytest.mark.parametrize("outer", ["failover", "unprotected", "keys"])
def test_concurrent_callers_of_two_stacked_decorators(
    serve: Serve, setup: Setup, outer: str
) -> None:
    cache, gate = setup(), Gate()
    runs = itertools.count(1)

    async def held() -> AsyncIterator[bytes]:
        yield b"run %d" % next(runs)
        await gate.passed()
        yield b"."

    @cache(ttl=60, key="inner")
    async def inner() -> Response:
        return StreamingResponse(held())

    outers = {
        "failover": lambda: cache.failover(ttl=60, key="outer"),
        "unprotected": lambda: cache(ttl=60, key="outer", protected=False),
        "keys": lambda: cache(ttl=60, key="outer:{user}"),
    }

    @outers[outer]()  # type: ignore[no-untyped-call]
    async def page(user: str) -> Response:
        response: Response = await inner()
        return response

    async def endpoint(request: Request) -> Response:
        response: Response = await page(user=request.query_params["user"])
        return response

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with ThreadPoolExecutor(10) as pool:
        early = [pool.submit(fetch, server.port, f"/?user={user}") for user in range(5)]
        wait_until(lambda: server.requests_running == 5)
        late = [pool.submit(fetch, server.port, f"/?user={user}") for user in range(5, 10)]
        wait_until(lambda: server.requests_running == 10)
        gate.open()
        assert [answer.result().body for answer in [*early, *late]] == [b"run 1."] * 10
    assert [fetch(server.port, f"/?user={user}").body for user in range(10)] == [b"run 1."] * 10


def test_one_decorator_over_another(serve: Serve, setup: Setup) -> None:
    cache = setup()
    pages = Pages(serve, lambda f: cache(ttl=60, key="outer")(cache(ttl=60, key="inner")(f)), rows)
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2
    pages.act(lambda: cache.delete("outer"))
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2
    pages.act(lambda: cache.delete("inner"))
    assert pages.get().body == body_of(1)
    pages.act(lambda: cache.delete("outer"))
    assert [pages.get().body for _ in range(2)] == [body_of(2)] * 2


def test_our_own_decorator_beneath(serve: Serve, setup: Setup) -> None:
    cache = setup()
    pages = Pages(
        serve,
        lambda f: cache(ttl=60, key="outer")(
            stream_cached(cache, 60, "inner", request_key=False)(f)
        ),
        rows,
    )
    assert [pages.get().body for _ in range(3)] == [body_of(1)] * 3
    pages.act(lambda: cache.delete("outer"))
    assert [pages.get().body for _ in range(2)] == [body_of(1)] * 2
