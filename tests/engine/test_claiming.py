"""A miss takes its lease with the look-up; a lease that nothing comes of holds nobody up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiocache import RedisCache
from aiocache.serializers import NullSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import RunBegan, stream_cached
from stream_cached.engine.service import Outlook
from stream_cached.runs.lease import LEASE_TTL, Lease
from stream_cached.stores.protocol import look_and_claim
from tests.support.asgi import Exchange, get
from tests.support.gates import run, runs_over, until

HIT, MISS = "stream-cached; hit", "stream-cached; fwd=uri-miss; stored"
JOINED = "stream-cached; fwd=uri-miss; collapsed"


pytestmark = pytest.mark.usefixtures("apps_are_processes")


class _Runs:
    """The runs of the endpoint, in all processes."""

    keys: list[str]
    go_on: asyncio.Event


RUNS = _Runs()


@pytest.fixture(autouse=True)
def no_runs() -> None:
    RUNS.keys, RUNS.go_on = [], asyncio.Event()
    RUNS.go_on.set()


async def _endpoint(request: Request) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"begin "
        await RUNS.go_on.wait()
        yield request.path_params["name"].encode()

    return StreamingResponse(chunks(), media_type="text/csv")


class Process:
    """A process of its own, as far as Redis and runs go: it has a client, and a function."""

    def __init__(self, redis_url: str, namespace: str, **options: Any) -> None:
        port = int(redis_url.rpartition(":")[2].partition("/")[0])
        settings = {"serializer": NullSerializer(), "namespace": namespace}
        self.cache = RedisCache(endpoint="127.0.0.1", port=port, **settings)

        def begun(event: Any) -> None:
            if isinstance(event, RunBegan):
                RUNS.keys.append(event.key)

        self.function = stream_cached(ttl=60, cache=self.cache, on_event=begun, **options)(
            _endpoint
        )
        self.app = Starlette(routes=[Route("/{name}", self.function)])

    async def warm(self, name: str) -> None:
        """Let the next look-up be one that probably finds nothing."""
        assert (await get(self.app, f"/{name}")).cache_status == MISS
        await runs_over()

    async def leases(self) -> list[bytes]:
        keys: list[bytes] = await self.cache.client.keys("*:lease:*")
        return keys

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cache.close()


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return which look-ups were to take a lease, and whether they did."""
    found: list[bool] = []
    claim = Lease.claim_if_absent

    async def noted(self: Lease, *args: Any) -> Any:
        is_taken, values = await claim(self, *args)
        found.append(is_taken)
        return is_taken, values

    monkeypatch.setattr(Lease, "claim_if_absent", noted)
    return found


@pytest.mark.parametrize("options", [{}, {"secret": "a secret of some length"}, {"tags": ["t"]}])
def test_who_comes_meanwhile_joins_the_run_in_any_process(
    redis_url: str, namespace: str, claims: list[bool], options: dict[str, Any]
) -> None:
    async def main() -> None:
        async with (
            Process(redis_url, namespace, **options) as one,
            Process(redis_url, namespace, **options) as other,
        ):
            await one.warm("a")
            await other.warm("b")
            RUNS.go_on.clear()
            first = asyncio.create_task(get(one.app, "/c"))
            await until(lambda: len(RUNS.keys) == 3)
            assert claims == [True]
            others = [asyncio.create_task(get(p.app, "/c")) for p in (one, other, other, one)]
            await until(lambda: len(claims) == 2)
            RUNS.go_on.set()
            exchanges = await asyncio.gather(first, *others)
            assert {exchange.body for exchange in exchanges} == {b"begin c"}
            assert claims == [True, False]
            assert len(RUNS.keys) == 3
            await runs_over()
            assert (await get(other.app, "/c")).cache_status == HIT

    run(main)


def test_what_another_process_has_stored_is_a_hit_that_takes_no_lease(
    redis_url: str, namespace: str, claims: list[bool]
) -> None:
    async def main() -> None:
        async with Process(redis_url, namespace) as one, Process(redis_url, namespace) as other:
            await one.warm("a")
            await other.warm("b")
            exchanges = await asyncio.gather(*(get(other.app, "/a") for _ in range(5)))
            assert {(each.cache_status, each.body) for each in exchanges} == {(HIT, b"begin a")}
            assert claims == [False]
            await runs_over()
            assert not await one.leases()
            assert len(RUNS.keys) == 2

    run(main)


def test_the_first_hit_after_a_miss_looks_as_any_other(
    redis_url: str, namespace: str, claims: list[bool]
) -> None:
    async def main() -> None:
        async with Process(redis_url, namespace) as process:
            await process.warm("a")
            assert (await get(process.app, "/a")).cache_status == HIT
            assert (await get(process.app, "/a")).cache_status == HIT
            assert claims == []

    run(main)


@pytest.mark.parametrize("by_key", [False, True])
def test_what_was_invalidated_meanwhile_is_run_under_its_new_version(
    redis_url: str, namespace: str, claims: list[bool], by_key: bool
) -> None:
    async def main() -> None:
        async with Process(redis_url, namespace) as process, Process(redis_url, namespace) as other:
            await process.warm("a")
            await process.warm("b")
            claims.clear()
            # The other process invalidates: this one does not know of it.
            key = {"key": RUNS.keys[0]} if by_key else {}
            assert await other.function.invalidate(**key)
            exchange = await get(process.app, "/a")
            assert (exchange.cache_status, len(RUNS.keys)) == (MISS, 3)
            await runs_over()
            for app in (process.app, other.app):
                assert (await get(app, "/a")).cache_status == HIT
            assert True not in claims

    run(main)


def test_a_call_that_is_cancelled_while_it_looks_leaves_no_lease(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Process(redis_url, namespace) as process:
            await process.warm("a")
            claim, claimed = look_and_claim, asyncio.Event()

            async def held_up(*args: Any) -> Any:
                found = await claim(*args)
                claimed.set()
                await asyncio.Event().wait()
                return found

            monkeypatch.setattr("stream_cached.runs.lease.look_and_claim", held_up)
            exchange = Exchange(process.app, path="/b")
            task = asyncio.create_task(exchange.run())
            await claimed.wait()
            assert len(await process.leases()) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Long before it would lapse.
            async with asyncio.timeout(LEASE_TTL / 2):
                while await process.leases():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            monkeypatch.setattr("stream_cached.runs.lease.look_and_claim", claim)
            assert (await get(process.app, "/b")).cache_status == MISS

    run(main)


def test_a_request_that_is_no_plain_one_looks_as_before(
    redis_url: str, namespace: str, claims: list[bool]
) -> None:
    async def main() -> None:
        async with Process(redis_url, namespace) as process:
            await process.warm("a")
            for header in [
                (b"cache-control", b"only-if-cached"),
                (b"range", b"bytes=0-1"),
                (b"if-none-match", b'"x"'),
                (b"authorization", b"Bearer x"),
            ]:
                exchange = Exchange(process.app, path="/b")
                exchange.scope["headers"].append(header)
                await exchange.run()
                await runs_over()
            head = Exchange(process.app, path="/c")
            head.scope["method"] = "HEAD"
            await head.run()
            assert claims == []

    run(main)


def test_threads_may_note_at_the_same_time_what_they_have_stored() -> None:
    outlook, interval = Outlook(), sys.getswitchinterval()

    def note(thread: int) -> None:
        for number in range(20_000):
            outlook.note_stored(f"{thread}:{number}")

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            # Raises what one of them has raised.
            assert list(threads.map(note, range(4))) == [None] * 4
    finally:
        sys.setswitchinterval(interval)
    # Each of four threads may have been about to make room.
    assert len(outlook._stored) <= 1004
