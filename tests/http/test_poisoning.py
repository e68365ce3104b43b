"""Requests that try to put an answer of their own into the cache, for others."""

from __future__ import annotations

import itertools

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.http_client import fetch

UNKEYED = (
    *("X-Forwarded-Host", "X-Forwarded-Scheme", "X-Forwarded-Proto", "X-Forwarded-For"),
    *("X-Host", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "Forwarded"),
    *(
        "X-HTTP-Method-Override",
        "Origin",
        "Referer",
        "User-Agent",
        "X-Amz-Website-Redirect-Location",
    ),
)

PATHS = (
    *("/a", "/a/", "/a.css", "/a/x.css", "/a;x.css", "/a%2Fx.css", "/a%00", "/a%0a", "//a", "/a//"),
    *("/./a", "/b/../a", "/%2e/a", "/A", "/%61", "/a?", "/a?x.css", "/a%3Fx.css", "/a%23x"),
)


@pytest.mark.parametrize("ttl", [60, "response"])
def test_no_header_that_is_no_part_of_the_key_is_echoed_to_others(
    serve: Serve, ttl: float | str
) -> None:
    @stream_cached(ttl=ttl)
    async def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        link = f"https://{request.headers.get(name, 'example.org')}/"
        return PlainTextResponse(link, headers={"Cache-Control": "max-age=60"})

    port = serve(Starlette(routes=[Route("/{name}", endpoint)])).port
    for name in UNKEYED:
        assert fetch(port, f"/{name}", {name: "evil.example"}).body == b"https://evil.example/"
        assert b"evil" not in fetch(port, f"/{name}").body, name


def test_each_way_to_write_a_path_is_an_entry_of_its_own(serve: Serve) -> None:
    numbers = itertools.count()

    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(f"{next(numbers)}")

    port = serve(Starlette(routes=[Route("/{path:path}", endpoint)])).port
    first = [fetch(port, path).body for path in PATHS]
    assert len(set(first) - {b""}) >= len(PATHS) - 1
    assert [fetch(port, path).body for path in PATHS] == first


def test_an_error_that_a_request_provokes_is_not_stored(serve: Serve) -> None:
    @stream_cached(ttl="response", unguarded=("headers",))
    async def endpoint(request: Request) -> Response:
        if "x-oversized" in request.headers:
            return PlainTextResponse("bad request", 400)
        return PlainTextResponse("page", headers={"Cache-Control": "max-age=60"})

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    assert fetch(port, headers={"X-Oversized": "1"}).status == 400
    assert [fetch(port).status for _ in range(2)] == [200] * 2


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: evil=1", "a\nX: 1", "a\0b"])
def test_no_entry_splits_a_response(serve: Serve, value: str) -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        response = PlainTextResponse("page")
        response.raw_headers.append((b"x-echo", value.encode("latin-1")))
        return response

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    fetch(port)
    answer = fetch(port)
    # It runs each time, so that the server treats its header as it does without a cache.
    assert not (answer.header("cache-status") or "").startswith("stream-cached; hit")
