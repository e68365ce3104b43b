"""The decorator for cashews over each of its backends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, assert_type

import cashews
import pytest
from cashews import Command
from cashews.backends.memory import Memory
from cashews.contrib.fastapi import (
    CacheDeleteMiddleware,
    CacheEtagMiddleware,
    CacheRequestControlMiddleware,
    cache_control_ttl,
)
from fastapi import Body, Depends, FastAPI, Header
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from stream_cached import BypassError, ConfigurationError
from stream_cached.cashews import stream_cached
from tests.conftest import Serve
from tests.support.app_server import AppServer
from tests.support.closed_cache import Cache, Setup, setup_of
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.servers import RedisServer

HIT = "stream-cached; hit"
MISS = "stream-cached; fwd=uri-miss; stored"

T = TypeVar("T")
Around = Callable[[Request, RequestResponseEndpoint], Awaitable[Response]]


@pytest.fixture(params=["mem", "redis", "redis that raises", "redis with client_side", "disk"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Setup:
    """Returns a function that sets up a cache."""
    return setup_of(request.param, request, tmp_path)


@dataclass(frozen=True)
class User:
    id: str


def who(x_user: Annotated[str, Header()] = "nobody") -> User:
    return User(x_user)


class Reports:
    """An app with an endpoint that streams."""

    def __init__(
        self, serve: Serve, cached: Callable[[Any], Any], around: Around | None = None
    ) -> None:
        self.runs = itertools.count(1)
        self.made = 0
        self.app = FastAPI(
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=around)] if around else []
        )

        @self.app.get("/report")
        @cached
        async def report(user: Annotated[User, Depends(who)], fmt: str = "csv") -> Response:
            return StreamingResponse(self.rows(), media_type="text/csv", headers={"X-Made": "yes"})

        self.report = report
        self.server: AppServer = serve(self.app)
        self.port = self.server.port

    async def rows(self) -> AsyncIterator[bytes]:
        self.made += 1
        run = self.made
        for row in range(3):
            yield b"run %d, row %d\n" % (run, row)

    def body(self, run: int) -> bytes:
        return b"".join(b"run %d, row %d\n" % (run, row) for row in range(3))

    def get(self, target: str = "/report", **headers: str) -> Any:
        return fetch(self.port, target=target, headers=headers)

    def act(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the event loop of the app."""
        return self.server.run(action())


def memory_of(cache: Cache, prefix: str = "") -> Any:
    """Return the values in a `mem://` cache by key."""
    backend: Any = cache._backends[prefix]
    return backend.store


def test_a_stream_is_stored_and_served_again(serve: Serve, setup: Setup) -> None:
    reports = Reports(serve, stream_cached(setup(), ttl=60))
    miss, hit = reports.get(), reports.get()
    assert (miss.header("cache-status"), hit.header("cache-status")) == (MISS, HIT)
    assert miss.body == hit.body == reports.body(1)
    assert hit.header("content-type") == "text/csv; charset=utf-8"
    assert hit.header("x-made") == "yes"


def test_a_key_is_a_template(serve: Serve, setup: Setup) -> None:
    cached = stream_cached(setup(), ttl=60, key="report:{user.id}:{fmt}")
    reports = Reports(serve, cached)
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    bodies = [reports.get(**user).body for user in (ann, bob, ann, bob)]
    assert bodies == [reports.body(run) for run in (1, 2, 1, 2)]
    assert reports.get("/report?fmt=json", **ann).body == reports.body(3)
    # Arguments that are not part of the template make no difference.
    assert reports.get("/report?fmt=json&other=1", **ann).body == reports.body(3)


def test_headers_select_among_what_is_under_a_key(serve: Serve, setup: Setup) -> None:
    cached = stream_cached(setup(), ttl=60, key="report", vary=("Accept",), tags=["reports"])
    reports = Reports(serve, cached)
    kinds = [{"accept": kind} for kind in ("text/csv", "text/html") * 2]
    bodies = [reports.get(**kind).body for kind in kinds]
    assert bodies == [reports.body(run) for run in (1, 2, 1, 2)]


def test_the_entry_is_under_the_key_of_the_template(serve: Serve, setup: Setup) -> None:
    cache = setup()
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report:{user.id}", prefix="web"))
    reports.get(**{"x-user": "ann"})
    reports.act(lambda: cache.delete("web:report:bob"))
    assert reports.get(**{"x-user": "ann"}).header("cache-status") == HIT
    reports.act(lambda: cache.delete("web:report:ann"))
    assert reports.get(**{"x-user": "ann"}).body == reports.body(2)


@pytest.mark.parametrize(
    "ttl", [60, 60.0, "60", "1m", "1h30m", timedelta(minutes=1), lambda *a, **k: "1m", None]
)
def test_ttls_of_every_kind_are_understood(serve: Serve, ttl: Any) -> None:
    cache = Cache()
    cache.setup("mem://")
    reports = Reports(serve, stream_cached(cache, ttl=ttl, key="report"))
    reports.get()
    assert reports.get().header("cache-status") == HIT
    expire = reports.act(lambda: cache.get_expire("report"))
    expected = {"1h30m": 5400, None: -1}.get(ttl if isinstance(ttl, str | None) else "", 60)
    assert expire == expected


def test_a_ttl_is_made_of_the_arguments_and_the_result(serve: Serve, setup: Setup) -> None:
    def ttl(fmt: str, user: Any, result: Response) -> float:
        assert result.status_code == 200
        return 0 if fmt == "json" else 60

    reports = Reports(serve, stream_cached(setup(), ttl=ttl, key="report:{fmt}"))
    assert [reports.get().body for _ in range(2)] == [reports.body(1)] * 2
    bodies = [reports.get("/report?fmt=json").body for _ in range(2)]
    assert bodies == [reports.body(2), reports.body(3)]


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan"), "soon"])
def test_a_ttl_that_is_none_is_told(
    serve: Serve, setup: Setup, ttl: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reports = Reports(serve, stream_cached(setup(), ttl=lambda *a, **k: ttl, key="report"))
    assert [reports.get().body for _ in range(2)] == [reports.body(1), reports.body(2)]
    assert "a response is not stored: ttl=" in caplog.text


def test_a_condition_says_what_is_stored(serve: Serve, setup: Setup) -> None:
    seen = []

    def condition(result: Any, args: Any, kwargs: Any, key: str = "") -> bool:
        seen.append((type(result), kwargs["fmt"], key))
        return bool(kwargs["fmt"] == "csv")

    cached = stream_cached(setup(), ttl=60, key="report:{fmt}", condition=condition)
    reports = Reports(serve, cached)
    assert [reports.get().body for _ in range(2)] == [reports.body(1)] * 2
    bodies = [reports.get("/report?fmt=json").body for _ in range(2)]
    assert bodies == [reports.body(2), reports.body(3)]
    assert seen[:2] == [
        (StreamingResponse, "csv", "report:csv"),
        (StreamingResponse, "json", "report:json"),
    ]


@pytest.mark.parametrize(("condition", "expected"), [(None, 1), ("not_none", 3)])
def test_none_is_a_value_as_in_cashews(setup: Setup, condition: Any, expected: int) -> None:
    cache = setup()
    runs: list[str] = []

    async def find(name: str) -> None:
        runs.append(name)

    async def test() -> None:
        cached: Any = stream_cached(cache, ttl=60, key="user:{name}", condition=condition)(find)
        assert [await cached("ada") for _ in range(3)] == [None] * 3
        await cache.close()

    asyncio.run(test())
    assert len(runs) == expected


# -- invalidation ---------------------------------------------------------------------------------


def test_tags_delete(serve: Serve, setup: Setup) -> None:
    cache = setup()
    cached = stream_cached(
        cache, ttl=60, key="report:{user.id}:{fmt}", tags=["reports", "user:{user.id}"]
    )
    reports = Reports(serve, cached)
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    for user in (ann, bob):
        reports.get(**user)
    reports.act(lambda: cache.delete_tags("user:ann"))
    assert reports.get(**ann).body == reports.body(3)
    assert reports.get(**bob).body == reports.body(2)
    reports.act(lambda: cache.delete_tags("reports"))
    assert reports.get(**bob).body == reports.body(4)
    assert reports.get(**ann).body == reports.body(5)
    assert reports.get(**ann).header("cache-status") == HIT


def test_tags_are_made_of_the_response(serve: Serve, setup: Setup) -> None:
    cache = setup()
    cached = stream_cached(
        cache, ttl=60, tags=lambda response, user: [response.headers["x-made"], f"of:{user.id}"]
    )
    reports = Reports(serve, cached)
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    states = [reports.get(**user).header("cache-status") for user in (ann, bob) * 2]
    assert states == [MISS, MISS, HIT, HIT]
    reports.act(lambda: cache.delete_tags("nobody has this"))
    reports.act(lambda: cache.delete_tags("of:ann"))
    assert reports.get(**ann).body == reports.body(3)
    assert reports.get(**bob).body == reports.body(2)
    reports.act(lambda: cache.delete_tags("yes"))
    assert reports.get(**bob).body == reports.body(4)
    assert reports.get(**ann).body == reports.body(5)
    assert reports.get(**ann).header("cache-status") == HIT


def test_tags_of_the_response_count_where_the_endpoint_is_unknown(
    serve: Serve, redis_url: str
) -> None:
    cache, other = Cache(), Cache()
    cache.setup(redis_url)
    other.setup(redis_url)
    cached = stream_cached(cache, ttl=60, key="report:{fmt}", tags=lambda response: ["made"])
    reports = Reports(serve, cached)
    rows = reports.rows

    async def rows_of_another_time() -> AsyncIterator[bytes]:
        async for row in rows():
            yield row
        if reports.made == 2:
            await other.delete_tags("made")

    reports.rows = rows_of_another_time  # type: ignore[method-assign]
    assert [reports.get().body for _ in range(2)] == [reports.body(1)] * 2
    # The entry is deleted, and the run that does it is not stored either.
    assert reports.get("/report?fmt=json").body == reports.body(2)
    assert reports.get("/report?fmt=json").body == reports.body(3)
    assert [reports.get().body for _ in range(2)] == [reports.body(4)] * 2


def test_tags_are_made_of_the_arguments_by_a_function(serve: Serve) -> None:
    cache = Cache()
    cache.setup("mem://")
    cached = stream_cached(cache, ttl=60, key="r:{user.id}", tags=lambda user, fmt: [user.id, fmt])
    reports = Reports(serve, cached)
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    for user in (ann, bob):
        reports.get(**user)
    assert {"_tag:ann", "_tag:csv"} <= set(memory_of(cache))
    reports.act(lambda: cache.delete_tags("ann"))
    assert [reports.get(**user).body for user in (bob, ann)] == [reports.body(n) for n in (2, 3)]


@pytest.mark.parametrize("tags", [["reports"], lambda response: ["reports"]])
def test_tags_delete_what_is_being_made(serve: Serve, setup: Setup, tags: Any) -> None:
    cache = setup()
    begun, gate = Gate(), Gate()
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report", tags=tags))
    rows = reports.rows

    async def held_rows() -> AsyncIterator[bytes]:
        begun.open()
        async for row in rows():
            yield row
            await gate.passed()

    reports.rows = held_rows  # type: ignore[method-assign]
    with RawClient(reports.port) as client:
        client.send(target="/report")
        begun.wait()
        client.read_head()
        reports.act(lambda: cache.delete_tags("reports"))
        gate.open()
        assert client.read_rest().body == reports.body(1)
    assert reports.get().body == reports.body(2)


def test_tags_may_be_elsewhere(serve: Serve, setup: Setup, own_redis: RedisServer) -> None:
    cache = setup()
    cache.setup_tags_backend(own_redis.url())
    cached = stream_cached(cache, ttl=60, key="report:{fmt}", tags=["reports"])
    reports = Reports(serve, cached)
    reports.get()
    reports.act(lambda: cache.delete_tags("reports"))
    assert [reports.get().body for _ in range(2)] == [reports.body(2)] * 2
    own_redis.stop()
    # An entry is not stored if its tags can't be.
    assert reports.get("/report?fmt=json").body == reports.body(3)
    keys = reports.act(lambda: cache.exists("report:json"))
    assert not keys


def test_a_tag_lives_as_long_as_all_that_bear_it(
    serve: Serve, redis_url: str, redis_server: RedisServer
) -> None:
    cache = Cache()
    cache.setup(redis_url)
    for fmt, ttl in ("csv", 100_000), ("json", 1):
        cached = stream_cached(cache, ttl=ttl, key="report:{fmt}", tags=["reports"])
        Reports(serve, cached).get(f"/report?fmt={fmt}")
    key = redis_server.execute(
        "EVAL", "return redis.call('keys', 'report:stream_cached:tag:*')[1]", "0"
    )
    assert key is not None
    assert int(redis_server.execute("PTTL", key) or 0) > 86_000_000


def test_a_set_of_tags_lives_as_long_as_all_of_its_entries(
    serve: Serve, redis_url: str, redis_server: RedisServer
) -> None:
    cache = Cache()
    cache.setup(redis_url)
    seconds = {"csv": 600, "json": 1}
    cached = stream_cached(
        cache, ttl=lambda fmt, user: seconds[fmt], key="report:{fmt}", tags=["reports"]
    )
    reports = Reports(serve, cached)
    for fmt in seconds:
        reports.get(f"/report?fmt={fmt}")
    assert int(redis_server.execute("PTTL", "_tag:reports") or 0) > 600_000


@pytest.mark.parametrize(
    "tags", [["reports"], lambda response: ["reports"], lambda user, fmt: ["reports"]]
)
def test_tags_delete_what_their_sets_have_forgotten(serve: Serve, setup: Setup, tags: Any) -> None:
    cache = setup()
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report", tags=tags))
    reports.get()
    reports.act(lambda: cache.delete("_tag:reports"))
    assert reports.get().header("cache-status") == HIT
    reports.act(lambda: cache.delete_tags("reports"))
    assert reports.get().body == reports.body(2)


def test_a_set_of_tags_does_not_grow_by_runs(
    serve: Serve, redis_url: str, redis_server: RedisServer
) -> None:
    cache = Cache()
    cache.setup(redis_url)
    cached = stream_cached(cache, ttl=60, key="report", tags=["reports"], inline_max=0)
    reports = Reports(serve, cached)
    for _ in range(5):
        reports.get()
        reports.act(lambda: cache.delete("report"))
    assert reports.made == 5
    assert int(redis_server.execute("SCARD", "_tag:reports") or 0) <= 2


def test_invalidation_is_no_reading(serve: Serve, setup: Setup) -> None:
    cache = setup()
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report"))

    async def change() -> None:
        with cache.disabling(Command.GET, Command.SET):
            await reports.report.invalidate()

    reports.get()
    reports.act(change)
    assert reports.get().body == reports.body(2)


def test_a_user_key_is_no_internal_key(serve: Serve, setup: Setup) -> None:
    reports = Reports(serve, stream_cached(setup(), ttl=60, key="report:{fmt}", tags=["reports"]))
    reports.get()
    for end in ("revoked", f"{'0' * 32}:0", f"stream_cached:tag:{'0' * 32}", f"lease:{'0' * 32}"):
        for fmt in (f"csv:{end}", end if end.startswith("stream") else f"csv:{end}"):
            assert "bypass" in reports.get(f"/report?fmt={fmt}").header("cache-status")
    assert reports.get().header("cache-status") == HIT
    # A key that only resembles an internal key.
    reports.get(f"/report?fmt={'0' * 32}")
    assert reports.get(f"/report?fmt={'0' * 32}").header("cache-status") == HIT


def test_it_is_told_where_keys_may_be_in_two_places(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache()
    cache.setup("mem://")
    cache.setup("mem://", prefix="report:x")
    Reports(serve, stream_cached(cache, ttl=60, key="report:{fmt}")).get()
    assert "other backends for ['report:x']" in caplog.text


@pytest.mark.filterwarnings("ignore:`rewrite` deprecated:DeprecationWarning")
def test_a_pattern_deletes(serve: Serve, setup: Setup) -> None:
    cache = setup()
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report:{user.id}:{fmt}"))
    ann, bob = {"x-user": "ann"}, {"x-user": "bob"}
    for user in (ann, bob):
        reports.get(**user)

    @cache.invalidate("report:{user_id}:*")
    async def change(user_id: str) -> None:
        """The data of a report."""

    reports.act(lambda: change("ann"))
    assert reports.get(**bob).body == reports.body(2)
    assert reports.get(**ann).body == reports.body(3)


def test_an_endpoint_is_invalidated_as_a_whole(serve: Serve, setup: Setup) -> None:
    reports = Reports(serve, stream_cached(setup(), ttl=60, key="report:{user.id}"))
    for name in ("ann", "bob"):
        reports.get(**{"x-user": name})
    reports.act(lambda: reports.report.invalidate())
    assert reports.get(**{"x-user": "bob"}).body == reports.body(3)


def test_invalidate_further_causes_a_run(serve: Serve, setup: Setup) -> None:
    async def clears(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if "clear" not in request.query_params:
            return await call_next(request)
        with cashews.invalidate_further():
            return await call_next(request)

    stores = True
    cached = stream_cached(setup(), ttl=60, key="report", condition=lambda *a, **k: stores)
    reports = Reports(serve, cached, clears)
    assert reports.get().body == reports.body(1)
    assert reports.get("/report?clear=1").body == reports.body(2)
    assert reports.get().body == reports.body(2)
    stores = False
    assert reports.get("/report?clear=1").body == reports.body(3)
    # The old entry is gone, though no new one replaces it.
    assert reports.get().body == reports.body(4)


def test_an_older_run_does_not_replace_the_entry_of_a_newer_run(serve: Serve, setup: Setup) -> None:
    async def clears(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if "clear" not in request.query_params:
            return await call_next(request)
        with cashews.invalidate_further():
            return await call_next(request)

    reports = Reports(serve, stream_cached(setup(), ttl=60, key="report"), clears)
    begun, gate, rows = Gate(), Gate(), reports.rows

    async def held_rows() -> AsyncIterator[bytes]:
        async for row in rows():
            yield row
            if not begun.is_open:
                begun.open()
                await gate.passed()

    reports.rows = held_rows  # type: ignore[method-assign]
    with RawClient(reports.port) as client:
        client.send(target="/report")
        begun.wait()
        assert reports.get("/report?clear=1").body == reports.body(2)
        gate.open()
        assert client.read_all().body == reports.body(1)
    assert reports.get().body == reports.body(2)


def test_a_text_that_is_none_is_no_outage(serve: Serve, setup: Setup) -> None:
    app = FastAPI()

    @app.post("/ask")
    @stream_cached(
        setup(), ttl=60, key="ask:{q}", tags=["q:{q}"], methods=["POST"], key_ignore=["q"]
    )
    async def ask(q: Annotated[str, Body(embed=True)]) -> Response:
        async def rows() -> AsyncIterator[bytes]:
            yield b"answer"

        return StreamingResponse(rows())

    port = serve(app).port

    def asked(text: str) -> Any:
        return fetch(
            port,
            target="/ask",
            method="POST",
            headers={"content-type": "application/json"},
            body=text.encode(),
        )

    assert asked('{"q": "\\ud800"}').body == b"answer"
    assert "fallback" not in asked('{"q": "a"}').header("cache-status")


def test_our_own_records_are_nothing_for_cashews(serve: Serve, setup: Setup) -> None:
    cache = setup()
    cached = stream_cached(cache, ttl=60, key="report:{user.id}", tags=["user:{user.id}"])
    reports = Reports(serve, cached)
    for number in range(20):
        reports.get(**{"x-user": f"{number}"})

    async def values() -> list[Any]:
        return [value async for _, value in cache.get_match("report:*")]

    if type(cache._backends[""]).__name__ == "Memory":
        return
    assert not any(reports.act(values))


# -- switches, detectors and callbacks ------------------------------------------------------------


def test_what_is_disabled_is_left_alone(serve: Serve, setup: Setup) -> None:
    cache = setup()
    commands: list[Command] = []

    async def disables(request: Request, call_next: RequestResponseEndpoint) -> Response:
        with cache.disabling(*commands):
            return await call_next(request)

    reports = Reports(serve, stream_cached(cache, ttl=60, key="report"), disables)
    assert [reports.get().body for _ in range(2)] == [reports.body(1), reports.body(2)]
    commands.append(Command.SET)
    assert [reports.get().body for _ in range(2)] == [reports.body(3), reports.body(4)]
    commands[:] = [Command.GET]
    assert reports.get().body == reports.body(5)
    commands[:] = [Command.PING]
    assert reports.get().body == reports.body(5)


def test_a_function_may_disable_storing_what_it_returns(serve: Serve, setup: Setup) -> None:
    cache = setup()

    def disabling(f: Any) -> Any:
        @stream_cached(cache, ttl=60, key="report")
        async def report(request: Request) -> Response:
            cache.disable(Command.SET)
            response: Response = await f(request)
            return response

        return report

    reports = Reports(serve, disabling)
    assert [reports.get().body for _ in range(2)] == [reports.body(1), reports.body(2)]


def test_detect_and_callbacks_are_told(serve: Serve, setup: Setup) -> None:
    cache = setup()
    detected: list[Any] = []
    calls: list[tuple[Command, str]] = []

    async def callback(cmd: Command, key: str, result: Any, backend: Any) -> None:
        calls.append((cmd, key))

    cache.callbacks.add_callback(callback, "test")

    async def detects(request: Request, call_next: RequestResponseEndpoint) -> Response:
        with cache.detect as detector:
            response: Response = await call_next(request)
            detected.append(detector.calls_list)
        return response

    reports = Reports(serve, stream_cached(cache, ttl=60, key="report:{fmt}"), detects)
    for _ in range(2):
        reports.get()
    assert detected[0] == []
    ((key, found),) = detected[1]
    assert (key, found["ttl"], found["template"]) == ("report:csv", 60, "report:{fmt}")
    assert calls == [(Command.GET, "report:csv")]


def test_a_cache_that_is_not_set_up_yet_gives_no_key() -> None:
    @stream_cached(Cache(), ttl=60)
    async def page(request: Request) -> Response:
        return Response()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"a")]}
    with pytest.raises(BypassError):
        asyncio.run(page.cache_key(request=Request(scope)))


@pytest.mark.parametrize("settings", [{}, {"key": "value:{name}"}, {"secret": "s" * 32}])
def test_detect_and_callbacks_are_told_of_plain_values(
    setup: Setup, settings: dict[str, Any]
) -> None:
    cache = setup()
    calls: list[Command] = []

    async def callback(cmd: Command, key: str, result: Any, backend: Any) -> None:
        if result == {"a": 1}:
            calls.append(cmd)

    async def value(name: str) -> dict[str, int]:
        return {"a": 1}

    cached: Any = stream_cached(cache, ttl=60, **settings)(value)

    async def test() -> None:
        with cache.detect as detector:
            assert await cached("b") == {"a": 1}
            assert detector.calls_list == []
        cache.callbacks.add_callback(callback, "test")
        with cache.detect as detector:
            assert await cached("b") == {"a": 1}
            ((key, found),) = detector.calls_list
        assert key == await cached.cache_key("b")
        assert (found["ttl"], found["value"]) == (60, {"a": 1})
        assert found["template"] == settings.get("key", key)
        await cache.close()

    asyncio.run(test())
    assert calls == [Command.GET]


def test_a_transaction_of_the_application_is_left_alone(serve: Serve, setup: Setup) -> None:
    cache = setup()

    async def rolls_back(request: Request, call_next: RequestResponseEndpoint) -> Response:
        async with cache.transaction() as transaction:
            response: Response = await call_next(request)
            await transaction.rollback()
        return response

    cached = stream_cached(cache, ttl=60, key="report", tags=["reports"])
    reports = Reports(serve, cached, rolls_back)
    runs = itertools.count(1)

    @reports.app.get("/value")
    @stream_cached(cache, ttl=60, key="value")
    async def value() -> Any:
        return next(runs)

    assert [reports.get("/value").body for _ in range(2)] == [b"1", b"1"]
    assert reports.get().body == reports.body(1)
    assert reports.get().header("cache-status") == HIT
    reports.act(lambda: cache.delete_tags("reports"))
    assert reports.get().body == reports.body(2)


def test_a_prefix_has_a_backend_of_its_own(serve: Serve, setup: Setup) -> None:
    cache = setup()
    cache.setup("mem://", prefix="report")
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report:{fmt}"))
    reports.get()
    assert reports.get().header("cache-status") == HIT
    assert "report:csv" in memory_of(cache, "report")


def test_middlewares_make_the_keys(serve: Serve, setup: Setup) -> None:
    cache = setup(middlewares=(cashews.add_prefix("App:"), cashews.all_keys_lower()))
    reports = Reports(serve, stream_cached(cache, ttl=60, key="Report"))
    reports.get()
    assert reports.get().header("cache-status") == HIT
    reports.act(lambda: cache.delete("Report"))
    assert reports.get().body == reports.body(2)


def test_a_cache_may_be_set_up_later_and_again(serve: Serve, setup: Setup) -> None:
    cache = Cache()
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report"))
    cache._add_backend(setup()._backends[""])
    assert [reports.get().body for _ in range(2)] == [reports.body(1)] * 2
    cache.setup("mem://")
    assert [reports.get().body for _ in range(2)] == [reports.body(2)] * 2


# -- cashews' middlewares -------------------------------------------------------------------------


def contrib_app(cache: Cache, middleware: Any, **options: Any) -> FastAPI:
    app = FastAPI(middleware=[Middleware(middleware, **options)])
    runs = itertools.count(1)

    @app.get("/stream/{name}")
    @stream_cached(cache, ttl=cache_control_ttl("1m"), key="stream:{name}", tags=["all"])
    async def stream(name: str) -> Response:
        async def rows() -> AsyncIterator[bytes]:
            yield b"%s %d" % (name.encode(), next(runs))

        return StreamingResponse(rows())

    @app.get("/json/{name}")
    @stream_cached(cache, ttl="1m", key="json:{name}")
    async def json(name: str) -> Response:
        return JSONResponse([name, next(runs)])

    return app


@pytest.mark.parametrize("kind", ["stream", "json"])
def test_each_body_has_an_etag_of_its_own(serve: Serve, setup: Setup, kind: str) -> None:
    cache = setup()
    server = serve(contrib_app(cache, CacheEtagMiddleware, cache_instance=cache))

    def get(name: str, etag: str = "") -> Any:
        headers = {"if-none-match": etag} if etag else {}
        return fetch(server.port, target=f"/{kind}/{name}", headers=headers)

    first = {name: get(name).body for name in "ab"}
    hits = {name: get(name) for name in "ab"}
    assert {name: hit.body for name, hit in hits.items()} == first
    a, b = (hits[name].header("etag") for name in "ab")
    assert a
    assert b
    assert a != b
    assert get("a", a).status == 304
    # An ETag that no response has had.
    assert get("a", '"0123456789abcdef"').body == first["a"]
    server.run(cache.delete(f"{kind}:a"))
    get("a")
    assert get("a").header("etag") != a


def test_a_request_with_no_cache_causes_a_run(serve: Serve, setup: Setup) -> None:
    cache = setup()
    server = serve(contrib_app(cache, CacheRequestControlMiddleware, cache_instance=cache))

    def get(control: str = "") -> Any:
        headers = {"cache-control": control} if control else {}
        return fetch(server.port, target="/stream/a", headers=headers)

    assert (get().body, get().body) == (b"a 1", b"a 1")
    assert get().header("cache-control").startswith("private, max-age=")
    assert (get("no-cache").body, get().body) == (b"a 2", b"a 2")
    assert (get("no-store").body, get().body) == (b"a 3", b"a 2")
    assert (get("max-age=0").body, get().body) == (b"a 4", b"a 2")
    server.run(cache.delete("stream:a"))
    assert get("max-age=5").body == b"a 5"
    assert int(get().header("cache-control").rpartition("=")[2]) <= 5


def test_a_client_may_clear_an_entry(serve: Serve, setup: Setup) -> None:
    cache = setup()
    server = serve(contrib_app(cache, CacheDeleteMiddleware))

    def get(**headers: str) -> bytes:
        return bytes(fetch(server.port, target="/stream/a", headers=headers).body)

    assert (get(), get()) == (b"a 1", b"a 1")
    assert get(**{"clear-site-data": "cache"}) == b"a 2"
    assert get() == b"a 2"


# -- plain values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [["values"], lambda response, name: ["values", response["name"]]])
def test_plain_values_are_cashews_own(serve: Serve, setup: Setup, tags: Any) -> None:
    cache, app, runs = setup(), FastAPI(), itertools.count(1)

    @app.get("/value")
    @stream_cached(cache, ttl=60, key="value:{name}", tags=tags)
    async def value(name: str) -> Any:
        return {"name": name, "run": next(runs)}

    @app.get("/cashews")
    async def by_cashews() -> Any:
        return await cache.get("value:a")

    @app.get("/delete")
    async def delete() -> Any:
        return await cache.delete_tags("values")

    port = serve(app).port
    first = fetch(port, target="/value?name=a").body
    assert first == fetch(port, target="/value?name=a").body == b'{"name":"a","run":1}'
    assert fetch(port, target="/cashews").body == first
    fetch(port, target="/delete")
    assert fetch(port, target="/value?name=a").body == b'{"name":"a","run":2}'


@pytest.mark.parametrize("whose", ["cashews'", "ours"])
def test_what_is_not_signed_is_a_miss(
    serve: Serve, redis_url: str, redis_server: RedisServer, whose: str
) -> None:
    cache, app, runs = Cache(), FastAPI(), itertools.count(1)
    secret = "a secret of thirty-two characters"
    options: dict[str, Any] = {"secret": secret} if whose == "cashews'" else {}
    rules: dict[str, Any] = {"secret": secret} if whose == "ours" else {}
    cache.setup(redis_url, **options)

    @app.get("/stream")
    @stream_cached(cache, ttl=60, key="stream", **rules)
    async def stream() -> Response:
        run = next(runs)

        async def rows() -> AsyncIterator[bytes]:
            yield b"run %d" % run

        return StreamingResponse(rows())

    @app.get("/value")
    @stream_cached(cache, ttl=60, key="value", **rules)
    async def value() -> Any:
        return {"run": next(runs)}

    port = serve(app).port
    for name in ("stream", "value"):
        first = fetch(port, target=f"/{name}").body
        assert fetch(port, target=f"/{name}").body == first
        forged = (redis_server.execute("GET", name) or b"").replace(b"run", b"rum")
        redis_server.execute("SET", name, forged)
        second = fetch(port, target=f"/{name}").body
        assert second != first
        assert b"rum" not in second
        assert fetch(port, target=f"/{name}").body == second


# -- concurrent requests --------------------------------------------------------------------------


def test_many_cold_clients_are_one_run(serve: Serve, setup: Setup) -> None:
    reports = Reports(serve, stream_cached(setup(), ttl=60, key="report"))
    begun, gate = Gate(), Gate()
    rows = reports.rows

    async def held_rows() -> AsyncIterator[bytes]:
        begun.open()
        await gate.passed()
        async for row in rows():
            yield row

    reports.rows = held_rows  # type: ignore[method-assign]
    clients = [RawClient(reports.port) for _ in range(20)]
    try:
        for client in clients:
            client.send(target="/report")
        begun.wait()
        wait_until(lambda: reports.server.requests_running == len(clients))
        gate.open()
        assert {client.read_all().body for client in clients} == {reports.body(1)}
    finally:
        for client in clients:
            client.close()
    assert reports.made == 1


def test_a_full_memory_gives_no_short_body(serve: Serve) -> None:
    cache = Cache()
    cache.setup("mem://", size=5)
    app, size = FastAPI(), 3_000_000

    @app.get("/{name}")
    @stream_cached(cache, ttl=60, key="{name}")
    async def big(name: str) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield name[:1].encode() * (size // 30)

        return StreamingResponse(body())

    port = serve(app).port
    for name in [f"{letter}{n}" for n in range(2) for letter in "abcdefgh"]:
        for _ in range(2):
            assert fetch(port, target=f"/{name}").body == name[:1].encode() * size
    assert len(memory_of(cache)) <= 5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_memory_that_holds_next_to_nothing_is_no_cache(serve: Serve, size: int) -> None:
    cache = Cache()
    cache.setup("mem://", size=size)
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report", tags=["reports"]))
    clients = [RawClient(reports.port) for _ in range(5)]
    for client in clients:
        client.send(target="/report")
    assert all(client.read_all().complete for client in clients)
    for client in clients:
        client.close()


def test_a_redis_that_is_away_is_stood_in_for(serve: Serve, own_redis: RedisServer) -> None:
    cache = Cache()
    cache.setup(own_redis.url(), suppress=False)
    reports = Reports(serve, stream_cached(cache, ttl=60, key="report", retry_interval=0.05))
    assert reports.get().body == reports.body(1)
    own_redis.stop()
    assert reports.get().body == reports.body(2)
    assert reports.get().header("cache-status") == f'{HIT}; detail="fallback"'
    own_redis.start()
    wait_until(lambda: "fallback" not in reports.get().header("cache-status"))
    assert reports.get().header("cache-status") == HIT


# -- one store for both ---------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "web"])
def test_entries_are_aiocaches_too(serve: Serve, redis_url: str, prefix: str) -> None:
    from stream_cached import stream_cached as for_aiocache

    cache, runs = Cache(), itertools.count(1)
    cache.setup(redis_url)

    async def report(request: Request) -> Response:
        run = next(runs)

        async def rows() -> AsyncIterator[bytes]:
            yield b"run %d" % run

        return StreamingResponse(rows())

    app = FastAPI()
    by_url = for_aiocache(ttl=60, key="report", cache=f"{redis_url}?namespace={prefix}")
    by_cashews = stream_cached(cache, ttl=60, key="report", prefix=prefix)
    app.add_route("/aiocache", by_url(report))
    app.add_route("/cashews", by_cashews(report))

    @app.get("/delete")
    async def delete() -> Any:
        return await cache.delete(f"{prefix}:report" if prefix else "report")

    port = serve(app).port
    assert fetch(port, target="/aiocache").body == b"run 1"
    assert fetch(port, target="/cashews").header("cache-status") == HIT
    fetch(port, target="/delete")
    assert fetch(port, target="/cashews").body == b"run 2"
    assert fetch(port, target="/aiocache").header("cache-status") == HIT


# -- what can't work ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cache": "redis://"}, "is no cache of cashews"),
        ({"ttl": "soon"}, 'such as "1h30m"'),
        ({"ttl": -1}, "above 0"),
        ({"ttl": 0}, "above 0"),
        ({"tags": "reports"}, "pass a list"),
        ({"lock": True}, "lock= is for plain values"),
        ({"protected": True}, "leave it out"),
        ({"key": "report:{nobody.id}"}, "nobody"),
        ({"tags": ["{nobody}"], "key": "report"}, "nobody"),
        ({"tags": lambda nobody, response: []}, "nobody"),
        ({"max_body": -1}, "max_body"),
        ({"max_boddy": 5}, "unknown parameter 'max_boddy'"),
        ({"directory": "/tmp"}, "belong in cache.setup"),
        ({"kwargs": {}}, "unknown parameter 'kwargs'"),
        ({"namespace": "web"}, "prefix= stands before each key"),
        ({"serializer": None}, "serializer= configures a cache of aiocache"),
    ],
)
def test_what_can_not_work_is_told_at_decoration(arguments: dict[str, Any], words: str) -> None:
    async def report(fmt: str) -> None: ...

    given: dict[str, Any] = {"cache": Cache(), "ttl": 60} | arguments
    with pytest.raises(ConfigurationError, match=words):
        stream_cached(**given)(report)


def test_the_options_of_the_aiocache_decorator_are_accepted() -> None:
    given: dict[str, Any] = {"vary": ("Accept",), "noself": True, "max_body": 5, "fallback": False}
    decorator = stream_cached(Cache(), 60, skip_cache_func=lambda result: False, **given)
    assert decorator.options.limits.max_body == 5
    assert (decorator.noself, decorator.fallback) == (True, False)


@pytest.mark.anyio
async def test_a_decorated_function_keeps_its_types() -> None:
    cache = Cache()
    cache.setup("mem://")

    @stream_cached(cache, ttl=60)
    async def total(name: str) -> int:
        return len(name)

    @stream_cached(cache, ttl=60)
    def not_async(name: str, *, limit: int = 10) -> list[str]:
        return [name] * limit

    assert_type(await total("name"), int)
    assert_type(await not_async("name", limit=2), list[str])
    assert_type(await total.cache_key("name"), str)
    assert_type(await total.invalidate(), bool)
    if TYPE_CHECKING:
        await total(5)  # type: ignore[arg-type]
        await not_async("name", other=5)  # type: ignore[call-arg]


@pytest.mark.anyio
async def test_a_cluster_is_refused() -> None:
    cache = Cache()
    cache.setup("redis://127.0.0.1", cluster=True)

    @stream_cached(cache, ttl=60)
    async def report() -> None: ...

    with pytest.raises(ConfigurationError, match="cluster"):
        await report()


def test_a_backend_that_cannot_hold_streams_is_named_at_each_request() -> None:
    class Odd(Memory):
        """One of another type, as far as its name says."""

    async def main() -> None:
        cache = cashews.Cache()
        cache.setup("mem://")

        @stream_cached(cache, ttl=60)
        async def endpoint() -> str:
            return "value"

        for _ in range(3):
            with pytest.raises(ConfigurationError, match="can't store streams"):
                await endpoint()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream_cached.cashews.views.Memory", Odd)
        asyncio.run(main())
