"""Requests with preconditions and for ranges, and the validators that they need."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiocache import cached
from cashews import Cache
from fastapi import Depends, FastAPI
from hypothesis import settings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.cashews import install, uninstall
from tests.conftest import Serve
from tests.support.asgi import Exchange
from tests.support.clock import Clock
from tests.support.gates import Gate, run, runs_over, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.runs import HIT, MISS, HeldRuns, Runs, segments
from tests.support.versions import streams_generators

#: More than five segments.
CHUNKS, CHUNK = 14, 100_000


def test_a_range_reads_the_segments_that_it_covers(
    serve: Serve, cache_url: str, segments_read: list[int]
) -> None:
    runs = Runs(chunks=CHUNKS, chunk=CHUNK)
    port = serve(runs.app(cache_url)).port
    fetch(port)
    (body,) = runs.bodies
    segments_read.clear()
    answer = fetch(port, headers={"Range": "bytes=700000-700009"})
    assert (answer.status, answer.body) == (206, body[700_000:700_010])
    assert (answer.header("cache-status"), answer.header("content-length")) == (HIT, "10")
    assert len(segments_read) == 1
    answer = fetch(port, headers={"Range": "bytes=-300000"})
    assert (answer.status, answer.body) == (206, body[-300_000:])
    assert len(segments_read) <= 1 + 3
    assert len(runs.bodies) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_a_client_has_is_told_without_a_segment(
    serve: Serve, cache_url: str, segments_read: list[int], method: str
) -> None:
    runs = Runs(headers={"Vary": "Accept", "Cache-Control": "max-age=9", "X-Row": "1"})
    port = serve(runs.app(cache_url)).port
    assert fetch(port).header("etag") is None
    hit = fetch(port)
    etag = hit.header("etag")
    assert etag is not None
    assert etag.startswith('"')
    segments_read.clear()
    answer = fetch(port, headers={"If-None-Match": f'W/{etag}, "other"'}, method=method)
    assert (answer.status, answer.body, answer.complete) == (304, b"", True)
    assert not segments_read
    shown = {name.lower() for name, _ in answer.headers}
    assert shown >= {b"etag", b"vary", b"cache-control", b"age", b"cache-status"}
    assert not shown & {b"content-length", b"content-type", b"x-row", b"transfer-encoding"}
    answer = fetch(port, headers={"If-Match": '"other"'}, method=method)
    assert (answer.status, answer.body) == (412, b"")
    assert not segments_read
    assert len(runs.bodies) == 1


RANDOM = random.Random(1).randbytes(700_000)


def any_range(rng: random.Random, size: int) -> tuple[str, slice]:
    """A range in one of its forms, and what it asks for."""
    first, last = (rng.choice([rng.randrange(size), rng.randrange(300)]) for _ in "12")
    match rng.randrange(4):
        case 0:
            return f"{first}-", slice(first, size)
        case 1:
            return f"-{last + 1}", slice(size - last - 1, size)
        case 2:
            beyond = size + rng.choice([0, 1, last, 10**30])
            return f"{first}-{beyond}", slice(first, size)
        case _:
            first, last = min(first, last), max(first, last)
            return f"{first}-{last}", slice(first, last + 1)


@pytest.mark.parametrize(("size", "inline_max"), [(700_000, 0), (20_000, 100_000)])
def test_many_random_ranges_are_slices(serve: Serve, size: int, inline_max: int) -> None:
    @stream_cached(ttl=600, inline_max=inline_max)
    async def endpoint(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, size, 7_777):
                yield RANDOM[start : min(start + 7_777, size)]

        return StreamingResponse(chunks())

    port, rng = serve(Starlette(routes=[Route("/", endpoint)])).port, random.Random(2)
    assert fetch(port).body == RANDOM[:size]
    for _ in range(15 * settings().max_examples):
        text, part = any_range(rng, size)
        answer = fetch(port, headers={"Range": f"bytes={text}"})
        assert (answer.status, answer.complete) == (206, True)
        assert answer.body == RANDOM[part], text
        shown = f"bytes {part.start}-{part.stop - 1}/{size}"
        assert answer.header("content-range") == shown


def test_a_download_that_broke_off_is_resumed(serve: Serve, cache_url: str) -> None:
    runs = Runs()
    port = serve(runs.app(cache_url)).port
    fetch(port)
    (body,) = runs.bodies
    etag = fetch(port).header("etag") or ""
    rest = fetch(port, headers={"Range": "bytes=400000-", "If-Range": etag})
    assert (rest.status, rest.body) == (206, body[400_000:])
    whole = fetch(port, headers={"Range": "bytes=400000-", "If-Range": '"other"'})
    assert (whole.status, whole.body) == (200, body)


def test_a_part_whose_segment_is_lost_is_made_again(serve: Serve) -> None:
    cache = MemoryCache()
    runs = Runs(chunks=CHUNKS, chunk=CHUNK)
    cached = stream_cached(ttl=60, cache=cache)
    port = serve(Starlette(routes=[Route("/", cached(runs.__call__))])).port
    fetch(port)
    lost = max(segments(set(cache.sizes())), key=lambda key: int(key.rpartition(":")[2]))
    del cache.memory._items[lost]
    answer = fetch(port, headers={"Range": "bytes=-10"})
    assert (answer.status, answer.complete) == (200, True)
    assert answer.body == runs.bodies[1]
    assert answer.header("cache-status") == MISS


# -- the ETag -------------------------------------------------------------------------------------


def etags(serve: Serve, headers: dict[str, str], asked: dict[str, str], **settings: Any) -> Any:
    async def body() -> AsyncIterator[bytes]:
        yield b"always "
        yield b"the same"

    @stream_cached(ttl=60, **settings)
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(body(), headers=headers)

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    return [fetch(port, headers=asked).header("etag") for _ in range(2)]


def test_equal_bodies_have_equal_tags(serve: Serve) -> None:
    (none, one), (_, other) = (etags(serve, {}, {}, inline_max=size) for size in (0, 1000))
    assert none is None
    assert one == other
    assert one.startswith('"')


GZIP = {"Accept-Encoding": "br, gzip"}


@pytest.mark.parametrize(
    ("headers", "asked", "is_strong"),
    [
        ({}, GZIP, False),
        ({}, {"Accept-Encoding": "identity, *;q=0"}, True),
        ({"Content-Encoding": "br"}, GZIP, True),
        ({"Content-Type": "video/mp4"}, GZIP, True),
        ({"Content-Type": "text/csv"}, {"Accept-Encoding": "*"}, False),
    ],
)
def test_a_tag_is_weak_where_the_body_may_be_compressed(
    serve: Serve, headers: dict[str, str], asked: dict[str, str], is_strong: bool
) -> None:
    _, etag = etags(serve, headers, asked)
    assert etag.startswith('"' if is_strong else 'W/"')


def test_the_endpoint_has_the_last_word(serve: Serve) -> None:
    assert etags(serve, {"ETag": '"own"'}, GZIP) == ['"own"'] * 2
    assert etags(serve, {}, {}, etag=False) == [None] * 2
    assert etags(serve, {}, {}, etag="weak")[1].startswith('W/"')


def test_compressed_bytes_have_no_strong_tag(serve: Serve) -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("row\n" * 1000)

    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(GZipMiddleware)])
    port = serve(app).port
    _, hit = fetch(port, headers=GZIP), fetch(port, headers=GZIP)
    etag = hit.header("etag") or ""
    assert (hit.header("content-encoding"), etag[:2]) == ("gzip", "W/")
    assert fetch(port, headers={**GZIP, "If-None-Match": etag}).status == 304
    part = fetch(port, headers={**GZIP, "If-Range": etag, "Range": "bytes=5-"})
    assert part.status == 200


# -- the run --------------------------------------------------------------------------------------


def test_a_value_of_fastapi_is_not_sent_twice(serve: Serve) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60)
    async def rows() -> list[int]:
        return [1, 2, 3]

    port = serve(app).port
    fetch(port)
    etag = fetch(port).header("etag") or ""
    assert fetch(port, headers={"If-None-Match": etag}).status == 304
    part = fetch(port, headers={"Range": "bytes=1-1"})
    assert (part.status, part.body) == (206, b"1")


@streams_generators
def test_items_of_a_generator_are_sent_whole(serve: Serve) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60)
    async def rows() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    port = serve(app).port
    for _ in range(2):
        answer = fetch(port, headers={"Range": "bytes=0-1", "If-None-Match": "*"})
        assert (answer.status, answer.body) == (200, fetch(port).body)


def test_a_request_for_a_range_leads_once_the_head_is_known(serve: Serve) -> None:
    calls: list[str] = []
    gates = [Gate(), Gate()]
    begun = Gate()

    @stream_cached(ttl=60, unguarded=("headers",))
    async def endpoint(request: Request) -> Response:
        number = len(calls)
        calls.append(request.headers.get("range", ""))
        begun.open()
        await gates[0].passed()

        async def body() -> AsyncIterator[bytes]:
            yield b"run %d, " % number
            await gates[1].passed()
            yield b"and the end"

        return StreamingResponse(body())

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(fetch, port, headers={"Range": "bytes=0-2"})
        begun.wait()
        # Its head is not known, and may be for its own request alone.
        second = pool.submit(fetch, port)
        wait_until(lambda: len(calls) == 2)
        gates[0].open()
        gates[1].open()
        assert {first.result().body, second.result().body} == {
            b"run 0, and the end",
            b"run 1, and the end",
        }
        gates[1] = Gate()


def test_a_condition_on_a_stream_that_is_read_already_joins_it(serve: Serve) -> None:
    runs = Runs()
    held = Gate()
    reached = Gate()

    async def before(run: int, number: int) -> None:
        if number == 5:
            reached.open()
            await held.passed()

    runs.before = before  # type: ignore[method-assign]
    port = serve(runs.app("memory://")).port
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, port, headers={"Range": "bytes=0-9"})
        reached.wait()
        second = pool.submit(fetch, port, headers={"If-None-Match": '"a"'})
        wait_until(lambda: runs.made[0] >= 5)
        held.open()
        answers = [first.result(), second.result()]
    assert len(runs.bodies) == 1
    assert [answer.body for answer in answers] == runs.bodies * 2
    assert answers[0].header("cache-status") == MISS


@pytest.mark.usefixtures("apps_are_processes")
@pytest.mark.parametrize("condition", [{"If-None-Match": '"a"'}, {"Range": "bytes=0-9"}])
def test_a_condition_follows_the_run_of_another_process(
    serve: Serve, redis_url: str, condition: dict[str, str]
) -> None:
    runs = HeldRuns()
    ports = [serve(runs.app(redis_url, key_host=False)).port for _ in range(2)]
    with RawClient(ports[0]) as first, RawClient(ports[1]) as second:
        first.send()
        first.read_head()
        second.send(headers=condition)
        assert second.read_head().status == 200
        runs.gate.open()
        answers = [each.read_rest() for each in (first, second)]
    assert [answer.body for answer in answers] == runs.bodies * 2


def test_what_a_file_says_to_a_condition_is_for_its_own_client(
    serve: Serve, cache_url: str, tmp_path: Any
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"0123456789")

    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(request: Request) -> Response:
        return FileResponse(path)

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    cold = fetch(port, headers={"Range": "bytes=2-4"})
    assert (cold.status, cold.body) == (206, b"234")
    assert cold.header("cache-status") == 'stream-cached; fwd=uri-miss; detail="conditional"'
    assert fetch(port, headers={"Range": "bytes=20-"}).status == 416
    whole = fetch(port)
    assert (whole.status, whole.body, whole.header("cache-status")) == (200, b"0123456789", MISS)
    assert fetch(port, headers={"Range": "bytes=2-4"}).header("cache-status") == HIT


async def _asked(app: Any, *headers: tuple[bytes, bytes]) -> Exchange:
    """A request of a client that says more than the usual."""
    exchange = Exchange(app)
    exchange.scope["headers"] += headers
    await exchange.run()
    return exchange


@pytest.mark.parametrize(
    "header",
    [
        (b"range", b"bytes=1-4"),
        *((b"if-none-match", tag) for tag in (b"*", b'"tag"')),
        (b"if-match", b'"other"'),
        (b"if-modified-since", b"Fri, 01 Jan 2100 00:00:00 GMT"),
    ],
)
@pytest.mark.parametrize("key", [None, "outer"])
def test_what_is_made_of_another_answer_is_made_of_the_whole(
    header: tuple[bytes, bytes], key: str | None
) -> None:
    cached = functools.partial(stream_cached, ttl=60, cache=MemoryCache())

    @cached()
    async def inner(request: Request) -> Response:
        dated = {"etag": '"tag"', "last-modified": "Fri, 01 Jan 2010 00:00:00 GMT"}
        return PlainTextResponse("0123456789", headers=dated)

    @cached(key=key)
    async def outer(request: Request) -> Response:
        response = await inner(request)
        return PlainTextResponse(b"<%b>" % bytes(response.body))

    app = Starlette(routes=[Route("/", outer)])

    async def ask(*headers: tuple[bytes, bytes]) -> bytes:
        return (await _asked(app, *headers)).body

    async def main() -> None:
        await ask()
        await outer.invalidate()
        assert [await ask(header), await ask()] == [b"<0123456789>"] * 2

    run(main)


@pytest.mark.parametrize("raises", [False, True])
def test_a_helper_that_was_called_before_leaves_its_conditions_to_the_endpoint(
    raises: bool,
) -> None:
    runs: list[str] = []

    @stream_cached(ttl=60, cache=MemoryCache(), key="helper")
    async def helper(request: Request) -> str:
        runs.append("helper")
        if raises:
            raise LookupError
        return "value"

    @stream_cached(ttl=60, cache=MemoryCache())
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("0123456789", headers={"etag": '"tag"'})

    async def outer(request: Request) -> Any:
        with contextlib.suppress(LookupError):
            await helper(request)
        return await endpoint(request)

    async def main() -> None:
        app = Starlette(routes=[Route("/", outer)])
        await Exchange(app).run()
        await helper.invalidate()
        exchange = await _asked(app, (b"if-none-match", b'"tag"'))
        assert exchange.sent[0]["status"] == 304
        assert runs == ["helper"] * 2

    run(main)


def _same(request: Request) -> Request:
    return request


def _over(request: Request) -> Request:
    return Request(request.scope, request.receive)


def _over_a_copy(request: Request) -> Request:
    return Request(dict(request.scope), request.receive)


def _made_of(body: Any) -> Response:
    return PlainTextResponse(b"<%b>" % bytes(body))


async def _at_once(inner: Any, request: Request) -> Any:
    return _made_of((await inner(request)).body)


async def _while_it_is_sent(inner: Any, request: Request) -> Any:
    async def body() -> AsyncIterator[bytes]:
        yield b"<"
        yield bytes((await inner(request)).body)
        yield b">"

    return StreamingResponse(body())


async def _by_an_application(inner: Any, request: Request) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await inner(Request(scope, receive))
        await _made_of(response.body)(scope, receive, send)

    return app


@pytest.mark.parametrize("key", [None, "outer"])
@pytest.mark.parametrize("passed", [_same, _over, _over_a_copy])
@pytest.mark.parametrize("made", [_at_once, _while_it_is_sent, _by_an_application])
def test_what_is_made_of_another_answer_is_made_of_the_whole_by_any_request(
    made: Any, passed: Callable[[Request], Request], key: str | None
) -> None:
    cached = functools.partial(stream_cached, ttl=60, cache=MemoryCache())

    @cached()
    async def inner(request: Request) -> Response:
        return PlainTextResponse("0123456789")

    @cached(key=key, unguarded=("headers", "client"))
    async def outer(request: Request) -> Any:
        return await made(inner, passed(request))

    app = Starlette(routes=[Route("/", outer)])

    async def ask(*headers: tuple[bytes, bytes]) -> bytes:
        return (await _asked(app, *headers)).body

    async def main() -> None:
        await ask()
        await outer.invalidate()
        found = [await ask((b"if-none-match", b"*")), await ask()]
        assert found == [b"<0123456789>"] * 2

    run(main)


@pytest.mark.parametrize("wish", [b"only-if-cached", b"max-stale"])
@pytest.mark.parametrize("key", [None, "outer"])
def test_a_client_that_takes_what_is_there_does_not_say_so_for_all(
    key: str | None, wish: bytes, clock: Clock
) -> None:
    cached = functools.partial(stream_cached, cache=MemoryCache(), honor_request=True)
    runs = itertools.count(1)

    @cached(ttl=10, stale_if_error=3600)
    async def inner(request: Request) -> Response:
        return PlainTextResponse(str(next(runs)))

    @cached(ttl=60, stale_while_revalidate=600, key=key)
    async def outer(request: Request) -> Response:
        return _made_of((await inner(request)).body)

    app = Starlette(routes=[Route("/", outer)])

    async def ask(*headers: tuple[bytes, bytes]) -> bytes:
        exchange = await _asked(app, *headers)
        await runs_over()
        return exchange.body

    async def main() -> None:
        assert await ask() == b"<1>"
        clock.passed += 70
        # Its answer is stale, and a new one is made meanwhile.
        assert await ask((b"cache-control", wish)) == b"<1>"
        assert await ask() == b"<2>"

    run(main)


class Page:
    """What a dependency makes of another answer."""

    def __init__(self, name: str, body: str) -> None:
        self.name, self.body = name, body


@pytest.mark.parametrize(
    "options",
    [{"key_args": {"page": lambda page: page.name}}, {"key": "page"}, {"key_ignore": ("page",)}],
)
def test_what_a_dependency_makes_of_another_answer_is_made_of_the_whole(
    options: dict[str, Any],
) -> None:
    cached = functools.partial(stream_cached, ttl=60, cache=MemoryCache())
    app = FastAPI()

    @cached()
    async def inner(request: Request) -> Response:
        return PlainTextResponse("0123456789")

    async def page_of(request: Request) -> Page:
        return Page("name", bytes((await inner(request)).body).decode())

    depends = Depends(page_of)

    @app.get("/")
    @cached(**options)
    async def outer(page: Any = depends) -> dict[str, str]:
        return {"page": page.body}

    async def ask(*headers: tuple[bytes, bytes]) -> bytes:
        return (await _asked(app, *headers)).body

    async def main() -> None:
        await ask()
        await outer.invalidate()
        found = [await ask((b"if-none-match", b"*")), await ask()]
        assert found == [b'{"page":"0123456789"}'] * 2

    run(main)


def over_another(answer: Any) -> Any:
    """An endpoint that makes something of another one's answer."""

    async def outer(request: Request) -> Response:
        return PlainTextResponse(b"<%b>" % bytes((await answer(request)).body))

    return outer


def over_nothing(answer: Any) -> Any:
    return answer


def called_by_another(answer: Any) -> Any:
    """An endpoint that has its answer from a helper."""

    async def page(request: Request) -> Response:
        found: Response = await answer(request)
        return found

    return page


@pytest.mark.parametrize("route", [over_nothing, called_by_another])
@pytest.mark.parametrize("over", [over_nothing, over_another])
@pytest.mark.parametrize("library", ["aiocache", "cashews", "installed"])
@pytest.mark.parametrize(
    "header",
    [
        (b"range", b"bytes=0-3"),
        (b"range", b"bytes=99-"),
        (b"if-none-match", b"*"),
        (b"if-match", b'"other"'),
        (b"cache-control", b"only-if-cached"),
    ],
)
def test_a_cache_of_another_library_is_given_the_whole(
    library: str,
    over: Callable[[Any], Any],
    route: Callable[[Any], Any],
    header: tuple[bytes, bytes],
) -> None:
    if library == "installed":
        install()
    cache = Cache()
    cache.setup("mem://")
    app = FastAPI()

    async def inner(request: Request) -> Response:
        return PlainTextResponse("0123456789")

    above: Any = cached(key=os.urandom(8).hex()) if library == "aiocache" else cache("1m", key="k")
    answer = stream_cached(ttl=60, cache=MemoryCache())(inner)
    app.get("/")(route(above(over(answer))))

    async def ask(*headers: tuple[bytes, bytes]) -> tuple[int, bytes]:
        exchange = await _asked(app, *headers)
        return exchange.sent[0]["status"], exchange.body

    async def main() -> None:
        whole = await ask()
        await (above.cache if library == "aiocache" else cache).clear()
        if header[0] == b"cache-control":
            await answer.invalidate()
        assert [await ask(header), await ask()] == [whole] * 2

    try:
        run(main)
    finally:
        uninstall()
