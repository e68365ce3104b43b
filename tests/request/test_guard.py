"""What an endpoint reads of its request: stored only if it is part of the key, else said."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.datastructures import Headers, State
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Host, Route, Router
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import BypassError, stream_cached
from stream_cached.endpoint.startup import remember_state
from tests.support.asgi import Exchange
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

READ = 'stream-cached; fwd=uri-miss; detail="request-read"'
MARKED = 'stream-cached; fwd=miss; detail="request-read"'

#: What middleware puts into `request.state` for all clients alike.
WORKERS = ThreadPoolExecutor(1)
LOGGER = logging.getLogger("an application")

_numbers = iter(range(1, 10**6))


def cached(**settings: Any) -> stream_cached:
    """The decorator over a memory that no other test has."""
    settings.setdefault("cache", f"memory://?max_bytes={(300 << 20) + next(_numbers)}")
    return stream_cached(ttl=60, **settings)


class ByHeader(AuthenticationBackend):
    """The user is who X-User says."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        user = conn.headers.get("x-user", "")
        return AuthCredentials([f"scope of {user}"]), SimpleUser(user)


def for_users(app: ASGIApp) -> ASGIApp:
    """What middleware leaves in a scope: who asks, and what the application works with."""
    authenticated = AuthenticationMiddleware(app, ByHeader())

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = Headers(scope=scope).get("x-user", "")
            of_user = LOGGER.getChild(user)
            scope["state"] = {"tenant": user, "workers": WORKERS, "logger": LOGGER, "log": of_user}
            scope["session"] = {"name": user}
            scope["tenant"] = user
            scope["workers"] = WORKERS
            scope["client"] = (f"client of {user}", 5000)
            scope["extensions"] = {"tls": {"client_cert_name": user}, "http.response.debug": {}}
            scope["extensions"]["http.response.template"] = {"user": user}
            scope["asgi"] = {**scope.get("asgi", {}), "server": f"server of {user}"}
        await authenticated(scope, receive, send)

    return marked


def routed(endpoint: Any, path: str = "/", **route: Any) -> ASGIApp:
    app = Starlette(routes=[Route(path, endpoint, **route)])
    remember_state(app, {"workers": WORKERS, "logger": LOGGER})
    return for_users(app)


def answering(read: Callable[[Request], object], **settings: Any) -> Any:
    """An endpoint that answers with what it reads of its request."""

    @cached(**settings)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(read(request)))

    return endpoint


def ask(
    app: ASGIApp, *users: str, path: str = "/", base: str = "http://example.org", **headers: str
) -> list[tuple[str, str]]:
    """Ask as each user in turn; return what they are told, and Cache-Status."""
    # Entering it would ask for its lifespan, and the middleware is no application.
    client = TestClient(app, base)
    answers = []
    for user in users:
        response = client.get(path, headers={"X-User": user, "Cookie": f"name={user}", **headers})
        assert response.status_code == 200, response.text
        answers.append((response.text, response.headers.get("cache-status", "")))
    return answers


def states(answers: list[tuple[str, str]]) -> list[str]:
    return [state for _, state in answers]


# -- what is noticed ------------------------------------------------------------------------------


def writes_and_reads_session(request: Request) -> object:
    request.session["seen"] = True
    return request.session["name"]


def unpacked(request: Request) -> object:
    return {**request.scope}["tenant"]


#: What is read, and what the warning calls it.
NOTICED: dict[str, tuple[Callable[[Any], object], str]] = {
    "cookies": (lambda r: r.cookies.get("name"), "the cookies"),
    "session": (lambda r: r.session["name"], "the session"),
    "session, written": (writes_and_reads_session, "the session"),
    "user": (lambda r: r.user.display_name, "request.user"),
    "auth": (lambda r: r.auth.scopes, "request.auth"),
    "client": (lambda r: r.client.host if r.client else None, "the client's address"),
    "state": (lambda r: r.state.tenant, "request.state.tenant"),
    "state, by getattr": (lambda r: getattr(r.state, "tenant", None), "request.state.tenant"),
    "state, infrastructure of a middleware": (lambda r: r.state.log.name, "request.state.log"),
    "state, of the scope": (lambda r: r.scope["state"]["tenant"], "request.state.tenant"),
    "state, got from the scope": (
        lambda r: r.scope.get("state", {}).get("tenant"),
        "request.state.tenant",
    ),
    "scope": (lambda r: r.scope["tenant"], 'request.scope["tenant"]'),
    "scope, get": (lambda r: r.scope.get("tenant"), 'request.scope["tenant"]'),
    "scope, absent": (lambda r: r.scope.get("absent"), 'request.scope["absent"]'),
    "the client's certificate": (
        lambda r: r.scope["extensions"]["tls"]["client_cert_name"],
        'request.scope["extensions"]',
    ),
    "an ability of the server with a content": (
        lambda r: r.scope["extensions"]["http.response.template"]["user"],
        'request.scope["extensions"]',
    ),
    "what is added to the version of ASGI": (
        lambda r: r.scope["asgi"]["server"],
        'request.scope["asgi"]',
    ),
    "all extensions": (lambda r: [*r.scope["extensions"]], 'request.scope["extensions"]'),
    "scope, server": (lambda r: r.scope["server"], 'request.scope["server"]'),
    "scope, in": (lambda r: "absent" in r.scope, 'request.scope["absent"]'),
    "scope, by the request": (lambda r: r["tenant"], 'request.scope["tenant"]'),
    "scope, got by the request": (lambda r: r.get("tenant"), 'request.scope["tenant"]'),
    "scope, in the request": (lambda r: "tenant" in r, 'request.scope["tenant"]'),
    "scope, dict": (lambda r: dict(r.scope)["tenant"], 'request.scope["tenant"]'),
    "scope, dict of the request": (lambda r: dict(r)["tenant"], 'request.scope["tenant"]'),
    "scope, unpacked": (unpacked, 'request.scope["tenant"]'),
    "a copy of it": (lambda r: copy.copy(r).headers["x-user"], "the header x-user"),
    "the state of a copy": (lambda r: copy.copy(r).state.tenant, "request.state.tenant"),
    "scope, copy": (lambda r: r.scope.copy()["tenant"], 'request.scope["tenant"]'),
    "scope, items": (lambda r: dict(r.scope.items())["tenant"], 'request.scope["tenant"]'),
    "scope, values": (lambda r: len(list(r.scope.values())) > 0, 'request.scope["tenant"]'),
    "scope, user": (lambda r: r.scope["user"].display_name, "request.user"),
    "scope, auth": (lambda r: r.scope["auth"].scopes, "request.auth"),
    "scope, session": (lambda r: r.scope["session"]["name"], "the session"),
    "scope, version": (lambda r: r["http_version"], 'request.scope["http_version"]'),
    "scope, client": (lambda r: r.scope["client"][0], "the client's address"),
    "scope, headers": (lambda r: dict(r.scope["headers"])[b"x-user"], "the headers as a whole"),
    "a request of its own": (lambda r: Request(r.scope).headers["x-user"], "the headers"),
    "cookies of its own request": (lambda r: Request(r.scope).cookies["name"], "the headers"),
    "state of its own request": (lambda r: Request(r.scope).state.tenant, "request.state.tenant"),
    "user of its own connection": (lambda r: HTTPConnection(r.scope).user, "request.user"),
    "headers of the scope": (lambda r: Headers(scope=r.scope)["x-user"], "the headers"),
    "header": (lambda r: r.headers["x-user"], "the header x-user"),
    "header, capitalised": (lambda r: r.headers["X-USER"], "the header x-user"),
    "header, get": (lambda r: r.headers.get("X-User"), "the header x-user"),
    "header, absent": (lambda r: r.headers.get("X-Absent"), "the header x-absent"),
    "header, getlist": (lambda r: r.headers.getlist("X-User"), "the header x-user"),
    "header, in": (lambda r: "X-Absent" in r.headers, "the header x-absent"),
    "header, not in the key": (lambda r: r.headers.get("Content-Type"), "the header content-type"),
    "headers, iteration": (lambda r: sorted(r.headers), "the headers as a whole"),
    "headers, keys": (lambda r: sorted(r.headers.keys()), "the headers as a whole"),
    "headers, values": (lambda r: sorted(r.headers.values()), "the headers as a whole"),
    "headers, items": (lambda r: dict(r.headers.items())["x-user"], "the headers as a whole"),
    "headers, raw": (lambda r: dict(r.headers.raw)[b"x-user"], "the headers as a whole"),
    "headers, dict": (lambda r: dict(r.headers)["x-user"], "the headers as a whole"),
    "headers, mutablecopy": (lambda r: r.headers.mutablecopy()["x-user"], "the headers"),
    "headers, str": (lambda r: str(r.headers), "the headers as a whole"),
    "headers, ==": (lambda r: r.headers == Headers({}), "the headers as a whole"),
    "headers, len": (lambda r: len(r.headers), "the headers as a whole"),
    "header Cookie": (lambda r: r.headers["Cookie"], "the cookies"),
    "header Cookie, getlist": (lambda r: r.headers.getlist("cookie"), "the cookies"),
}


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize(("read", "name"), NOTICED.values(), ids=NOTICED)
def test_what_tells_clients_apart_is_noticed_and_read_as_it_is(
    caplog: pytest.LogCaptureFixture, read: Callable[[Request], object], name: str
) -> None:
    async def plain(request: Request) -> Response:
        return PlainTextResponse(str(read(request)))

    answers = ask(routed(answering(read)), "alice", "bob", "alice")
    expected = ask(routed(plain), "alice", "bob", "alice")
    if name != "request.user":
        assert [text for text, _ in answers] == [text for text, _ in expected]
    assert states(answers) == [READ] * 3
    (warning,) = warnings(caplog)
    assert f"({name}" in warning or f", {name}" in warning
    assert "unguarded=(" in warning
    assert "alice" not in warning


is_mapping = pytest.mark.skipif(
    not hasattr(State, "__getitem__"), reason="a State of this Starlette has attributes only"
)


@pytest.mark.parametrize("name", ["fastapi_user", "fastapi_users.session"])
def test_a_name_in_the_scope_that_begins_like_a_frameworks_is_noticed(name: str) -> None:
    app = Starlette(routes=[Route("/", answering(lambda r: r.scope[name]))])

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, name: Headers(scope=scope)["x-user"]}, receive, send)

    assert ask(marked, "alice", "bob") == [("alice", READ), ("bob", READ)]


@is_mapping
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda r: r.state["tenant"], "request.state.tenant"),
        (lambda r: "tenant" in r.state, "request.state.tenant"),
        (lambda r: sorted(r.state), "request.state.tenant and request.state.log"),
        (lambda r: len(r.state), "request.state.tenant and request.state.log"),
    ],
    ids=["item", "in", "iteration", "len"],
)
def test_a_state_that_is_a_mapping_is_watched_as_one(
    caplog: pytest.LogCaptureFixture, read: Callable[[Request], object], name: str
) -> None:
    answers = ask(routed(answering(read)), "alice", "bob")
    assert states(answers) == [READ] * 2
    (warning,) = warnings(caplog)
    assert f"({name})" in warning


def test_a_warning_says_which_lines_mend_it(caplog: pytest.LogCaptureFixture) -> None:
    def read(request: Request) -> object:
        return request.headers.get("X-One"), request.headers.get("X-Two"), request.state.tenant

    assert states(ask(routed(answering(read)), "alice")) == [READ]
    (warning,) = warnings(caplog)
    assert 'vary=("x-one", "x-two")' in warning
    assert 'unguarded=("x-one", "x-two", "state.tenant")' in warning
    fixed = answering(read, unguarded=("x-one", "x-two", "state.tenant"))
    assert states(ask(routed(fixed), "alice", "alice")) == [MISS, HIT]


def test_all_that_is_read_is_named_once_and_other_reads_are_named_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = iter(["X-One", "X-One", "X-Two"])
    app = routed(answering(lambda r: r.headers.get(next(names))))
    assert states(ask(app, "alice", "alice", "alice")) == [READ] * 3
    one, two = warnings(caplog)
    assert "x-one" in one
    assert "x-two" in two


@pytest.mark.parametrize("name", ["User", "Client", "Session", "Auth"])
def test_the_line_for_a_header_that_is_called_like_a_word_works(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    app = routed(answering(lambda r: r.headers.get(name)))
    assert states(ask(app, "alice")) == [READ]
    (warning,) = warnings(caplog)
    _, _, rest = warning.partition("unguarded=")
    unguarded = eval(rest.partition(")")[0] + ")")
    fixed = answering(lambda r: r.headers.get(name), unguarded=unguarded)
    assert states(ask(routed(fixed), "alice", "alice")) == [MISS, HIT]


# -- what is fine ---------------------------------------------------------------------------------


def writes_state(request: Request) -> object:
    request.state.mine = "mine"
    request.state.tenant = "everybody"
    return request.state.mine, request.state.tenant, request.scope["state"]["mine"]


def writes_scope(request: Request) -> object:
    request.scope["path_params"] = {"a": 1}
    return request.path_params


FINE: dict[str, Callable[[Request], object]] = {
    "path": lambda r: (r.scope["path"], r.scope["raw_path"], r.scope["root_path"]),
    "path_params": lambda r: r.path_params,
    "query_params": lambda r: (r.query_params.get("a"), r.scope["query_string"]),
    "method": lambda r: (r.method, r.scope["type"], r.scope.get("scheme")),
    "app": lambda r: r.app.state is r.scope["app"].state,
    "host": lambda r: r.headers["Host"],
    "url": lambda r: r.url,
    "base_url": lambda r: r.base_url,
    "url_for": lambda r: r.url_for("endpoint"),
    "state, written": writes_state,
    "scope, written": writes_scope,
    "state, absent": lambda r: getattr(r.state, "absent", "-"),
    "state, hasattr": lambda r: hasattr(r.state, "absent"),
    "state, of the lifespan": lambda r: r.state.workers is WORKERS and r.state.logger is LOGGER,
    "scope, infrastructure": lambda r: r.scope["workers"] is WORKERS,
    "extensions": lambda r: "http.response.debug" in r.scope.get("extensions", {}),
    "isinstance": lambda r: isinstance(r, Request) and isinstance(r, HTTPConnection),
    "its class": lambda r: type(r).__name__,
    "receive": lambda r: callable(r.receive),
    "itself": lambda r: r in {r} and r == r,
}


@pytest.mark.parametrize("read", FINE.values(), ids=FINE)
def test_what_is_part_of_the_key_or_the_same_for_all_is_stored(
    caplog: pytest.LogCaptureFixture, read: Callable[[Request], object]
) -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(read(request)))

    answers = ask(routed(cached()(endpoint)), "alice", "bob", path="/?a=1")
    assert states(answers) == [MISS, HIT], warnings(caplog)
    expected = ask(routed(endpoint), "alice", path="/?a=1")
    assert answers[0][0] == answers[1][0] == expected[0][0]


def test_what_an_endpoint_writes_into_state_reaches_the_middleware() -> None:
    seen: list[object] = []
    endpoint = answering(lambda r: setattr(r.state, "rows", 3))
    app = Starlette(routes=[Route("/", endpoint)])

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        seen.append(scope["state"].get("rows"))

    assert states(ask(watching, "alice", "alice")) == [MISS, HIT]
    assert seen[0] == 3


def test_a_state_that_is_deleted_is_gone() -> None:
    def read(request: Request) -> object:
        request.state.mine = 1
        del request.state.mine
        request.scope["mine"] = 1
        del request.scope["mine"]
        return "mine" in request.scope["state"]

    assert ask(routed(answering(read)), "alice")[0][0] == "False"


@pytest.mark.parametrize("read", ["X-User", "x-user", "X-USER"])
@pytest.mark.parametrize("declared", ["X-User", "x-user", "X-uSER"])
@pytest.mark.parametrize("where", ["vary", "Vary", "unguarded"])
def test_a_header_that_is_declared_may_be_read_however_it_is_capitalised(
    declared: str, read: str, where: str
) -> None:
    settings = {} if where == "Vary" else {where: (declared,)}
    headers = {"Vary": declared} if where == "Vary" else {}

    @cached(**settings)
    async def endpoint(request: Request) -> Response:
        value = request.headers[read], request.headers.getlist(read), read in request.headers
        return PlainTextResponse(str(value), headers=headers)

    answers = ask(routed(endpoint), "alice", "alice", "bob", "alice")
    if where == "unguarded":
        assert states(answers) == [MISS, HIT, HIT, HIT]
    else:
        other = "stream-cached; fwd=vary-miss; stored" if where == "Vary" else MISS
        assert states(answers) == [MISS, HIT, other, HIT]
        assert ["alice" in text for text, _ in answers] == [True, True, False, True]


def test_a_header_parameter_may_be_read_from_the_request_too() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(request: Request, x_user: Annotated[str, Header()]) -> Response:
        return PlainTextResponse(f"{x_user} {request.headers['X-User']}")

    answers = ask(app, "alice", "bob", "alice")
    assert [text for text, _ in answers] == ["alice alice", "bob bob", "alice alice"]
    assert states(answers) == [MISS, MISS, HIT]


def test_the_other_lines_of_a_header_parameter_are_not_in_the_key() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(request: Request, x_group: Annotated[str, Header()]) -> Response:
        return PlainTextResponse(f"{x_group}: {request.headers.getlist('X-Group')}")

    client = TestClient(app)
    for user in ("alice", "bob"):
        lines = [("X-Group", "all"), ("X-Group", user)]
        assert user in client.get("/", headers=lines).text


def test_a_header_parameter_that_was_converted_is_not_the_header() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(request: Request, x_page: Annotated[int, Header()]) -> Response:
        return PlainTextResponse(request.headers["X-Page"])

    client = TestClient(app)
    for page in ("1", "01"):
        assert client.get("/", headers={"X-Page": page}).text == page


def test_one_cookie_as_a_parameter_does_not_stand_for_all_cookies() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(request: Request, language: Annotated[str, Cookie()]) -> Response:
        return PlainTextResponse(request.cookies["name"])

    client = TestClient(app)
    for user in ("alice", "bob"):
        answer = client.get("/", headers={"Cookie": f"language=en; name={user}"})
        assert (answer.text, answer.headers["cache-status"]) == (user, READ)


def test_cookies_may_be_read_under_vary_cookie() -> None:
    @cached()
    async def endpoint(request: Request) -> Response:
        name = request.cookies["name"], request.headers["cookie"], request.headers.getlist("COOKIE")
        return PlainTextResponse(str(name), headers={"Vary": "Cookie"})

    answers = ask(routed(endpoint), "alice", "bob", "alice", "bob")
    assert ["alice" in text for text, _ in answers] == [True, False, True, False]
    assert states(answers)[2:] == [HIT, HIT]


def test_a_session_may_be_read_under_vary_cookie_if_it_is_said_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = ask(
        routed(answering(lambda r: r.session["name"], vary=("Cookie",))), "alice", "alice"
    )
    assert states(answers) == [READ] * 2
    settings: dict[str, Any] = {"vary": ("Cookie",), "unguarded": ("session",)}
    app = routed(answering(lambda r: r.session["name"], **settings))
    answers = ask(app, "alice", "bob", "alice")
    assert answers == [("alice", MISS), ("bob", MISS), ("alice", HIT)]


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("client", lambda r: (r.client, r.scope["client"])),
        ("cookies", lambda r: (r.cookies, r.headers["cookie"])),
        ("Cookie", lambda r: (r.cookies, r.headers.getlist("Cookie"))),
        ("session", lambda r: (r.session["name"], r.scope["session"])),
        ("user", lambda r: (r.user.display_name, r.scope["user"].display_name)),
        ("auth", lambda r: (r.auth.scopes, r.scope["auth"].scopes)),
        ("headers", lambda r: (sorted(r.headers), r.scope["headers"])),
        ("state.tenant", lambda r: (r.state.tenant, r.scope["state"]["tenant"])),
        ("scope.tenant", lambda r: (r.scope["tenant"], r["tenant"])),
        ("scope.absent", lambda r: r.get("absent")),
        ("X-User", lambda r: (r.headers["x-user"], r.headers.getlist("X-User"))),
        ("CLIENT", lambda r: r.client),
    ],
)
def test_a_word_of_unguarded_lets_this_be_read_and_nothing_else(
    word: str, read: Callable[[Request], object]
) -> None:
    assert states(ask(routed(answering(read)), "alice")) == [READ]
    app = routed(answering(read, unguarded=(word,)))
    assert states(ask(app, "alice", "bob")) == [MISS, HIT]
    others = {"client", "cookies", "session", "user", "auth", "headers", "state.tenant"}
    others -= {word, word.lower(), {"Cookie": "cookies", "X-User": "headers"}.get(word, "")}
    app = routed(answering(read, unguarded=tuple(others)))
    assert states(ask(app, "alice")) == [READ]


@pytest.mark.parametrize("word", ["host", "url", "Host"])
def test_the_host_can_be_unguarded(word: str) -> None:
    def read(request: Request) -> object:
        return request.url, request.base_url, request.headers["host"]

    app = routed(answering(read, key_host=False, unguarded=(word,)))
    assert states(ask(app, "alice")) == [MISS]
    assert states(ask(app, "alice", base="http://example.com")) == [HIT]


@pytest.mark.parametrize("name", ["client", "headers", "session", "user", "auth", "server"])
def test_what_has_a_word_of_its_own_can_be_unguarded_by_its_name_in_the_scope(name: str) -> None:
    settings: dict[str, Any] = {"unguarded": (f"scope.{name}",), "key_host": False}
    app = routed(answering(lambda r: bool(r.scope[name]), **settings))
    assert states(ask(app, "alice", "alice")) == [MISS, HIT]


# -- hosts ----------------------------------------------------------------------------------------

OF_HOST: dict[str, Callable[[Request], object]] = {
    "header": lambda r: r.headers["Host"],
    "url": lambda r: r.url,
    "base_url": lambda r: r.base_url,
    "url_for": lambda r: r.url_for("endpoint"),
}


@pytest.mark.parametrize("read", OF_HOST.values(), ids=OF_HOST)
def test_the_host_is_no_part_of_the_key_under_key_host_false(
    caplog: pytest.LogCaptureFixture, read: Callable[[Request], object]
) -> None:
    app = routed(answering(read, key_host=False))
    one, other = (ask(app, "alice", base=f"http://{host}")[0] for host in ("one.org", "other.org"))
    assert "one.org" in one[0]
    assert "other.org" in other[0]
    assert states([one, other]) == [READ] * 2
    (warning,) = warnings(caplog)
    assert "(the host)" in warning
    assert 'unguarded=("host",)' in warning


def test_two_hosts_share_an_entry_only_under_key_host_false() -> None:
    for key_host, second in ((False, HIT), (True, MISS)):
        app = routed(answering(lambda r: r.url.path if False else "", key_host=key_host))
        found = [ask(app, "a", base=f"http://{host}")[0][1] for host in ("one.org", "other.org")]
        assert found == [MISS, second]


def test_a_parameter_of_a_host_route_is_noticed_under_key_host_false() -> None:
    endpoint = answering(lambda r: r.path_params["tenant"], key_host=False)
    app = Starlette(routes=[Host("{tenant}.example.org", Router([Route("/", endpoint)]))])
    for tenant in ("one", "other"):
        assert ask(app, "alice", base=f"http://{tenant}.example.org")[0][0] == tenant


def test_the_host_may_be_read_under_vary_host() -> None:
    @cached(key_host=False)
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.headers["Host"], headers={"Vary": "Host"})

    assert states(ask(routed(endpoint), "alice")) == [MISS]


def test_the_session_of_starlette_is_read_and_written_as_ever() -> None:
    pytest.importorskip("itsdangerous")
    from starlette.middleware.sessions import SessionMiddleware

    def read(request: Request) -> object:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return request.session["visits"]

    app = SessionMiddleware(
        Starlette(routes=[Route("/", answering(read))]), secret_key="secret", https_only=False
    )
    client = TestClient(app)
    answers = [client.get("/") for _ in range(3)]
    assert [answer.text for answer in answers] == ["1", "2", "3"]
    assert {answer.headers["cache-status"] for answer in answers} == {READ}


# -- where it is read -----------------------------------------------------------------------------


def test_what_a_generator_reads_after_the_head_is_not_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @cached()
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield "for "
            yield request.headers["X-User"]

        return StreamingResponse(body())

    answers = ask(routed(endpoint), "alice", "bob", "alice")
    assert [text for text, _ in answers] == ["for alice", "for bob", "for alice"]
    # The head of the first had been sent before.
    assert states(answers) == [MISS, MARKED, MARKED]
    (warning,) = warnings(caplog)
    assert "the header x-user" in warning


def test_what_a_plain_generator_reads_is_not_stored() -> None:
    @cached()
    def endpoint(request: Request) -> Response:
        def body() -> Iterator[str]:
            yield from ("for ", request.cookies["name"])

        return StreamingResponse(body())

    answers = ask(routed(endpoint), "alice", "bob")
    assert [text for text, _ in answers] == ["for alice", "for bob"]
    assert states(answers) == [MISS, MARKED]


def test_what_is_read_in_the_thread_pool_is_noticed() -> None:
    @cached()
    def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.headers["X-User"])

    assert ask(routed(endpoint), "alice", "bob") == [("alice", READ), ("bob", READ)]


def test_what_a_function_of_the_endpoint_reads_is_noticed() -> None:
    async def tenant(request: Request) -> str:
        await asyncio.sleep(0)
        return str(request.state.tenant)

    @cached()
    async def endpoint(request: Request) -> Response:
        async def nested() -> str:
            return await tenant(request)

        return PlainTextResponse(await asyncio.create_task(nested()))

    assert ask(routed(endpoint), "alice", "bob") == [("alice", READ), ("bob", READ)]


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    "read",
    [
        lambda self, request: request.headers["x-user"],
        lambda self, request: self.scope["tenant"],
        lambda self, request: dict(self.scope["headers"])[b"x-user"].decode(),
        lambda self, request: Request(self.scope).state.tenant,
    ],
    ids=["request", "scope", "headers in the scope", "another request"],
)
def test_the_methods_of_an_http_endpoint_are_watched(
    read: Callable[[Any, Request], str], is_async: bool
) -> None:
    if is_async:

        class Report(HTTPEndpoint):
            @cached()
            async def get(self, request: Request) -> Response:
                return PlainTextResponse(read(self, request))

    else:

        class Report(HTTPEndpoint):  # type: ignore[no-redef]
            @cached()
            def get(self, request: Request) -> Response:
                return PlainTextResponse(read(self, request))

    assert ask(routed(Report), "alice", "bob") == [("alice", READ), ("bob", READ)]


def test_a_method_of_an_http_endpoint_that_reads_nothing_is_stored() -> None:
    class Report(HTTPEndpoint):
        @cached()
        async def get(self, request: Request) -> Response:
            return StreamingResponse(iter([self.scope["path"], request.url.path]))

    assert ask(routed(Report), "alice", "bob") == [("//", MISS), ("//", HIT)]


class TemplateResponse(Response):
    """Renders when it is made, as Jinja2Templates does, and sends in a way of its own."""

    def __init__(self, template: str, request: Request) -> None:
        self.context = {"request": request}
        super().__init__(template.format(**self.context), media_type="text/plain")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.context["request"].get("extensions", {})
        await super().__call__(scope, receive, send)


def test_what_a_template_reads_is_noticed() -> None:
    @cached()
    async def private(request: Request) -> Response:
        return TemplateResponse("Hello {request.state.tenant}", request)

    @cached()
    async def public(request: Request) -> Response:
        return TemplateResponse("Hello {request.url.path}", request)

    answers = ask(routed(private), "alice", "bob")
    assert answers == [("Hello alice", READ), ("Hello bob", READ)]
    assert ask(routed(public), "alice", "bob") == [("Hello /", MISS), ("Hello /", HIT)]


class Personal(Response):
    """Looks at the scope that it is sent to."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        del self.headers["Content-Length"]
        self.early = early

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = Headers(scope=scope)["x-user"] if self.early else ""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"for ", "more_body": True})
        user = user or Headers(scope=scope)["x-user"]
        await send({"type": "http.response.body", "body": user.encode()})


class PersonalStream(StreamingResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body_iterator = _one(Request(scope).cookies["name"])
        await super().__call__(scope, receive, send)


async def _one(text: str) -> AsyncIterator[str]:
    yield text


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: Personal(early=True), READ),
        (lambda: Personal(early=False), MISS),
        (lambda: PersonalStream(iter(())), READ),
    ],
    ids=["before its head", "after its head", "a stream"],
)
def test_what_a_response_reads_of_the_scope_that_it_is_sent_to_is_noticed(
    make: Callable[[], Response], first: str
) -> None:
    @cached()
    async def endpoint(request: Request) -> Response:
        return make()

    answers = ask(routed(endpoint), "alice", "bob", "alice")
    assert [text.removeprefix("for ") for text, _ in answers] == ["alice", "bob", "alice"]
    rest = READ if first == READ else MARKED
    assert states(answers) == [first, rest, rest]


def test_files_and_events_are_stored_though_they_look_at_their_scope(tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_text("1,2")

    @cached()
    async def download(request: Request) -> Response:
        return FileResponse(file)

    @cached()
    async def events(request: Request) -> Response:
        async def data() -> AsyncIterator[str]:
            yield "one"

        return EventSourceResponse(data(), headers={"Cache-Control": "public"})

    assert states(ask(routed(download), "alice", "bob")) == [MISS, HIT]
    answers = ask(routed(events), "alice", "bob")
    assert states(answers) == [MISS, HIT]
    assert answers[0][0] == answers[1][0]


def test_a_plain_value_that_was_made_of_what_was_read_is_not_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()
    runs: list[str] = []

    @app.get("/")
    @cached()
    async def endpoint(request: Request) -> dict[str, str]:
        runs.append(request.headers["X-User"])
        return {"user": runs[-1]}

    users = ["alice", "bob", "alice"]
    assert [text for text, _ in ask(app, *users)] == [f'{{"user":"{user}"}}' for user in users]
    assert runs == users
    (warning,) = warnings(caplog)
    assert "the header x-user" in warning


def test_a_plain_value_that_was_made_of_nothing_private_is_stored() -> None:
    app = FastAPI()
    runs: list[str] = []

    @app.get("/")
    @cached()
    async def endpoint(request: Request) -> dict[str, str]:
        runs.append(request.url.path)
        return {"path": runs[-1]}

    assert {text for text, _ in ask(app, "alice", "bob")} == {'{"path":"/"}'}
    assert runs == ["/"]


def test_what_was_read_is_said_of_each_request_by_itself() -> None:
    """One that reads nothing private is stored, though another has read before."""
    app = routed(answering(lambda r: r.headers["X-User"] if "mine" in r.query_params else "all"))
    assert ask(app, "alice", path="/?mine") == [("alice", READ)]
    assert ask(app, "alice", "bob", path="/") == [("all", MISS), ("all", HIT)]
    assert ask(app, "bob", path="/?mine") == [("bob", READ)]


def test_a_failing_endpoint_fails_as_it_does_without_the_guard() -> None:
    app = routed(answering(lambda r: r.headers["absent"]))
    with pytest.raises(KeyError):
        TestClient(app).get("/")
    with pytest.raises(KeyError, match="absent"):
        TestClient(routed(answering(lambda r: r.scope["absent"]))).get("/")
    with pytest.raises(AttributeError, match="absent"):
        TestClient(routed(answering(lambda r: r.state.absent))).get("/")


def test_a_background_task_may_read_what_it_wants() -> None:
    seen: list[str] = []
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(request: Request) -> Response:
        from starlette.background import BackgroundTask

        task = BackgroundTask(lambda: seen.append(request.headers["X-User"]))
        return PlainTextResponse("all", background=task)

    assert ask(app, "alice", "bob") == [("all", MISS), ("all", HIT)]
    assert seen == ["alice"]


# -- bodies of requests ---------------------------------------------------------------------------


class Order(BaseModel):
    size: int


def order_app() -> FastAPI:
    app = FastAPI()

    @app.post("/json")
    @cached(methods=("POST",))
    async def as_json(request: Request) -> Response:
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers.get("content-length") == str(len(await request.body()))
        return PlainTextResponse(str(await request.json()))

    @app.post("/model")
    @cached(methods=("POST",))
    async def as_model(request: Request, order: Order) -> Response:
        parts = [part async for part in request.stream()]
        again = (await request.json())["size"]
        return PlainTextResponse(f"{order.size} {again} {b''.join(parts)!r}")

    @app.post("/form")
    @cached(methods=("POST",))
    async def as_form(request: Request) -> Response:
        async with request.form() as form:
            return PlainTextResponse(f"{form['size']} {request.headers['content-type']}")

    @app.post("/stream")
    @cached(methods=("POST",))
    async def as_stream(request: Request) -> Response:
        return PlainTextResponse(b"".join([part async for part in request.stream()]))

    return app


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/json", {"json": {"size": 1}}),
        ("/model", {"json": {"size": 1}}),
        ("/form", {"data": {"size": "1"}}),
        ("/stream", {"content": b"1"}),
    ],
)
def test_the_body_is_read_as_ever_and_content_type_is_part_of_the_key(
    caplog: pytest.LogCaptureFixture, path: str, sent: dict[str, Any]
) -> None:
    client = TestClient(order_app())
    answers = [client.post(path, **sent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    found = [answer.headers["cache-status"] for answer in answers]
    assert found == [MISS, HIT], warnings(caplog)
    assert "1" in answers[0].text
    assert answers[0].text == answers[1].text


def test_another_header_of_a_post_is_noticed() -> None:
    app = Starlette(
        routes=[
            Route(
                "/",
                answering(lambda r: r.headers.get("X-User"), methods=("POST",)),
                methods=["POST"],
            )
        ]
    )
    client = TestClient(app)
    for user in ("alice", "bob"):
        answer = client.post("/", content=b"1", headers={"X-User": user})
        assert (answer.text, answer.headers["cache-status"]) == (user, READ)


# -- requests of one's own ------------------------------------------------------------------------


class OwnRequest(Request):
    """As in FastAPI's docs: a request with a body, properties and methods of its own."""

    greeting = "hello"

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = (await super().body()).upper()
        return self._body

    @property
    def tenant(self) -> str:
        return self.headers["X-User"]

    @property
    def page(self) -> str:
        return self.query_params.get("page", "")

    def greets(self) -> str:
        return f"{self.greeting} {self.state.tenant}"


class OwnRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handler = super().get_route_handler()

        async def own(request: Request) -> Response:
            return await handler(OwnRequest(request.scope, request.receive))

        return own


def own_app(read: Callable[[Any], object], **settings: Any) -> ASGIApp:
    router = APIRouter(route_class=OwnRoute)

    @router.get("/")
    @cached(**settings)
    async def endpoint(request: Request) -> Response:
        assert isinstance(request, OwnRequest)
        return PlainTextResponse(str(read(request)))

    app = FastAPI()
    app.include_router(router)
    return for_users(app)


@pytest.mark.parametrize(
    ("read", "expected"),
    [(lambda r: r.tenant, "{}"), (lambda r: r.greets(), "hello {}")],
    ids=["property", "method"],
)
def test_a_request_of_ones_own_is_watched_through_its_own_members(
    read: Callable[[Any], object], expected: str
) -> None:
    answers = ask(own_app(read), "alice", "bob")
    assert answers == [(expected.format(user), READ) for user in ("alice", "bob")]


@pytest.mark.parametrize("read", [lambda r: r.page, lambda r: r.greeting, lambda r: r.url.path])
def test_a_request_of_ones_own_is_stored_where_nothing_private_is_read(
    read: Callable[[Any], object],
) -> None:
    assert states(ask(own_app(read), "alice", "bob", path="/?page=1")) == [MISS, HIT]


def test_a_request_of_ones_own_reads_its_own_body() -> None:
    router = APIRouter(route_class=OwnRoute)

    @router.post("/")
    @cached(methods=("POST",))
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(await request.body())

    app = FastAPI()
    app.include_router(router)
    client = TestClient(app)
    answers = [client.post("/", content=b"abc") for _ in range(2)]
    assert [answer.text for answer in answers] == ["ABC", "ABC"]
    assert [answer.headers["cache-status"] for answer in answers] == [MISS, HIT]


class ProxiedRequest(Request):
    """Knows its URL from a header that a proxy sets, as many do."""

    @property
    def url(self) -> Any:
        return super().url.replace(hostname=self.headers["X-Forwarded-Host"])

    @property
    def base_url(self) -> Any:
        return self.headers["X-Forwarded-Host"]

    def url_for(self, name: str, /, **path_params: Any) -> Any:
        return self.headers["X-Forwarded-Host"]


@pytest.mark.parametrize(
    "read",
    [lambda r: r.url.hostname, lambda r: r.base_url, lambda r: r.url_for("endpoint")],
    ids=["url", "base_url", "url_for"],
)
def test_what_the_url_of_a_request_of_ones_own_reads_is_noticed(
    read: Callable[[Any], object],
) -> None:
    endpoint = answering(read)

    async def route(request: Request) -> Any:
        return await endpoint(ProxiedRequest(request.scope, request.receive))

    app = Starlette(routes=[Route("/", route)])
    for host in ("one.org", "other.org"):
        answer = TestClient(app).get("/", headers={"X-Forwarded-Host": host})
        assert answer.text == host


class SlottedRequest(Request):
    __slots__ = ("tenant",)
    tenant: str


def test_a_request_of_ones_own_may_have_slots() -> None:
    def read(request: Any) -> object:
        return request.tenant

    endpoint = answering(read)

    async def route(request: Request) -> Any:
        own = SlottedRequest(request.scope, request.receive)
        own.tenant = "alice"
        return await endpoint(own)

    assert ask(Starlette(routes=[Route("/", route)]), "alice")[0][0] == "alice"


def test_a_scope_can_be_merged_with_a_dict() -> None:
    def read(request: Any) -> object:
        return (request.scope | {"path": "/other"})["path"]

    assert ask(routed(answering(read)), "alice")[0][0] == "/other"


def test_the_scope_of_a_request_can_be_replaced() -> None:
    def read(request: Request) -> object:
        request.scope = {**request.scope, "path": "/other"}
        return request.scope["path"]

    assert ask(routed(answering(read)), "alice")[0][0] == "/other"


# -- requests elsewhere ---------------------------------------------------------------------------


def test_an_endpoint_with_two_parameters_for_its_request_is_watched_through_both() -> None:
    app = FastAPI()

    @app.get("/one")
    @cached()
    async def one(request: Request, connection: HTTPConnection) -> Response:
        return PlainTextResponse(request.headers["X-User"])

    @app.get("/other")
    @cached()
    async def other(request: Request, connection: HTTPConnection) -> Response:
        return PlainTextResponse(connection.headers["X-User"])

    @app.get("/none")
    @cached()
    async def none(request: Request, connection: HTTPConnection) -> Response:
        return PlainTextResponse(request.url.path + connection.url.path)

    for path in ("/one", "/other"):
        assert ask(app, "alice", "bob", path=path) == [("alice", READ), ("bob", READ)]
    assert states(ask(app, "alice", "bob", path="/none")) == [MISS, HIT]


def test_a_connection_alone_is_watched() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(connection: HTTPConnection) -> Response:
        return PlainTextResponse(connection.headers["X-User"])

    assert ask(app, "alice", "bob") == [("alice", READ), ("bob", READ)]


@pytest.mark.parametrize(
    "read",
    [
        lambda r: r.headers["X-User"],
        lambda r: r.state.tenant,
        lambda r: r.scope["tenant"],
        lambda r: r.cookies["name"],
        lambda r: r.user.display_name,
    ],
    ids=["header", "state", "scope", "cookies", "user"],
)
def test_a_cached_endpoint_that_calls_another_notices_what_that_one_reads(
    caplog: pytest.LogCaptureFixture, read: Callable[[Request], str]
) -> None:
    inner = answering(read)

    @cached()
    async def outer(request: Request) -> Any:
        return await inner(request)

    answers = ask(routed(outer), "alice", "bob", "alice")
    assert [text for text, _ in answers] == ["alice", "bob", "alice"]
    assert HIT not in states(answers)
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize(
    "read",
    [lambda r: r.headers["X-User"], lambda r: r.state.tenant, lambda r: r.scope["tenant"]],
    ids=["header", "state", "scope"],
)
@pytest.mark.parametrize("again", [False, True])
def test_three_cached_endpoints_that_call_each_other_all_notice(
    read: Callable[[Request], str], again: bool
) -> None:
    inner = answering(read)

    def passed(request: Request) -> Request:
        return Request(request.scope, request.receive) if again else request

    @cached()
    async def middle(request: Request) -> Any:
        response = await inner(passed(request))
        return PlainTextResponse(bytes(response.body))

    @cached()
    async def outer(request: Request) -> Any:
        response = await middle(passed(request))
        return PlainTextResponse(bytes(response.body))

    users = ["alice", "bob", "alice"]
    assert ask(routed(outer), *users) == [(user, READ) for user in users]


def test_a_cached_endpoint_that_calls_a_public_one_is_stored() -> None:
    inner = answering(lambda r: r.url.path)

    @cached()
    async def outer(request: Request) -> Any:
        return await inner(request)

    answers = ask(routed(outer), "alice", "bob")
    assert [text for text, _ in answers] == ["/", "/"]
    assert states(answers)[1].endswith(HIT)


def test_a_hit_of_an_inner_endpoint_that_varies_is_noticed_outside() -> None:
    inner = answering(lambda r: r.headers["X-User"], vary=("X-User",))

    @cached()
    async def outer(request: Request) -> Any:
        response = await inner(request)
        return PlainTextResponse(bytes(response.body))

    async def both(request: Request) -> Any:
        return await (inner if "inner" in request.query_params else outer)(request)

    app = routed(both)
    for user in ("alice", "bob"):
        assert ask(app, user, path="/")[0][0] == user
    for user in ("alice", "bob", "alice"):
        assert ask(app, user, path="/") == [(user, READ)]


def test_a_hit_of_an_inner_endpoint_with_a_header_parameter_is_keyed_outside() -> None:
    app = FastAPI()
    inner_cached = cached()

    @inner_cached
    async def inner(request: Request, x_user: Annotated[str, Header()]) -> Response:
        return PlainTextResponse(x_user)

    @app.get("/")
    @cached()
    async def outer(request: Request) -> Any:
        response: Any = await inner(request, request.headers["X-User"])
        return PlainTextResponse(bytes(response.body))

    for user in ("alice", "bob", "alice"):
        assert ask(app, user) == [(user, READ)]


def test_an_inner_endpoint_that_learned_its_vary_is_noticed_outside() -> None:
    @cached()
    async def inner(request: Request) -> Response:
        return PlainTextResponse(request.headers["X-User"], headers={"Vary": "X-User"})

    @cached()
    async def outer(request: Request) -> Any:
        response = await inner(request)
        return PlainTextResponse(bytes(response.body))

    app = routed(outer)
    for user in ("alice", "bob", "alice", "bob"):
        assert ask(app, user)[0][0] == user


@pytest.mark.parametrize("path", ["/", "/file"])
def test_a_file_of_an_inner_endpoint_can_be_stored_outside(tmp_path: Path, path: str) -> None:
    file = tmp_path / "report.csv"
    file.write_text("1,2")

    @cached()
    async def inner(request: Request) -> Response:
        return FileResponse(file)

    @cached()
    async def outer(request: Request) -> Any:
        response: Any = await inner(request)
        if path == "/file":
            return response
        body = b"".join([bytes(part) async for part in response.body_iterator])
        # The event loop of the client ends with the answer, and would leave the file open.
        await response.run_is_over()
        return PlainTextResponse(body)

    app = routed(outer, path)
    assert READ not in states(ask(app, "alice", path=path))[0]


def test_another_request_that_is_passed_on_reads_as_itself_and_is_noticed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @cached()
    async def endpoint(request: Request, other: Request) -> Response:
        return PlainTextResponse(other.scope["path"])

    async def route(request: Request) -> Any:
        user = request.headers["X-User"]
        return await endpoint(request, Request({**request.scope, "path": f"/{user}"}))

    answers = ask(Starlette(routes=[Route("/", route)]), "alice", "bob", "alice")
    assert answers == [("/alice", READ), ("/bob", READ), ("/alice", READ)]
    (warning,) = warnings(caplog)
    assert "(another request)" in warning


# -- who sees to the key himself ------------------------------------------------------------------


class Tenant(stream_cached):
    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        return "tenant:" + super().get_cache_key(f, args, kwargs)


@pytest.mark.parametrize(
    "keyed",
    [
        functools.partial(stream_cached, key="one"),
        functools.partial(stream_cached, key_builder=lambda f, *args, **kwargs: "one"),
        Tenant,
    ],
    ids=["key", "key_builder", "get_cache_key"],
)
def test_a_key_of_ones_own_switches_the_guard_off(keyed: Callable[..., stream_cached]) -> None:
    cache = f"memory://?max_bytes={(300 << 20) + next(_numbers)}"

    @keyed(ttl=60, cache=cache)
    async def endpoint(request: Request) -> Response:
        # What a guard would make of it.
        assert type(request) is Request
        return PlainTextResponse(f"{len(request.headers)} {request.state.tenant != ''}")

    answers = ask(routed(endpoint), "alice", "bob")
    assert states(answers) == [MISS, HIT]


def tenant_of(request: Request) -> str:
    return request.headers["X-User"] + request.cookies["name"]


def user_of(request: Request, name: Annotated[str, Depends(tenant_of)]) -> str:
    return f"{name} {len(request.headers) > 0}"


def test_what_dependencies_read_is_not_noticed() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(request: Request, user: Annotated[str, Depends(user_of)]) -> Response:
        return PlainTextResponse(f"{user} {request.url.path}")

    answers = ask(app, "alice", "bob", "alice")
    assert answers == [
        ("alicealice True /", MISS),
        ("bobbob True /", MISS),
        ("alicealice True /", HIT),
    ]


def test_a_guarded_request_knows_whether_its_client_is_there() -> None:
    answers: list[bool] = []

    @cached()
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            answers.append(await request.is_disconnected())
            yield "a"

        answers.append(await request.is_disconnected())
        return StreamingResponse(body())

    async def test() -> None:
        exchange = Exchange(Starlette(routes=[Route("/", endpoint)]))
        await exchange.run()
        assert exchange.body == b"a"

    asyncio.run(test())
    assert answers == [False, False]


def test_a_head_may_read_what_it_wants() -> None:
    app = routed(answering(lambda r: r.headers["X-User"]))
    client = TestClient(app)
    assert client.head("/", headers={"X-User": "alice"}).status_code == 200
    assert ask(app, "bob") == [("bob", READ)]


def test_the_key_of_what_is_read_can_be_asked_for() -> None:
    """It is the run that is not stored, and not the call that has no key."""
    endpoint = answering(lambda r: r.headers["X-User"])
    exchange = Exchange(Starlette())

    async def test() -> None:
        with contextlib.suppress(BypassError):
            key = await endpoint.cache_key(Request(exchange.scope))
            assert "endpoint" in key

    asyncio.run(test())


# -- what was put on the request, or on the instance ----------------------------------------------


def asked_by_both(app: Any, path: str = "/") -> list[str]:
    """What alice and bob are given, each in turn."""
    client = TestClient(app)
    return [client.get(path, headers={"X-User": user}).text for user in ("alice", "bob") * 2]


def test_an_attribute_that_a_dependency_put_on_the_request_is_noticed() -> None:
    def sign_in(request: Request) -> None:
        request.current_user = request.headers["X-User"]  # type: ignore[attr-defined]

    app = FastAPI()

    @app.get("/", dependencies=[Depends(sign_in)])
    @cached()
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.current_user)  # type: ignore[attr-defined]

    assert asked_by_both(app) == ["alice", "bob"] * 2


def test_an_attribute_that_is_not_there_is_noticed_too(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = answering(lambda r: getattr(r, "current_user", "nobody"))
    assert states(ask(routed(endpoint), "alice", "bob")) == [READ] * 2
    assert "request.current_user" in warnings(caplog)[0]


def test_an_attribute_of_the_endpoints_own_is_not_noticed() -> None:
    def read(request: Any) -> object:
        request.rows = 3
        return request.rows

    assert states(ask(routed(answering(read)), "alice", "bob")) == [MISS, HIT]


def test_such_a_read_can_be_unguarded() -> None:
    endpoint = answering(
        lambda r: getattr(r, "current_user", "nobody"), unguarded=("request.current_user",)
    )
    assert states(ask(routed(endpoint), "alice", "bob")) == [MISS, HIT]


class Page(HTTPEndpoint):
    async def dispatch(self) -> None:
        self.user = Request(self.scope).headers["X-User"]
        self.kept = Request(self.scope)
        await super().dispatch()


def test_what_an_http_endpoint_was_given_for_its_request_is_in_the_key() -> None:
    class Own(Page):
        @cached()
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(self.user)

    app = Starlette(routes=[Route("/", Own)])
    assert asked_by_both(app) == ["alice", "bob"] * 2


def test_a_request_that_an_http_endpoint_keeps_is_watched() -> None:
    class Keeping(HTTPEndpoint):
        def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
            super().__init__(scope, receive, send)
            self.kept = Request(scope)

        @cached()
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(self.kept.headers["X-User"])

    app = Starlette(routes=[Route("/", Keeping)])
    assert asked_by_both(app) == ["alice", "bob"] * 2


def test_the_cookies_are_not_known_by_what_a_function_of_vary_makes_of_them() -> None:
    endpoint = answering(
        lambda r: r.cookies.get("user", "nobody"), vary={"Cookie": lambda value: "dark"}
    )
    assert states(ask(routed(endpoint), "alice", "bob")) == [READ] * 2


def test_a_read_of_authorization_is_noticed_though_the_key_is_said_to_name_the_user() -> None:
    endpoint = answering(lambda r: r.headers.get("Authorization", ""), authorized="keyed")
    assert states(ask(routed(endpoint), "alice", "bob")) == [READ] * 2


# -- the path of the application ------------------------------------------------------------------


def test_urls_that_are_made_of_what_a_middleware_says_of_the_application_are_told_apart() -> None:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(request.url_for("endpoint")))

    def mounted(endpoint: Callable[..., Any]) -> ASGIApp:
        app = routed(endpoint)

        async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
            prefix = dict(scope.get("headers", ()))[b"x-user"].decode()
            await app({**scope, "app_root_path": f"/{prefix}"}, receive, send)

        return middleware

    answers = ask(mounted(cached()(endpoint)), "alice", "bob", "alice")
    assert states(answers) == [MISS, MISS, HIT]
    expected = ask(mounted(endpoint), "alice", "bob", "alice")
    assert [answer[0] for answer in answers] == [answer[0] for answer in expected]
