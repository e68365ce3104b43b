"""Rows of a database, read in a test's own transaction, and in threads of runs."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from queue import Queue
from typing import Any, cast
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, connections, transaction
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, TestCase, override_settings
from django.urls import path
from django.utils import translation

from stream_cached.django import CachedStreamingHttpResponse, cache_stream, caches
from tests.django.conftest import Site
from tests.support.gates import TIMEOUT

pytestmark = pytest.mark.usefixtures("database")

steps: list[threading.Thread] = []


def rows() -> Iterator[str]:
    for group in Group.objects.order_by("name").iterator():
        steps.append(threading.current_thread())
        yield f"{group.name}\n"


async def arows() -> AsyncIterator[str]:
    async for group in Group.objects.order_by("name"):
        steps.append(threading.current_thread())
        yield f"{group.name}\n"


@cache_stream(60, tags=("rows",))
def sync_view(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows())


@cache_stream(60, tags=("rows",))
async def async_view(request: HttpRequest) -> StreamingHttpResponse:
    await Group.objects.filter(name="none").afirst()
    return StreamingHttpResponse(arows())


@cache_stream(60, tags=("rows",))
async def async_view_of_sync_rows(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows())


def private_view(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows(), headers={"Cache-Control": "private"})


uncached = cache_stream(60)(private_view)

VIEWS: list[Any] = [sync_view, async_view, async_view_of_sync_rows, uncached]

urlpatterns = [path(view.__name__, view) for view in VIEWS]


@override_settings(
    ROOT_URLCONF=__name__, MIDDLEWARE=(), STREAM_CACHED={"default": {"URL": "memory://", "TTL": 60}}
)
class RowsTest(TestCase):
    """What a user's own tests look like: nobody else sees their rows."""

    @classmethod
    def setUpTestData(cls) -> None:
        Group.objects.bulk_create(Group(name=f"group {number}") for number in range(3))

    def setUp(self) -> None:
        caches["default"].clear()
        steps.clear()

    def test_the_client(self) -> None:
        for view in VIEWS:
            with self.subTest(view=view.__name__):
                for _ in range(2):
                    response: Any = self.client.get(f"/{view.__name__}")
                    body = b"".join(response.streaming_content)
                    assert body == b"group 0\ngroup 1\ngroup 2\n"
                assert view is uncached or response.from_cache
                caches["default"].invalidate_tags("rows")

    async def test_the_asynchronous_client(self) -> None:
        for view in VIEWS:
            with self.subTest(view=view.__name__):
                for _ in range(2):
                    response: Any = await AsyncClient().get(f"/{view.__name__}")
                    if response.is_async:
                        body = b"".join([part async for part in response.streaming_content])
                    else:
                        body = await sync_to_async(b"".join)(response.streaming_content)
                    assert body == b"group 0\ngroup 1\ngroup 2\n"
                assert view is uncached or response.from_cache
                await caches["default"].ainvalidate_tags("rows")

    def test_a_validator_that_asks_the_database(self) -> None:
        threads: list[threading.Thread] = []

        def count() -> str:
            threads.append(threading.current_thread())
            return str(Group.objects.count())

        @cache_stream(0.01, validator=count)
        def view(request: HttpRequest) -> StreamingHttpResponse:
            return StreamingHttpResponse(rows())

        from_cache, bodies = [], []
        for name in (None, None, "group 9"):
            if name is not None:
                Group.objects.create(name=name)
            response: Any = view(RequestFactory().get("/"))
            bodies.append(b"".join(response.streaming_content))
            from_cache.append(response.from_cache)
            time.sleep(0.05)
        assert from_cache == [False, True, False]
        assert bodies[2].endswith(b"group 9\n")
        assert set(threads) == {threading.current_thread()}

    def test_the_thread_of_the_request_steps_the_stream(self) -> None:
        response: Any = Client().get("/sync_view")
        b"".join(response.streaming_content)
        assert set(steps) == {threading.current_thread()}

    def test_a_client_that_leaves_ends_the_run(self) -> None:
        response: Any = self.client.get("/sync_view")
        assert next(iter(response.streaming_content)) == b"group 0\n"
        response.close()
        assert not response.completed
        again: Any = self.client.get("/sync_view")
        assert not again.from_cache
        b"".join(again.streaming_content)

    def test_another_request_of_the_thread_joins(self) -> None:
        first: Any = self.client.get("/sync_view")
        second: Any = self.client.get("/sync_view")
        assert isinstance(second, CachedStreamingHttpResponse)
        expected = b"group 0\ngroup 1\ngroup 2\n"
        assert b"".join(second.streaming_content) == expected
        assert b"".join(first.streaming_content) == expected


@override_settings(
    ROOT_URLCONF=__name__, MIDDLEWARE=(), STREAM_CACHED={"default": {"URL": "memory://", "TTL": 60}}
)
class OutsideTest(TestCase):
    """Without a transaction, a thread of the run steps the stream."""

    databases: Any = frozenset()

    @classmethod
    def _enter_atomics(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def _rollback_atomics(cls, atomics: dict[str, Any]) -> None:
        pass

    def test_one_thread_from_the_first_step_to_the_close(self) -> None:
        threads: list[threading.Thread] = []
        languages: list[str | None] = []

        def items() -> Iterator[str]:
            try:
                for number in range(3):
                    threads.append(threading.current_thread())
                    languages.append(translation.get_language())
                    yield str(number)
            finally:
                threads.append(threading.current_thread())

        @cache_stream(60)
        def view(request: HttpRequest) -> StreamingHttpResponse:
            threads.append(threading.current_thread())
            return StreamingHttpResponse(items())

        request = self._request()
        with translation.override("de"):
            response: Any = view(request)
            assert b"".join(response.streaming_content) == b"012"
        viewer, *of_run = threads
        assert viewer is threading.current_thread()
        assert len(of_run) == 4
        assert set(of_run) == {of_run[0]}
        assert of_run[0] is not viewer
        assert languages == ["de"] * 3

    def test_the_thread_of_a_run_closes_its_connections(self) -> None:
        closed_by, stepped_by = Queue[threading.Thread](), list[threading.Thread]()

        def items() -> Iterator[str]:
            stepped_by.append(threading.current_thread())
            yield "a"

        async def async_items() -> AsyncIterator[str]:
            stepped_by.append(await sync_to_async(threading.current_thread)())
            yield "a"

        def view(request: HttpRequest) -> StreamingHttpResponse:
            return StreamingHttpResponse(items())

        def async_view(request: HttpRequest) -> StreamingHttpResponse:
            return StreamingHttpResponse(async_items())

        def close_all() -> None:
            closed_by.put(threading.current_thread())

        for each in (view, async_view):
            with mock.patch.object(connections, "close_all", close_all):
                response: Any = cache_stream(60)(each)(self._request())
                b"".join(response.streaming_content)
                assert closed_by.get(timeout=TIMEOUT) is stepped_by.pop()
            assert closed_by.empty()

    def test_the_language_is_part_of_the_key(self) -> None:
        @cache_stream(60)
        def view(request: HttpRequest) -> StreamingHttpResponse:
            return StreamingHttpResponse(iter([str(translation.get_language())]))

        for language in ("de", "en", "de"):
            with translation.override(language):
                response: Any = view(self._request())
                assert b"".join(response.streaming_content) == language.encode()
        assert response.from_cache

    def test_a_stream_that_the_view_has_begun_stays_in_its_thread(self) -> None:
        threads: list[threading.Thread] = []

        def items() -> Iterator[str]:
            for number in range(3):
                threads.append(threading.current_thread())
                yield str(number)

        @cache_stream(60)
        def view(request: HttpRequest) -> StreamingHttpResponse:
            iterator = items()
            next(iterator)
            return StreamingHttpResponse(iterator)

        response: Any = view(self._request())
        assert b"".join(response.streaming_content) == b"12"
        assert set(threads) == {threading.current_thread()}

    def _request(self) -> HttpRequest:
        return RequestFactory().get(f"/{self.id()}")


def test_the_transaction_of_a_request(cache_address: str) -> None:
    with (
        override_settings(STREAM_CACHED={"default": {"URL": cache_address, "TTL": 60}}),
        transaction.atomic(),
    ):
        Group.objects.create(name="of this transaction")
        response: Any = sync_view(RequestFactory().get("/"))
        assert b"".join(response.streaming_content) == b"of this transaction\n"
        assert connection.in_atomic_block
        transaction.set_rollback(True)


def _states() -> Iterator[str]:
    with transaction.atomic(durable=True):
        yield "within"
    yield f" {connection.in_atomic_block}"


async def _async_states() -> AsyncIterator[str]:
    for _ in range(2):
        yield f" {await sync_to_async(lambda: connection.in_atomic_block)()}"


@pytest.mark.parametrize(
    ("make", "body"), [(_states, b"within False"), (_async_states, b" False False")]
)
def test_a_stream_is_read_after_the_transaction_of_its_request(
    site: Site, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any], body: bytes
) -> None:
    """As Django itself does: a durable transaction in the stream would be refused otherwise."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(make())

    client = site(view)
    for is_stored in (False, True):
        response: Any = client.get("/view")
        assert b"".join(response.streaming_content) == body
        assert response.from_cache == is_stored


def test_a_head_ends_a_stream_that_waits_for_its_reader(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    ended: list[str] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        response = StreamingHttpResponse(iter(["a", "b"]))
        cast(Any, response)._resource_closers.append(lambda: ended.append("closed"))
        return response

    client = site(view)
    client.head("/view").close()
    assert ended == ["closed"]
    assert b"".join(cast(Any, client.get("/view")).streaming_content) == b"ab"


def test_a_stream_without_a_body_in_the_transaction_of_its_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)

    @cache_stream(60)
    def view(request: HttpRequest) -> FileResponse:
        return FileResponse(BytesIO(b""))

    client = site(view)
    for _ in range(2):
        response: Any = client.get("/view")
        assert (response.status_code, b"".join(response.streaming_content)) == (200, b"")
    assert response.from_cache
