"""An answer that is ready: it is given as long as a look-up would give the same, and no longer."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import time
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Any
from unittest import mock

import pytest
from aiocache.plugins import BasePlugin
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Scope

from stream_cached import MemoryCache, stream_cached
from stream_cached.backends.binding import Backend
from stream_cached.decorated import function
from stream_cached.engine.at_hand import answer_at_hand
from stream_cached.engine.ready import Ready
from stream_cached.entries import local
from stream_cached.events import Answered
from stream_cached.http.sent import sending_of
from stream_cached.responses.prepared import Prepared
from tests.support.asgi import Exchange, get
from tests.support.clock import Clock, StillClock, moved_clock
from tests.support.gates import run

HIT = "stream-cached; hit"

#: The numbers of the runs of one test. What a function holds itself is a part of its keys.
_numbers = itertools.count(1)


async def _chunks(count: int, size: int) -> AsyncIterator[bytes]:
    number = next(_numbers)
    for _ in range(count):
        yield b"%d" % number * size


async def _small(request: Request) -> Response:
    return StreamingResponse(_chunks(2, 10), media_type="text/plain")


async def _segments(request: Request) -> Response:
    """Its body has keys of its own."""
    return StreamingResponse(_chunks(20, 64_000), media_type="text/plain")


async def _whole(request: Request) -> Response:
    return Response(b"%d" % next(_numbers), media_type="text/plain")


async def _parts(request: Request) -> Response:
    """Its body is kept in parts, and sent in one piece."""
    return Response(b"%d" % next(_numbers) * 3_000_000, media_type="text/plain")


async def _declared(request: Request) -> Response:
    """It says itself until when it is fresh, which is a whole second."""
    headers = {"expires": formatdate(int(time.time()) + 60, usegmt=True)}
    return StreamingResponse(_chunks(2, 10), headers=headers, media_type="text/plain")


KINDS = {"small": _small, "segments": _segments, "whole": _whole}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """However slow the machine is, no second passes."""
    return moved_clock(monkeypatch, StillClock())


class Site:
    """An application whose answer is ready, and how often one was looked for otherwise."""

    def __init__(self, kind: str = "small", **options: Any) -> None:
        global _numbers
        _numbers = itertools.count(1)
        self.cache = MemoryCache()
        self.decorator = stream_cached(**{"ttl": 60, "cache": self.cache, **options})
        self.page = self.decorator({**KINDS, "parts": _parts, "declared": _declared}[kind])
        self.app = Starlette(routes=[Route("/", self._endpoint)])
        self.change: Callable[[Any], None] = lambda response: None
        self.looked = 0

    async def _endpoint(self, request: Request) -> Any:
        self.request = request
        response = await self.page(request)
        self.change(response)
        return response

    async def get(self, *headers: tuple[bytes, bytes], version: str = "1.1") -> Exchange:
        """Ask; count the look-ups."""
        exchange = Exchange(self.app)
        exchange.scope["http_version"] = version
        exchange.scope["headers"] += headers
        with mock.patch.object(function, "answer_at_hand", side_effect=answer_at_hand) as look:
            await exchange.run()
        self.looked = look.call_count
        return exchange

    async def is_ready(self) -> bool:
        """Ask as often as it takes; return whether the last answer was ready."""
        for _ in range(6):
            await self.get()
        return not self.looked


def _left(answer: Exchange) -> int:
    return int(answer.cache_status.removeprefix("stream-cached; hit; ttl="))


def _headers(answer: Exchange) -> dict[bytes, bytes]:
    return dict(answer.sent[0]["headers"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_sixth_answer_is_ready(kind: str) -> None:
    async def main() -> None:
        site = Site(kind)
        looked_up = [await site.get() for _ in range(4)][1]
        assert await site.is_ready()
        ready = await site.get()
        assert ready.complete
        assert ready.cache_status == HIT
        assert ready.sent == looked_up.sent

    run(main)


def test_its_age_is_that_of_now(clock: Clock) -> None:
    async def main() -> None:
        site = Site(cache=MemoryCache(clock=clock.monotonic))
        assert await site.is_ready()
        for seconds in (0, 0.5, 1, 59, 59.9):
            clock.passed = seconds
            answer = await site.get()
            assert answer.cache_status == HIT
            assert int(_headers(answer)[b"age"]) == int(seconds)
        clock.passed = 60
        assert (await site.get()).body == b"2" * 20

    run(main)


def test_what_is_left_of_its_freshness_is_told_as_it_is_now(clock: Clock) -> None:
    async def main() -> None:
        site = Site("declared", ttl="response", cache=MemoryCache(clock=clock.monotonic))
        await site.get()
        clock.passed = 0.25
        assert await site.is_ready()
        begun = _left(await site.get())
        # The one changes in the middle of a second of the other.
        for seconds, less in ((0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (57.75, 58)):
            clock.passed = seconds
            for _ in range(3):
                answer = await site.get()
                assert _left(answer) == begun - less
                assert _headers(answer)[b"age"] == b"%d" % seconds
            assert not site.looked
        clock.passed = 62
        assert (await site.get()).body == b"2" * 20

    run(main)


def test_a_clock_that_is_set_back_makes_nothing_younger(clock: Clock) -> None:
    async def main() -> None:
        site = Site()
        clock.passed = 10
        assert await site.is_ready()
        clock.passed = 0
        await site.get()
        assert site.looked

    run(main)


_ENDS: dict[str, Callable[[Site, pytest.MonkeyPatch], object]] = {
    "the endpoint is invalidated": lambda site, patch: site.page.invalidate(),
    "its key is": lambda site, patch: _invalidate_key(site),
    "the cache is cleared": lambda site, patch: site.cache.clear(),
    "there is another cache": lambda site, patch: site.decorator.hooks.bind(MemoryCache()),
    "the cache is switched off": lambda site, patch: patch.setenv("AIOCACHE_DISABLE", "1"),
    "the decorator has a key": lambda site, patch: setattr(site.decorator, "key", "own"),
    "the decorator makes keys": lambda site, patch: setattr(
        site.decorator, "get_cache_key", lambda *args: "own"
    ),
}


async def _invalidate_key(site: Site) -> None:
    await site.page.invalidate(key=await site.page.cache_key(request=site.request))


@pytest.mark.parametrize("what", _ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_with_what_it_was_made_of(
    kind: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        site = Site(kind)
        assert await site.is_ready()
        done = _ENDS[what](site, monkeypatch)
        if isinstance(done, Awaitable):
            await done
        answer = await site.get()
        assert answer.body.startswith(b"2")
        assert answer.cache_status != HIT

    run(main)


def test_a_segment_that_is_gone_ends_it() -> None:
    async def main() -> None:
        site = Site("segments")
        assert await site.is_ready()
        _, segment, *_ = sorted(site.cache.sizes(), key=site.cache.sizes().__getitem__)[::-1]
        await site.cache.delete(segment)
        answer = await site.get()
        assert answer.complete
        assert answer.body == b"2" * 1_280_000

    run(main)


def test_a_plugin_that_is_added_is_told_of_hits() -> None:
    told: list[Any] = []

    class Telling(BasePlugin):  # type: ignore[misc]
        async def post_get(self, client: Any, key: str, took: float, ret: Any, **more: Any) -> None:
            told.append(ret)

    async def main() -> None:
        site = Site()
        assert await site.is_ready()
        site.cache.plugins = [Telling()]
        await site.get()
        assert len(told) == 1

    run(main)


def test_headers_that_are_changed_are_those_of_one_answer() -> None:
    async def main() -> None:
        site = Site()
        assert await site.is_ready()

        def change(response: Any) -> None:
            response.headers["x-user"] = "anna"
            response.status_code, response.media_type = 201, "text/html"

        expected = (await site.get()).sent
        site.change = change
        assert _headers(await site.get())[b"x-user"] == b"anna"
        site.change = lambda response: None
        assert (await site.get()).sent == expected
        assert not site.looked

    run(main)


def test_messages_that_are_changed_are_those_of_one_answer() -> None:
    async def main() -> None:
        site = Site()
        assert await site.is_ready()
        first = await site.get()
        expected = [(*map(bytes, each),) for each in first.sent[0]["headers"]]
        first.sent[0]["headers"].clear()
        second = await site.get()
        assert second.sent[0]["headers"] == expected
        assert not site.looked

    run(main)


def test_it_is_weakly_tagged_for_those_whose_body_may_be_compressed() -> None:
    async def main() -> None:
        site = Site()
        await site.get()
        codings = [(), ((b"accept-encoding", b"gzip"),), ((b"accept-encoding", b"identity"),)]
        for _ in range(4):
            tags = [_headers(await site.get(*each))[b"etag"][:2] for each in codings]
            assert [tag == b"W/" for tag in tags] == [False, True, False]
        assert not site.looked

    run(main)


@pytest.mark.parametrize(
    "header",
    [
        (b"if-none-match", b"*"),
        (b"range", b"bytes=0-1"),
        (b"authorization", b"Bearer a"),
        (b"cache-control", b"no-cache"),
    ],
)
def test_who_asks_for_more_is_not_given_it(header: tuple[bytes, bytes]) -> None:
    async def main() -> None:
        site = Site(honor_request=True)
        assert await site.is_ready()
        sent = (await site.get()).sent
        assert not site.looked
        assert (await site.get(header)).sent != sent

    run(main)


def test_each_answer_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    async def main() -> None:
        site = Site(on_event=told.append)
        assert await site.is_ready()
        told.clear()
        await site.get()
        (event,) = told
        assert isinstance(event, Answered)
        assert (event.outcome, event.size, event.look_up) == ("hit", 20, None)
        assert event.seconds == event.first_byte == 0
        assert event.saved is not None
        assert site.page.stats().hits == 6
        with caplog.at_level(logging.DEBUG, "stream_cached"):
            await site.get()
        assert [record.message for record in caplog.records if "hit" in record.message]
        assert site.page.stats().hits == 7

    run(main)


def test_what_is_ready_is_used() -> None:
    async def main() -> None:
        site = Site(cache=MemoryCache(max_bytes=6_000))
        assert await site.is_ready()
        for number in range(20):
            exchange = Exchange(site.app)
            exchange.scope["query_string"] = b"number=%d" % number
            await exchange.run()
            assert (await site.get()).body == b"1" * 20

    run(main)


def test_it_is_kept_by_what_is_kept_of_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Ready]] = []
    prepared = Ready.__init__

    def noting(ready: Ready, *args: Any, **kwargs: Any) -> None:
        made.append(weakref.ref(ready))
        prepared(ready, *args, **kwargs)

    monkeypatch.setattr(Ready, "__init__", noting)

    async def main() -> None:
        site = Site()
        assert await site.is_ready()
        assert made[-1]() is not None
        local._memory.kept.clear()
        gc.collect()
        assert made[-1]() is None
        assert (await get(site.app)).cache_status == HIT

    run(main)


@pytest.mark.parametrize("kind", ["small", "whole"])
def test_it_takes_no_more_memory_than_is_counted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = local._Memory(max_bytes=1_000_000)
    monkeypatch.setattr(local, "_memory", memory)

    async def main() -> None:
        site = Site(kind)
        exchange = Exchange(site.app)
        await exchange.run()
        memory.kept.clear()
        memory.used = 0
        tracemalloc.start()
        for number in range(40):
            for codings in [(), ((b"accept-encoding", b"gzip"),)] * 6:
                exchange = Exchange(site.app)
                exchange.scope["query_string"] = b"number=%d" % number
                exchange.scope["headers"] += codings
                await exchange.run()
        del exchange
        assert (
            sum(
                kept.sight is not None and kept.sight.ready is not None
                for kept in memory.kept.values()
            )
            == 40
        )
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        memory.kept.clear()
        sending_of.cache_clear()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        assert before - after <= memory.used

    try:
        run(main)
    finally:
        tracemalloc.stop()


def test_it_is_ready_for_all_calls_with_its_key() -> None:
    async def main() -> None:
        site = Site()
        for _ in range(6):
            looks = []
            for version in ("1.0", "1.1"):
                await site.get(version=version)
                looks.append(site.looked)
        assert looks == [0, 0]

    run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_no_cache_alive(kind: str) -> None:
    async def until_ready() -> weakref.ref[Any]:
        site = Site(kind)
        assert await site.is_ready()
        return weakref.ref(site.cache.memory)

    async def main() -> None:
        memory = await until_ready()
        gc.collect()
        assert memory() is None

    run(main)


def test_no_client_of_another_loop_is_kept_alive(redis_url: str) -> None:
    site = Site(cache=redis_url)

    async def ask(number: int) -> None:
        for _ in range(6):
            exchange = Exchange(site.app)
            exchange.scope["query_string"] = b"number=%d" % number
            await exchange.run()

    counts = []
    for number in range(4):
        run(functools.partial(ask, number))
        gc.collect()
        counts.append(_count(Backend))
    assert counts[-1] == counts[0]


def test_the_entry_of_a_response_that_is_ready_can_be_deleted() -> None:
    async def main() -> None:
        site = Site()
        assert await site.is_ready()
        response: Any = await site.page(site.request)
        await response.replay.discard()
        assert (await site.get()).body == b"2" * 20

    run(main)


def test_no_copy_of_a_body_is_kept() -> None:
    async def main() -> None:
        site = Site("parts")
        # A look-up makes one for each answer.
        assert not await site.is_ready()
        bodies = [(await site.get()).sent[1]["body"] for _ in range(2)]
        assert bodies[0] == bodies[1]
        assert bodies[0] is not bodies[1]

    run(main)


def test_what_clients_accept_costs_little() -> None:
    async def main() -> None:
        site = Site()
        assert await site.is_ready()
        gc.collect()
        before = _count(Prepared)
        for number in range(20):
            for _ in range(2):
                await site.get((b"accept-encoding", b"gzip, x-%d" % number))
        assert _count(Prepared) <= before + 1

    run(main)


def test_what_only_few_clients_accept_is_not_kept() -> None:
    async def main() -> None:
        site = Site()
        assert await site.is_ready()
        for _ in range(2):
            await site.get((b"accept-encoding", b"gzip, x-" + b"0" * 1_000))
            assert site.looked

    run(main)


def _count(cls: type) -> int:
    return sum(type(each) is cls for each in gc.get_objects())


_cookies: list[str] = []


async def _welcome(response: Response) -> None:
    for cookie in _cookies:
        response.set_cookie("visitor", cookie)


async def _model() -> dict[str, int]:
    return {"number": next(_numbers)}


def test_what_dependencies_put_on_a_response_is_sent_to_their_client_alone() -> None:
    async def main() -> None:
        app = FastAPI()
        cached = stream_cached(ttl=60, cache=MemoryCache())(_model)
        app.get("/", dependencies=[Depends(_welcome)])(cached)

        async def ask() -> tuple[bytes | None, int]:
            with mock.patch.object(function, "answer_at_hand", side_effect=answer_at_hand) as look:
                answer = await get(app)
            assert answer.complete
            return _headers(answer).get(b"set-cookie"), look.call_count

        for _ in range(6):
            answers = [await ask(), await ask()]
        assert answers == [(None, 0)] * 2
        for name in ("anna", "bert"):
            _cookies[:] = [name]
            for _ in range(3):
                cookie, looked = await ask()
                assert looked
                assert (cookie or b"").startswith(b"visitor=%b;" % name.encode())
        _cookies.clear()
        assert await ask() == (None, 0)

    run(main)


class _Version(APIRoute):
    """A route for those who ask for one version of an API."""

    version = b"1"

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        is_asked = dict(scope["headers"]).get(b"x-version", b"1") == self.version
        return (match, child) if is_asked else (Match.NONE, {})


class _Second(_Version):
    version = b"2"


def test_who_calls_the_function_of_another_route_is_not_given_a_response() -> None:
    async def first(size: int = 1) -> dict[str, int]:
        return {"size": size}

    async def main() -> None:
        app = FastAPI()
        cached = stream_cached(ttl=60, cache=MemoryCache())(first)

        @functools.wraps(cached)
        async def second(*args: Any, **kwargs: Any) -> dict[str, int]:
            return {**await cached(*args, **kwargs), "version": 2}

        for route_class, endpoint in ((_Version, cached), (_Second, second)):
            app.router.add_api_route("/", endpoint, route_class_override=route_class)

        async def ask(version: bytes) -> tuple[bytes, int]:
            exchange = Exchange(app)
            exchange.scope["headers"].append((b"x-version", version))
            with mock.patch.object(function, "answer_at_hand", side_effect=answer_at_hand) as look:
                await exchange.run()
            return exchange.body, look.call_count

        for _ in range(6):
            answer = await ask(b"1")
        assert answer == (b'{"size":1}', 0)
        body, _ = await ask(b"2")
        assert body == b'{"size":1,"version":2}'

    run(main)
