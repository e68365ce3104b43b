"""The examples run, and show what they say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached.testing import CacheUnderTest
from tests.conftest import Serve, Spawn
from tests.support.http_client import fetch
from tests.support.process import ROOT
from tests.support.runs import HIT, MISS
from tests.support.versions import needs


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_the_tokens_of_a_plain_generator(store: str, request: pytest.FixtureRequest) -> None:
    urls = [] if store == "memory" else [request.getfixturevalue("redis_url")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/tokens.py", *urls],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENS": "10", "PAUSE": "0.01"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert sorted(line.partition(":")[0].strip() for line in lines) == ["first", "second", "third"]
    assert all(re.search(r": 10 tokens, .* runs so far: 1$", line) for line in lines)


@needs("fastapi", "0.135", "does not stream what an endpoint yields")
@pytest.mark.parametrize("path", ["tokens", "events", "text"])
def test_the_tokens_of_an_endpoint(
    path: str, monkeypatch: pytest.MonkeyPatch, stream_cache: CacheUnderTest
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("TOKENS", "3")
    monkeypatch.setenv("PAUSE", "0")
    monkeypatch.delitem(sys.modules, "examples.tokens_app", raising=False)
    app = importlib.import_module("examples.tokens_app").app
    with TestClient(app) as client:
        first, second = (client.get(f"/{path}", params={"prompt": path}) for _ in range(2))
    assert first.content == second.content
    assert first.text.count(f"{path} 2") == 1
    stream_cache.assert_stored(first)
    stream_cache.assert_hit(second)


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.full)])
def test_an_application_that_is_tested_with_the_plugin(processes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"-n{processes}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT / "examples" / "testing",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert re.search(r"^10 passed\b", done.stdout, flags=re.MULTILINE), done.stdout


def origin(count: list[str]) -> Starlette:
    """An origin whose responses say for how long they are fresh."""
    body = bytes(range(256)) * 4_000

    async def page(request: Request) -> Response:
        count.append(request.url.path)
        language = request.headers.get("accept-language", "")
        if request.url.path == "/stale" and count.count("/stale") > 1:
            return Response("broken", 503, {"Retry-After": "1"})
        directives = {
            "/stale": "max-age=0, stale-if-error=600",
            "/private": "private, max-age=60",
        }.get(request.url.path, "max-age=60")
        headers = {"Cache-Control": directives, "Vary": "Accept-Language", "ETag": '"v1"'}
        if request.url.path == "/page":
            headers |= {"Age": "30", "Connection": "X-Hop", "X-Hop": "of the origin"}
            headers["X-Seen"] = request.headers.get("x-mine", "")
        return StreamingResponse(_parts(body), headers={**headers, "X-Language": language})

    return Starlette(routes=[Route("/{path:path}", page)])


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


def test_a_proxy_that_goes_by_what_its_origin_says(serve: Serve, spawn: Spawn) -> None:
    count: list[str] = []
    behind = serve(origin(count))
    port = spawn("examples.proxy:app", {"ORIGIN": f"http://127.0.0.1:{behind.port}"}).port

    hop = {"Connection": "X-Mine", "X-Mine": "of the client"}
    first, second = fetch(port, "/page?a=1", hop), fetch(port, "/page?a=1")
    # What is for one connection is passed on in neither direction.
    assert (first.header("x-seen"), first.header("x-hop")) == ("", None)
    assert first.header("cache-status") == MISS
    assert (second.header("cache-status") or "").startswith(f"{HIT}; ttl=")
    assert second.body == first.body
    # It is that of the origin's own cache, too.
    assert int(second.header("age") or "") >= 30
    assert int((second.header("cache-status") or "").rpartition("=")[2]) <= 30
    assert count == ["/page"]

    same = fetch(port, "/page?a=1", {"If-None-Match": '"v1"'})
    assert (same.status, same.header("etag"), same.body) == (304, '"v1"', b"")
    part = fetch(port, "/page?a=1", {"Range": "bytes=500000-500009", "If-Range": '"v1"'})
    assert (part.status, part.body) == (206, first.body[500_000:500_010])
    assert count == ["/page"]

    for languages in ("de, en", "EN,de"):
        assert fetch(port, "/page?a=1", {"Accept-Language": languages}).status == 200
    assert count == ["/page"] * 2

    for _ in range(2):
        assert fetch(port, "/private").body == first.body
    assert count.count("/private") == 2

    fetch(port, "/stale")
    old = fetch(port, "/stale")
    assert (old.status, old.body) == (200, first.body)
    shown = 'stream-cached; fwd=stale; fwd-status=503; detail="stale-if-error"'
    assert old.header("cache-status") == shown
