"""Clients of both kinds, views of both kinds, and content of both kinds, cached or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory

from stream_cached.django import CachedStreamingHttpResponse, cache_stream
from tests.django.conftest import Site
from tests.django.test_answers import CHUNKS, content, items
from tests.support.gates import Gate, run

BODY = b"".join(CHUNKS)


def view_of(kind: str, content: Callable[[], Any], headers: dict[str, str]) -> Any:
    @cache_stream(60)
    def sync_view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(content(), headers=headers)

    @cache_stream(60)
    async def async_view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(content(), headers=headers)

    chosen: Any = {"sync": sync_view, "async": async_view}[kind]
    chosen.__name__ = "view"
    return chosen


@pytest.mark.parametrize("is_private", [False, True])
@pytest.mark.parametrize("made", [lambda: iter(CHUNKS), items], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_way(kind: str, made: Any, is_private: bool, site: Site) -> None:
    headers = {"Cache-Control": "private"} if is_private else {}
    site(view_of(kind, made, headers), middleware=())
    for _ in range(2):
        assert b"".join(iter(Client().get("/view"))) == BODY

    async def test() -> None:
        for _ in range(2):
            response: Any = await AsyncClient().get("/view")
            assert b"".join([part async for part in response]) == BODY

    run(test)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_way_in_a_transaction(kind: str, site: Site, database: None) -> None:
    async def names() -> AsyncIterator[str]:
        async for user in User.objects.all():
            yield user.username

    def sync_names() -> Iterator[str]:
        for user in User.objects.all():
            yield user.username

    site(middleware=())
    for made in (names, sync_names):
        view = view_of(kind, made, {"Cache-Control": "private"})
        client = site(view, middleware=())
        with transaction.atomic():
            User.objects.create(username="of this transaction")
            assert b"".join(iter(client.get("/view"))) == b"of this transaction"
            transaction.set_rollback(True)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_entry_for_each_user(kind: str, site: Site, database: None) -> None:
    runs: list[int] = []

    @cache_stream(60, per_user=True)
    def sync_view(request: Any) -> HttpResponse:
        runs.append(1)
        return HttpResponse(request.user.username)

    @cache_stream(60, per_user=True)
    async def async_view(request: Any) -> HttpResponse:
        runs.append(1)
        return HttpResponse((await request.auser()).username)

    view: Any = {"sync": sync_view, "async": async_view}[kind]
    site(view)
    target = f"/{kind}_view"
    users = [User.objects.create(username=name) for name in ("ada", "grace")]
    try:
        for user in (*users, *users):
            client, other = Client(), AsyncClient()
            client.force_login(user)
            other.cookies = client.cookies
            assert client.get(target).content == user.username.encode()

            async def test(other: Any = other, user: User = user) -> None:
                assert (await other.get(target)).content == user.username.encode()

            run(test)
        assert len(runs) == 2
    finally:
        for user in users:
            user.delete()


def test_a_callback_of_a_client_that_has_left(site: Site) -> None:
    gate, called = Gate(), Gate()

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        def rows() -> Iterator[bytes]:
            yield CHUNKS[0]
            gate.wait()
            yield from CHUNKS[1:]

        return StreamingHttpResponse(rows())

    response: Any = site(view, middleware=()).get("/view")
    bodies: list[bytes] = []

    def completed(response: CachedStreamingHttpResponse) -> None:
        bodies.append(response.construct_cacheable_response().content)
        called.open()

    response.add_post_render_callback(completed)
    assert next(iter(response.streaming_content)) == CHUNKS[0]
    response.close()
    gate.open()
    called.wait()
    assert bodies == [BODY]


def test_content_that_an_asynchronous_view_makes_itself(site: Site) -> None:
    async def view(request: HttpRequest) -> StreamingHttpResponse:
        return CachedStreamingHttpResponse(items(), key="items", ttl=60)

    client = site(view, middleware=())

    async def test() -> None:
        for from_cache in (False, True):
            response: Any = await AsyncClient().get("/view")
            assert b"".join([part async for part in response]) == BODY
            assert response.from_cache == from_cache
            copy = await sync_to_async(response.construct_cacheable_response)()
            assert copy.content == BODY

    run(test)
    unread = client.get("/view")
    unread.close()
    assert b"".join(iter(client.get("/view"))) == BODY


def test_what_can_not_be_part_of_the_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def fails(value: object) -> object:
        raise KeyError(value)

    failing = cache_stream(60, key_args={"number": fails})
    plain = cache_stream(60, methods=("GET", "POST"))
    runs: list[int] = []

    def view(request: HttpRequest, number: int = 0) -> HttpResponse:
        runs.append(1)
        return HttpResponse(str(len(request.body)))

    client = site(failing(view), middleware=())
    assert [client.get("/view/1").content for _ in range(2)] == [b"0"] * 2
    assert "key_args=" in caplog.records[0].getMessage()
    client = site(plain(view), middleware=(), url="memory://?namespace=other")
    for size in (2_000_000, 10, 10):
        large = client.post("/view", b"x" * size, content_type="text/plain")
        assert large.content == str(size).encode()
    assert len(runs) == 4
    # Django calls a view by positions where its route has no names.
    request = RequestFactory().get("/")
    for number in (1, 2, 1):
        assert content(plain(view)(request, number)) == b"0"
    assert len(runs) == 6


def test_a_view_that_is_called_without_a_request() -> None:
    @cache_stream(60)
    def view(text: str) -> str:
        return text

    @cache_stream(60)
    async def async_view(text: str) -> str:
        return text

    assert view("text") == "text"

    async def test() -> None:
        assert await async_view("text") == "text"

    run(test)
