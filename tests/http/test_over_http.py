"""The rules of HTTP, a selection of the records, over a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.http.rules import (
    ALIKE,
    ASKED,
    BODY,
    FRESH,
    NOW,
    Alike,
    Asked,
    Fields,
    Fresh,
    raw,
)
from tests.support.http_client import fetch

HIT = "stream-cached; hit"

Rule = TypeVar("Rule", Asked, Fresh, Alike)


def one_of_each(rules: Iterable[Rule]) -> list[Rule]:
    """The first record of each section with each kind of outcome."""
    return list({(rule.section, repr(rule.then)): rule for rule in rules}.values())


def answering(fields: Fields, status: int) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield BODY[:4]
        yield BODY[4:]

    response = StreamingResponse(body(), status)
    response.raw_headers = raw(fields)
    return response


def _is_for_a_server(rule: Asked) -> bool:
    is_dated = rule.section == "9111 4.3.2"
    return rule.method != "POST" and rule.stored_at == NOW and not is_dated


@pytest.mark.parametrize("inline_max", [0, 1000])
def test_what_a_request_with_conditions_is_sent(serve: Serve, inline_max: int) -> None:
    rules = one_of_each(filter(_is_for_a_server, ASKED))

    @stream_cached(ttl=60, inline_max=inline_max, etag=False)
    async def endpoint(request: Request) -> Response:
        rule = rules[request.path_params["number"]]
        return answering(rule.response, rule.status)

    port = serve(Starlette(routes=[Route("/{number:int}", endpoint)])).port
    for number, rule in enumerate(rules):
        path = f"/{number}"
        assert fetch(port, path).body == BODY
        answer = fetch(port, path, raw(rule.request), method=rule.method)
        assert answer.complete, rule
        assert answer.header("Cache-Status") == HIT, rule
        status, body = (206, rule.then) if isinstance(rule.then, bytes) else (rule.then, b"")
        if rule.then in (200, 404) and rule.method == "GET":
            body = BODY
        assert (answer.status, answer.body) == (status, body), rule
        if status == 206:
            start = BODY.index(answer.body)
            shown = f"bytes {start}-{start + len(answer.body) - 1}/{len(BODY)}"
            assert answer.header("Content-Range") == shown, rule
        if status == 416:
            assert answer.header("Content-Range") == f"bytes */{len(BODY)}", rule


def test_which_responses_are_stored_by_their_own_words(serve: Serve) -> None:
    rules = [rule for rule in FRESH if not {"Expires", "Date", "Last-Modified"} & rule.given.keys()]
    rules = one_of_each(rule for rule in rules if not rule.delay and not rule.targets)

    @stream_cached(ttl="response")
    async def endpoint(request: Request) -> Response:
        rule = rules[request.path_params["number"]]
        return answering(rule.given, rule.status)

    port = serve(Starlette(routes=[Route("/{number:int}", endpoint)])).port
    for number, rule in enumerate(rules):
        answers = [fetch(port, f"/{number}") for _ in range(2)]
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
            assert 0 <= rule.then - int(hit.rpartition("=")[2]) <= 5, rule


def test_which_requests_select_the_same_response(serve: Serve) -> None:
    rules = one_of_each(ALIKE)

    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        name = rules[request.path_params["number"]].name
        return answering({"Vary": name, "X-Value": request.headers.get(name, "")}, 200)

    port = serve(Starlette(routes=[Route("/{number:int}", endpoint)])).port
    for number, rule in enumerate(rules):
        first, second = (
            fetch(port, f"/{number}", [(rule.name, line) for line in lines])
            for lines in (rule.one, rule.other)
        )
        assert first.header("Cache-Status") == "stream-cached; fwd=uri-miss; stored"
        assert (second.header("Cache-Status") == HIT) is rule.then, rule
