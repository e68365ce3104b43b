"""The end of a run, for the requests that joined it, follow it, or come later."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from stream_cached import MemoryCache, stream_cached

pytestmark = pytest.mark.usefixtures("apps_are_processes")


class Shared(BaseCache):  # type: ignore[misc]
    """A connection to a memory that processes share: two of them are two processes."""

    NAME = "shared"

    def __init__(self, server: Any) -> None:
        super().__init__(serializer=NullSerializer())
        self.server = server
        self.reads = 0

    async def _get(self, key: str, encoding: Any = None, _conn: Any = None) -> Any:
        self.reads += 1
        await asyncio.sleep(0)
        return await self.server._get(key)

    async def _multi_get(self, keys: Any, encoding: Any = None, _conn: Any = None) -> Any:
        self.reads += 1
        await asyncio.sleep(0)
        return await self.server._multi_get(keys)

    async def _set(
        self, key: str, value: Any, ttl: Any = None, _cas_token: Any = None, _conn: Any = None
    ) -> Any:
        return await self.server._set(key, value, ttl, _cas_token=_cas_token)

    async def _add(self, key: str, value: Any, ttl: Any = None, _conn: Any = None) -> Any:
        return await self.server._add(key, value, ttl)

    async def _exists(self, key: str, _conn: Any = None) -> Any:
        return await self.server._exists(key)

    async def _expire(self, key: str, ttl: Any, _conn: Any = None) -> Any:
        return await self.server._expire(key, ttl)

    async def _delete(self, key: str, _conn: Any = None) -> Any:
        return await self.server._delete(key)


class Client:
    """A request by hand; once it has some bytes, it takes nothing more until it `goes_on`."""

    def __init__(self, app: Any, *, cookie: str = "", held_at: int | None = None) -> None:
        self.body = b""
        self.complete = False
        self.error: BaseException | None = None
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        if held_at is None:
            self.goes_on.set()
        self._held_at = held_at or 0
        self._asked = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"example.org"), (b"cookie", cookie.encode())],
            "client": ("127.0.0.1", 5000),
            "server": ("example.org", 80),
        }
        self.task = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: Any, scope: Any) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as exc:
            self.error = exc
        finally:
            self.begun.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            return
        self.body += message.get("body", b"")
        self.complete = not message.get("more_body", False)
        if self.body:
            self.begun.set()
        if len(self.body) >= self._held_at:
            await self.goes_on.wait()

    async def over(self, seconds: float = 5.0) -> bool:
        """Return whether it is answered by then."""
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        return bool(done)


def app_of(cached: Any) -> Starlette:
    return Starlette(routes=[Route("/", cached)])


@pytest.mark.parametrize(
    "ending",
    ["raises", *(pytest.param(each, marks=pytest.mark.full) for each in ("grows", "expires"))],
)
def test_a_slow_reader_of_an_ended_run_of_another_process_holds_nobody_up(ending: str) -> None:
    runs = 0

    async def main() -> None:
        ended = asyncio.Event()

        async def endpoint(request: Request) -> Response:
            nonlocal runs
            runs += 1
            run = runs

            async def body() -> AsyncIterator[bytes]:
                for _ in range(60):
                    yield b"%02d" % run * 50_000
                    await asyncio.sleep(0)
                if run == 1:
                    await ended.wait()
                    if ending == "raises":
                        raise RuntimeError
                    if ending == "grows":
                        yield b"x" * 1_000_000

            return StreamingResponse(body())

        server = MemoryCache(max_bytes=256 * 1024 * 1024)
        caches = Shared(server), Shared(server)
        settings: dict[str, Any] = {"ttl": 0.2 if ending == "expires" else 60}
        settings["max_body"] = 6_500_000
        here, there = [app_of(stream_cached(cache=c, **settings)(endpoint)) for c in caches]
        leader = Client(there)
        await leader.begun.wait()
        slow = Client(here, held_at=100_000)
        await slow.begun.wait()
        await asyncio.sleep(0.3)
        assert runs == 1
        ended.set()
        assert await leader.over()
        await asyncio.sleep(0.5)
        caches[1].reads = caches[0].reads = 0
        later = Client(here)
        assert await later.over(2), f"it hangs, and has looked {caches[0].reads} times"
        assert later.complete
        assert runs == 2 or ending == "grows"
        slow.goes_on.set()
        assert await slow.over()

    asyncio.run(main())


def test_an_end_that_a_cookie_decides_is_not_the_end_of_those_who_joined() -> None:
    async def main() -> None:
        @stream_cached(ttl=60, cache=MemoryCache())
        async def endpoint(request: Request) -> Response:
            async def body() -> AsyncIterator[bytes]:
                for _ in range(3):
                    yield b"x" * 300_000
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.1)
                if request.cookies.get("plan") == "paid":
                    yield b"for those who have paid"

            return StreamingResponse(body())

        app = app_of(endpoint)
        leader = Client(app)
        await leader.begun.wait()
        joined = Client(app, cookie="plan=paid", held_at=100_000)
        await joined.begun.wait()
        assert await leader.over()
        assert leader.complete
        joined.goes_on.set()
        assert await joined.over()
        # Its own body has one chunk more.
        assert not joined.complete

    asyncio.run(main())


@pytest.mark.parametrize("limit", ["max_body", "max_duration"])
@pytest.mark.parametrize("when", ["before a chunk", "at the end"])
def test_what_is_private_reaches_nobody_who_joined_though_a_limit_was_passed_before(
    limit: str, when: str
) -> None:
    async def main() -> None:
        passed, joined = asyncio.Event(), asyncio.Event()

        bound: dict[str, Any] = {limit: 1000 if limit == "max_body" else 0.2}

        @stream_cached(ttl=60, cache=MemoryCache(), **bound)
        async def endpoint(request: Request) -> Response:
            async def body() -> AsyncIterator[bytes]:
                yield b"a" * 400
                await joined.wait()
                if limit == "max_body":
                    yield b"b" * 2000
                await passed.wait()
                if when == "at the end":
                    if request.cookies.get("plan") == "paid":
                        yield b"for those who have paid"
                else:
                    yield f"plan={request.cookies.get('plan')}".encode()

            return StreamingResponse(body())

        app = app_of(endpoint)
        leader = Client(app, cookie="plan=free")
        await leader.begun.wait()
        other = Client(app, cookie="plan=paid")
        await other.begun.wait()
        joined.set()
        await asyncio.sleep(0.3)
        passed.set()
        assert await leader.over()
        assert await other.over()
        assert leader.complete
        assert not other.complete
        assert b"plan" not in other.body

    asyncio.run(main())


def test_a_run_that_could_not_be_shared_says_so_once() -> None:
    runs = 0

    async def main() -> None:
        ended = asyncio.Event()

        @stream_cached(ttl=60, cache=MemoryCache(), max_body=1000)
        async def endpoint(request: Request) -> Response:
            nonlocal runs
            runs += 1
            run = runs

            async def body() -> AsyncIterator[bytes]:
                yield b"a"
                await asyncio.sleep(0.02)
                if run == 1:
                    yield b"b" * 2000
                    await ended.wait()

            return StreamingResponse(body())

        app = app_of(endpoint)
        large = Client(app)
        await asyncio.sleep(0.2)
        await endpoint.invalidate()
        assert await Client(app).over()
        # That one is stored: from now on others wait for a run again.
        ended.set()
        assert await large.over()
        await endpoint.invalidate()
        clients = [Client(app) for _ in range(10)]
        for client in clients:
            assert await client.over()
            assert client.complete
        assert runs == 3

    asyncio.run(main())


def test_an_endpoint_that_takes_long_to_answer_does_not_look_for_followers() -> None:
    async def main() -> None:
        cache = Shared(MemoryCache())
        reads = []

        async def endpoint(request: Request) -> Response:
            cache.reads = 0
            # A run without a head has no followers. The lease is renewed every half second.
            await asyncio.sleep(1.2)
            reads.append(cache.reads)
            return StreamingResponse(iter([b"a"]))

        assert await Client(app_of(stream_cached(ttl=60, cache=cache)(endpoint))).over()
        assert reads == [0]

    asyncio.run(main())


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "shared"])
def test_a_run_whose_beginning_the_store_has_lost_holds_nobody_up(shared: bool) -> None:
    runs = 0

    async def main() -> None:
        ended = asyncio.Event()

        async def endpoint(request: Request) -> Response:
            nonlocal runs
            runs += 1
            run = runs

            async def body() -> AsyncIterator[bytes]:
                for _ in range(18):
                    yield b"%02d" % run * 25_000
                    await asyncio.sleep(0.001)
                if run == 1:
                    await ended.wait()

            return StreamingResponse(body())

        server = MemoryCache(max_bytes=4 * 1024 * 1024)
        cache: Any = Shared(server) if shared else server
        app = app_of(stream_cached(ttl=60, cache=cache, max_ahead=65_536)(endpoint))
        leader = Client(app)
        await leader.begun.wait()
        await asyncio.sleep(0.3)
        # As a store does that is full: what was written first goes first.
        for key in [key for key in server.memory.sizes() if key.rpartition(":")[2].isdigit()]:
            await server._delete(key)
        joining = Client(app)
        # Should the event loop never get to anything else, this ends it.
        signal.alarm(10)
        try:
            assert await joining.over(5)
        finally:
            signal.alarm(0)
        assert joining.complete
        assert joining.body == b"02" * 25_000 * 18
        ended.set()
        assert await leader.over()
        assert leader.complete

    asyncio.run(main())
