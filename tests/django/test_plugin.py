"""The pytest plugin with views of Django: their caches are those of the settings."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from stream_cached.django import CachedStreamingHttpResponse, cache_stream, caches
from stream_cached.testing import CacheUnderTest

pytestmark = pytest.mark.parametrize("run", ["first", "second"])


@cache_stream(60)
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@cache_stream(60, tags=("rows",))
def rows(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one", b"two"]))


@cache_stream(60)
async def asynchronous(request: HttpRequest) -> HttpResponse:
    return HttpResponse("asynchronous")


made: list[bytes] = []


def direct(request: HttpRequest) -> CachedStreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        made.append(b"")
        yield b"one"
        yield b"two"

    return CachedStreamingHttpResponse(parts(), key="direct", ttl=60)


@cache_stream(60)
def mine(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.COOKIES.get("user", ""))


VIEWS = (page, rows, asynchronous)

urls: Any = types.ModuleType("urls")
urls.urlpatterns = [path(view.__name__, view) for view in (*VIEWS, direct, mine)]


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    """The same settings for all tests, with the URL of a server that is not there."""
    server = {"default": {"URL": "redis://127.0.0.1:9/0", "TTL": 60}}
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[], STREAM_CACHED=server):
        yield


def _body(response: Any) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else response.content


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_each_test_begins_with_an_empty_cache(
    view: Any, run: str, stream_cache: CacheUnderTest
) -> None:
    first = Client().get(f"/{view.__name__}")
    stream_cache.assert_miss(first)
    body = _body(first)
    stream_cache.assert_stored(first)
    second = Client().get(f"/{view.__name__}")
    stream_cache.assert_hit(second)
    assert _body(second) == body
    stream_cache.travel(61)
    stream_cache.assert_miss(Client().get(f"/{view.__name__}"))
    stream_cache.block_until_idle()


def test_a_stream_that_a_view_caches_itself(run: str, stream_cache: CacheUnderTest) -> None:
    made.clear()
    assert [_body(Client().get("/direct")) for _ in range(2)] == [b"onetwo"] * 2
    assert len(made) == 1
    stream_cache.travel(61)
    assert _body(Client().get("/direct")) == b"onetwo"
    assert len(made) == 2


def test_an_async_client(run: str, stream_cache: CacheUnderTest) -> None:
    async def main() -> None:
        stream_cache.assert_miss(await AsyncClient().get("/asynchronous"))
        await stream_cache.wait_idle()
        stream_cache.assert_hit(await AsyncClient().get("/asynchronous"))

    asyncio.run(main())


def test_a_tag_is_invalidated_in_the_cache_of_the_test(
    run: str, stream_cache: CacheUnderTest
) -> None:
    _body(Client().get("/rows"))
    assert caches["default"].invalidate_tags("rows")
    stream_cache.assert_miss(again := Client().get("/rows"))
    _body(again)


def test_a_refusal_has_the_fix_for_a_view(run: str, stream_cache: CacheUnderTest) -> None:
    client = Client()
    client.cookies["user"] = "one"
    response = client.get("/mine")
    stream_cache.assert_not_stored(response, "request-read")
    with pytest.raises(AssertionError, match="cookies"):
        stream_cache.assert_hit(response)
    with stream_cache.disabled():
        stream_cache.assert_not_stored(client.get("/page"), "switched-off")
