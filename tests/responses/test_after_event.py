"""A client that has had a part of an event stream goes on after its last event."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Header
from fastapi import __version__ as fastapi_version
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, StreamCache, stream_cached
from stream_cached.http.event_ids import AfterEvent
from stream_cached.responses.resumption import Resumption
from tests.conftest import Serve
from tests.support.event_stream import parsed
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.logs import warnings
from tests.support.runs import HIT

EVENTS = {"content-type": "text/event-stream"}


class World:
    """An endpoint that sends events, and is held before one of them."""

    def __init__(self, form: str, count: int = 6, held_at: int = 3, size: int = 1) -> None:
        self.form, self.count, self.held_at, self.size = form, count, held_at, size
        self.gate = Gate()
        self.runs = 0
        self.ping: Any = 15

    def text(self, number: int) -> str:
        return f"{number} " * self.size

    async def numbers(self) -> AsyncIterator[int]:
        self.runs += 1
        for number in range(self.count):
            if number == self.held_at:
                await self.gate.passed()
            yield number

    async def raw(self) -> AsyncIterator[bytes]:
        async for number in self.numbers():
            # Every other one has an id of its own; a chunk ends in the middle of an event.
            own = f"id: own {number}\n" if number % 2 else ""
            yield f"data: {self.text(number)}\n{own}".encode()
            yield b"\n"

    async def classes(self) -> AsyncIterator[ServerSentEvent]:
        async for number in self.numbers():
            own = f"own {number}" if number % 2 else None
            yield ServerSentEvent(data=self.text(number), id=own)

    async def starlette(self, request: Request) -> Response:
        if self.form == "sse-starlette":
            # By itself, it says no-store.
            headers = {"cache-control": "max-age=60"}
            return EventSourceResponse(self.classes(), headers=headers, sep="\r\n", ping=self.ping)
        return StreamingResponse(self.raw(), headers=EVENTS)

    def app(self, cache: StreamCache) -> Any:
        decorate: Any = cache.cached(resume="event-id")
        if not self.form.startswith("fastapi"):
            endpoint = decorate(self.starlette)
            return Starlette(routes=[Route("/", endpoint, methods=["GET"])])
        sse: Any = importlib.import_module("fastapi.sse")

        async def events() -> AsyncIterator[Any]:
            async for number in self.numbers():
                own = f"own {number}" if number % 2 else None
                yield sse.ServerSentEvent(raw_data=self.text(number), id=own)

        app = FastAPI()
        if self.form == "fastapi":
            app.router.route_class = cache.Route
        app.get("/", response_class=sse.EventSourceResponse)(decorate(events))
        return app


FORMS = ["starlette", "sse-starlette"]
if tuple(map(int, fastapi_version.split(".")[:2])) >= (0, 135):
    FORMS += ["fastapi", "fastapi by the decorator alone"]


def numbers(response: RawResponse) -> list[int]:
    return [int(event.data.split()[0]) for event in parsed(response.body)]


def ids(response: RawResponse) -> list[str]:
    return [event.last_id for event in parsed(response.body)]


def after(sent: str) -> list[tuple[str, str]]:
    return [("Last-Event-ID", sent)]


def read_events(client: RawClient, count: int) -> None:
    while len(parsed(client.response.body)) < count:
        assert client.read_some()


@pytest.mark.matrix
@pytest.mark.parametrize("store", ["memory", "redis"])
@pytest.mark.parametrize("form", FORMS)
def test_a_client_goes_on_in_the_run_and_in_the_entry(
    form: str, store: str, serve: Serve, request: pytest.FixtureRequest, namespace: str
) -> None:
    url = "memory://" if store == "memory" else request.getfixturevalue("redis_url")
    world = World(form)
    server = serve(world.app(StreamCache(url, ttl=60, namespace=namespace)))
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.send()
        first.read_head()
        read_events(first, 3)
        had = ids(first.response)
        assert [each.partition(":")[2] for each in had] == ["", "own 1", ""]
        first.abort()
        # It has left, and comes back while the run goes on.
        second.send(headers=after(had[1]))
        second.read_head()
        read_events(second, 1)
        assert numbers(second.response) == [2]
        world.gate.open()
        assert numbers(second.read_rest()) == [2, 3, 4, 5]
        assert second.response.complete
    whole = fetch(server.port)
    assert whole.header("cache-status") == HIT
    if "alone" not in form:
        assert whole.header("content-length") == str(len(whole.body))
    assert numbers(whole) == [0, 1, 2, 3, 4, 5]
    assert ids(whole)[:3] == had
    for at, each in enumerate(ids(whole)):
        rest = fetch(server.port, headers=after(each))
        assert numbers(rest) == [0, 1, 2, 3, 4, 5][at + 1 :]
        for name in ("content-length", "etag", "accept-ranges"):
            assert rest.header(name) is None
        assert (rest.complete, rest.header("cache-status")) == (True, HIT)
    assert world.runs == 1


@pytest.mark.parametrize("form", [FORMS[0], FORMS[-1]])
def test_any_other_id_is_answered_from_the_start(form: str, serve: Serve) -> None:
    world = World(form)
    server = serve(world.app(StreamCache(ttl=60)))
    with RawClient(server.port) as first:
        first.send()
        first.read_head()
        read_events(first, 2)
        run, _, _ = ids(first.response)[0].partition(".")
        others = ["", "7", run, f"{run}.0", f"{run}.7", f"{run}.{'9' * 15}", "x" * 16 + ".1"]
        for each in others:
            with RawClient(server.port) as client:
                client.send(headers=after(each))
                client.read_head()
                read_events(client, 3)
                assert numbers(client.response) == [0, 1, 2]
        world.gate.open()
        assert first.read_rest().complete
    for each in [*others, "\xff", "y" * 5000]:
        found = fetch(server.port, headers=after(each))
        assert (found.body, found.complete) == (first.response.body, True)
    twice = [*after(f"{run}.1"), *after(f"{run}.2")]
    assert fetch(server.port, headers=twice).body == first.response.body
    assert world.runs == 1


@pytest.mark.parametrize("form", [FORMS[0], FORMS[-1]])
def test_the_events_of_another_run_are_sent_from_the_start(form: str, serve: Serve) -> None:
    world = World(form, held_at=-1)
    server = serve(world.app(cache := StreamCache(ttl=60)))
    old = ids(fetch(server.port))
    server.run(cache.clear())
    for _ in range(2):
        found = fetch(server.port, headers=after(old[3]))
        assert numbers(found) == [0, 1, 2, 3, 4, 5]
        assert not set(ids(found)) & set(old)
    assert world.runs == 2


@pytest.mark.parametrize("form", [FORMS[0], FORMS[-1]])
def test_another_process_goes_on_in_the_run(
    form: str, serve: Serve, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_cached.responses.live.EVENT_WITHIN", 0.3)
    monkeypatch.setattr("stream_cached.engine.item_stream.EVENT_WITHIN", 0.3)
    world = World(form)

    def app() -> Any:
        cache = StreamCache(redis_url, ttl=60, namespace=namespace, key_host=False)
        return world.app(cache)

    here, there = serve(app()), serve(app())
    with RawClient(here.port) as first, RawClient(there.port) as second:
        first.send()
        first.read_head()
        read_events(first, 3)
        second.send(headers=after(ids(first.response)[1]))
        second.read_head()
        read_events(second, 1)
        assert numbers(second.response) == [2]
        with RawClient(there.port) as other:
            run, _, _ = ids(first.response)[0].partition(".")
            other.send(headers=after(f"{run}.7"))
            other.read_head()
            read_events(other, 3)
            assert numbers(other.response) == [0, 1, 2]
        world.gate.open()
        assert numbers(second.read_rest()) == [2, 3, 4, 5]
    assert world.runs == 1


def test_who_leaves_before_the_event_is_not_answered_again(
    serve: Serve, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_cached.responses.live.EVENT_WITHIN", 30)
    looked: list[bytes] = []
    again: list[object] = []
    rest = AfterEvent.rest

    def noted(after: AfterEvent, chunk: bytes) -> bytes | None:
        looked.append(chunk)
        return rest(after, chunk)

    async def go_on(*given: object) -> None:
        again.append(given)

    monkeypatch.setattr(AfterEvent, "rest", noted)
    monkeypatch.setattr(Resumption, "go_on", go_on)
    world = World("starlette")
    here, there = (
        serve(world.app(StreamCache(redis_url, ttl=60, namespace=namespace, key_host=False)))
        for _ in range(2)
    )
    with RawClient(here.port) as first, RawClient(there.port) as second:
        first.send()
        first.read_head()
        read_events(first, 3)
        run, _, _ = ids(first.response)[0].partition(".")
        second.send(headers=after(f"{run}.7"))
        wait_until(lambda: looked)
        second.abort()
        wait_until(lambda: not there.requests_running)
        world.gate.open()
        assert first.read_rest().complete
    assert not again


def test_who_goes_on_gets_the_pings_that_come_then(serve: Serve) -> None:
    world = World("sse-starlette")
    world.ping = 0.05
    server = serve(world.app(StreamCache(ttl=60)))
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.send()
        first.read_head()
        read_events(first, 3)
        second.send(headers=after(ids(first.response)[2]))
        assert second.read_head().status == 200
        while b": ping" not in second.response.body:
            assert second.read_some()
        world.gate.open()
        assert numbers(second.read_rest()) == [3, 4, 5]


@pytest.mark.matrix
@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_a_large_body_is_read_to_the_event(replay: Any, serve: Serve, cache_url: str) -> None:
    world = World("starlette", count=30, held_at=-1, size=30_000)
    cache = StreamCache(cache_url, ttl=60, replay=replay)
    server = serve(world.app(cache))
    whole = fetch(server.port)
    assert len(whole.body) > 1_500_000
    for at in (0, 15, 28, 29):
        rest = fetch(server.port, headers=after(ids(whole)[at]))
        assert numbers(rest) == list(range(at + 1, 30))
        assert rest.complete
        assert whole.body.endswith(rest.body)


def test_head_and_what_is_no_event_stream_are_what_they_were(serve: Serve) -> None:
    async def text(request: Request) -> Response:
        return StreamingResponse(iter([b"data: a\n\n"]))

    async def packed(request: Request) -> Response:
        return StreamingResponse(iter([b"data: a\n\n"]), headers={**EVENTS, "content-length": "9"})

    async def nothing(request: Request) -> Response:
        return Response(status_code=204)

    decorate = stream_cached(ttl=60, resume="event-id")
    endpoints: list[Callable[..., Any]] = [text, packed, nothing]
    routes = [Route(f"/{each.__name__}", decorate(each)) for each in endpoints]
    world = World("starlette", held_at=-1)
    routes.append(Route("/events", decorate(world.starlette)))
    server = serve(Starlette(routes=routes))
    for path, body in (("/text", b"data: a\n\n"), ("/packed", b"data: a\n\n"), ("/nothing", b"")):
        assert [fetch(server.port, path, headers=after("7")).body for _ in range(2)] == [body] * 2
    whole = fetch(server.port, "/events")
    with RawClient(server.port) as client:
        head = client.request("HEAD", "/events", after(ids(whole)[2]))
    assert head.header("content-length") == str(len(whole.body))


def test_an_endpoint_that_reads_the_id_itself_is_not_shared(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def reading(request: Request) -> Response:
        last = request.headers.get("last-event-id", "none")
        return StreamingResponse(iter([f"data: {last}\n\n"]), headers=EVENTS)

    app = Starlette(routes=[Route("/", stream_cached(ttl=60, resume="event-id")(reading))])
    with TestClient(app) as client:
        found = [client.get("/", headers={"last-event-id": each}).text for each in "ab"]
    assert found == ["data: a\n\n", "data: b\n\n"]
    assert "last-event-id" in " ".join(warnings(caplog))


def test_what_can_not_go_together_is_refused() -> None:
    async def asking(last_event_id: Annotated[str | None, Header()] = None) -> Response:
        return Response()

    async def endpoint() -> Response:
        return Response()

    with pytest.raises(ConfigurationError, match="Last-Event-ID in its key"):
        stream_cached(resume="event-id")(asking)
    with pytest.raises(ConfigurationError, match="Last-Event-ID in its key"):
        stream_cached(resume="event-id", vary=("last-event-id",))(endpoint)
    with pytest.raises(ConfigurationError, match='pass True, False or "event-id"'):
        stream_cached(resume="event")  # type: ignore[arg-type]


# -- items that FastAPI renders -------------------------------------------------------------------

needs_events = pytest.mark.skipif("fastapi" not in FORMS, reason="this FastAPI sends no events")


@needs_events
def test_items_have_the_ids_that_bytes_have(namespace: str) -> None:
    """Those without data, with an empty id, with an id alone; and what the endpoint keeps."""
    sse: Any = importlib.import_module("fastapi.sse")
    made = [
        sse.ServerSentEvent(data=1),
        sse.ServerSentEvent(comment="nothing"),
        sse.ServerSentEvent(raw_data="", id="own: 1"),
        sse.ServerSentEvent(event="none", retry=5),
        sse.ServerSentEvent(id="alone"),
        sse.ServerSentEvent(data=None, id=""),
        sse.ServerSentEvent(raw_data="two\nlines", id=""),
        sse.ServerSentEvent(raw_data="last"),
    ]
    seen: list[str] = []
    for is_route in (False, True):
        cache, app = StreamCache("memory://?max_bytes=15MiB", ttl=60), FastAPI()
        if is_route:
            app.router.route_class = cache.Route

        @app.get("/", response_class=sse.EventSourceResponse)
        @cache.cached(resume="event-id", namespace=f"{namespace}{is_route}")
        async def events() -> AsyncIterator[sse.ServerSentEvent]:
            for event in made:
                yield event

        with TestClient(app) as client:
            live, stored = client.get("/").text, client.get("/").text
        assert live == stored
        run = parsed(live.encode())[0].last_id.partition(".")[0]
        seen.append("\n".join(sorted(live.replace(run, "run").split("\n"))))
    # FastAPI puts an id before the time for a new attempt, and bytes get theirs last.
    assert seen[0] == seen[1]
    assert [event.id for event in made] == [None, None, "own: 1", None, "alone", "", "", None]


@needs_events
def test_items_that_are_no_events_have_no_ids(caplog: pytest.LogCaptureFixture) -> None:
    sse: Any = importlib.import_module("fastapi.sse")
    app = FastAPI()

    @app.get("/events", response_class=sse.EventSourceResponse)
    @stream_cached(ttl=60, resume="event-id")
    async def events() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @app.get("/lines")
    @stream_cached(ttl=60, resume="event-id")
    async def lines() -> AsyncIterator[int]:
        yield 1

    with TestClient(app) as client:
        assert client.get("/events").text == client.get("/events").text
        assert "id:" not in client.get("/events").text
        assert client.get("/lines").text == "1\n"
    first, second = warnings(caplog)
    assert "ServerSentEvent(data=...)" in first
    assert "response_class=EventSourceResponse" in second
