"""A follower whose run is lost, or is not what it says it is, does not end cleanly all the same."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.format.progress import decode_progress, encode_progress
from tests.conftest import Serve
from tests.support.app_server import AppServer
from tests.support.gates import Gate
from tests.support.http_client import RawClient, fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT
from tests.support.servers import RedisServer


class World:
    """Two processes; the first run, in one of them, is held after some chunks, and is followed."""

    def __init__(self, serve: Serve, redis: RedisServer, size: int, held_at: int) -> None:
        self.size, self.held_at = size, held_at
        self.keys = Keyspace(redis.port)
        self.gates = [Gate() for _ in range(4)]
        self.gates[0].open()
        self.runs = 0
        decorate = stream_cached(ttl=60, key_host=False, cache=f"{redis.url()}?timeout=5")
        cached: Callable[..., Awaitable[Response]] = decorate(self.endpoint)

        async def endpoint(request: Request) -> Response:
            return await cached(request, cache_read="x-anyway" not in request.headers)

        app = Starlette(routes=[Route("/", endpoint)])
        self.servers: list[AppServer] = [serve(app) for _ in range(2)]

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        run = self.runs

        async def body() -> AsyncIterator[bytes]:
            for number, gate in enumerate(self.gates):
                if run == 1:
                    await gate.passed()
                if number < 3:
                    yield self.chunk(run, number)

        return StreamingResponse(body())

    def chunk(self, run: int, number: int) -> bytes:
        return b"%d%d" % (run, number) * (self.size // 2)

    def body(self, run: int) -> bytes:
        return b"".join(self.chunk(run, number) for number in range(3))

    @contextmanager
    def followed(self) -> Iterator[RawClient]:
        """Let a client of the second process follow the run of the first one, as far as it is."""
        with RawClient(self.servers[0].port) as first, RawClient(self.servers[1].port) as follower:
            for client in (first, follower):
                client.send()
                client.read_head()
            # One chunk at a time: of each, followers are told once, and of the last one no more
            # after they have it.
            for number in range(self.held_at):
                self.gates[number].open()
                follower.read_until((number + 1) * self.size)
            assert self.runs == 1
            try:
                yield follower
            finally:
                for gate in self.gates:
                    gate.open()

    def lose_the_run(self) -> None:
        """Let it look as if its process was gone: what stands there now, nobody renews."""
        (key,) = self.only(":lease:")
        self.keys.set(key, b"nothing")

    def only(self, part: str) -> list[str]:
        """Those of the keys that have a part."""
        return [key.decode() for key in self.keys.run("KEYS", f"*{part}*")]


@pytest.mark.parametrize("held_at", [1, 2, 3])
def test_what_another_run_has_stored_is_not_taken_for_the_rest(
    serve: Serve, redis_server: RedisServer, redis_url: str, held_at: int
) -> None:
    world = World(serve, redis_server, 100, held_at)
    with world.followed() as follower:
        other = fetch(world.servers[0].port, headers={"X-Anyway": "yes"})
        assert other.body == world.body(2)
        world.lose_the_run()
        answer = follower.read_rest()
        assert not answer.complete
        assert world.body(1).startswith(answer.body)
        hit = fetch(world.servers[1].port)
        assert (hit.header("Cache-Status"), hit.body) == (HIT, world.body(2))


@pytest.mark.matrix
@pytest.mark.parametrize("differs", [-1, 1, -50, 10_000, 0])
@pytest.mark.parametrize("size", [100, 300_000], ids=["short", "long"])
def test_a_body_that_is_not_as_long_as_its_last_word_says_is_broken(
    serve: Serve, redis_server: RedisServer, redis_url: str, size: int, differs: int
) -> None:
    world = World(serve, redis_server, size, 3)
    with world.followed() as follower:
        (key,) = world.only(":progress")
        token = bytes.fromhex(key.split(":")[-2])
        progress = decode_progress(world.keys.run("GET", key), token)
        last = dataclasses.replace(progress, length=3 * size + differs)
        world.keys.set(key, encode_progress(last, token))
        world.lose_the_run()
        answer = follower.read_rest()
        assert answer.body == world.body(1)
        # Where it is, that is its end.
        assert answer.complete == (differs == 0)
