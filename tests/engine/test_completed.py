"""`on_complete=`: what it is called with, and that nothing of it reaches a client."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from stream_cached import Completed, StoreError, stream_cached
from tests.conftest import Serve
from tests.support.gates import Gate, wait_until
from tests.support.http_client import fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import HIT, FailingRuns, Runs
from tests.support.servers import RedisServer


class Copies:
    """What an `on_complete=` has copied."""

    def __init__(self) -> None:
        self.found: list[Completed] = []
        self.bodies: list[bytes] = []
        self.threads: list[int] = []
        self.copied = Gate()

    async def copy(self, completed: Completed) -> None:
        self._note(completed, b"".join([chunk async for chunk in completed.body]))

    def copy_in_thread(self, completed: Completed) -> None:
        self._note(completed, b"".join(completed.body))

    def _note(self, completed: Completed, body: bytes) -> None:
        self.found.append(completed)
        self.bodies.append(body)
        self.threads.append(threading.get_ident())
        self.copied.open()

    async def __call__(self, completed: Completed) -> None:
        await self.copy(completed)


KINDS: dict[str, Callable[[Copies], Any]] = {
    "async": lambda copies: copies.copy,
    "sync": lambda copies: copies.copy_in_thread,
    "an instance": lambda copies: copies,
    "a partial": lambda copies: functools.partial(copies.copy),
}


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("where", ["inline", "segments", "object"])
def test_it_is_called_with_what_was_stored(
    serve: Serve, redis_url: str, tmp_path: Path, kind: Callable[[Copies], Any], where: str
) -> None:
    copies, runs = Copies(), Runs(chunks=2 if where == "inline" else 30, headers={"X-Run": "1"})
    bodies = f"file://{tmp_path}" if where == "object" else None
    port = serve(runs.app(redis_url, on_complete=kind(copies), bodies=bodies, etag=False)).port
    assert runs.is_whole(fetch(port))
    copies.copied.wait()
    (completed,), (body,) = copies.found, runs.bodies
    assert len(copies.bodies[0]) == len(body)
    assert copies.bodies[0] == body
    assert (completed.status, completed.length) == (200, len(body))
    assert completed.digest == hashlib.sha256(body).hexdigest()
    assert (b"x-run", b"1") in completed.headers
    assert fetch(port).header("Cache-Status") == HIT
    assert len(copies.found) == 1


def test_a_body_at_hand(serve: Serve) -> None:
    copies = Copies()

    @stream_cached(ttl=60, on_complete=copies.copy)
    async def endpoint() -> PlainTextResponse:
        return PlainTextResponse("report")

    async def outer(request: Any) -> PlainTextResponse:
        return await endpoint()

    fetch(serve(Starlette(routes=[Route("/", outer)])).port)
    copies.copied.wait()
    assert copies.bodies == [b"report"]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_what_it_raises_is_logged_and_reaches_no_client(
    serve: Serve, redis_url: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(completed: Completed) -> None:
        raise RuntimeError("no room")

    async def fail_later(completed: Completed) -> None:
        raise RuntimeError("no room")

    runs = Runs()
    port = serve(runs.app(redis_url, on_complete=fail_later if is_async else fail)).port
    assert runs.is_whole(fetch(port))
    wait_until(lambda: [r for r in caplog.records if "on_complete= failed" in r.message])
    assert fetch(port).header("Cache-Status") == HIT


def test_no_client_waits_for_it(serve: Serve, redis_url: str) -> None:
    begun, gate = Gate(), Gate()

    async def hold(completed: Completed) -> None:
        begun.open()
        await gate.passed()

    runs = Runs()
    port = serve(runs.app(redis_url, on_complete=hold)).port
    assert runs.is_whole(fetch(port))
    begun.wait()
    assert fetch(port).header("Cache-Status") == HIT
    gate.open()


def test_it_is_not_called_for_what_is_not_stored(serve: Serve, redis_url: str) -> None:
    copies, runs = Copies(), FailingRuns()
    runs.at = 5
    port = serve(runs.app(redis_url, on_complete=copies.copy)).port
    assert not fetch(port).complete
    assert runs.is_whole(fetch(port))
    copies.copied.wait()
    assert copies.bodies == [runs.bodies[1]]


@pytest.mark.parametrize("where", ["segments", "object"])
def test_a_body_that_is_deleted_while_it_is_read_is_an_error_of_the_store(
    serve: Serve, redis_server: RedisServer, redis_url: str, tmp_path: Path, where: str
) -> None:
    begun, gate, raised = Gate(), Gate(), Gate()
    errors: list[StoreError] = []

    async def read(completed: Completed) -> None:
        chunks = aiter(completed.body)
        if where == "segments":
            await anext(chunks)
        begun.open()
        await gate.passed()
        try:
            async for _ in chunks:
                pass
        except StoreError as exc:
            errors.append(exc)
            raised.open()

    runs = Runs(chunks=100)
    bodies = f"file://{tmp_path}" if where == "object" else None
    port = serve(runs.app(redis_url, on_complete=read, bodies=bodies)).port
    assert runs.is_whole(fetch(port))
    begun.wait()
    Keyspace(redis_server.port).run("FLUSHALL")
    for path in tmp_path.glob("??/*"):
        path.unlink()
    gate.open()
    raised.wait()
    assert len(errors) == 1
