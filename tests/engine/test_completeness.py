"""A stream that merely stops is not stored, where its end tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, stream_cached
from tests.support.gates import run
from tests.support.logs import warnings

LARGE = b"x" * 600_000

RECIPES: dict[str, tuple[Callable[[bytes], Any], list[bytes], list[bytes]]] = {
    "openai": (
        lambda end: end.rstrip().endswith(b"data: [DONE]"),
        [b"data: 1\n\n", b"data: [DO", b"NE]\n\n"],
        [b"data: 1\n\n", b"data: [DO"],
    ),
    "anthropic": (
        lambda end: b"event: message_stop" in end,
        [b"event: message_start\n\n", b"event: message_stop\ndata: {}\n\n"],
        [b"event: message_start\n\n"],
    ),
    "lines": (
        lambda end: json.loads(end.splitlines()[-1]).get("done"),
        [b'{"n": 1}\n', b'{"done": true}\n'],
        [b'{"n": 1}\n', b'{"n": 2}\n'],
    ),
    "array": (lambda end: end.rstrip().endswith(b"]"), [b"[1", b",2]"], [b"[1", b",2"]),
    "large": (lambda end: end.endswith(b"end"), [LARGE, b"end"], [LARGE]),
    "empty": (bool, [b"a"], []),
}


def answers(chunks: list[bytes], media_type: str | None = None, **options: Any) -> list[Any]:
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return StreamingResponse(body(), media_type=media_type)

    cached = stream_cached(ttl=60, **options)(endpoint)
    with TestClient(Starlette(routes=[Route("/", cached)])) as client:
        return [client.get("/") for _ in range(2)]


@pytest.mark.parametrize("max_ahead", [65536, 2_000_000])
@pytest.mark.parametrize("recipe", RECIPES)
def test_only_a_stream_with_an_end_is_stored(
    recipe: str, max_ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    complete_when, whole, short = RECIPES[recipe]
    for chunks, is_stored in ((whole, True), (short, False)):
        found = answers(chunks, complete_when=complete_when, max_ahead=max_ahead)
        assert [answer.content for answer in found] == [b"".join(chunks)] * 2
        assert ("hit" in found[1].headers["cache-status"]) is is_stored
    (line,) = warnings(caplog)
    assert "complete_when= says that it is not complete" in line


def test_events_that_are_given_ids_end_as_the_endpoint_ends_them() -> None:
    complete_when, whole, short = RECIPES["openai"]
    for chunks, is_stored in ((whole, True), (short, False)):
        options = {"complete_when": complete_when, "resume": "event-id"}
        found = answers(chunks, "text/event-stream", **options)
        assert ("hit" in found[1].headers["cache-status"]) is is_stored


def test_a_function_that_raises_fails_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    found = answers([b"a"], complete_when=lambda end: end.unknown)
    assert [answer.content for answer in found] == [b"a", b"a"]
    assert "hit" not in found[1].headers["cache-status"]
    assert len(warnings(caplog)) == 1


def test_a_body_at_hand_is_complete() -> None:
    cached = stream_cached(ttl=60, complete_when=lambda end: False)(_at_hand)
    with TestClient(Starlette(routes=[Route("/", cached)])) as client:
        assert "hit" in [client.get("/") for _ in range(2)][1].headers["cache-status"]


async def _at_hand(request: Request) -> Response:
    return JSONResponse({})


@dataclass
class Token:
    text: str
    finish_reason: str | None = None


def test_a_generator_is_judged_by_its_last_items() -> None:
    given: list[list[Token]] = []
    runs: list[bool] = []

    def is_complete(items: list[Token]) -> bool:
        given.append(items)
        return bool(items) and items[-1].finish_reason is not None

    @stream_cached(ttl=60, complete_when=is_complete)
    async def tokens(count: int, ends: bool) -> AsyncIterator[Token]:
        runs.append(ends)
        for number in range(count):
            yield Token(str(number))
        if ends:
            yield Token("", "stop")

    async def test() -> None:
        for count in (0, 3, 100):
            for ends in (False, True):
                read = [[item async for item in tokens(count, ends)] for _ in range(2)]
                assert read[0] == read[1]

    run(test)
    assert runs == [False, False, True] * 3
    assert max(map(len, given)) == 16
    assert given[-1][-1] == Token("", "stop")


def test_who_has_joined_gets_the_end_as_it_is() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    @stream_cached(ttl=60, complete_when=lambda items: False)
    async def tokens() -> AsyncIterator[str]:
        yield "a"
        begun.set()
        await may_end.wait()

    async def test() -> None:
        first, second = tokens(), tokens()
        assert await anext(first) == await anext(second) == "a"
        may_end.set()
        assert [item async for item in first] == [item async for item in second] == []

    run(test)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="complete_when"):
        stream_cached(ttl=60, complete_when="done")  # type: ignore[arg-type]
