"""A body that passes a limit is not stored, and is shared by those who ask meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.entries.resource import Resource
from tests.conftest import Serve
from tests.engine.test_collapse import Waiting
from tests.support.asgi import leave
from tests.support.gates import Gate, run, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.logs import warnings

CLIENTS = 6
MAX_BODY = 1000
PART = b"x" * 700


class World:
    """An endpoint whose runs send two parts, pass a gate, and send the last part."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.runs = 0
        self.gate, self.late = Gate(), Gate()
        self.late.open()
        self.seen: list[object] = []

    def looks(self, request: Request) -> object:
        return None

    async def chunks(self, request: Request) -> AsyncIterator[bytes]:
        await self.late.passed()
        yield PART
        yield PART
        await self.gate.passed()
        self.seen.append(self.looks(request))
        self.seen.append(await request.is_disconnected())
        yield b"the end"

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        return StreamingResponse(self.chunks(request), headers=self.headers)

    def app(self, cache: str, **settings: Any) -> Starlette:
        settings = {"max_body": MAX_BODY, "key_host": False, **settings}
        cached = stream_cached(ttl=60, cache=cache, **settings)(self.endpoint)
        return Starlette(routes=[Route("/", cached)])


WHOLE = PART + PART + b"the end"


def ask(stack: ExitStack, port: int, count: int) -> list[RawClient]:
    """Let clients ask, one after the other, who have more than may be stored."""
    clients = []
    for _ in range(count):
        clients.append(stack.enter_context(RawClient(port)))
        clients[-1].send()
        clients[-1].read_head()
        clients[-1].read_until(len(PART) * 2)
    return clients


def said(answer: RawResponse) -> str:
    return answer.header("Cache-Status") or ""


@pytest.mark.parametrize("headers", [{}, {"content_length": str(len(WHOLE))}], ids=["", "declared"])
def test_who_asks_meanwhile_joins(serve: Serve, cache_url: str, headers: dict[str, str]) -> None:
    world = World(**headers)
    server = serve(world.app(cache_url))
    for round_ in (1, 2):
        world.gate = Gate()
        with ExitStack() as stack:
            clients = ask(stack, server.port, CLIENTS)
            assert world.runs == round_
            world.gate.open()
            answers = [client.read_rest() for client in clients]
        assert [(each.body, each.complete) for each in answers] == [(WHOLE, True)] * CLIENTS
        assert ["collapsed" in said(each) for each in answers] == [False] + [True] * (CLIENTS - 1)
        is_known = round_ == 2 or bool(headers)
        assert ('detail="max-body"' in said(answers[0])) == is_known
    # None of it is stored.
    assert 'detail="max-body"' in said(fetch(server.port))
    assert world.runs == 3


def test_who_waits_for_the_first_chunk_is_served_also_past_max_duration(
    serve: Serve, cache_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.late = Gate()
    server = serve(world.app(cache_url, max_body="1MiB", max_duration=0.1, wait_timeout=9))
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(CLIENTS)]
        for client in clients:
            client.send()
            client.read_head()
        wait_until(lambda: any("max_duration=" in line for line in warnings(caplog)))
        world.late.open()
        world.gate.open()
        answers = [client.read_rest() for client in clients]
    assert [(each.body, each.complete) for each in answers] == [(WHOLE, True)] * CLIENTS
    assert world.runs == 1


def test_a_mark_is_not_renewed_by_those_who_heed_it(
    serve: Serve, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks, mark = [], Resource.mark_unstorable

    async def counted(resource: Resource, *args: Any) -> None:
        await mark(resource, *args)
        marks.append(args)

    monkeypatch.setattr(Resource, "mark_unstorable", counted)
    world = World()
    world.gate.open()
    server = serve(world.app(cache_url))
    assert fetch(server.port).body == WHOLE
    wait_until(lambda: marks)
    for _ in range(3):
        assert 'detail="max-body"' in said(fetch(server.port))
    assert len(marks) == 1


def test_who_comes_when_memory_has_lost_the_beginning_leads_a_run(
    serve: Serve, cache_url: str
) -> None:
    world = World()
    server = serve(world.app(cache_url, max_ahead=200))
    with ExitStack() as stack:
        clients = ask(stack, server.port, 3)
        world.gate.open()
        assert [client.read_rest().body for client in clients] == [WHOLE] * 3
    assert world.runs == 3


def test_who_joined_is_cut_where_the_end_is_for_one_client(serve: Serve, cache_url: str) -> None:
    world = World()
    world.looks = lambda request: request.cookies.get("name")  # type: ignore[method-assign]
    server = serve(world.app(cache_url))
    with ExitStack() as stack:
        first, *joined = ask(stack, server.port, 3)
        world.gate.open()
        answers = [client.read_rest() for client in (first, *joined)]
    assert [(each.body, each.complete) for each in answers] == [
        (WHOLE, True),
        (PART + PART, False),
        (PART + PART, False),
    ]


def test_the_endpoint_does_not_see_its_client_leave_while_others_read(
    serve: Serve, cache_url: str
) -> None:
    world = World()
    server = serve(world.app(cache_url))
    with ExitStack() as stack:
        first, joined = ask(stack, server.port, 2)
        first.abort()
        wait_until(lambda: server.connections == 1)
        world.gate.open()
        assert joined.read_rest().body == WHOLE
    assert world.seen == [None, False]


def test_those_who_waited_share_a_body_at_hand(serve: Serve, cache_url: str) -> None:
    reached, gate = Gate(), Gate()
    runs = 0

    async def endpoint(request: Request) -> Response:
        nonlocal runs
        runs += 1
        reached.open()
        await gate.passed()
        return Response(WHOLE)

    cached = stream_cached(ttl=60, cache=cache_url, max_body=MAX_BODY)(endpoint)
    server = serve(Starlette(routes=[Route("/", cached)]))
    waiting = Waiting(server.port, 1)
    reached.wait()
    others = Waiting(server.port, CLIENTS - 1)
    wait_until(lambda: server.requests_running == CLIENTS)
    gate.open()
    answers = [*waiting.answers(), *others.answers()]
    assert [each.body for each in answers] == [WHOLE] * CLIENTS
    # Where the store is asked, some may ask only now.
    assert runs < CLIENTS


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_in_another_process_one_leads_and_its_neighbours_join(
    request: pytest.FixtureRequest, serve: Serve, namespace: str, kind: str
) -> None:
    url = f"{request.getfixturevalue(f'{kind}_url')}?timeout=5"
    world = World()
    servers = [serve(world.app(url, namespace=namespace)) for _ in range(2)]
    with ExitStack() as stack:
        clients = [client for server in servers for client in ask(stack, server.port, 3)]
        world.gate.open()
        answers = [client.read_rest() for client in clients]
    assert [(each.body, each.complete) for each in answers] == [(WHOLE, True)] * 6
    assert world.runs == 2


def test_no_timer_is_left_of_a_run_that_is_given_up(cache_url: str) -> None:
    world = World(content_length=str(len(WHOLE)))
    app = world.app(cache_url, on_disconnect="stop")

    async def test() -> None:
        await leave(app)
        loop: Any = asyncio.get_running_loop()
        timers = [each.when() - loop.time() for each in loop._scheduled if not each.cancelled()]
        # That of `max_duration` would be due in ten minutes.
        assert not [seconds for seconds in timers if seconds > 100]

    run(test)


def test_who_comes_after_an_invalidation_leads_a_run(serve: Serve, cache_url: str) -> None:
    world = World()
    cached = stream_cached(ttl=60, cache=cache_url, max_body=MAX_BODY, max_ahead=200)
    endpoint = cached(world.endpoint)
    server = serve(Starlette(routes=[Route("/", endpoint)]))
    with ExitStack() as stack:
        # Memory no longer holds the beginning of this one.
        ask(stack, server.port, 1)
        assert server.run(endpoint.invalidate())
        late = ask(stack, server.port, 1)
        world.gate.open()
        assert late[0].read_rest().body == WHOLE
    assert world.runs == 2
