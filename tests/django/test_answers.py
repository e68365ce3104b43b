"""What the caller of a decorated view gets."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.core.signals import request_finished
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client

from stream_cached.django import CachedStreamingHttpResponse, cache_stream
from tests.django.conftest import Site
from tests.support.gates import Gate, run, wait_until

CHUNKS = [b"one ", b"two ", b"three"]


def content(response: Any) -> bytes:
    """The body of a response, whatever its kind."""
    return b"".join(response.streaming_content) if response.streaming else response.content


def status(response: Any) -> str:
    """What the cache has done, in one word."""
    words: str = response.headers.get("Cache-Status", "")
    return words.partition("; ")[2].partition(";")[0]


def streaming(chunks: list[bytes] = CHUNKS) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(chunks), content_type="text/csv")


async def items() -> AsyncIterator[bytes]:
    for each in CHUNKS:
        yield each


def test_a_response_without_a_stream(site: Site) -> None:
    made: list[HttpResponse] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        made.append(HttpResponse("body", content_type="text/plain", headers={"X-Own": "1"}))
        return made[-1]

    client = site(view, middleware=())
    miss: Any = client.get("/view")
    hit = client.get("/view")
    assert miss is made[0]
    assert len(made) == 1
    assert type(hit).__mro__[1] is HttpResponse
    assert hit.content == miss.content == b"body"
    assert status(hit) == "hit"
    assert miss.headers["Content-Length"] == hit.headers["Content-Length"] == "4"
    assert miss.headers["X-Own"] == hit.headers["X-Own"]


def test_a_stream_is_one_on_miss_and_hit(site: Site) -> None:
    runs: list[int] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        runs.append(1)
        return streaming()

    client = site(view, middleware=())
    miss = client.get("/view")
    assert isinstance(miss, CachedStreamingHttpResponse)
    assert not miss.from_cache
    # Another client may have all of it by now.
    wait_until(lambda: status(Client().get("/view")) == "hit")
    assert not miss.completed
    with pytest.raises(ValueError, match="completed"):
        miss.construct_cacheable_response()
    assert content(miss) == b"".join(CHUNKS)
    assert miss.completed
    hit = client.get("/view")
    assert isinstance(hit, CachedStreamingHttpResponse)
    assert hit.from_cache
    assert hit.completed
    assert hit.headers["Content-Length"] == str(len(b"".join(CHUNKS)))
    assert content(hit) == b"".join(CHUNKS)
    assert len(runs) == 1


def test_conditions_ranges_and_head(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return streaming()

    client = site(view, middleware=())
    content(client.get("/view"))
    etag = client.get("/view").headers["ETag"]
    unmodified = client.get("/view", headers={"If-None-Match": etag})
    assert (unmodified.status_code, unmodified.content) == (304, b"")
    part = client.get("/view", headers={"Range": "bytes=4-6"})
    assert (part.status_code, content(part)) == (206, b"two")
    assert part.headers["Content-Range"] == "bytes 4-6/13"
    head = client.head("/view")
    assert head.headers["Content-Length"] == "13"
    assert content(head) == b""


def test_callbacks_are_called_once_the_body_is_stored(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        response = streaming()
        response["Content-Encoding"], response["X-Own"] = "x-own", "1"
        return response

    client = site(view, middleware=())
    called: list[Any] = []

    def fails(response: CachedStreamingHttpResponse) -> None:
        raise ValueError("of a callback")

    for _ in range(2):
        response: Any = client.get("/view")
        response.add_post_render_callback(called.append)
        response.add_post_render_callback(fails)
        body = content(response)
        assert called.pop() is response
        plain = response.construct_cacheable_response()
        assert type(plain) is HttpResponse
        assert plain.content == body
        assert not plain.has_header("Content-Encoding")
        assert plain.headers["X-Own"] == "1"
        response.set_cookie("a", "b")
        assert not response.construct_cacheable_response().cookies
        response.close()
    assert [each.levelno for each in caplog.records] == [logging.ERROR] * 2
    assert not called


def test_a_large_body_that_was_no_stream_is_streamed(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"x" * 300_000)

    client = site(view, middleware=())
    assert isinstance(client.get("/view"), HttpResponse)
    hit = client.get("/view")
    assert isinstance(hit, CachedStreamingHttpResponse)
    assert content(hit) == b"x" * 300_000


def test_a_file(site: Site, tmp_path: Any) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"a,b\n" * 50_000)
    files: list[Any] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> FileResponse:
        files.append(path.open("rb"))
        return FileResponse(files[-1], as_attachment=True)

    client = site(view, middleware=())
    miss = client.get("/view")
    assert content(miss) == path.read_bytes()
    miss.close()
    assert files[0].closed
    hit = client.get("/view")
    assert content(hit) == path.read_bytes()
    for name in ("Content-Length", "Content-Type", "Content-Disposition"):
        assert miss.headers[name] == hit.headers[name]
    assert len(files) == 1


@pytest.mark.parametrize("is_stored", [True, False])
def test_what_a_view_closes_is_closed_once(site: Site, is_stored: bool) -> None:
    closed: list[str] = []

    class Rows:
        def __iter__(self) -> Iterator[bytes]:
            return iter(CHUNKS)

        def close(self) -> None:
            closed.append("rows")

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(
            Rows(), headers={} if is_stored else {"Cache-Control": "private"}
        )

    response = site(view, middleware=()).get("/view")
    content(response)
    response.close()
    assert closed == ["rows"]


def test_exceptions_are_those_of_the_view(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest, number: int) -> HttpResponse:
        if number:
            raise Http404
        raise ZeroDivisionError

    client = site(view, middleware=())
    assert client.get("/view/1").status_code == 404
    with pytest.raises(ZeroDivisionError):
        client.get("/view/0")


def test_cookies_of_a_view_are_not_stored(site: Site) -> None:
    runs: list[int] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        response = HttpResponse("mine")
        response.set_cookie("session", str(len(runs)))
        return response

    client = site(view, middleware=())
    for number in (1, 2):
        assert client.get("/view").cookies["session"].value == str(number)
    assert len(runs) == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_middleware_compresses_what_is_stored_as_it_is(site: Site, is_async: bool) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return streaming([b"x" * 1000, b"y" * 1000])

    @cache_stream(60)
    async def aview(request: HttpRequest) -> StreamingHttpResponse:
        return streaming([b"x" * 1000, b"y" * 1000])

    import gzip

    chosen = aview if is_async else view
    client = site(chosen, middleware=("django.middleware.gzip.GZipMiddleware",))
    target = f"/{chosen.__name__}"
    for _ in range(2):
        coded = client.get(target, headers={"Accept-Encoding": "gzip"})
        assert coded.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(content(coded)) == b"x" * 1000 + b"y" * 1000
        plain = client.get(target)
        assert not plain.has_header("Content-Encoding")
        assert content(plain) == b"x" * 1000 + b"y" * 1000


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_asynchronous_client(site: Site, kind: str) -> None:
    @cache_stream(60)
    def sync_view(request: HttpRequest) -> StreamingHttpResponse:
        return streaming()

    @cache_stream(60)
    async def async_view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(items())

    site(sync_view, async_view, middleware=())

    async def test() -> None:
        client = AsyncClient()
        for expected in (False, True):
            response: Any = await client.get(f"/{kind}_view")
            assert response.from_cache == expected
            body = b"".join([part async for part in response.streaming_content])
            assert body == b"".join(CHUNKS)

    run(test)


def test_another_client_joins_a_run(site: Site) -> None:
    gate = Gate()

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        def rows() -> Iterator[bytes]:
            yield CHUNKS[0]
            gate.wait()
            yield from CHUNKS[1:]

        return StreamingHttpResponse(rows())

    first = site(view, middleware=()).get("/view")
    second: Any = Client().get("/view")
    assert isinstance(second, CachedStreamingHttpResponse)
    assert not second.from_cache
    gate.open()
    assert content(second) == content(first) == b"".join(CHUNKS)
    assert second.completed


@pytest.mark.parametrize("kind", ["stored", "private", "joined"])
def test_the_end_of_a_request_is_told_once(site: Site, kind: str) -> None:
    finished: list[object] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        response = streaming()
        if kind == "private":
            response["Cache-Control"] = "private"
        return response

    client = site(view, middleware=())
    first = client.get("/view") if kind == "joined" else None
    request_finished.connect(lambda **kwargs: finished.append(1), weak=False, dispatch_uid="test")
    try:
        response = client.get("/view")
        assert not finished
        # At the end, the client closes the response.
        content(response)
        assert len(finished) == 1
    finally:
        request_finished.disconnect(dispatch_uid="test")
    if first is not None:
        content(first)


def test_a_response_that_nobody_sends_is_stored_all_the_same(site: Site) -> None:
    ended = Gate()

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        def rows() -> Iterator[bytes]:
            # More than a run is ahead of those who read it.
            yield from [b"x" * 100_000] * 50
            ended.open()

        return StreamingHttpResponse(rows())

    client = site(view, middleware=())
    client.get("/view")
    gc.collect()
    ended.wait()
    assert content(client.get("/view")) == b"x" * 5_000_000


def test_a_stale_response_is_sent_while_the_view_runs(site: Site, database: None) -> None:
    gate, runs = Gate(), list[threading.Thread]()

    @cache_stream(0.1, stale_while_revalidate=60)
    def view(request: Any) -> StreamingHttpResponse:
        runs.append(threading.current_thread())
        if len(runs) > 1:
            gate.wait()
        return streaming([b"%d" % len(runs)])

    client = site(view, middleware=("tests.django.middleware.reads_everything",))
    assert content(client.get("/view")) == b"1"
    time.sleep(0.15)
    stale = client.get("/view")
    assert content(stale) == b"1"
    gate.open()
    wait_until(lambda: content(client.get("/view")) != b"1")
    assert runs[0] is threading.current_thread()
    assert runs[1] is not runs[0]


def test_middleware_that_wraps_the_content(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return streaming()

    client = site(view, middleware=("tests.django.middleware.shouts",))
    for _ in range(2):
        response = client.get("/view")
        assert content(response) == b"ONE TWO THREE"
        response.close()

    async def test() -> None:
        response: Any = await AsyncClient().get("/view")
        assert b"".join([part async for part in response]) == b"ONE TWO THREE"

    run(test)


@pytest.mark.parametrize("cached", [True, False])
def test_a_process_ends_when_its_last_reader_has_left(site: Site, cached: bool) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    @cache_stream(60, on_disconnect="stop")
    def view(request: HttpRequest) -> StreamingHttpResponse:
        command = ["sh", "-c", "while echo row; do sleep 0.01; done"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        headers = None if cached else {"Cache-Control": "private"}
        return StreamingHttpResponse(processes[-1].stdout or (), headers=headers)

    response: Any = site(view, middleware=()).get("/view")
    assert next(iter(response.streaming_content)).startswith(b"row")
    response.close()
    assert processes[0].wait(10) != 0


def test_a_view_that_returns_nothing(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> None:
        return None

    client = site(view, middleware=())
    for _ in range(2):
        with pytest.raises(ValueError, match="didn't return an HttpResponse"):
            client.get("/view")


def test_a_stream_that_the_view_has_begun_under_asgi(site: Site) -> None:
    threads: list[threading.Thread] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        def rows() -> Iterator[bytes]:
            for chunk in CHUNKS:
                threads.append(threading.current_thread())
                yield chunk

        begun = rows()
        first = next(begun)
        response = StreamingHttpResponse(begun)
        response["X-First"] = first.decode().strip()
        return response

    site(view, middleware=())

    async def test() -> None:
        response: Any = await AsyncClient().get("/view")
        assert response.headers["X-First"] == "one"
        parts = [part async for part in response.streaming_content]
        assert b"".join(parts) == b"".join(CHUNKS[1:])

    run(test)
    assert len(set(threads)) == 1


def test_a_client_that_leaves_what_middleware_has_wrapped(site: Site) -> None:
    closed = Gate()

    @cache_stream(60, on_disconnect="stop")
    async def view(request: HttpRequest) -> StreamingHttpResponse:
        async def rows() -> AsyncIterator[bytes]:
            try:
                yield CHUNKS[0]
                await asyncio.Event().wait()
            finally:
                closed.open()

        return StreamingHttpResponse(rows())

    site(view, middleware=("tests.django.middleware.shouts",))

    async def test() -> None:
        response: Any = await AsyncClient().get("/view")
        parts = aiter(response)
        assert await anext(parts) == b"ONE "
        await parts.aclose()
        await closed.passed()

    run(test)
