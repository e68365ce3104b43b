"""What a dependency leaves on the Response or the BackgroundTasks, and the endpoint reads there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from stream_cached import BrokenStreamError, stream_cached
from tests.support.added import ADDED_BYTES
from tests.support.asgi import Exchange
from tests.support.runs import HIT, MISS

User = Annotated[str, Cookie()]
Read = Callable[[Response, BackgroundTasks], object]


def header(response: Response, user: User = "anon") -> None:
    response.headers["X-Tenant"] = user


def header_of_some(response: Response, user: User = "anon") -> None:
    if user != "anon":
        response.headers["X-Tenant"] = user


def cookie(response: Response, user: User = "anon") -> None:
    response.set_cookie("tenant", user)


def status(response: Response, user: User = "anon") -> None:
    response.status_code = 200 if user == "alice" else 203


def attribute(response: Response, user: User = "anon") -> None:
    response.tenant = user  # type: ignore[attr-defined]


def attribute_of_some(response: Response, user: User = "anon") -> None:
    if user == "alice":
        response.is_admin = True  # type: ignore[attr-defined]


def without_form(response: Response, user: User = "anon") -> None:
    response.context = Response(user)  # type: ignore[attr-defined]


def body(response: Response, user: User = "anon") -> None:
    response.body = user.encode()


def background(response: Response, user: User = "anon") -> None:
    response.background = BackgroundTask(str, user)


def task(tasks: BackgroundTasks, user: User = "anon") -> None:
    tasks.add_task(str, user)


def attribute_of_tasks(tasks: BackgroundTasks, user: User = "anon") -> None:
    tasks.owner = user  # type: ignore[attr-defined]


READS: dict[str, tuple[Callable[..., None], Read]] = {
    "a header": (header, lambda r, t: r.headers["x-tenant"]),
    "a list of headers": (header, lambda r, t: r.headers.getlist("X-Tenant")),
    "a header that may lack": (header_of_some, lambda r, t: r.headers.get("X-Tenant")),
    "whether it lacks": (header_of_some, lambda r, t: "x-tenant" in r.headers),
    "a default": (header_of_some, lambda r, t: r.headers.setdefault("X-Tenant", "none")),
    "all headers": (header, lambda r, t: dict(r.headers)),
    "the items": (header, lambda r, t: r.headers.items()),
    "the values": (header, lambda r, t: r.headers.values()),
    "a copy": (header, lambda r, t: r.headers.mutablecopy()),
    "a union": (header, lambda r, t: r.headers | {"x": "y"}),
    "equality": (header, lambda r, t: r.headers == Response(headers={"x-tenant": "bob"}).headers),
    "how many": (header_of_some, lambda r, t: len(r.headers)),
    "the raw headers": (header, lambda r, t: r.raw_headers),
    "the list of the headers": (header, lambda r, t: r.headers.raw),
    "the memo of the headers": (header, lambda r, t: dict(r._headers)),
    "the attributes": (header, lambda r, t: vars(r)["raw_headers"]),
    "a cookie": (cookie, lambda r, t: r.headers["set-cookie"]),
    "the status": (status, lambda r, t: r.status_code),
    "an attribute": (attribute, lambda r, t: r.tenant),  # type: ignore[attr-defined]
    "an attribute that may lack": (attribute_of_some, lambda r, t: hasattr(r, "is_admin")),
    "one without a form": (without_form, lambda r, t: r.context.body),  # type: ignore[attr-defined]
    "the body": (body, lambda r, t: bytes(r.body)),
    "the background task": (background, lambda r, t: r.background.args),  # type: ignore[union-attr]
    "the tasks": (task, lambda r, t: [each.args for each in t.tasks]),
    "the attributes of tasks": (task, lambda r, t: [each.args for each in vars(t)["tasks"]]),
    "an attribute of tasks": (attribute_of_tasks, lambda r, t: t.owner),  # type: ignore[attr-defined]
}


def at_once(read: Read) -> Callable[..., Any]:
    async def endpoint(response: Response, tasks: BackgroundTasks) -> StreamingResponse:
        return StreamingResponse(iter([str(read(response, tasks))]))

    return endpoint


def in_the_stream(read: Read) -> Callable[..., Any]:
    async def endpoint(response: Response, tasks: BackgroundTasks) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "read: "
            yield str(read(response, tasks))

        return StreamingResponse(chunks())

    return endpoint


def as_a_value(read: Read) -> Callable[..., Any]:
    def endpoint(response: Response, tasks: BackgroundTasks) -> dict[str, str]:
        return {"read": str(read(response, tasks))}

    return endpoint


def as_itself(read: Read) -> Callable[..., Any]:
    async def endpoint(response: Response, tasks: BackgroundTasks) -> Response:
        response.body = str(read(response, tasks)).encode()
        response.status_code = 200
        return response

    return endpoint


HOW = [at_once, in_the_stream, as_a_value, as_itself]


def app_of(endpoint: Callable[..., Any], *dependencies: Callable[..., object]) -> FastAPI:
    app = FastAPI()
    app.get("/", dependencies=[*map(Depends, dependencies)])(endpoint)
    return app


async def ask(app: FastAPI, user: str) -> Exchange:
    exchange = Exchange(app)
    if user != "anon":
        cookie_line = (b"cookie", f"user={user}".encode())
        exchange.scope["headers"] = [*exchange.scope["headers"], cookie_line]
    await exchange.run()
    return exchange


def shown(exchange: Exchange) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    head = exchange.sent[0]
    ours = ADDED_BYTES | {b"content-length"}
    fields = sorted(field for field in head["headers"] if field[0] not in ours)
    return head["status"], fields, exchange.body


@pytest.mark.matrix(one_store=True)
@pytest.mark.parametrize("order", [["alice", "bob", "anon"], ["anon", "alice", "bob"]])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", READS)
def test_nobody_is_given_what_another_ones_dependency_has_left(
    name: str, how: Callable[[Read], Callable[..., Any]], order: list[str], cache_url: str
) -> None:
    dependency, read = READS[name]
    endpoint = how(read)
    plain = app_of(endpoint, dependency)
    cached = app_of(stream_cached(ttl=60, cache=cache_url)(endpoint), dependency)

    async def test() -> None:
        wanted = {user: shown(await ask(plain, user)) for user in order}
        asked = [ask(cached, user) for user in order * 2]
        joined = await asyncio.gather(*asked, return_exceptions=True)
        for user, answer in zip(order * 2, joined, strict=True):
            # Who has joined a stream that turns out to be private is cut, visibly.
            if not isinstance(answer, BrokenStreamError):
                assert isinstance(answer, Exchange)
                assert shown(answer) == wanted[user]
        for user in order * 2:
            assert shown(await ask(cached, user)) == wanted[user]

    asyncio.run(test())


def test_headers_and_tasks_that_nobody_reads_cost_no_hit() -> None:
    left = itertools.count(100, -1)
    done: list[str] = []

    def limit(response: Response, tasks: BackgroundTasks, user: User = "anon") -> None:
        response.headers["X-RateLimit-Remaining"] = str(next(left))
        tasks.add_task(done.append, user)

    async def endpoint(response: Response, tasks: BackgroundTasks) -> dict[str, str]:
        response.headers["Cache-Control"] = "max-age=60"
        response.headers.append("X-Run", "1")
        response.headers.add_vary_header("Accept-Language")
        tasks.add_task(done.append, "run")
        return {"the": "report"}

    app = app_of(stream_cached(ttl=60)(endpoint), limit)

    async def test() -> None:
        answers = [await ask(app, user) for user in ("alice", "bob", "anon")]
        assert [each.cache_status for each in answers] == [MISS, HIT, HIT]
        headers = [dict(each.sent[0]["headers"]) for each in answers]
        assert [each[b"x-ratelimit-remaining"] for each in headers] == [b"100", b"99", b"98"]
        assert {each[b"cache-control"] for each in headers} == {b"max-age=60"}
        assert done == ["alice", "run", "bob", "anon"]

    asyncio.run(test())


def test_a_response_that_no_dependency_has_touched_may_be_read() -> None:
    async def endpoint(response: Response, tasks: BackgroundTasks) -> dict[str, Any]:
        response.headers["X-Own"] = "own"
        return {"own": response.headers["X-Own"], "all": str(dict(response.headers))}

    app = app_of(stream_cached(ttl=60)(endpoint))

    async def test() -> None:
        answers = [await ask(app, user) for user in ("alice", "bob")]
        assert [each.cache_status for each in answers] == [MISS, HIT]

    asyncio.run(test())


def test_what_may_be_read_of_them_can_be_said() -> None:
    endpoint = at_once(lambda response, tasks: (response.headers["x-tenant"], len(tasks.tasks)))
    words = ("response.x-tenant", "tasks")
    app = app_of(stream_cached(ttl=60, unguarded=words)(endpoint), header, task)

    async def test() -> None:
        answers = [await ask(app, user) for user in ("alice", "bob")]
        assert [each.cache_status for each in answers] == [MISS, HIT]

    asyncio.run(test())


def test_a_cached_helper_that_is_given_the_response_tells_the_endpoint() -> None:
    @stream_cached(ttl=60)
    async def helper(request: Request, response: Response) -> StreamingResponse:
        return StreamingResponse(iter([response.headers["x-tenant"]]))

    async def endpoint(request: Request, response: Response) -> StreamingResponse:
        return await helper(request, response)

    app = app_of(stream_cached(ttl=60)(endpoint), header)

    async def test() -> None:
        assert [(await ask(app, user)).body for user in ("alice", "bob")] == [b"alice", b"bob"]

    asyncio.run(test())
