"""`vary_on_headers` above the decorators of aiocache, of cashews, and those of this package."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, cast

import aiocache
import cashews
import httpx
import pytest
from fastapi import FastAPI, Header, Request
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import stream_cached.cashews
from stream_cached import ConfigurationError, vary_on_headers
from stream_cached import stream_cached as ours
from stream_cached.decorated.generator import _streams_generators
from tests.support.decorating import F

Answer = Callable[[str], Any]

_numbers = itertools.count(1)


def without_request(f: Any, *args: Any, **kwargs: Any) -> str:
    """A key builder that drops the request."""
    named = {k: v for k, v in kwargs.items() if k not in ("request", "accept")}
    return f"{f.__name__}{next(_ids)}{json.dumps(named)}"


_ids: Iterator[str] = iter([])


@pytest.fixture(autouse=True)
def own_keys() -> Iterator[None]:
    """Each test has keys, and caches, of its own."""
    global _ids
    _ids = itertools.repeat(f"-{next(_numbers)}-")
    yield
    stream_cached.cashews.uninstall()


def by_aiocache() -> Any:
    return aiocache.cached(ttl=60, key_builder=without_request)


def our_own(**settings: Any) -> Any:
    return ours(ttl=60, cache=f"memory://?max_bytes={(440 << 20) + next(_numbers)}", **settings)


def by_ours() -> Any:
    return our_own(key_builder=without_request)


def by_our_request_keys() -> Any:
    return our_own()


def by_one_key() -> Any:
    return our_own(key="one")


def _cashews_cache() -> Any:
    cache = cashews.Cache()
    cache.setup("mem://")
    return cache


def by_cashews() -> Any:
    return _cashews_cache()(ttl=60, key="rows:{item}", tags=["rows"])


def by_installed_cashews() -> Any:
    stream_cached.cashews.install()
    return by_cashews()


def by_our_cashews() -> Any:
    decorator = stream_cached.cashews.stream_cached(_cashews_cache(), ttl=60, key="rows:{item}")
    return decorator


ALL = (
    *(by_aiocache, by_ours, by_our_request_keys, by_one_key),
    *(by_cashews, by_installed_cashews, by_our_cashews),
)
STREAMING = (by_ours, by_our_request_keys, by_one_key, by_installed_cashews, by_our_cashews)


def short(value: str) -> str:
    return value[:2]


def typed(decorator: Any) -> Callable[[F], F]:
    return cast("Callable[[F], F]", decorator)


class Runs(list[str]):
    """What the endpoint was run with."""


def with_request(cached: Any, runs: Runs, vary: Any, answer: Answer) -> FastAPI:
    app = FastAPI()

    @app.get("/{item}")
    @typed(vary)
    @typed(cached)
    async def rows(request: Request, item: int) -> Any:
        runs.append(request.headers.get("accept", "none"))
        return answer(runs[-1])

    return app


def with_parameter(cached: Any, runs: Runs, vary: Any, answer: Answer) -> FastAPI:
    app = FastAPI()

    @app.get("/{item}")
    @typed(vary)
    @typed(cached)
    async def rows(item: int, accept: Annotated[str | None, Header()] = None) -> Any:
        runs.append(accept or "none")
        return answer(runs[-1])

    return app


def streamed(text: str) -> Response:
    async def body() -> AsyncIterator[str]:
        yield text
        yield "!"

    return StreamingResponse(body(), headers={"Vary": "Origin"})


def ask(client: TestClient, accept: str | None) -> Any:
    # The client has an Accept of its own.
    request = client.build_request("GET", "/1")
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    return client.send(request)


@pytest.mark.parametrize("build", [with_request, with_parameter])
@pytest.mark.parametrize("by", ALL)
def test_plain_values_are_those_of_the_headers(by: Any, build: Any) -> None:
    runs = Runs()
    client = TestClient(build(by(), runs, vary_on_headers("Accept"), lambda text: {"is": text}))
    for accept in ("a", "b", None, "a", "b", None):
        answer = ask(client, accept)
        assert answer.json() == {"is": accept or "none"}
        assert answer.headers["vary"].lower() == "accept"
    assert runs == ["a", "b", "none"]


@pytest.mark.parametrize("build", [with_request, with_parameter])
@pytest.mark.parametrize("by", STREAMING)
def test_streams_are_those_of_the_headers(by: Any, build: Any) -> None:
    runs = Runs()
    answer = PlainTextResponse if by is by_installed_cashews else streamed
    client = TestClient(build(by(), runs, vary_on_headers("Accept"), answer))
    for accept in ("a", "b", "a", "b"):
        found = ask(client, accept)
        assert found.text.rstrip("!") == accept
        assert found.headers["vary"].lower() in ("origin, accept", "accept")
    assert runs == ["a", "b"]


@pytest.mark.parametrize("by", [*ALL])
def test_values_are_normalised(by: Any) -> None:
    runs = Runs()
    vary = vary_on_headers({"Accept": short})
    client = TestClient(with_request(by(), runs, vary, lambda text: {"is": short(text)}))
    for accept in ("de-DE", "de-AT", "en"):
        assert ask(client, accept).json() == {"is": short(accept)}
    assert runs == ["de-DE", "en"]


@pytest.mark.parametrize("by", ALL)
def test_several_of_them_count_together(by: Any) -> None:
    runs = Runs()

    def both(function: Any) -> Any:
        return vary_on_headers("Accept")(vary_on_headers("Accept-Language")(function))

    client = TestClient(with_request(by(), runs, both, lambda text: {"is": text}))
    for accept, language in (("a", "de"), ("a", "en"), ("b", "en"), ("a", "de"), ("b", "en")):
        got = client.get("/1", headers={"Accept": accept, "Accept-Language": language})
        assert sorted(got.headers["vary"].lower().split(", ")) == ["accept", "accept-language"]
        assert got.json() == {"is": accept}
    assert runs == ["a", "a", "b"]


@pytest.mark.parametrize("by", [by_cashews, by_installed_cashews, by_ours])
def test_concurrent_calls_are_not_given_each_others(by: Any) -> None:
    async def run() -> None:
        gate, entered = asyncio.Event(), asyncio.Semaphore(0)
        app = FastAPI()

        @app.get("/{item}")
        @vary_on_headers("Accept")
        @typed(by())
        async def rows(request: Request, item: int) -> Any:
            entered.release()
            await gate.wait()
            return {"is": request.headers["accept"]}

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            calls = [
                asyncio.create_task(client.get("/1", headers={"Accept": accept}))
                for accept in ("a", "b", "a", "b")
            ]
            for _ in range(2):
                await entered.acquire()
            gate.set()
            assert [(await call).json()["is"] for call in calls] == ["a", "b", "a", "b"]

    asyncio.run(run())


def test_tags_of_cashews_delete_all_variants() -> None:
    async def run() -> None:
        cache, runs = _cashews_cache(), Runs()

        @vary_on_headers("Accept")
        @typed(cache(ttl=60, key="rows:{item}", tags=["rows"]))
        async def rows(item: int, accept: Annotated[str | None, Header()] = None) -> Any:
            runs.append(str(accept))
            return f"{accept}"

        for _ in range(2):
            assert [await rows(1, accept="a"), await rows(1, accept="b")] == ["a", "b"]
        assert runs == ["a", "b"]
        await cache.delete_tags("rows")
        assert await rows(item=1, accept="a") == "a"
        assert runs == ["a", "b", "a"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *(("early", {}), ("soft", {}), ("hit", {"cache_hits": 10}), ("failover", {})),
        *(("cache", {"lock": True}), ("cache", {"upper": True}), ("cache", {"prefix": "web"})),
        *(("cache", {"time_condition": 1e-9}), ("cache", {"key": None})),
    ],
)
def test_all_caches_of_cashews(kind: str, settings: dict[str, Any]) -> None:
    async def run() -> None:
        decorate = getattr(_cashews_cache(), kind)(**{"ttl": 60, "key": "rows", **settings})

        @vary_on_headers("Accept")
        @typed(decorate)
        async def rows(accept: Annotated[str | None, Header()] = None) -> str:
            return f"{accept}"

        assert [await rows(accept=each) for each in ("a", "b", "a")] == ["a", "b", "a"]

    asyncio.run(run())


def test_a_lock_is_that_of_all_variants() -> None:
    """What must not run twice at a time must not for two variants either."""

    async def run() -> None:
        cache, inside = _cashews_cache(), Runs()

        @vary_on_headers("Accept")
        @typed(cache(ttl=60, key="rows", lock=True))
        async def rows(accept: Annotated[str | None, Header()] = None) -> str:
            inside.append("in")
            await asyncio.sleep(0)
            assert inside.pop() == "in"
            assert not inside
            return f"{accept}"

        assert [*await asyncio.gather(rows(accept="a"), rows(accept="b"))] == ["a", "b"]

    asyncio.run(run())


class OwnKeys(aiocache.cached):  # type: ignore[misc]
    async def decorator(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.get_from_cache(self.key_builder(f, *args, **kwargs))


class Counting(aiocache.cached):  # type: ignore[misc]
    calls = 0

    async def decorator(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return await super().decorator(f, *args, **kwargs)


@pytest.mark.parametrize("cls", [Counting, aiocache.cached_stampede])
def test_subclasses_of_aiocaches_decorator(cls: Any) -> None:
    async def run() -> None:
        @vary_on_headers("Accept")
        @typed(cls(ttl=60, key=f"{cls.__name__}-rows"))
        async def rows(accept: Annotated[str | None, Header()] = None) -> str:
            return f"{accept}"

        assert [await rows(accept=each) for each in ("a", "b", "a")] == ["a", "b", "a"]

    asyncio.run(run())


def test_a_nested_function_keeps_its_keys() -> None:
    async def run() -> None:
        cache, runs = _cashews_cache(), Runs()

        @typed(cache(ttl=60, key="inner"))
        async def inner() -> str:
            runs.append("inner")
            return "inner"

        @vary_on_headers("Accept")
        @typed(cache(ttl=60, key="outer"))
        async def outer(accept: Annotated[str | None, Header()] = None) -> str:
            return f"{accept} {await inner()}"

        assert await outer("a") == "a inner"
        assert await outer("b") == "b inner"
        assert runs == ["inner"]

    asyncio.run(run())


@pytest.mark.parametrize("by", [by_aiocache, by_ours, by_our_request_keys])
def test_methods_and_starlette(by: Any) -> None:
    runs = Runs()

    class Rows(HTTPEndpoint):
        @vary_on_headers("Accept")
        @typed(by())
        async def get(self, request: Request) -> Response:
            runs.append(request.headers["accept"])
            return JSONResponse({"is": runs[-1]})

    client = TestClient(Starlette(routes=[Route("/", Rows)]))
    for accept in ("a", "b", "a"):
        assert client.get("/", headers={"Accept": accept}).json() == {"is": accept}
    assert runs == ["a", "b"]


@pytest.mark.skipif(not _streams_generators(), reason="this FastAPI streams no generators")
@pytest.mark.parametrize("by_option", [True, False])
def test_a_generator_has_it_in_its_vary(by_option: bool) -> None:
    app = FastAPI()
    decorate = our_own(vary=("Accept",)) if by_option else our_own()

    @app.get("/{item}")
    @typed((lambda f: f) if by_option else vary_on_headers("Accept"))
    @typed(decorate)
    async def rows(request: Request, item: int) -> AsyncIterator[str]:
        yield request.headers["accept"]

    client = TestClient(app)
    for accept in ("a", "b", "a"):
        answer = ask(client, accept)
        assert (answer.json(), answer.headers["vary"]) == (accept, "Accept")


def test_a_function_that_fails_leaves_the_value_as_it_is() -> None:
    runs = Runs()

    def broken(value: str) -> str:
        raise ValueError

    vary = vary_on_headers({"Accept": broken})
    client = TestClient(with_request(by_aiocache(), runs, vary, lambda text: {"is": text}))
    for accept in ("a", "b", "a"):
        assert ask(client, accept).json() == {"is": accept}


class Shared:
    @vary_on_headers("Accept")
    @typed(aiocache.cached(ttl=60, noself=True, key_builder=lambda f, self, accept: "shared"))
    async def rows(self, accept: Annotated[str | None, Header()] = None) -> str:
        return f"{accept}"


def test_a_method_is_called_by_hand() -> None:
    async def run() -> None:
        assert [await Shared().rows(accept) for accept in ("a", "b", "a")] == ["a", "b", "a"]

    asyncio.run(run())


async def not_cached() -> None: ...


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (lambda: vary_on_headers(), "pass names of headers"),
        (lambda: vary_on_headers("Accept, Origin"), "is no name of a header"),
        (lambda: vary_on_headers(cast(Any, {"Accept": 5})), "can't be called"),
        (lambda: vary_on_headers("Accept")(not_cached), "found no cache below it"),
        (
            lambda: vary_on_headers("Accept")(aiocache.multi_cached("keys")(not_cached)),
            "multi_cached",
        ),
        (
            lambda: vary_on_headers("Accept")(cashews.Cache().rate_limit(1, 1)(not_cached)),
            "found no cache below it",
        ),
        (
            lambda: vary_on_headers("Accept")(
                cashews.Cache()(ttl=1, key="a", tags=["a"])(not_cached)
            ),
            "one of its tags",
        ),
        (lambda: vary_on_headers("Accept")(OwnKeys()(not_cached)), "without get_cache_key"),
        (
            lambda: vary_on_headers("Accept")(ours(ttl=1, request_key=False)(not_cached)),
            "request_key=False",
        ),
    ],
)
def test_what_can_not_work_is_refused(decorate: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        decorate()
