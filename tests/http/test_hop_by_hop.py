"""The fields of one connection are for its client alone, and an Age grows in the cache."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Set

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from stream_cached.http.freshness import aged
from stream_cached.http.headers import end_to_end
from tests.conftest import Serve
from tests.engine.test_collapse import COLLAPSED, Waiting
from tests.responses.test_resumption import Reruns, large_body, lose_a_segment_under_a_hit
from tests.support.added import ADDED
from tests.support.clock import Clock
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawResponse, fetch
from tests.support.servers import RedisServer

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"
STALE = "stream-cached; hit; ttl=-1"
BODY = b"all of it\n"
TTL = 60
IN_CACHE = 30
MAX_AGE = 2**31

Fields = list[tuple[str, str]]

#: What an endpoint sends beside its own fields, and the names of what is for one client.
FORMS: dict[str, tuple[Fields, set[str]]] = {
    "nothing": ([("X-Kept", "yes")], set()),
    "each name": (
        [
            ("Connection", "Keep-Alive, Upgrade"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("Upgrade", "example/2"),
            ("Proxy-Authenticate", "Basic"),
            ("Proxy-Authorization", "Basic eDp5"),
            ("Proxy-Authentication-Info", "x=y"),
            ("Proxy-Connection", "keep-alive"),
            ("X-Kept", "yes"),
        ],
        {
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-authentication-info",
            "proxy-connection",
        },
    ),
    "transfer-encoding": ([("Transfer-Encoding", "chunked"), ("X-Kept", "yes")], set()),
    "close": ([("connection", "close"), ("X-Kept", "yes")], {"connection"}),
    "named": (
        [
            ("Connection", "X-One ,, x-TWO"),
            ("CONNECTION", "X-Three"),
            ("X-One", "1"),
            ("x-one", "again"),
            ("X-Two", "2"),
            ("x-three", "3"),
            ("X-Four", "4"),
        ],
        {"connection", "x-one", "x-two", "x-three"},
    ),
    "named, but not there": ([("Connection", "X-One"), ("X-One-More", "1")], {"connection"}),
}

#: The Age lines of an endpoint, and the age that is sent at a hit after no time at all.
AGES: dict[str, tuple[list[str], int]] = {
    "without": ([], 0),
    "zero": (["0"], 0),
    "some": (["7"], 7),
    "two lines": (["7", "100"], 7),
    "a list": (["7, 100"], 7),
    "negative": (["-1"], 0),
    "a fraction": (["1.5"], 0),
    "a word": (["old"], 0),
    "no value": ([""], 0),
    "too large": (["9" * 30], MAX_AGE),
    "longer than Python reads": (["9" * 6000], MAX_AGE),
}

KINDS = ("stream", "body", "sends by itself")

#: What the server adds, or what depends on how it sends a body.
OF_THE_SERVER = ADDED | {"content-length", "date", "transfer-encoding"}


class World:
    """An endpoint with some fields, behind the decorator and without it."""

    def __init__(self, serve: Serve, cache: str, kind: str, fields: Fields, clock: Clock) -> None:
        self.kind, self.fields, self.clock = kind, fields, clock
        self.gate, self.runs = Gate(), 0
        cached = stream_cached(ttl=TTL, cache=cache, stale_while_revalidate=30)
        routes = [Route("/", cached(self.endpoint)), Route("/plain", self.endpoint)]
        self.server = serve(Starlette(routes=routes))

    async def endpoint(self, request: Request) -> Response:
        self.runs += 1
        await self.gate.passed()
        response = self.response()
        response.raw_headers += [(k.encode(), v.encode()) for k, v in self.fields]
        return response

    def response(self) -> Response:
        if self.kind == "stream":
            return StreamingResponse(_body())
        return Response(BODY) if self.kind == "body" else InItsOwnWay(BODY)

    def get(self, status: str, target: str = "/") -> RawResponse:
        answer = fetch(self.server.port, target)
        assert (answer.header("Cache-Status") or "") == status
        return answer

    def answers(self) -> dict[str, RawResponse]:
        """Return one answer of each kind; "plain" is that without the decorator."""
        waiting = Waiting(self.server.port, 2)
        wait_until(lambda: self.runs == 1 and self.server.requests_running == 2)
        self.gate.open()
        both = {answer.header("Cache-Status"): answer for answer in waiting.answers()}
        miss = both.pop(MISS)
        ((status, joined),) = both.items()
        # The look-up of the other one may have taken until the entry was there.
        assert status in (COLLAPSED, HIT)
        answers = {"miss": miss, "joined": joined, "plain": self.get("", "/plain")}
        self.clock.passed = IN_CACHE
        answers["hit"] = self.get(HIT)
        self.clock.passed = TTL + 0.1
        answers["stale"] = self.get(STALE)
        assert [answer.body for answer in answers.values()] == [BODY] * 5
        assert all(answer.complete for answer in answers.values())
        return answers


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, namespace: str) -> str:
    if request.param == "memory":
        return f"memory://?namespace={namespace}"
    return f"{request.getfixturevalue('redis_url')}?namespace={namespace}&timeout=5"


class InItsOwnWay(Response):
    """A response that is recorded by the messages that it sends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


async def _body() -> AsyncIterator[bytes]:
    yield BODY[:3]
    yield BODY[3:]


def fields_of(answer: RawResponse, without: Set[str]) -> Fields:
    pairs = [(name.decode().lower(), value.decode()) for name, value in answer.headers]
    return sorted(pair for pair in pairs if pair[0] not in without)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_of_one_connection_are_for_its_client_alone(
    serve: Serve, cache: str, kind: str, form: str, clock: Clock
) -> None:
    fields, for_one = FORMS[form]
    answers = World(serve, cache, kind, fields, clock).answers()
    plain = answers.pop("plain")
    miss = answers.pop("miss")
    assert fields_of(miss, OF_THE_SERVER) == fields_of(plain, OF_THE_SERVER)
    assert for_one <= {name for name, _ in fields_of(miss, set())}
    for how, answer in answers.items():
        expected = fields_of(plain, OF_THE_SERVER | for_one)
        assert fields_of(answer, OF_THE_SERVER) == expected, how
    # The length is known at a hit, whatever the coding of the first transfer was.
    for how in "hit", "stale":
        assert answers[how].header("Content-Length") == str(len(BODY)), how
        assert answers[how].header("Transfer-Encoding") is None, how


@pytest.mark.matrix
@pytest.mark.parametrize("name", AGES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_age_grows_in_the_cache(
    serve: Serve, cache: str, kind: str, name: str, clock: Clock
) -> None:
    lines, age = AGES[name]
    started = time.time()
    world = World(serve, cache, kind, [("Age", line) for line in lines], clock)
    answers = world.answers()
    took = int(time.time() - started) + 1
    for how in "plain", "miss":
        assert answers[how].header_values("Age") == lines, how
    for how, seconds in (("hit", IN_CACHE), ("stale", TTL)):
        (value,) = map(int, answers[how].header_values("Age"))
        low, high = (min(age + seconds + late, MAX_AGE) for late in (0, took))
        assert low <= value <= high, how
        others = fields_of(answers["plain"], OF_THE_SERVER)
        assert fields_of(answers[how], OF_THE_SERVER) == others, how


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(0.0, b"7"), (0.9, b"7"), (1.0, b"8"), (-50.0, b"7"), (1e12, b"%d" % MAX_AGE)],
)
def test_whole_seconds_are_added_and_none_is_taken_away(seconds: float, age: bytes) -> None:
    assert aged([(b"Age", b" 7 ")], seconds) == [(b"age", age)]


def test_nothing_is_added_without_an_age() -> None:
    headers = [(b"x-age", b"7"), (b"X-Kept", b"yes")]
    assert list(aged(headers, 9)) == end_to_end(headers) == headers


def test_it_is_no_part_of_what_another_run_has_to_repeat(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = Reruns()
    runs.headers = {"Connection": "X-Hop", "X-Hop": "1", "Age": "7"}
    answer = lose_a_segment_under_a_hit(serve, redis_server, redis_url, runs, lambda body: {})
    assert (answer.complete, answer.body) == (True, large_body())
