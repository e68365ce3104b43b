"""What is left in a store: with a ttl every key has one, without it all but what is in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.entries import at_once
from stream_cached.entries.records import Records
from stream_cached.errors import StoreError
from stream_cached.stores.redis import RedisStore
from tests.conftest import Serve
from tests.support.app_server import AppServer
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.keyspace import Keyspace
from tests.support.process import HOST
from tests.support.runs import CHUNK, HIT, FailingRuns, HeldRuns, Runs, segments
from tests.support.servers import RedisServer


class Varying(Runs):
    async def __call__(self, request: Request) -> Response:
        self.headers = {**self.headers, "Vary": "Accept"}
        return await super().__call__(request)


class App:
    """An endpoint in a server, and the keys of its Redis."""

    def __init__(self, serve: Serve, server: RedisServer, runs: Runs, **settings: object) -> None:
        self.runs = runs
        settings = {"ttl": None, "cache": server.url(), **settings}
        self.cached = stream_cached(**settings)(runs.__call__)  # type: ignore[arg-type]
        self.server: AppServer = serve(Starlette(routes=[Route("/", self.cached)]))
        self.keys = Keyspace(server.port)

    def get(self, target: str = "/", **headers: str) -> bytes:
        response = fetch(self.server.port, target, headers)
        assert self.runs.is_whole(response)
        return response.body

    def invalidate(self, key: str | None = None) -> None:
        self.server.run(self.cached.invalidate(key=key))

    def settle(self) -> None:
        wait_until(lambda: self.server.requests_running == 0)


def again(app: App, *steps: str) -> None:
    for step in steps:
        if step == "invalidate":
            app.invalidate()
        else:
            app.get(step)


STEPS = {
    "nothing": (),
    "a hit": ("/",),
    "another resource": ("/?other",),
    "an invalidation": ("invalidate",),
    "an invalidation and a run": ("invalidate", "/"),
    "two invalidations": ("invalidate", "/", "invalidate", "/"),
}


@pytest.mark.matrix
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("chunks", [1, 10], ids=["inline", "in segments"])
@pytest.mark.parametrize("kind", [Runs, Varying], ids=["plain", "varying"])
def test_with_a_ttl_every_key_has_one(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    kind: type[Runs],
    chunks: int,
    steps: tuple[str, ...],
) -> None:
    app = App(serve, redis_server, kind(chunks), ttl=60)
    app.get()
    again(app, *steps)

    assert app.keys.all()
    assert not app.keys.without_ttl()


def test_with_a_ttl_plain_values_and_responses_that_are_no_streams_have_one(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    @stream_cached(ttl=60, cache=redis_url)
    async def number(request: Request) -> int:
        return 5

    @stream_cached(ttl=60, cache=redis_url)
    async def json(request: Request) -> Response:
        return JSONResponse(await number(request))

    port = serve(Starlette(routes=[Route("/", json)])).port
    fetch(port)
    keys = Keyspace(redis_server.port)
    assert len(keys.all()) == 4  # two values and two versions
    assert not keys.without_ttl()


@pytest.mark.parametrize("ttl", [60, None])
def test_a_run_that_goes_on_has_a_ttl_on_every_segment(
    serve: Serve, redis_server: RedisServer, redis_url: str, ttl: float | None
) -> None:
    runs = HeldRuns()
    app = App(serve, redis_server, runs, ttl=ttl)
    with RawClient(app.server.port) as client:
        client.send()
        wait_until(lambda: segments(app.keys.all()))
        assert not segments(app.keys.without_ttl())
        assert bool(app.keys.without_ttl()) == (ttl is None)  # the version
        runs.gate.open()
        assert client.read_all().complete
    assert bool(segments(app.keys.without_ttl())) == (ttl is None)


@pytest.mark.matrix
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("kind", [Runs, Varying], ids=["plain", "varying"])
def test_without_a_ttl_only_what_can_still_be_served_has_none(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    kind: type[Runs],
    steps: tuple[str, ...],
) -> None:
    app = App(serve, redis_server, kind(10))
    app.get()
    fresh = segments(app.keys.without_ttl())
    again(app, *steps)
    app.settle()

    assert fresh
    of_runs = {key.rpartition(":")[0] for key in segments(app.keys.without_ttl())}
    assert len(of_runs) <= (2 if "/?other" in steps else 1)


def test_without_a_ttl_a_replaced_entry_leaves_nothing_for_ever(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    app = App(serve, redis_server, Runs())
    app.get()
    for _ in range(3):
        app.server.run(_rerun(app))
    assert len(app.runs.bodies) == 4
    assert app.get() == app.runs.bodies[-1]
    of_runs = {key.rpartition(":")[0] for key in segments(app.keys.without_ttl())}
    assert len(of_runs) == 1


async def _rerun(app: App) -> None:
    """Run the endpoint as `cache_read=False` does, and take the whole of its response."""
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", f"{HOST}:{app.server.port}".encode())],
    }
    response = await app.cached(Request(scope), cache_read=False)  # type: ignore[call-arg]
    assert isinstance(response, StreamingResponse)
    async for _ in response.body_iterator:
        pass


@pytest.mark.parametrize("count", [3, 6])
def test_without_a_ttl_a_variant_that_is_dropped_leaves_nothing_for_ever(
    serve: Serve, redis_server: RedisServer, redis_url: str, count: int
) -> None:
    app = App(serve, redis_server, Varying(), max_variants=2)
    for number in range(count):
        app.get(Accept=f"text/{number}")

    of_runs = {key.rpartition(":")[0] for key in segments(app.keys.without_ttl())}
    assert len(of_runs) == 2


@pytest.mark.parametrize("ttl", [60, None])
def test_a_run_that_raised_leaves_nothing_but_its_version(
    serve: Serve, redis_server: RedisServer, redis_url: str, ttl: float | None
) -> None:
    runs = FailingRuns()
    runs.at = 9
    app = App(serve, redis_server, runs, ttl=ttl)
    assert not fetch(app.server.port).complete
    app.settle()
    assert len(app.keys.all()) == 1


@pytest.mark.parametrize("ttl", [60, None])
def test_a_run_over_the_limit_leaves_a_mark_that_expires(
    serve: Serve, redis_server: RedisServer, redis_url: str, ttl: float | None
) -> None:
    app = App(serve, redis_server, Runs(), ttl=ttl, max_body=8 * CHUNK)
    app.get()
    app.settle()

    assert not segments(app.keys.all())
    assert len(app.keys.all()) == 2
    assert len(app.keys.without_ttl()) == (0 if ttl else 1)
    bypass = fetch(app.server.port)
    assert bypass.complete
    assert bypass.header("Cache-Status") == 'stream-cached; fwd=uri-miss; detail="max-body"'


@pytest.mark.parametrize("ttl", [60, None])
@pytest.mark.parametrize("by_key", [False, True])
def test_a_run_that_an_invalidation_overtook_leaves_nothing(
    serve: Serve, redis_server: RedisServer, redis_url: str, ttl: float | None, by_key: bool
) -> None:
    runs = HeldRuns()
    app = App(serve, redis_server, runs, ttl=ttl, key="export")
    with RawClient(app.server.port) as client:
        client.send()
        runs.reached.wait()
        app.invalidate("export" if by_key else None)
        runs.gate.open()
        assert client.read_all().body == runs.bodies[0]
    app.settle()

    assert not segments(app.keys.all())
    assert app.get() == runs.bodies[1]
    assert app.get() == runs.bodies[1]


def test_the_segments_of_a_hit_under_way_outlive_their_entry(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    app = App(serve, redis_server, Runs(10, 1_000_000), ttl=30, max_pending="64MiB")
    app.get()
    with RawClient(app.server.port, receive_buffer=1 << 16) as client:
        client.send()
        client.read_head()
        app.keys.let_pass(30)
        left = app.keys.all()
        assert len(left) == len(segments(left)) + 1  # the version
        hit = client.read_rest()
    assert hit.complete
    assert hit.header("Cache-Status") == HIT
    assert hit.body == app.runs.bodies[0]


# -- ttls that are told by each answer


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=5-"}], ids=["whole", "a part"])
@pytest.mark.parametrize("kind", [Runs, Varying], ids=["plain", "varying"])
@pytest.mark.parametrize("ttl", ["response", lambda response: 60], ids=["response", "function"])
def test_the_segments_of_a_hit_expire_with_the_entry_whose_answer_told_its_ttl(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    ttl: object,
    kind: type[Runs],
    asked: dict[str, str],
) -> None:
    runs = kind(headers={"Cache-Control": "max-age=60"})
    app = App(serve, redis_server, runs, ttl=ttl, stale_if_error=100)
    app.get()
    kept = {key: app.keys.run("PTTL", key) for key in segments(app.keys.all())}
    assert kept
    hit = fetch(app.server.port, headers=asked)
    assert (hit.header("Cache-Status") or "").startswith(HIT)
    for key, before in kept.items():
        assert before - 5_000 < app.keys.run("PTTL", key) <= before


def test_a_ttl_of_none_that_a_function_told_is_that_of_the_segments_of_a_hit(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    ttls: list[int | None] = [None]
    app = App(serve, redis_server, Runs(), ttl=lambda response: ttls[-1])
    app.get()
    app.get()
    assert segments(app.keys.without_ttl()) == segments(app.keys.all())
    # What replaces it expires; so does what is replaced.
    ttls.append(60)
    app.server.run(_rerun(app))
    assert not segments(app.keys.without_ttl())


# -- what fails, or comes too late


class Held:
    """Holds the first renewal of segments that is without a ttl."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.gate = Gate(), Gate()
        touch_many = RedisStore.touch_many

        async def held(store: RedisStore, keys: Sequence[str], ttl: float | None) -> int:
            if ttl is None and segments({*keys}) and not self.reached.is_open:
                self.reached.open()
                await self.gate.passed()
            return await touch_many(store, keys, ttl)

        monkeypatch.setattr(RedisStore, "touch_many", held)


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=5-"}], ids=["whole", "a part"])
@pytest.mark.parametrize("kind", [Runs, Varying], ids=["plain", "varying"])
@pytest.mark.parametrize("ends", ["invalidated", "replaced"])
def test_without_a_ttl_a_body_that_is_given_up_while_a_hit_is_opened_expires(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Runs],
    asked: dict[str, str],
    ends: str,
) -> None:
    app = App(serve, redis_server, kind(), key="export")
    app.get()
    old, held = segments(app.keys.without_ttl()), Held(monkeypatch)
    assert old
    with RawClient(app.server.port) as client:
        client.send(headers=asked)
        held.reached.wait()
        if ends == "invalidated":
            app.invalidate("export")
        else:
            app.server.run(_rerun(app))
        held.gate.open()
        hit = client.read_all()
    assert hit.complete
    assert hit.body == app.runs.bodies[0][5 if asked else 0 :]
    assert not old & app.keys.without_ttl()


def test_without_a_ttl_a_body_expires_whose_record_was_not_written(
    serve: Serve, redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(serve, redis_server, Runs())
    put = Records.put

    async def unreachable(*_: Any) -> None:
        raise StoreError("the server is gone")

    async def put_too_late(*args: Any) -> None:
        monkeypatch.setattr(RedisStore, "call", unreachable)
        await put(*args)

    monkeypatch.setattr(at_once, "may_commit", lambda store: False)
    monkeypatch.setattr(Records, "put", put_too_late)
    app.get()
    app.settle()
    assert segments(app.keys.all())
    assert not segments(app.keys.without_ttl())
