"""What a hit costs, in counts that no load of the machine changes: a guard against regressions."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from redis.asyncio.connection import AbstractConnection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

import stream_cached as package
from stream_cached import MemoryCache, stream_cached
from stream_cached.endpoint import startup
from stream_cached.entries.recorder import Recorder
from stream_cached.format.envelope import Own
from stream_cached.opentelemetry import OpenTelemetryMetrics
from stream_cached.prometheus import PrometheusMetrics
from tests.support.asgi import Exchange, get
from tests.support.gates import until
from tests.support.versions import needs

#: Chunks, and bytes of each.
BODIES = {
    "small": (4, 256),
    "inline": (20, 10_000),
    "many chunks": (20_000, 20),
    "large": (40, 65_536),
    # Too long for a record; one segment.
    "segment": (1, 261_500),
}

HIT, MISS = "stream-cached; hit", "stream-cached; fwd=uri-miss; stored"

_OURS = str(Path(package.__file__).parent)


class Costs:
    """What is counted while a hit is answered."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.round_trips = 0
        self.tasks = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        send = AbstractConnection.send_packed_command
        loop = asyncio.get_running_loop()

        async def sending(connection: Any, command: Any, *args: Any, **kwargs: Any) -> None:
            self.round_trips += 1
            packed = b"".join([command] if isinstance(command, bytes) else command)
            names = [each for each in packed.split(b"\r\n") if each.isalpha() and each.isupper()]
            self.sent.update(each.decode() for each in names)
            await send(connection, command, *args, **kwargs)

        def making(loop: Any, coroutine: Any, **kwargs: Any) -> Any:
            self.tasks += 1
            return asyncio.Task(coroutine, loop=loop, **kwargs)

        def profile(frame: FrameType, event: str, arg: object) -> None:
            code = frame.f_code
            if event != "call" or not code.co_filename.startswith((_OURS, "<string>")):
                return
            if code.co_name == "__init__":
                self.made[type(frame.f_locals.get("self")).__name__] += 1
            self.calls[f"{code.co_filename.removeprefix(_OURS)}:{code.co_name}"] += 1

        AbstractConnection.send_packed_command = sending  # type: ignore[method-assign, assignment]
        loop.set_task_factory(making)
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            loop.set_task_factory(None)
            AbstractConnection.send_packed_command = send  # type: ignore[method-assign]


def _app(
    cache: str, body: str, secret: str = "", on_event: Any = None, tags: Any = ()
) -> Starlette:
    count, size = BODIES[body]

    @stream_cached(ttl=60, cache=cache, secret=secret or None, on_event=on_event, tags=tags)
    async def endpoint(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(count):
                yield b"%d" % (number % 10) * size

        return StreamingResponse(chunks(), media_type="text/csv")

    return Starlette(routes=[Route("/", endpoint)])


def _cost(
    cache: str, body: str, on_event: Any = None
) -> tuple[Costs, list[Message], list[Message]]:
    """Return what a hit costs, what it sent, and what the hit before it sent."""

    async def main() -> tuple[Costs, list[Message], list[Message]]:
        app, costs = _app(cache, body, on_event=on_event), Costs()
        await get(app)
        # The first ones read the body, and look at the application and its route; from then on an
        # answer from memory is ready.
        for _ in range(4):
            before = await get(app)
        exchange = Exchange(app)
        with costs.counted():
            await exchange.run()
        assert before.cache_status == exchange.cache_status == HIT
        assert exchange.complete
        assert exchange.body == before.body
        assert len(exchange.body) == BODIES[body][0] * BODIES[body][1]
        return costs, exchange.sent, before.sent

    return asyncio.run(main())


def _slow_app(cache: str) -> Starlette:
    count, size = BODIES["small"]

    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(count):
                yield b"%d" % (number % 10) * size
                await asyncio.sleep(0.03)

        return StreamingResponse(chunks(), media_type="text/csv")

    return Starlette(routes=[Route("/", endpoint)])


def _cost_of_a_miss(app: Starlette, before: Sequence[int] = range(3)) -> Costs:
    """Return what a miss costs where other keys were used before."""

    async def main() -> Costs:
        costs = Costs()
        for number in before:
            await _asking(app, number).run()
        exchange = _asking(app, 3)
        with costs.counted():
            await exchange.run()
            await _nothing_goes_on()
        assert exchange.cache_status == MISS
        assert exchange.complete
        hit = _asking(app, 3)
        await hit.run()
        assert hit.cache_status == HIT
        assert hit.body == exchange.body
        return costs

    return asyncio.run(main())


def _asking(app: Starlette, number: int) -> Exchange:
    exchange = Exchange(app)
    exchange.scope["query_string"] = b"number=%d" % number
    return exchange


async def _nothing_goes_on() -> None:
    """Wait until what the request has left behind has ended."""
    this = asyncio.current_task()
    while others := asyncio.all_tasks() - {this}:
        await asyncio.wait(others)


def _parts(sent: list[Message]) -> list[bytes]:
    return [message["body"] for message in sent if message["type"] == "http.response.body"]


@pytest.fixture(autouse=True)
def _no_lifespans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran before, no application of this process has had a lifespan with a state."""
    monkeypatch.setattr(startup, "_has_put", [])


@pytest.mark.parametrize("body", ["small", "inline", "many chunks", "large"])
@pytest.mark.parametrize(
    "store",
    ["memory", pytest.param("redis", marks=needs("redis", "8.1", "has to send commands itself"))],
)
def test_what_a_hit_costs(store: str, body: str, request: pytest.FixtureRequest) -> None:
    cache = "memory://"
    if store == "redis":
        url, namespace = map(request.getfixturevalue, ("redis_url", "namespace"))
        cache = f"{url}?namespace={namespace}"

    costs, sent, before = _cost(cache, body)

    # One message for the head, and one for each megabyte.
    assert len(_parts(sent)) == {"large": 3}.get(body, 1)
    # No byte of the body was copied: what is sent is what was sent before.
    for part, other in zip(_parts(sent), _parts(before), strict=True):
        assert part is other
    assert costs.made.total() <= (0 if store == "memory" else 3), costs.made
    # How many segments there are depends on how soon one chunk comes after the other. Of a record
    # of 200 KB, only the head is read again.
    starts = {"small": 0, "inline": 1, "many chunks": 2, "large": 11}[body]
    if store == "memory":
        assert (costs.round_trips, costs.tasks) == (0, 0)
        assert costs.calls.total() <= 21 + len(_parts(sent)), costs.calls
    else:
        assert costs.round_trips == 1
        assert costs.sent.pop("GETRANGE", 0) >= starts
        assert costs.sent == Counter(MGET=1)
        assert costs.tasks == 0
        assert costs.calls.total() <= 80 + 2 * starts, costs.calls


def _told() -> dict[str, Any]:
    metrics = OpenTelemetryMetrics(MeterProvider(), TracerProvider())
    return {
        "function": lambda event: None,
        "prometheus": PrometheusMetrics(CollectorRegistry()),
        "opentelemetry": metrics,
    }


@pytest.mark.parametrize(
    ("kind", "more"), [("function", 16), ("prometheus", 19), ("opentelemetry", 22)]
)
def test_what_a_hit_costs_of_which_something_is_told(kind: str, more: int) -> None:
    without, *_ = _cost("memory://", "small")
    told, *_ = _cost("memory://", "small", _told()[kind])
    assert without.calls.total() < told.calls.total() <= without.calls.total() + more
    # Without it, nothing of this is done.
    names = {each for each in told.calls if "event_hook" in each or "/sending.py:noting" in each}
    assert names
    assert names.isdisjoint(without.calls)
    assert "WatchedSending" not in without.made


def test_a_hit_costs_the_same_whatever_the_number_of_its_chunks() -> None:
    few, *_ = _cost("memory://", "small")
    many, *_ = _cost("memory://", "many chunks")
    assert many.calls.total() == few.calls.total()


@pytest.mark.parametrize(
    ("body", "tasks", "calls"), [("small", 3, 630), ("inline", 3, 650), ("large", 4, 1_990)]
)
def test_what_a_miss_costs_in_memory(
    body: str, tasks: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is.
    monkeypatch.setattr("stream_cached.streams.stream.GIVE_WAY_AFTER", 60.0)
    costs = _cost_of_a_miss(_app("memory://", body))

    # What listens to the client, what drains the source, and what commits and winds up; and what
    # writes the segments of a large body.
    assert costs.tasks == tasks
    assert costs.calls.total() <= calls, costs.calls


class _Chunk(bytes):
    """Bytes of a class of the user, which may hold other objects."""


@pytest.mark.parametrize("kind", [bytes, _Chunk])
def test_large_chunks_are_stored_in_memory_without_a_copy(kind: type[bytes]) -> None:
    # No segment has exactly so many of them as there is room for.
    chunks = [kind(b"%d" % (number % 10) * 100_000) for number in range(20)]
    cache = MemoryCache()

    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> StreamingResponse:
        async def made() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return StreamingResponse(made(), media_type="text/csv")

    async def main() -> list[bytes | memoryview]:
        app = Starlette(routes=[Route("/", endpoint)])
        assert (await get(app)).cache_status == MISS
        values = [cache.memory.get(key) for key in cache.memory.sizes()]
        pieces = [piece for each in values if isinstance(each, Own) for piece in each.pieces]
        assert (await get(app)).body == b"".join(chunks)
        return pieces

    pieces = asyncio.run(main())
    assert sum(map(len, pieces)) == sum(map(len, chunks))
    assert {type(piece) for piece in pieces} == {bytes}
    own = {id(chunk) for chunk in chunks}
    uncopied = [piece for piece in pieces if id(piece) in own]
    # Of a class of the user, another object is kept, which is no more than its bytes.
    assert len(uncopied) == (20 if kind is bytes else 0)


def _reading_app(cache: str) -> Starlette:
    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> StreamingResponse:
        assert request.headers.get("host") != request.scope["path"]

        async def chunks() -> AsyncIterator[bytes]:
            yield b"%d" % hasattr(request.state, "_tenant_of_nobody")

        return StreamingResponse(chunks())

    return Starlette(routes=[Route("/", endpoint)])


def _app_of_bodies(cache: str) -> Starlette:
    @stream_cached(ttl=60, cache=cache)
    async def endpoint(request: Request) -> Response:
        return Response(b"a body that is at hand")

    return Starlette(routes=[Route("/", endpoint)])


@pytest.mark.parametrize("body", ["small", "many chunks", "large", "at hand", "that reads"])
@pytest.mark.parametrize("store", ["memory", "redis"])
def test_a_miss_leaves_nothing_to_the_garbage_collector(
    store: str, body: str, request: pytest.FixtureRequest
) -> None:
    cache = "memory://"
    if store == "redis":
        url, namespace = map(request.getfixturevalue, ("redis_url", "namespace"))
        cache = f"{url}?namespace={namespace}"

    async def main() -> None:
        others = {"at hand": _app_of_bodies, "that reads": _reading_app}
        app = others[body](cache) if body in others else _app(cache, body)
        await _asking(app, 0).run()
        await _nothing_goes_on()
        gc.collect()
        before = _ours()
        for number in range(1, 4):
            exchange = _asking(app, number)
            await exchange.run()
            assert exchange.cache_status == MISS
            del exchange
            await _nothing_goes_on()
        left = _ours() - before
        assert not left.keys() & {"Run", "Recorder", "Stream", "Reader", "Call", "Guard"}, left

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def _ours() -> Counter[str]:
    """Return how many objects there are of each of our classes."""
    objects = [
        each for each in gc.get_objects() if str(type(each).__module__).startswith("stream_c")
    ]
    return Counter(type(each).__name__ for each in objects)


def test_a_miss_costs_little_for_each_of_many_small_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_cached.streams.stream.GIVE_WAY_AFTER", 60.0)
    count, _ = BODIES["many chunks"]
    costs = _cost_of_a_miss(_app("memory://", "many chunks"))

    assert costs.calls["/streams/burst.py:put"] == count
    assert costs.calls.total() <= count + 1_100, costs.calls
    # They are handed on, recorded and sent many at once.
    assert costs.made.total() <= 80, costs.made
    for place in ("/streams/stream.py:feed_all", "/entries/recorder.py:feed"):
        assert costs.calls[place] <= 50
    assert costs.calls["/responses/live.py:_send_part"] <= 50


@pytest.fixture
def tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run tell followers of its progress, however slow the machine is."""
    monkeypatch.setattr("stream_cached.entries.recorder.TELL_FIRST_AFTER", 60.0)


@pytest.mark.usefixtures("tells_nothing")
@pytest.mark.parametrize("secret", ["", "a secret of some length"])
def test_what_a_miss_costs_on_redis(redis_url: str, namespace: str, secret: str) -> None:
    costs = _cost_of_a_miss(_app(f"{redis_url}?namespace={namespace}", "small", secret))

    # The look-up, with the lease; and the commit, with the end of the lease.
    assert costs.round_trips == 2
    assert costs.sent == Counter(EVAL=2)


@pytest.mark.usefixtures("tells_nothing")
@pytest.mark.parametrize("secret", ["", "a secret of some length"])
def test_the_last_segments_are_written_with_the_record(
    redis_url: str, namespace: str, secret: str
) -> None:
    costs = _cost_of_a_miss(_app(f"{redis_url}?namespace={namespace}", "segment", secret))

    assert costs.round_trips == 2
    assert (costs.sent["EVAL"], costs.sent["SET"]) == (2, 1)
    # Nothing has to wait for them.
    assert costs.calls["/entries/recorder.py:_write"] == 0


@pytest.mark.usefixtures("tells_nothing")
@pytest.mark.parametrize("has_tag", [False, True])
def test_what_a_miss_costs_on_redis_that_is_not_expected(
    redis_url: str, namespace: str, *, has_tag: bool
) -> None:
    tags = _tag_of if has_tag else ()
    # The last call before it is a hit.
    app = _app(f"{redis_url}?namespace={namespace}", "small", tags=tags)
    costs = _cost_of_a_miss(app, before=(0, 1, 1))

    # The look-up; the version of a tag that is new; the lease, with another look; and the commit.
    assert costs.round_trips == 3 + has_tag
    assert (costs.sent["MGET"], costs.sent["EVAL"]) == (2, 1)


def _tag_of(request: Request) -> list[str]:
    return [f"number:{request.query_params['number']}"]


def test_what_a_slow_miss_tells_costs_nothing_at_its_end(redis_url: str, namespace: str) -> None:
    costs = _cost_of_a_miss(_slow_app(f"{redis_url}?namespace={namespace}"))

    # Nobody has followed it.
    assert costs.sent["PUBLISH"] >= 1
    assert costs.round_trips == 2 + costs.sent["PUBLISH"]
    assert costs.sent["EVAL"] == 2


def test_a_body_without_followers_is_not_cut_into_segments(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (count, size), looks, tell = BODIES["inline"], asyncio.Event(), Recorder._tell_news

    async def when_there_is_more(recorder: Recorder) -> None:
        # However slow the machine is, the endpoint does not pause.
        length = recorder._length
        looks.set()
        await until(lambda: recorder._length > length or recorder._closing)
        await tell(recorder)

    @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
    async def endpoint(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(count):
                yield b"%d" % (number % 10) * size
                if number % 4 == 3:
                    looks.clear()
                    await looks.wait()

        return StreamingResponse(chunks(), media_type="text/csv")

    monkeypatch.setattr(Recorder, "_tell_news", when_there_is_more)
    costs = _cost_of_a_miss(Starlette(routes=[Route("/", endpoint)]))

    # What is told; the body is in the record.
    assert costs.sent["PUBLISH"] >= 1
    assert costs.sent["SET"] == costs.sent["PUBLISH"]
    # Whether it is followed.
    assert costs.sent["GET"] >= 2
    assert costs.round_trips == 2 + costs.sent["PUBLISH"] + costs.sent["GET"]


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_a_record_is_encoded_once(store: str, request: pytest.FixtureRequest) -> None:
    cache = "memory://"
    if store == "redis":
        url, namespace = map(request.getfixturevalue, ("redis_url", "namespace"))
        cache = f"{url}?namespace={namespace}"
    assert _cost_of_a_miss(_app(cache, "small")).calls["/format/codec.py:encode_record"] == 1


@pytest.mark.parametrize("change", ["replaced", "invalidated", "gone"])
def test_what_is_no_longer_there_is_read_once(redis_url: str, namespace: str, change: str) -> None:
    """The values that say so are read by the short way, and taken by the whole one."""
    app = _app(f"{redis_url}?namespace={namespace}", "small")
    endpoint: Any = app.routes[0].endpoint  # type: ignore[attr-defined]

    async def main() -> None:
        costs, exchange = Costs(), Exchange(app)
        for _ in range(4):
            await get(app)
        client = endpoint.cache.client
        (key,) = [k for k in await client.keys(f"{namespace}*") if b":version:" not in k]
        if change == "replaced":
            await client.set(key, b"of another library")
        elif change == "gone":
            await client.delete(key)
        else:
            await endpoint.invalidate()
        with costs.counted():
            await exchange.run()
            await _nothing_goes_on()
        assert exchange.cache_status.startswith("stream-cached; fwd=")
        assert costs.sent["MGET"] == 2

    asyncio.run(main())
