"""The body of a request in the key: by what FastAPI has made of it, or by its bytes."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, cast

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Form, Header, Request
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, SecretStr, model_validator
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_cached import NotInKey, stream_cached
from stream_cached.decorated.generator import _streams_generators
from stream_cached.request.guard import Guard, Terms
from tests.support.decorating import F
from tests.support.runs import HIT, MISS

Build = Callable[[FastAPI], None]

JSON = {"Content-Type": "application/json"}

#: Two spellings of one order, and another order.
SAME = ('{"size": 1, "name": "a"}', '{ "name":"a",\n"size":1}')
OTHER = '{"size": 2, "name": "a"}'


class Order(BaseModel):
    size: int
    name: str = "a"


class Open(BaseModel, extra="allow"):
    size: int = 0


class Secret(BaseModel):
    size: int
    name: SecretStr


def cached(**settings: Any) -> Callable[[F], F]:
    return cast("Callable[[F], F]", stream_cached(ttl=60, methods=("POST",), **settings))


def statuses(app: Any, *bodies: str, path: str = "/x", headers: Any = JSON) -> list[str]:
    with TestClient(app) as client:
        answers = [client.post(path, content=body, headers=headers) for body in bodies]
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    return [answer.headers["cache-status"] for answer in answers]


# -- by arguments ---------------------------------------------------------------------------------


def one_model(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(order: Order) -> Order:
        return order


def a_secret(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(order: Secret) -> str:
        return order.name.get_secret_value()


def several_arguments(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(size: Annotated[int, Body()], name: Annotated[str, Body()]) -> str:
        return f"{size} {name}"


def a_request_that_reads_no_body(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(request: Request, order: Order) -> str:
        return f"{request.url.path} {order.size}"


def dependencies_that_read_no_body(app: FastAPI) -> None:
    async def language(request: Request) -> str:
        return request.headers.get("accept-language", "en")

    class Key(APIKeyHeader):
        async def __call__(self, request: Request) -> str | None:  # type: ignore[override]
            return await super().__call__(request)

    @app.post("/x", dependencies=[Depends(Key(name="X-Key", auto_error=False))])
    @cached()
    async def endpoint(order: Order, language: Annotated[str, Depends(language)]) -> str:
        return f"{language} {order.size}"


def a_generator(app: FastAPI) -> None:
    if not _streams_generators():
        pytest.skip("this version of FastAPI does not stream what an endpoint yields")

    @app.post("/x")
    @cached()
    async def endpoint(order: Order) -> AsyncIterator[int]:
        yield order.size


def middleware_that_reads_no_body(app: FastAPI) -> None:
    one_model(app)

    @app.middleware("http")
    async def timed(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Time"] = "1"
        return response


@pytest.mark.parametrize(
    "build",
    [
        *(one_model, a_secret, several_arguments, a_request_that_reads_no_body),
        *(dependencies_that_read_no_body, a_generator, middleware_that_reads_no_body),
    ],
)
def test_order_and_white_space_make_no_difference(build: Build) -> None:
    app = FastAPI()
    build(app)
    assert statuses(app, SAME[0], SAME[1], OTHER) == [MISS, HIT, MISS]


def test_what_is_set_counts_and_what_is_extra_and_what_is_secret() -> None:
    app = FastAPI()
    one_model(app)
    assert statuses(app, '{"size": 1}', '{"size": 1, "name": "a"}') == [MISS, MISS]

    app = FastAPI()

    @app.post("/x")
    @cached()
    async def endpoint(order: Open) -> Open:
        return order

    assert statuses(app, '{"size": 1, "user": "a"}', '{"user": "b", "size": 1}') == [MISS, MISS]

    app = FastAPI()
    a_secret(app)
    assert statuses(app, SAME[0], SAME[0].replace('"a"', '"b"')) == [MISS, MISS]


# -- by bytes -------------------------------------------------------------------------------------

_seen: contextvars.ContextVar[bytes] = contextvars.ContextVar("seen", default=b"")


def raw_in_the_endpoint(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(request: Request, order: Order) -> str:
        return (await request.body()).decode()


def raw_in_a_helper(app: FastAPI) -> None:
    async def text(request: Request) -> str:
        return (await request.body()).decode()

    @app.post("/x")
    @cached()
    async def endpoint(request: Request, order: Order) -> str:
        return await text(request)


def raw_in_a_dependency(app: FastAPI) -> None:
    async def noted(request: Request) -> None:
        _seen.set(await request.body())

    @app.post("/x", dependencies=[Depends(noted)])
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def raw_in_a_scheme_of_ones_own(app: FastAPI) -> None:
    class Signed(HTTPBearer):
        async def __call__(self, request: Request) -> None:  # type: ignore[override]
            _seen.set(await request.body())

    @app.post("/x", dependencies=[Depends(Signed())])
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def raw_in_an_override(app: FastAPI) -> None:
    async def nothing() -> None: ...

    async def noted(request: Request) -> None:
        _seen.set(await request.body())

    app.dependency_overrides[nothing] = noted

    @app.post("/x", dependencies=[Depends(nothing)])
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def parsed_by_a_dependency(app: FastAPI) -> None:
    async def noted(order: dict[str, Any]) -> None:
        _seen.set(str(order).encode())

    @app.post("/x", dependencies=[Depends(noted)])
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def parsed_by_an_override(app: FastAPI) -> None:
    async def nothing() -> None: ...

    async def noted(order: dict[str, Any]) -> None:
        _seen.set(str(order).encode())

    app.dependency_overrides[nothing] = noted

    @app.post("/x", dependencies=[Depends(nothing)])
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def read_by_middleware(app: FastAPI) -> None:
    @app.middleware("http")
    async def noted(request: Request, call_next: Any) -> Response:
        _seen.set(await request.body())
        response: Response = await call_next(request)
        return response

    @app.post("/x")
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def length_in_a_dependency(app: FastAPI) -> None:
    async def noted(request: Request) -> None:
        _seen.set(request.headers["content-length"].encode())

    length_of(app, noted)


def length_as_a_parameter(app: FastAPI) -> None:
    async def noted(content_length: Annotated[str, Header()]) -> None:
        _seen.set(content_length.encode())

    length_of(app, noted)


def length_of(app: FastAPI, noted: Callable[..., Any]) -> None:
    @app.post("/x", dependencies=[Depends(noted)])
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def length_in_the_endpoint(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(request: Request, order: Order) -> str:
        return request.headers["content-length"]


class Noting:
    """Reads the body, and hands it on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting() -> Message:
            message = await receive()
            _seen.set(_seen.get() + message.get("body", b""))
            return message

        _seen.set(b"")
        await self._app(scope, noting if scope["type"] == "http" else receive, send)


def read_by_plain_middleware(app: FastAPI) -> None:
    app.add_middleware(Noting)

    @app.post("/x")
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()


def read_by_plain_middleware_inside_another(app: FastAPI) -> None:
    read_by_plain_middleware(app)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))


def read_by_the_route(app: FastAPI) -> None:
    class Reading(APIRoute):
        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Any:
                _seen.set(await request.body())
                return await handler(request)

            return handle

    router = APIRouter(route_class=Reading)

    @router.post("/x")
    @cached(key_context=())
    async def endpoint(order: Order) -> str:
        return _seen.get().decode()

    app.include_router(router)


def left_out(app: FastAPI) -> None:
    @app.post("/x")
    @cached()
    async def endpoint(order: Annotated[Order, NotInKey]) -> str:
        return str(order)


def left_out_by_option(app: FastAPI) -> None:
    @app.post("/x")
    @cached(key_ignore=("order",))
    async def endpoint(order: Order) -> str:
        return str(order)


def a_part_of_it(app: FastAPI) -> None:
    @app.post("/x")
    @cached(key_args={"order": lambda order: order.size})
    async def endpoint(order: Order) -> str:
        return str(order)


@pytest.mark.parametrize(
    "build",
    [
        *(raw_in_the_endpoint, raw_in_a_helper, raw_in_a_dependency, raw_in_a_scheme_of_ones_own),
        *(raw_in_an_override, parsed_by_a_dependency, parsed_by_an_override, read_by_middleware),
        *(read_by_plain_middleware, read_by_plain_middleware_inside_another, read_by_the_route),
        *(left_out, left_out_by_option, a_part_of_it, length_in_a_dependency),
        *(length_as_a_parameter, length_in_the_endpoint),
    ],
)
def test_what_may_read_it_otherwise_has_it_by_its_bytes(build: Build) -> None:
    app = FastAPI()
    build(app)
    assert statuses(app, SAME[0], SAME[1], SAME[1]) == [MISS, MISS, HIT]


def test_a_form_is_keyed_by_its_bytes() -> None:
    app = FastAPI()

    @app.post("/x")
    @cached()
    async def endpoint(size: Annotated[int, Form()]) -> int:
        return size

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    found = statuses(app, "size=1", "size=1&more=2", "size=1", headers=form)
    assert found == [MISS, MISS, HIT]


def test_bytes_are_keyed_with_their_type() -> None:
    app = FastAPI()

    @app.post("/x")
    @cached()
    async def endpoint(content: Annotated[Any, Body()]) -> str:
        return str(content)

    with TestClient(app) as client:
        found = [
            client.post("/x", content=b"1", headers={"Content-Type": kind}).headers["cache-status"]
            for kind in ("text/plain", "text/csv", "text/csv")
        ]
    assert found == [MISS, MISS, HIT]


def test_without_fastapi_it_is_keyed_by_its_bytes() -> None:
    @cached()
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("rows")

    app = Starlette(routes=[Route("/x", endpoint, methods=["POST"])])
    assert statuses(app, SAME[0], SAME[1], SAME[1]) == [MISS, MISS, HIT]


@pytest.mark.parametrize("read", ["body", "json", "form", "stream"])
def test_a_read_that_no_code_shows_is_noticed(read: str) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"1"}

    async def findings(left_out: frozenset[str]) -> list[str]:
        plain = Request({"type": "http", "method": "POST", "headers": []}, receive)
        await plain.body()
        guard = Guard(plain, terms, with_body=not left_out, left_out=left_out)
        (request,), _ = guard.given((plain,), {})
        found = getattr(request, read)()
        if read == "stream":
            assert b"".join([part async for part in found]) == b"1"
        else:
            await found
        return [str(each) for each in guard.findings(frozenset({"content-type"}))]

    terms = Terms(headers=frozenset(), host=True, unguarded=frozenset({"headers"}))
    assert asyncio.run(findings(frozenset())) == []
    (found,) = asyncio.run(findings(frozenset({"body"})))
    assert "the body as it is" in found


def test_a_model_that_looks_at_the_whole_is_keyed_by_what_it_became() -> None:
    class Noted(BaseModel):
        keys: str = ""

        @model_validator(mode="before")
        @classmethod
        def _note(cls, value: Any) -> Any:
            return {"keys": ",".join(value)}

    app = FastAPI()

    @app.post("/x")
    @cached()
    async def endpoint(order: Noted) -> str:
        return order.keys

    assert statuses(app, *SAME, SAME[1]) == [MISS, MISS, HIT]


def test_what_a_validator_notes_in_a_context_variable_counts() -> None:
    class Noted(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def _note(cls, value: Any) -> Any:
            _seen.set(repr(value).encode())
            return {}

    def app_of(**settings: Any) -> FastAPI:
        app = FastAPI()

        @app.post("/x")
        @cached(**settings)
        async def endpoint(order: Noted) -> str:
            # Its code does not show which variable it reads.
            return str(contextvars.copy_context()[_seen].decode())

        return app

    assert statuses(app_of(), *SAME, OTHER, OTHER) == [MISS, MISS, MISS, HIT]
    assert statuses(app_of(key_context=(_seen,)), *SAME, OTHER, OTHER) == [MISS, MISS, MISS, HIT]
    assert statuses(app_of(key_context=()), *SAME, OTHER) == [MISS, HIT, HIT]
