"""Many clients of one cold stream, in several processes or event loops that share a store."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from aiocache.plugins import BasePlugin
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.entries.resource import Resource
from stream_cached.runs.claim import Claim
from stream_cached.runs.follow import RemoteRun
from stream_cached.runs.lease import LEASE_TTL
from stream_cached.runs.run import Run
from stream_cached.runs.streaming import runs_here
from tests.conftest import Serve, Spawn
from tests.engine.test_collapse import COLLAPSED, Waiting
from tests.support.app_server import AppProcess, AppServer
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import CHUNK, HIT, MISS, HeldRuns, Runs, segments
from tests.support.servers import RedisServer
from tests.support.worker_app import CHUNKS

pytestmark = pytest.mark.usefixtures("apps_are_processes")


@pytest.fixture(params=["redis", "memcached"])
def shared_url(request: pytest.FixtureRequest, namespace: str) -> str:
    """The address of an empty cache that processes share."""
    base: str = request.getfixturevalue(f"{request.param}_url")
    return f"{base}?namespace={namespace}&timeout=5"


@pytest.fixture(params=["redis", pytest.param("memcached", marks=pytest.mark.full)])
def processes_url(request: pytest.FixtureRequest) -> str:
    """The same, for what takes processes and seconds: of memcached only in a full run."""
    return f"{request.getfixturevalue(f'{request.param}_url')}?timeout=5"


def tokens(url: str, ended: Gate, closed: Gate, **settings: object) -> Starlette:
    """An app that yields tokens until a gate is open; another one is opened when that is over."""

    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while not ended.is_open:
                    yield b"token"
                    await asyncio.sleep(0.02)
            finally:
                closed.open()

        return StreamingResponse(body())

    settings = {"ttl": 60, "key_host": False, "cache": url, **settings}
    return Starlette(routes=[Route("/", stream_cached(**settings)(endpoint))])  # type: ignore[arg-type]


def test_clients_of_two_workers_are_one_run(serve: Serve, shared_url: str) -> None:
    runs = HeldRuns(chunks=10, chunk=2_000)
    # Each has an event loop of its own: they have nothing in common but the store.
    servers = [serve(runs.app(shared_url, key_host=False)) for _ in range(2)]
    clients = [RawClient(servers[number % 2].port, timeout=30) for number in range(100)]
    for client in clients:
        client.send()
    for client in clients:
        client.read_head()
        # The first bytes of everybody, before the generator has ended.
        client.read_until(runs.at * 2_000)
    assert not runs.closed[0].is_open
    runs.gate.open()
    answers = [client.read_rest() for client in clients]
    for client in clients:
        client.close()

    assert len(runs.bodies) == 1
    assert all(runs.is_whole(answer) for answer in answers)
    statuses = [answer.header("Cache-Status") for answer in answers]
    assert statuses.count(MISS) == 1
    assert statuses.count(COLLAPSED) == 99
    assert fetch(servers[1].port).header("Cache-Status") == HIT


@pytest.mark.matrix
@pytest.mark.parametrize("chunk", [1, 20_000, 300_000, 900_000])
@pytest.mark.parametrize("inline_max", [0, 256 * 1024])
def test_a_follower_reads_byte_for_byte_what_is_run(
    serve: Serve, shared_url: str, chunk: int, inline_max: int
) -> None:
    runs = HeldRuns(chunks=10, chunk=chunk)
    servers = [serve(runs.app(shared_url, key_host=False, inline_max=inline_max)) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        first.read_until(runs.at * chunk)
        follower.send()
        follower.read_head()
        follower.read_until(runs.at * chunk)
        runs.gate.open()
        answers = [first.read_rest(), follower.read_rest()]
    assert len(runs.bodies) == 1
    assert all(runs.is_whole(answer) for answer in answers)
    assert answers[1].header("Cache-Status") == COLLAPSED


def test_a_stream_that_grows_slowly_is_few_keys(
    serve: Serve, redis_url: str, namespace: str
) -> None:
    gates = [Gate() for _ in range(40)]

    @stream_cached(ttl=60, key_host=False, cache=f"{redis_url}?namespace={namespace}")
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for gate in gates:
                await gate.passed()
                yield b"token " * 100

        return StreamingResponse(body())

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        follower.send()
        gates[0].open()
        for client in first, follower:
            client.read_head()
        for number, gate in enumerate(gates):
            gate.open()
            follower.read_until((number + 1) * 600)
        assert first.read_rest().body == follower.read_rest().body == b"token " * 4_000


def test_on_redis_followers_are_woken(
    serve: Serve, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By themselves they would not look again.
    for name in ("_NEXT_LOOK", "_LAST_LOOK"):
        monkeypatch.setattr(f"stream_cached.runs.follow.{name}", 60.0)
    ended = Gate()
    app = tokens(redis_url, ended, Gate())
    servers = [serve(app) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        follower.send()
        follower.read_head()
        for _ in range(5):
            follower.read_until(len(follower.response.body) + 5)
        ended.open()
        assert first.read_rest().body == follower.read_rest().body
        assert follower.response.complete


@pytest.mark.parametrize("forbidden", ["-publish", "-subscribe"])
def test_where_nobody_may_be_woken_followers_look_for_themselves(
    serve: Serve, own_redis: RedisServer, forbidden: str
) -> None:
    own_redis.execute("ACL", "SETUSER", "default", forbidden)
    runs = HeldRuns()
    servers = [serve(runs.app(own_redis.url(), key_host=False)) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        runs.reached.wait()
        follower.send()
        follower.read_head()
        follower.read_until(100)
        runs.gate.open()
        assert runs.is_whole(first.read_rest())
        assert runs.is_whole(follower.read_rest())
    assert len(runs.bodies) == 1
    assert fetch(servers[1].port).header("Cache-Status") == HIT


def test_a_leader_whose_client_leaves_goes_on_for_followers(serve: Serve, shared_url: str) -> None:
    runs = HeldRuns()
    servers = [serve(runs.app(shared_url, key_host=False)) for _ in range(2)]
    with RawClient(servers[1].port) as follower:
        first = RawClient(servers[0].port)
        first.send()
        first.read_head()
        runs.reached.wait()
        follower.send()
        follower.read_head()
        follower.read_until(100)
        first.abort()
        wait_until(lambda: not servers[0].requests_running)
        runs.gate.open()
        assert runs.is_whole(follower.read_rest())
    assert len(runs.bodies) == 1


@pytest.mark.parametrize(
    "settings",
    [{"on_disconnect": "stop"}, pytest.param({"finish_timeout": 0.2}, marks=pytest.mark.full)],
)
def test_a_run_goes_on_while_it_is_read_in_another_process(
    serve: Serve, shared_url: str, settings: dict[str, object]
) -> None:
    ended, closed = Gate(), Gate()
    app = tokens(shared_url, ended, closed, **settings)
    servers = [serve(app) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        follower.send()
        follower.read_head()
        first.abort()
        # Longer than it would go on for nobody.
        follower.read_until(len(follower.response.body) + 5 * 30)
        assert not closed.is_open
        ended.open()
        assert follower.read_rest().complete
    closed.wait()


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("settings", [{"on_disconnect": "stop"}, {"finish_timeout": 0.2}])
def test_a_run_ends_once_it_is_read_nowhere(
    serve: Serve, shared_url: str, settings: dict[str, object]
) -> None:
    closed = Gate()
    app = tokens(shared_url, Gate(), closed, **settings)
    servers = [serve(app) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        follower.send()
        follower.read_head()
        first.abort()
        follower.read_until(len(follower.response.body) + 5 * 30)
        follower.abort()
    closed.wait()


def test_a_client_that_reads_nothing_holds_up_no_other_process(
    serve: Serve, shared_url: str
) -> None:
    runs = Runs(chunks=100)
    servers = [serve(runs.app(shared_url, key_host=False)) for _ in range(2)]
    with RawClient(servers[0].port, receive_buffer=65_536) as stalled:
        stalled.send()
        stalled.read_head()
        assert runs.is_whole(fetch(servers[1].port, timeout=30))
        assert runs.is_whole(stalled.read_rest())
    assert len(runs.bodies) == 1


@pytest.mark.parametrize(
    "what", ["expires", pytest.param("is invalidated", marks=pytest.mark.full)]
)
def test_a_slow_follower_reads_on_what_is_no_longer_served(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    known = Gate()
    renew_from = RemoteRun._renew_from

    async def renewing(remote: RemoteRun, index: int) -> None:
        known.open()
        await renew_from(remote, index)

    monkeypatch.setattr(RemoteRun, "_renew_from", renewing)
    runs = HeldRuns(chunks=100)
    endpoint = stream_cached(ttl=60, key_host=False, cache=redis_url)(runs.__call__)
    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with (
        begin(servers[0], "/", timeout=10) as first,
        begin(servers[1], "/", timeout=10, receive_buffer=65_536) as slow,
    ):
        runs.gate.open()
        assert runs.is_whole(first.read_rest())
        known.wait()
        if what == "expires":
            keys = Keyspace(redis_server.port)
            for key in set(keys.all()) - segments(keys.all()):
                keys.set(key, None)
        else:
            servers[0].run(endpoint.invalidate())
        # A client that comes now does not join it.
        assert fetch(servers[1].port).body == runs.bodies[1]
        assert slow.read_rest().body == runs.bodies[0]


@pytest.mark.matrix
@pytest.mark.parametrize("chunks", [10, 100])
def test_what_is_invalidated_in_mid_stream_is_followed_to_its_end(
    serve: Serve, shared_url: str, chunks: int
) -> None:
    runs = HeldRuns(chunks=chunks)
    endpoint = stream_cached(ttl=60, key_host=False, cache=shared_url)(runs.__call__)
    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with (
        begin(servers[0], "/", timeout=10) as first,
        begin(servers[1], "/", timeout=10, receive_buffer=65_536) as follower,
    ):
        assert servers[0].run(endpoint.invalidate())
        runs.gate.open()
        assert first.read_rest().body == runs.bodies[0]
        assert follower.read_rest().body == runs.bodies[0]
        assert fetch(servers[1].port).body == runs.bodies[1]


def test_what_another_run_has_replaced_is_followed_to_its_end(
    serve: Serve, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_so(_: object) -> bool:
        return True

    monkeypatch.setattr(Claim, "has_lost_lease", is_so)
    monkeypatch.setattr(Resource, "was_replaced", is_so)
    runs = HeldRuns(chunks=100)
    servers = [serve(runs.app(redis_url, key_host=False)) for _ in range(2)]
    with (
        begin(servers[0], "/", timeout=10) as first,
        begin(servers[1], "/", timeout=10, receive_buffer=65_536) as follower,
    ):
        runs.gate.open()
        assert first.read_rest().body == runs.bodies[0]
        # The last segments are neither in an entry nor on their way to one.
        assert follower.read_rest().body == runs.bodies[0]


@pytest.mark.parametrize("ttl", [86_400, None])
def test_what_nobody_is_served_any_more_does_not_stay(
    serve: Serve, redis_server: RedisServer, redis_url: str, ttl: float | None
) -> None:
    runs = HeldRuns()
    endpoint = stream_cached(ttl=ttl, key_host=False, cache=redis_url)(runs.__call__)
    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with (
        begin(servers[0], "/", timeout=10) as first,
        begin(servers[1], "/", timeout=10) as follower,
    ):
        servers[0].run(endpoint.invalidate())
        runs.gate.open()
        assert first.read_rest().body == follower.read_rest().body == runs.bodies[0]
    for server in servers:
        wait_until(lambda server=server: server.requests_running == 0)  # type: ignore[misc]
    keys = Keyspace(redis_server.port)
    left = segments(keys.all())
    assert left
    assert all(0 < keys.run("TTL", key) <= 60 for key in left)


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_run_that_was_followed_stops_though_its_store_is_away(
    serve: Serve, own_redis: RedisServer, how: str
) -> None:
    closed = Gate()

    @stream_cached(ttl=60, key_host=False, cache=own_redis.url(), on_disconnect="stop")
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"token"
                    await asyncio.sleep(0.01)
            finally:
                closed.open()

        return StreamingResponse(body())

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        for client in first, follower:
            client.send()
            client.read_head()
            client.read_until(20)
        (run,) = servers[0].run(_runs())
        wait_until(lambda: run.audience is not None and run.audience.is_followed)
        first.close()
        getattr(own_redis, how)()
        follower.close()
        # The twenty seconds until what is written is renewed are too many.
        closed.wait(10)


async def _runs() -> list[Run]:
    return [run for run in runs_here() if run.stream and run.stream.end is None]


def test_variants_that_end_at_once_leave_nothing_that_no_index_leads_to(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    gate, begun = Gate(), []

    @stream_cached(ttl=None, cache=redis_url)
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            begun.append(request)
            await gate.passed()
            yield request.headers["x-variant"].encode() * 100_000

        return StreamingResponse(body(), headers={"vary": "X-Variant"})

    server = serve(Starlette(routes=[Route("/", endpoint)]))
    variants = [str(number) for number in range(10)]
    with ThreadPoolExecutor(len(variants)) as pool:
        ask = functools.partial(fetch, server.port, "/")
        answers = [pool.submit(ask, {"x-variant": variant}) for variant in variants]
        wait_until(lambda: len(begun) == len(variants))
        gate.open()
        assert [answer.result().text[:2] for answer in answers] == [f"a{v}" for v in variants]
    wait_until(lambda: server.requests_running == 0)
    keys = Keyspace(redis_server.port)
    records = [key for key in keys.all() if ":v:" in key and keys.run("TTL", key) == -1]
    assert len(records) == len(variants)
    hits = [fetch(server.port, "/", {"x-variant": v}).header("cache-status") for v in variants]
    assert hits == [HIT] * len(variants)


def test_a_variant_that_began_before_it_was_one_is_not_run_again(
    serve: Serve, shared_url: str
) -> None:
    gate = Gate()
    runs: list[str] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def endpoint(request: Request) -> Response:
        language = request.headers.get("accept-language", "")
        runs.append(language)

        async def body() -> AsyncIterator[bytes]:
            yield language.encode()
            if language == "de":
                await gate.passed()
            yield b"."

        return StreamingResponse(body(), headers={"vary": "Accept-Language"})

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(3)]
    german = {"Accept-Language": "de"}
    with RawClient(servers[0].port) as first, RawClient(servers[2].port) as other:
        first.send(headers=german)
        first.read_head()
        # From now on, it is known that it varies.
        assert fetch(servers[1].port, headers={"Accept-Language": "en"}).text == "en."
        other.send(headers=german)
        other.read_head()
        other.read_until(2)
        gate.open()
        assert first.read_rest().text == other.read_rest().text == "de."
    assert sorted(runs) == ["de", "en"]


def test_a_run_is_followed_to_its_end_though_it_is_stored_for_others(
    serve: Serve, shared_url: str
) -> None:
    gate = Gate()

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def endpoint(request: Request) -> Response:
        language = request.headers["accept-language"]

        async def body() -> AsyncIterator[bytes]:
            yield language.encode()
            if language == "de":
                await gate.passed()
            yield b"."

        vary = "Accept-Language" if language == "de" else "Accept-Language, X-Plan"
        return StreamingResponse(body(), headers={"vary": vary})

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        for plan, client in enumerate((first, follower)):
            client.send(headers={"Accept-Language": "de", "X-Plan": str(plan)})
            client.read_head()
            client.read_until(2)
        # The entry of the first one is now one for his plan.
        fetch(servers[0].port, headers={"Accept-Language": "en"})
        gate.open()
        assert first.read_rest().text == follower.read_rest().text == "de."
        assert follower.response.complete


class Hanging(BasePlugin):  # type: ignore[misc]
    """A plugin that does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate = Gate(), Gate()

    async def post_set(self, *args: object, **kwargs: object) -> None:
        self.reached.open()
        await self.gate.passed()


def test_a_plugin_that_hangs_holds_up_no_follower(serve: Serve, shared_url: str) -> None:
    runs, plugin = HeldRuns(), Hanging()
    app = runs.app(shared_url, key_host=False, plugins=[plugin])
    servers = [serve(app) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        for client in first, follower:
            client.send()
            client.read_head()
            client.read_until(100)
        runs.gate.open()
        plugin.reached.wait()
        assert runs.is_whole(follower.read_rest())
        assert runs.is_whole(first.read_rest())
        assert not plugin.gate.is_open
        plugin.gate.open()


def test_a_run_that_takes_its_time_to_close_is_not_joined(serve: Serve, shared_url: str) -> None:
    closing, gate = Gate(), Gate()
    runs: list[int] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url, on_disconnect="stop")
    async def endpoint(request: Request) -> Response:
        run = len(runs)
        runs.append(run)

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                if not run:
                    await asyncio.Event().wait()
            finally:
                closing.open()
                if not run:
                    await gate.passed()

        return StreamingResponse(body())

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with RawClient(servers[0].port) as first:
        first.send()
        first.read_head()
        first.read_until(5)
        first.abort()
    closing.wait()
    for server in servers:
        assert fetch(server.port).complete
    assert len(runs) == 2
    gate.open()


def test_followers_that_leave_leave_alone(serve: Serve, shared_url: str) -> None:
    runs = HeldRuns()
    servers = [serve(runs.app(shared_url, key_host=False)) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as other:
        first.send()
        first.read_head()
        runs.reached.wait()
        for _ in range(2):
            with RawClient(servers[1].port) as follower:
                follower.send()
                follower.read_head()
                follower.read_until(100)
                follower.abort()
            wait_until(lambda: not servers[1].requests_running)
        other.send()
        other.read_head()
        runs.gate.open()
        assert runs.is_whole(first.read_rest())
        assert runs.is_whole(other.read_rest())
    assert len(runs.bodies) == 1


class BreakingRuns(HeldRuns):
    """The first run raises when it goes on."""

    async def before(self, run: int, number: int) -> None:
        await super().before(run, number)
        if run == 0 and number == self.at:
            raise RuntimeError("the source broke")


def test_followers_of_a_run_that_fails_end_broken(serve: Serve, shared_url: str) -> None:
    runs = BreakingRuns()
    servers = [serve(runs.app(shared_url, key_host=False)) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        runs.reached.wait()
        follower.send()
        follower.read_head()
        follower.read_until(100)
        runs.gate.open()
        assert not first.read_rest().complete
        assert not follower.read_rest().complete
    # At once: nobody holds the lease.
    assert runs.is_whole(fetch(servers[1].port))
    assert len(runs.bodies) == 2


def test_who_waits_for_an_endpoint_that_fails_runs_next(serve: Serve, shared_url: str) -> None:
    runs = Runs()
    gate = Gate()
    calls: list[int] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def endpoint(request: Request) -> Response:
        calls.append(1)
        if len(calls) == 1:
            await gate.passed()
            raise RuntimeError("the endpoint broke")
        return await runs(request)

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    first = Waiting(servers[0].port, 1)
    wait_until(lambda: calls)
    others = Waiting(servers[1].port, 5)
    wait_until(lambda: servers[1].requests_running == 5)
    gate.open()
    assert first.answers()[0].status == 500
    assert all(runs.is_whole(answer) for answer in others.answers())
    assert len(runs.bodies) == 1


@pytest.mark.parametrize(
    "headers", [{"cache-control": "private"}, {"set-cookie": "a=b"}, {"cache-control": "no-store"}]
)
def test_nobody_queues_for_what_is_one_clients_own(
    serve: Serve, shared_url: str, headers: dict[str, str]
) -> None:
    gate = Gate()
    calls: list[int] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def endpoint(request: Request) -> Response:
        number = len(calls)
        calls.append(number)
        if not number:
            await gate.passed()
        return PlainTextResponse(str(number), headers=headers)

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    first = Waiting(servers[0].port, 1)
    wait_until(lambda: calls)
    others = Waiting(servers[1].port, 5)
    wait_until(lambda: servers[1].requests_running == 5)
    gate.open()
    answers = [*first.answers(), *others.answers()]
    assert sorted(answer.text for answer in answers) == list("012345")


def test_plain_values_are_made_once(shared_url: str) -> None:
    started, gate = Gate(), Gate()
    calls: list[int] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def value(number: int) -> int:
        calls.append(number)
        started.open()
        await gate.passed()
        return number * 2

    async def ask() -> list[int]:
        return await asyncio.gather(*(value(21) for _ in range(5)))

    async def both() -> tuple[list[int], list[int]]:
        first = asyncio.create_task(asyncio.to_thread(asyncio.run, ask()))
        await started.passed()
        second = asyncio.create_task(asyncio.to_thread(asyncio.run, ask()))
        gate.open()
        return await asyncio.gather(first, second)

    assert list(asyncio.run(both())) == [[42] * 5, [42] * 5]
    assert calls == [21]


def test_a_response_with_its_body_at_hand_is_made_once(serve: Serve, shared_url: str) -> None:
    gate = Gate()
    calls: list[int] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def endpoint(request: Request) -> Response:
        calls.append(1)
        await gate.passed()
        return JSONResponse({"calls": len(calls)})

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    waiting = [Waiting(server.port, 5) for server in servers]
    wait_until(lambda: all(server.requests_running == 5 for server in servers))
    gate.open()
    answers = [answer for each in waiting for answer in each.answers()]
    assert [answer.text for answer in answers] == ['{"calls":1}'] * 10


def test_each_variant_has_a_lease_of_its_own(serve: Serve, shared_url: str) -> None:
    gate = Gate()
    runs: list[str] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url)
    async def endpoint(request: Request) -> Response:
        language = request.headers.get("accept-language", "")
        runs.append(language)

        async def body() -> AsyncIterator[bytes]:
            yield language.encode()
            await gate.passed()
            yield b"."

        return StreamingResponse(body(), headers={"vary": "Accept-Language"})

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    waiting = {
        language: [Waiting(server.port, 3, {"Accept-Language": language}) for server in servers]
        for language in ("de", "en")
    }
    wait_until(lambda: len(runs) == 2 and all(s.requests_running == 6 for s in servers))
    gate.open()
    for language, each in waiting.items():
        for one in each:
            assert [answer.text for answer in one.answers()] == [f"{language}."] * 3
    assert sorted(runs) == ["de", "en"]


def test_what_was_invalidated_is_not_followed(serve: Serve, shared_url: str) -> None:
    runs = HeldRuns()
    endpoint = stream_cached(ttl=60, key_host=False, cache=shared_url)(runs.__call__)
    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    with RawClient(servers[0].port) as first:
        first.send()
        first.read_head()
        runs.reached.wait()
        servers[1].run(endpoint.invalidate())
        answer = fetch(servers[1].port)
        runs.gate.open()
        assert first.read_rest().body == runs.bodies[0]
    assert answer.body == runs.bodies[1]


def test_waiting_for_another_process_is_bounded(serve: Serve, shared_url: str) -> None:
    gate = Gate()
    calls: list[int] = []

    @stream_cached(ttl=60, key_host=False, cache=shared_url, wait_timeout=0.3)
    async def endpoint(request: Request) -> Response:
        calls.append(1)
        if len(calls) == 1:
            await gate.passed()
        return PlainTextResponse("text")

    servers = [serve(Starlette(routes=[Route("/", endpoint)])) for _ in range(2)]
    first = Waiting(servers[0].port, 1)
    wait_until(lambda: calls)
    answer = fetch(servers[1].port)
    assert answer.header("Cache-Status") == MISS
    gate.open()
    assert first.answers()[0].header("Cache-Status") == MISS


def test_who_has_lost_the_lease_stores_nothing_over_a_newer_entry(
    serve: Serve, redis_url: str, namespace: str
) -> None:
    runs = HeldRuns()
    servers = [
        serve(runs.app(f"{redis_url}?namespace={namespace}", key_host=False)) for _ in range(2)
    ]

    def leases() -> list[bytes]:
        return [key for key in client.keys(f"*{namespace}*") if b":lease:" in key]

    with RawClient(servers[0].port) as first, redis.Redis.from_url(redis_url) as client:
        first.send()
        first.read_head()
        runs.reached.wait()
        # As if the first process had been held up until its lease lapsed.
        client.delete(*leases())
        newer = fetch(servers[1].port)
        assert newer.body == runs.bodies[1]
        assert fetch(servers[1].port).header("Cache-Status") == HIT
        # The first process takes the lease once more.
        wait_until(leases)
        runs.gate.open()
        assert first.read_rest().body == runs.bodies[0]
        wait_until(lambda: not leases())
    assert fetch(servers[0].port).body == newer.body


def test_nothing_is_left_but_the_entries(serve: Serve, redis_url: str, namespace: str) -> None:
    runs = HeldRuns(chunks=10, chunk=CHUNK)
    servers = [
        serve(runs.app(f"{redis_url}?namespace={namespace}", key_host=False)) for _ in range(2)
    ]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        for client in first, follower:
            client.send()
            client.read_head()
        runs.reached.wait()
        runs.gate.open()
        assert runs.is_whole(first.read_rest())
        assert runs.is_whole(follower.read_rest())
    wait_until(lambda: not any(server.requests_running for server in servers))
    with redis.Redis.from_url(redis_url) as client:
        # Sooner than a lease lapses.
        wait_until(lambda: not left(client.keys()), timeout=4)


def left(keys: list[bytes]) -> list[bytes]:
    """Those of the keys that belong to runs that are over."""
    return [key for key in keys if b":lease:" in key or key.endswith((b":progress", b":followed"))]


class Workers:
    """Processes that serve `tests.support.worker_app` over one store."""

    def __init__(self, spawn: Spawn, directory: Path, url: str, count: int = 2) -> None:
        self.directory = directory
        environment = {"DIRECTORY": str(directory), "CACHE": url}
        self.all = [spawn("tests.support.worker_app:app", environment) for _ in range(count)]

    @property
    def runs(self) -> list[str]:
        return [path.name for path in self.directory.glob("run-*")]

    def open(self, name: str = "gate") -> None:
        (self.directory / name).touch()


def is_whole(response: RawResponse) -> bool:
    """Whether it is one run, from its first line to its last."""
    lines = response.body.splitlines()
    runs = {line.split()[0] for line in lines}
    numbers = [int(line.split()[1]) for line in lines]
    return (
        response.complete
        and len(runs) == 1
        and numbers == [number for number in range(CHUNKS) for _ in range(100)]
    )


def begin(
    server: AppProcess | AppServer,
    target: str = "/?hold=gate",
    *,
    timeout: float = 20,
    receive_buffer: int | None = None,
) -> RawClient:
    """Return a client that has the first bytes of a stream that is held."""
    client = RawClient(server.port, timeout=timeout, receive_buffer=receive_buffer)
    client.send(target=target)
    client.read_head()
    client.read_until(1000)
    return client


def lapse(url: str) -> None:
    """Let leases lapse that nobody renews any more: on Redis now, and not in seconds."""
    if url.startswith("redis:"):
        with redis.Redis.from_url(url.partition("?")[0]) as client:
            for key in client.keys("*:lease:*"):
                assert 0 < client.pttl(key) <= LEASE_TTL * 1000
                client.delete(key)


@pytest.mark.full
def test_the_process_that_runs_is_killed(spawn: Spawn, tmp_path: Path, processes_url: str) -> None:
    workers = Workers(spawn, tmp_path, processes_url, 3)
    leader = begin(workers.all[0])
    followers = [begin(worker) for worker in workers.all[1:] for _ in range(5)]
    assert len(workers.runs) == 1
    workers.all[0].kill()
    lapse(processes_url)
    # A client that has bytes of it breaks visibly, within the time that a lease lives.
    for client in (leader, *followers):
        assert not client.read_rest().complete
        client.close()
    workers.open()
    answers = [fetch(worker.port, target="/?hold=gate") for worker in workers.all[1:]]
    assert all(is_whole(answer) for answer in answers)
    assert len(workers.runs) == 2


@pytest.mark.full
def test_who_comes_after_a_process_was_killed_is_given_a_whole_body(
    spawn: Spawn, tmp_path: Path, processes_url: str
) -> None:
    workers = Workers(spawn, tmp_path, processes_url)
    leader, follower = begin(workers.all[0]), begin(workers.all[1])
    workers.all[0].kill()
    workers.open()
    # The run that is followed there looks as if it went on.
    assert is_whole(fetch(workers.all[1].port, target="/?hold=gate", timeout=20))
    assert not follower.read_rest().complete
    leader.close()
    follower.close()


@pytest.mark.full
@pytest.mark.parametrize("same", [True, False])
def test_a_body_goes_on_from_another_run_where_that_is_the_same(
    spawn: Spawn,
    tmp_path: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    same: bool,
) -> None:
    monkeypatch.setenv("RESUME", "1")
    workers = Workers(spawn, tmp_path, redis_url, 3)
    target = "/?hold=gate&same=x" if same else "/?hold=gate"
    leader = begin(workers.all[0], target)
    followers = [begin(worker, target) for worker in workers.all[1:] for _ in range(5)]
    assert len(workers.runs) == 1
    workers.all[0].kill()
    leader.close()
    lapse(redis_url)
    # One of the processes runs it again, and all go on from there.
    wait_until(lambda: len(workers.runs) == 2)
    workers.open()
    for client in followers:
        assert is_whole(client.read_rest()) == same
        client.close()
    assert len(workers.runs) == 2


@pytest.mark.full
def test_a_lease_of_nobody_that_does_not_expire_is_taken_over(
    spawn: Spawn, tmp_path: Path, redis_url: str
) -> None:
    workers = Workers(spawn, tmp_path, redis_url)
    begin(workers.all[0]).close()
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys("*:lease:*")
        workers.all[0].kill()
        assert client.persist(key)
        workers.open()
        assert is_whole(fetch(workers.all[1].port, target="/?hold=gate", timeout=20))
        wait_until(lambda: not client.keys("*:lease:*"))
    assert fetch(workers.all[1].port, target="/?hold=gate").header("Cache-Status") == HIT


@pytest.mark.full
def test_who_waits_for_a_process_that_is_killed_runs_next(
    spawn: Spawn, tmp_path: Path, processes_url: str
) -> None:
    workers = Workers(spawn, tmp_path, processes_url, 3)
    leader = begin(workers.all[0])
    workers.all[0].kill()
    leader.close()
    workers.open()
    # One of them takes the lease over, once it has lapsed.
    waiting = [Waiting(w.port, 5, target="/?hold=gate") for w in workers.all[1:]]
    answers = [answer for each in waiting for answer in each.answers()]
    assert all(is_whole(answer) for answer in answers)
    assert len(workers.runs) == 2


def test_the_process_that_runs_is_frozen_and_goes_on(
    spawn: Spawn, tmp_path: Path, processes_url: str
) -> None:
    workers = Workers(spawn, tmp_path, processes_url)
    leader = begin(workers.all[0])
    workers.all[0].pause()
    lapse(processes_url)
    try:
        # It holds up nobody for longer than its lease lives.
        workers.open()
        answer = fetch(workers.all[1].port, target="/?hold=gate", timeout=20)
        assert is_whole(answer)
    finally:
        workers.all[0].resume()
    assert is_whole(leader.read_rest())
    leader.close()
    assert is_whole(fetch(workers.all[0].port, target="/?hold=gate"))
    assert len(workers.runs) == 2


@pytest.mark.full
@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.full)])
def test_100_cold_clients_of_uvicorns_workers(
    spawn: Spawn, tmp_path: Path, redis_url: str, workers: int
) -> None:
    environment = {"DIRECTORY": str(tmp_path), "CACHE": redis_url}
    options = ("--workers", str(workers))
    server = spawn("tests.support.worker_app:app", environment, options=options)
    clients = [RawClient(server.port, timeout=30) for _ in range(100)]
    for client in clients:
        client.send(target="/?hold=gate")
    for client in clients:
        client.read_head()
        client.read_until(1000)
    (tmp_path / "gate").touch()
    answers = [client.read_rest() for client in clients]
    for client in clients:
        client.close()
    assert all(is_whole(answer) for answer in answers)
    assert len({answer.body for answer in answers}) == 1
    assert len(list(tmp_path.glob("run-*"))) == 1
