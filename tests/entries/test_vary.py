"""Headers that select among responses: declared, taken by parameters, or learned from Vary."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

import pytest
from fastapi import Cookie, FastAPI, Header
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import Limits, stream_cached
from stream_cached.entries.records import Records
from stream_cached.entries.variant_index import MAX_SETS
from tests.conftest import Serve
from tests.support.gates import wait_until
from tests.support.http_client import RawResponse, fetch

MISS = "stream-cached; fwd=uri-miss; stored"
VARY_MISS = "stream-cached; fwd=vary-miss; stored"
HIT = "stream-cached; hit"


class Endpoint:
    """Streams the number of its run; `vary` is the response's own Vary."""

    def __init__(self, vary: str | None = None) -> None:
        self.vary = vary
        self.runs = 0
        self.size = 0

    async def __call__(self, request: Request) -> Response:
        self.runs += 1

        async def body() -> AsyncIterator[bytes]:
            yield b"run %d" % self.runs + bytes(self.size)

        return StreamingResponse(body(), headers={"Vary": self.vary} if self.vary else {})

    def port(self, serve: Serve, cache: str, **settings: Any) -> int:
        cached = stream_cached(**{"ttl": 60, "cache": cache, **settings})(self.__call__)
        return serve(Starlette(routes=[Route("/", cached)])).port


def states(*responses: RawResponse) -> list[str | None]:
    return [response.header("Cache-Status") for response in responses]


def accept(port: int, *values: str) -> list[RawResponse]:
    return [fetch(port, headers={"Accept": value} if value else {}) for value in values]


def test_a_declared_header_selects_and_is_added_to_vary(serve: Serve, cache_url: str) -> None:
    port = Endpoint().port(serve, cache_url, vary=("Accept", "X-B"))
    answers = accept(port, "a", "b", "", "a", "b", "")
    assert states(*answers) == [MISS] * 3 + [HIT] * 3
    assert len({answer.body for answer in answers}) == 3
    assert {answer.header("Vary") for answer in answers} == {"Accept, X-B"}


def test_a_declared_header_is_added_to_the_vary_that_there_is(serve: Serve, cache_url: str) -> None:
    port = Endpoint("Accept-Encoding, accept").port(serve, cache_url, vary=("Accept", "X-B"))
    answers = accept(port, "a", "a")
    assert {answer.header("Vary") for answer in answers} == {"Accept-Encoding, accept, X-B"}
    assert states(*answers) == [MISS, HIT]


@pytest.mark.parametrize("key", [None, "fixed"])
def test_a_normaliser_makes_few_variants_of_many_spellings(
    serve: Serve, cache_url: str, key: str | None
) -> None:
    def language(value: str) -> str:
        return "" if not value else "de" if value.lower().startswith("de") else "en"

    endpoint = Endpoint()
    port = endpoint.port(serve, cache_url, vary={"Accept-Language": language}, key=key)
    spellings = ["de", "DE-at", "de;q=0.9, en", "en", "fr", "xx", "de-CH"]
    bodies = [fetch(port, headers={"Accept-Language": value}).body for value in spellings]
    assert len(set(bodies)) == endpoint.runs == 2
    assert bodies[0] == bodies[1] == bodies[2] == bodies[6] != bodies[3]


@pytest.mark.parametrize("key", [None, "fixed"])
def test_a_normaliser_may_map_everything_to_nothing(
    serve: Serve, cache_url: str, key: str | None
) -> None:
    endpoint = Endpoint()
    port = endpoint.port(serve, cache_url, vary={"Accept": lambda value: ""}, key=key)
    accept(port, "a", "b", "")
    assert endpoint.runs == 1


@pytest.mark.parametrize("normalise", [lambda value: None, lambda value: 1 / 0, int])
def test_a_normaliser_that_fails_costs_the_cache_only(
    serve: Serve, normalise: Any, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint()
    port = endpoint.port(serve, "memory://?max_bytes=40MB", vary={"Accept": normalise})
    answers = accept(port, "a", "a")
    assert states(*answers) == ['stream-cached; fwd=bypass; detail="vary"'] * 2
    assert endpoint.runs == 2
    warnings = [record for record in caplog.records if record.name == "stream_cached"]
    assert len(warnings) == 1


def test_values_of_different_headers_do_not_run_together(serve: Serve, cache_url: str) -> None:
    endpoint = Endpoint()
    port = endpoint.port(serve, cache_url, vary=("X-A", "X-B"))
    values = [("1", "2"), ("12", ""), ("", "12"), ("1, 2", ""), ("2", "1")]
    for a, b in values * 2:
        fetch(port, headers={"X-A": a, "X-B": b})
    fetch(port, headers=[("X-A", "1"), ("X-A", "2"), ("X-B", "")])
    assert endpoint.runs == len(values) + 1


def test_header_and_cookie_parameters_select_and_are_added_to_vary(
    serve: Serve, cache_url: str
) -> None:
    app, runs = FastAPI(), itertools.count()

    @app.get("/")
    @stream_cached(ttl=60, cache=cache_url)
    async def endpoint(
        x_tenant: Annotated[str, Header()] = "none", theme: str = Cookie(default="light")
    ) -> Response:
        return Response(f"{next(runs)} {x_tenant} {theme}")

    port = serve(app).port
    sets = [{}, {"X-Tenant": "a"}, {"X-Tenant": "b"}, {"X-Tenant": "b", "Cookie": "theme=dark"}]
    misses = [fetch(port, headers=headers) for headers in sets]
    hits = [fetch(port, headers=headers) for headers in sets]
    assert states(*misses, *hits) == [MISS] * 4 + [HIT] * 4
    assert [answer.body for answer in misses] == [answer.body for answer in hits]
    assert {answer.header("Vary") for answer in (*misses, *hits)} == {"Cookie, x-tenant"}
    # Another cookie is none of the endpoint's business.
    assert states(fetch(port, headers={"X-Tenant": "a", "Cookie": "other=1"})) == [HIT]


def test_what_vary_names_is_learned(serve: Serve, cache_url: str) -> None:
    port = Endpoint("Accept").port(serve, cache_url)
    answers = accept(port, "a", "b", "a", "b", "")
    assert states(*answers) == [MISS, VARY_MISS, HIT, HIT, VARY_MISS]
    assert len({answer.body for answer in answers}) == 3


def test_the_most_recent_of_the_variants_that_match_is_served(
    serve: Serve, cache_url: str, apps_are_processes: None
) -> None:
    endpoint = Endpoint("Accept")
    ports = [endpoint.port(serve, cache_url, key_host=False) for _ in range(2)]

    def bodies(*asked: tuple[str, str]) -> list[bytes]:
        port = ports[-1]
        return [fetch(port, headers={"Accept": a, "X-B": b}).body for a, b in asked]

    assert bodies(("a", "1"), ("b", "1")) == [b"run 1", b"run 2"]
    endpoint.vary = "X-B"
    # What is stored by another name is still there, until a newer one matches, too.
    assert bodies(("a", "2"), ("c", "2"), ("a", "2"), ("a", "1")) == [
        *(b"run 1", b"run 3", b"run 3", b"run 1")
    ]
    endpoint.vary = None
    assert bodies(("c", "3"), ("a", "2"), ("d", "4"), ("", "")) == [b"run 4"] * 4
    # Another process, which was asked for nothing before, finds the same.
    ports.reverse()
    assert bodies(("a", "2"), ("b", "1")) == [b"run 4"] * 2
    assert endpoint.runs == 4


@pytest.mark.parametrize("max_variants", [1, 3, 64])
def test_a_request_finds_what_a_list_of_all_responses_says(serve: Serve, max_variants: int) -> None:
    names, choose = ("Accept", "X-B", "X-C"), random.Random(max_variants)
    sets = [subset for size in range(4) for subset in itertools.combinations(names, size)]
    endpoint = Endpoint()
    port = endpoint.port(
        serve, "memory://?max_bytes=40MB", max_variants=max_variants, honor_request=True
    )
    known: list[tuple[dict[str, str], bytes]] = []
    fetch(port, headers={"Cache-Control": "no-store"})
    for _ in range(400):
        endpoint.vary = ", ".join(choose.choice(sets[1:] if not known else sets)) or None
        asked = {name: choose.choice("123") for name in names}
        is_new = choose.random() < 0.1
        matching = [] if is_new else [body for by, body in known if by.items() <= asked.items()]
        answer = fetch(port, headers=asked | ({"Cache-Control": "no-cache"} if is_new else {}))
        expected = matching[0] if matching else b"run %d" % endpoint.runs
        assert answer.body == expected
        if not matching:
            by = {name: value for name, value in asked.items() if name in (endpoint.vary or "")}
            known = [(by, answer.body), *(each for each in known if each[0] != by)][:max_variants]


def test_the_first_response_with_vary_takes_the_place_of_one_without(
    serve: Serve, cache_url: str
) -> None:
    endpoint = Endpoint()
    port = endpoint.port(serve, cache_url, honor_request=True)
    accept(port, "a")
    endpoint.vary = "Accept"
    fetch(port, headers={"Accept": "b", "Cache-Control": "no-cache"})
    assert [each.body for each in accept(port, "b", "a")] == [b"run 2", b"run 3"]


def test_a_hit_reads_the_index_and_then_what_matches_at_once(
    serve: Serve, cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint()
    port = endpoint.port(serve, cache_url)
    for name in ("Accept", "X-B", "X-C"):
        endpoint.vary = name
        fetch(port, headers={name: name})
    reads, read = [], Records.read

    async def counted(self: Records, key: str, keys: Sequence[str]) -> list[bytes | None]:
        reads.append(len(keys))
        return await read(self, key, keys)

    monkeypatch.setattr(Records, "read", counted)
    both = fetch(port, headers={"Accept": "Accept", "X-C": "X-C"})
    assert (both.body, states(both)) == (b"run 3", [HIT])
    # Those that match, and the mark for all of the values.
    assert reads[1:] == [3]


def test_what_can_not_be_stored_is_remembered_for_requests_with_all_of_its_values(
    serve: Serve, cache_url: str
) -> None:
    endpoint = Endpoint("Accept")
    port = endpoint.port(serve, cache_url, limits=Limits(max_body=100))
    accept(port, "a")
    endpoint.vary = "X-B"
    fetch(port, headers={"Accept": "b", "X-B": "1"})
    endpoint.vary, endpoint.size = None, 100
    asked = {"Accept": "c", "X-B": "2"}
    marked = 'stream-cached; fwd=uri-miss; detail="max-body"'
    assert states(fetch(port, headers=asked)) == [VARY_MISS]
    wait_until(lambda: states(fetch(port, headers=asked)) == [marked])
    assert states(*accept(port, "a"), fetch(port, headers={"X-B": "1"})) == [HIT, HIT]
    for other in ({"Accept": "d"}, {"X-B": "3"}):
        assert states(fetch(port, headers=asked | other)) == [VARY_MISS]


def test_variants_by_too_many_sets_of_names_are_made_again(serve: Serve, cache_url: str) -> None:
    endpoint = Endpoint()
    port = endpoint.port(serve, cache_url)
    for number in range(MAX_SETS + 1):
        endpoint.vary = f"X-{number}"
        fetch(port, headers={f"X-{other}": str(number) for other in range(MAX_SETS + 1)})
    asked = {f"X-{number}": str(number) for number in range(MAX_SETS + 1)}
    for number in reversed(range(MAX_SETS + 1)):
        assert fetch(port, headers={**asked, "X-0": "0"}).body == b"run %d" % (number + 1)
        del asked[f"X-{number}"]
        if number == 1:
            break
    assert fetch(port, headers={"X-0": "0"}).body == b"run %d" % (MAX_SETS + 2)


def test_no_more_than_max_variants_are_kept(serve: Serve, cache_url: str) -> None:
    port = Endpoint("Accept").port(serve, cache_url, max_variants=2)
    accept(port, "a", "b", "c")
    assert states(*accept(port, "b", "c")) == [HIT, HIT]
    assert states(*accept(port, "a")) == [VARY_MISS]
    assert states(*accept(port, "c", "a", "b")) == [HIT, HIT, VARY_MISS]


class OneKey(stream_cached):
    """Has one key for everything."""

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        return "one"


own_keys = pytest.mark.parametrize(
    "keyed",
    [
        functools.partial(stream_cached, key="one"),
        functools.partial(stream_cached, key_builder=lambda f, *args, **kwargs: "one"),
        OneKey,
    ],
    ids=["key", "key_builder", "get_cache_key"],
)


@own_keys
def test_a_vary_that_names_a_parameters_header_selects_under_a_key_of_ones_own(
    serve: Serve, cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    app = FastAPI()

    @app.get("/")
    @keyed(ttl=60, cache=cache_url)
    async def endpoint(accept_language: Annotated[str, Header()]) -> Response:
        return Response(f"in {accept_language}", headers={"Vary": "Accept-Language"})

    port = serve(app).port
    languages = ["de", "en"] * 2
    answers = [fetch(port, headers={"Accept-Language": value}) for value in languages]
    assert [answer.text for answer in answers] == [f"in {value}" for value in languages]
    assert states(*answers) == [MISS, VARY_MISS, HIT, HIT]
    assert {answer.header("Vary") for answer in answers} == {"Accept-Language"}


@own_keys
def test_header_and_cookie_parameters_select_under_a_key_of_ones_own(
    serve: Serve, cache_url: str, keyed: Callable[..., stream_cached]
) -> None:
    app = FastAPI()

    @app.get("/")
    @keyed(ttl=60, cache=cache_url)
    async def endpoint(
        x_tenant: Annotated[str, Header()] = "none", theme: str = Cookie(default="light")
    ) -> Response:
        return Response(f"{x_tenant} {theme}")

    port = serve(app).port
    sets = [{}, {"X-Tenant": "a"}, {"X-Tenant": "b"}, {"X-Tenant": "b", "Cookie": "theme=dark"}]
    misses = [fetch(port, headers=headers) for headers in sets]
    hits = [fetch(port, headers=headers) for headers in sets]
    assert states(*misses, *hits) == [MISS] + [VARY_MISS] * 3 + [HIT] * 4
    texts = ["none light", "a light", "b light", "b dark"]
    assert [answer.text for answer in misses] == [answer.text for answer in hits] == texts
    assert {answer.header("Vary") for answer in (*misses, *hits)} == {"Cookie, x-tenant"}
