"""A body that goes on from another run, where a part of what was stored is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from stream_cached import ConfigurationError, stream_cached
from stream_cached.compression import Codec
from stream_cached.errors import LostStreamError
from stream_cached.responses.resumption import Resumption, RunHead, resuming
from tests.conftest import Serve
from tests.support.asgi import Exchange
from tests.support.gates import run
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT, segments
from tests.support.servers import RedisServer


def large_body() -> bytes:
    """More than what the buffers of a connection hold."""
    return bytes(range(256)) * 40_000


#: What the next run has changed, of the body that the first one had.
Change = Callable[[bytes], dict[str, object]]


class Reruns:
    """An endpoint that answers the same at each run, unless it is told to change."""

    def __init__(self) -> None:
        self.count = 0
        self.body = large_body()
        self.headers = {"x-of": "all"}
        self.status = 200

    async def __call__(self, request: Request) -> Response:
        self.count += 1
        body = self.body

        async def chunks() -> object:
            for start in range(0, len(body), 50_000):
                yield body[start : start + 50_000]

        return StreamingResponse(chunks(), self.status, self.headers)  # type: ignore[arg-type]


def lose_a_segment_under_a_hit(
    serve: Serve,
    redis_server: RedisServer,
    url: str,
    runs: Reruns,
    change: Change,
    compress: Codec | None = None,
) -> RawResponse:
    """Return what a client is given whose entry loses its end, and the next run is changed."""
    options: dict[str, Any] = {"resume": True, "statuses": [200, 203], "compress": compress}
    cached = stream_cached(ttl=60, cache=url, **options)(runs.__call__)
    port = serve(Starlette(routes=[Route("/", cached)])).port
    fetch(port)
    keys = Keyspace(redis_server.port)
    with RawClient(port, receive_buffer=4096) as client:
        client.send()
        client.read_head()
        client.read_until(1000)
        for key in sorted(segments(keys.all()), key=lambda key: int(key.rpartition(":")[2]))[20:]:
            keys.set(key, None)
        for name, value in change(runs.body).items():
            setattr(runs, name, value)
        return client.read_rest()


def test_a_hit_goes_on_from_another_run(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = Reruns()
    answer = lose_a_segment_under_a_hit(serve, redis_server, redis_url, runs, lambda body: {})
    assert answer.header("Cache-Status") == HIT
    assert answer.complete
    assert answer.body == large_body()
    assert runs.count == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda body: {"body": body[::-1]},
        lambda body: {"body": body[:-1]},
        pytest.param(lambda body: {"body": body + b"more"}, marks=pytest.mark.full),
        pytest.param(lambda body: {"body": b"short"}, marks=pytest.mark.full),
        pytest.param(lambda body: {"body": b""}, marks=pytest.mark.full),
        lambda body: {"headers": {"x-of": "one"}},
        pytest.param(lambda body: {"status": 203}, marks=pytest.mark.full),
    ],
)
def test_it_breaks_where_the_next_run_is_another_one(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    change: Change,
) -> None:
    runs = Reruns()
    answer = lose_a_segment_under_a_hit(serve, redis_server, redis_url, runs, change)
    assert not answer.complete
    assert runs.count == 2


def test_it_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="resume='yes'"):
        stream_cached(ttl=60, resume="yes")  # type: ignore[arg-type]


def test_a_body_that_is_lost_after_it_went_on_is_not_begun_again() -> None:
    """Only a response that has sent nothing of its body goes on without `resume=True`."""
    runs = 0

    class Lost(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            raise LostStreamError("it is lost")

    async def again() -> Response:
        nonlocal runs
        runs += 1
        return Lost()

    async def test() -> None:
        exchange = Exchange(Lost())
        resumption = Resumption(again, RunHead.of(200, ()), within_body=False)

        async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
            raise LostStreamError("it is for another one")

        with pytest.raises(LostStreamError, match="it is lost"):
            await resuming(resumption, nothing, exchange.scope, exchange._receive, exchange._send)
        assert exchange.body == b"part"

    run(test)
    assert runs == 1


def test_it_goes_on_where_a_middleware_has_held_bytes_back() -> None:
    held = bytearray()

    async def send(message: Message) -> None:
        # As what compresses: it changes the message itself, and may send nothing for now.
        held.extend(message.get("body", b""))
        message["body"] = b""

    async def lost(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"first, ", "more_body": True})
        raise LostStreamError("it is lost")

    async def again() -> Response:
        return Response(b"first, second")

    async def test() -> None:
        exchange = Exchange(lost)
        resumption = Resumption(again, RunHead.of(200, ()))
        await resuming(resumption, lost, exchange.scope, exchange._receive, send)

    run(test)
    assert held == b"first, second"


def test_a_file_that_goes_on_is_not_sent_by_the_server(tmp_path: Path) -> None:
    """The server would send all of it, after the part that was sent already."""
    path = tmp_path / "file"
    path.write_bytes(b"the whole file")

    async def again() -> Response:
        return FileResponse(path, headers={"etag": "one", "last-modified": "then"})

    async def test() -> None:
        response = await again()
        exchange = Exchange(response)
        exchange.scope["extensions"] = {"http.response.pathsend": {}}
        head = RunHead.of(response.status_code, response.raw_headers)

        async def lost(scope: Scope, receive: Receive, send: Send) -> None:
            start = {"type": "http.response.start", "status": 200, "headers": response.raw_headers}
            await send(start)
            await send({"type": "http.response.body", "body": b"the wh", "more_body": True})
            raise LostStreamError("a segment is lost")

        resumption = Resumption(again, head)
        await resuming(resumption, lost, exchange.scope, exchange._receive, exchange._send)
        assert (exchange.body, exchange.complete) == (b"the whole file", True)

    run(test)
