"""Responses that say themselves for how long they are fresh, and requests that have wishes."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi import Response as Injected
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import ConfigurationError, bypass, freshness, stream_cached
from stream_cached.engine import answer as way
from stream_cached.engine import lookup
from stream_cached.testing import CacheUnderTest
from tests.conftest import Serve
from tests.support.clock import Clock
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.runs import HeldRuns
from tests.support.versions import streams_generators

HIT = "stream-cached; hit"
MISS = "stream-cached; fwd=uri-miss; stored"


class Pages:
    """An endpoint that counts its runs, and whose next answer a test chooses."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.status, self.runs, self.raises = 200, 0, False
        self.mark: Callable[[Any], None] | None = None

    async def __call__(self, request: Request) -> Response:
        self.runs += 1
        if self.raises:
            raise HTTPException(502)
        run = self.runs

        async def body() -> AsyncIterator[bytes]:
            yield b"run "
            yield b"%d" % run

        response = StreamingResponse(body(), self.status, headers=self.headers)
        if self.mark is not None:
            self.mark(response)
        return response

    def port(self, serve: Serve, **settings: Any) -> int:
        cached = stream_cached(**{"ttl": "response", **settings})
        return serve(Starlette(routes=[Route("/", cached(self.__call__))])).port


def told(answer: RawResponse) -> str:
    return answer.header("Cache-Status") or ""


def is_hit(answer: RawResponse) -> bool:
    return told(answer).startswith(HIT)


def test_a_response_is_stored_by_its_own_words(serve: Serve, cache_url: str, clock: Clock) -> None:
    pages = Pages(Cache_Control="max-age=60", Age="10")
    port = pages.port(serve, cache=cache_url)
    assert told(fetch(port)) == MISS
    clock.passed = 20
    hit = fetch(port)
    assert told(hit) in (f"{HIT}; ttl=29", f"{HIT}; ttl=30")
    assert hit.header("Age") in ("30", "31")
    clock.passed = 51
    assert told(fetch(port)) == "stream-cached; fwd=stale; stored"


def test_any_final_status_is_stored_that_is_fresh(serve: Serve) -> None:
    pages = Pages(Cache_Control="max-age=60")
    pages.status = 503
    port = pages.port(serve)
    assert [told(fetch(port)), is_hit(fetch(port))] == [MISS, True]
    port = pages.port(serve, statuses=(200,))
    assert told(fetch(port)) == 'stream-cached; fwd=uri-miss; detail="status"'


@pytest.mark.parametrize("store", ["memory://", "redis"])
def test_a_window_of_the_response_itself(
    serve: Serve, store: str, redis_url: str, clock: Clock
) -> None:
    pages = Pages(Cache_Control="max-age=60, stale-while-revalidate=30")
    port = pages.port(serve, cache=redis_url if store == "redis" else store)
    fetch(port)
    clock.passed = 80
    assert fetch(port).body == b"run 1"
    wait_until(lambda: fetch(port).body == b"run 2")
    clock.passed = 80 + 91
    assert fetch(port).body == b"run 3"


@pytest.mark.parametrize(
    ("directives", "fails", "seconds", "is_stale"),
    [
        ("max-age=60", "raises", 30, True),
        ("max-age=60", "raises", 70, False),
        ("max-age=60", "answers", 30, False),
        ("max-age=60, stale-if-error=20", "answers", 10, True),
        ("max-age=60, stale-if-error=20", "answers", 30, False),
        ("max-age=60, stale-if-error=0", "raises", 10, False),
        ("max-age=60, stale-if-error", "raises", 10, False),
        ("max-age=60, must-revalidate, stale-if-error=20", "raises", 10, False),
        ("max-age=60, proxy-revalidate", "raises", 10, False),
        ("s-maxage=60", "raises", 10, False),
    ],
)
def test_a_stale_response_where_the_endpoint_fails(
    serve: Serve,
    stream_cache: CacheUnderTest,
    directives: str,
    fails: str,
    seconds: int,
    is_stale: bool,
) -> None:
    pages = Pages(Cache_Control=directives)
    port = pages.port(serve)
    fetch(port)
    stream_cache.travel(60 + seconds)
    pages.raises, pages.status = fails == "raises", 503
    assert (fetch(port).body == b"run 1") is is_stale
    assert pages.runs == 2


def test_a_bare_directive_is_ignored(serve: Serve, stream_cache: CacheUnderTest) -> None:
    pages = Pages(Cache_Control="max-age=60, stale-while-revalidate")
    port = pages.port(serve, stale_while_revalidate=30)
    fetch(port)
    stream_cache.travel(70)
    assert fetch(port).body == b"run 1"


def test_a_hit_says_for_how_long_it_was_fresh_at_first(serve: Serve) -> None:
    pages = Pages(Expires=formatdate(time.time() + 60, usegmt=True))
    port = pages.port(serve)
    assert fetch(port).header("Cache-Control") is None
    assert fetch(port).header("Cache-Control") in ("max-age=59", "max-age=60")


def test_fields_that_are_not_for_others_are_left_out(serve: Serve) -> None:
    pages = Pages(Cache_Control='max-age=60, private="x-user", no-cache="x-time"', X_User="alice")
    pages.headers |= {"x-time": "now", "x-kept": "yes"}
    port = pages.port(serve)
    miss, hit = fetch(port), fetch(port)
    assert (miss.header("x-user"), miss.header("x-time")) == ("alice", "now")
    assert is_hit(hit)
    assert [hit.header(name) for name in ("x-user", "x-time", "x-kept")] == [None, None, "yes"]


@pytest.mark.parametrize("store", ["memory://", "redis"])
def test_fields_that_are_not_for_others_are_not_sent_to_those_who_join(
    serve: Serve, redis_url: str, apps_are_processes: None, store: str
) -> None:
    runs = HeldRuns(headers={"Cache-Control": 'max-age=60, private="x-user"', "X-User": "alice"})
    url = redis_url if store == "redis" else store
    server = serve(runs.app(url, ttl="response"))
    with RawClient(server.port) as first, RawClient(server.port) as second:
        for client in (first, second):
            client.send()
            client.read_head()
        users = [each.response.header("x-user") for each in (first, second)]
        runs.gate.open()
        answers = [each.read_rest() for each in (first, second)]
    assert users == ["alice", None]
    assert told(answers[1]) == "stream-cached; fwd=uri-miss; collapsed"
    assert [answer.body for answer in answers] == runs.bodies * 2


def test_the_endpoints_word_that_all_may_have_it(serve: Serve) -> None:
    async def endpoint(request: Request) -> Response:
        directives = request.headers["x-directives"]
        return PlainTextResponse("all", headers={"Cache-Control": directives, "App": directives})

    def is_shared(directives: str, **settings: Any) -> bool:
        cached = stream_cached(**{"ttl": "response", **settings})(endpoint)
        port = serve(Starlette(routes=[Route("/", cached)])).port
        return is_hit([fetch(port, headers={"X-Directives": directives}) for _ in "12"][1])

    assert is_shared("public, max-age=60")
    assert is_shared("s-maxage=60")
    assert not is_shared("max-age=60")
    assert is_shared("max-age=60", targets=("App",))
    assert not is_shared("public, max-age=60", ttl=60)
    assert is_shared("max-age=60", unguarded=("headers",))


# -- what clients are sent ------------------------------------------------------------------------


def test_a_field_for_this_cache_alone(serve: Serve) -> None:
    pages = Pages(App_Cache_Control="max-age=60", CDN_Cache_Control="max-age=5")
    pages.headers["Cache-Control"] = "no-store"
    port = pages.port(serve, targets=("App-Cache-Control",))
    answers = [fetch(port) for _ in range(2)]
    assert [is_hit(answer) for answer in answers] == [False, True]
    for answer in answers:
        assert answer.header("App-Cache-Control") is None
        assert answer.header("CDN-Cache-Control") == "max-age=5"
        assert answer.header("Cache-Control") == "no-store"
    pages.headers["App-Cache-Control"] = "no-store"
    pages.headers["Cache-Control"] = "max-age=60"
    port = pages.port(serve, targets=("App-Cache-Control",))
    assert [is_hit(fetch(port)) for _ in range(2)] == [False, False]


def test_what_clients_are_told_instead(serve: Serve) -> None:
    made = formatdate(time.time() - 120, usegmt=True)
    pages = Pages(Cache_Control="max-age=600", Age="3", Expires="0", Date=made)
    port = pages.port(serve, client_cache_control="max-age=5")
    for _ in range(2):
        answer = fetch(port)
        shown = [answer.header(name) for name in ("Cache-Control", "Age", "Expires")]
        assert shown == ["max-age=5", None, None]
        # To a client, a response with this Date would be two minutes old.
        assert made.encode() not in [value for _, value in answer.headers]
    for name, value in (("Cache-Control", "private"), ("Set-Cookie", "a=b")):
        pages = Pages(**{"Cache_Control": "max-age=600", name.replace("-", "_"): value})
        answer = fetch(pages.port(serve, client_cache_control="max-age=5"))
        assert answer.header("Cache-Control") == pages.headers["Cache-Control"]
    pages = Pages(Cache_Control="max-age=600")
    pages.status = 404
    answer = fetch(pages.port(serve, statuses=(200,), client_cache_control="max-age=5"))
    assert answer.header("Cache-Control") == "max-age=600"


def test_one_response_is_kept_out(serve: Serve) -> None:
    pages = Pages(Cache_Control="max-age=60")
    pages.mark = bypass
    port = pages.port(serve)
    answer = fetch(port)
    assert told(answer) == 'stream-cached; fwd=uri-miss; detail="kept-out"'
    assert answer.header("Cache-Control") == "max-age=60"
    pages.mark = None
    assert [told(fetch(port)), is_hit(fetch(port))] == [MISS, True]


def test_a_value_is_kept_out_by_the_response_of_fastapi(serve: Serve) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60)
    async def page(response: Injected) -> str:
        bypass(response)
        return "page"

    port = serve(app).port
    for _ in range(2):
        assert told(fetch(port)) == 'stream-cached; fwd=uri-miss; detail="kept-out"'


def test_freshness_in_a_function_for_the_ttl(serve: Serve) -> None:
    assert freshness(Response(headers={"Cache-Control": "max-age=60"})) == pytest.approx(60, abs=1)
    assert freshness(Response(headers={"Cache-Control": "max-age=60, private"})) == 0
    assert freshness(Response()) == 0
    assert freshness("no response") == 0
    pages = Pages(Cache_Control="max-age=60")
    for ttl in (freshness, lambda response: freshness(response) / 2):
        port = pages.port(serve, ttl=ttl)
        assert [told(fetch(port)), is_hit(fetch(port))] == [MISS, True]


@pytest.mark.parametrize(
    "settings",
    [
        {"heuristic": 2},
        {"heuristic": True},
        {"ttl": 60, "heuristic": 0.1},
        {"honor_request": "yes"},
        {"targets": "App-Cache-Control"},
        {"targets": ("Cache-Control",)},
        {"targets": ("a b",)},
        {"client_cache_control": "a\r\nb"},
        {"etag": "strong"},
    ],
)
def test_what_is_no_setting_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(name for name in settings if name != "ttl")):
        stream_cached(**{"ttl": "response", **settings})


# -- what requests want ---------------------------------------------------------------------------


def wanting(port: int, directives: str) -> RawResponse:
    return fetch(port, headers={"Cache-Control": directives})


def test_wishes_that_cost_a_run_count_where_they_are_honoured(serve: Serve) -> None:
    for settings, expected in (
        ({}, [False] * 3),
        ({"honor_request": True}, [True] * 3),
        ({"honor_request": lambda request: "x-admin" in request.headers}, [False] * 3),
        ({"honor_request": lambda request: 1 / 0}, [False] * 3),
    ):
        pages = Pages(Cache_Control="max-age=60")
        port = pages.port(serve, **settings)
        fetch(port)
        asked = [{"Cache-Control": "no-cache"}, {"Pragma": "no-cache"}]
        asked.append({"Cache-Control": "min-fresh=100"})
        again = [told(fetch(port, headers=each)) for each in asked]
        fwd = "stream-cached; fwd=request; stored"
        assert [each == fwd for each in again] == expected, settings


def test_a_response_that_is_too_old_for_a_request(serve: Serve, clock: Clock) -> None:
    pages = Pages(Cache_Control="max-age=60")
    port = pages.port(serve, honor_request=True)
    fetch(port)
    clock.passed = 30
    assert is_hit(wanting(port, "max-age=40"))
    assert is_hit(wanting(port, "min-fresh=10"))
    assert told(wanting(port, "max-age=20")) == "stream-cached; fwd=request; stored"
    clock.passed = 85
    assert told(wanting(port, "min-fresh=10")) == "stream-cached; fwd=request; stored"


@pytest.mark.parametrize(
    ("directives", "wish", "is_served"),
    [
        ("max-age=60", "max-stale", True),
        ("max-age=60", "max-stale=20", True),
        ("max-age=60", "max-stale=5", False),
        ("max-age=60", "max-stale=20, max-stale=5", False),
        ("max-age=60", "max-stale, min-fresh=0", False),
        ("max-age=60, stale-while-revalidate=20", "max-age=100", True),
        ("max-age=60, stale-while-revalidate=20", "min-fresh=5", False),
        ("max-age=60, stale-while-revalidate=20", "min-fresh=0", False),
        ("max-age=60, must-revalidate", "max-stale", False),
        ("s-maxage=60", "max-stale", False),
    ],
)
def test_a_stale_response_that_is_welcome(
    serve: Serve, clock: Clock, directives: str, wish: str, is_served: bool
) -> None:
    pages = Pages(Cache_Control=directives)
    port = pages.port(serve, honor_request=True)
    fetch(port)
    clock.passed = 70
    assert (wanting(port, wish).body == b"run 1") is is_served


@pytest.mark.parametrize("honor_request", [False, True])
def test_only_if_cached(serve: Serve, honor_request: bool) -> None:
    pages = Pages(Cache_Control="max-age=60")
    port = pages.port(serve, honor_request=honor_request)
    answer = wanting(port, "only-if-cached")
    assert (answer.status, answer.body, pages.runs) == (504, b"", 0)
    assert told(answer) == 'stream-cached; detail="only-if-cached"'
    fetch(port)
    assert is_hit(wanting(port, "only-if-cached"))


def test_only_if_cached_where_nothing_can_be_cached(serve: Serve) -> None:
    app, runs = FastAPI(), []

    @app.get("/")
    @stream_cached(ttl=60)
    async def page(one: Annotated[object, Depends(object)]) -> str:
        runs.append(one)
        return "page"

    port = serve(app).port
    assert wanting(port, "only-if-cached").status == 504
    assert runs == []
    assert fetch(port).status == 200


@streams_generators
def test_only_if_cached_for_the_items_of_a_generator(serve: Serve) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60)
    async def rows() -> AsyncIterator[int]:
        yield 1

    port = serve(app).port
    assert wanting(port, "only-if-cached").status == 504
    fetch(port)
    assert wanting(port, "only-if-cached").status == 200


def test_only_if_cached_where_what_is_cached_is_a_part_of_the_answer(serve: Serve) -> None:
    app = FastAPI()

    @stream_cached(ttl=60)
    async def rows(request: Request) -> list[int]:
        return [1, 2]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def count(*args: Any, **kwargs: Any) -> int:
            return len(await function(*args, **kwargs))

        return count

    @app.get("/helper")
    async def helper(request: Request) -> int:
        return len(await rows(request))

    depends = Depends(rows)

    @app.get("/dependency")
    async def dependency(found: list[int] = depends) -> int:
        return len(found)

    @app.get("/decorated", response_model=None)
    @counted
    @stream_cached(ttl=60)
    async def decorated(request: Request) -> list[int]:
        return [1, 2]

    port = serve(app).port
    for path in ("/helper", "/dependency", "/decorated"):
        wish = {"Cache-Control": "only-if-cached"}
        answer = fetch(port, path, headers=wish)
        assert (answer.status, told(answer)) == (504, 'stream-cached; detail="only-if-cached"')
        fetch(port, path)
        assert fetch(port, path, headers=wish).body == b"2"


def test_the_answer_to_a_request_that_says_no_store(serve: Serve) -> None:
    pages = Pages(Cache_Control="max-age=60")
    port = pages.port(serve)
    for _ in range(2):
        assert told(wanting(port, "no-store")) == "stream-cached; fwd=uri-miss"
    fetch(port)
    assert is_hit(wanting(port, "no-store"))


def test_a_request_that_wants_a_new_answer_joins_no_run_that_began_before(serve: Serve) -> None:
    runs = HeldRuns(headers={"Cache-Control": "max-age=60"})
    server = serve(runs.app("memory://", ttl="response", honor_request=True))
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(fetch, server.port)
        runs.reached.wait()
        new = wanting(server.port, "no-cache")
        assert (new.body, told(new)) == (runs.bodies[1], "stream-cached; fwd=request; stored")
        runs.gate.open()
        assert held.result().body == runs.bodies[0]


def test_a_request_that_wants_a_new_answer_joins_a_run_that_began_after_it_came(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, goes_on, look_up = Gate(), Gate(), lookup.first_look

    async def held_look_up(call: Any) -> Any:
        if call.wishes.no_cache and not came.is_open:
            came.open()
            await goes_on.passed()
        return await look_up(call)

    monkeypatch.setattr(way, "first_look", held_look_up)
    runs = HeldRuns(headers={"Cache-Control": "max-age=60"})
    port = serve(runs.app("memory://", ttl="response", honor_request=True)).port
    with RawClient(port) as wants_new, RawClient(port) as first:
        wants_new.send(headers={"Cache-Control": "no-cache"})
        came.wait()
        first.send()
        runs.reached.wait()
        goes_on.open()
        wants_new.read_head()
        first.read_head()
        runs.gate.open()
        answers = [each.read_rest() for each in (wants_new, first)]
    assert [answer.body for answer in answers] == runs.bodies * 2
    assert told(answers[0]) == "stream-cached; fwd=uri-miss; collapsed"
