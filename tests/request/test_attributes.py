"""What is set on a request before the endpoint runs is seen, whatever its name and its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import URL, FormData, Headers, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from stream_cached import MemoryCache, stream_cached
from tests.support.runs import HIT, MISS


class Own(Request):
    """A request of the application's own."""

    __slots__ = ("slot",)

    @property
    def current(self) -> str:
        """Memoise the user, as properties do."""
        if not hasattr(self, "_current"):
            self._current = self.cookies.get("user", "anon")
        return self._current

    @property
    def slug(self) -> str:
        """Memoise what is the same for all."""
        if not hasattr(self, "_slug"):
            self._slug = self.url.path.strip("/")
        return self._slug


class OwnRoute(APIRoute):
    """Hands the endpoints such a request."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def with_own(request: Request) -> Response:
            return await handler(Own(request.scope, request.receive))

        return with_own


def private(request: Any) -> None:
    request._user = request.cookies["user"]


def current(request: Any) -> None:
    assert request.current


def slot(request: Any) -> None:
    request.slot = request.cookies["user"]


def query(request: Any) -> None:
    request._query_params = QueryParams(user=request.cookies["user"])


def query_in_place(request: Any) -> None:
    request.query_params._dict["user"] = request.cookies["user"]


def body(request: Any) -> None:
    request._body = request.cookies["user"].encode()


def json(request: Any) -> None:
    request._json = request.cookies["user"]


def form(request: Any) -> None:
    request._form = FormData(user=request.cookies["user"])


def url(request: Any) -> None:
    request._url = URL(f"http://{request.cookies['user']}/")


def base_url(request: Any) -> None:
    request._base_url = URL(f"http://{request.cookies['user']}/")


def headers(request: Any) -> None:
    request._headers = Headers({"host": request.cookies["user"]})


USERS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def kept_by_request(request: Any) -> None:
    USERS[request] = request.cookies["user"]


def only_bob(request: Any) -> None:
    if request.cookies["user"] == "bob":
        request._user = "bob"


def nothing(request: Any) -> None:
    """Leave it as it came."""


def cookie_of(scope: Any) -> str:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers[b"cookie"].decode().partition("=")[2]


#: What a dependency does, and what the endpoint reads.
READ: dict[str, tuple[Callable[[Any], None], Callable[[Any], object]]] = {
    "a private name": (private, lambda r: r._user),
    "by getattr": (private, lambda r: getattr(r, "_user", None)),
    "by vars": (private, lambda r: vars(r)["_user"]),
    "by the dict": (private, lambda r: r.__dict__.get("_user")),
    "a memo": (current, lambda r: r.current),
    "a slot": (slot, lambda r: r.slot),
    "the query": (query, lambda r: r.query_params["user"]),
    "the query, in place": (query_in_place, lambda r: r.query_params["user"]),
    "the body": (body, lambda r: asyncio.run(r.body()).decode()),
    "the JSON": (json, lambda r: asyncio.run(r.json())),
    "the form": (form, lambda r: asyncio.run(r._get_form())["user"]),
    "the URL": (url, lambda r: r.url.hostname),
    "the URL of the application": (base_url, lambda r: r.base_url.hostname),
    "the URL of a route": (base_url, lambda r: r.url_for("endpoint").hostname),
    "a header in the key": (headers, lambda r: r.headers["host"]),
    "the scope, by vars": (nothing, lambda r: cookie_of(vars(r)["scope"])),
    "the scope, by the dict": (nothing, lambda r: cookie_of(r.__dict__["scope"])),
    "cookies, by vars": (current, lambda r: vars(r)["_cookies"]["user"]),
    "all, as a text": (nothing, lambda r: str(vars(r)).partition("user=")[2].partition("'")[0]),
    "the scope, as a text": (
        nothing,
        lambda r: str(r.scope).partition("user=")[2].partition("'")[0],
    ),
    "by the request itself": (kept_by_request, lambda r: USERS[r]),
    "one that is kept beside it": (
        kept_by_request,
        lambda r: next(u for k, u in USERS.items() if k == r),
    ),
    "only for one": (only_bob, lambda r: getattr(r, "_user", "nobody")),
}


def ask(dependency: Callable[[Any], None], read: Callable[[Any], object]) -> list[tuple[str, str]]:
    app = FastAPI()
    app.router.route_class = OwnRoute

    async def before(request: Request) -> None:
        dependency(request)

    @app.get("/page", dependencies=[Depends(before)])
    @stream_cached(ttl=60, cache=MemoryCache())
    def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(read(request)))

    client = TestClient(app)
    answers = [client.get("/page", headers={"Cookie": f"user={name}"}) for name in ("alice", "bob")]
    return [(answer.text, answer.headers["Cache-Status"]) for answer in answers]


#: What a dependency puts into the place of a part of the request.
REPLACED = [
    name for name, (dependency, _) in READ.items() if dependency in (query, body, json, url)
]


@pytest.mark.parametrize("how", REPLACED)
def test_what_a_dependency_replaces_for_one_client_is_no_hit_for_it(how: str) -> None:
    replace, _ = READ[how]

    def before(request: Any) -> None:
        if request.cookies["user"] == "bob":
            replace(request)

    def read(request: Any) -> str:
        values = [str(request.query_params), str(request.url)]
        return " ".join([*values, *(str(getattr(request, n, "")) for n in ("_body", "_json"))])

    (one, first), (other, second) = ask(before, read)
    assert first == MISS
    assert "bob" in other
    assert "bob" not in one
    assert "request-read" in second


@pytest.mark.parametrize("how", READ)
def test_what_a_dependency_has_set_is_not_stored(how: str) -> None:
    (one, first), (other, second) = ask(*READ[how])
    assert one == ("nobody" if how == "only for one" else "alice")
    assert other == "bob"
    assert "request-read" in first
    assert "request-read" in second


def test_what_the_endpoint_memoises_itself_is_stored() -> None:
    assert ask(lambda request: None, lambda r: r.slug) == [("page", MISS), ("page", HIT)]


def test_a_body_and_a_query_that_starlette_memoises_are_no_reads() -> None:
    def before(request: Any) -> None:
        assert request.query_params is request.query_params

    assert [state for _, state in ask(before, lambda r: dict(r.query_params))] == [MISS, HIT]


@pytest.mark.parametrize("value", ["me", object()], ids=["a form", "no form"])
def test_path_parameters_are_in_the_key_as_they_are_at_the_look_up(value: object) -> None:
    app = FastAPI()

    async def me(request: Request) -> None:
        request.path_params["user"] = request.cookies["user"]
        if value != "me":
            request.path_params["other"] = value

    @app.get("/{user}/orders", dependencies=[Depends(me)])
    @stream_cached(ttl=60, cache=MemoryCache())
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(request.path_params["user"]))

    client = TestClient(app)
    bypass = 'stream-cached; fwd=bypass; detail="argument"'
    for user in ("alice", "bob"):
        for state in (MISS, HIT) if value == "me" else (bypass, bypass):
            answer = client.get("/me/orders", headers={"Cookie": f"user={user}"})
            assert (answer.text, answer.headers["Cache-Status"]) == (user, state)
