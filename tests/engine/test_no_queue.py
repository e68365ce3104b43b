"""What can't be shared queues nobody up: all run at once, though none of them has an answer yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.engine.test_collapse import Waiting
from tests.support.gates import Gate, wait_until

#: How many ask beside the first one.
OTHERS = 5


class Sending(Response):
    """Sends in a way of its own, with a cookie that it says nothing of before."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__()
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"set-cookie", b"a=b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def with_headers(**headers: str) -> Callable[[Request, AsyncIterator[bytes]], Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, chunks: StreamingResponse(chunks, headers=named)


def reading(request: Request, chunks: AsyncIterator[bytes]) -> Any:
    request.cookies.get("name")
    return StreamingResponse(chunks)


def reading_later(request: Request, chunks: AsyncIterator[bytes]) -> Any:
    async def body() -> AsyncIterator[bytes]:
        request.cookies.get("name")
        async for chunk in chunks:
            yield chunk

    return StreamingResponse(body())


#: Why it can't be shared, known before the first byte of a body or with it; and what the decorator
#: is told.
REASONS: dict[str, tuple[Callable[[Request, AsyncIterator[bytes]], Any], dict[str, Any]]] = {
    "a cookie is set": (with_headers(set_cookie="a=b"), {}),
    "private": (with_headers(cache_control="private"), {}),
    "no-store": (with_headers(cache_control="no-store"), {}),
    "varies on everything": (with_headers(vary="*"), {}),
    "the status is not stored": (lambda r, c: StreamingResponse(c, status_code=403), {}),
    "a cookie is read": (reading, {}),
    "a cookie is read for the body": (reading_later, {}),
    "a cookie is set by itself": (lambda r, c: Sending(c), {}),
    "not wanted": (lambda r, c: StreamingResponse(c), {"skip_cache_func": lambda result: True}),
}

#: Those of one answer: the next one may be shared.
PASSING = {"the status is not stored", "not wanted"}


class World:
    """An endpoint whose first answer is held, then let go; those of all others are held."""

    def __init__(self, cache: str, why: str) -> None:
        self.make, self.settings = REASONS[why]
        self.cache = cache
        self.runs = 0
        self.reached, self.first, self.all = Gate(), Gate(), Gate()

    async def endpoint(self, request: Request) -> Any:
        run = self.runs
        self.runs += 1
        if run:
            # Before it can be known what it answers.
            await self.all.passed()
        else:
            self.reached.open()
            await self.first.passed()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x" * 2000
            await self.all.passed()

        return self.make(request, chunks())

    def app(self) -> FastAPI:
        app = FastAPI()
        settings = {"ttl": 60, "wait_timeout": 60, "key_host": False, **self.settings}
        cached = stream_cached(cache=self.cache, **settings)
        app.add_api_route("/", cached(self.endpoint), response_model=None)
        return app


@pytest.mark.matrix
@pytest.mark.parametrize("why", REASONS)
def test_in_one_process(serve: Serve, cache_url: str, why: str) -> None:
    world = World(cache_url, why)
    server = serve(world.app())
    waiting = [Waiting(server.port, 1)]
    world.reached.wait()
    waiting.append(Waiting(server.port, OTHERS))
    wait_until(lambda: server.requests_running == 1 + OTHERS)
    assert world.runs == 1
    world.first.open()
    wait_until(lambda: world.runs == 1 + OTHERS)
    later = 0 if why in PASSING else OTHERS
    if later:
        # For a while, nobody waits.
        waiting.append(Waiting(server.port, later))
        wait_until(lambda: world.runs == 1 + OTHERS + later)
    world.all.open()
    answers = [answer for each in waiting for answer in each.answers()]
    assert len({answer.status for answer in answers}) == 1
    assert world.runs == 1 + OTHERS + later


@pytest.mark.matrix
@pytest.mark.parametrize("why", REASONS)
@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_among_processes(
    request: pytest.FixtureRequest, serve: Serve, namespace: str, kind: str, why: str
) -> None:
    base = request.getfixturevalue(f"{kind}_url")
    world = World(f"{base}?namespace={namespace}&timeout=5", why)
    servers = [serve(world.app()) for _ in range(2)]
    waiting = [Waiting(servers[0].port, 1)]
    world.reached.wait()
    waiting.append(Waiting(servers[1].port, OTHERS))
    wait_until(lambda: servers[1].requests_running == OTHERS)
    world.first.open()
    wait_until(lambda: world.runs == 1 + OTHERS)
    if why not in PASSING:
        waiting.extend(Waiting(server.port, 1) for server in servers)
        wait_until(lambda: world.runs == 1 + OTHERS + 2)
    world.all.open()
    answers = [answer for each in waiting for answer in each.answers()]
    assert len({answer.status for answer in answers}) == 1
