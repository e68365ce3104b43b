"""What wraps a cached endpoint takes effect once, on its caller only; switches and invalidation."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.proxy import DelayProxy
from tests.support.runs import HIT, MISS, HeldRuns, Runs
from tests.support.servers import RedisServer

Wrapped = Callable[[Request], Awaitable[Response]]


def small(**settings: Any) -> Runs:
    return Runs(3, 10, **settings)


def serve_wrapped(
    serve: Serve, cache: str, runs: Runs, wrap: Callable[[Wrapped], Wrapped], **settings: Any
) -> int:
    cached = stream_cached(**{"ttl": 60, "cache": cache, **settings})(runs.__call__)
    return serve(Starlette(routes=[Route("/", wrap(cached))])).port


def suffixed(cached: Wrapped) -> Wrapped:
    async def wrapper(request: Request) -> Response:
        response = await cached(request)
        assert isinstance(response, StreamingResponse)
        iterator = response.body_iterator

        async def longer() -> AsyncIterator[Any]:
            async for chunk in iterator:
                yield chunk
            yield b"!"

        response.body_iterator = longer()
        return response

    return wrapper


@pytest.mark.parametrize("replay", ["fast", "exact"])
@pytest.mark.parametrize("chunks", [1, 10])
def test_a_wrapper_that_replaces_the_body_does_so_once(
    serve: Serve, cache_url: str, replay: str, chunks: int
) -> None:
    runs = Runs(chunks)
    port = serve_wrapped(serve, cache_url, runs, suffixed, replay=replay)
    answers = [fetch(port) for _ in range(4)]
    assert all(answer.complete for answer in answers)
    assert {answer.body for answer in answers} == {runs.bodies[0] + b"!"}
    assert len(runs.bodies) == 1


def test_a_wrapper_that_changes_headers_does_so_once_and_on_its_caller_only(
    serve: Serve, cache_url: str
) -> None:
    def wrap(cached: Wrapped) -> Wrapped:
        async def wrapper(request: Request) -> Response:
            response = await cached(request)
            response.headers.append("X-Caller", request.query_params["n"])
            response.headers["X-Set"] = request.query_params["n"]
            del response.headers["X-Inner"]
            response.set_cookie("caller", request.query_params["n"])
            return response

        return wrapper

    runs = small(headers={"X-Inner": "1", "X-Kept": "1"})
    port = serve_wrapped(serve, cache_url, runs, wrap, key="one")
    for number in range(4):
        answer = fetch(port, f"/?n={number}")
        assert answer.header_values("X-Caller") == [str(number)]
        assert answer.header_values("X-Set") == [str(number)]
        assert answer.header_values("X-Inner") == []
        assert answer.header_values("X-Kept") == ["1"]
        assert answer.header_values("Set-Cookie") == [f"caller={number}; Path=/; SameSite=lax"]
    assert len(runs.bodies) == 1


def test_a_middleware_that_changes_headers_does_so_once(serve: Serve, cache_url: str) -> None:
    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers.append("X-Seen", "1")
        return response

    cached = stream_cached(ttl=60, cache=cache_url)(small().__call__)
    app = Starlette(
        routes=[Route("/", cached)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch)]
    )
    port = serve(app).port
    assert [fetch(port).header_values("X-Seen") for _ in range(3)] == [["1"]] * 3


# -- switches -------------------------------------------------------------------------------------


@pytest.fixture
def switched(serve: Serve, cache_url: str) -> Callable[..., RawResponse]:
    """Ask with the call's switches in the query."""

    def wrap(cached: Any) -> Wrapped:
        async def wrapper(request: Request) -> Response:
            switches = {name: value == "1" for name, value in request.query_params.items()}
            response: Response = await cached(request, **switches)
            return response

        return wrapper

    port = serve_wrapped(serve, cache_url, small(), wrap, key="one")
    return lambda **switches: fetch(port, "/?" + "&".join(f"{k}={v}" for k, v in switches.items()))


def test_cache_read_false_runs_and_stores(switched: Callable[..., RawResponse]) -> None:
    first = switched()
    fresh = switched(cache_read=0)
    assert fresh.header("Cache-Status") == "stream-cached; fwd=request; stored"
    assert fresh.body != first.body
    assert switched().body == fresh.body


def test_cache_write_false_runs_and_does_not_store(switched: Callable[..., RawResponse]) -> None:
    assert switched(cache_write=0).header("Cache-Status") == "stream-cached; fwd=uri-miss"
    assert switched().header("Cache-Status") == MISS
    assert switched(cache_write=0).header("Cache-Status") == HIT


@pytest.mark.parametrize("wait", [0, 1])
def test_a_write_that_is_not_waited_for_is_done_all_the_same(
    switched: Callable[..., RawResponse], wait: int
) -> None:
    switched(aiocache_wait_for_write=wait)
    wait_until(lambda: switched(cache_write=0).header("Cache-Status") == HIT)


def test_aiocache_disable_switches_everything_off(
    serve: Serve, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small()
    port = serve(runs.app(cache_url)).port
    fetch(port)
    monkeypatch.setenv("AIOCACHE_DISABLE", "1")
    detail = 'stream-cached; fwd=bypass; detail="switched-off"'
    assert [fetch(port).header("Cache-Status") for _ in range(2)] == [detail] * 2
    monkeypatch.delenv("AIOCACHE_DISABLE")
    assert fetch(port).body == runs.bodies[0]
    assert len(runs.bodies) == 3


def test_skip_cache_func_decides_on_the_response(serve: Serve, cache_url: str) -> None:
    runs = small()
    skip = iter([True, False])
    port = serve(runs.app(cache_url, skip_cache_func=lambda response: next(skip))).port
    skipped, stored, hit = fetch(port), fetch(port), fetch(port)
    detail = 'stream-cached; fwd=uri-miss; detail="skip-cache-func"'
    assert skipped.header("Cache-Status") == detail
    assert (stored.body, hit.body) == (runs.bodies[1], runs.bodies[1])


# -- invalidation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [1, 10])
@pytest.mark.parametrize("vary", [{}, {"Vary": "Accept"}])
def test_invalidate_ends_all_responses_of_an_endpoint_and_of_no_other(
    serve: Serve, cache_url: str, chunks: int, vary: dict[str, str]
) -> None:
    runs, others = Runs(chunks, headers=vary), small()
    cached = stream_cached(ttl=60, cache=cache_url)(runs.__call__)

    @stream_cached(ttl=60, cache=cache_url)
    async def other(request: Request) -> Response:
        return await others(request)

    server = serve(Starlette(routes=[Route("/", cached), Route("/other", other)]))
    before = [fetch(server.port, target).body for target in ("/", "/?b", "/other")]
    server.run(cached.invalidate())
    after = [fetch(server.port, target).body for target in ("/", "/?b", "/other")]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]
    assert [fetch(server.port, target).body for target in ("/", "/?b", "/other")] == after


def test_invalidate_of_a_key_ends_that_one_only(serve: Serve, cache_url: str) -> None:
    runs = small()
    cached = stream_cached(
        ttl=60, cache=cache_url, key_builder=lambda f, request: request.url.query
    )(runs.__call__)
    server = serve(Starlette(routes=[Route("/", cached)]))
    before = [fetch(server.port, f"/?{key}").body for key in "ab"]
    server.run(cached.invalidate(key="a"))
    after = [fetch(server.port, f"/?{key}").body for key in "ab"]
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("key", [None, "fixed"])
def test_a_run_that_began_before_an_invalidation_is_not_published(
    serve: Serve, cache_url: str, key: str | None
) -> None:
    runs = HeldRuns()
    cached = stream_cached(ttl=60, cache=cache_url, key="fixed")(runs.__call__)
    server = serve(Starlette(routes=[Route("/", cached)]))
    with RawClient(server.port) as client:
        client.send()
        runs.reached.wait()
        server.run(cached.invalidate(key=key))
        fresh = fetch(server.port)
        runs.gate.open()
        assert client.read_all().body == runs.bodies[0]
    wait_until(lambda: server.requests_running == 0)
    assert fresh.body == runs.bodies[1]
    assert fetch(server.port).body == runs.bodies[1]


# -- where endpoints live --------------------------------------------------------------------------


def test_class_based_endpoints_routers_and_plain_functions(serve: Serve, cache_url: str) -> None:
    numbers = itertools.count()

    class Page(HTTPEndpoint):
        @stream_cached(ttl=60, cache=cache_url)
        async def get(self, request: Request) -> Response:
            return Response(f"page {next(numbers)}")

    class Service:
        @stream_cached(ttl=60, cache=cache_url, noself=True)
        async def rows(self, n: int = 0) -> Response:
            await asyncio.sleep(0)
            return Response(f"service {n} {next(numbers)}")

    router = APIRouter(prefix="/api")

    @router.get("/plain/{n}")
    @stream_cached(ttl=60, cache=cache_url)
    def plain(n: int) -> Response:
        return Response(f"plain {n} {next(numbers)}")

    router.add_api_route("/one", Service().rows)
    router.add_api_route("/two", Service().rows)
    app = FastAPI()
    app.include_router(router)
    app.router.routes.append(Route("/page", Page))
    port = serve(app).port

    targets = ["/page", "/api/plain/1", "/api/plain/2", "/api/one?n=5", "/api/two?n=5"]
    misses = [fetch(port, target) for target in targets]
    hits = [fetch(port, target) for target in targets]
    assert [answer.status for answer in misses] == [200] * 5
    assert len({answer.body for answer in misses}) == 5
    assert [answer.body for answer in hits] == [answer.body for answer in misses]
    assert {answer.header("Cache-Status") for answer in hits} == {HIT}


# -- what a wrapper meets --------------------------------------------------------------------------


def test_the_last_byte_of_a_replaced_body_waits_for_a_slow_store_too(
    serve: Serve, redis_server: RedisServer, redis_url: str, namespace: str
) -> None:
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter([b"abc"] * 3), headers={"Content-Length": "9"})

    async def upper(request: Request) -> Response:
        response: Response = await cached(request)
        assert isinstance(response, StreamingResponse)
        iterator = response.body_iterator

        async def louder() -> AsyncIterator[bytes]:
            async for chunk in iterator:
                yield bytes(chunk).upper()  # type: ignore[arg-type]

        response.body_iterator = louder()
        return response

    with DelayProxy(redis_server.port, delay=0.02) as proxy:
        cached = stream_cached(ttl=60, cache=proxy.url(namespace=namespace))(endpoint)
        port = serve(Starlette(routes=[Route("/{number}", upper)])).port
        for number in range(10):
            answers = [fetch(port, f"/{number}") for _ in range(2)]
            assert [answer.body for answer in answers] == [b"ABCABCABC"] * 2
            assert [answer.header("Cache-Status") for answer in answers] == [MISS, HIT]


class Page(HTMLResponse):
    """Sends in a way of its own, as a template's response does, and has its body at hand."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


def test_a_wrapper_sees_the_body_of_a_response_that_has_it_at_hand(
    serve: Serve, cache_url: str
) -> None:
    runs = itertools.count()

    @stream_cached(ttl=60, cache=cache_url)
    async def page(request: Request) -> Response:
        return Page(f"<b>{next(runs)}</b>")

    async def wrapper(request: Request) -> Response:
        response: Response = await page(request)
        response.headers["X-Body"] = bytes(response.body).decode()
        return response

    port = serve(Starlette(routes=[Route("/", wrapper)])).port
    miss, hit = fetch(port), fetch(port)
    assert [miss.header("Cache-Status"), hit.header("Cache-Status")] == [MISS, HIT]
    assert miss.body == hit.body == b"<b>0</b>"
    assert miss.header("X-Body") == hit.header("X-Body") == "<b>0</b>"
    assert miss.header("Content-Type") == hit.header("Content-Type")


def test_a_decorator_answers_with_a_method_that_it_was_given() -> None:
    """As tests do, and wrappers of aiocache's decorators."""
    decorate: Any = stream_cached(ttl=60)
    own = decorate.decorator

    async def counted(function: Any, *args: Any, **kwargs: Any) -> Any:
        return "counted", await own(function, *args, **kwargs)

    decorate.decorator = counted

    async def endpoint() -> str:
        return "the answer"

    assert asyncio.run(decorate(endpoint)()) == ("counted", "the answer")
