"""What doctor says of endpoints is what happens when they are asked."""

from __future__ import annotations

import enum
import logging
from typing import Annotated, Any, Literal

import pytest
from fastapi import Cookie, Depends, FastAPI, Header, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from stream_cached import NotInKey, stream_cached
from stream_cached.command.examine import Endpoint, Examined, examined
from stream_cached.command.routes import routes_of
from stream_cached.command.warned import Warned
from stream_cached.decorated.wrapping import decorated_of
from stream_cached.http.cache_status import MemberRead
from tests.command import shop

USER = {"Authorization": "Bearer abc"}

#: How each endpoint is asked, and the words of doctor's findings.
ENDPOINTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/export/{year}": ({}, []),
    "/mine": ({"headers": USER}, []),
    "/private": ({"headers": USER}, ["authorization"]),
    "/ask": ({"method": "POST", "json": {"id": 1}}, ["method"]),
    "/asked": ({"method": "POST", "json": {"id": 1}}, []),
    "/v1/reports/cookie": ({}, ["request-read"]),
    "/v1/reports/agent": ({}, []),
    "/v1/reports/client": ({}, ["request-read"]),
    "/v1/reports/upload": ({"method": "POST", "files": {"file": b"1"}}, ["upload"]),
    "/v1/reports/database": ({}, []),
    "/v1/reports/own-database": ({"headers": USER}, ["argument"]),
    "/v1/reports/own-database/left-out": ({"headers": USER}, ["argument"]),
    "/v1/reports/basket": ({}, ["argument"]),
    "/v1/reports/checked": ({"headers": USER}, ["authorization"]),
    "/sales": ({}, ["argument"]),
    "/sales/fixed": ({}, []),
    "/sales/counter": ({}, []),
    "/pages/of/starlette": ({}, []),
    "/rooms/one": ({}, []),
    "/inner/items": ({}, []),
}


@pytest.fixture(scope="module")
def found() -> Examined:
    return examined(routes_of(shop.app), Warned())


def endpoint_of(found: Examined, path: str) -> Endpoint:
    return next(each for each in found.endpoints if each.path == path)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_finding_is_what_a_request_is_told(path: str, found: Examined) -> None:
    given, words = ENDPOINTS[path]
    assert [said.reason for said in endpoint_of(found, path).findings] == words
    with TestClient(shop.app) as client:
        arguments = {"method": "GET", "url": path.replace("{year}", "2024"), **given}
        answers = [client.request(**arguments) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    status = MemberRead.read(answers[1].headers["Cache-Status"])
    assert status is not None
    assert status.is_hit is not bool(words)
    assert [reason.word for reason in status.reasons] == words


def test_what_is_said_of_an_endpoint(found: Examined) -> None:
    export = endpoint_of(found, "/export/{year}")
    assert export.methods == ("GET",)
    assert export.name == "tests.command.shop.export"
    assert export.key == ("method", "scheme", "host", "path", "query", "header accept-language")
    assert export.arguments == {"year": "in the key", "page": "in the key"}
    assert export.ttl == "600 s"
    assert [note.reason for note in export.notes] == ["authorization"]
    assert endpoint_of(found, "/mine").arguments == {"user": "in the key by InKey"}
    assert endpoint_of(found, "/mine").notes == ()
    database = endpoint_of(found, "/v1/reports/database")
    assert database.arguments == {"db": "left out"}
    [said] = endpoint_of(found, "/v1/reports/own-database").findings
    assert "(db may belong to one client: it depends on the security scheme" in said.text


def test_a_decorator_above_the_route_decorator(found: Examined) -> None:
    [said] = endpoint_of(found, "/above").findings
    assert said.reason == "above-route"
    assert said.fix == "write it below, directly over the function"


def test_streams_that_are_not_decorated(found: Examined) -> None:
    assert [each.path for each in found.undecorated] == ["/v1/reports/plain"]
    assert {*ENDPOINTS, "/above", "/v1/reports/traced"} == {each.path for each in found.endpoints}


# -- arguments ------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Service:
    pass


def service() -> Service:
    return Service()


def chosen(request: Request) -> logging.Logger:
    return logging.getLogger(request.cookies["shop"])


def test_what_the_application_may_hold_is_nobodys_own() -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60)
    async def endpoint(
        logger: Annotated[logging.Logger, Depends(chosen)],
    ) -> StreamingResponse:
        return StreamingResponse(iter(()))

    [said] = examined(routes_of(app), Warned()).endpoints
    assert said.findings == ()
    assert "argument" in [note.reason for note in said.notes]


def test_the_application_of_a_route() -> None:
    found = {route.path: route.scope["app"] for route in routes_of(CORSMiddleware(shop.app))}
    assert found["/export/{year}"] is shop.app
    assert found["/v1/reports/agent"] is shop.app
    assert found["/pages/of/starlette"] is shop.app
    assert found["/rooms/one"] is shop.app
    assert found["/inner/items"] is shop.inner


def test_a_file_that_need_not_be_there_is_no_finding() -> None:
    app = FastAPI()

    @app.post("/")
    @stream_cached(ttl=60, methods=("POST",))
    async def endpoint(
        files: list[UploadFile], file: UploadFile | None = None
    ) -> StreamingResponse:
        return StreamingResponse(iter(()))

    [said] = examined(routes_of(app), Warned()).endpoints
    assert said.findings == ()
    assert {*said.arguments.values()} == {"depends on the request"}


def test_how_arguments_are_in_the_key() -> None:
    app = FastAPI()

    @app.get("/{plain}")
    @stream_cached(ttl=60, key_args={"given": lambda value: 1}, key_ignore=("ignored",))
    async def endpoint(  # type: ignore[no-untyped-def]
        request: Request,
        response: Response,
        plain,
        color: Color,
        word: Literal["a", "b"],
        cookie: Annotated[str, Cookie()],
        header: Annotated[str, Header()],
        held: Annotated[Service, Depends(service)],
        given: Annotated[Service, Depends(service)],
        marked: Annotated[Service, Depends(service), NotInKey],
        unknown: Annotated[Any, Depends(service)],
        number: int | None = None,
        numbers: Annotated[list[int], Query()] = [],  # noqa: B006
        ignored: str = "",
    ) -> StreamingResponse:
        return StreamingResponse(iter(()))

    [said] = examined(routes_of(app), Warned()).endpoints
    assert said.arguments == {
        "request": "what is read of it beside the key is noticed",
        "response": "left out: of the framework",
        "plain": "in the key",
        "color": "in the key",
        "word": "in the key",
        "cookie": "in the key, as a cookie",
        "header": "in the key, as a header",
        "held": "depends on the request",
        "given": "in the key by key_args=",
        "marked": "left out by NotInKey",
        "unknown": "depends on the request",
        "number": "in the key",
        "numbers": "in the key",
        "ignored": "left out by key_ignore=",
    }
    assert said.findings == ()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"key": "fixed"}, ("the text of key=",)),
        ({"key_builder": lambda function, *args, **kwargs: "k"}, ("what key_builder returns",)),
        ({"request_key": False}, ()),
        (
            {"key_host": False, "query": "declared", "methods": ("GET", "POST")},
            ("method", "scheme", "path", "query (what is declared of it)", "body"),
        ),
    ],
)
def test_what_keys_are_made_of(options: dict[str, Any], key: tuple[str, ...]) -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=None, **options)
    async def endpoint() -> StreamingResponse:
        return StreamingResponse(iter(()))

    [said] = examined(routes_of(app), Warned()).endpoints
    assert (said.key, said.ttl, said.findings) == (key, "for ever", ())


def test_what_only_a_request_can_decide() -> None:
    app = FastAPI()

    @app.get("/")
    @stream_cached(ttl=60)
    async def state(request: Request) -> StreamingResponse:
        return StreamingResponse(request.state.rows)

    @app.get("/")
    @stream_cached(ttl=60)
    async def handed_on(request: Request) -> StreamingResponse:
        return StreamingResponse(iter([str(request)]))

    for said in examined(routes_of(app), Warned()).endpoints:
        assert said.findings == ()
        assert [note.reason for note in said.notes] == ["authorization", "request-read"]


def test_what_can_not_be_looked_at_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    @stream_cached(ttl=60)
    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(iter(()))

    app = Starlette(routes=[Route("/", endpoint)])
    function = decorated_of(endpoint)
    monkeypatch.setattr(function, "arguments", None)
    [said] = examined(routes_of(app), Warned()).endpoints
    assert (said.path, said.findings) == ("/", ())
    assert [note.reason for note in said.notes] == ["unseen"]
