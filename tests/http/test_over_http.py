"""The rules of HTTP, one record at a time, over a server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.http.rules import ALIKE, ASKED, BODY, FRESH, NOW, Fields, raw
from tests.support.clock import Clock, moved_clock
from tests.support.http_client import fetch

HIT = "stream-cached; hit"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which is that of the rules."""
    now = [NOW]
    monkeypatch.setattr(Clock, "time", lambda self: now[0])
    moved_clock(monkeypatch)
    return now


def test_the_delay_of_a_response_is_a_part_of_its_age(serve: Serve, now: list[float]) -> None:
    def passes() -> None:
        now[0] = NOW

    async def endpoint(request: Request) -> Response:
        passes()
        return answering(DELAYED[request.path_params["number"]].given, 200)

    cached = stream_cached(ttl="response")(endpoint)
    port = serve(Starlette(routes=[Route("/{number:int}", cached)])).port
    assert DELAYED
    for number, rule in enumerate(DELAYED):
        now[0] = NOW - rule.delay
        fetch(port, f"/{number}")
        hit = fetch(port, f"/{number}")
        assert hit.header("Cache-Status") == f"{HIT}; ttl={rule.then}", rule
        assert int(hit.header("Age") or "") == int(str(rule.given.get("Age", 0))) + rule.delay


def answering(fields: Fields, status: int, body: bytes = BODY) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield body[:4]
        yield body[4:]

    response = StreamingResponse(parts(), status)
    response.raw_headers = raw(fields)
    return response


#: A server stores what it answers now, and answers no POST from that.
ON_SERVER = [rule for rule in ASKED if rule.method != "POST" and rule.stored_at == NOW]
DELAYED = [rule for rule in FRESH if rule.delay]
UNDELAYED = [rule for rule in FRESH if not rule.delay]


@pytest.mark.parametrize("inline_max", [0, 1000])
def test_what_a_request_with_conditions_is_sent(serve: Serve, inline_max: int) -> None:
    @stream_cached(ttl=60, inline_max=inline_max, etag=False)
    async def endpoint(request: Request) -> Response:
        rule = ON_SERVER[request.path_params["number"]]
        return answering(rule.response, rule.status, rule.body)

    port = serve(Starlette(routes=[Route("/{number:int}", endpoint)])).port
    for number, rule in enumerate(ON_SERVER):
        path = f"/{number}"
        assert fetch(port, path).body == rule.body
        answer = fetch(port, path, raw(rule.request), method=rule.method)
        assert answer.complete, rule
        assert answer.header("Cache-Status") == HIT, rule
        status, body = (206, rule.then) if isinstance(rule.then, bytes) else (rule.then, b"")
        if rule.then in (200, 404) and rule.method == "GET":
            body = rule.body
        assert (answer.status, answer.body) == (status, body), rule
        if status == 206:
            start = rule.body.index(answer.body)
            shown = f"bytes {start}-{start + len(answer.body) - 1}/{len(rule.body)}"
            assert answer.header("Content-Range") == shown, rule
        if status == 416:
            assert answer.header("Content-Range") == f"bytes */{len(rule.body)}", rule


def test_which_responses_are_stored_by_their_own_words(serve: Serve) -> None:
    async def endpoint(request: Request) -> Response:
        rule = UNDELAYED[request.path_params["number"]]
        return answering(rule.given, rule.status)

    def route(heuristic: float, targets: tuple[str, ...]) -> Route:
        cached = stream_cached(ttl="response", heuristic=heuristic, targets=targets)
        return Route(f"/{heuristic}/{'+'.join(targets)}/{{number:int}}", cached(endpoint))

    settings = {(rule.heuristic, rule.targets) for rule in UNDELAYED}
    port = serve(Starlette(routes=[route(*each) for each in settings])).port
    for number, rule in enumerate(UNDELAYED):
        path = f"/{rule.heuristic}/{'+'.join(rule.targets)}/{number}"
        answers = [fetch(port, path) for _ in range(2)]
        assert [answer.body for answer in answers] == [BODY] * 2
        told = answers[0].header("Cache-Status") or ""
        if isinstance(rule.then, str):
            fwd = f'stream-cached; fwd=uri-miss; detail="{rule.then}"'
            assert [told, answers[1].header("Cache-Status")] == [fwd] * 2, rule
            continue
        assert told == "stream-cached; fwd=uri-miss; stored", rule
        if rule.then > 1:
            hit = answers[1].header("Cache-Status") or ""
            assert hit.startswith(f"{HIT}; ttl="), rule
            assert int(hit.rpartition("=")[2]) == rule.then, rule


def test_which_requests_select_the_same_response(serve: Serve) -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        name = ALIKE[request.path_params["number"]].name
        return answering({"Vary": name, "X-Value": request.headers.get(name, "")}, 200)

    port = serve(Starlette(routes=[Route("/{number:int}", endpoint)])).port
    for number, rule in enumerate(ALIKE):
        first, second = (
            fetch(port, f"/{number}", [(rule.name, line) for line in lines])
            for lines in (rule.one, rule.other)
        )
        assert first.header("Cache-Status") == "stream-cached; fwd=uri-miss; stored"
        assert (second.header("Cache-Status") == HIT) is rule.then, rule
